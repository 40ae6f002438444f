//! `streams.jsonl`: one stream a line, with the JSON that it becomes. `events` are blocks of lines, to each of
//! which a blank line is added; `expect` is what comes of them, `text` that to the byte. Where there is a
//! `judge`, its SDK gets the same (`scripts/streams_sdk.py`).

use serde_json::Value;

use super::*;

const STREAMS: &str = include_str!("streams.jsonl");

/// Enough for every stream here.
const CAP: usize = 1 << 20;

struct Case {
    name: String,
    path: ApiPath,
    stream: String,
    expect: Option<Value>,
    text: Option<String>,
}

fn cases() -> Vec<Case> {
    let cases = STREAMS.lines().map(|line| {
        let case: Value = serde_json::from_str(line).expect("a case is JSON");
        let events = case["events"].as_array().expect("events");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Case {
            name: text(&case["name"]).expect("a name"),
            path: match case["path"].as_str() {
                Some("chat") => ApiPath::ChatCompletions,
                Some("completions") => ApiPath::Completions,
                Some("responses") => ApiPath::Responses,
                Some("messages") => ApiPath::Messages,
                path => panic!("{path:?} is no path"),
            },
            stream: events
                .iter()
                .map(|event| event.as_str().expect("lines").to_owned() + "\n\n")
                .collect(),
            expect: case.get("expect").cloned(),
            text: text(&case["text"]),
        }
    });
    cases.collect()
}

fn read<'a>(path: ApiPath, pieces: impl IntoIterator<Item = &'a [u8]>) -> StreamReply {
    let mut reply = StreamReply::new(path, CAP);
    for piece in pieces {
        reply.feed(piece, runtime::now());
    }
    reply
}

fn assembled<'a>(path: ApiPath, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let assembled = read(path, pieces).finish();
    let assembled = assembled.unwrap_or_else(|broken| panic!("{path:?}: {}", broken.error));
    assert!(assembled.first_token_at.is_some(), "{path:?}");
    String::from_utf8(assembled.body).expect("JSON is UTF-8")
}

