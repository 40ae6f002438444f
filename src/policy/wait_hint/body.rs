//! Waits asked for in the body of an error response: sentences, fields, headers that are told in it, and
//! `google.rpc.RetryInfo`. Pure.

use memchr::memmem;
use serde_json::{Map, Value};

use super::span;

/// An error body is searched up to this many bytes; real ones have a few hundred.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// What precedes a span in an error text, in lower case.
const ANCHORS: [&str; 19] = [
    "retry after",
    "retry in",
    "retry your request after",
    "retry your request in",
    "retry the request after",
    "retry the request in",
    "again in",
    "again after",
    "wait",
    "wait for",
    "waiting",
    "resets in",
    "resets after",
    "reset in",
    "reset after",
    "available in",
    "available after",
    "retry-after",
    "retry_after",
];

/// What precedes a moment, in lower case.
const MOMENT_ANCHORS: [&str; 6] = [
    "resets at",
    "reset at",
    "again at",
    "retry at",
    "available at",
    "again after",
];

/// Words that may stand between an anchor and its span.
const FILLERS: [&str; 8] = [
    "about ",
    "approximately ",
    "around ",
    "roughly ",
    "at least ",
    "another ",
    "up to ",
    "~",
];

/// Everything in a body that asks for a wait, plausible or not.
#[derive(Default)]
pub struct Waits {
    /// Spans, in seconds.
    pub seconds: Vec<f64>,
    /// Moments, in milliseconds since 1970.
    pub moments_ms: Vec<f64>,
    /// Values of fields that hold a wait in any form that a header may have.
    pub texts: Vec<String>,
    /// Headers of somebody behind the server that answered.
    pub headers: Vec<(String, String)>,
}

impl Waits {
    /// Searches the first [`BODY_BYTES_MAX`] of a body; its fields only if that is all of it.
    pub fn read(body: &[u8]) -> Self {
        let mut waits = Self::default();
        let head = &body[..body.len().min(BODY_BYTES_MAX)];
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        waits.sentences(&text);
        let fields = ["retry", "estimated", "headers", "wait"];
        let has = |name: &str| memmem::find(text.as_bytes(), name.as_bytes()).is_some();
        if body.len() <= BODY_BYTES_MAX && fields.into_iter().any(has) {
            // Bounded: by the size above, and serde_json refuses nesting deeper than 128.
            if let Ok(value) = serde_json::from_slice(body.trim_ascii()) {
                waits.walk(&value);
            }
        }
        waits
    }

    fn sentences(&mut self, text: &str) {
        for (anchor, after) in behind(text, &ANCHORS) {
            // The words of a field's name stand before a colon or quote, those of a sentence before a span.
            let after = after.trim_start_matches([' ', ':', '=']);
            let filler = FILLERS
                .into_iter()
                .find_map(|filler| after.strip_prefix(filler));
            let found = span::leading(filler.unwrap_or(after));
            // "wait 3" says nothing about what of; the others need no unit.
            let bare_wait = anchor.starts_with("wait")
                && found.is_some_and(|(_, rest)| {
                    let start = filler.unwrap_or(after);
                    let read = &start[..start.len() - rest.len()];
                    read.bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'.')
                });
            self.seconds
                .extend(found.filter(|_| !bare_wait).map(|(seconds, _)| seconds));
        }
        for (_, after) in behind(text, &MOMENT_ANCHORS) {
            self.moments_ms
                .extend(moment(after.trim_start_matches([' ', ':'])));
        }
    }

    /// Collects from a JSON body, wherever it hangs: APIs and the gateways before them wrap errors
    /// differently.
    fn walk(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(fields) => self.object(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) {
        let kind = fields.get("@type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind.ends_with("google.rpc.RetryInfo")) {
            let delay = fields.get("retryDelay").and_then(Value::as_str);
            self.seconds.extend(delay.and_then(span::seconds));
        }
        for (name, value) in fields {
            let mut name = name.replace(['_', '-'], "");
            name.make_ascii_lowercase();
            match (name.as_str(), value) {
                (
                    "retryafter" | "retryafterseconds" | "retryaftersecs" | "retryaftersec"
                    | "retryin" | "retryinseconds" | "estimatedtime" | "waitseconds" | "waittime",
                    value,
                ) => self.texts.extend(scalar(value)),
                (
                    "retryafterms"
                    | "retryaftermillis"
                    | "retryaftermilliseconds"
                    | "retryinms"
                    | "waitms",
                    value,
                ) => {
                    let ms = scalar(value).and_then(|text| span::number(&text));
                    self.seconds.extend(ms.map(|ms| ms / 1000.0));
                }
                ("headers", Value::Object(headers)) => {
                    let told = headers
                        .iter()
                        .filter_map(|(name, value)| Some((name.clone(), scalar(value)?)));
                    self.headers.extend(told);
                }
                (_, value) => self.walk(value),
            }
        }
    }
}

/// The text of a number or a string, or of a list's only element.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) if items.len() == 1 => scalar(&items[0]),
        _ => None,
    }
}

/// What follows each occurrence of each anchor.
fn behind<'t, 'a>(
    text: &'t str,
    anchors: &'a [&'static str],
) -> impl Iterator<Item = (&'static str, &'t str)> + use<'t, 'a> {
    anchors.iter().flat_map(move |anchor| {
        memmem::find_iter(text.as_bytes(), anchor)
            .map(|start| (*anchor, &text[start + anchor.len()..]))
            .collect::<Vec<_>>()
    })
}

/// The moment at the start of a text in lower case, in milliseconds since 1970: RFC 3339, also with a space
/// for its `t`, and UTC where it names no zone.
fn moment(text: &str) -> Option<f64> {
    /// `2026-11-05t12:00:00`.
    const SECONDS_END: usize = 19;
    let (seconds, rest) = text.split_at_checked(SECONDS_END)?;
    let (date, time) = (seconds.get(..10)?, seconds.get(11..)?);
    let fraction = rest.strip_prefix('.').map_or(0, |digits| {
        1 + digits.bytes().take_while(u8::is_ascii_digit).count()
    });
    let (fraction, zone) = rest.split_at(fraction);
    let zone = match zone.get(..6) {
        Some(offset) if offset.starts_with(['+', '-']) => offset,
        _ => "Z",
    };
    let timestamp: jiff::Timestamp = format!("{date}T{time}{fraction}{zone}").parse().ok()?;
    Some(timestamp.as_millisecond() as f64)
}
