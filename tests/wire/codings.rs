//! Bodies as servers send them although nothing asked for it: compressed, with a byte order mark, in UTF-16.

use std::sync::atomic::{AtomicUsize, Ordering};

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::batch::{Batch, answer_to, content};
use crate::encoders::{brotli, deflate, gzip, zlib, zstd};
use crate::support::{runtimes, scripted};

fn marked(body: &[u8]) -> Vec<u8> {
    [b"\xef\xbb\xbf", body].concat()
}

fn utf16(body: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(body).expect("a text");
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

fn plain(body: &[u8]) -> Vec<u8> {
    body.to_vec()
}

/// Name of the line, the field, and how the body is encoded.
type Form = (&'static str, &'static str, fn(&[u8]) -> Vec<u8>);

const FORMS: [Form; 15] = [
    ("gzip", "gzip", gzip),
    ("x-gzip", "X-GZIP", gzip),
    ("zlib", "deflate", zlib),
    ("deflate", "deflate", deflate),
    ("br", "br", brotli),
    ("zstd", "zstd", zstd),
    ("two", "gzip, br", |body| brotli(&gzip(body))),
    ("with identity", "identity, Zstd", zstd),
    ("a charset", "UTF-8", plain),
    ("undone on the way", "gzip", plain),
    ("unknown", "pied-piper", plain),
    ("a mark", "identity", marked),
    ("utf-16", "identity", utf16),
    ("a mark in gzip", "gzip", |body| gzip(&marked(body))),
    ("plain", "identity", plain),
];

fn encoded(status: &str, field: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Encoding: {field}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn form(name: &str) -> Form {
    let found = FORMS.into_iter().find(|(known, ..)| *known == name);
    found.expect("a known form")
}

fn names() -> impl Iterator<Item = String> {
    FORMS.into_iter().map(|(name, ..)| name.to_owned())
}

#[test]
fn an_answer_is_read_in_every_form() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            assert_eq!(request.header("accept-encoding"), Some("identity"));
            let content = content(&request.body);
            let (_, field, encode) = form(&content);
            let body = encode(answer_to(&content).as_bytes());
            Some(Scripted::raw(encoded("200 OK", field, &body)))
        });
        let outcome = Batch::chat(runtime, &mock.url("/v1/chat/completions"), names()).run();
        for (number, name) in (1..).zip(names()) {
            assert_eq!(
                outcome.answer(number).to_string().len(),
                answer_to(&name).len()
            );
            assert_eq!(outcome.answer(number)["id"], name, "{runtime}");
            let tokens = &outcome.answers[&number]["metadata"]["tokens"];
            assert_eq!(tokens["prompt"], 3, "{runtime}, {name}");
        }
        outcome.run.expect(0);
    }
}

#[test]
fn a_stream_is_read_in_every_form() {
    let events = concat!(
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"fi\"}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ne\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    );
    for runtime in runtimes() {
        let mock = scripted(move |request| {
            let (_, field, encode) = form(&content(&request.body));
            let body = encode(events.as_bytes());
            Some(Scripted::raw(encoded("200 OK", field, &body)))
        });
        // Events in UTF-16 are none by their standard.
        let names = || names().filter(|name| name != "utf-16");
        let mut batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), []);
        let line = |name: String| {
            let messages = json!([{"role": "user", "content": name}]);
            json!({"body": {"model": "m", "stream": true, "messages": messages}}).to_string()
        };
        batch.lines = names().map(line).collect();
        let outcome = batch.run();
        for (number, name) in (1..).zip(names()) {
            let message = &outcome.answer(number)["choices"][0]["message"];
            assert_eq!(message["content"], "fine", "{runtime}, {name}");
            let ttft = &outcome.answers[&number]["metadata"]["ttft_ms"];
            assert!(ttft.is_u64(), "{runtime}, {name}");
        }
        outcome.run.expect(0);
    }
}

#[test]
fn an_error_is_read_in_every_form() {
    let error = br#"{"error":{"message":"you said \ud83d","code":"context_length_exceeded"}}"#;
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let (_, field, encode) = form(&content(&request.body));
            Some(Scripted::raw(encoded("400 No", field, &encode(error))))
        });
        let outcome = Batch::chat(runtime, &mock.url("/v1/chat/completions"), names()).run();
        for (number, name) in (1..).zip(names()) {
            let failure = outcome.failure(number);
            let expect = ("bad_request", "HTTP 400: you said \u{fffd}");
            assert_eq!(failure, expect, "{runtime}, {name}");
        }
        outcome.run.expect(3);
    }
}

