//! Input lines.

use blaze_uring::batch::line::{Parsed, Shape};
use blaze_uring::batch::record::{self, Failure, RecordFormat, Success};
use blaze_uring::config::body_rules::{BodyRules, InputShape};
use blaze_uring::error::ErrorKind;
use blaze_uring::journal::Outcome;
use blaze_uring::json;

use super::members::{Members, assert_same_verdict};

/// An input line → request body and records. A line is JSON if serde_json says so; the body has the
/// user's bytes and the endpoint's fields; a record is one JSON object on one line, with the server's
/// value in it. Byte 0: format and rules. What follows the first newline is the server's answer.
pub fn line(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let (line, answer) = match memchr::memchr(b'\n', data) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b"{}"[..]),
    };
    let format = match choice & 1 {
        0 => RecordFormat::Blaze,
        _ => RecordFormat::OpenAi,
    };
    let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let is_json = assert_same_verdict(text);
    let answer_is_json = assert_same_verdict(answer);
    let mut parsed = Parsed::default();
    let is_request = parsed.parse(line).is_ok();
    if is_request {
        assert!(is_json, "only JSON is a request");
        let rules = BodyRules {
            input_as: [InputShape::Messages, InputShape::Prompt, InputShape::Input]
                [usize::from(choice >> 1) % 3],
            model: (choice & 8 != 0).then_some("m\"\u{e9}"),
            override_model: choice & 16 != 0,
            temperature: (choice & 32 != 0).then_some(0.5),
            max_tokens: (choice & 64 != 0).then_some(("max_tokens", 7)),
        };
        let mut body = Vec::new();
        parsed.write_body(line, &rules, &mut body);
        assert_object(&body);
        if let Some(members) = Members::of(text) {
            assert_body(&body, &members, json::trim(text), &parsed, &rules);
        }
        for (name, value) in parsed.headers(line) {
            blaze_uring::http::check_header(&name, &value).expect("what is taken can be sent");
        }
        let success = Success {
            line,
            parsed: &parsed,
            response: answer,
            endpoint: "primary",
            latency_ms: 1,
            ttft_ms: Some(1),
            attempts: 1,
            status: 200,
            line_number: 12,
            request_id: Some("req\"1"),
        };
        let mut out = b"before".to_vec();
        match record::write_success(format, &success, &|_, _| Some(0.25), &mut out) {
            Ok(_) => {
                assert!(answer_is_json);
                assert_record(&out[6..], format, Outcome::Success, line, Some(&parsed));
                assert_response(&out[6..], format, answer);
            }
            Err(_) => {
                assert_eq!(out, b"before", "an answer that is not JSON leaves no trace");
                assert!(!answer_is_json, "JSON is never turned away");
            }
        }
    }
    let failure = Failure {
        line,
        parsed: is_request.then_some(&parsed),
        kind: ErrorKind::ServerError,
        message: "it \"failed\"\n",
        status: (choice & 128 != 0).then_some(500),
        attempts: 3,
        line_number: 12,
        body: Some(answer),
        request_id: None,
        endpoint: Some("primary"),
        billed: record::Billed::default(),
    };
    let mut out = Vec::new();
    record::write_failure(format, &failure, &mut out);
    assert_record(&out, format, Outcome::Failure, line, failure.parsed);
}

