//! Waits asked for in the body of an error response: sentences and `google.rpc.RetryInfo`. Pure.

use memchr::memmem;
use serde_json::Value;

use super::span;

/// An error body is searched up to this many bytes; real ones have a few hundred.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// What precedes a span in an error text, in lower case.
const ANCHORS: [&str; 4] = ["retry after", "retry in", "try again in", "try again after"];

/// Every wait the body asks for, in seconds, plausible or not.
pub fn waits(body: &[u8]) -> Vec<f64> {
    let mut waits = Vec::new();
    let head = &body[..body.len().min(BODY_BYTES_MAX)];
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    for anchor in ANCHORS {
        for start in memmem::find_iter(text.as_bytes(), anchor) {
            let after = text[start + anchor.len()..].trim_start_matches([' ', ':']);
            waits.extend(span::leading(after).map(|(seconds, _)| seconds));
        }
    }
    if body.len() <= BODY_BYTES_MAX && memmem::find(body, b"retryDelay").is_some() {
        // Bounded: by the size above, and serde_json refuses nesting deeper than 128.
        if let Ok(value) = serde_json::from_slice(body) {
            retry_delays(&value, &mut waits);
        }
    }
    waits
}

/// Collects the delays of every `google.rpc.RetryInfo`, wherever it hangs: Gemini's own API and
/// its OpenAI-compatible one wrap the error differently.
fn retry_delays(value: &Value, waits: &mut Vec<f64>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| retry_delays(item, waits)),
        Value::Object(fields) => {
            let kind = fields.get("@type").and_then(Value::as_str);
            if kind.is_some_and(|kind| kind.ends_with("google.rpc.RetryInfo")) {
                let delay = fields.get("retryDelay").and_then(Value::as_str);
                waits.extend(delay.and_then(span::seconds));
            }
            fields.values().for_each(|field| retry_delays(field, waits));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
