//! One batch against an endpoint of a test's own, and its records by line.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Place, Run, Running, spawn_with};

/// A batch to be run.
pub struct Batch {
    pub runtime: &'static str,
    /// The endpoint's entry in the config file.
    pub endpoint: Value,
    /// Further sections of the config file.
    pub settings: Value,
    pub args: Vec<&'static str>,
    pub lines: Vec<String>,
}

/// What became of it.
pub struct Outcome {
    pub run: Run,
    /// Success records by line number.
    pub answers: BTreeMap<u64, Value>,
    /// Failure records by line number.
    pub failures: BTreeMap<u64, Value>,
    /// Keeps the files.
    pub place: Place,
}

impl Batch {
    /// Chat lines with these contents, one attempt each, to the endpoint at `url`.
    pub fn chat(
        runtime: &'static str,
        url: &str,
        contents: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            runtime,
            endpoint: json!({"name": "e", "url": url}),
            settings: json!({}),
            args: vec!["--max-attempts", "1"],
            lines: contents.into_iter().map(|content| line(&content)).collect(),
        }
    }

    /// With further arguments; another number of attempts takes the place of one.
    pub fn with(mut self, args: &[&'static str]) -> Self {
        if args.contains(&"--max-attempts") {
            self.args.clear();
        }
        self.args.extend(args);
        self
    }

    /// Runs it; every line must have exactly one record.
    pub fn run(self) -> Outcome {
        self.run_in(Place::new(), |_| {})
    }

    /// [`Batch::run`] in a place of the caller's, with changes to the command.
    pub fn run_in(self, place: Place, change: impl FnOnce(&mut Command)) -> Outcome {
        let lines = self.lines.len();
        let outcome = self.attempt(place, change);
        let numbers: Vec<u64> = outcome
            .answers
            .keys()
            .chain(outcome.failures.keys())
            .copied()
            .collect();
        assert_eq!(
            numbers.len(),
            lines,
            "one record a line: {:#?}",
            outcome.run
        );
        outcome
    }

    /// [`Batch::run_in`] for a run that may stop early.
    pub fn attempt(self, place: Place, change: impl FnOnce(&mut Command)) -> Outcome {
        let (run, place) = self.attempt_raw(place, change);
        Outcome {
            answers: by_line(&place, "out.jsonl"),
            failures: by_line(&place, "errors.jsonl"),
            run,
            place,
        }
    }

    /// [`Batch::attempt`] whose records are the caller's to read (the `openai` format has no line
    /// numbers).
    pub fn attempt_raw(self, place: Place, change: impl FnOnce(&mut Command)) -> (Run, Place) {
        let run = self.start(&place, change).wait();
        (run, place)
    }

    /// Starts it, and leaves the rest to the caller.
    pub fn start(self, place: &Place, change: impl FnOnce(&mut Command)) -> Running {
        place.input(&self.lines);
        let mut config = json!({
            "endpoints": [self.endpoint],
            "retry": {"initial_backoff": "1ms", "max_backoff": "2ms"},
        });
        for (name, section) in self.settings.as_object().expect("an object") {
            config[name] = section.clone();
        }
        place.write("config.json", config.to_string());
        let mut args = vec![
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "config.json",
            "--no-progress",
            "--cores",
            "1",
            "--runtime",
            self.runtime,
        ];
        args.extend(&self.args);
        if !self.args.contains(&"--rate") {
            args.extend(["--rate", "0"]);
        }
        spawn_with(place, &args, change)
    }
}

impl Outcome {
    /// The kind and message of the failure of a line.
    #[track_caller]
    pub fn failure(&self, number: u64) -> (&str, &str) {
        let record = self.failures.get(&number).unwrap_or_else(|| {
            panic!(
                "line {number} did not fail: {:?}",
                self.answers.get(&number)
            )
        });
        let text = |name: &str| record[name].as_str().expect("a text");
        (text("error_kind"), text("error"))
    }

    /// The server's answer to a line that succeeded.
    #[track_caller]
    pub fn answer(&self, number: u64) -> &Value {
        let record = self.answers.get(&number).unwrap_or_else(|| {
            panic!(
                "line {number} has no answer: {:?}",
                self.failures.get(&number)
            )
        });
        &record["response"]
    }

    /// Attempts that a line took.
    pub fn attempts(&self, number: u64) -> u64 {
        let (answer, failure) = (self.answers.get(&number), self.failures.get(&number));
        let attempts = match (answer, failure) {
            (Some(record), _) => &record["metadata"]["attempts"],
            (None, Some(record)) => &record["attempts"],
            (None, None) => panic!("line {number} has no record"),
        };
        attempts.as_u64().expect("a number")
    }
}

/// A chat request as a line.
pub fn line(content: &str) -> String {
    json!({"body": {"model": "m", "messages": [{"role": "user", "content": content}]}}).to_string()
}

/// What [`line`] says, out of the body that arrived.
pub fn content(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let content = &body["messages"][0]["content"];
    content.as_str().unwrap_or_default().to_owned()
}

/// An answer that tells whose it is.
pub fn answer_to(content: &str) -> String {
    let choices = json!([{"message": {"role": "assistant", "content": content}}]);
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2});
    json!({"id": content, "choices": choices, "usage": usage}).to_string()
}

fn by_line(place: &Place, name: &str) -> BTreeMap<u64, Value> {
    if !place.path(name).exists() {
        return BTreeMap::new();
    }
    let mut records = BTreeMap::new();
    for record in place.records(name) {
        let number = record["line_number"].as_u64();
        let number = number.or(record["metadata"]["line_number"].as_u64());
        let before = records.insert(number.expect("records have line numbers"), record);
        assert_eq!(before, None, "a line has two records in {name}");
    }
    records
}
