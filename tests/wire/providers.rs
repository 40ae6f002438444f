//! What each provider's endpoint receives: path, headers, body.

use blaze_uring::mock::{Mock, Scripted, SeenRequest};
use serde_json::{Value, json};

use crate::batch::{Batch, Outcome, content};
use crate::support::{Place, mock, runtimes, scripted};

/// Runs one line against `mock` and returns its request.
fn sent(
    runtime: &'static str,
    mock: &Mock,
    endpoint: Value,
    line: &Value,
) -> (SeenRequest, Outcome) {
    let batch = Batch {
        endpoint,
        lines: vec![line.to_string()],
        ..Batch::chat(runtime, "", [])
    };
    let outcome = batch.run();
    let mut requests = mock.requests();
    let request = requests.pop().expect("a request came");
    (request, outcome)
}

fn text(request: &SeenRequest) -> &str {
    std::str::from_utf8(&request.body).expect("bodies are UTF-8")
}

#[test]
fn azure_is_addressed_by_deployment_or_by_v1() {
    let chat = json!({"body": {"messages": [{"role": "user", "content": "hi"}]}});
    let named = json!({"body": {"model": "own", "messages": [{"role": "user", "content": "hi"}]}});
    let embedding = json!({"url": "/v1/embeddings", "body": {"input": "hi", "dimensions": 2}});
    let classic = "/openai/deployments/gpt-4o/chat/completions?api-version=2025-01-01-preview";
    for runtime in runtimes() {
        let mock = mock();
        let endpoint = |path: &str, fields: Value| {
            let mut endpoint = json!({
                "name": "azure", "url": mock.url(path), "provider": "azure", "api_key": "azure-key-1",
            });
            for (name, value) in fields.as_object().expect("an object") {
                endpoint[name] = value.clone();
            }
            endpoint
        };
        let check = |endpoint: Value, line: &Value, target: &str| {
            let (request, outcome) = sent(runtime, &mock, endpoint, line);
            assert_eq!(request.target, target, "{runtime}");
            assert_eq!(request.header("api-key"), Some("azure-key-1"), "{runtime}");
            assert_eq!(request.header("authorization"), None, "{runtime}");
            outcome.run.expect(0);
            request
        };
        let model = json!({"model": "gpt-4o"});
        check(endpoint("", model.clone()), &chat, classic);
        check(endpoint("/", model.clone()), &named, classic);
        check(
            endpoint("", json!({"model": "gpt-4o", "api_version": "2024-06-01"})),
            &chat,
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-06-01",
        );
        check(
            endpoint("", json!({})),
            &named,
            "/openai/deployments/own/chat/completions?api-version=2025-01-01-preview",
        );
        check(
            endpoint("", model.clone()),
            &embedding,
            "/openai/deployments/gpt-4o/embeddings?api-version=2025-01-01-preview",
        );
        let request = check(
            endpoint("/openai/v1", model),
            &chat,
            "/openai/v1/chat/completions",
        );
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(
            body["model"], "gpt-4o",
            "{runtime}: v1 names the deployment in the body"
        );
    }
}

#[test]
fn anthropic_has_headers_and_a_limit_of_its_own() {
    for runtime in runtimes() {
        let mock = mock();
        let endpoint = json!({
            "name": "a", "url": mock.url(""), "provider": "anthropic", "api_key": "anthropic-key-1",
            "model": "claude", "max_completion_tokens": 77,
        });
        let line = json!({"input": "hi"});
        let (request, outcome) = sent(runtime, &mock, endpoint.clone(), &line);
        assert_eq!(request.target, "/v1/messages", "{runtime}");
        assert_eq!(
            request.header("x-api-key"),
            Some("anthropic-key-1"),
            "{runtime}"
        );
        assert_eq!(
            request.header("anthropic-version"),
            Some("2023-06-01"),
            "{runtime}"
        );
        assert_eq!(request.header("authorization"), None, "{runtime}");
        assert_eq!(
            text(&request),
            r#"{"messages":[{"role":"user","content":"hi"}],"model":"claude","max_tokens":77}"#,
            "{runtime}"
        );
        assert_eq!(outcome.answer(1)["type"], "message", "{runtime}");
        outcome.run.expect(0);

        let own = json!({"body": {"max_tokens": 5, "messages": [], "model": "x"}});
        let (request, _) = sent(runtime, &mock, endpoint, &own);
        assert_eq!(text(&request), own["body"].to_string(), "{runtime}");
    }
}

