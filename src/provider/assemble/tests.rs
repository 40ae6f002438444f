mod messages;

use std::time::Duration;

use super::*;

const CAP: usize = 1 << 20;

/// The start of virtual time. A real instant, because `Instant` has no other constructor; tests
/// only ever add to it.
fn start() -> Instant {
    Instant::now()
}

/// Feeds a transcript, one event every millisecond, and finishes it.
fn assemble(path: ApiPath, transcript: &str) -> Result<String, StreamError> {
    let (assembler, _) = feed(path, CAP, transcript)?;
    assembler
        .finish()
        .map(|json| String::from_utf8(json).unwrap())
}

/// The events of a transcript as a server writes it; the offset of the first token.
fn feed(
    path: ApiPath,
    cap: usize,
    transcript: &str,
) -> Result<(StreamAssembler, Option<Duration>), StreamError> {
    let start = start();
    let mut now = start;
    let mut assembler = StreamAssembler::new(path, cap);
    let mut name = "";
    for line in transcript.lines().map(str::trim) {
        if let Some(event) = line.strip_prefix("event: ") {
            name = event;
        } else if let Some(data) = line.strip_prefix("data: ") {
            assembler.feed(name, data, now)?;
            name = "";
            now += Duration::from_millis(1);
        }
    }
    let first = assembler.first_token_at().map(|at| at - start);
    Ok((assembler, first))
}

fn check(path: ApiPath, transcript: &str, expect: &str) {
    let json = assemble(path, transcript).unwrap();
    assert_eq!(json, expect);
    serde_json::from_str::<IgnoredAny>(&json).unwrap();
}

fn check_error(path: ApiPath, transcript: &str, kind: ErrorKind, message: &str) {
    let error = assemble(path, transcript).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (kind, message));
}

/// The head of a chat chunk, to which `choices` and a closing brace are added.
const HEAD: &str = r#"data: {"id":"c1","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini","#;

#[test]
fn chat_text_arrives_whole() {
    check(
        ApiPath::ChatCompletions,
        &format!(
            r#"
            {HEAD}"service_tier":"default","system_fingerprint":"fp_44","choices":[{{"index":0,"delta":{{"role":"assistant","content":"","refusal":null}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"aa"}}
            {HEAD}"service_tier":"default","system_fingerprint":"fp_44","choices":[{{"index":0,"delta":{{"content":"Hel\n"}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"b"}}
            {HEAD}"service_tier":"default","system_fingerprint":"fp_44","choices":[{{"index":0,"delta":{{"content":"lö \"x\""}},"logprobs":null,"finish_reason":null}}],"usage":null}}
            {HEAD}"service_tier":"default","system_fingerprint":"fp_44","choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],"usage":null}}
            {HEAD}"service_tier":"default","system_fingerprint":"fp_44","choices":[],"usage":{{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}}}
            data: [DONE]
            "#
        ),
        concat!(
            r#"{"id":"c1","object":"chat.completion","created":1694268190,"model":"gpt-4o-mini","service_tier":"default","system_fingerprint":"fp_44","#,
            r#""choices":[{"index":0,"message":{"role":"assistant","content":"Hel\nlö \"x\"","refusal":null},"logprobs":null,"finish_reason":"stop"}],"#,
            r#""usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}"#
        ),
    );
}

#[test]
fn choices_are_told_apart_by_index() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"id":"c","choices":[{"index":1,"delta":{"role":"assistant","content":"b"}}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a"}},{"index":1,"delta":{"content":"B"}}]}
        data: {"id":"c","choices":[{"index":1,"delta":{},"finish_reason":"length"}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"content":"A"},"finish_reason":"stop"}]}
        data: [DONE]
        "#,
        r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"aA"},"logprobs":null,"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":"bB"},"logprobs":null,"finish_reason":"length"}],"object":"chat.completion"}"#,
    );
}

