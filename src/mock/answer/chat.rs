//! OpenAI chat completions and legacy completions, which differ in names only. Pure.

use std::fmt::Write as _;

use super::super::request::ApiRequest;
use super::super::route::Api;
use super::{Answer, CREATED, Events, Text, quoted};

pub(super) fn answer(api: Api, request: &ApiRequest<'_>, text_bytes: Option<usize>) -> Answer {
    let count = request.choices * request.inputs.len() as u64;
    let texts: Vec<_> = (0..count)
        .map(|index| Text::generate(request, index, text_bytes))
        .collect();
    if request.stream {
        Answer::Events(stream(api, request, &texts))
    } else {
        let tokens = texts.iter().map(Text::tokens).sum();
        Answer::Whole {
            body: plain(api, request, &texts),
            tokens,
        }
    }
}

fn plain(api: Api, request: &ApiRequest<'_>, texts: &[Text]) -> String {
    let object = if api == Api::Chat {
        "chat.completion"
    } else {
        "text_completion"
    };
    let mut body = opening(api, request, object);
    body += r#","choices":["#;
    for (index, text) in texts.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let content = text.join();
        let finish = finish_reason(text);
        // Writing to a string does not fail. The words need no escape.
        let _ = match api {
            Api::Chat => write!(
                body,
                r#"{comma}{{"index":{index},"message":{{"role":"assistant","content":"{content}","refusal":null}},"logprobs":null,"finish_reason":"{finish}"}}"#
            ),
            _ => write!(
                body,
                r#"{comma}{{"text":"{content}","index":{index},"logprobs":null,"finish_reason":"{finish}"}}"#
            ),
        };
    }
    let _ = write!(body, r#"],"usage":{}}}"#, usage(request, texts));
    body
}

fn stream(api: Api, request: &ApiRequest<'_>, texts: &[Text]) -> Events {
    let object = if api == Api::Chat {
        "chat.completion.chunk"
    } else {
        "text_completion"
    };
    let opening = opening(api, request, object);
    // With include_usage every chunk but the last has `"usage":null`.
    let usage_null = if request.include_usage {
        r#","usage":null"#
    } else {
        ""
    };
    let mut events = Events::default();
    let mut push = |tokens, index: usize, delta: &str, text: &str, finish: Option<&str>| {
        let finish = finish.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
        let content = if api == Api::Chat {
            format!(r#""delta":{delta}"#)
        } else {
            format!(r#""text":"{text}""#)
        };
        events.data(
            tokens,
            format_args!(
                r#"{opening},"choices":[{{"index":{index},{content},"logprobs":null,"finish_reason":{finish}}}]{usage_null}}}"#
            ),
        );
    };
    if api == Api::Chat {
        for index in 0..texts.len() {
            push(
                0,
                index,
                r#"{"role":"assistant","content":"","refusal":null}"#,
                "",
                None,
            );
        }
    }
    // The choices come one after the other; a client has to go by their index.
    let mut tokens_before = 0;
    for (index, text) in texts.iter().enumerate() {
        for (tokens, part) in text.parts() {
            push(
                tokens_before + tokens,
                index,
                &format!(r#"{{"content":"{part}"}}"#),
                &part,
                None,
            );
        }
        tokens_before += text.tokens();
        push(tokens_before, index, "{}", "", Some(finish_reason(text)));
    }
    if request.include_usage {
        let usage = usage(request, texts);
        events.data(
            tokens_before,
            format_args!(r#"{opening},"choices":[],"usage":{usage}}}"#),
        );
    }
    events.data(tokens_before, format_args!("[DONE]"));
    events
}

/// The members that every document of an answer begins with, without the closing brace.
fn opening(api: Api, request: &ApiRequest<'_>, object: &str) -> String {
    let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
    format!(
        r#"{{"id":"{prefix}-{:016x}","object":"{object}","created":{CREATED},"model":{},"system_fingerprint":"fp_mock""#,
        request.identity,
        quoted(&request.model)
    )
}

fn usage(request: &ApiRequest<'_>, texts: &[Text]) -> String {
    let prompt = request.prompt_tokens;
    let completion: u64 = texts.iter().map(Text::tokens).sum();
    format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0}}}}"#,
        prompt + completion
    )
}

fn finish_reason(text: &Text) -> &'static str {
    if text.cut { "length" } else { "stop" }
}
