//! A call as a line: what the caller wants, in the form that the engine sends. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::outcome::CallError;
use crate::batch::line::Parsed;
use crate::error::ErrorKind;
use crate::policy::refusal::Marks;
use crate::policy::refusals::LineRefusals;
use crate::provider::cost::estimate_tokens;

/// The messages of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct Messages(Value);

impl From<&str> for Messages {
    /// One message of the user.
    fn from(text: &str) -> Self {
        Self(json!([{"role": "user", "content": text}]))
    }
}

impl From<String> for Messages {
    /// One message of the user.
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Value> for Messages {
    /// An array of messages as the API wants them; one message; or the text of one.
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self::from(text),
            Value::Object(message) => Self(Value::Array(vec![Value::Object(message)])),
            value => Self(value),
        }
    }
}

impl From<Vec<Value>> for Messages {
    /// Messages as the API wants them.
    fn from(messages: Vec<Value>) -> Self {
        Self(Value::Array(messages))
    }
}

impl<R: Into<String>, C: Into<String>, const N: usize> From<[(R, C); N]> for Messages {
    /// Pairs of role and content.
    fn from(messages: [(R, C); N]) -> Self {
        let message = |(role, content): (R, C)| {
            let (role, content): (String, String) = (role.into(), content.into());
            json!({"role": role, "content": content})
        };
        Self(messages.into_iter().map(message).collect())
    }
}

/// What one call wants otherwise than the configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallOptions {
    /// The model; an endpoint with `override_model` still has its own.
    pub model: Option<String>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Bounds the completion, under the name that each endpoint's API has for it.
    pub max_completion_tokens: Option<u64>,
    /// One attempt, connect to last byte; `None`: the configured one.
    pub timeout: Option<Duration>,
    /// The whole call: waiting, all attempts. `None`: only the configuration's bounds.
    pub give_up_after: Option<Duration>,
    /// Attempts, the first included; `None`: the configured number.
    pub max_attempts: Option<u32>,
    /// Added to the request; one of the same name replaces the endpoint's.
    pub headers: BTreeMap<String, String>,
    /// Further fields of the body (`tools`, `seed`, `response_format` …).
    pub body: Map<String, Value>,
    /// The API path, such as `/v1/chat/completions`; `None`: the endpoint's.
    pub path: Option<String>,
}

/// A call on its way through the engine.
#[derive(Debug)]
pub(super) struct Call {
    /// Its place among the open calls.
    pub id: u64,
    /// The line it is sent as.
    pub line: Vec<u8>,
    /// What was read from `line`.
    pub parsed: Parsed,
    /// In the place of the endpoint's limit.
    pub max_tokens: Option<u64>,
    /// What a `tpm_limit` is charged until the answer says better.
    pub tokens_estimated: u64,
    /// One attempt, if not the configured time.
    pub timeout: Option<Duration>,
    /// Attempts allowed, if not the configured number.
    pub max_attempts: Option<u32>,
    /// When the whole call is given up.
    pub give_up_at: Option<Instant>,
    /// Events are handed out as they arrive.
    pub streams: bool,
    /// Attempts made.
    pub attempts: u32,
    /// How often it was refused for load.
    pub refusals: LineRefusals,
    /// The endpoint that failed last, to be avoided.
    pub avoid: Option<usize>,
    /// Why an earlier answer could not be read; 0: none was unreadable.
    pub unreadable: u16,
    /// What it has met.
    pub marks: Marks,
    /// What the last attempt ended in.
    pub last_error: Option<CallError>,
}

