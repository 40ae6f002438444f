//! Streams: server-sent events become the JSON that the same request would have returned without
//! streaming. Pure.
//!
//! One machine per API: `choices` for chat and legacy completions, `responses`, `messages`. The first
//! event that is one of an API's tells which it is; the path only helps where that leaves it open.
//! Values that no machine must understand pass as written, numbers included.

mod choices;
mod fields;
mod list;
mod merge;
mod messages;
mod responses;

use std::borrow::Cow;
use std::time::Instant;

use serde::de::IgnoredAny;

use self::choices::Choices;
use self::fields::{Budget, Fields};
use self::messages::Message;
use self::responses::Response;
use super::ApiPath;
use super::answer::Answer;
use super::usage::usage_of;
use super::verdict::decide;
use crate::error::ErrorKind;
use crate::metrics::tokens::Tokens;

/// Why a stream gave no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    /// `protocol` for a stream that ended early or is none, `too_large` beyond the cap, else what
    /// the server's error event says.
    pub kind: ErrorKind,
    /// For people; a server's text is in it unchecked ([`super::Endpoint::classify_stream`] cleans it).
    pub message: String,
    /// What the server said instead of an answer, as it wrote it: an error object, or the head of a
    /// response without a choice.
    pub said: Option<String>,
}

impl StreamError {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            said: None,
        }
    }

    fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    /// The server's own error, in any shape.
    fn of_server(data: &str) -> Self {
        let answer = Answer::parse(data.as_bytes());
        let text = answer.message.as_deref().unwrap_or("no message");
        Self {
            said: Some(data.to_owned()),
            ..Self::new(
                decide(answer.status_meant(), &answer, None).0,
                format!("error in the stream: {text}"),
            )
        }
    }
}

/// One event's data, parsed as far as every machine needs it.
struct Event<'a> {
    /// The event's name; empty if it has none.
    name: &'a str,
    fields: Fields<'a>,
}

impl Event<'_> {
    /// What it is, as its data says; else its name.
    fn kind(&self) -> &str {
        self.fields.word("type").unwrap_or(self.name)
    }
}

/// What an event meant to its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// It is one of the API's.
    taken: bool,
    /// It held output of the model.
    token: bool,
    /// It was the last one.
    done: bool,
}

/// Assembles one stream; bounded by `bytes_max` of kept output.
#[derive(Debug)]
pub struct StreamAssembler {
    path: ApiPath,
    /// `None` before the first event that is one of an API's.
    machine: Option<Machine>,
    budget: Budget,
    first_token_at: Option<Instant>,
    done: bool,
}

#[derive(Debug)]
enum Machine {
    Choices(Choices),
    Response(Response),
    Message(Message),
}

impl StreamAssembler {
    /// For the answer to a request to `path`; keeps at most `bytes_max` bytes of output.
    pub fn new(path: ApiPath, bytes_max: usize) -> Self {
        Self {
            path,
            machine: None,
            budget: Budget::new(bytes_max),
            first_token_at: None,
            done: false,
        }
    }

    /// Takes one event: its name (empty or `message` if it has none) and data, received at `now`.
    /// Whether it was a part of the answer: named events that are none leave nothing, and what comes
    /// after the end is ignored.
    ///
    /// # Errors
    /// An error event, data that is not a JSON object, or more output than the cap. The stream is
    /// then lost.
    pub fn feed(&mut self, event: &str, data: &str, now: Instant) -> Result<bool, StreamError> {
        let data = data.trim();
        let name = if event == "message" { "" } else { event };
        if self.done || name != "error" && data.is_empty() {
            return Ok(false);
        }
        if is_end_mark(data) {
            // Only streams of choices end like this; a proxy may add it to others.
            self.done = matches!(self.machine, Some(Machine::Choices(_)) | None);
            return Ok(false);
        }
        if name == "error" {
            return Err(StreamError::of_server(data));
        }
        if !data.starts_with('{') && (data == "null" || !is_of_an_api(name)) {
            return Ok(false);
        }
        self.feed_object(name, &on_one_line(data)?, now)
    }