#[test]
fn tool_calls_are_put_together_by_index() {
    check(
        ApiPath::ChatCompletions,
        &format!(
            r#"
            {HEAD}"choices":[{{"index":0,"delta":{{"role":"assistant","content":null,"tool_calls":[{{"index":0,"id":"call_1","type":"function","function":{{"name":"get_weather","arguments":""}}}}]}},"finish_reason":null}}]}}
            {HEAD}"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{{\"city\":"}}}}]}},"finish_reason":null}}]}}
            {HEAD}"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"id":"","type":"function","function":{{"name":"get_weather","arguments":"\"Paris\"}}"}}}}]}},"finish_reason":null}}]}}
            {HEAD}"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":1,"id":"call_2","type":"function","function":{{"name":"get_","arguments":"{{"}}}}]}},"finish_reason":null}}]}}
            {HEAD}"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":1,"function":{{"name":"time","arguments":"}}"}}}}]}},"finish_reason":null}}]}}
            {HEAD}"choices":[{{"index":0,"delta":{{}},"finish_reason":"tool_calls"}}]}}
            data: [DONE]
            "#
        ),
        concat!(
            r#"{"id":"c1","object":"chat.completion","created":1694268190,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":null,"#,
            r#""tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}},"#,
            r#"{"id":"call_2","type":"function","function":{"name":"get_time","arguments":"{}"}}]},"#,
            r#""logprobs":null,"finish_reason":"tool_calls"}]}"#
        ),
    );
}

#[test]
fn tool_calls_without_an_index_are_each_their_own() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}}]}
        data: {"choices":[{"index":0,"delta":{"tool_calls":[{"id":"b","function":{"name":"f","arguments":"{}"}}]}}]}
        data: [DONE]
        "#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"f","arguments":"{}"}}]},"logprobs":null,"finish_reason":null}],"object":"chat.completion"}"#,
    );
}

#[test]
fn gaps_between_tool_calls_close_and_their_order_stays() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":5,"id":"f","type":"function","function":{"name":"last","arguments":"{"}},{"index":2,"id":"c","type":"function","function":{"name":"first","arguments":"{"}}]}}]}
        data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":2,"function":{"arguments":"}"}},{"index":5,"function":{"arguments":"}"}}]}}]}
        data: [DONE]
        "#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"first","arguments":"{}"}},{"id":"f","type":"function","function":{"name":"last","arguments":"{}"}}]},"logprobs":null,"finish_reason":null}],"object":"chat.completion"}"#,
    );
}

#[test]
fn a_refusal_arrives_whole_with_its_probabilities() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":""},"logprobs":null}]}
        data: {"choices":[{"index":0,"delta":{"refusal":"I can"},"logprobs":{"content":null,"refusal":[{"token":"I can","logprob":-0.5}]}}]}
        data: {"choices":[{"index":0,"delta":{"refusal":"not."},"logprobs":{"content":null,"refusal":[{"token":"not.","logprob":-0.25}]}}]}
        data: {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
        data: [DONE]
        "#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":"I cannot."},"logprobs":{"content":null,"refusal":[{"token":"I can","logprob":-0.5},{"token":"not.","logprob":-0.25}]},"finish_reason":"stop"}],"object":"chat.completion"}"#,
    );
}

#[test]
fn fields_that_only_some_servers_send_come_along() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"Let "}}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"me","score":1.50,"citations":["a"]}}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"content":"ok","score":2.50,"citations":["a","b"]},"stop_reason":7}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"function_call":{"name":"f","arguments":"{"}}}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"function_call":{"arguments":"}"}},"finish_reason":"function_call","stop_reason":null}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.text","text":"x","index":0}]}}]}
        data: {"id":"c","choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.text","text":"y","index":0}]}}],"x_groq":{"id":"r","usage":{"total_tokens":3}}}
        data: [DONE]
        "#,
        concat!(
            r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"ok","reasoning_content":"Let me","score":2.50,"citations":["a","b"],"#,
            r#""function_call":{"name":"f","arguments":"{}"},"reasoning_details":[{"type":"reasoning.text","text":"xy","index":0}]},"#,
            r#""logprobs":null,"finish_reason":"function_call","stop_reason":7}],"x_groq":{"id":"r","usage":{"total_tokens":3}},"usage":{"total_tokens":3},"object":"chat.completion"}"#
        ),
    );
}

