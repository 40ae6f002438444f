//! The names and values of headers that tell about waiting and quotas. Pure.

use std::time::UNIX_EPOCH;

use super::span;

/// A header this module reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// `retry-after-ms` (OpenAI, Azure).
    RetryAfterMs,
    /// `retry-after` (RFC 9110, section 10.2.3).
    RetryAfter,
    /// `x-should-retry` (OpenAI, Anthropic).
    ShouldRetry,
    /// `x-rate-limit-reset-tokens`, misspelt so by Azure.
    AzureReset,
    /// One figure of one quota.
    Quota(Kind, Field),
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Tokens of either sort.
    Tokens,
    /// Prompt tokens.
    InputTokens,
    /// Completion tokens.
    OutputTokens,
}

/// A figure of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Its size.
    Limit,
    /// What is left.
    Remaining,
    /// When it is replenished.
    Reset,
}

impl Header {
    /// The header called `name`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        // Most headers of a response end here.
        if !matches!(
            name.as_bytes().first()?,
            b'r' | b'R' | b'x' | b'X' | b'a' | b'A'
        ) {
            return None;
        }
        let is = |other| name.eq_ignore_ascii_case(other);
        if is("retry-after") {
            Some(Self::RetryAfter)
        } else if is("retry-after-ms") {
            Some(Self::RetryAfterMs)
        } else if is("x-should-retry") {
            Some(Self::ShouldRetry)
        } else if is("x-rate-limit-reset-tokens") {
            Some(Self::AzureReset)
        } else if let Some(rest) = without_prefix(name, "x-ratelimit-") {
            // OpenAI, Azure, Groq: x-ratelimit-remaining-tokens; OpenRouter: x-ratelimit-remaining.
            let (field, kind) = rest.split_once('-').unwrap_or((rest, "requests"));
            Some(Self::Quota(Kind::named(kind)?, Field::named(field)?))
        } else if let Some(rest) = without_prefix(name, "anthropic-ratelimit-") {
            // anthropic-ratelimit-input-tokens-remaining
            let (kind, field) = rest.rsplit_once('-')?;
            Some(Self::Quota(Kind::named(kind)?, Field::named(field)?))
        } else if let Some(field) = without_prefix(name, "ratelimit-") {
            // IETF draft ratelimit-headers-06, and gateways that follow it.
            Some(Self::Quota(Kind::Requests, Field::named(field)?))
        } else if let Some(field) = without_prefix(name, "ratelimitbysize-") {
            // Mistral, whose "size" is tokens.
            Some(Self::Quota(Kind::Tokens, Field::named(field)?))
        } else {
            None
        }
    }
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        let kinds = [
            ("requests", Self::Requests),
            ("tokens", Self::Tokens),
            // Mistral and Cerebras, beside quotas of a day or a month, which are not read: a name has
            // room for one quota, and the shorter ones are met first.
            ("req-minute", Self::Requests),
            ("requests-minute", Self::Requests),
            ("tokens-minute", Self::Tokens),
            ("input-tokens", Self::InputTokens),
            ("output-tokens", Self::OutputTokens),
        ];
        let found = kinds
            .into_iter()
            .find(|(kind, _)| name.eq_ignore_ascii_case(kind));
        found.map(|(_, kind)| kind)
    }
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        let fields = [
            ("limit", Self::Limit),
            ("remaining", Self::Remaining),
            ("reset", Self::Reset),
        ];
        let found = fields
            .into_iter()
            .find(|(field, _)| name.eq_ignore_ascii_case(field));
        found.map(|(_, field)| field)
    }
}

/// `true` or `false`; anything else says nothing.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        _ if value.eq_ignore_ascii_case("true") => Some(true),
        _ if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// An HTTP date, in milliseconds since 1970.
pub fn date(value: &str) -> Option<f64> {
    let since_1970 = httpdate::parse_http_date(value)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    Some(since_1970.as_secs_f64() * 1000.0)
}

/// The server's clock when it answered, in milliseconds since 1970, to the second.
pub fn sent_at<'a>(mut headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<f64> {
    let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    date(str::from_utf8(value).ok()?.trim())
}

/// When a quota is replenished.
pub enum Reset {
    /// In so many seconds.
    In(f64),
    /// At this moment, in milliseconds since 1970.
    At(f64),
}

/// A Go duration (OpenAI), seconds (Azure, Mistral), RFC 3339 (Anthropic), or seconds or milliseconds
/// since 1970 (OpenRouter).
pub fn reset(value: &str) -> Option<Reset> {
    Some(match span::seconds(value) {
        // In seconds 1e9 is the year 2001, as a duration 31 years; in milliseconds 1e12 is 2001.
        Some(ms) if ms >= 1e12 => Reset::At(ms),
        Some(seconds) if seconds >= 1e9 => Reset::At(seconds * 1000.0),
        Some(seconds) => Reset::In(seconds),
        None => {
            let timestamp: jiff::Timestamp = value.parse().ok()?;
            Reset::At(timestamp.as_millisecond() as f64)
        }
    })
}

fn without_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