impl Call {
    /// The call that `messages` and `options` make, at `now`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: it cannot be sent as it is.
    pub fn new(
        id: u64,
        messages: Messages,
        options: &CallOptions,
        stream: bool,
        now: Instant,
    ) -> Result<Self, CallError> {
        let CallOptions {
            model,
            temperature,
            max_completion_tokens,
            timeout,
            give_up_after,
            max_attempts,
            headers,
            body,
            path,
        } = options;
        let invalid = |message: &str| Err(CallError::new(ErrorKind::InvalidInput, message));
        let Messages(messages) = messages;
        if messages.as_array().is_none_or(Vec::is_empty) {
            return invalid("messages must be an array with at least one message");
        }
        if temperature.is_some_and(|temperature| !temperature.is_finite()) {
            return invalid("temperature must be a finite number");
        }
        if *max_attempts == Some(0) {
            return invalid("max_attempts must be at least 1");
        }
        let mut body = body.clone();
        body.insert("messages".to_owned(), messages);
        if let Some(model) = model {
            body.insert("model".to_owned(), Value::from(model.as_str()));
        }
        if let Some(temperature) = temperature {
            body.insert("temperature".to_owned(), Value::from(*temperature));
        }
        if stream {
            body.insert("stream".to_owned(), Value::Bool(true));
        }
        let mut line = Map::new();
        line.insert("body".to_owned(), Value::Object(body));
        if !headers.is_empty() {
            line.insert("headers".to_owned(), json!(headers));
        }
        if let Some(path) = path {
            line.insert("url".to_owned(), Value::from(path.as_str()));
        }
        let line = Value::Object(line).to_string().into_bytes();
        let mut parsed = Parsed::default();
        parsed
            .parse(&line)
            .map_err(|error| CallError::new(ErrorKind::InvalidInput, error.message))?;
        let completion = max_completion_tokens.or_else(|| parsed.completion_tokens_max(&line));
        Ok(Self {
            id,
            tokens_estimated: estimate_tokens(parsed.body_bytes(), completion),
            streams: parsed.stream(),
            parsed,
            line,
            max_tokens: *max_completion_tokens,
            timeout: *timeout,
            max_attempts: *max_attempts,
            // An instant beyond what the clock can hold is never.
            give_up_at: give_up_after.and_then(|after| now.checked_add(after)),
            attempts: 0,
            refusals: LineRefusals::default(),
            avoid: None,
            unreadable: 0,
            marks: Marks::default(),
            last_error: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(messages: impl Into<Messages>, options: &CallOptions) -> Result<Value, CallError> {
        let call = Call::new(1, messages.into(), options, false, crate::runtime::now())?;
        Ok(serde_json::from_slice(&call.line).expect("a line is JSON"))
    }

    #[test]
    fn messages_come_in_many_forms() {
        let user = json!([{"role": "user", "content": "hi"}]);
        for messages in [
            Messages::from("hi"),
            Messages::from("hi".to_owned()),
            Messages::from(json!("hi")),
            Messages::from(user[0].clone()),
            Messages::from(user.clone()),
            Messages::from(vec![user[0].clone()]),
            Messages::from([("user", "hi")]),
        ] {
            assert_eq!(messages, Messages(user.clone()));
        }
    }

    #[test]
    fn options_become_fields_of_the_line() {
        let options = CallOptions {
            model: Some("m".to_owned()),
            temperature: Some(0.5),
            headers: BTreeMap::from([("x-team".to_owned(), "search".to_owned())]),
            body: Map::from_iter([("metadata".to_owned(), json!({"a": 1}))]),
            path: Some("/v1/chat/completions".to_owned()),
            ..CallOptions::default()
        };
        let expect = json!({
            "body": {
                "messages": [{"role": "user", "content": "hi"}],
                "model": "m", "temperature": 0.5, "metadata": {"a": 1},
            },
            "headers": {"x-team": "search"},
            "url": "/v1/chat/completions",
        });
        assert_eq!(line("hi", &options), Ok(expect));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_at_once() {
        let check = |messages: Value, options: CallOptions, expect: &str| {
            let error = line(messages, &options).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput);
            assert!(error.message.contains(expect), "{}", error.message);
        };
        check(json!([]), CallOptions::default(), "at least one message");
        check(json!(7), CallOptions::default(), "at least one message");
        let hot = CallOptions {
            temperature: Some(f64::NAN),
            ..CallOptions::default()
        };
        check(json!("hi"), hot, "temperature");
        let never = CallOptions {
            max_attempts: Some(0),
            ..CallOptions::default()
        };
        check(json!("hi"), never, "max_attempts");
        let split = CallOptions {
            headers: BTreeMap::from([("x".to_owned(), "a\r\nb: c".to_owned())]),
            ..CallOptions::default()
        };
        check(json!("hi"), split, "header");
    }
}
