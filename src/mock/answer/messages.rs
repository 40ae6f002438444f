//! Anthropic messages. Pure.

use super::super::request::ApiRequest;
use super::{Answer, Events, Text, quoted};

pub(super) fn answer(request: &ApiRequest<'_>, text_bytes: Option<usize>) -> Answer {
    let text = Text::generate(request, 0, text_bytes);
    if request.stream {
        return Answer::Events(stream(request, &text));
    }
    let content = format!(r#"{{"type":"text","text":"{}"}}"#, text.join());
    let stop_reason = format!("\"{}\"", stop_reason(&text));
    Answer::Whole {
        body: message(request, &content, &stop_reason, text.tokens()),
        tokens: text.tokens(),
    }
}

fn stream(request: &ApiRequest<'_>, text: &Text) -> Events {
    let mut events = Events::default();
    let mut push = |name: &str, tokens: u64, members: &str| {
        events.named(
            name,
            tokens,
            format_args!(r#"{{"type":"{name}"{members}}}"#),
        );
    };
    // The real API counts one output token before the first word.
    push(
        "message_start",
        0,
        &format!(r#","message":{}"#, message(request, "", "null", 1)),
    );
    push(
        "content_block_start",
        0,
        r#","index":0,"content_block":{"type":"text","text":""}"#,
    );
    push("ping", 0, "");
    for (tokens, part) in text.parts() {
        let delta = format!(r#","index":0,"delta":{{"type":"text_delta","text":"{part}"}}"#);
        push("content_block_delta", tokens, &delta);
    }
    let tokens = text.tokens();
    push("content_block_stop", tokens, r#","index":0"#);
    let stop_reason = stop_reason(text);
    let delta = format!(
        r#","delta":{{"stop_reason":"{stop_reason}","stop_sequence":null}},"usage":{{"output_tokens":{tokens}}}"#
    );
    push("message_delta", tokens, &delta);
    push("message_stop", tokens, "");
    events
}

fn message(
    request: &ApiRequest<'_>,
    content: &str,
    stop_reason: &str,
    output_tokens: u64,
) -> String {
    format!(
        r#"{{"id":"msg_{:016x}","type":"message","role":"assistant","model":{},"content":[{content}],"stop_reason":{stop_reason},"stop_sequence":null,"usage":{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":{output_tokens}}}}}"#,
        request.identity,
        quoted(&request.model),
        request.prompt_tokens
    )
}

fn stop_reason(text: &Text) -> &'static str {
    if text.cut { "max_tokens" } else { "end_turn" }
}
