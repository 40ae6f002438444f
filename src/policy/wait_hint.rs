//! How long a server asks to wait, in all the forms servers use. Pure.
//!
//! Collected from OpenAI, Azure, Anthropic, Gemini, Groq, Mistral, OpenRouter, Hugging Face and the gateways
//! before them: `retry-after` and `retry-after-ms`, `x-should-retry`, quota headers with their resets,
//! sentences and fields in error bodies, and `google.rpc.RetryInfo`. Where several disagree, the longest
//! plausible one wins. Called for every response with such headers; no allocation but for error bodies.

mod body;
mod family;
mod header;
mod span;

use std::time::Duration;

use family::{Figure, Quotas};
use header::{Family, Field, Header, Kind, Reset};

/// Longer waits are taken for mistakes. Azure does ask for a full day (86400 seconds).
pub const MAX_PLAUSIBLE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a response says about waiting and quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitHint {
    /// How long the endpoint's quota group should rest; above 0, at most [`MAX_PLAUSIBLE`].
    pub wait: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
    /// The request quota; like those below, the tightest of those that count it.
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
    let clocks = Clocks {
        ours_ms: unix_now_ms,
        // Looked for when a moment has been met, which is rare.
        servers_ms: || header::sent_at(headers.clone()),
    };
    let mut reader = Reader {
        status,
        clocks: &clocks,
        wait: None,
        azure_reset: None,
        should_retry: None,
        quotas: Quotas::default(),
    };
    for (name, value) in headers.clone() {
        reader.header(name, value);
    }
    if body_counts(status) {
        reader.body(body);
    }
    reader.finish()
}

/// Collects what one response says.
struct Reader<'c, C> {
    status: u16,
    clocks: &'c Clocks<C>,
    /// The longest wait asked for, in seconds.
    wait: Option<f64>,
    azure_reset: Option<Duration>,
    should_retry: Option<bool>,
    quotas: Quotas,
}

impl<C: Fn() -> Option<f64>> Reader<'_, C> {
    fn header(&mut self, name: &str, value: &[u8]) {
        let Some(header) = Header::named(name) else {
            return;
        };
        let Ok(value) = str::from_utf8(value).map(str::trim) else {
            return;
        };
        match header {
            Header::RetryAfterMs if self.status >= 400 => {
                self.longer(span::number(value).map(|ms| ms / 1000.0));
            }
            Header::RetryAfter if self.status >= 400 => self.longer(self.clocks.wait(value)),
            Header::RetryAfterMs | Header::RetryAfter => {}
            Header::ShouldRetry => self.should_retry = header::boolean(value),
            Header::AzureReset => self.azure_reset = plausible(span::seconds(value)),
            Header::RateLimit => {
                for (policy, remaining, reset) in header::rate_limit_list(value) {
                    let family = Family::of_policy(policy);
                    let mut take = |figure| self.quotas.take(family, Kind::Requests, figure);
                    take(Figure::Remaining(remaining));
                    take(Figure::Reset(plausible(reset)));
                }
            }
            Header::Quota(family, kind, field) => {
                for value in self.values(field, value) {
                    let count = || value.parse().ok();
                    let reset = || plausible(self.clocks.wait(value));
                    let figure = Figure::read(field, count, reset);
                    self.quotas.take(family, kind, figure);
                }
            }
        }
    }

    /// The values of a field: several are one header of each of several families, put together on the way,
    /// but a date holds a comma, and a limit may be followed by its policies (`10, 10;w=1, 50;w=60`).
    fn values<'v>(
        &self,
        field: Field,
        value: &'v str,
    ) -> impl Iterator<Item = &'v str> + use<'v, C> {
        let whole = field == Field::Reset && self.clocks.wait(value).is_some();
        let separator = if whole { '\n' } else { ',' };
        let values = value.split(separator).map(str::trim);
        values.filter(|value| !value.contains(';'))
    }

    fn body(&mut self, body: &[u8]) {
        let found = body::Waits::read(body);
        for seconds in found.seconds {
            self.longer(Some(seconds));
        }
        for moment_ms in found.moments_ms {
            self.longer(self.clocks.until(moment_ms));
        }
        for text in found.texts {
            self.longer(self.clocks.wait(&text));
        }
        for (name, value) in found.headers {
            self.header(&name, value.as_bytes());
        }
    }

    fn longer(&mut self, seconds: Option<f64>) {
        self.wait = longer(self.wait, seconds);
    }

    fn finish(mut self) -> WaitHint {
        if let Some(reset) = self.azure_reset {
            self.quotas
                .take(Family::openai(), Kind::Tokens, Figure::Reset(Some(reset)));
        }
        let exhausted = self.quotas.wait();
        self.longer(exhausted.map(|reset| reset.as_secs_f64()));
        let mut tokens = self.quotas.tightest(Kind::Tokens);
        // The misspelt header is of the same quota as OpenAI's spelling, and may be later.
        tokens.reset = tokens.reset.max(self.azure_reset);
        let azure_alone = self.status == 429 && tokens.remaining.is_none();
        if azure_alone || tokens.exhausted() {
            // Azure's 429s may carry nothing but this one.
            self.longer(self.azure_reset.map(|reset| reset.as_secs_f64()));
        }
        WaitHint {
            wait: plausible(self.wait),
            should_retry: self.should_retry,
            requests: self.quotas.tightest(Kind::Requests),
            tokens,
            input_tokens: self.quotas.tightest(Kind::InputTokens),
            output_tokens: self.quotas.tightest(Kind::OutputTokens),
        }
    }
}

/// What time it is.
struct Clocks<C> {
    ours_ms: i64,
    /// The server's, in milliseconds since 1970.
    servers_ms: C,
}

impl<C: Fn() -> Option<f64>> Clocks<C> {
    /// Seconds that a value asks for: a span, an HTTP date, or any form of [`header::reset`].
    fn wait(&self, value: &str) -> Option<f64> {
        match header::reset(value) {
            Some(Reset::In(seconds)) => Some(seconds),
            Some(Reset::At(moment_ms)) => self.until(moment_ms),
            None => self.until(header::date(value)?),
        }
    }

    /// Seconds until a moment, given in milliseconds since 1970: the shorter of those that are
    /// plausible. A stale `date` and a wrong clock of ours both show as a wait that is longer or past.
    fn until(&self, moment_ms: f64) -> Option<f64> {
        let seconds = |now_ms: f64| (moment_ms - now_ms) / 1000.0;
        let by_ours = longer(None, Some(seconds(self.ours_ms as f64)));
        let by_servers = longer(None, (self.servers_ms)().map(seconds));
        match (by_ours, by_servers) {
            (Some(ours), Some(servers)) => Some(ours.min(servers)),
            (ours, servers) => ours.or(servers),
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
