//! Streams of choices: chat completions and legacy completions. Pure.
//!
//! Each chunk repeats the response's head and holds a piece of one or more choices: chat in
//! `delta`, legacy completions in `text`. The end is `[DONE]`, or the end of the body once every choice
//! has its finish reason.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::value::RawValue;

use super::fields::{Budget, Fields, elements, is_blank, is_object, text};
use super::list::Growth;
use super::merge::{Node, Object, into_text, write_list};
use super::{Event, Progress, StreamError};
use crate::metrics::tokens::Tokens;

/// What an entry of the table of choices costs besides its text.
const CHOICE_BYTES: usize = 256;

/// Head fields that only a stream has: padding against traffic analysis.
const ONLY_STREAMED: &str = "obfuscation";

/// What the `object` of a chunk has and that of a response has not.
const CHUNK: &str = ".chunk";

/// Fields of a delta that are no output of the model.
const NO_OUTPUT: [&str; 11] = [
    "role",
    "name",
    "id",
    "type",
    "object",
    "index",
    "channel",
    "recipient",
    "phase",
    "usage",
    "expires_at",
];

/// Head fields in which servers say what went wrong when there is no `error`.
const ERRORS: [&str; 10] = [
    "base_resp",
    "code",
    "detail",
    "error_code",
    "error_msg",
    "errors",
    "message",
    "msg",
    "status",
    "status_code",
];

#[derive(Debug)]
pub(super) struct Choices {
    /// Whether choices hold a `message`; the first of them tells.
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
    /// Where a provider counts here what others count in the head.
    usage: Option<String>,
}

impl Choices {
    /// `is_chat`: of the chat API, unless the choices show that they are not.
    pub(super) fn new(is_chat: bool) -> Self {
        Self {
            is_chat,
            head: Object::default(),
            choices: BTreeMap::new(),
        }
    }

    /// Whether `event` is a chunk, or something else that a server sends in between.
    pub(super) fn is_chunk(event: &Event<'_>) -> bool {
        event.fields.get("choices").is_some()
            || event.name.is_empty() && event.fields.text("type").is_none()
    }

    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let mut progress = Progress::default();
        if !Self::is_chunk(event) {
            // Of other events only the counts are kept, wherever they stand.
            if let Some(usage) = event
                .fields
                .filled("usage")
                .filter(|usage| is_object(usage))
            {
                self.head.overlay("usage", usage, budget)?;
            }
            return Ok(progress);
        }
        progress.taken = true;
        for (name, raw) in event.fields.iter() {
            match name {
                ONLY_STREAMED => {}
                "choices" => {
                    if self.head.get(name).is_none() {
                        self.head.set(name, Node::Raw("[]".to_owned()));
                    }
                    for element in elements(raw) {
                        progress.token |= self.feed_choice(&Fields::of(element), budget)?;
                    }
                }
                // The first chunk names the response; some servers name every chunk.
                "id" | "created" if self.head.is_filled(name) => {}
                _ => {
                    self.head.overlay(name, raw, budget)?;
                    // Groq counts in `x_groq` unless asked to do so in OpenAI's place.
                    if let Some(usage) = Fields::of(raw).filled("usage").filter(|it| is_object(it))
                    {
                        self.head.overlay("usage", usage, budget)?;
                    }
                }
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
        if self.choices.is_empty() {
            let is_delta = piece.get("delta").is_some() || piece.get("message").is_some();
            let is_text = piece.text("text").is_some();
            self.is_chat = is_delta || self.is_chat && !is_text;
        }
        let is_chat = self.is_chat;
        if !self.choices.contains_key(&index) {
            budget.spend(CHOICE_BYTES)?;
        }
        let choice = self.choices.entry(index).or_default();
        let mut token = false;
        for (name, raw) in piece.iter() {
            match name {
                "index" => {}
                "delta" if is_chat => token |= choice.feed_delta(&Fields::of(raw), budget)?,
                "message" if is_chat => token |= choice.feed_message(&Fields::of(raw), budget)?,
                "text" if !is_chat => {
                    let piece = text(raw).unwrap_or_default();
                    token |= !piece.is_empty();
                    choice.rest.append(name, piece, budget)?;
                }
                "logprobs" if is_object(raw) => {
                    choice
                        .rest
                        .object(name, budget)?
                        .append_lists(&Fields::of(raw), budget)?;
                }
                "usage" if is_object(raw) => choice.note_usage(raw, budget)?,
                _ if raw.get().starts_with('[') && !is_blank(raw) => {
                    let elements = elements(raw);
                    let growth = Growth::of_delta(name, &elements);
                    let list = choice.rest.list(name, budget)?;
                    list.add(&elements, growth, 0, budget)?;
                }
                _ => choice.rest.overlay(name, raw, budget)?,
            }
        }
        Ok(token)
    }

    /// Whether every choice says why it ended.
    pub(super) fn is_whole(&self) -> bool {
        let mut choices = self.choices.values();
        !self.choices.is_empty() && choices.all(|choice| choice.rest.is_filled("finish_reason"))
    }

    /// What the server said in place of choices, if it said anything of its own.
    pub(super) fn said(&self) -> Option<String> {
        let is_told = |name: &str| self.head.is_filled(name);
        let is_told = self.choices.is_empty() && ERRORS.into_iter().any(is_told);
        is_told.then(|| self.head.to_json())
    }

    /// The response; without a choice, what else was said.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, StreamError> {
        if self.choices.is_empty() {
            return Err(StreamError {
                said: self.said(),
                ..StreamError::protocol("the stream held no choices")
            });
        }
        self.move_usage();
        let object = match self.head.text("object") {
            "" if self.is_chat => "chat.completion",
            "" => "text_completion",
            object => object.strip_suffix(CHUNK).unwrap_or(object),
        };
        let object = Node::text(object);
        self.head.set("object", object);
        let mut list = Vec::new();
        let is_chat = self.is_chat;
        write_list(
            self.choices.into_iter(),
            &mut list,
            |(index, choice), json| {
                choice.into_object(index, is_chat).write(json);
            },
        );
        self.head.set("choices", Node::Raw(into_text(list)));
        let mut json = Vec::new();
        self.head.write(&mut json);
        Ok(json)
    }

