//! Verdicts: what an answer that is no success means for its line and for its endpoint. Pure.
//!
//! | status | kind | retried | effect on the endpoint |
//! |---|---|---|---|
//! | 2xx, body not JSON | `not_json` | yes | transient |
//! | 3xx | `redirect` | no | refuses its path |
//! | 401, a 400 that means a bad key | `auth` | yes | refuses its key |
//! | 402, a 4xx that means "no money" | `quota_exhausted` | no | exhausted |
//! | 403 | `auth` | no | refuses this request |
//! | 400, 403 or 404 of a model or deployment | `not_found` (403: `auth`) | no | refuses this model |
//! | 404 of a file, an earlier response, … | `not_found` | no | none |
//! | other 404 | `not_found` | no | refuses its path |
//! | 405 | `bad_request` | no | refuses its path |
//! | 408 | `timeout` | yes | transient |
//! | 409, 425 | `bad_request` | yes | none |
//! | 429 about this request alone (larger than the limit) | `rate_limited` | no | none |
//! | other 429 | `rate_limited` | yes | rate-limited |
//! | 503, 529 | `server_error` | yes | rate-limited |
//! | 498, 499, other 5xx | `server_error` | yes | transient |
//! | other 4xx | `bad_request` | no | none |
//! | anything else | `protocol` | yes | transient |
//!
//! 408 is the server's word for "took too long" and so a `timeout`; 499 is a proxy's word for a
//! client that left, which we did not: its upstream failed, hence `server_error`.
//! `x-should-retry` beats the "retried" column, except where an endpoint refuses.
//!
//! What a refusal means for its line and its endpoint depends on what else the endpoint has answered:
//! [`policy::refusal`](crate::policy::refusal). Codes decide; a text counts only where a provider has no
//! code, and only at the start of its own message, because messages quote requests.

use super::answer::{Answer, one_line};
use super::assemble::StreamError;
use super::endpoint::{Endpoint, shown};
use super::no_answer::NoAnswer;
use crate::error::ErrorKind;

/// Messages stand in records, logs and displays: enough for a sentence, not for a page.
const MESSAGE_BYTES_MAX: usize = 512;

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For the record, should this be the line's last attempt.
    pub kind: ErrorKind,
    /// Whether the same endpoint may be sent the line again.
    pub retry: bool,
    /// What the endpoint's standing suffers.
    pub effect: Effect,
    /// The words that the verdict rests on, in lower case, where no code tells. Where the request says
    /// them, too, the answer may only quote it.
    pub hearsay: Option<&'static str>,
    /// One line of at most 512 bytes without control characters or the endpoint's secrets, such
    /// as `HTTP 429: Rate limit exceeded`.
    pub message: String,
}

impl Verdict {
    /// A failure that may pass, and counts towards the endpoint's streak.
    pub fn transient(kind: ErrorKind, message: String) -> Self {
        Self {
            kind,
            retry: true,
            effect: Effect::Transient,
            hearsay: None,
            message,
        }
    }
}

/// What an answer does to its endpoint's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: the line's own fault.
    None,
    /// Counts towards the streak of failures that cools the endpoint.
    Transient,
    /// Refused for load: nothing was done for the line, and nothing is known about it.
    RateLimited,
    /// The endpoint refuses: lines of some kind, or all, may not succeed here.
    Refused {
        /// What it refuses.
        what: Refusal,
        /// The verdict's message.
        reason: String,
    },
    /// No money or no quota today: no line can succeed here.
    Exhausted {
        /// The verdict's message.
        reason: String,
    },
}

/// What an endpoint refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The way in which it is spoken to, such as plain HTTP to a TLS port: every line would meet that.
    Transport,
    /// Its key (401): every line would meet that.
    Key,
    /// Perhaps its key, perhaps this request alone (403).
    Request,
    /// The path, for every line (404, 405, redirects).
    Path,
    /// The request's model or deployment.
    Model,
}

/// [`Effect`] before the message is known.
#[derive(Clone, Copy)]
pub(super) enum Cause {
    Line,
    Transient,
    RateLimited,
    Refused(Refusal),
    Exhausted,
}

