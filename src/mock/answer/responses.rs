//! OpenAI responses. Pure.

use super::super::request::ApiRequest;
use super::{Answer, CREATED, Events, Text, quoted};

pub(super) fn answer(request: &ApiRequest<'_>, text_bytes: Option<usize>) -> Answer {
    let text = Text::generate(request, 0, text_bytes);
    let response = response(request, &text);
    if request.stream {
        Answer::Events(stream(request, &text, &response))
    } else {
        Answer::Whole {
            tokens: text.tokens(),
            body: response,
        }
    }
}

fn response(request: &ApiRequest<'_>, text: &Text) -> String {
    let (status, incomplete) = if text.cut {
        ("incomplete", r#"{"reason":"max_output_tokens"}"#)
    } else {
        ("completed", "null")
    };
    let usage = format!(
        r#"{{"input_tokens":{},"input_tokens_details":{{"cached_tokens":0}},"output_tokens":{},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{}}}"#,
        request.prompt_tokens,
        text.tokens(),
        request.prompt_tokens + text.tokens()
    );
    document(
        request,
        status,
        incomplete,
        &item(request, status, &part(&text.join())),
        &usage,
    )
}

fn stream(request: &ApiRequest<'_>, text: &Text, response: &str) -> Events {
    let id = request.identity;
    let tokens = text.tokens();
    let status = if text.cut { "incomplete" } else { "completed" };
    let begun = document(request, "in_progress", "null", "", "null");
    let place = format!(r#""item_id":"msg_{id:016x}","output_index":0,"content_index":0"#);
    let mut events = Events::default();
    let mut push = |name: &str, tokens: u64, members: &str| {
        let number = events.marks.len();
        events.named(
            name,
            tokens,
            format_args!(r#"{{"type":"{name}","sequence_number":{number},{members}}}"#),
        );
    };
    push("response.created", 0, &format!(r#""response":{begun}"#));
    push("response.in_progress", 0, &format!(r#""response":{begun}"#));
    let empty_item = item(request, "in_progress", "");
    push(
        "response.output_item.added",
        0,
        &format!(r#""output_index":0,"item":{empty_item}"#),
    );
    push(
        "response.content_part.added",
        0,
        &format!(r#"{place},"part":{}"#, part("")),
    );
    for (tokens, delta) in text.parts() {
        push(
            "response.output_text.delta",
            tokens,
            &format!(r#"{place},"delta":"{delta}","logprobs":[]"#),
        );
    }
    let joined = text.join();
    let whole_part = part(&joined);
    push(
        "response.output_text.done",
        tokens,
        &format!(r#"{place},"text":"{joined}","logprobs":[]"#),
    );
    push(
        "response.content_part.done",
        tokens,
        &format!(r#"{place},"part":{whole_part}"#),
    );
    let whole_item = item(request, status, &whole_part);
    push(
        "response.output_item.done",
        tokens,
        &format!(r#""output_index":0,"item":{whole_item}"#),
    );
    push(
        &format!("response.{status}"),
        tokens,
        &format!(r#""response":{response}"#),
    );
    events
}

fn document(
    request: &ApiRequest<'_>,
    status: &str,
    incomplete: &str,
    output: &str,
    usage: &str,
) -> String {
    format!(
        r#"{{"id":"resp_{:016x}","object":"response","created_at":{CREATED},"status":"{status}","error":null,"incomplete_details":{incomplete},"instructions":null,"model":{},"output":[{output}],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"usage":{usage}}}"#,
        request.identity,
        quoted(&request.model)
    )
}

fn item(request: &ApiRequest<'_>, status: &str, parts: &str) -> String {
    format!(
        r#"{{"id":"msg_{:016x}","type":"message","status":"{status}","role":"assistant","content":[{parts}]}}"#,
        request.identity
    )
}

/// The words need no escape.
fn part(text: &str) -> String {
    format!(r#"{{"type":"output_text","text":"{text}","annotations":[],"logprobs":[]}}"#)
}
