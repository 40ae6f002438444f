//! Answers with a 2xx that hold no answer: an error in the place of one, or nothing. Pure.
//!
//! | body of a 2xx on the path of a known API | judged as |
//! |---|---|
//! | `error` and no answer; `{"type":"error",…}`; Responses with `status: "failed"`; `success: false` | its code, as if it were the status |
//! | a choice with an `error`, or that ended with `finish_reason: "error"` | the same, whatever the other choices hold |
//! | `base_resp.status_code` that is not 0 (MiniMax) | the same, by the vendor's codes |
//! | no answer and no error: `choices` absent, `null` or empty, `data: []`, `output: []` | 500 |
//! | an error without a code | 500 |
//! | anything else | an answer |
//!
//! Some answers look emptier than they are: a message of Anthropic's may have no content if it says why it
//! ended, a background response of OpenAI's is only queued, and gateways wrap answers or give those of
//! their own APIs. On other paths any JSON is an answer but an object of nothing but an error.
//!
//! [`Glance`] is the cheap look at every answer while it is copied into its record; only what it finds odd is
//! parsed and judged here.

use serde_json::Value;

use super::ApiPath;
use super::answer::Answer;
use super::endpoint::Endpoint;
use super::verdict::{Cause, Refusal, Verdict, decide, should_retry};
use crate::json::{self, Kind, Member, Span, Visitor};

/// Members that hold the answer of a known API: chat and legacy completions, embeddings, responses, messages.
const ANSWERS: [&str; 4] = ["choices", "data", "output", "content"];

/// Members that hold the answer of gateways and of vendors' own APIs on the same paths.
const FOREIGN_ANSWERS: [&str; 16] = [
    "message",
    "embedding",
    "embeddings",
    "candidates",
    "result",
    "results",
    "response",
    "completion",
    "completions",
    "generated_text",
    "generations",
    "predictions",
    "outputs",
    "output_text",
    "text",
    "body",
];

/// What a scan sees of an answer on its way into a record: whether it is plainly one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    /// A list that holds the answer of a known API is there and not empty.
    list: bool,
    /// Something in it is a message, a text or a vector.
    message: bool,
    /// Something may say that there is no answer.
    odd: bool,
}

impl Glance {
    /// A glance at a whole body.
    pub fn at(body: &[u8]) -> Self {
        let mut look = Look {
            body,
            glance: Self::default(),
        };
        // What is no JSON is somebody else's to judge.
        let _ = json::visit(body, &mut look);
        look.glance
    }

    /// Takes in a member of `body` that is called `name`.
    #[inline(always)]
    pub fn member(&mut self, name: &[u8], member: Member, body: &[u8]) {
        // Most others begin with another letter.
        let (b'b'..=b'e' | b'o' | b's' | b't') = name.first().copied().unwrap_or_default() else {
            return;
        };
        let value = || member.value.of(body);
        match name {
            b"choices" | b"data" | b"output" | b"content" => {
                self.list |= member.kind == Kind::Array && member.value.len() > 2;
            }
            b"error" | b"errors" => self.odd |= member.kind != Kind::Null,
            b"status" => self.odd |= value() != b"\"completed\"",
            b"type" | b"object" => self.odd |= value() == b"\"error\"",
            b"code" => self.odd |= !matches!(value(), b"0" | b"200"),
            b"success" => self.odd |= value() != b"true",
            b"base_resp" => self.odd = true,
            _ => {}
        }
    }

    /// Takes in a member somewhere below, whose name stands at `key` and whose value begins at `value_at`.
    #[inline(always)]
    pub fn nested_member(&mut self, key: Span, value_at: usize, body: &[u8]) {
        // Most others begin with another letter. Behind a name there is a quote.
        let (b'e' | b'f' | b'm' | b't') = body[key.start as usize] else {
            return;
        };
        let rest = || &body[value_at..];
        match key.of(body) {
            b"error" => self.odd |= !rest().starts_with(b"null"),
            b"finish_reason" => self.odd |= rest().starts_with(b"\"error\""),
            // In a choice of a chat or of the first API, in `data`, in an item of `output` or `content`.
            b"message" | b"text" | b"embedding" | b"type" => {
                self.message |= matches!(rest().first(), Some(b'{' | b'[' | b'"'));
            }
            _ => {}
        }
    }

