//! Behaviours of servers, and inputs, that people met: `cases.jsonl` holds one case a line (`variants.jsonl` others of the same kinds), with what the
//! server answers and what a right run leaves behind. Each case runs on every runtime.
//!
//! `BLAZE_CASES=A1 cargo test --test cases` runs those whose names begin so.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod server;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use server::Server;
use support::{Place, Run, parse_records, records, run_with, runtimes};

const CASES: &str = concat!(include_str!("cases.jsonl"), include_str!("variants.jsonl"));

/// Cases at once: most of their time is waiting.
const THREADS: usize = 4;

/// How much longer than the case says something may take here: a loaded machine is slower, and only
/// lower bounds are the program's promise.
const SLOWER: f64 = 3.0;

#[test]
fn every_case_comes_out_right() {
    let only = std::env::var("BLAZE_CASES").unwrap_or_default();
    let cases: Vec<Value> = CASES
        .lines()
        .map(|line| serde_json::from_str(line).expect("a case is JSON"))
        .filter(|case: &Value| name(case).starts_with(&only))
        .collect();
    assert!(!cases.is_empty(), "no case begins with {only:?}");
    let jobs: Vec<(&Value, &str)> = cases
        .iter()
        .flat_map(|case| runtimes().into_iter().map(move |runtime| (case, runtime)))
        .collect();
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut wrong = Vec::new();
                    while let Some((case, runtime)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if let Err(why) = check(case, runtime) {
                            wrong.push(format!("{} on {runtime}: {why}", name(case)));
                        }
                    }
                    wrong
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a case does not panic"))
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} wrong:\n\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a case has a name")
}

/// Runs one case as often as it says and compares what is left behind.
fn check(case: &Value, runtime: &str) -> Result<(), String> {
    let place = Place::new();
    let server = Server::start(case);
    let lines = texts(&case["lines"]);
    place.input(&lines);
    let expect = &case["expect"];
    let statuses = match &expect["exit"] {
        Value::Array(statuses) => statuses.clone(),
        status => vec![status.clone()],
    };
    let args = arguments(case, runtime, &place, &server);
    let mut last: Option<(Run, Duration)> = None;
    for status in &statuses {
        let started = Instant::now();
        let run = run_with(&place, &args, |command| {
            for (name, value) in case["env"].as_object().into_iter().flatten() {
                command.env(name, value.as_str().expect("text"));
            }
        });
        let allowed = match status {
            Value::Array(any) => any.clone(),
            one => vec![one.clone()],
        };
        if !allowed.contains(&json!(run.status)) {
            return Err(format!("exit {:?}, not {status}: {run:#?}", run.status));
        }
        last = Some((run, started.elapsed()));
    }
    let (run, took) = last.expect("a case runs at least once");
    let context = |text: String| format!("{text}\nstandard error: {}", run.stderr);
    outcome(case, &place, &lines).map_err(context)?;
    requests(expect, &server).map_err(context)?;
    if let Some([_, most]) = bounds(&expect["seconds"])
        && took.as_secs_f64() > most * SLOWER
    {
        return Err(context(format!("took {took:?}")));
    }
    for text in texts(&expect["stderr"]) {
        if !run.stderr.contains(&text) {
            return Err(context(format!("standard error does not name {text}")));
        }
    }
    if let Some(summary) = expect.get("summary") {
        let printed = parse_records("standard output", run.stdout.as_bytes());
        let found = printed.last().cloned().unwrap_or_default();
        contains(&found, summary, "summary").map_err(context)?;
    }
    Ok(())
}

fn arguments(case: &Value, runtime: &str, place: &Place, server: &Server) -> Vec<String> {
    let address = server.address.to_string();
    let mut args: Vec<String> = "-i in.jsonl -o out.jsonl -e errors.jsonl --no-progress --runtime"
        .split(' ')
        .map(str::to_owned)
        .collect();
    args.push(runtime.to_owned());
    if let Some(config) = case.get("config") {
        place.write(
            "config.json",
            config.to_string().replace("${SERVER}", &address),
        );
        args.extend(["-c".to_owned(), "config.json".to_owned()]);
    } else {
        let url = case["url"].as_str().unwrap_or("http://${SERVER}/v1");
        args.extend([
            "--endpoint-url".to_owned(),
            url.replace("${SERVER}", &address),
        ]);
    }
    args.extend(texts(&case["flags"]));
    args
}

