//! Streams: server-sent events become the JSON that the same request would have returned without
//! streaming. Pure.
//!
//! One machine per API: `choices` for chat and legacy completions, `responses`, `messages`.
//! Values that no machine must understand pass as written, numbers included.

mod choices;
mod merge;
mod messages;
mod responses;

use std::borrow::Cow;
use std::time::Instant;

use serde::de::IgnoredAny;
use serde_json::Value;

use self::choices::Choices;
use self::merge::{Budget, Fields, is_blank};
use self::messages::Message;
use self::responses::Response;
use super::ApiPath;
use super::answer::Answer;
use super::usage::usage_of;
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
}

impl StreamError {
    fn protocol(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Protocol,
            message: message.into(),
        }
    }

    /// The server's own error, in any shape.
    fn of_server(data: &str) -> Self {
        let answer = serde_json::from_str::<Value>(data).map_or_else(
            |_| Answer::parse(data.as_bytes()),
            |value| Answer::of(&value),
        );
        let text = answer.message.as_deref().unwrap_or("no message");
        Self {
            kind: answer.kind(),
            message: format!("error in the stream: {text}"),
        }
    }
}

/// One event's data, parsed as far as every machine needs it.
struct Event<'a> {
    /// The event's name; empty if it has none.
    name: &'a str,
    fields: Fields<'a>,
}

/// What an event meant to its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// It held output of the model.
    token: bool,
    /// It was the last one.
    done: bool,
}

/// Assembles one stream; bounded by `bytes_max` of kept output.
#[derive(Debug)]
pub struct StreamAssembler {
    machine: Machine,
    budget: Budget,
    first_token_at: Option<Instant>,
    done: bool,
}

#[derive(Debug)]
enum Machine {
    /// The first event decides (an API path that is not known).
    Undecided,
    Choices(Choices),
    Response(Response),
    Message(Message),
}

impl StreamAssembler {
    /// A machine for a stream of `path`, which keeps at most `bytes_max` bytes of output.
    pub fn new(path: ApiPath, bytes_max: usize) -> Self {
        let machine = match path {
            ApiPath::ChatCompletions => Machine::Choices(Choices::chat()),
            ApiPath::Completions => Machine::Choices(Choices::completions()),
            ApiPath::Responses => Machine::Response(Response::default()),
            ApiPath::Messages => Machine::Message(Message::default()),
            ApiPath::Embeddings | ApiPath::Other => Machine::Undecided,
        };
        Self {
            machine,
            budget: Budget::new(bytes_max),
            first_token_at: None,
            done: false,
        }
    }

    /// Takes one event: its name (empty if it has none) and data, received at `now`. What comes
    /// after the end is ignored.
    ///
    /// # Errors
    /// An error event, data that is not a JSON object, or more output than the cap. The stream is
    /// then lost.
    pub fn feed(&mut self, event: &str, data: &str, now: Instant) -> Result<(), StreamError> {
        let data = data.trim();
        if self.done || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            // Only streams of choices end like this; a proxy may add it to others.
            self.done = matches!(self.machine, Machine::Choices(_) | Machine::Undecided);
            return Ok(());
        }
        let data = on_one_line(data)?;
        if event == "error" {
            return Err(StreamError::of_server(&data));
        }
        let fields: Fields<'_> = serde_json::from_str(&data).map_err(|error| {
            StreamError::protocol(format!(
                "an event of the stream is not a JSON object: {error}"
            ))
        })?;
        let is_error = fields.text("type") == Some("error");
        if is_error || fields.get("error").is_some_and(|error| !is_blank(error)) {
            return Err(StreamError::of_server(&data));
        }
        let event = Event {
            name: event,
            fields,
        };
        if let Machine::Undecided = self.machine {
            self.machine = Machine::for_first(&event);
        }
        let progress = match &mut self.machine {
            Machine::Undecided => Progress::default(),
            Machine::Choices(choices) => choices.feed(&event, &mut self.budget)?,
            Machine::Response(response) => response.feed(&event, &data, &mut self.budget)?,
            Machine::Message(message) => message.feed(&event, &mut self.budget)?,
        };
        if progress.token && self.first_token_at.is_none() {
            self.first_token_at = Some(now);
        }
        self.done |= progress.done;
        Ok(())
    }

    /// When the first output of the model came.
    pub fn first_token_at(&self) -> Option<Instant> {
        self.first_token_at
    }

    /// Whether the stream has said that it is complete.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The response as JSON on one line.
    ///
    /// # Errors
    /// The stream ended before it said that it was complete, or it held nothing.
    pub fn finish(self) -> Result<Vec<u8>, StreamError> {
        match self.cut_short() {
            Some(error) => Err(error),
            None => self.machine.finish(),
        }
    }

    /// What is wrong if the stream ends here: it has not said that it is complete.
    pub fn cut_short(&self) -> Option<StreamError> {
        let end = match self.machine {
            _ if self.done => return None,
            Machine::Response(_) => "response.completed",
            Machine::Message(_) => "message_stop",
            Machine::Choices(_) | Machine::Undecided => "[DONE]",
        };
        Some(StreamError::protocol(format!(
            "the stream ended before {end}"
        )))
    }

    /// The tokens that a stream which ended too early said it had used: Anthropic tells those of
    /// the prompt first, and bills them.
    pub fn usage_so_far(self) -> Option<Tokens> {
        usage_of(&self.machine.finish().ok()?)
    }
}

impl Machine {
    /// The response so far.
    fn finish(self) -> Result<Vec<u8>, StreamError> {
        match self {
            Machine::Choices(choices) => choices.finish(),
            Machine::Response(response) => response.finish(),
            Machine::Message(message) => message.finish(),
            Machine::Undecided => Err(StreamError::protocol("the stream held no event")),
        }
    }

    /// By the names that each API gives its events.
    fn for_first(event: &Event<'_>) -> Self {
        let kind = event.fields.text("type").unwrap_or(event.name);
        if kind.starts_with("response.") {
            Self::Response(Response::default())
        } else if kind == "message_start" || kind == "ping" {
            Self::Message(Message::default())
        } else if event.fields.text("object") == Some("text_completion") {
            Self::Choices(Choices::completions())
        } else {
            Self::Choices(Choices::chat())
        }
    }
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

#[cfg(test)]
mod tests;
