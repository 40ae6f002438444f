//! Lists of a stream, which grow: tool calls, parts of a content, citations, tokens. Pure.
//!
//! Which element a piece belongs to is told by its `index`, its `id`, or its place; servers differ in
//! which of these they send, and some send them wrong.

use serde_json::value::RawValue;

use super::StreamError;
use super::fields::{Budget, Fields, holds_object, is_blank};
use super::merge::{ENTRY_BYTES, Node, Object, write_list};
use crate::error::ErrorKind;

/// Most elements of one list that are looked through for the one that a piece belongs to. No model
/// calls so many tools at once.
const SEARCHED_MAX: usize = 1024;

/// How a list grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// Every element is a new one: tokens and their probabilities.
    Always,
    /// So is every element, but some servers send the whole list again and again: one that begins with
    /// all that is known says only what comes behind it.
    Told,
    /// Elements are pieces of what has their `index`.
    Indexed,
    /// Elements are pieces of tool calls.
    Calls,
    /// The first element may be a piece of the last known one.
    Parts,
}

/// Lists whose elements are whole, whatever fields they have.
const WHOLE: [&str; 4] = ["annotations", "citations", "images", "search_results"];

/// The fields of a part that grow.
const PART_TEXTS: [&str; 7] = [
    "text",
    "thinking",
    "reasoning",
    "refusal",
    "summary",
    "content",
    "signature",
];

impl Growth {
    /// How the list `name` of a delta grows by `elements`.
    pub(super) fn of_delta(name: &str, elements: &[&RawValue]) -> Self {
        match name {
            "tool_calls" => return Self::Calls,
            _ if WHOLE.contains(&name) => return Self::Told,
            _ => {}
        }
        let Some(first) = elements.first() else {
            return Self::Told;
        };
        match first.get().as_bytes().first() {
            Some(b'{') => {}
            _ if name == "content" => return Self::Parts,
            Some(b'"') => return Self::Told,
            _ => return Self::Always,
        }
        let parts: Vec<Fields<'_>> = elements.iter().map(|element| Fields::of(element)).collect();
        if parts.iter().all(|part| part.number("index").is_some()) {
            Self::Indexed
        } else if name == "content" || parts.iter().any(grows) {
            Self::Parts
        } else {
            Self::Told
        }
    }
}

/// Whether `part` has text of a kind that comes in pieces.
fn grows(part: &Fields<'_>) -> bool {
    part.word("type").is_some() && PART_TEXTS.iter().any(|name| part.get(name).is_some())
}

/// A list as far as it is known.
#[derive(Debug, Default)]
pub(super) struct List {
    elements: Vec<Element>,
    /// The element that grew last.
    last: usize,
}

#[derive(Debug)]
struct Element {
    /// Where the server put it; without, behind all that have one.
    index: Option<u64>,
    /// A tool call that came in one piece.
    whole: bool,
    node: Node,
}

impl Element {
    fn raw(raw: &str) -> Self {
        Self {
            index: None,
            whole: false,
            node: Node::Raw(raw.to_owned()),
        }
    }

