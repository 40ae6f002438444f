//! Lines in every shape, valid and not.

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
    let unused = bare
        .take_unused()
        .expect("what its fields were gathered in");
    assert!(unused.holds_memory() && !bare.holds_memory());
    assert_eq!((unused.fields().len(), unused.model(b"")), (0, None));
    assert!(bare.take_unused().is_none());

    let line = br#"{"id":7,"body":{},"headers":{"x":"y"}}"#;
    let mut full = unused;
    full.parse(line).unwrap();
    assert!(full.take_unused().is_none(), "it needs both");
    assert_eq!((full.fields().len(), full.headers(line).count()), (1, 1));
    assert!(full.holds_memory());
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

#[test]
fn bodies_keep_their_bytes() {
    for (line, expect) in [
        (
            r#"{"body": {"b" : 1e400, "a":[ 123456789012345678901 ,"\u00e9\/"] } }"#,
            r#"{"b" : 1e400, "a":[ 123456789012345678901 ,"\u00e9\/"] }"#,
        ),
        (r#"{"body":{}}"#, "{}"),
        (r#"{"body":{ }}"#, "{ }"),
        ("\u{feff} {\"prompt\" : 1}\r", "{\"prompt\" : 1}"),
        // `metadata` leaves with one comma, wherever it stands.
        (
            r#"{"metadata": {"a":"}"}, "prompt": "x", "n": 1}"#,
            r#"{"prompt": "x", "n": 1}"#,
        ),
        (
            r#"{ "prompt": "x", "metadata": [1,2] , "n": 1}"#,
            r#"{ "prompt": "x", "n": 1}"#,
        ),
        (
            r#"{"prompt": "x", "n": 1 , "metad\u0061ta" : null }"#,
            r#"{"prompt": "x", "n": 1 }"#,
        ),
        (
            r#"{"prompt":{"metadata":1}}"#,
            r#"{"prompt":{"metadata":1}}"#,
        ),
        // Only a bare body loses it.
        (r#"{"body":{"metadata":{}}}"#, r#"{"metadata":{}}"#),
    ] {
        assert_eq!(body(line, &PLAIN), expect, "{line}");
    }
}

#[test]
fn rules_add_only_what_is_missing() {
    for (line, expect) in [
        (
            r#"{"body":{}}"#,
            r#"{"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"body":{"a":1 }}"#,
            r#"{"a":1 ,"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"body":{"model":null,"temperature":null,"max_tokens":null}}"#,
            r#"{"model":null,"temperature":null,"max_tokens":null}"#,
        ),
        (
            r#"{"mod\u0065l":"x","prompt":1,"temperature":0,"max_completion_tokens":2}"#,
            r#"{"mod\u0065l":"x","prompt":1,"temperature":0,"max_completion_tokens":2}"#,
        ),
        (
            r#"{"body":{"max_output_tokens":2,"a":{"model":1}},"temperature":1,"model":"x"}"#,
            r#"{"max_output_tokens":2,"a":{"model":1},"model":"m","temperature":0.5}"#,
        ),
        (
            r#"{"prompt":"x","metadata":1}"#,
            r#"{"prompt":"x","model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"input":"x","temperature":1}"#,
            r#"{"messages":[{"role":"user","content":"x"}],"model":"m","temperature":0.5,"max_completion_tokens":9}"#,
        ),
    ] {
        assert_eq!(body(line, &FULL), expect, "{line}");
    }
    let odd = BodyRules {
        model: Some("a\"\n"),
        temperature: Some(1e-7),
        max_tokens: None,
        ..PLAIN
    };
    assert_eq!(
        body(r#"{"body":{}}"#, &odd),
        r#"{"model":"a\"\n","temperature":0.0000001}"#
    );
}

#[test]
fn override_replaces_the_model_in_place() {
    let rules = BodyRules {
        model: Some("new"),
        override_model: true,
        ..PLAIN
    };
    for (line, expect) in [
        (
            r#"{"body":{"model" : "old" ,"a":1}}"#,
            r#"{"model" : "new" ,"a":1}"#,
        ),
        (r#"{"body":{"model":{"a":[1]}}}"#, r#"{"model":"new"}"#),
        (r#"{"body":{"a":1}}"#, r#"{"a":1,"model":"new"}"#),
        (
            r#"{"metadata":1,"model":"old","prompt":"x"}"#,
            r#"{"model":"new","prompt":"x"}"#,
        ),
        (
            r#"{"model":"old","prompt":"x","metadata":1}"#,
            r#"{"model":"new","prompt":"x"}"#,
        ),
    ] {
        assert_eq!(body(line, &rules), expect, "{line}");
    }
    let nothing_to_put = BodyRules {
        model: None,
        ..rules
    };
    assert_eq!(
        body(r#"{"body":{"model":"old"}}"#, &nothing_to_put),
        r#"{"model":"old"}"#
    );
}

#[test]
fn input_is_wrapped_for_the_path() {
    let content =
        |content: &str| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
    for (input, chat) in [
        (r#""a \"b\"\u00e9\n""#, content(r#""a \"b\"\u00e9\n""#)),
        (r#"" ""#, content(r#"" ""#)),
        (
            r#"[{"role":"system","content":"s"},{"role":"user","content":"u"}]"#,
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}"#
                .into(),
        ),
        (
            r#"{"role":"user","content":"u"}"#,
            r#"{"messages":[{"role":"user","content":"u"}]}"#.into(),
        ),
        (
            r#"[{"type":"text","text":"t"}]"#,
            content(r#"[{"type":"text","text":"t"}]"#),
        ),
        (r#"["a","b"]"#, content(r#""[\"a\",\"b\"]""#)),
        (
            r#"[{"role":"user"},"b"]"#,
            content(r#""[{\"role\":\"user\"},\"b\"]""#),
        ),
        (
            r#"{"question": "why?"}"#,
            content(r#""{\"question\": \"why?\"}""#),
        ),
        ("5", content("\"5\"")),
        ("false", content("\"false\"")),
    ] {
        let line = format!(r#"{{"input": {input} ,"id":1}}"#);
        assert_eq!(body(&line, &PLAIN), chat);
        let prompt = BodyRules {
            input_as: InputShape::Prompt,
            ..PLAIN
        };
        assert_eq!(body(&line, &prompt), format!(r#"{{"prompt":{input}}}"#));
        let embedding = BodyRules {
            input_as: InputShape::Input,
            ..PLAIN
        };
        assert_eq!(body(&line, &embedding), format!(r#"{{"input":{input}}}"#));
    }
}

/// Members whose names collide with all that lines and bodies are made of.
fn any_members() -> impl Strategy<Value = Map<String, Value>> {
    const NAMES: &str = "body url method custom_id headers input messages prompt model metadata \
        stream temperature max_tokens";
    let names: Vec<_> = NAMES.split_ascii_whitespace().collect();
    let name = prop_oneof![
        4 => prop::sample::select(names.clone()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::from(true)),
        Just(Value::from("/v1/x")),
        Just(Value::from("POST")),
        any::<String>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(serde_json::json!([{"role": "user", "content": "x"}])),
        prop::collection::vec((prop::sample::select(names), any::<i32>()), 0..4).prop_map(
            |members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        ),
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_a_request_or_an_error(line: Vec<u8>) {
        let mut value = Parsed::default();
        if let Err(error) = value.parse(&line) {
            prop_assert!(!error.message.contains('\n'));
        }
    }

    /// Against a second opinion made of serde_json values.
    #[test]
    fn bodies_are_what_the_rules_say(members in any_members(), pretty: bool, override_model: bool) {
        let line = if pretty { serde_json::to_vec_pretty(&members) } else { serde_json::to_vec(&members) };
        let line = line.unwrap();
        let mut value = Parsed::default();
        if value.parse(&line).is_err() {
            return Ok(());
        }
        let mut out = Vec::new();
        value.write_body(&line, &BodyRules { override_model, ..FULL }, &mut out);

        let mut expect = match value.shape() {
            Shape::OpenAiBatch | Shape::Body => members["body"].as_object().unwrap().clone(),
            Shape::Bare => {
                let mut body = members;
                body.remove("metadata");
                body
            }
            Shape::Input => {
                let messages = match &members["input"] {
                    array @ Value::Array(_) => array.clone(),
                    Value::String(text) => serde_json::json!([{"role": "user", "content": text}]),
                    // Its own text, white space and all.
                    other => {
                        let content = if pretty && other.is_object() {
                            let span = json::get(&line, &["input"]).unwrap();
                            String::from_utf8(span.to_vec()).unwrap()
                        } else {
                            other.to_string()
                        };
                        serde_json::json!([{"role": "user", "content": content}])
                    }
                };
                Map::from_iter([("messages".to_owned(), messages)])
            }
        };
        if override_model {
            expect.insert("model".to_owned(), "m".into());
        }
        expect.entry("model").or_insert("m".into());
        expect.entry("temperature").or_insert(0.5.into());
        if !expect.contains_key("max_tokens") {
            expect.insert("max_completion_tokens".to_owned(), 9.into());
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), Value::Object(expect));
    }
}