#[test]
fn a_bomb_is_too_large_and_not_sent_for_again() {
    const BOMB_BYTES: usize = 3 << 20;
    for runtime in runtimes() {
        let bomb = format!("{{\"pad\":\"{}\"}}", " ".repeat(BOMB_BYTES));
        let mock = scripted(move |request| {
            let (_, field, encode) = form(&content(&request.body));
            let body = encode(bomb.as_bytes());
            assert!(body.len() < 64 << 10, "{field}: {}", body.len());
            Some(Scripted::raw(encoded("200 OK", field, &body)))
        });
        let names = ["gzip", "zlib", "deflate", "br", "zstd", "two"].map(str::to_owned);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), names);
        let limits = ["--max-attempts", "3", "--max-response-bytes", "1MiB"];
        let outcome = batch.with(&limits).run();
        for number in 1..=6 {
            assert_eq!(outcome.failure(number).0, "too_large", "{runtime}");
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
        }
        outcome.run.expect(3);
    }
}

/// What is paid for and cannot be read, twice for the same reason, is not paid for a third time; its text is kept.
#[test]
fn the_same_unreadable_answer_is_not_paid_for_a_third_time() {
    const REQUESTS_MAX: usize = 5;
    /// The answer to the request of that number, from 0, and how many requests that takes.
    type Case = (&'static str, fn(usize) -> String, usize);
    let cases: [Case; 7] = [
        (
            "infinity",
            |_| r#"{"choices":[{"text":"a","logprob":-Infinity}]}"#.into(),
            2,
        ),
        // The same fault in other bytes.
        (
            "another id",
            |number| format!(r#"{{"id":{number},"logprob":-Infinity}}"#),
            2,
        ),
        ("a page", |_| "<html>maintenance</html>".into(), 2),
        ("nothing", |_| String::new(), 2),
        ("cut alike", |_| r#"{"choices":[{"te"#.into(), 2),
        (
            "cut elsewhere",
            |number| format!("{{\"a\":\"{}", "x".repeat(number)),
            REQUESTS_MAX,
        ),
        (
            "other faults",
            |number| format!("{{\"a\":{}", &"#!$%&"[number..]),
            REQUESTS_MAX,
        ),
    ];
    for runtime in runtimes() {
        for (name, answer, requests) in cases {
            let seen = AtomicUsize::new(0);
            let mock = scripted(move |_| {
                let number = seen.fetch_add(1, Ordering::SeqCst);
                Some(Scripted::json(200, answer(number)))
            });
            let url = mock.url("/v1/chat/completions");
            let batch = Batch::chat(runtime, &url, [name.to_owned()]);
            let outcome = batch.with(&["--max-attempts", "5"]).run();
            assert_eq!(mock.stats().requests, requests as u64, "{runtime}, {name}");
            assert_eq!(outcome.failure(1).0, "not_json", "{runtime}, {name}");
            let record = &outcome.failures[&1];
            assert_eq!(record["attempts"], requests, "{runtime}, {name}");
            match answer(requests - 1) {
                text if text.is_empty() => assert!(record["response_text"].is_null()),
                text => assert_eq!(record["response_text"], text, "{runtime}, {name}"),
            }
            outcome.run.expect(3);
        }
    }
}

/// Noise in a coding that it is not: a clear failure that names the coding.
#[test]
fn what_cannot_be_decoded_says_so() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let field = content(&request.body);
            Some(Scripted::raw(encoded("200 OK", &field, b"\x1f\x8b noise")))
        });
        let fields = ["gzip", "br", "pied-piper"].map(str::to_owned);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), fields);
        let outcome = batch.with(&["--max-attempts", "5"]).run();
        for (number, field) in [(1, "gzip"), (2, "br"), (3, "pied-piper")] {
            let (kind, message) = outcome.failure(number);
            assert!(
                kind == "protocol" && message.contains(field),
                "{runtime}: {message}"
            );
            assert_eq!(outcome.attempts(number), 2, "{runtime}, {field}");
        }
        outcome.run.expect(3);
    }
}
