//! Streams of Anthropic's Messages API: a message, its content blocks piece by piece, its end.
//! Pure. Source: Anthropic's "Streaming Messages" page, event types as of `2023-06-01`.

use serde::de::IgnoredAny;

use super::fields::{Budget, Fields, is_blank, text};
use super::list::Growth;
use super::merge::{Node, Object, into_text, write_list};
use super::{Event, Progress, StreamError};
use crate::error::ErrorKind;

/// What an entry of the table of blocks costs besides its text.
const BLOCK_BYTES: usize = 256;

/// Most blocks of one message: each event looks for its own from the last one on.
const BLOCKS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Message {
    /// `None` before `message_start`.
    head: Option<Object>,
    /// In the order in which they began.
    blocks: Vec<Block>,
}

#[derive(Debug, Default)]
struct Block {
    index: u64,
    fields: Object,
    /// The text of `input` so far, still escaped as the JSON string that carried it.
    input_json: String,
    /// Some of `input_json` came, even if it was empty.
    has_input: bool,
}

/// Which block an event is about.
enum Of {
    /// A new one.
    Begin,
    /// The one of its index that began last; a new one if there is none.
    Known,
}

impl Message {
    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let fields = &event.fields;
        let mut progress = Progress {
            taken: true,
            ..Progress::default()
        };
        match event.kind() {
            "message_start" => {
                let mut head = Object::default();
                for (name, raw) in fields.object("message").iter() {
                    if name == "usage" {
                        merge_usage(&mut head, &Fields::of(raw), budget)?;
                    } else {
                        head.replace(name, raw, budget)?;
                    }
                }
                self.head = Some(head);
            }
            "content_block_start" => {
                let start = fields.object("content_block");
                let block = self.block(fields, Of::Begin, budget)?;
                for (name, raw) in start.iter() {
                    match text(raw) {
                        // What deltas may add to.
                        Some(text) if name != "type" => block.fields.append(name, text, budget)?,
                        _ => block.fields.replace(name, raw, budget)?,
                    }
                }
                // A text or a thought begins empty; a tool's name is output.
                let is_said = |name: &str| start.word(name).is_some();
                progress.token = ["name", "text", "thinking", "data"]
                    .into_iter()
                    .any(is_said);
            }
            "content_block_delta" => {
                let delta = fields.object("delta");
                self.block(fields, Of::Known, budget)?
                    .feed(&delta, budget)?;
                let is_said = |(name, raw)| name != "type" && !is_blank(raw);
                progress.token = delta.iter().any(is_said);
            }
            "message_delta" => {
                let head = (self.head.as_mut()).ok_or_else(|| out_of_order("message_delta"))?;
                for (name, raw) in fields.iter() {
                    match name {
                        "type" => {}
                        "usage" => merge_usage(head, &Fields::of(raw), budget)?,
                        "delta" => {
                            for (name, raw) in Fields::of(raw).iter() {
                                match name {
                                    "usage" => merge_usage(head, &Fields::of(raw), budget)?,
                                    _ => head.overlay(name, raw, budget)?,
                                }
                            }
                        }
                        _ => head.overlay(name, raw, budget)?,
                    }
                }
            }
            "message_stop" => progress.done = true,
            "content_block_stop" => {}
            // `ping`, and kinds to come, which clients are told to ignore.
            _ => progress.taken = false,
        }
        Ok(progress)
    }

    /// The block that the event is about.
    fn block(
        &mut self,
        event: &Fields<'_>,
        of: Of,
        budget: &mut Budget,
    ) -> Result<&mut Block, StreamError> {
        if self.head.is_none() {
            return Err(out_of_order("content_block"));
        }
        let told = event.number("index");
        let known = match (of, told) {
            (Of::Begin, _) => None,
            (Of::Known, None) => self.blocks.len().checked_sub(1),
            (Of::Known, Some(index)) => self.blocks.iter().rposition(|block| block.index == index),
        };
        let at = match known {
            Some(at) => at,
            None => {
                if self.blocks.len() >= BLOCKS_MAX {
                    return Err(StreamError::new(
                        ErrorKind::TooLarge,
                        format!("the streamed message exceeds {BLOCKS_MAX} content blocks"),
                    ));
                }
                budget.spend(BLOCK_BYTES)?;
                let next = self
                    .blocks
                    .last()
                    .map_or(0, |last| last.index.saturating_add(1));
                self.blocks.push(Block {
                    index: told.unwrap_or(next),
                    ..Block::default()
                });
                self.blocks.len() - 1
            }
        };
        Ok(&mut self.blocks[at])
    }

    /// Whether it says why it ended.
    pub(super) fn is_whole(&self) -> bool {
        (self.head.as_ref()).is_some_and(|head| head.is_filled("stop_reason"))
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, StreamError> {
        let mut head = self.head.ok_or_else(|| out_of_order("message_stop"))?;
        // Blocks that share an index stay in the order in which they began.
        self.blocks.sort_by_key(|block| block.index);
        if !(self.blocks.is_empty() && head.is_filled("content")) {
            let mut content = Vec::new();
            write_list(self.blocks.into_iter(), &mut content, |block, json| {
                block.into_object().write(json);
            });
            head.set("content", Node::Raw(into_text(content)));
        }
        let mut json = Vec::new();
        head.write(&mut json);
        Ok(json)
    }
}

impl Block {
    fn feed(&mut self, delta: &Fields<'_>, budget: &mut Budget) -> Result<(), StreamError> {
        if self.fields.text("type").is_empty() {
            let kind = match delta.text("type").unwrap_or_default() {
                "input_json_delta" => "tool_use",
                "thinking_delta" | "signature_delta" => "thinking",
                _ => "text",
            };
            self.fields.set("type", Node::text(kind));
        }
        for (name, raw) in delta.iter() {
            match (name, text(raw)) {
                ("type", _) => {}
                ("partial_json", Some(part)) => {
                    budget.spend(part.len())?;
                    self.has_input = true;
                    self.input_json.push_str(part);
                }
                ("citation", _) => {
                    let citations = self.fields.list("citations", budget)?;
                    citations.add(&[raw], Growth::Always, 0, budget)?;
                }
                // A signature comes once.
                ("signature", Some(part)) if self.fields.text(name) == part => {}
                // Text, thinking, signatures, and what is to come.
                (name, Some(part)) => self.fields.append(name, part, budget)?,
                (name, None) => self.fields.overlay(name, raw, budget)?,
            }
        }
        Ok(())
    }

    fn into_object(mut self) -> Object {
        if !self.input_json.trim_ascii().is_empty() {
            self.fields.set("input", Node::Raw(input(&self.input_json)));
        } else if self.has_input && !self.fields.is_filled("input") {
            // A tool without parameters is called with an empty object.
            self.fields.set("input", Node::Raw("{}".to_owned()));
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

/// Counts are cumulative: the last one counts. One of zero is no count where another is known: some
/// servers fill in what they do not know.
fn merge_usage(
    head: &mut Object,
    usage: &Fields<'_>,
    budget: &mut Budget,
) -> Result<(), StreamError> {
    let known = head.object("usage", budget)?;
    for (name, raw) in usage.iter() {
        known.overlay(name, raw, budget)?;
    }
    Ok(())
}

fn out_of_order(kind: &str) -> StreamError {
    StreamError::protocol(format!("the stream sent {kind} before message_start"))
}
