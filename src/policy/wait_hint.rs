//! How long a server asks to wait, in all the forms servers use. Pure.
//!
//! Collected from OpenAI, Azure, Anthropic, Gemini, Groq, Mistral and OpenRouter: `retry-after`
//! and `retry-after-ms`, `x-should-retry`, quota headers with their resets, sentences in error
//! bodies, and `google.rpc.RetryInfo`. Where several disagree, the longest plausible one wins.
//! Called for every response; a success costs a look at each header's name, and no allocation.

mod body;
mod header;
mod span;

use std::time::Duration;

use header::{Field, Header, Reset};

/// Longer waits are taken for mistakes. Azure does ask for a full day (86400 seconds).
pub const MAX_PLAUSIBLE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a response says about waiting and quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitHint {
    /// How long the endpoint's quota group should rest; above 0, at most [`MAX_PLAUSIBLE`].
    pub wait: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
    /// The request quota.
    pub requests: Quota,
    /// The token quota.
    pub tokens: Quota,
    /// The prompt token quota (Anthropic).
    pub input_tokens: Quota,
    /// The completion token quota (Anthropic).
    pub output_tokens: Quota,
}

/// One quota, as far as the response's headers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// Its size. Servers send 0 and -1 for "unknown".
    pub limit: Option<u64>,
    /// What is left of it.
    pub remaining: Option<u64>,
    /// Time until it is replenished.
    pub reset: Option<Duration>,
}

impl Quota {
    /// Nothing is left, and the server means it: where the limit is 0 too, both are unknown.
    pub fn exhausted(&self) -> bool {
        self.remaining == Some(0) && self.limit != Some(0)
    }
}

/// Reads a response. Header names may be in any case; `body` counts only if the status is one
/// that waiting can cure; `unix_now_ms` is the wall clock in milliseconds since 1970, for
/// headers that give a moment. Ours may be wrong: where the response says by its `date` what the
/// server's clock shows, the shorter plausible wait counts.
pub fn parse<'a>(
    status: u16,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8]), IntoIter: Clone>,
    body: &[u8],
    unix_now_ms: i64,
) -> WaitHint {
    let headers = headers.into_iter();
    let mut hint = WaitHint::default();
    // Looked for when a moment has been met, which is rare.
    let clocks = |headers| Clocks {
        ours_ms: unix_now_ms,
        servers_ms: header::sent_at(headers),
    };
    // The longest wait asked for, in seconds.
    let mut wait = None;
    let mut azure_reset = None;
    for (name, value) in headers.clone() {
        let Some(header) = Header::named(name) else {
            continue;
        };
        let Ok(value) = str::from_utf8(value).map(str::trim) else {
            continue;
        };
        match header {
            Header::RetryAfterMs if status >= 400 => {
                wait = longer(wait, span::number(value).map(|ms| ms / 1000.0));
            }
            Header::RetryAfter if status >= 400 => {
                let seconds = span::seconds(value)
                    .or_else(|| clocks(headers.clone()).until(header::date(value)?));
                wait = longer(wait, seconds);
            }
            Header::RetryAfterMs | Header::RetryAfter => {}
            Header::ShouldRetry => hint.should_retry = header::boolean(value),
            Header::AzureReset => azure_reset = plausible(span::seconds(value)),
            Header::Quota(kind, field) => {
                let quota = hint.quota(kind);
                match field {
                    Field::Limit => quota.limit = value.parse().ok(),
                    Field::Remaining => quota.remaining = value.parse().ok(),
                    Field::Reset => {
                        let seconds = match header::reset(value) {
                            Some(Reset::In(seconds)) => Some(seconds),
                            Some(Reset::At(moment_ms)) => clocks(headers.clone()).until(moment_ms),
                            None => None,
                        };
                        quota.reset = plausible(seconds);
                    }
                }
            }
        }
    }
    hint.tokens.reset = hint.tokens.reset.max(azure_reset);
    for quota in [
        hint.requests,
        hint.tokens,
        hint.input_tokens,
        hint.output_tokens,
    ] {
        if quota.exhausted() {
            wait = longer(wait, quota.reset.map(|reset| reset.as_secs_f64()));
        }
    }
    if status == 429 && hint.tokens.remaining.is_none() {
        // Azure's 429s may carry nothing but this one.
        wait = longer(wait, azure_reset.map(|reset| reset.as_secs_f64()));
    }
    if body_counts(status) {
        for seconds in body::waits(body) {
            wait = longer(wait, Some(seconds));
        }
    }
    hint.wait = plausible(wait);
    hint
}

/// What time it is.
struct Clocks {
    ours_ms: i64,
    servers_ms: Option<f64>,
}

impl Clocks {
    /// Seconds until a moment, given in milliseconds since 1970: the shorter of those that are
    /// plausible. A stale `date` and a wrong clock of ours both show as a wait that is longer or past.
    fn until(&self, moment_ms: f64) -> Option<f64> {
        let seconds = |now_ms: f64| (moment_ms - now_ms) / 1000.0;
        let by_ours = longer(None, Some(seconds(self.ours_ms as f64)));
        let by_servers = longer(None, self.servers_ms.map(seconds));
        match (by_ours, by_servers) {
            (Some(ours), Some(servers)) => Some(ours.min(servers)),
            (ours, servers) => ours.or(servers),
        }
    }
}

impl WaitHint {
    fn quota(&mut self, kind: header::Kind) -> &mut Quota {
        match kind {
            header::Kind::Requests => &mut self.requests,
            header::Kind::Tokens => &mut self.tokens,
            header::Kind::InputTokens => &mut self.input_tokens,
            header::Kind::OutputTokens => &mut self.output_tokens,
        }
    }
}

/// A 400 may quote the user's own "try again in 5 minutes"; these statuses speak for the server.
fn body_counts(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 498 | 499) || status >= 500
}

/// The longer of two waits, in seconds. An implausible one never wins: 0 and -1 mean "unknown".
fn longer(wait: Option<f64>, other: Option<f64>) -> Option<f64> {
    let other = other.filter(|seconds| *seconds > 0.0 && *seconds <= MAX_PLAUSIBLE.as_secs_f64());
    match (wait, other) {
        (Some(wait), Some(other)) => Some(wait.max(other)),
        (wait, other) => wait.or(other),
    }
}

fn plausible(seconds: Option<f64>) -> Option<Duration> {
    longer(None, seconds).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests;
