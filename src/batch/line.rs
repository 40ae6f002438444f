//! JSONL line → request: finds the shape, checks what can be checked before sending, and splices the
//! body. Pure.
//!
//! A line is scanned once. What is kept are spans, so a [`Parsed`] borrows nothing and a worker can hold
//! it across an await while the line stays in the mapped file. Bodies leave as they were written, byte
//! for byte, but for what the endpoint's [`BodyRules`] add.
//!
//! A field that decides what is sent (`body`, `url`, `model`, …) may stand in its object only once: two
//! readers could disagree on which one counts. All others pass as they are.

mod header;
mod read;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::config::body_rules::{BodyRules, InputShape};
use crate::json::{self, Kind, Member, Span};

/// Members for which a reused [`Parsed`] keeps memory; one odd line must not pin megabytes.
const FIELDS_KEPT: usize = 64;

/// What a line looks like (docs/CONFIGURATION.md, "The input").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `{"custom_id", "url", "body", "method"?, "headers"?}`
    OpenAiBatch,
    /// `{"body", "url"?, "headers"?}`
    Body,
    /// `{"input"}`
    Input,
    /// An API body, `metadata` aside.
    #[default]
    Bare,
}

/// Why a line is not a request, for the operator who wrote it; one line of text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidLine {
    /// What is wrong, at which byte or field, and what is expected.
    pub message: String,
}

/// A line that was understood. Methods that take a `line` want the one that was parsed, unchanged;
/// given a shorter one they panic.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    shape: Shape,
    /// The body's object; for [`Shape::Input`] the value of `input`.
    body: Span,
    body_is_empty: bool,
    input_form: InputForm,
    custom_id: Option<Span>,
    url: Option<Span>,
    headers: Vec<Member>,
    /// What a bare body loses: its `metadata` with one comma.
    cut: Option<Span>,
    model: Option<Member>,
    stream: bool,
    has_temperature: bool,
    has_max_tokens: bool,
    completes_prompt: bool,
    fields: Vec<Member>,
}

/// What the value of `input` can be used as in a chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum InputForm {
    /// The user's message: a string, or an array of content parts (objects with a `type`).
    #[default]
    Content,
    /// The messages themselves: an array of objects with a `role`.
    Messages,
    /// One message: an object with a `role`.
    Message,
    /// Anything else: its JSON text is the user's message.
    Json,
}

impl Parsed {
    /// Reads a line (without its newline; white space around it, a trailing `\r` and a byte order mark
    /// are fine), reusing this value's memory. After an error nothing of the line is left here.
    pub fn parse(&mut self, line: &[u8]) -> Result<(), InvalidLine> {
        let mut headers = std::mem::take(&mut self.headers);
        let mut fields = std::mem::take(&mut self.fields);
        headers.clear();
        fields.clear();
        fields.shrink_to(FIELDS_KEPT);
        *self = Self {
            headers,
            fields,
            ..Self::default()
        };
        self.read(line).inspect_err(|_| *self = Self::default())
    }

    /// The line, to be sent. Memory that it left unused stays here, for the next one to be parsed into: it would
    /// only be in flight with this one.
    pub fn hand_out(&mut self) -> Self {
        let used = |members: &mut Vec<Member>| match members.is_empty() {
            true => Vec::new(),
            false => std::mem::take(members),
        };
        Self {
            headers: used(&mut self.headers),
            fields: used(&mut self.fields),
            ..*self
        }
    }

    /// Whether there is memory in it that another line can be parsed into.
    pub fn holds_memory(&self) -> bool {
        self.headers.capacity() + self.fields.capacity() > 0
    }

