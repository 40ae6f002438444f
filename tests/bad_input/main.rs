//! Everything a user can get wrong before a run: one clear message, the right exit status, nothing
//! sent, nothing created, nothing touched, no secret told. And `--dry-run`, which looks for all of it.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

#[path = "../support/mod.rs"]
mod support;

mod config;
mod dry_run;
mod files;
mod flags;

use std::fs;

use support::{Place, Run, run_with};

/// Stands wherever a key or password may stand; no output may ever hold it.
const SECRET: &str = "s3cr3t-8f2a";

/// The variable that holds it.
const SECRET_VARIABLE: &str = "TEST_SECRET";

const LINE: &str = r#"{"input":"a"}"#;

/// A config that would work if the server existed; `{}` takes more fields of its endpoint.
const ENDPOINT: &str =
    r#""url":"http://127.0.0.1:9/v1","api_key":"${TEST_SECRET}","name":"the-endpoint""#;

/// One mistake.
struct Case {
    what: &'static str,
    /// Files to write besides a good `in.jsonl`.
    files: Vec<(&'static str, Vec<u8>)>,
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
    status: i32,
    /// All stand in the message.
    told: Vec<&'static str>,
}

impl Case {
    fn new(what: &'static str, status: i32, arguments: &[&str], told: &[&'static str]) -> Self {
        Self {
            what,
            files: Vec::new(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            variables: Vec::new(),
            status,
            told: told.to_vec(),
        }
    }

    fn file(mut self, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name, bytes.into()));
        self
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }
}

/// `-i in.jsonl -o out.jsonl` and an endpoint where nobody listens, with `more`.
fn usual(more: &[&'static str]) -> Vec<&'static str> {
    let mut arguments = vec!["-i", "in.jsonl", "-o", "out.jsonl"];
    arguments.extend(["--endpoint-url", "http://127.0.0.1:9/v1"]);
    arguments.extend(more);
    arguments
}

/// The same with a config file.
fn configured(file: &'static str) -> Vec<&'static str> {
    vec!["-i", "in.jsonl", "-o", "out.jsonl", "-c", file]
}

/// A mistake in a JSON config file with these members.
fn config(what: &'static str, members: &str, told: &[&'static str]) -> Case {
    Case::new(what, 1, &configured("c.json"), told).file("c.json", format!("{{{members}}}"))
}

/// A mistake in the one endpoint of a JSON config file.
fn endpoint(what: &'static str, field: &str, told: &[&'static str]) -> Case {
    let members = format!(r#""endpoints":[{{{ENDPOINT},{field}}}]"#);
    config(what, &members, told)
}

/// Makes every mistake with and without `--dry-run`.
fn check(cases: Vec<Case>) {
    for case in cases {
        for dry in [false, true] {
            let place = Place::new();
            place.input(&[LINE]);
            for (name, bytes) in &case.files {
                place.write(name, bytes);
            }
            check_in(&place, &case, dry);
        }
    }
}

fn check_in(place: &Place, case: &Case, dry: bool) {
    let before = contents(place);
    let mut arguments = case.arguments.clone();
    arguments.extend(dry.then(|| "--dry-run".to_owned()));
    let run = run_with(place, &arguments, |command| {
        command.env(SECRET_VARIABLE, SECRET);
        command.envs(case.variables.iter().copied());
    });
    let what = format!("{} (dry: {dry})", case.what);
    check_message(&what, &run, case.status, &case.told);
    assert_eq!(contents(place), before, "{what}: something was touched");
}

fn check_message(what: &str, run: &Run, status: i32, told: &[&str]) {
    assert_eq!(run.status, Some(status), "{what}: {run:#?}");
    assert_eq!(run.stdout, "", "{what}");
    let message: Vec<_> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(message.len(), 1, "{what}: one message: {}", run.stderr);
    for part in told {
        assert!(
            run.stderr.contains(part),
            "{what}: {part:?} is not in {}",
            run.stderr
        );
    }
    for part in ["panicked", "RUST_BACKTRACE", SECRET] {
        assert!(
            !run.stderr.contains(part),
            "{what}: {part:?} is in {}",
            run.stderr
        );
    }
}

/// Every name in the folder, with the bytes of files.
fn contents(place: &Place) -> Vec<(String, Vec<u8>)> {
    let bytes = |name: &String| fs::read(place.path(name)).unwrap_or_default();
    place
        .listing()
        .into_iter()
        .map(|name| (name.clone(), bytes(&name)))
        .collect()
}
