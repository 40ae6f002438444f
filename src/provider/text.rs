//! The model's words in an answer or in one event of a stream, whichever API sent it. Pure.

use serde_json::Value;

/// The text that `response`, a whole answer, holds first: chat and legacy completions, messages,
/// responses. `None` for tool calls, refusals and other answers without text.
pub fn answer_text(response: &Value) -> Option<&str> {
    let choice = &response["choices"][0];
    let first_text = |parts: &'_ Value| -> Option<usize> {
        parts
            .as_array()?
            .iter()
            .position(|part| part["text"].is_string())
    };
    if let Some(text) = text_of(&choice["message"]["content"]).or(choice["text"].as_str()) {
        return Some(text);
    }
    if let Some(at) = first_text(&response["content"]) {
        return response["content"][at]["text"].as_str();
    }
    let output = response["output"].as_array()?;
    output.iter().find_map(|item| {
        let at = first_text(&item["content"])?;
        item["content"][at]["text"].as_str()
    })
}

/// A content: its text, or the first text among its parts.
fn text_of(content: &Value) -> Option<&str> {
    let parts = content.as_array().into_iter().flatten();
    let first = || parts.into_iter().find_map(|part| part["text"].as_str());
    content.as_str().or_else(first)
}

/// The text that one event of a stream adds to the first choice; a whole answer in place of a stream adds
/// all of it.
pub fn delta_text(event: &Value) -> Option<&str> {
    let choice = event["choices"].as_array().and_then(|choices| {
        choices
            .iter()
            .find(|choice| choice["index"].as_u64().unwrap_or(0) == 0)
    });
    if let Some(choice) = choice {
        return text_of(&choice["delta"]["content"])
            .or(choice["text"].as_str())
            .or(text_of(&choice["message"]["content"]));
    }
    if event["object"] == "response" {
        return answer_text(event);
    }
    match event["type"].as_str()? {
        "content_block_delta" => event["delta"]["text"].as_str(),
        "response.output_text.delta" => event["delta"].as_str(),
        "message" => answer_text(event),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_api_says_its_text_somewhere_else() {
        let check = |response: Value, expect: Option<&str>| {
            assert_eq!(answer_text(&response), expect, "{response}");
        };
        check(
            json!({"choices": [{"message": {"content": "a"}}]}),
            Some("a"),
        );
        check(json!({"choices": [{"text": "a"}]}), Some("a"));
        check(
            json!({"content": [{"type": "thinking"}, {"type": "text", "text": "a"}]}),
            Some("a"),
        );
        check(
            json!({"output": [{"type": "reasoning"}, {"content": [{"type": "output_text", "text": "a"}]}]}),
            Some("a"),
        );
        check(
            json!({"choices": [{"message": {"content": null, "tool_calls": []}}]}),
            None,
        );
        check(
            json!({"choices": [{"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}]}}]}),
            Some("a"),
        );
        check(json!([]), None);
    }

    #[test]
    fn only_the_first_choice_is_followed() {
        let check = |event: Value, expect: Option<&str>| {
            assert_eq!(delta_text(&event), expect, "{event}");
        };
        check(
            json!({"choices": [{"index": 0, "delta": {"content": "a"}}]}),
            Some("a"),
        );
        check(
            json!({"choices": [{"index": 1, "delta": {"content": "a"}}]}),
            None,
        );
        check(
            json!({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}),
            None,
        );
        check(json!({"choices": [], "usage": {}}), None);
        check(json!({"choices": [{"text": "a"}]}), Some("a"));
        check(
            json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}),
            Some("a"),
        );
        check(
            json!({"type": "response.output_text.delta", "delta": "a"}),
            Some("a"),
        );
        check(json!({"type": "ping"}), None);
        check(
            json!({"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}}]}),
            Some("a"),
        );
        // Whole answers.
        check(
            json!({"choices": [{"message": {"content": "a"}}]}),
            Some("a"),
        );
        check(
            json!({"type": "message", "content": [{"type": "text", "text": "a"}]}),
            Some("a"),
        );
        check(
            json!({"object": "response", "output": [{"content": [{"type": "output_text", "text": "a"}]}]}),
            Some("a"),
        );
    }
}