#[test]
fn azures_chunks_without_a_head_do_not_erase_it() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}
        data: {"choices":[{"content_filter_results":{},"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"created":17,"id":"c","model":"gpt-4o","object":"chat.completion.chunk"}
        data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":"Hi"},"finish_reason":null,"index":0,"logprobs":null}],"created":17,"id":"c","model":"gpt-4o","object":"chat.completion.chunk"}
        data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],"created":17,"id":"c","model":"gpt-4o","object":"chat.completion.chunk"}
        data: {"choices":[{"content_filter_offsets":{"check_offset":1},"content_filter_results":{},"finish_reason":null,"index":0}],"created":0,"id":"","model":"","object":""}
        data: [DONE]
        "#,
        concat!(
            r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"logprobs":null,"finish_reason":"stop","content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"content_filter_offsets":{"check_offset":1}}],"#,
            r#""created":17,"id":"c","model":"gpt-4o","object":"chat.completion","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}"#
        ),
    );
}

#[test]
fn log_probabilities_are_strung_together_as_written() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-0.10}],"refusal":null}}]}
        data: {"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b","logprob":-1E-7}],"refusal":null}}]}
        data: {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
        data: [DONE]
        "#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"ab"},"logprobs":{"content":[{"token":"a","logprob":-0.10},{"token":"b","logprob":-1E-7}],"refusal":null},"finish_reason":"stop"}],"object":"chat.completion"}"#,
    );
}

#[test]
fn legacy_completions_grow_in_text() {
    check(
        ApiPath::Completions,
        r#"
        data: {"id":"cmpl","object":"text_completion","created":1,"choices":[{"text":"This","index":0,"logprobs":{"tokens":["This"],"token_logprobs":[-0.5],"text_offset":[0]},"finish_reason":null}],"model":"m"}
        data: {"id":"cmpl","object":"text_completion","created":1,"choices":[{"text":" is","index":0,"logprobs":{"tokens":[" is"],"token_logprobs":[-0.25],"text_offset":[4]},"finish_reason":null}],"model":"m"}
        data: {"id":"cmpl","object":"text_completion","created":1,"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"model":"m","usage":{"total_tokens":2}}
        data: [DONE]
        "#,
        r#"{"id":"cmpl","object":"text_completion","created":1,"choices":[{"index":0,"text":"This is","logprobs":{"tokens":["This"," is"],"token_logprobs":[-0.5,-0.25],"text_offset":[0,4]},"finish_reason":"length"}],"model":"m","usage":{"total_tokens":2}}"#,
    );
}

#[test]
fn a_character_cut_in_two_is_whole_again() {
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}
        data: {"choices":[{"index":0,"delta":{"content":"\ude00\u00e9"}}]}
        data: [DONE]
        "#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"\ud83d\ude00\u00e9"},"logprobs":null,"finish_reason":null}],"object":"chat.completion"}"#,
    );
}

const RESPONSE: &str = r#"{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"temperature":1.0,"usage":{"input_tokens":37,"output_tokens":11}}"#;

#[test]
fn the_last_event_of_responses_is_the_response() {
    let transcript = |end: &str| {
        format!(
            r#"
            event: response.created
            data: {{"type":"response.created","sequence_number":0,"response":{{"id":"resp_1","status":"in_progress","error":null}}}}
            event: response.output_item.added
            data: {{"type":"response.output_item.added","output_index":0,"item":{{"id":"msg_1"}}}}
            event: response.output_text.delta
            data: {{"type":"response.output_text.delta","item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hi"}}
            {end}
            "#
        )
    };
    let completed = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}"
    );
    check(ApiPath::Responses, &transcript(&completed), RESPONSE);
    let incomplete = RESPONSE.replace("completed", "incomplete");
    check(
        ApiPath::Responses,
        &transcript(&format!(
            "event: response.incomplete\ndata: {{\"response\":{incomplete}}}"
        )),
        &incomplete,
    );
    check_error(
        ApiPath::Responses,
        &transcript(
            r#"data: {"type":"response.failed","response":{"id":"resp_1","status":"failed","error":{"code":"rate_limit_exceeded","message":"Slow down"}}}"#,
        ),
        ErrorKind::RateLimited,
        "error in the stream: Slow down",
    );
    check_error(
        ApiPath::Responses,
        &transcript(
            r#"data: {"type":"error","code":"server_error","message":"Oops","param":null}"#,
        ),
        ErrorKind::ServerError,
        "error in the stream: Oops",
    );
    check_error(
        ApiPath::Responses,
        &transcript("data: [DONE]"),
        ErrorKind::Protocol,
        "the stream ended before response.completed",
    );
}

