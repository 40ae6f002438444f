//! Traffic policy end to end: the real binary against the trial endpoint, judged by what the
//! endpoint saw.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

#[path = "../support/mod.rs"]
mod support;

mod caps;
mod cost;
mod health;
mod hints;
mod limits;
mod mixture;
mod rate;
mod refusals;
mod refused;
mod retries;
mod weights;
mod workers;

use std::time::Duration;

use blaze_uring::mock::Mock;
use serde_json::{Value, json};

use support::Place;

/// Lines whose content is their number, long enough together that two cores get some each.
fn numbered(count: usize) -> Vec<String> {
    /// More than two of the pieces that input is cut into.
    const INPUT_BYTES: usize = 256 << 10;
    let padding = "x".repeat(INPUT_BYTES / count);
    (0..count)
        .map(|number| json!({"input": format!("{number} {padding}"), "id": number}).to_string())
        .collect()
}

/// Writes `config.json` with these endpoints and further settings.
fn config(place: &Place, endpoints: &[Value], more: Value) {
    let mut config = json!({"endpoints": endpoints});
    for (key, value) in more.as_object().expect("settings are an object") {
        config[key] = value.clone();
    }
    place.write("config.json", config.to_string());
}

/// An endpoint at `/{name}/v1/chat/completions` of `mock`, with further fields.
fn endpoint(mock: &Mock, name: &str, more: Value) -> Value {
    let mut endpoint =
        json!({"name": name, "url": mock.url(&format!("/{name}/v1/chat/completions"))});
    for (key, value) in more.as_object().expect("fields are an object") {
        endpoint[key] = value.clone();
    }
    endpoint
}

/// A run over `config.json` on two cores without a rate limit, then `more`, which may say otherwise.
fn args<'a>(runtime: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "-c",
        "config.json",
        "--runtime",
        runtime,
        "--no-progress",
    ];
    for (flag, value) in [("--cores", "2"), ("--rate", "0"), ("--workers", "20")] {
        if !more.contains(&flag) {
            args.extend([flag, value]);
        }
    }
    args.extend(more);
    args
}

/// Arrival times at the endpoint `name`, or at all for an empty name, in order.
fn arrivals(mock: &Mock, name: &str) -> Vec<Duration> {
    let mut arrivals: Vec<Duration> = mock
        .requests()
        .iter()
        .filter(|request| request.target.starts_with(&format!("/{name}")))
        .map(|request| request.arrived)
        .collect();
    arrivals.sort_unstable();
    arrivals
}

/// The most arrivals in any window of that length.
fn most_within(arrivals: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (index, &at) in arrivals.iter().enumerate() {
        while arrivals[first] + window <= at {
            first += 1;
        }
        most = most.max(index + 1 - first);
    }
    most
}

/// Requests that the endpoint `name` has seen.
fn requests(mock: &Mock, name: &str) -> u64 {
    let path = format!("/{name}/v1/chat/completions");
    mock.stats()
        .paths
        .get(&path)
        .map_or(0, |path| path.requests)
}

/// The `id`s in `out.jsonl` are those of [`numbered`], each once, in order.
#[track_caller]
fn assert_complete(place: &Place, count: usize) {
    let ids: Vec<u64> = place
        .records("out.jsonl")
        .iter()
        .map(|record| record["id"].as_u64().expect("an id"))
        .collect();
    let expect: Vec<u64> = (0..count as u64).collect();
    assert_eq!(ids, expect);
}
