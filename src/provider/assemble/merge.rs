//! Deltas: JSON values that arrive in pieces, put together piece by piece. Pure.
//!
//! Text is concatenated, lists are merged by the `index` of their elements, anything else is
//! replaced by the last value that says something, and kept as written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::StreamError;
use crate::error::ErrorKind;

/// What an entry of a map or list costs besides its text.
const ENTRY_BYTES: usize = 64;

/// No API comes near; it keeps the search through a list of fields short.
const FIELDS_MAX: usize = 1024;

/// How many more bytes may be kept.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_left: usize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_left: bytes_max,
            bytes_max,
        }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), StreamError> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(StreamError {
                kind: ErrorKind::TooLarge,
                message: format!("the streamed response exceeds {} bytes", self.bytes_max),
            }),
        }
    }
}

/// The fields of one JSON object in their order, values as written.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The fields of `raw`; none if it is not an object.
    pub(super) fn of(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// The field `name` if it is a string, as written.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(text)
    }

    /// The field `name` if it is a whole number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.get().parse().ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// A field's name, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What stands between the quotes of `raw`, as written, if it is a string.
///
/// Pieces are joined undecoded: escapes reach the record as the server wrote them, and a surrogate
/// pair that a server cut in two (`"\ud83d"`, `"\ude00"`) is whole again.
pub(super) fn text(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The elements of `raw`, if it is a list.
pub(super) fn elements(raw: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

/// Whether a value says nothing: servers fill chunks with these.
pub(super) fn is_blank(raw: &RawValue) -> bool {
    matches!(raw.get(), "null" | "\"\"" | "0" | "{}" | "[]")
}

/// A value as far as it is known.
#[derive(Debug)]
pub(super) enum Node {
    /// As written.
    Raw(String),
    /// A string that grows: what stands between its quotes, as written.
    Text(String),
    Object(Object),
    /// Elements as written, growing.
    List(Vec<String>),
    /// Elements by their `index`.
    Indexed(BTreeMap<u64, Object>),
}

/// An object as far as it is known; few fields, so a list in their order.
#[derive(Debug, Default)]
pub(super) struct Object(Vec<(String, Node)>);

/// Strings of a delta that name something and do not grow.
const NAMES: [&str; 6] = ["id", "type", "role", "name", "format", "object"];

impl Object {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, node)| node)
    }

    pub(super) fn set(&mut self, name: &str, node: Node) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = node,
            None => self.0.push((name.to_owned(), node)),
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Pays for one more field.
    fn admit(&self, name: &str, budget: &mut Budget) -> Result<(), StreamError> {
        if self.0.len() >= FIELDS_MAX {
            return Err(StreamError {
                kind: ErrorKind::TooLarge,
                message: format!("an object of the stream exceeds {FIELDS_MAX} fields"),
            });
        }
        budget.spend(name.len() + ENTRY_BYTES)
    }

    /// Adds the fields of `other` behind its own.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps `raw` as written, unless it says nothing and something is known.
    pub(super) fn replace(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let known = self.get(name);
        if known.is_some() && is_blank(raw) {
            return Ok(());
        }
        let held = match known {
            Some(Node::Raw(held)) => held.len(),
            Some(_) => 0,
            None => {
                self.admit(name, budget)?;
                0
            }
        };
        budget.spend(raw.get().len().saturating_sub(held))?;
        self.set(name, Node::Raw(raw.get().to_owned()));
        Ok(())
    }

    /// Adds `text` to the text known so far.
    pub(super) fn append(
        &mut self,
        name: &str,
        text: &str,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        budget.spend(text.len())?;
        let at = self.0.iter().position(|(known, _)| known == name);
        match at.map(|at| &mut self.0[at].1) {
            Some(Node::Text(known)) => known.push_str(text),
            _ => {
                self.admit(name, budget)?;
                self.set(name, Node::Text(text.to_owned()));
            }
        }
        Ok(())
    }

    /// Merges one object of a delta.
    pub(super) fn merge(
        &mut self,
        delta: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        for (name, raw) in delta.iter() {
            self.merge_field(name, raw, budget)?;
        }
        Ok(())
    }

    fn merge_field(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        match raw.get().as_bytes().first() {
            Some(b'"') if NAMES.contains(&name) => self.merge_name(name, raw, budget),
            Some(b'"') => self.append(name, text(raw).unwrap_or_default(), budget),
            Some(b'{') if ["function", "function_call", "audio"].contains(&name) => {
                self.object(name, budget)?.merge(&Fields::of(raw), budget)
            }
            Some(b'[') => self.merge_list(name, raw, budget),
            _ => self.replace(name, raw, budget),
        }
    }

    /// A name comes once; some servers repeat it in every chunk, others send a function's in parts.
    fn merge_name(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let new = text(raw).unwrap_or_default();
        match self.get(name) {
            Some(Node::Text(known)) if known == new || (name != "name" && !known.is_empty()) => {
                Ok(())
            }
            _ => self.append(name, new, budget),
        }
    }

    /// Elements with an `index` are merged by it, and so are tool calls, which servers that send
    /// each in one piece leave without; another list is taken as a whole.
    fn merge_list(
        &mut self,
        name: &str,
        raw: &RawValue,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let parts: Vec<Fields<'_>> = elements(raw).into_iter().map(Fields::of).collect();
        let indexed = parts.iter().all(|part| part.number("index").is_some());
        if parts.is_empty() || !(indexed || name == "tool_calls") {
            return self.replace(name, raw, budget);
        }
        if !matches!(self.get(name), Some(Node::Indexed(_))) {
            self.admit(name, budget)?;
            self.set(name, Node::Indexed(BTreeMap::new()));
        }
        let Some((_, Node::Indexed(known))) = self.0.iter_mut().find(|(known, _)| known == name)
        else {
            unreachable!("it was set above");
        };
        for part in parts {
            let next = known
                .last_key_value()
                .map_or(0, |(last, _)| last.saturating_add(1));
            let index = part.number("index").unwrap_or(next);
            if !known.contains_key(&index) {
                budget.spend(ENTRY_BYTES)?;
            }
            known.entry(index).or_default().merge(&part, budget)?;
        }
        Ok(())
    }

    /// Log probabilities: every list in them grows, the rest is replaced.
    pub(super) fn append_lists(
        &mut self,
        delta: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        for (name, raw) in delta.iter() {
            if !raw.get().starts_with('[') {
                self.replace(name, raw, budget)?;
                continue;
            }
            let new = elements(raw);
            budget.spend(
                new.iter()
                    .map(|element| element.get().len() + size_of::<String>())
                    .sum(),
            )?;
            let new = new.into_iter().map(|element| element.get().to_owned());
            match self.0.iter_mut().find(|(known, _)| known == name) {
                Some((_, Node::List(known))) => known.extend(new),
                _ => {
                    self.admit(name, budget)?;
                    self.set(name, Node::List(new.collect()));
                }
            }
        }
        Ok(())
    }

    /// The object `name`, made if there is none.
    pub(super) fn object(
        &mut self,
        name: &str,
        budget: &mut Budget,
    ) -> Result<&mut Self, StreamError> {
        if !matches!(self.get(name), Some(Node::Object(_))) {
            self.admit(name, budget)?;
            self.set(name, Node::Object(Self::default()));
        }
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, Node::Object(object))) => Ok(object),
            _ => unreachable!("it was set above"),
        }
    }

    /// Appends the object as JSON.
    pub(super) fn write(&self, json: &mut Vec<u8>) {
        self.write_without(None, json);
    }

    /// Tool calls carry their `index` only in a stream.
    fn write_without(&self, left_out: Option<&str>, json: &mut Vec<u8>) {
        json.push(b'{');
        let mut separator: &[u8] = b"";
        for (name, node) in &self.0 {
            if left_out == Some(name) {
                continue;
            }
            json.extend_from_slice(separator);
            separator = b",";
            // Writing a string into memory cannot fail.
            let _ = serde_json::to_writer(&mut *json, name);
            json.push(b':');
            match node {
                Node::Indexed(elements) => {
                    let left_out = (name == "tool_calls").then_some("index");
                    write_list(elements.values(), json, |element, json| {
                        element.write_without(left_out, json);
                    });
                }
                node => node.write(json),
            }
        }
        json.push(b'}');
    }
}

impl Node {
    fn write(&self, json: &mut Vec<u8>) {
        match self {
            Self::Raw(raw) => json.extend_from_slice(raw.as_bytes()),
            Self::Text(text) => {
                json.push(b'"');
                json.extend_from_slice(text.as_bytes());
                json.push(b'"');
            }
            Self::Object(object) => object.write(json),
            Self::List(elements) => write_list(elements.iter(), json, |element, json| {
                json.extend_from_slice(element.as_bytes());
            }),
            Self::Indexed(elements) => write_list(elements.values(), json, Object::write),
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