const MESSAGE_START: &str = r#"
    event: message_start
    data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":472,"cache_read_input_tokens":0,"output_tokens":2,"service_tier":"standard","server_tool_use":null}}}
    "#;

#[test]
fn errors_inside_a_stream_keep_their_kind() {
    use ErrorKind::*;
    let anthropic = |kind: &str| {
        format!(
            "{MESSAGE_START}\nevent: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"Told\"}}}}"
        )
    };
    for (name, kind) in [
        ("overloaded_error", ServerError),
        ("api_error", ServerError),
        ("rate_limit_error", RateLimited),
        ("authentication_error", Auth),
        ("invalid_request_error", BadRequest),
        ("timeout_error", Timeout),
    ] {
        check_error(
            ApiPath::Messages,
            &anthropic(name),
            kind,
            "error in the stream: Told",
        );
    }
    let openai = |error: &str| {
        format!(
            "{HEAD}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}}}}]}}\ndata: {error}"
        )
    };
    check_error(
        ApiPath::ChatCompletions,
        &openai(
            r#"{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}"#,
        ),
        ServerError,
        "error in the stream: The server had an error",
    );
    check_error(
        ApiPath::ChatCompletions,
        &openai(
            r#"{"error":{"message":"No money","type":"insufficient_quota","code":"insufficient_quota"}}"#,
        ),
        QuotaExhausted,
        "error in the stream: No money",
    );
    check_error(
        ApiPath::ChatCompletions,
        &openai(
            r#"{"object":"error","message":"bad","type":"BadRequestError","code":400,"error":{"code":400}}"#,
        ),
        BadRequest,
        "error in the stream: bad",
    );
    check_error(
        ApiPath::ChatCompletions,
        "event: error\ndata: upstream gone",
        ServerError,
        "error in the stream: upstream gone",
    );
}

#[test]
fn a_stream_that_ends_early_is_no_response() {
    let check = |path: ApiPath, transcript: &str, message: &str| {
        check_error(path, transcript, ErrorKind::Protocol, message);
    };
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
    check(
        ApiPath::ChatCompletions,
        "",
        "the stream ended before [DONE]",
    );
    check(
        ApiPath::ChatCompletions,
        chunk,
        "the stream ended before [DONE]",
    );
    check(
        ApiPath::ChatCompletions,
        "data: [DONE]",
        "the stream held no event",
    );
    check(
        ApiPath::ChatCompletions,
        "data: {\"choices\":[]}\ndata: [DONE]",
        "the stream held no choices",
    );
    check(
        ApiPath::Messages,
        MESSAGE_START,
        "the stream ended before message_stop",
    );
    check(
        ApiPath::Messages,
        r#"data: {"type":"message_stop"}"#,
        "the stream sent message_stop before message_start",
    );
    check(
        ApiPath::Messages,
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#,
        "the stream sent content_block before message_start",
    );
    check(ApiPath::Other, "data: [DONE]", "the stream held no event");
    for garbage in ["data: {", "data: [1]", "data: 7", "data: <html>"] {
        let error = assemble(ApiPath::ChatCompletions, garbage).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Protocol);
        assert!(
            error
                .message
                .starts_with("an event of the stream is not a JSON object"),
            "{error}"
        );
    }
}

#[test]
fn data_of_several_lines_ends_up_on_one() {
    let mut assembler = StreamAssembler::new(ApiPath::ChatCompletions, CAP);
    let now = start();
    assembler
        .feed(
            "",
            "{\"usage\": {\n\"total_tokens\": 1},\r\n\"choices\":[{\"index\":0}]}",
            now,
        )
        .unwrap();
    assembler.feed("", " [DONE] ", now).unwrap();
    assembler.feed("", "ignored after the end", now).unwrap();
    let json = String::from_utf8(assembler.finish().unwrap()).unwrap();
    assert_eq!(
        json,
        r#"{"usage":{ "total_tokens": 1},"choices":[{"index":0,"message":{"role":"assistant","content":null},"logprobs":null,"finish_reason":null}],"object":"chat.completion"}"#
    );
    let broken =
        StreamAssembler::new(ApiPath::ChatCompletions, CAP).feed("", "{\"a\":\"x\ny\"}", now);
    assert_eq!(broken.unwrap_err().kind, ErrorKind::Protocol);
}

