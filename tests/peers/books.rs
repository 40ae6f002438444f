//! A whole file through a server that returns what it gets, and the books of it.

use serde_json::{Value, json};

use crate::batch::{Batch, Outcome};
use crate::support::{Place, parse_records};

/// What a request says; some are larger than a stream's window.
pub fn contents(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| match number % 50 {
            49 => format!("line {number} {}", "x".repeat(100_000)),
            _ => format!("line {number}"),
        })
        .collect()
}

/// A batch over HTTP/2 with many requests in flight, on one shard.
pub fn batch(runtime: &'static str, url: &str, contents: &[String], workers: usize) -> Batch {
    let mut batch = Batch::chat(runtime, url, contents.iter().cloned());
    for line in &mut batch.lines {
        let mut echoed: Value = serde_json::from_str(line).expect("a line is JSON");
        // What comes back is an answer.
        echoed["body"]["choices"] = json!([{"text": ""}]);
        *line = echoed.to_string();
    }
    batch.endpoint["http2"] = json!(true);
    batch.endpoint["max_concurrent"] = json!(workers);
    batch.settings = json!({"request": {"workers": workers}});
    batch
}

/// Runs it; every line succeeds in its first attempt and has its own answer: what it has sent.
#[track_caller]
pub fn balanced(batch: Batch, contents: &[String]) -> Outcome {
    balanced_in(batch, Place::new(), contents)
}

/// [`balanced`] in a place of the caller's.
#[track_caller]
pub fn balanced_in(batch: Batch, place: Place, contents: &[String]) -> Outcome {
    let outcome = answered_in(batch, place, contents);
    for number in 1..=contents.len() as u64 {
        assert_eq!(outcome.attempts(number), 1, "line {number}");
    }
    outcome
}

/// Runs it; every line succeeds, in however many attempts, and has its own answer.
#[track_caller]
pub fn answered_in(batch: Batch, place: Place, contents: &[String]) -> Outcome {
    let batch = batch.with(&["--json-logs"]);
    let outcome = batch.run_in(place, |_| {});
    assert_eq!(outcome.run.status, Some(0), "{:#?}", outcome.run);
    for (number, content) in (1..).zip(contents) {
        let answer = outcome.answer(number);
        assert!(
            answer["messages"][0]["content"] == content.as_str(),
            "line {number}: {answer}"
        );
    }
    let summary = summary(&outcome);
    assert_eq!(summary["total_processed"], contents.len());
    assert_eq!(summary["success_count"], contents.len());
    assert_eq!(summary["failure_count"], 0);
    outcome
}

/// The last line of standard output.
pub fn summary(outcome: &Outcome) -> Value {
    let lines = parse_records("stdout", outcome.run.stdout.as_bytes());
    lines.into_iter().next_back().expect("a summary")
}
