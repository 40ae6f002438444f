//! Anthropic Messages, which grow block by block.

use super::*;

#[test]
fn messages_grow_block_by_block() {
    check(
        ApiPath::Messages,
        &format!(
            r#"{MESSAGE_START}
            event: content_block_start
            data: {{"type":"content_block_start","index":0,"content_block":{{"type":"thinking","thinking":"","signature":""}}}}
            event: ping
            data: {{"type": "ping"}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":0,"delta":{{"type":"thinking_delta","thinking":"Hm"}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":0,"delta":{{"type":"thinking_delta","thinking":"m."}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":0,"delta":{{"type":"signature_delta","signature":"EqQB=="}}}}
            event: content_block_stop
            data: {{"type":"content_block_stop","index":0}}
            event: content_block_start
            data: {{"type":"content_block_start","index":1,"content_block":{{"type":"text","text":"","citations":[]}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":1,"delta":{{"type":"text_delta","text":"Okay"}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":1,"delta":{{"type":"text_delta","text":", let's"}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":1,"delta":{{"type":"citations_delta","citation":{{"type":"char_location","start_char_index":0}}}}}}
            event: content_block_stop
            data: {{"type":"content_block_stop","index":1}}
            event: content_block_start
            data: {{"type":"content_block_start","index":2,"content_block":{{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{{}}}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":2,"delta":{{"type":"input_json_delta","partial_json":""}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":2,"delta":{{"type":"input_json_delta","partial_json":"{{\"location\":\n \"San"}}}}
            event: content_block_delta
            data: {{"type":"content_block_delta","index":2,"delta":{{"type":"input_json_delta","partial_json":" Francisco\\n\", \"n\": 1.50}}"}}}}
            event: content_block_stop
            data: {{"type":"content_block_stop","index":2}}
            event: content_block_start
            data: {{"type":"content_block_start","index":3,"content_block":{{"type":"tool_use","id":"toolu_2","name":"now","input":{{}}}}}}
            event: content_block_stop
            data: {{"type":"content_block_stop","index":3}}
            event: message_delta
            data: {{"type":"message_delta","delta":{{"stop_reason":"tool_use","stop_sequence":null}},"usage":{{"output_tokens":89,"cache_read_input_tokens":null}}}}
            event: message_stop
            data: {{"type":"message_stop"}}
            "#
        ),
        concat!(
            r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":["#,
            r#"{"type":"thinking","thinking":"Hmm.","signature":"EqQB=="},"#,
            r#"{"type":"text","text":"Okay, let's","citations":[{"type":"char_location","start_char_index":0}]},"#,
            r#"{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{"location":  "San Francisco\n", "n": 1.50}},"#,
            r#"{"type":"tool_use","id":"toolu_2","name":"now","input":{}}],"#,
            r#""stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":472,"cache_read_input_tokens":0,"output_tokens":89,"service_tier":"standard","server_tool_use":null}}"#
        ),
    );
}

#[test]
fn tool_input_that_was_cut_off_is_kept() {
    let json = assemble(
        ApiPath::Messages,
        &format!(
            r#"{MESSAGE_START}
            data: {{"type":"content_block_start","index":0,"content_block":{{"type":"tool_use","id":"t","name":"f","input":{{}}}}}}
            data: {{"type":"content_block_delta","index":0,"delta":{{"type":"input_json_delta","partial_json":"{{\"a\": \"b"}}}}
            data: {{"type":"message_stop"}}"#
        ),
    )
    .unwrap();
    assert!(
        json.contains(r#""input":{"INVALID_JSON":"{\"a\": \"b"}"#),
        "{json}"
    );
}
