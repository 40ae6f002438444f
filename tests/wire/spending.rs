//! What answers cost, and secrets that stay secret.

use std::process::Command;
use std::time::Duration;

use blaze_uring::mock::Scripted;
use serde_json::{Value, json};

use crate::batch::{Batch, answer_to, content};
use crate::support::{Place, runtimes, scripted};

/// One dollar for each prompt token, two for each completion token.
fn prices() -> Value {
    json!({"prices": {"m": {"input": 1e6, "cached_input": 5e5, "output": 2e6}}})
}

fn unchanged(_: &mut Command) {}

fn summary(stderr: &str) -> Value {
    let line = stderr
        .lines()
        .rfind(|line| line.contains("total_processed"));
    serde_json::from_str(line.expect("a summary")).expect("JSON")
}

/// Every answer of [`answer_to`] costs 3 + 2·2 = 7 dollars.
#[test]
fn the_run_stops_at_its_budget_and_resumes_with_a_larger_one() {
    for runtime in runtimes() {
        // At most 800 answers a second: noticed with the regular reports only, the budget would be
        // overdrawn several times.
        let mock = scripted(|request| {
            let answer = Scripted::json(200, answer_to(&content(&request.body)));
            Some(answer.after(Duration::from_millis(5)))
        });
        let batch = |max_cost: &'static str| {
            let lines = (0..400).map(|number| format!("line {number}"));
            let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), lines);
            let mut batch = batch.with(&["--workers", "4", "--max-cost", max_cost]);
            batch.settings = prices();
            batch
        };
        let outcome = batch("70").attempt(Place::new(), unchanged);
        assert!(
            outcome.run.stderr.contains("--max-cost is reached"),
            "{:?}",
            outcome.run
        );
        outcome.run.expect(4);
        let sent = mock.stats().requests;
        assert!(
            (10..=50).contains(&sent),
            "{runtime}: {sent} answers for a budget of 10"
        );

        // The same budget is spent.
        let outcome = batch("70").attempt(outcome.place, unchanged);
        outcome.run.expect(4);
        assert_eq!(mock.stats().requests, sent, "{runtime}");

        let outcome = batch("7000").attempt(outcome.place, unchanged);
        outcome.run.expect(0);
        assert_eq!(outcome.answers.len(), 400, "{runtime}");
        assert_eq!(mock.stats().requests, 400, "{runtime}");
    }
}

#[test]
fn failed_attempts_and_cached_tokens_cost_what_they_cost() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let usage = json!({
                "prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4},
            });
            let body =
                json!({"usage": usage, "choices": [{"text": ""}], "error": {"message": "no"}})
                    .to_string();
            let status = content(&request.body).parse().ok()?;
            Some(Scripted::json(status, body))
        });
        let contents = ["200", "400"].map(str::to_owned);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let mut batch = batch.with(&["--json-logs"]);
        batch.settings = prices();
        let outcome = batch.run();
        // 6 fresh, 4 cached at half, 1 completion: 6 + 2 + 2 dollars, twice.
        let summary = summary(&(outcome.run.stderr.clone() + &outcome.run.stdout));
        assert_eq!(summary["cost_usd"], 20.0, "{runtime}: {summary}");
        let tokens = json!({"prompt": 20, "completion": 2, "cached": 8});
        assert_eq!(summary["tokens"], tokens, "{runtime}");
        let half = json!({"prompt": 10, "completion": 1, "cached": 4});
        for record in [&outcome.answers[&1], &outcome.failures[&2]] {
            let metadata = &record["metadata"];
            assert_eq!(metadata["tokens"], half, "{runtime}: {record}");
            assert_eq!(metadata["cost_usd"], 10.0, "{runtime}: {record}");
            let usage = &record["response"]["usage"];
            assert_eq!(usage["prompt_tokens"], 10, "{runtime}: {record}");
        }
        outcome.run.expect(3);
    }
}

/// A line that is sent again and again and stays unfinished: the process that resumes knows what
/// it has cost.
#[test]
fn attempts_of_unfinished_lines_count_against_the_budget_of_the_next_process() {
    for runtime in runtimes() {
        let body =
            r#"{"usage":{"prompt_tokens":10,"completion_tokens":0},"error":{"message":"no"}}"#;
        let mock = scripted(move |_| Some(Scripted::json(500, body)));
        let batch = |max_cost: &'static str| {
            let lines = ["again".to_owned()];
            let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), lines);
            let more = ["--max-attempts", "50", "--max-cost", max_cost];
            let mut batch = batch.with(&more);
            batch.settings = prices();
            batch
        };
        // Ten dollars an attempt.
        let outcome = batch("25").attempt(Place::new(), unchanged);
        outcome.run.expect(4);
        let sent = mock.stats().requests;
        assert!((3..=7).contains(&sent), "{runtime}: {sent}");
        let outcome = batch("25").attempt(outcome.place, unchanged);
        outcome.run.expect(4);
        assert_eq!(mock.stats().requests, sent, "{runtime}: nothing was left");
    }
}