    /// Whether the body need not be looked at more closely.
    #[inline]
    fn is_plain(&self, path: ApiPath) -> bool {
        !self.odd && (path == ApiPath::Other || self.list && self.message)
    }
}

/// A scan that does nothing but glance.
struct Look<'b> {
    body: &'b [u8],
    glance: Glance,
}

impl Visitor for Look<'_> {
    fn member(&mut self, member: Member) {
        let name = member.name(self.body);
        self.glance.member(&name, member, self.body);
    }

    fn nested_member(&mut self, key: Span, value_at: usize) {
        self.glance.nested_member(key, value_at, self.body);
    }
}

/// Why a 2xx is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// The HTTP status that it amounts to.
    pub status: u16,
    /// What follows.
    pub verdict: Verdict,
    /// The server says that it failed; else it only left the answer out.
    pub is_error: bool,
}

impl Endpoint {
    /// What a 2xx from `path` means whose body is JSON, if it holds no answer; `glance` has seen the body.
    #[inline]
    pub fn classify_success<'h>(
        &self,
        path: ApiPath,
        status: u16,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        body: &[u8],
        glance: &Glance,
    ) -> Option<Box<NoAnswer>> {
        match glance.is_plain(path) {
            true => None,
            false => self.classify_odd(path, status, should_retry(headers), body),
        }
    }

    #[cold]
    fn classify_odd(
        &self,
        path: ApiPath,
        status: u16,
        asked: Option<bool>,
        body: &[u8],
    ) -> Option<Box<NoAnswer>> {
        let value = serde_json::from_str(&json::mended(body)).ok()?;
        let lack = lack(path, &value)?;
        let answer = Answer::of(&value);
        let text = answer.message.as_deref();
        let text = match (lack, text) {
            (Lack::Error, Some(text)) => format!("HTTP {status} with an error: {text}"),
            (Lack::Error, None) => format!("HTTP {status} with an error that has no message"),
            (Lack::Answer, Some(text)) => format!("HTTP {status} without an answer: {text}"),
            (Lack::Answer, None) => format!("HTTP {status} without an answer"),
        };
        Some(Box::new(self.no_answer(&answer, asked, &text, lack)))
    }

    /// What an error amounts to that `data`, an event of a stream, says; `text` introduces it.
    pub(super) fn classify_event(&self, data: &str, text: &str) -> NoAnswer {
        self.no_answer(&Answer::parse(data.as_bytes()), None, text, Lack::Error)
    }

    fn no_answer(&self, answer: &Answer, asked: Option<bool>, text: &str, lack: Lack) -> NoAnswer {
        let status = answer.status_meant();
        let (kind, retry, mut cause) = decide(status, answer, asked);
        // There is such a path: it has answered.
        if matches!(cause, Cause::Refused(Refusal::Path)) {
            cause = Cause::Line;
        }
        NoAnswer {
            status,
            verdict: Verdict {
                hearsay: answer.hearsay(cause, status),
                ..self.verdict(kind, retry, cause, text)
            },
            is_error: lack == Lack::Error,
        }
    }
}

/// What a 2xx has in the place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// The server says that it failed.
    Error,
    /// Nothing says that it failed, but there is no answer.
    Answer,
}

/// `None`: it holds an answer.
fn lack(path: ApiPath, value: &Value) -> Option<Lack> {
    if vendor_failed(value) {
        return Some(Lack::Error);
    }
    if path == ApiPath::Other {
        return is_only_error(value).then_some(Lack::Error);
    }
    if has_failed(path, value) || choices(value).any(choice_failed) {
        return Some(Lack::Error);
    }
    if ANSWERS.iter().any(|name| holds(value, name)) {
        return None;
    }
    if says_error(value) {
        return Some(Lack::Error);
    }
    let foreign = match value {
        // Google streams are arrays, and so are answers of Hugging Face.
        Value::Array(items) => {
            return match items.first() {
                Some(first @ Value::Object(_)) => lack(path, first),
                Some(first) if !is_blank(first) => None,
                _ => Some(Lack::Answer),
            };
        }
        Value::Object(_) => {
            FOREIGN_ANSWERS.iter().any(|name| holds(value, name)) || wrapped(path, value)
        }
        _ => false,
    };
    (!foreign).then_some(Lack::Answer)
}