    /// Puts the counts that stand in the choices where a response has them.
    fn move_usage(&mut self) {
        let counts: Vec<&String> = (self.choices.values())
            .filter_map(|choice| choice.usage.as_ref())
            .collect();
        let Some(first) = counts.first() else {
            return;
        };
        let same = counts.iter().all(|usage| usage == first);
        if self.head.is_filled("usage") {
            if same && matches!(self.head.get("usage"), Some(Node::Raw(usage)) if usage == *first) {
                return;
            }
        } else if same {
            let usage = (*first).clone();
            self.head.set("usage", Node::Raw(usage));
            return;
        } else {
            // Each choice counts its own completion, all of them the same prompt.
            let counts = counts
                .iter()
                .filter_map(|usage| Tokens::from_usage(usage.as_bytes()));
            let (mut prompt, mut completion) = (0, 0_u64);
            for tokens in counts {
                prompt = tokens.prompt.max(prompt);
                completion = completion.saturating_add(tokens.completion);
            }
            let total = completion.saturating_add(prompt);
            let usage = format!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}}}"#
            );
            self.head.set("usage", Node::Raw(usage));
        }
        for choice in self.choices.values_mut() {
            if let Some(usage) = choice.usage.take() {
                choice.rest.set("usage", Node::Raw(usage));
            }
        }
    }
}

impl Choice {
    /// Whether the delta held output.
    fn feed_delta(&mut self, delta: &Fields<'_>, budget: &mut Budget) -> Result<bool, StreamError> {
        let mut token = false;
        for (name, raw) in delta.iter() {
            match name {
                "usage" if is_object(raw) => self.note_usage(raw, budget)?,
                _ => {
                    token = token || is_output(name, raw);
                    self.message.merge_field(name, raw, 0, budget)?;
                }
            }
        }
        Ok(token)
    }

    /// A whole message in a chunk says what deltas have not said.
    fn feed_message(
        &mut self,
        message: &Fields<'_>,
        budget: &mut Budget,
    ) -> Result<bool, StreamError> {
        let mut token = false;
        for (name, raw) in message.iter() {
            if name == "usage" && is_object(raw) {
                self.note_usage(raw, budget)?;
            } else if !self.message.is_filled(name) {
                token = token || is_output(name, raw);
                self.message.replace(name, raw, budget)?;
            }
        }
        Ok(token)
    }

    fn note_usage(&mut self, raw: &RawValue, budget: &mut Budget) -> Result<(), StreamError> {
        let held = self.usage.as_ref().map_or(0, String::len);
        budget.spend(raw.get().len().saturating_sub(held))?;
        self.usage = Some(raw.get().to_owned());
        Ok(())
    }

    /// In the order and with the fields of a response that was not streamed.
    fn into_object(mut self, index: u64, is_chat: bool) -> Object {
        let null = || Node::Raw("null".to_owned());
        let mut object = Object::default();
        object.set("index", Node::Raw(index.to_string()));
        if is_chat {
            let is_told = self.message.is_filled("role");
            let role = self.message.take("role").filter(|_| is_told);
            let role = role.unwrap_or_else(|| Node::text("assistant"));
            let content = self.message.take("content").unwrap_or_else(null);
            if let Some(Node::List(calls)) = self.message.get_mut("tool_calls") {
                calls.drop_field("index");
            }
            if let Some(Node::Object(audio)) = self.message.get_mut("audio") {
                join_audio(audio);
            }
            let mut message = Object::default();
            message.set("role", role);
            message.set("content", content);
            message.extend(self.message);
            object.set("message", Node::Object(message));
        } else {
            let text = self.rest.take("text").unwrap_or_else(|| Node::text(""));
            object.set("text", text);
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

/// Whether this field of a delta is output of the model.
fn is_output(name: &str, raw: &RawValue) -> bool {
    if NO_OUTPUT.contains(&name) || is_blank(raw) {
        return false;
    }
    // An object says something if one of its fields does.
    !is_object(raw) || (Fields::of(raw).iter()).any(|(name, raw)| is_output(name, raw))
}

/// Pieces of sound may each have been encoded by themselves: what stands behind padding is another
/// encoding, and all of them become one.
fn join_audio(audio: &mut Object) {
    let data = audio.text("data").replace("\\/", "/");
    if !data.trim_end_matches('=').contains('=') {
        return;
    }
    let mut sound = Vec::new();
    for piece in data.split('=') {
        match STANDARD_NO_PAD.decode(piece) {
            Ok(bytes) => sound.extend_from_slice(&bytes),
            Err(_) => return,
        }
    }
    audio.set("data", Node::text(&STANDARD.encode(sound)));
}
