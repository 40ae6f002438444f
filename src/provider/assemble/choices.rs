//! Streams of choices: chat completions and legacy completions. Pure.
//!
//! Each chunk repeats the response's head and holds a piece of one or more choices: chat in
//! `delta`, legacy completions in `text`. The end is `[DONE]`.

use std::collections::BTreeMap;

use super::merge::{Budget, Fields, Node, Object, elements, is_blank, text, write_list};
use super::{Event, Progress, StreamError};

/// What an entry of the table of choices costs besides its text.
const CHOICE_BYTES: usize = 256;

/// Head fields that only a stream has: padding against traffic analysis.
const ONLY_STREAMED: &str = "obfuscation";

#[derive(Debug)]
pub(super) struct Choices {
    /// `object` of the assembled response.
    object: &'static str,
    is_chat: bool,
    /// The response's head in the order of the first chunk; `choices` holds their place.
    head: Object,
    choices: BTreeMap<u64, Choice>,
}

#[derive(Debug, Default)]
struct Choice {
    /// Chat only.
    message: Object,
    /// `finish_reason` and whatever else stands beside the delta.
    rest: Object,
}

impl Choices {
    pub(super) fn chat() -> Self {
        Self::new("chat.completion", true)
    }

    pub(super) fn completions() -> Self {
        Self::new("text_completion", false)
    }

    fn new(object: &'static str, is_chat: bool) -> Self {
        Self {
            object,
            is_chat,
            head: Object::default(),
            choices: BTreeMap::new(),
        }
    }

    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let mut progress = Progress::default();
        for (name, raw) in event.fields.iter() {
            match name {
                ONLY_STREAMED => {}
                "choices" => {
                    self.head.set(name, Node::Raw(String::new()));
                    for element in elements(raw) {
                        progress.token |= self.feed_choice(&Fields::of(element), budget)?;
                    }
                }
                // Groq sends usage here unless asked for it in OpenAI's place.
                "x_groq" => {
                    self.head.replace(name, raw, budget)?;
                    if let Some(usage) = Fields::of(raw).get("usage") {
                        self.head.replace("usage", usage, budget)?;
                    }
                }
                _ => self.head.replace(name, raw, budget)?,
            }
        }
        Ok(progress)
    }

    /// Whether the piece held output.
    fn feed_choice(
        &mut self,
        piece: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<bool, StreamError> {
        let index = piece.number("index").unwrap_or(0);
        if !self.choices.contains_key(&index) {
            budget.spend(CHOICE_BYTES)?;
        }
        let choice = self.choices.entry(index).or_default();
        let mut token = false;
        for (name, raw) in piece.iter() {
            match name {
                "index" => {}
                "delta" if self.is_chat => {
                    let delta = Fields::of(raw);
                    token |= delta
                        .iter()
                        .any(|(name, raw)| name != "role" && !is_blank(raw));
                    choice.message.merge(&delta, budget)?;
                }
                "text" if !self.is_chat => {
                    let piece = text(raw).unwrap_or_default();
                    token |= !piece.is_empty();
                    choice.rest.append(name, piece, budget)?;
                }
                "logprobs" if raw.get().starts_with('{') => {
                    choice
                        .rest
                        .object(name, budget)?
                        .append_lists(&Fields::of(raw), budget)?;
                }
                _ => choice.rest.replace(name, raw, budget)?,
            }
        }
        Ok(token)
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        if self.choices.is_empty() {
            return Err(StreamError::protocol("the stream held no choices"));
        }
        let mut list = Vec::new();
        let is_chat = self.is_chat;
        write_list(
            self.choices.into_iter(),
            &mut list,
            |(index, choice), json| {
                choice.into_object(index, is_chat).write(json);
            },
        );
        // JSON written from strings is UTF-8.
        let list = String::from_utf8_lossy(&list).into_owned();
        let mut head = self.head;
        head.set("object", Node::Raw(format!("\"{}\"", self.object)));
        head.set("choices", Node::Raw(list));
        let mut json = Vec::new();
        head.write(&mut json);
        Ok(json)
    }
}

impl Choice {
    /// In the order and with the fields of a response that was not streamed.
    fn into_object(mut self, index: u64, is_chat: bool) -> Object {
        let null = || Node::Raw("null".to_owned());
        let mut object = Object::default();
        object.set("index", Node::Raw(index.to_string()));
        if is_chat {
            let role = self
                .message
                .take("role")
                .unwrap_or_else(|| Node::Text("assistant".to_owned()));
            let content = self.message.take("content").unwrap_or_else(null);
            let mut message = Object::default();
            message.set("role", role);
            message.set("content", content);
            message.extend(self.message);
            object.set("message", Node::Object(message));
        } else {
            object.set(
                "text",
                self.rest
                    .take("text")
                    .unwrap_or_else(|| Node::Text(String::new())),
            );
        }
        object.set("logprobs", self.rest.take("logprobs").unwrap_or_else(null));
        object.set(
            "finish_reason",
            self.rest.take("finish_reason").unwrap_or_else(null),
        );
        object.extend(self.rest);
        object
    }
}
