use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

fn parsed(line: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.parse(line).unwrap();
    parsed
}

fn success<'a>(line: &'a [u8], parsed: &'a Parsed, response: &'a [u8]) -> Success<'a> {
    Success {
        line,
        parsed,
        response,
        endpoint: "primary",
        latency_ms: 234,
        ttft_ms: None,
        attempts: 1,
        status: 200,
        line_number: 12,
        request_id: None,
    }
}

fn failure<'a>(line: &'a [u8], parsed: Option<&'a Parsed>) -> Failure<'a> {
    Failure {
        line,
        parsed,
        kind: ErrorKind::Timeout,
        message: "timed out after 30 s",
        status: None,
        attempts: 3,
        line_number: 12,
        body: None,
        request_id: None,
        endpoint: None,
        billed: Billed::default(),
    }
}

/// Nothing has a price.
fn free(_: Tokens, _: Option<&[u8]>) -> Option<f64> {
    None
}

fn succeeded(format: RecordFormat, success: &Success<'_>) -> String {
    let mut out = Vec::new();
    write_success(format, success, &free, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn failed(format: RecordFormat, failure: &Failure<'_>) -> String {
    let mut out = Vec::new();
    write_failure(format, failure, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn blaze_success() {
    const METADATA: &str = r#""metadata":{"endpoint":"primary","latency_ms":234,"attempts":1,"status_code":200,"line_number":12}"#;
    for (line, response, expect) in [
        (
            r#"{"input": "a\u00e9", "id" : 7}"#,
            "{\n  \"n\": 1e400,\r\n  \"a\": [ 12345678901234567890 ]\n}\n",
            r#"{"input":"a\u00e9","id":7,"response":{"n":1e400,"a":[12345678901234567890]},"#,
        ),
        (
            r#"{"input":"x"}"#,
            "null",
            r#"{"input":"x","response":null,"#,
        ),
        // A line's own white space stays, unless a reader could take it for the end of the line.
        (
            "{\"input\":\"x\",\"a\":[ 1, 2 ],\"b\":[ 1,\r2 ]}",
            "1",
            r#"{"input":"x","a":[ 1, 2 ],"b":[1,2],"response":1,"#,
        ),
        // What the request is made of does not come back, what the record needs is renamed.
        (
            r#"{"custom_id":"c","url":"/v1/x","method":"POST","headers":{},"body":{"x":1},"metadata":{"m":1}}"#,
            "1",
            r#"{"custom_id":"c","request_metadata":{"m":1},"response":1,"#,
        ),
        (
            r#"{"messages":[],"n":1,"metadata":5}"#,
            "1",
            r#"{"request_metadata":5,"response":1,"#,
        ),
        (r#"{"messages":[],"n":1}"#, "1", r#"{"response":1,"#),
        (
            r#"{"input":"x","m\u0065tadata":1,"request_metadata":2,"request_request_metadata":3}"#,
            "1",
            r#"{"input":"x","request_m\u0065tadata":1,"request_request_metadata":2,"request_request_request_metadata":3,"response":1,"#,
        ),
        (
            r#"{"input":"x","request_metadata":2,"request_request_error":3}"#,
            "1",
            r#"{"input":"x","request_metadata":2,"request_request_error":3,"response":1,"#,
        ),
        (
            r#"{"input":"x","response":1,"error":2,"error_kind":3,"status_code":4,"line_number":5,"attempts":6,"response_text":7,"raw":8}"#,
            "1",
            r#"{"input":"x","request_response":1,"request_error":2,"request_error_kind":3,"request_status_code":4,"request_line_number":5,"request_attempts":6,"request_response_text":7,"request_raw":8,"response":1,"#,
        ),
    ] {
        let parsed = parsed(line.as_bytes());
        let success = success(line.as_bytes(), &parsed, response.as_bytes());
        assert_eq!(
            succeeded(RecordFormat::Blaze, &success),
            format!("{expect}{METADATA}}}\n")
        );
    }
}

#[test]
fn blaze_success_with_stream_and_tokens() {
    let line = br#"{"input":"x"}"#;
    let parsed = parsed(line);
    let response = br#"{"model":"m\u002d1","usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}"#;
    let success = Success {
        ttft_ms: Some(17),
        ..success(line, &parsed, response)
    };
    let expect = r#""line_number":12,"ttft_ms":17,"tokens":{"prompt":3,"completion":2,"cached":1}"#;
    let record = succeeded(RecordFormat::Blaze, &success);
    assert!(record.ends_with(&format!("{expect}}}}}\n")), "{record}");
    let price = |tokens: Tokens, model: Option<&[u8]>| {
        assert_eq!(model, Some(&br#""m\u002d1""#[..]));
        Some(tokens.prompt as f64 * 1.5e-7)
    };
    let mut out = Vec::new();
    write_success(RecordFormat::Blaze, &success, &price, &mut out).unwrap();
    let record = String::from_utf8(out).unwrap();
    let cost = r#","cost_usd":0.00000045"#;
    assert!(
        record.ends_with(&format!("{expect}{cost}}}}}\n")),
        "{record}"
    );
}

#[test]
fn a_failure_says_what_it_cost() {
    let line = br#"{"input":"x"}"#;
    let parsed = parsed(line);
    let failure = Failure {
        endpoint: Some("primary"),
        billed: Billed {
            tokens: Some(Tokens {
                prompt: 9,
                completion: 0,
                cached: 0,
            }),
            usd: Some(0.5),
        },
        ..failure(line, Some(&parsed))
    };
    let record = failed(RecordFormat::Blaze, &failure);
    let metadata = r#""metadata":{"endpoint":"primary","tokens":{"prompt":9,"completion":0,"cached":0},"cost_usd":0.5}}"#;
    assert!(record.ends_with(&format!("{metadata}\n")), "{record}");
}

#[test]
fn usage_comes_from_the_response() {
    let line = br#"{"input":"x"}"#;
    let parsed = parsed(line);
    let tokens = |prompt, completion| {
        Some(Tokens {
            prompt,
            completion,
            cached: 0,
        })
    };
    for (response, expect) in [
        (
            r#"{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}"#,
            tokens(3, 4),
        ),
        (
            r#"{"us\u0061ge":{"input_tokens":3,"output_tokens":4}}"#,
            tokens(3, 4),
        ),
        (
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4},"usage":{"prompt_tokens":5}}"#,
            tokens(5, 0),
        ),
        (r#"{"usage":{"prompt_tokens":3},"usage":null}"#, None),
        (
            r#"{"usage":[],"usage":{"prompt_tokens":3},"completion_tokens":4}"#,
            tokens(3, 0),
        ),
        (r#"{"usage":{"usage":{"prompt_tokens":3}}}"#, None),
        (r#"{"usage":{}}"#, None),
        (r#"{"usage":null}"#, None),
        (r#"{"choices":[{"usage":{"prompt_tokens":3}}]}"#, None),
        ("[]", None),
    ] {
        for format in [RecordFormat::Blaze, RecordFormat::OpenAi] {
            let success = success(line, &parsed, response.as_bytes());
            assert_eq!(
                write_success(format, &success, &free, &mut Vec::new())
                    .map(|written| written.billed.tokens),
                Ok(expect),
                "{response}"
            );
        }
    }
}

#[test]
fn a_response_that_is_not_json_leaves_no_trace() {
    let line = br#"{"input":"x"}"#;
    let parsed = parsed(line);
    for format in [RecordFormat::Blaze, RecordFormat::OpenAi] {
        let mut out = b"before\n".to_vec();
        let success = success(line, &parsed, b"{\"a\":1}<html>");
        let fault = write_success(format, &success, &free, &mut out).unwrap_err();
        assert_eq!((fault.offset, fault.expected), (7, "the end of the text"));
        assert_eq!(out, b"before\n");
    }
}

#[test]
fn blaze_failure() {
    let line = br#"{"input":"x","error":"mine"}"#;
    let parsed = parsed(line);
    let plain = failure(line, Some(&parsed));
    for (failure, expect) in [
        (
            plain,
            r#""error":"timed out after 30 s","error_kind":"timeout","line_number":12,"attempts":3}"#,
        ),
        (
            Failure {
                kind: ErrorKind::RateLimited,
                message: "HTTP 429: \"slow\"\u{1b}[31m\n",
                status: Some(429),
                body: Some(b"{\"error\": {\"code\": 1}}\n"),
                endpoint: Some("primary"),
                request_id: Some("req_1"),
                ..plain
            },
            r#""error":"HTTP 429: \"slow\"\u001b[31m\n","error_kind":"rate_limited","status_code":429,"line_number":12,"attempts":3,"response":{"error":{"code":1}},"metadata":{"endpoint":"primary","request_id":"req_1"}}"#,
        ),
        (
            Failure {
                status: Some(502),
                body: Some(b"<html>\xff\n"),
                ..plain
            },
            "\"error\":\"timed out after 30 s\",\"error_kind\":\"timeout\",\"status_code\":502,\"line_number\":12,\"attempts\":3,\"response_text\":\"<html>\u{fffd}\\n\"}",
        ),
        (
            Failure {
                status: Some(500),
                body: Some(b""),
                ..plain
            },
            r#""error":"timed out after 30 s","error_kind":"timeout","status_code":500,"line_number":12,"attempts":3}"#,
        ),
    ] {
        let expect = format!("{{\"input\":\"x\",\"request_error\":\"mine\",{expect}\n");
        assert_eq!(failed(RecordFormat::Blaze, &failure), expect);
    }
}

#[test]
fn an_invalid_line_comes_back_as_text() {
    let failure = Failure {
        kind: ErrorKind::InvalidInput,
        message: "not valid JSON: byte 0: expected a value",
        attempts: 0,
        ..failure(b"oops \"\xff\t\r", None)
    };
    assert_eq!(
        failed(RecordFormat::Blaze, &failure),
        "{\"error\":\"not valid JSON: byte 0: expected a value\",\"error_kind\":\"invalid_input\",\
         \"line_number\":12,\"attempts\":0,\"raw\":\"oops \\\"\u{fffd}\\t\"}\n"
    );
    let record: Value = serde_json::from_str(&failed(RecordFormat::OpenAi, &failure)).unwrap();
    assert_eq!(record["custom_id"], Value::Null);
    assert_eq!(record["response"], Value::Null);
    assert_eq!(record["error"]["code"], "invalid_input");
    assert_eq!(record["line_number"], 12);
    assert_eq!(record["raw"], "oops \"\u{fffd}\t");

    for (length, kept, raw_bytes) in [
        (RAW_BYTES_MAX, RAW_BYTES_MAX, Value::Null),
        (RAW_BYTES_MAX + 1, RAW_BYTES_MAX, (RAW_BYTES_MAX + 1).into()),
    ] {
        let line = vec![b'x'; length];
        let failure = Failure {
            line: &line,
            ..failure
        };
        let record: Value = serde_json::from_str(&failed(RecordFormat::Blaze, &failure)).unwrap();
        assert_eq!(record["raw"].as_str().unwrap().len(), kept);
        assert_eq!(record["raw_bytes"], raw_bytes);
    }
}

#[test]
fn text_is_cut_between_characters() {
    let text = |bytes: &[u8], bytes_max| {
        let mut out = Vec::new();
        write_text(bytes, bytes_max, &mut out);
        serde_json::from_slice::<String>(&out).unwrap()
    };
    for (bytes, bytes_max, expect) in [
        ("abc".as_bytes(), 3, "abc"),
        (b"abcd", 3, "abc"),
        ("abé".as_bytes(), 3, "ab"),
        ("abé".as_bytes(), 4, "abé"),
        ("a😀b".as_bytes(), 4, "a"),
        ("a😀b".as_bytes(), 5, "a😀"),
        // Torn by the server, not by us.
        (b"ab\xf0\x9f", 8, "ab\u{fffd}"),
        // A replacement character is three bytes, and the bound holds for them.
        (b"\xff\xff\xff\xff", 4, "\u{fffd}"),
        (b"abc", 0, ""),
    ] {
        assert_eq!(text(bytes, bytes_max), expect);
    }
}

#[test]
fn a_failed_response_is_kept_up_to_its_bound() {
    let line = br#"{"input":"x"}"#;
    let parsed = parsed(line);
    let json = |length: usize| format!("\"{}\"", "é".repeat(length / 2 - 1)).into_bytes();
    for (body, name, length) in [
        (
            json(RESPONSE_TEXT_BYTES_MAX),
            "response",
            RESPONSE_TEXT_BYTES_MAX - 2,
        ),
        // The quote in front of the characters makes the cut fall into one.
        (
            json(RESPONSE_TEXT_BYTES_MAX + 2),
            "response_text",
            RESPONSE_TEXT_BYTES_MAX - 1,
        ),
        (
            vec![b'x'; 1 << 20],
            "response_text",
            RESPONSE_TEXT_BYTES_MAX,
        ),
    ] {
        let failure = Failure {
            body: Some(&body),
            ..failure(line, Some(&parsed))
        };
        let record: Value = serde_json::from_str(&failed(RecordFormat::Blaze, &failure)).unwrap();
        assert_eq!(record[name].as_str().unwrap().len(), length);
    }
}

#[test]
fn openai_records() {
    let line = br#"{"custom_id":"r1","method":"POST","url":"/v1/x","body":{},"id":7,"tag":"t"}"#;
    let parsed = parsed(line);
    let answered = Success {
        request_id: Some("req_1"),
        ..success(line, &parsed, b"{ }")
    };
    let id = format!("batch_req_{:016x}", xxh3_64_with_seed(b"\"r1\"", 12));
    let head = format!(r#"{{"id":"{id}","custom_id":"r1","request_id":7,"tag":"t","response":"#);
    assert_eq!(
        succeeded(RecordFormat::OpenAi, &answered),
        format!(r#"{head}{{"status_code":200,"request_id":"req_1","body":{{}}}},"error":null}}"#)
            + "\n"
    );
    let plain = failure(line, Some(&parsed));
    for (failure, expect) in [
        (
            plain,
            r#"null,"error":{"code":"timeout","message":"timed out after 30 s"}}"#,
        ),
        (
            Failure {
                status: Some(400),
                body: Some(b"{\"a\": 1}"),
                ..plain
            },
            r#"{"status_code":400,"request_id":"req_43b75dd5208953d7","body":{"a":1}},"error":{"code":"timeout","message":"timed out after 30 s"}}"#,
        ),
        (
            Failure {
                status: Some(502),
                body: Some(b"<p>"),
                request_id: Some("\""),
                ..plain
            },
            r#"{"status_code":502,"request_id":"\"","body":"<p>"},"error":{"code":"timeout","message":"timed out after 30 s"}}"#,
        ),
        (
            Failure {
                status: Some(502),
                ..plain
            },
            r#"{"status_code":502,"request_id":"req_43b75dd5208953d7","body":null},"error":{"code":"timeout","message":"timed out after 30 s"}}"#,
        ),
    ] {
        assert_eq!(
            failed(RecordFormat::OpenAi, &failure),
            format!("{head}{expect}\n")
        );
    }
    // Another line with the same `custom_id` is another request.
    let other = Success {
        line_number: 13,
        ..answered
    };
    assert_ne!(
        succeeded(RecordFormat::OpenAi, &other),
        succeeded(RecordFormat::OpenAi, &answered)
    );
}

#[test]
fn auto_follows_the_line() {
    let batch = parsed(br#"{"custom_id":"a","url":"/x","body":{}}"#);
    let body = parsed(br#"{"custom_id":"a","body":{}}"#);
    for (config, line, expect) in [
        (Format::Auto, Some(&batch), RecordFormat::OpenAi),
        (Format::Auto, Some(&body), RecordFormat::Blaze),
        (Format::Auto, None, RecordFormat::Blaze),
        (Format::Blaze, Some(&batch), RecordFormat::Blaze),
        (Format::OpenAi, Some(&body), RecordFormat::OpenAi),
        (Format::OpenAi, None, RecordFormat::OpenAi),
    ] {
        assert_eq!(format_for(config, line), expect);
    }
}

/// A record is one line, and valid JSON with each name once.
fn one_line(record: &[u8]) -> Map<String, Value> {
    struct Unique;
    impl<'de> serde::de::Visitor<'de> for Unique {
        type Value = Map<String, Value>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut record = Map::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                assert!(record.insert(name.clone(), value).is_none(), "{name} twice");
            }
            Ok(record)
        }
    }
    let (last, text) = record.split_last().unwrap();
    assert_eq!(*last, b'\n');
    assert!(!text.contains(&b'\n') && !text.contains(&b'\r'));
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let record = serde::Deserializer::deserialize_map(&mut deserializer, Unique).unwrap();
    deserializer.end().unwrap();
    record
}

fn any_fields() -> impl Strategy<Value = Map<String, Value>> {
    const NAMES: [&str; 9] = [
        "id",
        "custom_id",
        "metadata",
        "request_metadata",
        "request_request_metadata",
        "response",
        "error",
        "request_error",
        "raw",
    ];
    let name = prop_oneof![
        2 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::collection::vec(any::<String>(), 0..3).prop_map(Value::from),
    ];
    prop::collection::vec((name, value), 0..8).prop_map(|fields| fields.into_iter().collect())
}

fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let pretty = any_fields().prop_map(|fields| serde_json::to_vec_pretty(&fields).unwrap());
    prop_oneof![
        pretty,
        any::<String>().prop_map(String::into_bytes),
        any::<Vec<u8>>()
    ]
}

/// The names under which `names` may come back are `name` and its prefixed forms; every value is there.
fn assert_fields_come_back(record: &Map<String, Value>, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let is_theirs = |(found, _): &(&String, &Value)| {
            *found == name || found.strip_prefix(RENAMED_PREFIX) == Some(name)
        };
        let found: Vec<_> = record
            .iter()
            .filter(is_theirs)
            .map(|(_, value)| value)
            .collect();
        assert!(
            found.contains(&value),
            "{name}: {value} is not in {found:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_was_sent_a_record_is_one_line(
        mut fields in any_fields(),
        response in any_response(),
        text: String,
        status in prop::option::of(any::<u16>()),
        pretty: bool,
    ) {
        fields.remove("messages");
        fields.insert("input".to_owned(), "x".into());
        let line = if pretty { serde_json::to_vec_pretty(&fields) } else { serde_json::to_vec(&fields) };
        let line = line.unwrap();
        let parsed = parsed(&line);
        for format in [RecordFormat::Blaze, RecordFormat::OpenAi] {
            let mut out = Vec::new();
            let answered = Success {
                endpoint: &text, request_id: Some(&text), ..success(&line, &parsed, &response)
            };
            let value = serde_json::from_slice::<Value>(&response);
            let result = write_success(format, &answered, &free, &mut out);
            prop_assert_eq!(result.is_ok(), value.is_ok());
            if let Ok(value) = &value {
                let record = one_line(&out);
                assert_fields_come_back(&record, &fields);
                let written = match format {
                    RecordFormat::Blaze => &record["response"],
                    RecordFormat::OpenAi => &record["response"]["body"],
                };
                prop_assert_eq!(written, value);
            }

            let mut out = Vec::new();
            let given_up = Failure {
                message: &text, status, body: Some(&response), endpoint: Some(&text),
                ..failure(&line, Some(&parsed))
            };
            write_failure(format, &given_up, &mut out);
            let record = one_line(&out);
            assert_fields_come_back(&record, &fields);
            if let (RecordFormat::Blaze, Ok(value)) = (format, &value) {
                prop_assert_eq!(&record["response"], value);
            }
        }
    }

    #[test]
    fn an_invalid_line_is_one_record(line: Vec<u8>) {
        for format in [RecordFormat::Blaze, RecordFormat::OpenAi] {
            let mut out = Vec::new();
            write_failure(format, &failure(&line, None), &mut out);
            let raw = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            let record = one_line(&out);
            prop_assert_eq!(record["raw"].as_str().unwrap(), raw);
        }
    }
}
