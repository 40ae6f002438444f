//! The answers: deterministic by the identity of a request, plain and streamed. Pure.

mod chat;
mod embeddings;
mod messages;
mod responses;
mod text;

use std::fmt::{self, Write as _};

use super::request::ApiRequest;
use super::route::Api;
use text::Text;

/// When every answer was created: answers repeat, so their time does too. 2026-01-01T00:00:00Z.
const CREATED: u64 = 1_767_225_600;

/// A stream carries at most about this many text events; longer texts put several words into one.
const TEXT_EVENTS_MAX: usize = 4096;

/// The body of a 200.
#[derive(Debug)]
pub(super) enum Answer {
    /// One JSON document, which took this many tokens.
    Whole { body: String, tokens: u64 },
    /// Server-sent events.
    Events(Events),
}

/// Server-sent events, one after the other in `text`.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub text: String,
    /// For each event where it ends in `text`, and how many tokens have been made by then.
    pub marks: Vec<(usize, u64)>,
}

impl Events {
    /// Appends an event without a name, as OpenAI's chat sends them.
    fn data(&mut self, tokens: u64, data: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "data: {data}\n\n");
        self.marks.push((self.text.len(), tokens));
    }

    /// Appends an event with a name.
    fn named(&mut self, name: &str, tokens: u64, data: fmt::Arguments<'_>) {
        let _ = write!(self.text, "event: {name}\ndata: {data}\n\n");
        self.marks.push((self.text.len(), tokens));
    }
}

/// Answers a checked request. `text_bytes` asks for texts of about that length.
pub(super) fn answer(api: Api, request: &ApiRequest<'_>, text_bytes: Option<usize>) -> Answer {
    match api {
        Api::Chat | Api::Completions => chat::answer(api, request, text_bytes),
        Api::Embeddings => embeddings::answer(request),
        Api::Responses => responses::answer(request, text_bytes),
        Api::Messages => messages::answer(request, text_bytes),
    }
}

/// The list at `/v1/models`.
pub(super) fn models() -> String {
    let models = ["mock-1", "mock-embedding-1"];
    let entries = models.map(|model| {
        format!(
            r#"{{"id":"{model}","object":"model","created":{CREATED},"owned_by":"blaze-uring"}}"#
        )
    });
    format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
}

