//! `"stream": true`: the record is what the same request would have returned without it.

use std::collections::HashMap;
use std::sync::Mutex;

use blaze_uring::mock::Scripted;
use serde_json::{Value, json};

use crate::batch::{Batch, content};
use crate::support::{mock, runtimes, scripted};

#[test]
fn a_streamed_answer_equals_the_plain_one() {
    let message = json!([{"role": "user", "content": "tell me"}]);
    let usage = json!({"include_usage": true});
    let requests = [
        (
            "/v1/chat/completions",
            json!({"messages": message, "n": 3}),
            Some(&usage),
        ),
        (
            "/v1/completions",
            json!({"prompt": ["a", "b"], "n": 2}),
            Some(&usage),
        ),
        ("/v1/responses", json!({"input": "tell me"}), None),
        (
            "/v1/messages",
            json!({"messages": message, "max_tokens": 40}),
            None,
        ),
    ];
    for runtime in runtimes() {
        let mock = mock();
        let mut lines = Vec::new();
        for (url, body, options) in &requests {
            let mut streamed = body.clone();
            streamed["stream"] = true.into();
            if let Some(options) = options {
                streamed["stream_options"] = (*options).clone();
            }
            for body in [body, &streamed] {
                lines.push(json!({"url": url, "body": body}).to_string());
            }
        }
        let batch = Batch {
            lines,
            ..Batch::chat(runtime, &mock.url("/v1"), [])
        };
        let outcome = batch.run();
        for (index, (url, ..)) in (0_u64..).zip(&requests) {
            let (plain, streamed) = (2 * index + 1, 2 * index + 2);
            assert_eq!(
                outcome.answer(plain),
                outcome.answer(streamed),
                "{runtime}, {url}"
            );
            let ttft = |number: u64| &outcome.answers[&number]["metadata"]["ttft_ms"];
            assert!(ttft(plain).is_null(), "{runtime}, {url}");
            let latency = &outcome.answers[&streamed]["metadata"]["latency_ms"];
            assert!(
                ttft(streamed).as_u64() <= latency.as_u64(),
                "{runtime}, {url}"
            );
            assert!(ttft(streamed).is_u64(), "{runtime}, {url}");
        }
        outcome.run.expect(0);
    }
}

fn event_stream(events: &[String]) -> Scripted {
    let body: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    Scripted::raw(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn delta(delta: &Value, finish: Option<&str>) -> String {
    json!({
        "id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    })
    .to_string()
}

#[test]
fn tool_calls_are_put_together() {
    let call = |index: u32, fields: Value| {
        let mut call = fields;
        call["index"] = index.into();
        delta(&json!({"tool_calls": [call]}), None)
    };
    let events = [
        delta(&json!({"role": "assistant", "content": null}), None),
        call(
            0,
            json!({"id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}),
        ),
        call(0, json!({"function": {"arguments": "{\"x\":"}})),
        call(
            1,
            json!({"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
        ),
        call(0, json!({"function": {"arguments": "1}"}})),
        delta(&json!({}), Some("tool_calls")),
        "[DONE]".to_owned(),
    ];
    let expect = json!([
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
        {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]);
    for runtime in runtimes() {
        let events = events.clone();
        let mock = scripted(move |_| Some(event_stream(&events)));
        let outcome = streamed(runtime, &mock.url("/v1/chat/completions"), &["call"]).run();
        let choice = &outcome.answer(1)["choices"][0];
        assert_eq!(choice["message"]["tool_calls"], expect, "{runtime}");
        assert_eq!(choice["finish_reason"], "tool_calls", "{runtime}");
        assert_eq!(outcome.answer(1)["object"], "chat.completion", "{runtime}");
        outcome.run.expect(0);
    }
}

/// Streamed chat lines with these contents, one attempt each.
fn streamed(runtime: &'static str, url: &str, contents: &[&str]) -> Batch {
    let line = |content: &&str| {
        let messages = json!([{"role": "user", "content": content}]);
        json!({"body": {"model": "m", "stream": true, "messages": messages}}).to_string()
    };
    Batch {
        lines: contents.iter().map(line).collect(),
        ..Batch::chat(runtime, url, [])
    }
}

fn whole(content: &str) -> Vec<String> {
    vec![
        delta(&json!({"role": "assistant", "content": content}), None),
        delta(&json!({}), Some("stop")),
        "[DONE]".to_owned(),
    ]
}

/// What a broken stream looks like, and what it is called.
const BROKEN: [(&str, &str, &str); 6] = [
    ("ends early", "protocol", "the stream ended before [DONE]"),
    ("is cut", "protocol", "connection closed after"),
    ("fails", "server_error", "error in the stream: it broke"),
    (
        "is limited",
        "rate_limited",
        "error in the stream: too fast",
    ),
    ("is no JSON", "protocol", "not a JSON object"),
    ("is empty", "protocol", "the stream"),
];

fn broken(content: &str) -> Option<Scripted> {
    let mut events = whole(content);
    Some(match content {
        "ends early" => event_stream(&events[..1]),
        "is cut" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n";
            Scripted::raw(format!("{head}data: {}\n\n", events[0])).then_close()
        }
        "fails" => {
            events[1] =
                json!({"error": {"message": "it broke", "type": "server_error"}}).to_string();
            event_stream(&events)
        }
        "is limited" => {
            events[1] =
                json!({"error": {"message": "too fast", "type": "rate_limit_error"}}).to_string();
            event_stream(&events)
        }
        "is no JSON" => {
            events[1] = "{\"choices\":".to_owned();
            event_stream(&events)
        }
        "is empty" => event_stream(&[]),
        _ => return None,
    })
}

#[test]
fn a_broken_stream_is_a_failed_attempt() {
    let names = BROKEN.map(|(name, ..)| name);
    let mut contents = Vec::new();
    for name in names {
        contents.extend([name, "good"]);
    }
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let content = content(&request.body);
            broken(&content).or_else(|| Some(event_stream(&whole(&content))))
        });
        let url = mock.url("/v1/chat/completions");
        let outcome = streamed(runtime, &url, &contents)
            .with(&["--workers", "1"])
            .run();
        for (index, (name, kind, text)) in (0_u64..).zip(BROKEN) {
            let failure = outcome.failure(2 * index + 1);
            assert!(
                failure.0 == kind && failure.1.contains(text),
                "{runtime}, {name}: {failure:?}"
            );
            let good = &outcome.answer(2 * index + 2)["choices"][0]["message"]["content"];
            assert_eq!(good, "good", "{runtime}, after {name}");
        }
        outcome.run.expect(3);

        let seen = Mutex::new(HashMap::<String, u32>::new());
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let mut seen = seen.lock().expect("no script panics");
            let times = seen.entry(content.clone()).or_default();
            *times += 1;
            let first = (*times == 1).then(|| broken(&content)).flatten();
            first.or_else(|| Some(event_stream(&whole(&content))))
        });
        let url = mock.url("/v1/chat/completions");
        let batch = streamed(runtime, &url, &names).with(&["--max-attempts", "3"]);
        let outcome = batch.run();
        for (number, name) in (1..).zip(names) {
            let text = &outcome.answer(number)["choices"][0]["message"]["content"];
            assert_eq!(text, name, "{runtime}");
            assert_eq!(outcome.attempts(number), 2, "{runtime}, {name}");
        }
        outcome.run.expect(0);
    }
}