/// The body against the line as serde_json reads it.
fn assert_body(
    body: &[u8],
    line: &Members<'_>,
    text: &[u8],
    parsed: &Parsed,
    rules: &BodyRules<'_>,
) {
    // It has the user's names, of which one may be a lone surrogate.
    let Some(sent) = Members::of(body) else {
        return;
    };
    let mut own = match parsed.shape() {
        Shape::Input => return assert_wrapped(&sent, line.last("input").expect("an input"), rules),
        Shape::OpenAiBatch | Shape::Body => {
            let raw = line.last("body").expect("a body");
            let Some(own) = Members::of(raw.as_bytes()) else {
                return;
            };
            if !rules.override_model {
                assert!(body.starts_with(&raw.as_bytes()[..raw.len() - 1]), "{raw}");
            }
            own
        }
        Shape::Bare => Members::of(text).expect("read before"),
    };
    if parsed.shape() == Shape::Bare {
        own.0.retain(|(name, _)| name != "metadata");
    }
    let has = |name: &str| own.0.iter().any(|(own, _)| own == name);
    let mut expect: Vec<(&str, String)> = Vec::new();
    for (name, value) in &own.0 {
        let value = match (&**name, rules.model) {
            ("model", Some(model)) if rules.override_model => quoted(model),
            _ => value.get().to_owned(),
        };
        expect.push((name, value));
    }
    if let (Some(model), false) = (rules.model, has("model")) {
        expect.push(("model", quoted(model)));
    }
    if let (Some(temperature), false) = (rules.temperature, has("temperature")) {
        expect.push(("temperature", temperature.to_string()));
    }
    let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    if let (Some((name, tokens)), false) = (rules.max_tokens, limits.iter().any(|name| has(name))) {
        expect.push((name, tokens.to_string()));
    }
    let sent: Vec<(&str, String)> = sent
        .0
        .iter()
        .map(|(name, value)| (&**name, value.get().to_owned()))
        .collect();
    assert_eq!(sent, expect);
}

fn quoted(text: &str) -> String {
    let mut quoted = Vec::new();
    json::write_string(text, &mut quoted);
    String::from_utf8(quoted).expect("JSON is UTF-8")
}

/// An `input` goes out as it is, or as the text of a message.
fn assert_wrapped(sent: &Members<'_>, input: &str, rules: &BodyRules<'_>) {
    let (name, value) = &sent.0[0];
    let value = value.get();
    match rules.input_as {
        InputShape::Prompt => assert_eq!((&**name, value), ("prompt", input)),
        InputShape::Input => assert_eq!((&**name, value), ("input", input)),
        InputShape::Messages => {
            assert_eq!(name, "messages");
            let message = |content: &str| format!("[{{\"role\":\"user\",\"content\":{content}}}]");
            let forms = [
                input.to_owned(),
                format!("[{input}]"),
                message(input),
                message(&quoted(input)),
            ];
            assert!(forms.iter().any(|form| form == value), "{input}: {value}");
        }
    }
}

/// The record holds the server's value: the same but for white space between its tokens.
fn assert_response(out: &[u8], format: RecordFormat, answer: &[u8]) {
    let Some(record) = Members::of(out) else {
        return;
    };
    let response = record.last("response").expect("a response");
    let response = match format {
        RecordFormat::Blaze => response,
        RecordFormat::OpenAi => {
            let inner = Members::of(response.as_bytes()).expect("an object");
            inner.last("body").expect("a body")
        }
    };
    assert_eq!(without_gaps(response.as_bytes()), without_gaps(answer));
}

/// A valid text without the white space outside its strings.
fn without_gaps(text: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let mut kept = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b' ' | b'\n' | b'\r' | b'\t' if !in_string => continue,
            _ => {}
        }
        kept.push(byte);
    }
    kept
}

fn assert_object(text: &[u8]) {
    let shown = || String::from_utf8_lossy(text).into_owned();
    assert_eq!(json::validate(text), Ok(json::Kind::Object), "{}", shown());
    assert!(assert_same_verdict(text));
}

fn assert_record(
    out: &[u8],
    format: RecordFormat,
    outcome: Outcome,
    line: &[u8],
    parsed: Option<&Parsed>,
) {
    assert_eq!(memchr::memchr(b'\n', out), Some(out.len() - 1), "one line");
    assert_object(&out[..out.len() - 1]);
    let mut beginning = Vec::new();
    record::write_beginning(format, outcome, line, parsed, 12, &mut beginning);
    assert!(out.starts_with(&beginning), "known again by its beginning");
}