/// Whether one of the members for answers has something in it.
fn holds(value: &Value, name: &str) -> bool {
    let Some(held) = value.get(name) else {
        return false;
    };
    match (name, held) {
        ("choices", Value::Array(choices)) => choices.iter().any(is_choice),
        ("choices", _) => false,
        // A message that has ended without a word.
        ("content", Value::Array(parts)) if parts.is_empty() => {
            value.get("stop_reason").is_some_and(Value::is_string)
        }
        // In the background: the answer is fetched later.
        ("output", Value::Array(items)) if items.is_empty() => {
            let status = value.get("status").and_then(Value::as_str);
            matches!(status, Some("queued" | "in_progress" | "incomplete"))
        }
        // As text it is the message of an error.
        ("message", held) => held.is_object() && !is_blank(held),
        // What wraps an answer is looked into.
        ("data" | "body", Value::Object(_)) => false,
        (_, Value::Array(items)) => items.iter().any(|item| !item.is_null()),
        (_, held) => !is_blank(held),
    }
}

/// Gateways wrap answers, with a code beside them that says success.
fn wrapped(path: ApiPath, value: &Value) -> bool {
    ["data", "body"].iter().any(|name| {
        let inner = value.get(name).filter(|inner| inner.is_object());
        inner.is_some_and(|inner| lack(path, inner).is_none())
    })
}

fn choices(value: &Value) -> impl Iterator<Item = &Value> {
    let choices = value.get("choices").and_then(Value::as_array);
    choices.into_iter().flatten()
}

/// Chat, legacy completions, a chunk that was not asked for; and what a filter left nothing of.
fn is_choice(choice: &Value) -> bool {
    ["message", "text", "delta"]
        .iter()
        .any(|name| choice.get(name).is_some_and(|held| !held.is_null()))
        || choice.get("finish_reason").and_then(Value::as_str) == Some("content_filter")
}

fn choice_failed(choice: &Value) -> bool {
    choice.get("error").is_some_and(|error| !is_blank(error))
        || choice.get("finish_reason").and_then(Value::as_str) == Some("error")
}

/// What is a failure whatever else stands there.
fn has_failed(path: ApiPath, value: &Value) -> bool {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let is_response = path == ApiPath::Responses || text("object") == Some("response");
    text("type") == Some("error")
        || text("object") == Some("error")
        || is_response && matches!(text("status"), Some("failed" | "cancelled"))
}

/// MiniMax's status, on any of its paths.
fn vendor_failed(value: &Value) -> bool {
    let code = value.pointer("/base_resp/status_code");
    code.and_then(Value::as_i64).is_some_and(|code| code != 0)
}

/// What is a failure unless an answer stands beside it.
fn says_error(value: &Value) -> bool {
    let failed = |name: &str| value.get(name).is_some_and(|error| !is_blank(error));
    let is_error_status = |status: &Value| match status {
        Value::String(status) => {
            let words = ["error", "failed", "failure", "fail"];
            words.iter().any(|word| status.eq_ignore_ascii_case(word))
        }
        Value::Number(status) => status
            .as_u64()
            .is_some_and(|code| (400..=599).contains(&code)),
        _ => false,
    };
    ["error", "errors", "error_code", "error_msg"]
        .into_iter()
        .any(failed)
        || value.get("success") == Some(&Value::Bool(false))
        || ["status", "code", "status_code", "statusCode"]
            .iter()
            .any(|name| value.get(name).is_some_and(is_error_status))
}

/// An object that says nothing but that something failed. A number called `error`, or one beside results, may
/// be an answer of an API that nobody here knows.
fn is_only_error(value: &Value) -> bool {
    let Value::Object(fields) = value.get(0).unwrap_or(value) else {
        return false;
    };
    let Some(error) = fields.get("error").filter(|error| !is_blank(error)) else {
        return false;
    };
    let mut others = fields.iter().filter(|(name, _)| *name != "error");
    match error {
        Value::Object(error) => {
            let tells = ["message", "code", "type", "status"];
            tells.iter().any(|name| error.contains_key(*name))
                && others
                    .all(|(_, other)| !other.is_object() && !other.is_array() || is_blank(other))
        }
        Value::String(_) => others.all(|(_, other)| is_blank(other)),
        _ => false,
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests;