#[test]
fn streams_become_what_was_asked_for() {
    let mut wrong = Vec::new();
    for case in cases() {
        let reply = read(case.path, [case.stream.as_bytes()]);
        if !reply.is_events() {
            // Lines of bare JSON, which only the whole body shows to be a stream.
            let whole = read_whole(case.stream.as_bytes(), true).expect("a stream");
            let body = whole.unwrap_or_else(|broken| panic!("{}: {}", case.name, broken.error));
            let value: Value = serde_json::from_slice(&body.body).expect("JSON");
            assert_eq!(Some(value), case.expect, "{}", case.name);
            continue;
        }
        let json = match reply.finish() {
            Ok(assembled) => String::from_utf8(assembled.body).expect("JSON is UTF-8"),
            Err(broken) => broken.error.to_string(),
        };
        let value = serde_json::from_str::<Value>(&json).ok();
        let right = case.expect.is_none() || value == case.expect;
        let right = right && case.text.as_ref().is_none_or(|text| *text == json);
        if !right || json.contains('\n') {
            let expect = case
                .expect
                .map_or(case.text.unwrap_or_default(), |it| it.to_string());
            wrong.push(format!("{}:\n  {json}\nis not\n  {expect}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_split_of_the_bytes_and_every_line_end_gives_the_same_answer() {
    for case in cases() {
        if !read(case.path, [case.stream.as_bytes()]).is_events() {
            continue;
        }
        let expect = assembled(case.path, [case.stream.as_bytes()]);
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = case.stream.replace('\n', line_end);
            // The last event counts without its line ends.
            for stream in [stream.trim_end(), &stream, &format!("\u{feff} \n{stream}")] {
                let bytes = stream.as_bytes();
                let same = |pieces: &mut dyn Iterator<Item = &[u8]>, how: &str| {
                    let json = assembled(case.path, pieces);
                    assert_eq!(json, expect, "{}, {line_end:?}, {how}", case.name);
                };
                same(&mut bytes.chunks(1), "byte by byte");
                same(&mut bytes.chunks(3), "three by three");
                // A prime, so that the cuts wander through every kind of event.
                for cut in (0..=bytes.len()).step_by(101) {
                    let (first, second) = bytes.split_at(cut);
                    same(&mut [first, second].into_iter(), &format!("cut at {cut}"));
                }
            }
        }
    }
}

#[test]
fn a_stream_that_is_cut_is_whole_only_if_everything_in_it_has_ended() {
    for case in cases() {
        let bytes = case.stream.trim_end().as_bytes();
        if !read(case.path, [bytes]).is_events() {
            continue;
        }
        let whole = assembled(case.path, [bytes]);
        // The last events byte by byte, those before at cuts that wander through them.
        let tail = bytes.len().saturating_sub(64);
        for cut in (0..tail).step_by(23).chain(tail..bytes.len()) {
            let Ok(assembled) = read(case.path, [&bytes[..cut]]).finish() else {
                continue;
            };
            let json = String::from_utf8(assembled.body).expect("JSON is UTF-8");
            let value: Value = serde_json::from_str(&json).expect("JSON");
            let ended = match value["choices"].as_array() {
                Some(choices) => choices
                    .iter()
                    .all(|choice| choice["finish_reason"].is_string()),
                None => value["stop_reason"].is_string(),
            };
            assert!(
                json == whole || ended,
                "{}, cut at {cut}: {json}",
                case.name
            );
        }
    }
}

/// A stream of each API, as servers write it: names, comments, pings, data of several lines,
/// characters of several bytes. Beside it what the same request would have returned.
const SMALL: [(ApiPath, &str, &str); 4] = [
    (
        ApiPath::ChatCompletions,
        concat!(
            ": keep-alive\n\n",
            r#"data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"Grü"}}]}"#,
            "\n\ndata:{\"id\":\"c\",\ndata:",
            r#""choices":[{"index":0,"delta":{"content":"ß 😀"}}]}"#,
            "\nid: 7\nretry: 10\n\n",
            r#"data: {"choices":[],"usage":{"total_tokens":3}}"#,
            "\n\ndata: [DONE]\n\n",
        ),
        r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Grüß 😀"},"logprobs":null,"finish_reason":null}],"usage":{"total_tokens":3},"object":"chat.completion"}"#,
    ),
    (
        ApiPath::Completions,
        concat!(
            r#"data: {"choices":[{"index":0,"text":"a"}]}"#,
            "\n\n:\n\n",
            r#"data: {"choices":[{"index":0,"text":"b"}]}"#,
            "\n\ndata: [DONE]\n\n",
        ),
        r#"{"choices":[{"index":0,"text":"ab","logprobs":null,"finish_reason":null}],"object":"text_completion"}"#,
    ),
    (
        ApiPath::Responses,
        concat!(
            "event: response.output_text.delta\n",
            r#"data: {"type":"response.output_text.delta","delta":"é"}"#,
            "\n\nevent: response.completed\n",
            r#"data: {"type":"response.completed","response":{"id":"r","output":["é"]}}"#,
            "\n\n",
        ),
        r#"{"id":"r","output":["é"]}"#,
    ),
    (
        ApiPath::Messages,
        concat!(
            "event: message_start\n",
            r#"data: {"type":"message_start","message":{"id":"m","content":[]}}"#,
            "\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\nevent: content_block_start\n",
            r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","input":{}}}"#,
            "\n\nevent: content_block_delta\n",
            r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
            "\n\nevent: content_block_delta\n",
            r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
            "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ),
        r#"{"id":"m","content":[{"type":"tool_use","input":{"a":1}}]}"#,
    ),
];

#[test]
fn every_split_of_the_bytes_gives_these_very_bytes() {
    for (path, stream, expect) in SMALL {
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = stream.replace('\n', line_end);
            let bytes = stream.as_bytes();
            for cut in 0..=bytes.len() {
                let (first, second) = bytes.split_at(cut);
                let whole = assembled(path, [first, second]);
                assert_eq!(whole, expect, "{path:?}, {line_end:?}, cut at {cut}");
            }
            assert_eq!(assembled(path, bytes.chunks(1)), expect, "{line_end:?}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_is_broken_wherever_it_is_cut() {
    for (path, stream, _) in SMALL {
        // The last event needs no line end.
        for cut in 0..stream.trim_end().len() {
            let mut reply = StreamReply::new(path, 1 << 20);
            reply.feed(&stream.as_bytes()[..cut], runtime::now());
            assert!(reply.finish().is_err(), "{path:?}, cut at {cut}");
        }
    }
}

#[test]
fn what_a_stream_is_its_bytes_say() {
    let event = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
    let body = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"logprobs":null,"finish_reason":"stop"}],"object":"chat.completion"}"#;
    let chunk = &event["data: ".len()..];
    let content = |read: Option<Result<Assembled, Broken>>| {
        read.map(|read| match read {
            Ok(assembled) => String::from_utf8(assembled.body).expect("JSON is UTF-8"),
            Err(broken) => broken.error.to_string(),
        })
    };
    let check = |sent: &str, expected: bool, expect: Option<&str>| {
        let read = content(read_whole(sent.as_bytes(), expected));
        assert_eq!(read.as_deref(), expect, "{sent:?}, expected: {expected}");
    };
    for padding in ["", "\u{feff}", " \n\n", ": wait\n\n", "id: 1\nretry: 10\n"] {
        for expected in [false, true] {
            check(&format!("{padding}{event}"), expected, Some(body));
        }
    }
    // Bare JSON, and what the standard ignores, count where a stream is expected.
    check(chunk, true, None);
    check(&format!("{chunk}\n{chunk}"), false, None);
    let twice = body.replace(r#""a""#, r#""aa""#);
    check(&format!("{chunk}\n{chunk}"), true, Some(&twice));
    check(&format!("hello\n\n{event}"), true, Some(body));
    check(&format!("hello\n\n{event}"), false, None);
    // Other bodies are none, also where a stream is expected.
    for other in [
        "<html>",
        "oops",
        r#"{"choices":"#,
        "{}",
        "[1]",
        "data",
        "{\n}",
    ] {
        check(other, false, None);
        let expect = (other == "data").then_some("the stream ended before [DONE]");
        check(other, true, expect);
    }
    check("", false, None);
    check("", true, Some("the stream ended before [DONE]"));
    check("data: [DONE]", false, Some("the stream held no event"));
    check(
        "data: {\"choices\":",
        false,
        Some(
            "an event of the stream is not a JSON object: EOF while parsing a value at line 1 column 11",
        ),
    );
}

/// So many pieces that anything which looks at all of them for each would not come to an end.
const MANY: usize = 20_000;

#[test]
fn large_streams_take_time_and_memory_in_proportion() {
    let read = |path: ApiPath, events: &mut dyn Iterator<Item = String>| {
        let mut reply = StreamReply::new(path, 1 << 30);
        for event in events {
            reply.feed(event.as_bytes(), runtime::now());
        }
        let body = reply
            .finish()
            .unwrap_or_else(|broken| panic!("{}", broken.error))
            .body;
        serde_json::from_slice::<Value>(&body).expect("JSON")
    };
    let delta = |delta: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}],\"citations\":[\"u\"],\"usage\":{{\"total_tokens\":1}}}}\n\n"
        )
    };
    let end = || std::iter::once("data: [DONE]\n\n".to_owned());
    let message = |piece: &str| {
        let mut events = std::iter::repeat_n(delta(piece), MANY).chain(end());
        read(ApiPath::ChatCompletions, &mut events)["choices"][0]["message"].take()
    };
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    assert_eq!(length(&message(r#"{"content":"ab"}"#)["content"]), 2 * MANY);
    assert_eq!(length(&message(r#"{"unknown":"ab"}"#)["unknown"]), 2);
    let call = message(
        r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
    );
    assert_eq!(call["tool_calls"].as_array().map(Vec::len), Some(1));
    let call =
        message(r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"["}}]}"#);
    assert_eq!(
        length(&call["tool_calls"][0]["function"]["arguments"]),
        MANY
    );
    let parts = message(r#"{"content":[{"type":"text","text":"ab"}]}"#);
    assert_eq!(length(&parts["content"][0]["text"]), 2 * MANY);
    let thoughts =
        message(r#"{"reasoning_details":[{"type":"reasoning.text","text":"ab","index":0}]}"#);
    assert_eq!(length(&thoughts["reasoning_details"][0]["text"]), 2 * MANY);
    let images = (0..MANY).map(|at| delta(&format!(r#"{{"images":[{{"url":"{at}"}}]}}"#)));
    let images = read(ApiPath::ChatCompletions, &mut images.chain(end()));
    let images = &images["choices"][0]["message"]["images"];
    assert_eq!(images.as_array().map(Vec::len), Some(MANY));

    let text =
        r#"{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"ab"}"#;
    let events = std::iter::repeat_n(format!("data: {text}\n\n"), MANY);
    let done = r#"data: {"type":"response.completed","response":{"output":[]}}"#.to_owned();
    let response = read(ApiPath::Responses, &mut events.chain([done]));
    assert_eq!(
        length(&response["output"][0]["content"][0]["text"]),
        2 * MANY
    );

    // White space that keeps a connection alive, byte by byte.
    let spaces = std::iter::repeat_n(" ".to_owned(), MANY);
    let start = std::iter::once("\u{feff}".to_owned());
    let mut events = start
        .chain(spaces)
        .chain([delta(r#"{"content":"a"}"#)])
        .chain(end());
    let answer = read(ApiPath::Other, &mut events);
    assert_eq!(answer["choices"][0]["message"]["content"], "a");
}
