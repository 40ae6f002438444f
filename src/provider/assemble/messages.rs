//! Streams of Anthropic's Messages API: a message, its content blocks piece by piece, its end.
//! Pure. Source: Anthropic's "Streaming Messages" page, event types as of `2023-06-01`.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::merge::{Budget, Fields, Node, Object, text, write_list};
use super::{Event, Progress, StreamError};

/// What an entry of the table of blocks costs besides its text.
const BLOCK_BYTES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Message {
    /// `None` before `message_start`.
    head: Option<Object>,
    blocks: BTreeMap<u64, Block>,
}

#[derive(Debug, Default)]
struct Block {
    fields: Object,
    /// The text of `input` so far, still escaped as the JSON string that carried it.
    input_json: String,
    citations: Vec<String>,
}

impl Message {
    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let fields = &event.fields;
        let kind = fields.text("type").unwrap_or(event.name);
        match kind {
            "message_start" => {
                let mut head = Object::default();
                for (name, raw) in fields
                    .get("message")
                    .map(Fields::of)
                    .unwrap_or_default()
                    .iter()
                {
                    if name == "usage" {
                        merge_usage(&mut head, &Fields::of(raw), budget)?;
                    } else {
                        head.replace(name, raw, budget)?;
                    }
                }
                self.head = Some(head);
            }
            "content_block_start" => {
                let start = fields
                    .get("content_block")
                    .map(Fields::of)
                    .unwrap_or_default();
                let block = self.block(fields, budget)?;
                for (name, raw) in start.iter() {
                    match text(raw) {
                        // What deltas may add to.
                        Some(text) if name != "type" => block.fields.append(name, text, budget)?,
                        _ => block.fields.replace(name, raw, budget)?,
                    }
                }
            }
            "content_block_delta" => {
                let delta = fields.get("delta").map(Fields::of).unwrap_or_default();
                self.block(fields, budget)?.feed(&delta, budget)?;
                return Ok(Progress {
                    token: true,
                    done: false,
                });
            }
            "message_delta" => {
                let head = self.head.as_mut().ok_or_else(|| out_of_order(kind))?;
                for (name, raw) in fields.iter() {
                    match name {
                        "type" => {}
                        "usage" => merge_usage(head, &Fields::of(raw), budget)?,
                        "delta" => {
                            for (name, raw) in Fields::of(raw).iter() {
                                head.replace(name, raw, budget)?;
                            }
                        }
                        _ => head.replace(name, raw, budget)?,
                    }
                }
            }
            "message_stop" => {
                return Ok(Progress {
                    token: false,
                    done: true,
                });
            }
            // `ping`, `content_block_stop`, and kinds to come, which clients are told to ignore.
            _ => {}
        }
        Ok(Progress::default())
    }

    /// The block that the event is about.
    fn block(
        &mut self,
        event: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<&mut Block, StreamError> {
        if self.head.is_none() {
            return Err(out_of_order("content_block"));
        }
        let index = event.number("index").unwrap_or(0);
        if !self.blocks.contains_key(&index) {
            budget.spend(BLOCK_BYTES)?;
        }
        Ok(self.blocks.entry(index).or_default())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        let mut head = self.head.ok_or_else(|| out_of_order("message_stop"))?;
        let mut content = Vec::new();
        write_list(self.blocks.into_values(), &mut content, |block, json| {
            block.into_object().write(json);
        });
        // JSON written from strings is UTF-8.
        head.set(
            "content",
            Node::Raw(String::from_utf8_lossy(&content).into_owned()),
        );
        let mut json = Vec::new();
        head.write(&mut json);
        Ok(json)
    }
}

impl Block {
    fn feed(&mut self, delta: &Fields<'_>, budget: &mut Budget) -> Result<(), StreamError> {
        for (name, raw) in delta.iter() {
            match (name, text(raw)) {
                ("type", _) => {}
                ("partial_json", Some(part)) => {
                    budget.spend(part.len())?;
                    self.input_json.push_str(part);
                }
                ("citation", _) => {
                    budget.spend(raw.get().len() + size_of::<String>())?;
                    self.citations.push(raw.get().to_owned());
                }
                // Text, thinking, signatures, and what is to come.
                (name, Some(part)) => self.fields.append(name, part, budget)?,
                (name, None) => self.fields.replace(name, raw, budget)?,
            }
        }
        Ok(())
    }

    fn into_object(mut self) -> Object {
        if !self.input_json.is_empty() {
            self.fields.set("input", Node::Raw(input(&self.input_json)));
        }
        if !self.citations.is_empty() {
            self.fields.set("citations", Node::List(self.citations));
        }
        self.fields
    }
}

/// A tool's input as JSON on one line, numbers as written. Input cut off by `max_tokens` is no
/// JSON; it is kept the way Anthropic's documentation on fine-grained tool streaming advises.
fn input(escaped: &str) -> String {
    let json = serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap_or_default();
    match serde_json::from_str::<IgnoredAny>(&json) {
        // In valid JSON line breaks can stand only between values.
        Ok(_) => json.trim().replace(['\n', '\r'], " "),
        Err(_) => format!(r#"{{"INVALID_JSON":"{escaped}"}}"#),
    }
}

/// Counts are cumulative: the last one counts, and zeros count too.
fn merge_usage(
    head: &mut Object,
    usage: &Fields<'_>,
    budget: &mut Budget,
) -> Result<(), StreamError> {
    let known = head.object("usage", budget)?;
    for (name, raw) in usage.iter() {
        if raw.get() != "null" || known.get(name).is_none() {
            budget.spend(raw.get().len())?;
            known.set(name, Node::Raw(raw.get().to_owned()));
        }
    }
    Ok(())
}

fn out_of_order(kind: &str) -> StreamError {
    StreamError::protocol(format!("the stream sent {kind} before message_start"))
}