/// A deployment's name has no price; the model that the answer names has, by its name without the date.
#[test]
fn an_answer_costs_what_its_own_model_costs() {
    for runtime in runtimes() {
        let body = r#"{"model":"m-2024-07-18","choices":[{"text":"a"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        let mock = scripted(move |_| Some(Scripted::json(200, body)));
        let url = mock.url("/v1/chat/completions");
        let mut batch = Batch::chat(runtime, &url, []).with(&["--json-logs"]);
        batch.settings = prices();
        let messages = json!([{"role": "user", "content": "x"}]);
        let asked = json!({"model": "my-deployment", "messages": messages});
        batch.lines = vec![json!({"body": asked}).to_string()];
        let outcome = batch.run();
        let metadata = &outcome.answers[&1]["metadata"];
        assert_eq!(metadata["cost_usd"], 3.0, "{runtime}: {metadata}");
        let summary = summary(&(outcome.run.stderr.clone() + &outcome.run.stdout));
        assert_eq!(summary["cost_usd"], 3.0, "{runtime}: {summary}");
        outcome.run.expect(0);
    }
}

/// Anthropic tells the prompt's tokens first: a stream that breaks after that has been billed.
#[test]
fn a_broken_stream_costs_what_it_said() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let message = json!({"id": "x", "usage": {"input_tokens": 9, "output_tokens": 1}});
            let start = json!({"type": "message_start", "message": message});
            let answer = Scripted::raw(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{}\r\nevent: message_start\ndata: {start}\n\n",
                if content(&request.body) == "cut" {
                    "content-length: 9999\r\n"
                } else {
                    ""
                },
            ));
            Some(answer.then_close())
        });
        let mut batch = Batch::chat(runtime, &mock.url("/v1/messages"), []).with(&["--json-logs"]);
        batch.settings = prices();
        batch.lines = ["cut", "ends"]
            .map(|content| {
                let messages = json!([{"role": "user", "content": content}]);
                let body =
                    json!({"model": "m", "stream": true, "max_tokens": 9, "messages": messages});
                json!({"body": body}).to_string()
            })
            .to_vec();
        let outcome = batch.run();
        let summary = summary(&(outcome.run.stderr.clone() + &outcome.run.stdout));
        assert_eq!(summary["cost_usd"], 22.0, "{runtime}: {summary}");
        assert_eq!(outcome.failures.len(), 2, "{runtime}");
        outcome.run.expect(3);
    }
}

/// What a provider's support asks for.
#[test]
fn the_log_of_a_failed_attempt_names_the_servers_request_and_region() {
    for runtime in runtimes() {
        let mock = scripted(|_| {
            let answer = Scripted::json(500, r#"{"error":{"message":"broken"}}"#);
            let answer = answer.header("apim-request-id", "id-77");
            Some(answer.header("x-ms-region", "Sweden Central"))
        });
        let url = mock.url("/v1/chat/completions");
        let batch = Batch::chat(runtime, &url, ["x".to_owned()]);
        let outcome = batch.with(&["--json-logs", "-v"]).run();
        let logged = (outcome.run.stderr.lines())
            .find(|line| line.contains("an attempt failed"))
            .unwrap_or_else(|| panic!("{runtime}: {:#?}", outcome.run));
        let logged: Value = serde_json::from_str(logged).expect("JSON");
        let text = logged.to_string();
        for part in [
            "HTTP 500: broken",
            "id-77",
            "Sweden Central",
            "server_error",
        ] {
            assert!(text.contains(part), "{runtime}: {part} is not in {text}");
        }
        assert_eq!(outcome.failures[&1]["metadata"]["request_id"], "id-77");
        outcome.run.expect(3);
    }
}

/// A server that repeats the key wherever it can.
#[test]
fn an_echoed_key_is_in_no_record_and_no_log() {
    const KEY: &str = "sk-very-secret-0123456789";
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let content = content(&request.body);
            let error = json!({"error": {"message": format!("bad key {KEY}")}}).to_string();
            Some(match content.as_str() {
                "json" => Scripted::json(400, error),
                "text" => Scripted::raw(format!(
                    "HTTP/1.1 400 No\r\ncontent-length: {}\r\n\r\n{KEY}",
                    KEY.len()
                )),
                "not HTTP" => Scripted::raw(format!("{KEY}\r\n\r\n")),
                "a header" => Scripted::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n")),
                "location" => Scripted::json(307, "{}").header("location", &format!("/{KEY}")),
                "stream" => Scripted::raw(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {error}\n\n"
                ))
                .then_close(),
                "refused" => Scripted::json(401, error),
                _ => Scripted::json(200, answer_to(&content)),
            })
        });
        let contents = [
            "json", "good", "text", "good", "not HTTP", "good", "a header", "location", "refused",
        ];
        let batch = Batch::chat(
            runtime,
            &mock.url("/v1/chat/completions"),
            contents.map(str::to_owned),
        );
        let mut batch = batch.with(&["--workers", "1", "--json-logs", "-v"]);
        batch.endpoint["api_key"] = KEY.into();
        let messages = json!([{"role": "user", "content": "stream"}]);
        let streamed = json!({"body": {"stream": true, "model": "m", "messages": messages}});
        batch.lines.insert(0, streamed.to_string());
        let outcome = batch.attempt(Place::new(), unchanged);
        let place = outcome.place;
        let mut files = place.listing();
        files.retain(|name| !name.ends_with('/') && name != "config.json");
        assert!(files.len() > 1, "{runtime}: {files:?}");
        let read = |name: &String| String::from_utf8_lossy(&place.read(name)).into_owned();
        let all: String = files.iter().map(read).collect();
        let all = all + &outcome.run.stdout + &outcome.run.stderr;
        assert!(all.contains("bad key ***"), "{runtime}: {all}");
        assert!(!all.contains(KEY), "{runtime}: {all}");
    }
}