/// A string as JSON, quotes included.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;

    fn answer_to(api: Api, body: &str, text_bytes: Option<usize>) -> Answer {
        answer(
            api,
            &ApiRequest::parse(api, None, 1, body.as_bytes()).unwrap(),
            text_bytes,
        )
    }

    fn whole(api: Api, body: &str) -> Value {
        match answer_to(api, body, None) {
            Answer::Whole { body, .. } => serde_json::from_str(&body).unwrap(),
            Answer::Events(_) => panic!("{body} was streamed"),
        }
    }

    /// The events' data, with `[DONE]` as a string; asserts that the marks divide the text into events.
    fn events(api: Api, body: &str) -> Vec<Value> {
        let Answer::Events(events) = answer_to(api, body, None) else {
            panic!("{body} was not streamed")
        };
        let mut from = 0;
        let mut data = Vec::new();
        for &(end, _) in &events.marks {
            let event = events.text[from..end].strip_suffix("\n\n").unwrap();
            let line = event
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .unwrap();
            let value = if line == "[DONE]" {
                json!("[DONE]")
            } else {
                serde_json::from_str(line).unwrap()
            };
            if let Some(name) = event.strip_prefix("event: ") {
                assert!(name.starts_with(value["type"].as_str().unwrap()), "{event}");
            }
            data.push(value);
            from = end;
        }
        assert_eq!(from, events.text.len());
        assert!(events.marks.is_sorted());
        data
    }

    #[test]
    fn chat_has_its_shape_and_counts() {
        let body = r#"{"model":"m\"1","messages":[{"role":"user","content":"hi"}],"n":2}"#;
        let chat = whole(Api::Chat, body);
        assert_eq!(chat, whole(Api::Chat, body));
        assert_eq!(
            (&chat["object"], &chat["model"]),
            (&json!("chat.completion"), &json!("m\"1"))
        );
        let words: usize = (0..2)
            .map(|index| {
                let choice = &chat["choices"][index];
                assert_eq!(
                    (&choice["index"], &choice["finish_reason"]),
                    (&json!(index), &json!("stop"))
                );
                choice["message"]["content"]
                    .as_str()
                    .unwrap()
                    .split(' ')
                    .count()
            })
            .sum();
        assert_eq!(chat["usage"]["completion_tokens"], words);
        // 32 bytes of messages are 8 tokens.
        assert_eq!(chat["usage"]["total_tokens"], 8 + words);
        assert_ne!(chat["choices"][0]["message"], chat["choices"][1]["message"]);
        assert_ne!(
            chat["id"],
            whole(
                Api::Chat,
                r#"{"messages":[{"role":"user","content":"ho"}]}"#
            )["id"]
        );
    }

    #[test]
    fn a_token_limit_cuts_the_text() {
        let chat = whole(Api::Chat, r#"{"messages":[1],"max_tokens":3}"#);
        assert_eq!(chat["choices"][0]["finish_reason"], "length");
        assert_eq!(chat["usage"]["completion_tokens"], 3);
        let responses = whole(Api::Responses, r#"{"input":"a","max_output_tokens":3}"#);
        assert_eq!(responses["status"], "incomplete");
        assert_eq!(
            responses["incomplete_details"]["reason"],
            "max_output_tokens"
        );
        let message = whole(Api::Messages, r#"{"messages":[1],"max_tokens":3}"#);
        assert_eq!(
            (&message["stop_reason"], &message["usage"]["output_tokens"]),
            (&json!("max_tokens"), &json!(3))
        );
    }

    #[test]
    fn a_streamed_chat_says_what_the_plain_one_says() {
        for (api, prompt) in [
            (Api::Chat, r#""messages":[1]"#),
            (Api::Completions, r#""prompt":["a","b"]"#),
        ] {
            let plain = whole(api, &format!(r#"{{{prompt},"n":2}}"#));
            let mut chunks = events(
                api,
                &format!(
                    r#"{{{prompt},"n":2,"stream":true,"stream_options":{{"include_usage":true}}}}"#
                ),
            );
            assert_eq!(chunks.pop(), Some(json!("[DONE]")));
            let last = chunks.pop().unwrap();
            assert_eq!(
                (&last["usage"], &last["choices"]),
                (&plain["usage"], &json!([]))
            );
            for choice in plain["choices"].as_array().unwrap() {
                let (mut text, mut finish) = (String::new(), Vec::new());
                for chunk in &chunks {
                    assert_eq!(chunk["id"], plain["id"]);
                    let part = &chunk["choices"][0];
                    if part["index"] == choice["index"] {
                        text += part["delta"]["content"]
                            .as_str()
                            .or(part["text"].as_str())
                            .unwrap_or("");
                        finish.extend(part["finish_reason"].as_str());
                    }
                }
                assert_eq!(
                    text,
                    choice["message"]["content"]
                        .as_str()
                        .or(choice["text"].as_str())
                        .unwrap()
                );
                assert_eq!(finish, [choice["finish_reason"].as_str().unwrap()]);
            }
            let without = events(api, &format!(r#"{{{prompt},"stream":true}}"#));
            assert!(without.iter().all(|chunk| chunk.get("usage").is_none()));
        }
    }

    #[test]
    fn streamed_responses_end_in_the_plain_response() {
        let plain = whole(Api::Responses, r#"{"input":"a"}"#);
        let events = events(Api::Responses, r#"{"input":"a","stream":true}"#);
        let kinds: Vec<_> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds[..4],
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added"
            ]
        );
        let text: String = events
            .iter()
            .filter_map(|event| event["delta"].as_str())
            .collect();
        assert_eq!(
            text,
            plain["output"][0]["content"][0]["text"].as_str().unwrap()
        );
        let last = events.last().unwrap();
        assert_eq!(
            (&last["type"], &last["response"]),
            (&json!("response.completed"), &plain)
        );
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
    }

    #[test]
    fn streamed_messages_say_what_the_plain_message_says() {
        let plain = whole(Api::Messages, r#"{"messages":[1],"max_tokens":99}"#);
        let events = events(
            Api::Messages,
            r#"{"messages":[1],"max_tokens":99,"stream":true}"#,
        );
        let text: String = events
            .iter()
            .filter_map(|event| event["delta"]["text"].as_str())
            .collect();
        assert_eq!(text, plain["content"][0]["text"].as_str().unwrap());
        assert_eq!(events[0]["message"]["id"], plain["id"]);
        let delta = &events[events.len() - 2];
        assert_eq!(delta["delta"]["stop_reason"], plain["stop_reason"]);
        assert_eq!(
            delta["usage"]["output_tokens"],
            plain["usage"]["output_tokens"]
        );
        assert_eq!(events.last().unwrap()["type"], "message_stop");
    }

    #[test]
    fn embeddings_are_unit_vectors_in_both_encodings() {
        let floats = whole(Api::Embeddings, r#"{"input":["a","b"],"dimensions":256}"#);
        let encoded = whole(
            Api::Embeddings,
            r#"{"input":["a","b"],"dimensions":256,"encoding_format":"base64"}"#,
        );
        let vector = |index: usize| -> Vec<f32> {
            serde_json::from_value(floats["data"][index]["embedding"].clone()).unwrap()
        };
        for index in 0..2 {
            let norm: f32 = vector(index).iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-4, "{norm}");
            let bytes: Vec<u8> = vector(index).iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(
                encoded["data"][index]["embedding"].as_str().unwrap(),
                STANDARD.encode(&bytes)
            );
        }
        assert_eq!(vector(0).len(), 256);
        assert_ne!(vector(0), vector(1));
        assert_eq!(vector(1), {
            let alone = whole(Api::Embeddings, r#"{"input":"b","dimensions":256}"#);
            serde_json::from_value::<Vec<f32>>(alone["data"][0]["embedding"].clone()).unwrap()
        });
    }

    #[test]
    fn texts_can_be_made_long() {
        for stream in [false, true] {
            let body = format!(r#"{{"messages":[1],"max_tokens":3,"stream":{stream}}}"#);
            match answer_to(Api::Chat, &body, Some(1 << 20)) {
                Answer::Whole { body, .. } => {
                    assert!((1 << 20..(1 << 20) + 1000).contains(&body.len()))
                }
                Answer::Events(events) => assert!(events.marks.len() < TEXT_EVENTS_MAX + 10),
            }
        }
    }

    #[test]
    fn the_model_list_is_json() {
        let models: Value = serde_json::from_str(&models()).unwrap();
        assert_eq!(models["data"][0]["id"], "mock-1");
    }
}
