//! Deltas: JSON values that arrive in pieces, put together piece by piece. Pure.
//!
//! Two rules, for two kinds of values. A *delta* grows: text is concatenated, lists get longer, objects
//! are merged field by field. What stands *beside* a delta (a chunk's head, a choice) is told again and
//! again: objects and lists grow there, too, anything else is replaced by the last value that says
//! something. All values are kept as written.

use serde_json::value::RawValue;

use super::StreamError;
use super::fields::{Budget, Fields, elements, is_blank, text};
use super::list::{Growth, List};
use crate::error::ErrorKind;

/// What an entry of a map or list costs besides its text.
pub(super) const ENTRY_BYTES: usize = 64;

/// No API comes near; it keeps the search through a list of fields short.
const FIELDS_MAX: usize = 1024;

/// How deep deltas are merged; what lies deeper is replaced as a whole. Real ones nest four levels.
const DEPTH_MAX: usize = 16;

/// A value as far as it is known.
#[derive(Debug)]
pub(super) enum Node {
    /// As written.
    Raw(String),
    Text(Text),
    Object(Object),
    List(List),
}

/// A string that grows: what stands between its quotes, as written.
#[derive(Debug, Default)]
pub(super) struct Text {
    written: String,
    /// How many more times this very piece came, and no other.
    repeats: usize,
    /// More than one piece makes it up.
    grown: bool,
}

impl Text {
    pub(super) fn of(piece: &str) -> Self {
        Self {
            written: piece.to_owned(),
            ..Self::default()
        }
    }

    /// What is known; a piece that was only repeated counts once.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    pub(super) fn grow(&mut self, piece: &str) {
        if self.repeats > 0 {
            self.written = self.written.repeat(1 + std::mem::take(&mut self.repeats));
        }
        self.grown = !self.written.is_empty();
        self.written.push_str(piece);
    }

    /// Like [`Self::grow`] for a field that no API is known to have: some servers repeat a word in
    /// every chunk. A piece that is all that ever came is such a word.
    fn grow_unless_repeated(&mut self, piece: &str) {
        match !self.grown && self.written == piece {
            true => self.repeats += 1,
            false => self.grow(piece),
        }
    }
}

/// An object as far as it is known; few fields, so a list in their order.
#[derive(Debug, Default)]
pub(super) struct Object(Vec<(String, Node)>);

/// Strings of a delta that name something and do not grow: the first one counts.
const NAMES: [&str; 12] = [
    "id",
    "call_id",
    "type",
    "role",
    "format",
    "object",
    "model",
    "status",
    "finish_reason",
    "url",
    "mime_type",
    "media_type",
];

/// Strings of a delta that grow also by pieces that are all the same ("ha", "ha").
const TEXTS: [&str; 16] = [
    "content",
    "text",
    "refusal",
    "reasoning",
    "reasoning_content",
    "reasoning_text",
    "thinking",
    "thought",
    "summary",
    "arguments",
    "input",
    "partial_json",
    "code",
    "transcript",
    "data",
    "output",
];

