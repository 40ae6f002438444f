//! Streams of the Responses API: their last event carries the whole response. Pure.
//!
//! Some servers leave its `output` empty, or leave items out of it: these are rebuilt from the events
//! that told of them, an item from its own last event, else from its pieces.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::fields::{Budget, Fields, elements, is_blank, is_object};
use super::list::Growth;
use super::merge::{Node, Object, into_text, write_list};
use super::{Event, Progress, StreamError};
use crate::error::ErrorKind;

/// What an entry of the table of items or of parts costs besides its text.
const ITEM_BYTES: usize = 256;

/// Most items of one response, and most parts of one item.
const ENTRIES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Response {
    whole: Option<String>,
    items: BTreeMap<u64, Item>,
}

/// An item of the output, as far as events told of it.
#[derive(Debug, Default)]
struct Item {
    /// As it was begun; replaced by what it was when it was done.
    written: Option<String>,
    id: Option<String>,
    done: bool,
    /// Strings that came in pieces: `arguments`, `input`, `code`.
    texts: Object,
    content: BTreeMap<u64, Part>,
    summary: BTreeMap<u64, Part>,
}

/// A part of an item's content or of its summary.
#[derive(Debug, Default)]
struct Part {
    written: Option<String>,
    /// `type`, the text that came in pieces under its name, `annotations`, `logprobs`.
    pieces: Object,
}

impl Response {
    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        data: &str,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let fields = &event.fields;
        let kind = event.kind();
        let Some(kind) = kind.strip_prefix("response.") else {
            return Ok(Progress::default());
        };
        let mut progress = Progress {
            taken: true,
            ..Progress::default()
        };
        match kind {
            // An incomplete response is a response: without streaming, too, it comes with 200 and
            // says in `incomplete_details` why it stops.
            "completed" | "incomplete" | "done" => {
                let whole = fields.get("response").ok_or_else(|| {
                    StreamError::protocol(format!("the event response.{kind} holds no response"))
                })?;
                budget.spend(whole.get().len())?;
                self.whole = Some(whole.get().to_owned());
                progress.token = true;
                progress.done = true;
                if Fields::of(whole).filled("usage").is_none()
                    && let Some(usage) = fields.filled("usage")
                {
                    self.whole = Some(with_field(whole.get(), "usage", usage.get()));
                }
            }
            "failed" | "cancelled" => {
                // The error stands inside the response.
                let response = fields.object("response");
                let error = response.filled("error").map_or(data, |error| error.get());
                return Err(StreamError::of_server(error));
            }
            _ => {
                progress.token = kind.ends_with(".delta") && fields.word("delta").is_some()
                    || kind == "output_item.done";
                self.feed_piece(kind, fields, budget)?;
            }
        }
        Ok(progress)
    }

    fn feed_piece(
        &mut self,
        kind: &str,
        fields: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<(), StreamError> {
        match kind {
            "output_item.added" | "output_item.done" => {
                let Some(raw) = fields.get("item") else {
                    return Ok(());
                };
                let id = Fields::of(raw).word("id").map(str::to_owned);
                let at = self.index_of(fields, id.as_deref());
                let item = entry(&mut self.items, at, budget)?;
                keep(&mut item.written, raw, budget)?;
                item.id = id.or(item.id.take());
                item.done |= kind == "output_item.done";
                if item.done && !item.completes(&Fields::of(raw)) {
                    // Its pieces say nothing more.
                    item.texts = Object::default();
                    item.content.clear();
                    item.summary.clear();
                }
                return Ok(());
            }
            _ => {}
        }
        let Some((of, step)) = kind.rsplit_once('.') else {
            return Ok(());
        };
        let name = match of {
            "content_part" | "reasoning_summary_part" => "part",
            "output_text" | "reasoning_text" | "reasoning_summary_text" | "reasoning_summary" => {
                "text"
            }
            "refusal" => "refusal",
            "output_text.annotation" => "annotation",
            "code_interpreter_call_code" => "code",
            "custom_tool_call_input" => "input",
            _ if of.ends_with("_arguments") => "arguments",
            // Lifecycles, and pictures that are not finished.
            _ => return Ok(()),
        };
        let at = self.index_of(fields, fields.word("item_id"));
        let item = entry(&mut self.items, at, budget)?;
        if item.done {
            return Ok(());
        }
        if item.id.is_none() {
            item.id = fields.word("item_id").map(str::to_owned);
        }
        if matches!(name, "code" | "input" | "arguments") {
            return take_text(&mut item.texts, name, step, fields, budget);
        }
        let (parts, at) = match of.starts_with("reasoning_summary") {
            true => (&mut item.summary, fields.number("summary_index")),
            false => (&mut item.content, fields.number("content_index")),
        };
        let part = entry(parts, at.unwrap_or(0), budget)?;
        match name {
            "part" => match fields.get("part") {
                Some(raw) => keep(&mut part.written, raw, budget),
                None => Ok(()),
            },
            "annotation" => match fields.get("annotation") {
                Some(raw) => {
                    part.pieces
                        .list("annotations", budget)?
                        .add(&[raw], Growth::Always, 0, budget)
                }
                None => Ok(()),
            },
            _ => {
                let is_summary = of.starts_with("reasoning_summary");
                let kind = if is_summary { "summary_text" } else { of };
                part.pieces.set("type", Node::text(kind));
                if let Some(tokens) = fields.filled("logprobs").filter(|_| step == "delta") {
                    part.pieces.list("logprobs", budget)?.add(
                        &elements(tokens),
                        Growth::Always,
                        0,
                        budget,
                    )?;
                }
                take_text(&mut part.pieces, name, step, fields, budget)
            }
        }
    }

    /// The place in the output of the item that an event is about.
    fn index_of(&self, fields: &Fields<'_>, id: Option<&str>) -> u64 {
        if let Some(index) = fields.number("output_index") {
            return index;
        }
        let of_id = |item: &Item| id.is_some() && item.id.as_deref() == id;
        let known = self.items.iter().rev().find(|(_, item)| of_id(item));
        let last = self.items.last_key_value().map(|(last, _)| *last);
        match (known, last) {
            (Some((index, _)), _) => *index,
            (None, Some(last)) if id.is_some() => last.saturating_add(1),
            (None, last) => last.unwrap_or(0),
        }
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        let whole =
            (self.whole).ok_or_else(|| StreamError::protocol("the stream held no response"))?;
        let fields = Fields::parse(&whole);
        let told = fields.get("output").map(elements).unwrap_or_default();
        let output = match told.len() >= self.items.len() {
            true => completed(&self.items, &told),
            false => Some(rebuilt(&self.items, &told, fields.text("status"))),
        };
        let Some(output) = output else {
            return Ok(whole.into_bytes());
        };
        let list = format!("[{}]", output.join(","));
        Ok(with_field(&whole, "output", &list).into_bytes())
    }
}