    /// What the line looks like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The JSON text of the line's `custom_id`.
    pub fn custom_id<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        self.custom_id.map(|span| span.of(line))
    }

    /// The API path the line itself asks for, such as `/v1/chat/completions`: visible ASCII that begins
    /// with exactly one `/`.
    pub fn url<'a>(&self, line: &'a [u8]) -> Option<Cow<'a, str>> {
        self.url.map(|span| string_at(line, span))
    }

    /// The body's `model`, if it is a string.
    pub fn model<'a>(&self, line: &'a [u8]) -> Option<Cow<'a, str>> {
        let model = self.model.filter(|model| model.kind == Kind::String)?;
        Some(string_at(line, model.value))
    }

    /// Bytes of the body as the line has it.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The limit that the body sets on its completion, in tokens. Reads the body again: for those
    /// who count tokens.
    pub fn completion_tokens_max(&self, line: &[u8]) -> Option<u64> {
        const NAMES: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
        if !self.has_max_tokens {
            return None;
        }
        let body = self.body.of(line);
        let limits = NAMES
            .iter()
            .filter_map(|name| json::as_u64(json::get(body, &[name])?));
        limits.max()
    }

    /// Whether the body has `"stream": true`.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether the body is one of the completions API: a `prompt` and no `messages`.
    pub fn completes_prompt(&self) -> bool {
        self.completes_prompt
    }

    /// The line's own headers; names and values are fit to be sent.
    pub fn headers<'a>(
        &'a self,
        line: &'a [u8],
    ) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        let text = move |header: &Member| {
            (
                json::unescape(header.key.of(line)),
                string_at(line, header.value),
            )
        };
        self.headers.iter().map(text)
    }

    /// The user's own members, which come back in the record: all that the request is not made of, and
    /// `input`. Of a bare body only `metadata`.
    pub fn fields(&self) -> &[Member] {
        &self.fields
    }

    /// Appends the body to send: one JSON object.
    pub fn write_body(&self, line: &[u8], rules: &BodyRules<'_>, out: &mut Vec<u8>) {
        /// Room for the fields rules add, and for wrapping an input.
        const ADDED_BYTES: usize = 192;
        out.reserve(self.body.len() + ADDED_BYTES);
        if self.shape == Shape::Input {
            self.wrap_input(line, rules.input_as, out);
        } else {
            self.splice_body(line, rules, out);
        }
        let mut is_empty = self.shape != Shape::Input && self.body_is_empty;
        let mut add = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
            if !std::mem::take(&mut is_empty) {
                out.push(b',');
            }
            json::write_string(name, out);
            out.push(b':');
            write(out);
        };
        if let (Some(model), None) = (rules.model, self.model) {
            add("model", &|out| json::write_string(model, out));
        }
        if let (Some(temperature), false) = (rules.temperature, self.has_temperature) {
            // Rust writes a finite f64 as a JSON number, never with an exponent.
            add("temperature", &|out| {
                out.extend_from_slice(temperature.to_string().as_bytes())
            });
        }
        if let (Some((name, tokens)), false) = (rules.max_tokens, self.has_max_tokens) {
            add(name, &|out| {
                out.extend_from_slice(itoa::Buffer::new().format(tokens).as_bytes())
            });
        }
        out.push(b'}');
    }

    /// The body up to its closing brace, with its edits made.
    fn splice_body(&self, line: &[u8], rules: &BodyRules<'_>, out: &mut Vec<u8>) {
        let model = match (rules.override_model, rules.model, self.model) {
            (true, Some(model), Some(own)) => Some((own.value, Some(model))),
            _ => None,
        };
        if self.cut.is_none() && model.is_none() {
            out.extend_from_slice(&line[self.body.start as usize..self.body.end as usize - 1]);
            return;
        }
        let mut edits = [self.cut.map(|span| (span, None)), model];
        edits.sort_unstable_by_key(|edit| edit.map(|(span, _)| span.start));
        let mut copied = self.body.start as usize;
        for (span, replacement) in edits.into_iter().flatten() {
            out.extend_from_slice(&line[copied..span.start as usize]);
            if let Some(model) = replacement {
                json::write_string(model, out);
            }
            copied = span.end as usize;
        }
        out.extend_from_slice(&line[copied..self.body.end as usize - 1]);
    }

    /// The value of `input` as a body, up to its closing brace.
    fn wrap_input(&self, line: &[u8], input_as: InputShape, out: &mut Vec<u8>) {
        let value = self.body.of(line);
        let (before, after): (&str, &str) = match (input_as, self.input_form) {
            (InputShape::Prompt, _) => ("{\"prompt\":", ""),
            (InputShape::Input, _) => ("{\"input\":", ""),
            (InputShape::Messages, InputForm::Messages) => ("{\"messages\":", ""),
            (InputShape::Messages, InputForm::Message) => ("{\"messages\":[", "]"),
            (InputShape::Messages, InputForm::Content | InputForm::Json) => {
                ("{\"messages\":[{\"role\":\"user\",\"content\":", "}]")
            }
        };
        out.extend_from_slice(before.as_bytes());
        if input_as == InputShape::Messages && self.input_form == InputForm::Json {
            json::write_string(&String::from_utf8_lossy(value), out);
        } else {
            out.extend_from_slice(value);
        }
        out.extend_from_slice(after.as_bytes());
    }
}

/// The text of the JSON string at `span`, quotes included.
fn string_at(line: &[u8], span: Span) -> Cow<'_, str> {
    json::unescape(&line[span.start as usize + 1..span.end as usize - 1])
}
