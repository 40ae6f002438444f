//! A night's worth of what goes wrong, in one file: the run ends by itself, every line has the record that its own
//! answer deserves, and the summary tells what happened.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use blaze_uring::mock::{Scripted, SeenRequest};
use serde_json::{Value, json};

use crate::support::{Place, runtimes, scripted, spawn};

const LINES: usize = 10_000;

/// Longer than it takes, beside other tests on two cores.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a line meets, by its place in every hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    Flagged,
    MisspeltModel,
    TooLong,
    RefusedOnce,
    StreamBreaksOnce,
    StreamAlwaysBreaks,
}

fn fate(number: usize) -> Fate {
    match number % 200 {
        1 | 101 => Fate::Flagged,
        2 | 102 => Fate::MisspeltModel,
        3 | 103 => Fate::TooLong,
        10 | 40 | 70 | 110 | 140 | 170 => Fate::RefusedOnce,
        20 => Fate::StreamBreaksOnce,
        120 => Fate::StreamAlwaysBreaks,
        _ => Fate::Good,
    }
}

fn line(number: usize) -> String {
    let fate = fate(number);
    let model = if fate == Fate::MisspeltModel {
        "gpt-4o-mimi"
    } else {
        "gpt-4o-mini"
    };
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": format!("line {number}")}]});
    if matches!(fate, Fate::StreamBreaksOnce | Fate::StreamAlwaysBreaks) {
        body["stream"] = json!(true);
    }
    json!({"body": body, "row": number}).to_string()
}

/// The number that a request's prompt names.
fn number_of(request: &SeenRequest) -> usize {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    let prompt = body["messages"][0]["content"].as_str().expect("a prompt");
    let number = prompt.strip_prefix("line ").expect("its number");
    number.parse().expect("a number")
}

fn answer(number: usize, again: bool) -> Scripted {
    let good = json!({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": format!("answer {number}")}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    });
    let error = |status, code: &str, message: &str| {
        let body =
            json!({"error": {"message": message, "type": "invalid_request_error", "code": code}});
        Scripted::json(status, body.to_string())
    };
    let event = |choice: Value| format!("data: {}\n\n", json!({"choices": [choice]}));
    let delta = event(
        json!({"index": 0, "delta": {"role": "assistant", "content": format!("answer {number}")}}),
    );
    let stream = |rest: &str| {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        Scripted::raw(format!("{head}{delta}{rest}")).then_close()
    };
    match (fate(number), again) {
        (Fate::Flagged, _) => error(403, "content_policy_violation", "this prompt was flagged"),
        (Fate::MisspeltModel, _) => error(
            404,
            "model_not_found",
            "The model `gpt-4o-mimi` does not exist",
        ),
        (Fate::TooLong, _) => error(
            400,
            "context_length_exceeded",
            "This model's maximum context length is 8192 tokens",
        ),
        (Fate::RefusedOnce, false) => Scripted::json(429, r#"{"error":{"message":"too busy"}}"#),
        (Fate::StreamBreaksOnce, false) | (Fate::StreamAlwaysBreaks, _) => stream(""),
        (Fate::StreamBreaksOnce, true) => {
            let end = event(json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
            stream(&format!("{end}data: [DONE]\n\n"))
        }
        (Fate::Good | Fate::RefusedOnce, _) => Scripted::json(200, good.to_string()),
    }
}

/// Records by the row that their line named.
fn by_row(place: &Place, name: &str) -> BTreeMap<usize, Value> {
    let records = place.records(name).into_iter();
    records
        .map(|record| (record["row"].as_u64().expect("a row") as usize, record))
        .collect()
}

#[test]
fn a_mixture_of_failures_ends_by_itself_with_the_right_record_for_each_line() {
    thread::scope(|scope| {
        for runtime in runtimes() {
            scope.spawn(move || mixture(runtime));
        }
    });
}

fn mixture(runtime: &'static str) {
    let place = Place::new();
    let lines: Vec<String> = (0..LINES).map(line).collect();
    place.input(&lines);
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let mock = scripted(move |request| {
        let number = number_of(request);
        let again = !seen.lock().expect("nobody panics").insert(number);
        Some(answer(number, again))
    });
    let url = mock.url("/v1/chat/completions");
    let args = [
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "-e",
        "errors.jsonl",
        "--endpoint-url",
        &url,
        "--runtime",
        runtime,
        "--no-progress",
        "--cores",
        "2",
        "--rate",
        "0",
    ];
    let run = spawn(&place, &args).within(PATIENCE).wait().expect(3);
    let (answers, failures) = (by_row(&place, "out.jsonl"), by_row(&place, "errors.jsonl"));
    assert_eq!(answers.len() + failures.len(), LINES, "{runtime}");
    for number in 0..LINES {
        let fate = fate(number);
        let label = format!("{runtime}, line {number}, {fate:?}");
        let expect = match fate {
            Fate::Good | Fate::RefusedOnce | Fate::StreamBreaksOnce => {
                let record = answers
                    .get(&number)
                    .unwrap_or_else(|| panic!("{label}: failed"));
                let content = &record["response"]["choices"][0]["message"]["content"];
                assert_eq!(content, &format!("answer {number}"), "{label}");
                // A refusal costs none, a stream that broke does.
                let attempts = if fate == Fate::StreamBreaksOnce { 2 } else { 1 };
                assert_eq!(record["metadata"]["attempts"], attempts, "{label}");
                continue;
            }
            Fate::Flagged => ("auth", 403, "flagged"),
            Fate::MisspeltModel => ("not_found", 404, "gpt-4o-mimi"),
            Fate::TooLong => ("bad_request", 400, "maximum context length"),
            Fate::StreamAlwaysBreaks => ("protocol", 200, ""),
        };
        let record = failures
            .get(&number)
            .unwrap_or_else(|| panic!("{label}: succeeded"));
        let (kind, status, text) = expect;
        assert_eq!(record["error_kind"], kind, "{label}: {record}");
        assert_eq!(record["status_code"], status, "{label}: {record}");
        let error = record["error"].as_str().expect("a text");
        assert!(error.contains(text), "{label}: {record}");
    }
    // In words that a stranger understands: how many, what was most frequent and an example of it.
    for told in ["10000", "9650 succeeded", "350 failed"] {
        let figures = run.stderr.replace(',', "");
        assert!(
            figures.contains(told),
            "{runtime}: no {told:?} in {}",
            run.stderr
        );
    }
    assert!(
        ["flagged", "gpt-4o-mimi", "maximum context length"]
            .iter()
            .any(|text| run.stderr.contains(text)),
        "{runtime}: no reason in {}",
        run.stderr
    );
}
