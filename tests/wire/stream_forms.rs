//! Streams in every form in which servers send them: the table of streams over the wire, under any content
//! type, in any framing, asked for or not.

use serde_json::{Value, json};

use blaze_uring::mock::Scripted;

use crate::batch::{Batch, content};
use crate::support::{runtimes, scripted};

/// The same streams as the unit tests have, with the JSON that each becomes.
const STREAMS: &str = include_str!("../../src/batch/stream/streams.jsonl");

struct Stream {
    name: String,
    /// The request's path, and whether it can be told that a stream is wanted.
    path: &'static str,
    body: String,
    expect: Value,
}

fn streams() -> Vec<Stream> {
    let streams = STREAMS.lines().map(|line| {
        let case: Value = serde_json::from_str(line).expect("a case is JSON");
        let events = case["events"].as_array().expect("events");
        let text = case["text"].as_str();
        Stream {
            name: case["name"].as_str().expect("a name").to_owned(),
            path: match case["path"].as_str() {
                Some("chat") => "/v1/chat/completions",
                Some("completions") => "/v1/completions",
                Some("responses") => "/v1/responses",
                _ => "/v1/messages",
            },
            body: events
                .iter()
                .map(|event| event.as_str().expect("lines").to_owned() + "\n\n")
                .collect(),
            expect: match text {
                Some(text) => serde_json::from_str(text).expect("JSON"),
                None => case["expect"].clone(),
            },
        }
    });
    streams.collect()
}

/// Heads and framings that a stream comes under, by turns.
fn answer(form: usize, body: &str) -> Scripted {
    let kind = [
        "content-type: text/event-stream; charset=utf-8\r\n",
        "content-type: application/json\r\n",
        "content-type: text/plain\r\n",
        "",
    ][form % 4];
    let (start, end) = body.split_at(body.floor_char_boundary(body.len() / 3));
    match form % 3 {
        0 => Scripted::raw(format!(
            "HTTP/1.1 200 OK\r\n{kind}content-length: {}\r\n\r\n{body}",
            body.len()
        )),
        1 => Scripted::raw(format!(
            "HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n\r\n{:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
            start.len(),
            end.len()
        )),
        _ => Scripted::raw(format!(
            "HTTP/1.1 200 OK\r\n{kind}connection: close\r\n\r\n{body}"
        ))
        .then_close(),
    }
}

fn request(path: &str, content: &str, streams: bool) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": content}]});
    if streams {
        body["stream"] = true.into();
    }
    json!({"url": path, "body": body}).to_string()
}

#[test]
fn every_stream_becomes_its_record_under_any_head_asked_for_or_not() {
    let streams = streams();
    for runtime in runtimes() {
        let sent = self::streams();
        // A request's content is the number of its stream and of its form.
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let (stream, form) = content.split_once('/').expect("two numbers");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            Some(answer(number(form), &sent[number(stream)].body))
        });
        let mut lines = Vec::new();
        let mut sent = Vec::new();
        for (at, stream) in streams.iter().enumerate() {
            for (asked, form) in [(true, at), (true, at + 5), (false, at + 2)] {
                // Bare JSON is a stream only for those who wait for one.
                let asked = asked || stream.body.starts_with('{');
                lines.push(request(stream.path, &format!("{at}/{form}"), asked));
                sent.push((stream, asked, form));
            }
        }
        let batch = Batch {
            lines,
            ..Batch::chat(runtime, &mock.url("/v1"), [])
        };
        let outcome = batch.run();
        let mut wrong = Vec::new();
        for (number, (stream, asked, form)) in (1_u64..).zip(sent) {
            let record = outcome.answers.get(&number);
            let response = record.map(|record| &record["response"]);
            if response != Some(&stream.expect) {
                let failure = outcome.failures.get(&number);
                wrong.push(format!(
                    "{} (form {form}, asked: {asked}): {response:?} {failure:?}",
                    stream.name
                ));
                continue;
            }
            let ttft = &record.expect("it is there")["metadata"]["ttft_ms"];
            let is_told = asked && !stream.body.starts_with('{');
            assert_eq!(ttft.is_u64(), is_told, "{runtime}, {}", stream.name);
        }
        assert!(wrong.is_empty(), "{runtime}:\n{}", wrong.join("\n"));
        outcome.run.expect(0);
    }
}