/// The items of the last event with what they leave out; `None` if they leave out nothing.
fn completed(items: &BTreeMap<u64, Item>, told: &[&RawValue]) -> Option<Vec<String>> {
    let mut changed = false;
    let whole = (0_u64..).zip(told).map(|(index, raw)| {
        let fields = Fields::of(raw);
        let item = items.get(&index).filter(|item| {
            let (known, id) = (item.id.as_deref(), fields.word("id"));
            known.is_none() || id.is_none() || known == id
        });
        let item = item.filter(|item| is_object(raw) && item.completes(&fields));
        changed |= item.is_some();
        item.map_or_else(|| raw.get().to_owned(), |item| item.complete(&fields))
    });
    let whole: Vec<String> = whole.collect();
    changed.then_some(whole)
}

/// All items that events told of, in the words of the last event where it has them, too.
fn rebuilt(items: &BTreeMap<u64, Item>, told: &[&RawValue], status: Option<&str>) -> Vec<String> {
    let told: Vec<Fields<'_>> = told.iter().map(|raw| Fields::of(raw)).collect();
    let known = |item: &Item| {
        let id = item.id.as_deref()?;
        told.iter().find(|fields| fields.word("id") == Some(id))
    };
    let mut output: Vec<String> = (items.values())
        .map(|item| match known(item) {
            Some(fields) => item.complete(fields),
            None => item.rebuilt(status.unwrap_or("completed")),
        })
        .collect();
    let is_new = |id: &str| items.values().all(|item| item.id.as_deref() != Some(id));
    let unseen = told
        .iter()
        .filter(|fields| fields.word("id").is_some_and(is_new));
    output.extend(unseen.map(|fields| object_of(fields).to_json()));
    output
}

impl Item {
    /// Whether its pieces say what `fields`, the item as a later event has it, leaves out.
    fn completes(&self, fields: &Fields<'_>) -> bool {
        let lacks = |name: &str| fields.filled(name).is_none();
        !self.content.is_empty() && lacks("content")
            || !self.summary.is_empty() && lacks("summary")
            || ["arguments", "input", "code"]
                .into_iter()
                .any(|name| lacks(name) && self.texts.is_filled(name))
    }