    /// Takes a line that is no field of an event: some servers write an error, or every chunk, as a
    /// bare JSON object. What is none of these is nothing.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn feed_bare(&mut self, line: &str, now: Instant) -> Result<bool, StreamError> {
        let fields = Fields::parse(line.trim());
        let known = ["choices", "error", "type", "object"];
        match known.into_iter().any(|name| fields.filled(name).is_some()) {
            true => self.feed("", line, now),
            false => Ok(false),
        }
    }

    fn feed_object(&mut self, name: &str, data: &str, now: Instant) -> Result<bool, StreamError> {
        let fields: Fields<'_> = serde_json::from_str(data).map_err(|error| {
            StreamError::protocol(format!(
                "an event of the stream is not a JSON object: {error}"
            ))
        })?;
        let event = Event { name, fields };
        let is_error = |name| event.fields.text(name) == Some("error");
        let error = event.fields.filled("error");
        if is_error("type") || is_error("object") || error.is_some_and(|it| it.get() != "false") {
            return Err(StreamError::of_server(data));
        }
        if self.machine.is_none() {
            self.machine = Machine::for_first(&event, self.path);
        }
        let progress = match &mut self.machine {
            None => Progress::default(),
            Some(Machine::Choices(choices)) => choices.feed(&event, &mut self.budget)?,
            Some(Machine::Response(response)) => response.feed(&event, data, &mut self.budget)?,
            Some(Machine::Message(message)) => message.feed(&event, &mut self.budget)?,
        };
        if progress.token && self.first_token_at.is_none() {
            self.first_token_at = Some(now);
        }
        self.done |= progress.done;
        Ok(progress.taken)
    }

    /// When the first output of the model came.
    pub fn first_token_at(&self) -> Option<Instant> {
        self.first_token_at
    }

    /// Whether the stream has said that it is complete.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The response as JSON on one line; the body has ended in order.
    ///
    /// # Errors
    /// The stream ended before it said that it was complete, or it held nothing.
    pub fn finish(self) -> Result<Vec<u8>, StreamError> {
        match self.cut_short() {
            Some(error) => Err(error),
            None => self.into_response(),
        }
    }

    /// What is wrong if the stream ends here: it has not said that it is complete, and some of it has
    /// no reason why it ended.
    pub fn cut_short(&self) -> Option<StreamError> {
        let (end, is_whole) = match &self.machine {
            _ if self.done => return None,
            Some(Machine::Response(_)) => ("response.completed", false),
            Some(Machine::Message(message)) => ("message_stop", message.is_whole()),
            Some(Machine::Choices(choices)) => ("[DONE]", choices.is_whole()),
            None => match self.path {
                ApiPath::Responses => ("response.completed", false),
                ApiPath::Messages => ("message_stop", false),
                _ => ("[DONE]", false),
            },
        };
        let said = match &self.machine {
            Some(Machine::Choices(choices)) => choices.said(),
            _ => None,
        };
        (!is_whole).then(|| StreamError {
            said,
            ..StreamError::protocol(format!("the stream ended before {end}"))
        })
    }

    /// The tokens that a stream which ended too early said it had used: Anthropic tells those of
    /// the prompt first, and bills them.
    pub fn usage_so_far(self) -> Option<Tokens> {
        usage_of(&self.into_response().ok()?)
    }

    /// The response so far.
    fn into_response(self) -> Result<Vec<u8>, StreamError> {
        match self.machine {
            Some(Machine::Choices(choices)) => choices.finish(),
            Some(Machine::Response(response)) => response.finish(),
            Some(Machine::Message(message)) => message.finish(),
            None => Err(StreamError::protocol("the stream held no event")),
        }
    }
}

impl Machine {
    /// By the names that each API gives its events; `None` for an event of no API.
    fn for_first(event: &Event<'_>, path: ApiPath) -> Option<Self> {
        let kind = event.kind();
        let choices = || {
            let is_text = event.fields.text("object") == Some("text_completion");
            Self::Choices(Choices::new(!is_text && path != ApiPath::Completions))
        };
        if event.fields.get("choices").is_some() {
            Some(choices())
        } else if kind.starts_with("response.") {
            Some(Self::Response(Response::default()))
        } else if kind.starts_with("message_") || kind.starts_with("content_block_") {
            Some(Self::Message(Message::default()))
        } else if matches!(path, ApiPath::Responses | ApiPath::Messages) {
            None
        } else {
            Choices::is_chunk(event).then(choices)
        }
    }
}

/// Whether events of this name are some API's: those that are not may hold anything, a time for example.
fn is_of_an_api(name: &str) -> bool {
    name.is_empty()
        || ["response.", "message_", "content_block_"]
            .into_iter()
            .any(|start| name.starts_with(start))
}

/// How streams of choices end.
fn is_end_mark(data: &str) -> bool {
    let data = data.strip_prefix('"').unwrap_or(data);
    data.starts_with("[DONE]")
}

/// Data of several lines with spaces in place of its line breaks: in valid JSON they can stand
/// only between values.
fn on_one_line(data: &str) -> Result<Cow<'_, str>, StreamError> {
    if !data.contains(['\n', '\r']) {
        return Ok(Cow::Borrowed(data));
    }
    serde_json::from_str::<IgnoredAny>(data).map_err(|error| {
        StreamError::protocol(format!("an event of the stream is not JSON: {error}"))
    })?;
    Ok(Cow::Owned(data.replace(['\n', '\r'], " ")))
}

/// Hands out `data`, or each of its lines if they are events by themselves: some servers forget the blank
/// line between them.
pub fn each_event(data: &str, mut take: impl FnMut(&str)) {
    let is_one = |line: &str| {
        let line = line.trim();
        line.is_empty() || is_end_mark(line) || serde_json::from_str::<Fields<'_>>(line).is_ok()
    };
    match data.contains('\n') && data.lines().all(is_one) {
        true => data.lines().for_each(take),
        false => take(data),
    }
}

#[cfg(test)]
mod tests;