/// What the answer to a request for a stream may be besides one, and what becomes of it.
const OTHERS: [(&str, &str, Result<&str, &str>); 6] = [
    (
        "plain JSON",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#,
        Ok("a"),
    ),
    (
        "plain JSON behind spaces",
        "  \n\n {\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
        Ok("a"),
    ),
    ("a page", "<html>busy</html>", Err("not_json")),
    (
        "one of two choices has not ended",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"},{\"index\":1,\"delta\":{\"content\":\"b\"},\"finish_reason\":null}]}\n\n",
        Err("protocol"),
    ),
    (
        "the last event is cut",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usa",
        Err("protocol"),
    ),
    (
        "a bare error in the middle",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n{\"error\":{\"message\":\"gone\",\"code\":503}}\n",
        Err("server_error"),
    ),
];

#[test]
fn what_is_no_whole_stream_is_an_answer_or_a_failure() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let content = content(&request.body);
            let (other, form) = content.split_once('/').expect("two numbers");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            Some(answer(number(form), OTHERS[number(other)].1))
        });
        let forms = (0..OTHERS.len()).flat_map(|other| (0..4).map(move |form| (other, form)));
        let forms: Vec<(usize, usize)> = forms.collect();
        let lines = forms
            .iter()
            .map(|(other, form)| request("/v1/chat/completions", &format!("{other}/{form}"), true));
        let batch = Batch {
            lines: lines.collect(),
            ..Batch::chat(runtime, &mock.url("/v1"), [])
        };
        let outcome = batch.run();
        for (number, (other, form)) in (1_u64..).zip(forms) {
            let (name, _, expect) = OTHERS[other];
            let what = format!("{runtime}, {name}, form {form}");
            match expect {
                Ok(text) => {
                    let answer = outcome.answer(number);
                    assert_eq!(answer["choices"][0]["message"]["content"], text, "{what}");
                    let ttft = &outcome.answers[&number]["metadata"]["ttft_ms"];
                    assert!(ttft.is_null(), "{what}");
                }
                Err(kind) => assert_eq!(outcome.failure(number).0, kind, "{what}"),
            }
        }
        outcome.run.expect(3);
    }
}

/// How a server may fail to end the body of a stream that has said that it is complete.
const ENDLESS: [(&str, bool); 5] = [
    ("transfer-encoding: chunked\r\n", true),
    ("transfer-encoding: chunked\r\n", false),
    ("content-length: 99999\r\n", true),
    ("content-length: 99999\r\n", false),
    ("connection: close\r\n", false),
];

#[test]
fn a_stream_that_says_that_it_is_complete_is_not_waited_for() {
    let ends: [(&str, &str, &str); 3] = [
        (
            "/v1/chat/completions",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
            "choices",
        ),
        (
            "/v1/responses",
            "data: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"a\"}]}]}}\n\n",
            "output",
        ),
        (
            "/v1/messages",
            "data: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
            "content",
        ),
    ];
    for runtime in runtimes() {
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let (end, form) = content.split_once('/').expect("two numbers");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            let (framing, closes) = ENDLESS[number(form)];
            let events = ends[number(end)].1;
            let body = match framing.starts_with("transfer") {
                true => format!("{:x}\r\n{events}\r\n", events.len()),
                false => events.to_owned(),
            };
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{framing}\r\n");
            let answer = Scripted::raw(head + &body);
            Some(match closes {
                true => answer.then_close(),
                false => answer.then_hang(),
            })
        });
        let forms = (0..ends.len()).flat_map(|end| (0..ENDLESS.len()).map(move |form| (end, form)));
        let forms: Vec<(usize, usize)> = forms.collect();
        let lines = forms
            .iter()
            .map(|(end, form)| request(ends[*end].0, &format!("{end}/{form}"), true));
        let batch = Batch {
            lines: lines.collect(),
            ..Batch::chat(runtime, &mock.url("/v1"), [])
        };
        // Nobody waits for so long, so whatever comes has come without it.
        let outcome = batch.with(&["--timeout", "1000"]).run();
        for (number, (end, form)) in (1_u64..).zip(forms) {
            let answer = &outcome.answer(number)[ends[end].2];
            let is_there = answer.as_array().is_some_and(|list| !list.is_empty());
            assert!(is_there, "{runtime}, {}, {:?}", ends[end].0, ENDLESS[form]);
        }
        outcome.run.expect(0);
    }
}