#[test]
fn bodies_are_spliced_and_lines_have_their_own_path_and_headers() {
    for runtime in runtimes() {
        let mock = mock();
        let endpoint = json!({
            "name": "o", "url": mock.url("/v1"), "api_key": "openai-key-1", "model": "mine",
            "temperature": 0.25, "headers": {"x-team": "search", "x-both": "endpoint"},
        });
        let raw = r#"{"b" : 1.00, "a":12345678901234567890, "messages":[{"role":"user","content":"\u00e9 é"}]}"#;
        let line = format!(r#"{{"headers": {{"X-Line": "7", "x-both": "line"}}, "body": {raw}}}"#);
        let batch = Batch {
            endpoint: endpoint.clone(),
            lines: vec![line],
            ..Batch::chat(runtime, "", [])
        };
        batch.run().run.expect(0);
        let request = mock.requests().pop().expect("a request came");
        let kept = raw.strip_suffix('}').expect("an object");
        let expect = format!(r#"{kept},"model":"mine","temperature":0.25}}"#);
        assert_eq!(text(&request), expect, "{runtime}");
        assert_eq!(request.target, "/v1/chat/completions", "{runtime}");
        assert_eq!(
            request.header("authorization"),
            Some("Bearer openai-key-1"),
            "{runtime}"
        );
        assert_eq!(request.header("x-team"), Some("search"), "{runtime}");
        assert_eq!(request.header("x-line"), Some("7"), "{runtime}");
        let both: Vec<_> = request
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-both"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(both, ["line"], "{runtime}: the line's own header counts");

        let mut overriding = endpoint;
        overriding["override_model"] = true.into();
        let line = json!({
            "url": "/v1/embeddings", "body": {"input": "x", "model": "theirs", "dimensions": 2},
        });
        let (request, outcome) = sent(runtime, &mock, overriding, &line);
        assert_eq!(request.target, "/v1/embeddings", "{runtime}");
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body["model"], "mine", "{runtime}");
        assert_eq!(
            body["temperature"],
            Value::Null,
            "{runtime}: embeddings know none"
        );
        outcome.run.expect(0);
    }
}

/// The server's own id of a request, whichever header has it, in records of the `openai` format.
#[test]
fn request_ids_come_back() {
    let names = ["x-request-id", "request-id", "apim-request-id", "x-other"];
    for runtime in runtimes() {
        for status in [200, 400] {
            let mock = scripted(move |request| {
                let name = content(&request.body);
                let body = r#"{"choices":[{"text":"a"}]}"#;
                Some(Scripted::json(status, body).header(&name, "req-7"))
            });
            let line = |name: &&str| {
                let messages = json!([{"role": "user", "content": name}]);
                let (url, body) = ("/v1/chat/completions", json!({"messages": messages}));
                json!({"custom_id": name, "method": "POST", "url": url, "body": body}).to_string()
            };
            let place = Place::new();
            let batch = Batch {
                lines: names.iter().map(line).collect(),
                ..Batch::chat(runtime, &mock.url("/v1"), [])
            };
            let outcome = batch.attempt_raw(place, |_| {});
            let file = if status == 200 {
                "out.jsonl"
            } else {
                "errors.jsonl"
            };
            let records = outcome.1.records(file);
            assert_eq!(records.len(), names.len(), "{runtime}: {:?}", outcome.0);
            for record in records {
                let id = &record["response"]["request_id"];
                // Where the server names none, one is made here.
                let made = record["id"].as_str().map(|id| id.replace("batch_", ""));
                let expect = match record["custom_id"] == "x-other" {
                    true => made,
                    false => Some("req-7".to_owned()),
                };
                assert_eq!(id.as_str(), expect.as_deref(), "{runtime}: {record}");
                assert_eq!(
                    record["response"]["status_code"], status,
                    "{runtime}: {record}"
                );
            }
        }
    }
}