impl Endpoint {
    /// What an answer other than a 2xx with JSON means; the table above.
    pub fn classify<'h>(
        &self,
        status: u16,
        headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
        body: &[u8],
    ) -> Verdict {
        let answer = Answer::parse(body);
        let asked = should_retry(headers.clone());
        let (kind, mut retry, cause) = decide(status, &answer, asked);
        if let (Some(asked), false) = (asked, matches!(cause, Cause::Refused(_))) {
            retry = asked;
        }
        let hearsay = answer.hearsay(cause, status);
        let text = match kind {
            ErrorKind::Redirect => self.redirect_text(headers),
            ErrorKind::NotJson => Some(match &answer.message {
                Some(excerpt) => format!("the body is not JSON: {excerpt}"),
                None if body.is_empty() => "the body is empty".to_owned(),
                None => "the body is not JSON".to_owned(),
            }),
            _ => answer.message,
        };
        let text = text.or_else(|| reason_phrase(status).map(str::to_owned));
        let text = match text {
            Some(text) => format!("HTTP {status}: {text}"),
            None => format!("HTTP {status}"),
        };
        Verdict {
            hearsay,
            ..self.verdict(kind, retry, cause, &text)
        }
    }

    /// What a broken stream means, whose head had this status, a 2xx.
    pub fn classify_stream(&self, status: u16, error: &StreamError) -> NoAnswer {
        if let Some(said) = &error.said {
            return self.classify_event(said, &error.message);
        }
        let (retry, cause) = match error.kind {
            ErrorKind::RateLimited => (true, Cause::RateLimited),
            ErrorKind::QuotaExhausted => (false, Cause::Exhausted),
            ErrorKind::Auth => (true, Cause::Refused(Refusal::Key)),
            ErrorKind::BadRequest | ErrorKind::NotFound | ErrorKind::TooLarge => {
                (false, Cause::Line)
            }
            _ => (true, Cause::Transient),
        };
        NoAnswer {
            status,
            verdict: self.verdict(error.kind, retry, cause, &error.message),
            is_error: false,
        }
    }

    /// `text` as logs and records may show it: what a server sent may stand in it. Like
    /// [`Verdict::message`].
    pub fn message(&self, text: &str) -> String {
        // Secrets go first: a cut through one would leave its beginning standing.
        one_line(&self.redact(text), MESSAGE_BYTES_MAX)
    }

    pub(super) fn verdict(
        &self,
        kind: ErrorKind,
        retry: bool,
        cause: Cause,
        text: &str,
    ) -> Verdict {
        let message = self.message(text);
        let reason = message.clone();
        let effect = match cause {
            Cause::Line => Effect::None,
            Cause::Transient => Effect::Transient,
            Cause::RateLimited => Effect::RateLimited,
            Cause::Refused(what) => Effect::Refused { what, reason },
            Cause::Exhausted => Effect::Exhausted { reason },
        };
        Verdict {
            kind,
            retry,
            effect,
            hearsay: None,
            message,
        }
    }

    /// Names the target without what a URL may hide in user name or query.
    fn redirect_text<'h>(
        &self,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    ) -> Option<String> {
        let location = find(headers, "location")?;
        let target = shown(
            self.url
                .join(std::str::from_utf8(location).ok()?.trim())
                .ok()?,
        );
        Some(format!(
            "redirects are not followed; the server points to {target}"
        ))
    }
}

pub(super) fn decide(
    status: u16,
    answer: &Answer,
    asked: Option<bool>,
) -> (ErrorKind, bool, Cause) {
    // A server that says "retry" does not mean "no money", whatever its code.
    let is_exhausted = answer.means_exhausted() && asked != Some(true);
    let refuses = |kind, what| (kind, matches!(what, Refusal::Key), Cause::Refused(what));
    match status {
        200..=299 => (ErrorKind::NotJson, true, Cause::Transient),
        300..=399 => refuses(ErrorKind::Redirect, Refusal::Path),
        402 => (ErrorKind::QuotaExhausted, false, Cause::Exhausted),
        400 | 403 | 429 if is_exhausted => (ErrorKind::QuotaExhausted, false, Cause::Exhausted),
        401 => refuses(ErrorKind::Auth, Refusal::Key),
        400 if answer.means_bad_key() => refuses(ErrorKind::Auth, Refusal::Key),
        400 | 404 if answer.means_unknown_model(status) => {
            refuses(ErrorKind::NotFound, Refusal::Model)
        }
        403 if answer.means_unknown_model(status) => refuses(ErrorKind::Auth, Refusal::Model),
        403 => refuses(ErrorKind::Auth, Refusal::Request),
        404 if answer.means_missing_object() => (ErrorKind::NotFound, false, Cause::Line),
        404 => refuses(ErrorKind::NotFound, Refusal::Path),
        405 => refuses(ErrorKind::BadRequest, Refusal::Path),
        408 => (ErrorKind::Timeout, true, Cause::Transient),
        409 | 425 => (ErrorKind::BadRequest, true, Cause::Line),
        429 if answer.means_request_too_large() => (ErrorKind::RateLimited, false, Cause::Line),
        429 => (ErrorKind::RateLimited, true, Cause::RateLimited),
        503 | 529 => (ErrorKind::ServerError, true, Cause::RateLimited),
        498..=599 => (ErrorKind::ServerError, true, Cause::Transient),
        400..=497 => (ErrorKind::BadRequest, false, Cause::Line),
        _ => (ErrorKind::Protocol, true, Cause::Transient),
    }
}

/// The server's own word, as OpenAI's SDKs read it.
pub(super) fn should_retry<'h>(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Option<bool> {
    match find(headers, "x-should-retry")?.trim_ascii() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

fn find<'h>(
    mut headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    wanted: &str,
) -> Option<&'h [u8]> {
    headers
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value)
}

/// The registered phrase (RFC 9110), or the name of a well-known oddity.
fn reason_phrase(status: u16) -> Option<&'static str> {
    match status {
        498 => Some("Capacity Exceeded"),
        499 => Some("Client Closed Request"),
        529 => Some("Overloaded"),
        _ => http::StatusCode::from_u16(status).ok()?.canonical_reason(),
    }
}

#[cfg(test)]
mod tests;
