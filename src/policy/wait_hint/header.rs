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
    /// `RateLimit`, a list of quotas (draft-ietf-httpapi-ratelimit-headers, from revision 7 on).
    RateLimit,
    /// One figure of one quota.
    Quota(Family, Kind, Field),
}

/// Who counts a quota, and over which period: headers that belong together have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The prefix of its names, as an index into [`PREFIXES`].
    prefix: u8,
    /// Times that its names have come before in the same answer.
    occurrence: u8,
    /// FNV-1a of the words that tell it from others with the same prefix.
    scope: u32,
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

/// What the names of a family begin with, and what they count where they do not say.
const PREFIXES: [(&str, Kind); 8] = [
    // OpenAI, Azure, Groq: x-ratelimit-remaining-tokens; OpenRouter and many gateways: x-ratelimit-remaining.
    ("x-ratelimit-", Kind::Requests),
    ("anthropic-ratelimit-", Kind::Requests),
    // The draft up to revision 6, and gateways that follow it.
    ("ratelimit-", Kind::Requests),
    // Mistral, whose "size" is tokens.
    ("ratelimitbysize-", Kind::Tokens),
    ("x-rate-limit-", Kind::Requests),
    // Together, beside x-ratelimit-*.
    ("x-tokenlimit-", Kind::Tokens),
    // LiteLLM, which passes the provider's headers on under this name beside its own.
    ("llm_provider-x-ratelimit-", Kind::Requests),
    ("llm_provider-anthropic-ratelimit-", Kind::Requests),
];

/// Where the lists of [`Header::RateLimit`] belong, behind the prefixes.
const LIST: u8 = PREFIXES.len() as u8;

/// Words in names that tell quotas of one prefix apart. A name with any other word says nothing: a quota of
/// images is none of ours.
const SCOPES: [&str; 24] = [
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "min",
    "sec",
    "1s",
    "1m",
    "1h",
    "1d",
    "key",
    "api_key",
    "model_per_key",
    "model",
    "user",
    "team",
    "org",
    "organization",
    "project",
    "account",
    "global",
    "ip",
];

impl Header {
    /// The header called `name`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        // Most headers of a response end here.
        if !matches!(
            name.as_bytes().first()?.to_ascii_lowercase(),
            b'r' | b'x' | b'a' | b'l'
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
        } else if is("ratelimit") {
            Some(Self::RateLimit)
        } else {
            let (rest, counted, prefix) =
                PREFIXES.iter().zip(0..).find_map(|(prefix, index)| {
                    Some((without_prefix(name, prefix.0)?, prefix.1, index))
                })?;
            quota(rest, counted, prefix)
        }
    }
}

/// The words of a name behind its prefix: one field, what it counts, and scopes, in any order.
fn quota(rest: &str, counted: Kind, prefix: u8) -> Option<Header> {
    let (mut field, mut kind, mut sort) = (None, None, None);
    let mut scope = FNV_START;
    for word in rest.split('-') {
        let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
        if let Some(named) = Field::named(word) {
            if field.replace(named).is_some() {
                return None;
            }
        } else if is(&["requests", "req"]) {
            kind = Some(Kind::Requests);
        } else if is(&["tokens"]) {
            kind = Some(Kind::Tokens);
        } else if is(&["input", "prompt"]) {
            sort = Some(Kind::InputTokens);
        } else if is(&["output", "generated"]) {
            sort = Some(Kind::OutputTokens);
        } else if is(&SCOPES) {
            scope = fnv(scope, word);
        } else {
            return None;
        }
    }
    // A name that does not say what it counts is another family's than those that do.
    if kind.is_some() {
        scope = fnv(scope, "kind");
    }
    let family = Family {
        prefix,
        occurrence: 0,
        scope,
    };
    let kind = match (kind, sort) {
        (Some(Kind::Tokens), Some(sort)) => sort,
        (_, Some(_)) => return None,
        (kind, None) => kind.unwrap_or(counted),
    };
    Some(Header::Quota(family, kind, field?))
}

impl Family {
    /// The one of Azure's misspelt header, which completes those of OpenAI's spelling.
    pub fn openai() -> Self {
        Self {
            prefix: 0,
            occurrence: 0,
            scope: fnv(FNV_START, "kind"),
        }
    }

    /// The one of an item of a [`Header::RateLimit`] list.
    pub fn of_policy(name: &str) -> Self {
        Self {
            prefix: LIST,
            occurrence: 0,
            scope: fnv(FNV_START, name),
        }
    }

    /// The one that names its quotas alike and comes next in the answer.
    pub fn next(self) -> Self {
        Self {
            occurrence: self.occurrence.saturating_add(1),
            ..self
        }
    }

    /// Their names have one prefix.
    pub fn is_kin(self, other: Self) -> bool {
        self.prefix == other.prefix
    }
}

const FNV_START: u32 = 0x811c_9dc5;

/// FNV-1a over the letters of a word in lower case.
fn fnv(hash: u32, word: &str) -> u32 {
    const PRIME: u32 = 0x0100_0193;
    let bytes = word.bytes().map(|byte| byte.to_ascii_lowercase());
    bytes.fold(hash, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(PRIME)
    })
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

/// The items of a `RateLimit` list, each with the name of its policy, what is left and the seconds until its
/// reset: `"default";r=0;t=2`, and of revision 7 `limit=10, remaining=0, reset=2`, which is one item.
pub fn rate_limit_list(value: &str) -> Vec<(&str, Option<u64>, Option<f64>)> {
    let mut items: Vec<(&str, Option<u64>, Option<f64>)> = Vec::new();
    for item in value.split(',') {
        let mut parameters = item.split(';').map(str::trim);
        let first = parameters.next().unwrap_or_default();
        let Some((name, value)) = first.split_once('=') else {
            let mut found = (first.trim_matches('"'), None, None);
            for (name, value) in parameters.filter_map(|parameter| parameter.split_once('=')) {
                match name.trim() {
                    "r" => found.1 = value.trim().parse().ok(),
                    "t" => found.2 = span::number(value.trim()),
                    _ => {}
                }
            }
            items.push(found);
            continue;
        };
        if items.is_empty() {
            items.push(("", None, None));
        }
        let Some(last) = items.last_mut() else {
            continue;
        };
        match name.trim() {
            "remaining" => last.1 = value.trim().parse().ok(),
            "reset" => last.2 = span::number(value.trim()),
            _ => {}
        }
    }
    items
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