#[test]
fn an_unknown_path_is_recognised_by_its_first_event() {
    for (transcript, holds) in [
        (r#"data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}"#.to_owned() + "\ndata: [DONE]", r#""message":{"#),
        (r#"data: {"object":"text_completion","choices":[{"index":0,"text":"a"}]}"#.to_owned() + "\ndata: [DONE]", r#""text":"a""#),
        (format!("{MESSAGE_START}\nevent: message_stop\ndata: {{}}"), r#""content":[]"#),
        (format!("event: response.completed\ndata: {{\"response\":{RESPONSE}}}"), r#""resp_1""#),
    ] {
        let json = assemble(ApiPath::Other, &transcript).unwrap();
        assert!(json.contains(holds), "{json}");
    }
}

#[test]
fn the_first_token_is_the_first_output_not_the_first_event() {
    let check = |path: ApiPath, transcript: &str, expect: Option<u64>| {
        let (_, first) = feed(path, CAP, transcript).unwrap();
        assert_eq!(first, expect.map(Duration::from_millis), "{transcript}");
    };
    check(
        ApiPath::ChatCompletions,
        r#"
        data: {"choices":[],"id":""}
        data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}
        data: {"choices":[{"index":0,"delta":{"content":"a"}}]}
        data: {"choices":[{"index":0,"delta":{"content":"b"}}]}
        "#,
        Some(2),
    );
    check(
        ApiPath::Completions,
        "data: {\"choices\":[{\"text\":\"\"}]}\ndata: {\"choices\":[{\"text\":\"a\"}]}",
        Some(1),
    );
    check(
        ApiPath::Messages,
        &format!(
            "{MESSAGE_START}\ndata: {{\"type\":\"ping\"}}\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"text\":\"a\"}}}}"
        ),
        Some(2),
    );
    check(
        ApiPath::Responses,
        "data: {\"type\":\"response.created\"}\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}",
        Some(1),
    );
    check(
        ApiPath::ChatCompletions,
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}",
        None,
    );
}

#[test]
fn what_is_kept_is_bounded() {
    let piece = |path: ApiPath, cap: usize, data: &str| {
        let mut assembler = StreamAssembler::new(path, cap);
        let now = start();
        if path == ApiPath::Messages {
            assembler
                .feed("message_start", r#"{"message":{"id":"m"}}"#, now)
                .unwrap();
        }
        (0..10_000)
            .find_map(|_| assembler.feed("", data, now).err())
            .map(|error| (error.kind, error.message))
    };
    let too_large = Some((
        ErrorKind::TooLarge,
        "the streamed response exceeds 5000 bytes".to_owned(),
    ));
    for data in [
        r#"{"choices":[{"index":0,"delta":{"content":"abc"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"token_ids":[7]}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"a"}}]}}]}"#,
        r#"{"choices":[{"index":0,"logprobs":{"content":[0]}}]}"#,
    ] {
        assert_eq!(
            piece(ApiPath::ChatCompletions, 5000, data),
            too_large,
            "{data}"
        );
    }
    for data in [
        r#"{"type":"content_block_delta","index":0,"delta":{"partial_json":"a"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"text":"a"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"citation":{}}}"#,
    ] {
        assert_eq!(piece(ApiPath::Messages, 5000, data), too_large, "{data}");
    }
    let many: Vec<String> = (0..2000).map(|at| format!("\"f{at}\":1")).collect();
    assert_eq!(
        piece(
            ApiPath::ChatCompletions,
            CAP,
            &format!("{{{}}}", many.join(","))
        ),
        Some((
            ErrorKind::TooLarge,
            "an object of the stream exceeds 1024 fields".to_owned()
        ))
    );
    // What is only repeated costs nothing.
    let repeated = r#"{"id":"c","usage":{"total_tokens":10},"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}"#;
    assert_eq!(piece(ApiPath::ChatCompletions, 5000, repeated), None);
}