    /// The item as `fields` has it, with what that leaves out.
    fn complete(&self, fields: &Fields<'_>) -> String {
        let mut item = object_of(fields);
        self.fill(&mut item);
        item.to_json()
    }

    /// The item from its own last event, or from its pieces.
    fn rebuilt(&self, status: &str) -> String {
        let fields = self.written.as_deref().map(Fields::parse);
        let fields = fields.unwrap_or_default();
        if let Some(written) = self.written.as_ref().filter(|_| self.done) {
            return match self.completes(&fields) {
                true => self.complete(&fields),
                false => written.clone(),
            };
        }
        let mut item = object_of(&fields);
        if let Some(id) = self.id.as_deref().filter(|_| !item.is_filled("id")) {
            item.set("id", Node::text(id));
        }
        if !item.is_filled("type") {
            let kind = if self.texts.is_filled("arguments") {
                "function_call"
            } else if self.texts.is_filled("input") {
                "custom_tool_call"
            } else if self.content.is_empty() {
                "reasoning"
            } else {
                item.set("role", Node::text("assistant"));
                "message"
            };
            item.set("type", Node::text(kind));
        }
        // It was, when it began.
        if item.text("status") == "in_progress" {
            item.set("status", Node::text(status));
        }
        self.fill(&mut item);
        item.to_json()
    }

    fn fill(&self, item: &mut Object) {
        for (name, parts) in [("content", &self.content), ("summary", &self.summary)] {
            if parts.is_empty() || item.is_filled(name) {
                continue;
            }
            let mut list = Vec::new();
            write_list(parts.values(), &mut list, |part, json| part.write(json));
            item.set(name, Node::Raw(into_text(list)));
        }
        for name in ["arguments", "input", "code"] {
            if self.texts.is_filled(name) && !item.is_filled(name) {
                item.set(name, Node::text(self.texts.text(name)));
            }
        }
    }
}

impl Part {
    fn write(&self, json: &mut Vec<u8>) {
        let mut part = object_of(&Fields::parse(self.written.as_deref().unwrap_or_default()));
        for name in ["type", "text", "refusal", "annotations", "logprobs"] {
            if let Some(node) = self.pieces.get(name)
                && !part.is_filled(name)
            {
                part.set(name, Node::Raw(node.to_json()));
            }
        }
        part.write(json);
    }
}

/// Takes a piece of the text `name` (step `delta`), or all of it (step `done`).
fn take_text(
    texts: &mut Object,
    name: &str,
    step: &str,
    fields: &Fields<'_>,
    budget: &mut Budget,
) -> Result<(), StreamError> {
    match step {
        "delta" => texts.append(name, fields.text("delta").unwrap_or_default(), budget),
        "done" => match fields.word(name) {
            Some(whole) if whole != texts.text(name) => {
                budget.spend(whole.len())?;
                texts.set(name, Node::text(whole));
                Ok(())
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Keeps `raw` instead of what was kept before.
fn keep(kept: &mut Option<String>, raw: &RawValue, budget: &mut Budget) -> Result<(), StreamError> {
    if kept.is_some() && is_blank(raw) {
        return Ok(());
    }
    let held = kept.as_ref().map_or(0, String::len);
    budget.spend(raw.get().len().saturating_sub(held))?;
    *kept = Some(raw.get().to_owned());
    Ok(())
}

/// The entry of `index`, paid for if it is new.
fn entry<'a, T: Default>(
    entries: &'a mut BTreeMap<u64, T>,
    index: u64,
    budget: &mut Budget,
) -> Result<&'a mut T, StreamError> {
    if !entries.contains_key(&index) {
        if entries.len() >= ENTRIES_MAX {
            return Err(StreamError::new(
                ErrorKind::TooLarge,
                format!("the streamed response exceeds {ENTRIES_MAX} items"),
            ));
        }
        budget.spend(ITEM_BYTES)?;
    }
    Ok(entries.entry(index).or_default())
}

/// The object that has these fields.
fn object_of(fields: &Fields<'_>) -> Object {
    let mut object = Object::default();
    for (name, raw) in fields.iter() {
        object.set(name, Node::Raw(raw.get().to_owned()));
    }
    object
}

/// The object `json` with `value` for the field `name`.
fn with_field(json: &str, name: &str, value: &str) -> String {
    let mut object = object_of(&Fields::parse(json));
    object.set(name, Node::Raw(value.to_owned()));
    object.to_json()
}
