//! What an answer means: a body to keep, or a verdict. Wait hints are read on the way. Shared by
//! lines and single calls; pure but for the wall clock that dated headers need.

use std::borrow::Cow;
use std::time::Instant;

use crate::batch::stream::StreamReply;
use crate::error::ErrorKind;
use crate::http::{Headers, Response};
use crate::policy::wait_hint::{self, WaitHint};
use crate::provider::{Endpoint, Verdict};

/// An answer, judged.
pub struct Judged<'a> {
    /// The server's own name for the request.
    pub request_id: Option<&'a str>,
    /// What it says about waiting, also where it succeeded.
    pub hint: WaitHint,
    /// What it holds, or why the attempt failed.
    pub outcome: Result<Answer<'a>, Verdict>,
}

/// A successful answer; whether it is JSON is for the reader to find out ([`not_json`]).
pub struct Answer<'a> {
    /// The body, or the JSON that a stream was put together to.
    pub body: Cow<'a, [u8]>,
    /// When the first token of a stream came.
    pub first_token_at: Option<Instant>,
}

/// Judges the answer that `endpoint` gave; `reply` is what was received, `stream` the assembler
/// that has seen its body, if the request asked for a stream.
pub fn judge<'a>(
    endpoint: &Endpoint,
    response: &Response,
    reply: &'a [u8],
    stream: Option<Box<StreamReply>>,
    unix_now_ms: i64,
) -> Judged<'a> {
    let body = &reply[response.body.clone()];
    let headers = Headers::new(&reply[response.head.clone()]);
    let request_id = response
        .signals
        .has_request_id()
        .then(|| headers.get("x-request-id").or(headers.get("request-id")))
        .flatten()
        .and_then(|value| std::str::from_utf8(value).ok());
    let hint = if response.signals.has_wait_hint() || response.status >= 400 {
        wait_hint::parse(response.status, headers.iter(), body, unix_now_ms)
    } else {
        WaitHint::default()
    };
    let outcome = if !(200..300).contains(&response.status) {
        Err(endpoint.classify(response.status, headers.iter(), body))
    } else if response.signals.content_encoded() {
        Err(Verdict::transient(
            ErrorKind::Protocol,
            "the server compressed its answer although nothing asked for it".to_owned(),
        ))
    } else {
        match stream.filter(|_| response.signals.event_stream()) {
            None => Ok(Answer {
                body: Cow::Borrowed(body),
                first_token_at: None,
            }),
            Some(stream) => stream
                .finish()
                .map(|assembled| Answer {
                    body: Cow::Owned(assembled.body),
                    first_token_at: assembled.first_token_at,
                })
                .map_err(|message| Verdict::transient(ErrorKind::Protocol, message)),
        }
    };
    Judged {
        request_id,
        hint,
        outcome,
    }
}

/// The verdict on a success whose body is not JSON for the reason `why`.
pub fn not_json(status: u16, why: impl std::fmt::Display) -> Verdict {
    Verdict::transient(
        ErrorKind::NotJson,
        format!("HTTP {status}: the answer is not JSON: {why}"),
    )
}
