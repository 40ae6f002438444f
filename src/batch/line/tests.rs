//! Lines in every shape, valid and not.

mod bodies;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

const PLAIN: BodyRules<'static> = BodyRules {
    input_as: InputShape::Messages,
    model: None,
    override_model: false,
    temperature: None,
    max_tokens: None,
};

const FULL: BodyRules<'static> = BodyRules {
    input_as: InputShape::Messages,
    model: Some("m"),
    override_model: false,
    temperature: Some(0.5),
    max_tokens: Some(("max_completion_tokens", 9)),
};

fn parsed(line: &str) -> Parsed {
    let mut parsed = Parsed::default();
    parsed
        .parse(line.as_bytes())
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    parsed
}

fn body(line: &str, rules: &BodyRules<'_>) -> String {
    let mut out = Vec::new();
    parsed(line).write_body(line.as_bytes(), rules, &mut out);
    String::from_utf8(out).unwrap()
}

fn field_names(line: &str) -> Vec<&str> {
    let text = |field: &Member| std::str::from_utf8(field.key.of(line.as_bytes())).unwrap();
    parsed(line).fields().iter().map(text).collect()
}

#[test]
fn recognises_the_shape_and_keeps_the_users_fields() {
    for (line, shape, fields) in [
        (
            r#"{"custom_id":"a","method":"POST","url":"/v1/x","body":{},"tag":1}"#,
            Shape::OpenAiBatch,
            &["custom_id", "tag"][..],
        ),
        (
            r#"{"custom_id":"a","url":"/v1/x","body":{}}"#,
            Shape::OpenAiBatch,
            &["custom_id"],
        ),
        (
            r#"{"custom_id":"a","body":{}}"#,
            Shape::Body,
            &["custom_id"],
        ),
        (
            r#"{"url":"/v1/x","method":"post","body":{},"id":7}"#,
            Shape::Body,
            &["id"],
        ),
        // Without a `url`, `method` says nothing about HTTP.
        (
            r#"{"method":"few-shot","body":{},"headers":{}}"#,
            Shape::Body,
            &["method"],
        ),
        (r#"{"b\u006fdy":{}}"#, Shape::Body, &[]),
        (
            r#"{"body":{},"input":"x","messages":[]}"#,
            Shape::Body,
            &["input", "messages"],
        ),
        (
            r#"{"input":"x","id":7,"metadata":{}}"#,
            Shape::Input,
            &["input", "id", "metadata"],
        ),
        (
            r#"{"input":"x","body":"an e-mail"}"#,
            Shape::Input,
            &["input", "body"],
        ),
        (
            r#"{"input":"x","url":"https://example.com/","headers":7,"tag":1,"tag":2}"#,
            Shape::Input,
            &["input", "url", "headers", "tag", "tag"],
        ),
        (r#"{"model":"m","input":"x"}"#, Shape::Bare, &[]),
        (r#"{"messages":[],"input":"x","n":1}"#, Shape::Bare, &[]),
        (
            r#"{"prompt":"x","metadata":{"a":1},"n":1}"#,
            Shape::Bare,
            &["metadata"],
        ),
        ("\u{feff} {\"prompt\":\"x\"}\t\r", Shape::Bare, &[]),
    ] {
        assert_eq!(parsed(line).shape(), shape, "{line}");
        assert_eq!(field_names(line), fields, "{line}");
    }
}

#[test]
fn explains_invalid_lines() {
    const SHAPES: &str = "not a request: expected {\"custom_id\", \"url\", \"body\"}, {\"body\"}, \
        {\"input\"}, or an API body with \"messages\", \"prompt\", or \"model\" and \"input\"";
    for (line, message) in [
        ("", "not valid JSON: byte 0: expected a value"),
        ("{\"input\" \"x\"}", "not valid JSON: byte 9: expected ':'"),
        (
            "\u{feff}{\"input\" \"x\"}",
            "not valid JSON: byte 12: expected ':'",
        ),
        (
            "{\"input\":\"x\"}{}",
            "not valid JSON: byte 13: expected the end of the text",
        ),
        ("[]", "expected a JSON object, found an array"),
        ("\"x\"", "expected a JSON object, found a string"),
        ("7", "expected a JSON object, found a number"),
        ("{}", SHAPES),
        (r#"{"model":"m"}"#, SHAPES),
        (r#"{"custom_id":"a","url":"/v1/x"}"#, SHAPES),
        (
            r#"{"body":"x"}"#,
            r#"field "body": expected an object, found a string"#,
        ),
        (
            r#"{"body":{},"body":{}}"#,
            r#"field "body": expected once, found again"#,
        ),
        (
            r#"{"body":{"model":1,"mod\u0065l":2}}"#,
            r#"field "model": expected once, found again"#,
        ),
        (
            r#"{"body":{"stream":true,"stream":false}}"#,
            r#"field "stream": expected once, found again"#,
        ),
        (
            r#"{"messages":[],"metadata":1,"metadata":2}"#,
            r#"field "metadata": expected once, found again"#,
        ),
        (
            r#"{"input":null}"#,
            r#"field "input": expected a prompt, found null"#,
        ),
        (
            r#"{"input":""}"#,
            r#"field "input": expected a prompt, found an empty string"#,
        ),
        (
            r#"{"input":[ ]}"#,
            r#"field "input": expected a prompt, found an empty array"#,
        ),
        (
            r#"{"input":{}}"#,
            r#"field "input": expected a prompt, found an empty object"#,
        ),
        (
            r#"{"input":"x","input":"y"}"#,
            r#"field "input": expected once, found again"#,
        ),
        (
            r#"{"url":7,"body":{}}"#,
            r#"field "url": expected a string, found a number"#,
        ),
        (
            r#"{"url":"https://evil.example/v1","body":{}}"#,
            r#"field "url": expected a path such as "/v1/chat/completions"; hosts belong in the config"#,
        ),
        (
            r#"{"url":"\/\/evil.example/v1","body":{}}"#,
            r#"field "url": expected a path that begins with one '/'; hosts belong in the config"#,
        ),
        (
            r#"{"url":"/\\evil.example/v1","body":{}}"#,
            r#"field "url": expected visible ASCII without '\' and '#'; write others as %XX"#,
        ),
        (
            r#"{"url":"/v1 HTTP/1.1\r\nx: y","body":{}}"#,
            r#"field "url": expected visible ASCII without '\' and '#'; write others as %XX"#,
        ),
        (
            r#"{"url":"/v1/x","method":"GET","body":{}}"#,
            r#"field "method": expected "POST""#,
        ),
        (
            r#"{"url":"/v1/x","method":null,"body":{}}"#,
            r#"field "method": expected a string, found null"#,
        ),
    ] {
        let error = Parsed::default().parse(line.as_bytes()).unwrap_err();
        assert_eq!(error.message, message, "{line}");
    }
    let error = Parsed::default()
        .parse(b"{\"input\":\"\xff\"}")
        .unwrap_err();
    assert_eq!(
        error.message,
        "not valid JSON: byte 10: expected valid UTF-8"
    );
    let long = format!(r#"{{"url":"/{}","body":{{}}}}"#, "x".repeat(4096));
    let error = Parsed::default().parse(long.as_bytes()).unwrap_err();
    assert_eq!(
        error.message,
        r#"field "url": expected at most 4096 bytes, found 4097"#
    );
}

#[test]
fn headers_are_checked_and_resolved() {
    let line = r#"{"headers":{"X-Team":"search","x-\u0061":"\"é\"\tb",
        "x-empty":""},"body":{}}"#;
    let value = parsed(line);
    let headers: Vec<_> = value.headers(line.as_bytes()).collect();
    assert_eq!(
        headers,
        [
            ("X-Team".into(), "search".into()),
            ("x-a".into(), "\"é\"\tb".into()),
            ("x-empty".into(), "".into()),
        ]
    );
    for (headers, problem) in [
        (r#"{"":"x"}"#, r#""" is not a header name"#),
        (r#"{"a b":"x"}"#, r#""a b" is not a header name"#),
        (r#"{":path":"x"}"#, r#"":path" is not a header name"#),
        (r#"{"a\r\nb":"x"}"#, r#""a\r\nb" is not a header name"#),
        (r#"{"é":"x"}"#, r#""é" is not a header name"#),
        (
            r#"{"Content-Length":"1"}"#,
            r#""Content-Length" is set by the client alone"#,
        ),
        (
            r#"{"c\u006fnnection":"x"}"#,
            r#""connection" is set by the client alone"#,
        ),
        (
            r#"{"Proxy-Authorization":"x"}"#,
            r#""Proxy-Authorization" is set by the client alone"#,
        ),
        (r#"{"host":7}"#, r#""host" is set by the client alone"#),
        (r#"{"x":7}"#, r#""x": expected a string"#),
        (
            r#"{"x":"a\r\nhost: evil"}"#,
            r#""x": expected no control characters"#,
        ),
        (
            r#"{"x":"a\u0000"}"#,
            r#""x": expected no control characters"#,
        ),
        (
            r#"{"x":"a\u007f"}"#,
            r#""x": expected no control characters"#,
        ),
        (
            r#"{"x":" a"}"#,
            r#""x": expected no white space around the value"#,
        ),
        ("[]", "expected an object, found an array"),
    ] {
        let line = format!(r#"{{"headers":{headers},"body":{{}}}}"#);
        let error = Parsed::default().parse(line.as_bytes()).unwrap_err();
        assert_eq!(
            error.message,
            format!("field \"headers\": {problem}"),
            "{line}"
        );
    }
    let many: Vec<_> = (0..65)
        .map(|number| format!("\"x-{number}\":\"\""))
        .collect();
    for (count, valid) in [(64, true), (65, false)] {
        let line = format!(
            r#"{{"headers":{{{}}},"body":{{}}}}"#,
            many[..count].join(",")
        );
        assert_eq!(
            Parsed::default().parse(line.as_bytes()).is_ok(),
            valid,
            "{count}"
        );
    }
    // Only a line with a body has headers.
    let line = r#"{"input":"x","headers":{"host":"y"}}"#;
    assert_eq!(parsed(line).headers(line.as_bytes()).count(), 0);
}

#[test]
fn reads_what_the_policy_asks() {
    let line =
        r#"{"custom_id":"\u00e9","url":"\/v1/x","body":{"model":"gp\u0074","stream": true}}"#;
    let value = parsed(line);
    assert_eq!(value.custom_id(line.as_bytes()), Some(&br#""\u00e9""#[..]));
    assert_eq!(value.url(line.as_bytes()).as_deref(), Some("/v1/x"));
    assert_eq!(value.model(line.as_bytes()).as_deref(), Some("gpt"));
    assert!(value.stream());
    for (line, model, stream) in [
        (
            r#"{"messages":[],"model":"m","stream":true}"#,
            Some("m"),
            true,
        ),
        (
            r#"{"messages":[],"model":null,"stream":"true"}"#,
            None,
            false,
        ),
        (
            r#"{"body":{"a":{"model":"m","stream":true}},"model":"x","stream":true}"#,
            None,
            false,
        ),
        (r#"{"input":"x","stream":true}"#, None, false),
    ] {
        assert_eq!(
            parsed(line).model(line.as_bytes()).as_deref(),
            model,
            "{line}"
        );
        assert_eq!(parsed(line).stream(), stream, "{line}");
    }
}

#[test]
fn a_line_in_flight_keeps_only_the_memory_that_it_needs() {
    let mut bare = parsed(r#"{"model":"m","messages":[]}"#);
    let sent = bare.hand_out();
    assert!(bare.holds_memory(), "what its fields were gathered in");
    assert!(!sent.holds_memory() && sent.model.is_some());

    let line = br#"{"id":7,"body":{},"headers":{"x":"y"}}"#;
    let mut next = bare;
    next.parse(line).unwrap();
    let full = next.hand_out();
    assert_eq!((full.fields().len(), full.headers(line).count()), (1, 1));
    assert!(full.holds_memory() && !next.holds_memory(), "it needs both");

    let bare = br#"{"model":"m","messages":[]}"#;
    next.parse(bare).unwrap();
    assert_eq!((next.fields().len(), next.headers(bare).count()), (0, 0));
}

#[test]
fn a_reused_value_forgets_the_line_before() {
    let mut value = parsed(
        r#"{"custom_id":"a","url":"/x","headers":{"x":"y"},"body":{"stream":true,"model":"m"}}"#,
    );
    assert!(value.parse(b"[]").is_err());
    let line = br#"{"input":"x"}"#;
    for _ in 0..2 {
        assert_eq!(value.custom_id(line), None);
        assert_eq!(value.url(line), None);
        assert_eq!(value.model(line), None);
        assert_eq!(value.headers(line).count(), 0);
        assert!(!value.stream());
        value.parse(line).unwrap();
    }
    assert_eq!(value.fields().len(), 1);
}