impl Object {
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(known, _)| known == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.position(name).map(|at| &self.0[at].1)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.position(name).map(|at| &mut self.0[at].1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The string `name`, as written; empty if it is none.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Node::Text(known)) => known.written(),
            Some(Node::Raw(raw)) => raw
                .strip_prefix('"')
                .and_then(|raw| raw.strip_suffix('"'))
                .unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether `name` says something.
    pub(super) fn is_filled(&self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Node::Raw(raw)) => !matches!(raw.as_str(), "null" | "\"\"" | "0" | "{}" | "[]"),
            Some(Node::Text(text)) => !text.written.is_empty(),
            Some(Node::Object(object)) => !object.is_empty(),
            Some(Node::List(list)) => !list.is_empty(),
        }
    }

    pub(super) fn set(&mut self, name: &str, node: Node) {
        match self.position(name) {
            Some(at) => self.0[at].1 = node,
            None => self.0.push((name.to_owned(), node)),
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        let at = self.position(name)?;
        Some(self.0.remove(at).1)
    }

    /// Adds the fields of `other` behind its own.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The place of `name`, paid for if it is new.
    fn entry(&mut self, name: &str, budget: &mut Budget) -> Result<&mut Node, StreamError> {
        let at = match self.position(name) {
            Some(at) => at,
            None => {
                if self.0.len() >= FIELDS_MAX {
                    return Err(StreamError::new(
                        ErrorKind::TooLarge,
                        format!("an object of the stream exceeds {FIELDS_MAX} fields"),
                    ));
                }
                budget.spend(name.len() + ENTRY_BYTES)?;
                self.0.push((name.to_owned(), Node::Text(Text::default())));
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[at].1)
    }

    /// Keeps `raw` as written, unless it says nothing and something is known.
    pub(super) fn replace(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        if is_blank(raw) && self.position(name).is_some() {
            return Ok(());
        }
        let raw = raw.get();
        match self.entry(name, budget)? {
            Node::Raw(held) if held == raw => {}
            Node::Raw(held) => {
                budget.spend(raw.len().saturating_sub(held.len()))?;
                held.clear();
                held.push_str(raw);
            }
            node => {
                budget.spend(raw.len())?;
                *node = Node::Raw(raw.to_owned());
            }
        }
        Ok(())
    }

    /// Adds `piece` to the text known so far.
    pub(super) fn append(
        &mut self,
        name: &str,
        piece: &str,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        budget.spend(piece.len())?;
        match self.entry(name, budget)? {
            Node::Text(known) => known.grow(piece),
            node => *node = Node::Text(Text::of(piece)),
        }
        Ok(())
    }

    /// Merges one object of a delta, `depth` objects deep.
    pub(super) fn merge_at(
        &mut self,
        delta: &Fields<'_>,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        for (name, raw) in delta.iter() {
            self.merge_field(name, raw, depth, budget)?;
        }
        Ok(())
    }

    /// Merges one field of such an object.
    pub(super) fn merge_field(
        &mut self,
        name: &str,
        raw: &RawValue,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => self.merge_text(name, text(raw).unwrap_or_default(), budget),
            Some(b'{') if depth < DEPTH_MAX => {
                if is_blank(raw) && self.position(name).is_some() {
                    return Ok(());
                }
                let known = self.object(name, budget)?;
                known.merge_at(&Fields::of(raw), depth + 1, budget)
            }
            Some(b'[') if depth < DEPTH_MAX && !is_blank(raw) => {
                let elements = elements(raw);
                let growth = Growth::of_delta(name, &elements);
                let list = self.list(name, budget)?;
                list.add(&elements, growth, depth + 1, budget)
            }
            _ => self.replace(name, raw, budget),
        }
    }

    fn merge_text(
        &mut self,
        name: &str,
        piece: &str,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let node = self.entry(name, budget)?;
        match node {
            Node::List(list) => return list.add_text(piece, budget),
            Node::Text(known) if known.written.is_empty() => {}
            Node::Text(known) => {
                // A name comes once; some servers repeat it in every chunk, others send a function's
                // in parts.
                let is_told = NAMES.contains(&name) || name == "name" && known.written == piece;
                if piece.is_empty() || is_told {
                    return Ok(());
                }
                budget.spend(piece.len())?;
                match TEXTS.contains(&name) || name == "name" {
                    true => known.grow(piece),
                    false => known.grow_unless_repeated(piece),
                }
                return Ok(());
            }
            Node::Object(object) if piece.is_empty() && !object.is_empty() => return Ok(()),
            _ => {}
        }
        budget.spend(piece.len())?;
        *node = Node::Text(Text::of(piece));
        Ok(())
    }

    /// Takes what is told of `name` beside a delta: see the module.
    pub(super) fn overlay(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        self.overlay_at(name, raw, 0, budget)
    }

    fn overlay_at(
        &mut self,
        name: &str,
        raw: &RawValue,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let (is_object, is_list) = (raw.get().starts_with('{'), raw.get().starts_with('['));
        if !(is_object || is_list) || is_blank(raw) || depth >= DEPTH_MAX {
            return self.replace(name, raw, budget);
        }
        match self.get_mut(name) {
            Some(Node::Raw(known)) if known == raw.get() => return Ok(()),
            // Most often it is told once, and stays as written.
            Some(Node::Raw(known)) if !known.starts_with(['{', '[']) => {
                return self.replace(name, raw, budget);
            }
            None => return self.replace(name, raw, budget),
            Some(_) => {}
        }
        if is_object {
            let known = self.object(name, budget)?;
            for (name, raw) in Fields::of(raw).iter() {
                known.overlay_at(name, raw, depth + 1, budget)?;
            }
            return Ok(());
        }
        let elements = elements(raw);
        let list = self.list(name, budget)?;
        list.add(&elements, Growth::Told, depth, budget)
    }

    /// The object `name`, made if there is none.
    pub(super) fn object(
        &mut self,
        name: &str,
        budget: &mut Budget,
    ) -> Result<&mut Self, StreamError> {
        let node = self.entry(name, budget)?;
        if !matches!(node, Node::Object(_)) {
            let mut object = Self::default();
            if let Node::Raw(raw) = node {
                for (name, raw) in Fields::parse(raw).iter() {
                    object.set(name, Node::Raw(raw.get().to_owned()));
                }
            }
            *node = Node::Object(object);
        }
        match node {
            Node::Object(object) => Ok(object),
            _ => unreachable!("it was set above"),
        }
    }

    /// The list `name`, made if there is none: of the text that came before it.
    pub(super) fn list(
        &mut self,
        name: &str,
        budget: &mut Budget,
    ) -> Result<&mut List, StreamError> {
        let node = self.entry(name, budget)?;
        if !matches!(node, Node::List(_)) {
            let mut list = List::default();
            match node {
                Node::Raw(raw) => {
                    let known: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
                    list.add(&known, Growth::Always, 0, budget)?;
                }
                Node::Text(text) if !text.written.is_empty() => {
                    list.add_text(text.written(), budget)?;
                }
                _ => {}
            }
            *node = Node::List(list);
        }
        match node {
            Node::List(list) => Ok(list),
            _ => unreachable!("it was set above"),
        }
    }

    /// Log probabilities: every list in them grows, the rest is replaced.
    pub(super) fn append_lists(
        &mut self,
        delta: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        for (name, raw) in delta.iter() {
            if !raw.get().starts_with('[') || is_blank(raw) && self.get(name).is_some() {
                self.replace(name, raw, budget)?;
                continue;
            }
            let list = self.list(name, budget)?;
            list.add(&elements(raw), Growth::Always, 0, budget)?;
        }
        Ok(())
    }

    /// Appends the object as JSON.
    pub(super) fn write(&self, json: &mut Vec<u8>) {
        json.push(b'{');
        let mut separator: &[u8] = b"";
        for (name, node) in &self.0 {
            json.extend_from_slice(separator);
            separator = b",";
            // Writing a string into memory cannot fail.
            let _ = serde_json::to_writer(&mut *json, name);
            json.push(b':');
            node.write(json);
        }
        json.push(b'}');
    }

    /// The object as JSON.
    pub(super) fn to_json(&self) -> String {
        let mut json = Vec::new();
        self.write(&mut json);
        into_text(json)
    }
}

impl Node {
    /// A string of what stands between its quotes.
    pub(super) fn text(written: &str) -> Self {
        Self::Text(Text::of(written))
    }

    /// The value as JSON.
    pub(super) fn to_json(&self) -> String {
        let mut json = Vec::new();
        self.write(&mut json);
        into_text(json)
    }

    pub(super) fn write(&self, json: &mut Vec<u8>) {
        match self {
            Self::Raw(raw) => json.extend_from_slice(raw.as_bytes()),
            Self::Text(text) => {
                json.push(b'"');
                json.extend_from_slice(text.written.as_bytes());
                json.push(b'"');
            }
            Self::Object(object) => object.write(json),
            Self::List(list) => list.write(json),
        }
    }
}

/// Appends `items` as a JSON list.
pub(super) fn write_list<T>(
    items: impl Iterator<Item = T>,
    json: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>),
) {
    json.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            json.push(b',');
        }
        write(item, json);
    }
    json.push(b']');
}

/// JSON that was written from strings, which is UTF-8.
pub(super) fn into_text(json: Vec<u8>) -> String {
    String::from_utf8(json).unwrap_or_default()
}
