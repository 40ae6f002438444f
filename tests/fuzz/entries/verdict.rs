//! Answers of servers, judged.

use blaze_uring::config::{EndpointConfig, ProviderKind};
use blaze_uring::policy::wait_hint::{self, MAX_PLAUSIBLE};
use blaze_uring::provider::{Effect, Endpoint, usage_of};
use serde_json::Value;

/// The endpoint's key, with what JSON may escape. In an input `KEY` stands for it.
const SECRET: &str = "sk-very/secret+01";
/// Longest message of a verdict.
const MESSAGE_BYTES_MAX: usize = 512;

/// An answer's head and body → verdict, wait and usage: bounded, on one line, without the key. Byte
/// 0: provider; bytes 1 and 2: status. Then header lines, a blank line, and the body.
pub fn verdict(data: &[u8]) {
    let [provider, high, low, data @ ..] = data else {
        return;
    };
    let status = 100 + u16::from_be_bytes([*high, *low]) % 900;
    let data = with_secret(data);
    let (head, body) = match memchr::memmem::find(&data, b"\n\n") {
        Some(end) => (&data[..end], &data[end + 2..]),
        None => (&data[..0], &data[..]),
    };
    let headers = head.split(|&byte| byte == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, line[colon + 1..].trim_ascii()))
    });
    assert_wait(status, headers.clone(), body);
    let tokens = usage_of(body);
    assert_eq!(tokens, usage_of(body));

    let endpoint = endpoint(*provider);
    let verdict = endpoint.classify(status, headers, body);
    let reason = match &verdict.effect {
        Effect::Refused { reason, .. } | Effect::Exhausted { reason } => reason.as_str(),
        Effect::None | Effect::Transient | Effect::RateLimited => "",
    };
    for text in [&*verdict.message, reason] {
        assert!(text.len() <= MESSAGE_BYTES_MAX, "{} bytes", text.len());
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(!verdict.message.is_empty());
    assert_redacted(&endpoint, body);
}

fn assert_wait<'h>(
    status: u16,
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    body: &[u8],
) {
    const NOW_MS: i64 = 1_780_000_000_000;
    let hint = wait_hint::parse(status, headers.clone(), body, NOW_MS);
    let quotas = [
        hint.requests,
        hint.tokens,
        hint.input_tokens,
        hint.output_tokens,
    ];
    for wait in quotas
        .iter()
        .map(|quota| quota.reset)
        .chain([hint.wait])
        .flatten()
    {
        assert!(!wait.is_zero() && wait <= MAX_PLAUSIBLE, "{wait:?}");
    }
    // One more hint never shortens the wait.
    let more = headers.chain([("retry-after", &b"7"[..])]);
    let longer = wait_hint::parse(status, more, body, NOW_MS).wait;
    assert!(longer >= hint.wait, "{:?} {longer:?}", hint.wait);
}

/// Neither as it is nor behind JSON's escapes.
fn assert_redacted(endpoint: &Endpoint, body: &[u8]) {
    let shown = endpoint.redact_body(body);
    assert!(memchr::memmem::find(&shown, SECRET.as_bytes()).is_none());
    if serde_json::from_slice::<Value>(body).is_ok() {
        let value: Value = serde_json::from_slice(&shown).expect("it stays JSON");
        assert!(!holds_secret(&value), "{value}");
    }
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(SECRET),
        Value::Array(values) => values.iter().any(holds_secret),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains(SECRET) || holds_secret(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn with_secret(data: &[u8]) -> Vec<u8> {
    let mut rest = data;
    let mut whole = Vec::with_capacity(data.len());
    while let Some(at) = memchr::memmem::find(rest, b"KEY") {
        whole.extend_from_slice(&rest[..at]);
        whole.extend_from_slice(SECRET.as_bytes());
        rest = &rest[at + 3..];
    }
    whole.extend_from_slice(rest);
    whole
}

fn endpoint(provider: u8) -> Endpoint {
    let kinds = [
        ProviderKind::OpenAi,
        ProviderKind::Azure,
        ProviderKind::Anthropic,
    ];
    let config = EndpointConfig {
        name: Some("e".to_owned()),
        url: "https://h.example/v1".to_owned(),
        provider: Some(kinds[usize::from(provider) % kinds.len()]),
        api_key: Some(SECRET.into()),
        model: Some("m".to_owned()),
        ..EndpointConfig::default()
    };
    Endpoint::resolve(&config).expect("a valid endpoint")
}