/// Compares the records of the final files with those that the case expects.
fn outcome(case: &Value, place: &Place, lines: &[String]) -> Result<(), String> {
    let mut found: BTreeMap<u64, (&str, Value)> = BTreeMap::new();
    for (file, outcome) in [("out.jsonl", "success"), ("errors.jsonl", "failure")] {
        let path = place.path(file);
        let listed = if path.exists() {
            records(&path)
        } else {
            Vec::new()
        };
        for record in listed {
            let line = line_of(&record, lines)?;
            if found.insert(line, (outcome, record)).is_some() {
                return Err(format!("line {line} has two records"));
            }
        }
    }
    let expected = case["expect"]["records"]
        .as_array()
        .expect("records are a list");
    if expected.len() != found.len() {
        return Err(format!(
            "{} records instead of {}: {found:#?}",
            found.len(),
            expected.len()
        ));
    }
    for expect in expected {
        let line = expect["line"].as_u64().expect("a line number");
        let (outcome, record) = found
            .get(&line)
            .ok_or_else(|| format!("line {line} has no record"))?;
        record_is(expect, outcome, record)
            .map_err(|why| format!("line {line}: {why} in {outcome} {record}"))?;
    }
    Ok(())
}

fn line_of(record: &Value, lines: &[String]) -> Result<u64, String> {
    let number = [&record["metadata"]["line_number"], &record["line_number"]]
        .into_iter()
        .find_map(Value::as_u64);
    if let Some(number) = number {
        return Ok(number);
    }
    let index = lines.iter().position(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        !line["custom_id"].is_null() && line["custom_id"] == record["custom_id"]
    });
    index
        .map(|index| index as u64 + 1)
        .ok_or_else(|| format!("whose record is {record}"))
}

fn record_is(expect: &Value, outcome: &str, record: &Value) -> Result<(), String> {
    if expect["outcome"] != outcome {
        return Err(format!("the outcome is not {}", expect["outcome"]));
    }
    if let Some(kind) = expect.get("error_kind")
        && record["error_kind"] != *kind
    {
        return Err(format!("error_kind is not {kind}"));
    }
    if let Some(status) = expect.get("status_code") {
        let found = record["metadata"]
            .get("status_code")
            .unwrap_or(&record["status_code"]);
        if found != status {
            return Err(format!("status_code is not {status}"));
        }
    }
    if let Some(response) = expect.get("response")
        && record["response"] != *response
    {
        return Err(format!("response is not {response}"));
    }
    if let Some(held) = expect.get("contains") {
        contains(record, held, "record")?;
    }
    for path in texts(&expect["strings"]) {
        let pointer = format!("/{}", path.replace('.', "/"));
        let text = record.pointer(&pointer).and_then(Value::as_str);
        if text.is_none_or(str::is_empty) {
            return Err(format!("{path} is no text"));
        }
    }
    Ok(())
}

/// Whether `found` holds `held`: objects may have more members, lists have as many elements.
fn contains(found: &Value, held: &Value, path: &str) -> Result<(), String> {
    match (found, held) {
        (Value::Object(found), Value::Object(held)) => held.iter().try_for_each(|(name, held)| {
            let found = found.get(name).unwrap_or(&Value::Null);
            contains(found, held, &format!("{path}.{name}"))
        }),
        (Value::Array(found), Value::Array(held)) if found.len() == held.len() => found
            .iter()
            .zip(held)
            .enumerate()
            .try_for_each(|(index, (found, held))| {
                contains(found, held, &format!("{path}[{index}]"))
            }),
        _ if found == held => Ok(()),
        _ => Err(format!("{path} is {found}, not {held}")),
    }
}

/// Compares what came in at the server.
fn requests(expect: &Value, server: &Server) -> Result<(), String> {
    server.seen(|seen| {
        let count = seen.len() as f64;
        let wanted = match &expect["requests"] {
            Value::Array(_) => bounds(&expect["requests"]),
            number => number.as_f64().map(|number| [number, number]),
        };
        let [least, most] = wanted.expect("how many requests");
        if count < least || count > most {
            return Err(format!("{count} requests, not {}", expect["requests"]));
        }
        let targets: Vec<&str> = seen.iter().map(|request| &*request.target).collect();
        if let Some(paths) = expect.get("paths")
            && json!(targets) != *paths
        {
            return Err(format!("requests went to {targets:?}, not {paths}"));
        }
        for (name, values) in expect["headers"].as_object().into_iter().flatten() {
            for request in seen {
                let found: Vec<&String> = request.headers.get(name).into_iter().collect();
                if json!(found) != *values {
                    return Err(format!("{name} is {found:?}, not {values}"));
                }
            }
        }
        for (index, gap) in expect["gaps_ms"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let Some([least, most]) = bounds(gap) else {
                continue;
            };
            let (Some(before), Some(after)) = (seen.get(index), seen.get(index + 1)) else {
                return Err(format!("there is no gap {index}"));
            };
            let answered = before.answered.expect("an answer before the next request");
            let gap = after.came.saturating_duration_since(answered).as_secs_f64() * 1000.0;
            if gap < least || gap > most * SLOWER {
                return Err(format!("gap {index} is {gap:.0} ms, not {least} to {most}"));
            }
        }
        Ok(())
    })
}

fn bounds(value: &Value) -> Option<[f64; 2]> {
    let list = value.as_array()?;
    Some([list[0].as_f64()?, list[1].as_f64()?])
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|text| text.as_str().expect("text").to_owned())
        .collect()
}
