//! What comes of a call. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::error::ErrorKind;
use crate::metrics::tokens::Tokens;
use crate::provider::text::{answer_text, delta_text};

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The server's JSON; of a stream, what the same request would have returned without streaming.
    pub response: Value,
    /// The endpoint that answered: its name, else its URL without credentials or query.
    pub endpoint: String,
    /// HTTP status.
    pub status: u16,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// The last attempt, from sending to the last byte.
    pub latency: Duration,
    /// Of a stream: the last attempt, from sending to the first token.
    pub ttft: Option<Duration>,
    /// The server's own name for the request.
    pub request_id: Option<String>,
    /// Tokens billed, as far as the answer says.
    pub tokens: Tokens,
    /// US dollars for them, if the model has a price in the configuration.
    pub cost_usd: Option<f64>,
}

impl Completion {
    /// The text of the first choice; `None` for tool calls and other answers without text.
    pub fn text(&self) -> Option<&str> {
        answer_text(&self.response)
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The kind, as in failure records.
    pub kind: ErrorKind,
    /// For people; holds no secrets.
    pub message: String,
    /// HTTP status of the last attempt, if it got that far.
    pub status: Option<u16>,
    /// Attempts made.
    pub attempts: u32,
    /// The endpoint of the last attempt.
    pub endpoint: Option<String>,
    /// The server's body, cut at 16 KiB, invalid UTF-8 replaced.
    pub response_text: Option<String>,
}

impl CallError {
    /// An error of a call that no server answered.
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            status: None,
            attempts: 0,
            endpoint: None,
            response_text: None,
        }
    }
}

/// One event of a stream; the whole answer, where one came instead of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The event's JSON as the server sent it.
    pub event: Value,
}

impl Delta {
    /// The text that the event adds to the first choice.
    pub fn text(&self) -> Option<&str> {
        delta_text(&self.event)
    }
}