    fn object(&self) -> Option<&Object> {
        match &self.node {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The string `name`, as written; empty if it is none.
    fn text(&self, name: &str) -> &str {
        self.object().map_or("", |object| object.text(name))
    }
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Takes `pieces`, a list that stands `depth` objects deep.
    pub(super) fn add(
        &mut self,
        pieces: &[&RawValue],
        growth: Growth,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        let known = self.elements.len();
        let told = match growth {
            Growth::Told if self.begins(pieces) => known,
            _ => 0,
        };
        let mut touched = None;
        for (at, piece) in pieces.iter().enumerate().skip(told) {
            if matches!(growth, Growth::Always | Growth::Told) {
                self.push_raw(piece, budget)?;
                continue;
            }
            let fields = Fields::of(piece);
            match growth {
                Growth::Calls | Growth::Indexed if is_blank(piece) => {}
                Growth::Always | Growth::Told => {}
                Growth::Parts if !grows(&fields) => self.push_raw(piece, budget)?,
                Growth::Parts => {
                    let place = match at {
                        0 if self.continues(&fields) => Some(known - 1),
                        _ => None,
                    };
                    self.merge_into(place, None, &fields, depth, budget)?;
                }
                Growth::Indexed => {
                    let index = fields.number("index");
                    let place = self.place_of_part(index, &fields);
                    self.merge_into(place, index, &fields, depth, budget)?;
                }
                Growth::Calls => touched = self.add_call(&fields, touched, depth, budget)?,
            }
        }
        Ok(())
    }

    /// Whether `pieces` begins with everything that is known.
    fn begins(&self, pieces: &[&RawValue]) -> bool {
        self.elements.len() <= pieces.len()
            && self.elements.iter().zip(pieces).all(
                |(element, piece)| matches!(&element.node, Node::Raw(raw) if raw == piece.get()),
            )
    }

    fn push_raw(&mut self, piece: &RawValue, budget: &mut Budget) -> Result<(), StreamError> {
        budget.spend(piece.get().len() + size_of::<Element>())?;
        self.elements.push(Element::raw(piece.get()));
        Ok(())
    }

    /// Adds text to a list of parts.
    pub(super) fn add_text(&mut self, piece: &str, budget: &mut Budget) -> Result<(), StreamError> {
        if piece.is_empty() {
            return Ok(());
        }
        budget.spend(piece.len())?;
        if let Some(Element {
            node: Node::Object(part),
            ..
        }) = self.elements.last_mut()
            && part.text("type") == "text"
            && let Some(Node::Text(known)) = part.get_mut("text")
        {
            known.grow(piece);
            return Ok(());
        }
        budget.spend(ENTRY_BYTES)?;
        let mut part = Object::default();
        part.set("type", Node::text("text"));
        part.set("text", Node::text(piece));
        self.elements.push(Element {
            index: None,
            whole: false,
            node: Node::Object(part),
        });
        Ok(())
    }

    /// Whether `part` is a piece of the last element.
    fn continues(&self, part: &Fields<'_>) -> bool {
        let Some(last) = self.elements.last() else {
            return false;
        };
        let Some(known) = last.object() else {
            return false;
        };
        // A signature ends a thought; one that is told in every chunk is the same.
        let signature = known.text("signature");
        let is_closed = !signature.is_empty() && part.word("signature") != Some(signature)
            || matches!(known.get("closed"), Some(Node::Raw(closed)) if closed == "true");
        !is_closed && is_alike(last, part)
    }

    /// The element of this index that `part` is a piece of: kinds that share an index are apart.
    fn place_of_part(&self, index: Option<u64>, part: &Fields<'_>) -> Option<usize> {
        let of_index = |element: &Element| element.index == index && is_alike(element, part);
        self.find_last(of_index)
    }

    fn find_last(&self, wanted: impl Fn(&Element) -> bool) -> Option<usize> {
        match self.elements.get(self.last) {
            Some(last) if wanted(last) => Some(self.last),
            _ => self.elements.iter().rposition(wanted),
        }
    }

    /// Takes a piece of a tool call; `touched` is the one that the piece before it in the same list
    /// belongs to.
    fn add_call(
        &mut self,
        piece: &Fields<'_>,
        touched: Option<usize>,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Option<usize>, StreamError> {
        let index = piece.number("index");
        let place = self.place_of_call(index, piece, touched);
        if let Some(at) = place
            && self.elements[at].whole
            && is_whole(piece)
        {
            return Ok(place);
        }
        let next = || self.elements.iter().filter_map(|call| call.index).max();
        let index = index.or_else(|| Some(next().map_or(0, |last| last.saturating_add(1))));
        let at = self.merge_into(place, index, piece, depth, budget)?;
        self.elements[at].whole = place.is_none() && is_whole(piece);
        Ok(Some(at))
    }

    /// The known call that `piece` belongs to; `None` for the first piece of another one.
    fn place_of_call(
        &self,
        index: Option<u64>,
        piece: &Fields<'_>,
        touched: Option<usize>,
    ) -> Option<usize> {
        // Two calls that came in one piece each, and not the same one twice.
        let is_another = |at: &usize| self.elements[*at].whole && is_whole(piece);
        let of_index = |call: &Element| index.is_none() || call.index == index;
        let Some(id) = piece.word("id") else {
            return match index {
                Some(_) => self.find_last(of_index),
                // Two pieces in one list that name nothing are two calls.
                None if touched.is_some() => None,
                None => (!self.elements.is_empty()).then_some(self.last),
            }
            .filter(|at| !is_another(at));
        };
        if let Some(at) = self.find_last(|call| of_index(call) && call.text("id") == id) {
            // Sent again, it is the same call; with other arguments it is another one.
            let same = self.elements[at]
                .object()
                .is_some_and(|call| says_the_same(call, piece));
            return Some(at).filter(|at| same || !is_another(at));
        }
        index?;
        // Calls that share an index but differ in `id` stay apart, unless the other `id` stands on what
        // can be no call: arguments without a name.
        let function = piece.object("function");
        let is_rest = function.word("name").is_none() && function.word("arguments").is_some();
        self.find_last(of_index)
            .filter(|&at| is_rest || self.elements[at].text("id").is_empty())
            .filter(|at| !is_another(at))
    }

    /// Merges a piece into the element at `place`, or into a new one of `index`.
    fn merge_into(
        &mut self,
        place: Option<usize>,
        index: Option<u64>,
        piece: &Fields<'_>,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<usize, StreamError> {
        let at = match place {
            Some(at) => at,
            None => {
                if index.is_some() && self.elements.len() >= SEARCHED_MAX {
                    return Err(StreamError::new(
                        ErrorKind::TooLarge,
                        format!("a list of the stream exceeds {SEARCHED_MAX} elements"),
                    ));
                }
                budget.spend(size_of::<Element>())?;
                self.elements.push(Element {
                    index,
                    whole: false,
                    node: Node::Object(Object::default()),
                });
                self.elements.len() - 1
            }
        };
        self.last = at;
        if let Node::Object(known) = &mut self.elements[at].node {
            known.merge_at(piece, depth, budget)?;
        }
        Ok(at)
    }

    /// Takes out the field `name` of every element: it tells where a piece belongs, and nothing else.
    pub(super) fn drop_field(&mut self, name: &str) {
        for element in &mut self.elements {
            if let Node::Object(object) = &mut element.node {
                object.take(name);
            }
        }
    }

    /// Appends the list as JSON, in the order of the indexes.
    pub(super) fn write(&self, json: &mut Vec<u8>) {
        let mut elements: Vec<&Element> = self.elements.iter().collect();
        elements.sort_by_key(|element| element.index.unwrap_or(u64::MAX));
        write_list(elements.into_iter(), json, |element, json| {
            element.node.write(json);
        });
    }
}

/// Whether nothing says that `piece` and the element are different things.
fn is_alike(element: &Element, piece: &Fields<'_>) -> bool {
    element.object().is_some()
        && ["type", "id"].into_iter().all(|name| {
            let (known, new) = (element.text(name), piece.word(name).unwrap_or_default());
            known.is_empty() || new.is_empty() || known == new
        })
}

/// Whether `piece` is a call from its name to the end of its arguments.
fn is_whole(piece: &Fields<'_>) -> bool {
    let function = piece.object("function");
    function.word("name").is_some() && function.word("arguments").is_some_and(holds_object)
}

/// Whether `piece` repeats the name and the arguments of `call`.
fn says_the_same(call: &Object, piece: &Fields<'_>) -> bool {
    let function = piece.object("function");
    match call.get("function") {
        Some(Node::Object(known)) => ["name", "arguments"]
            .into_iter()
            .all(|name| known.text(name) == function.word(name).unwrap_or_default()),
        _ => false,
    }
}
