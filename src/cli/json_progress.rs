//! `--json-logs`: progress as JSON lines with fields.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::batch::coordinator::Observer;
use crate::batch::progress::{self, Pace, PlainTimes};
use crate::cli::say;
use crate::metrics::Snapshot;

/// As often as plain lines.
#[derive(Default)]
pub struct JsonProgress {
    pace: Pace,
    times: PlainTimes,
}

impl Observer for JsonProgress {
    fn tick(&mut self, snapshot: &Snapshot) {
        let rate_now = self.pace.current(snapshot);
        if self.times.is_due(snapshot) {
            say::object("INFO", "progress", fields(snapshot, rate_now));
        }
        if let Some(text) = self.times.stopping(snapshot) {
            say::object("WARN", &text, stopping_fields(snapshot));
        }
    }
}

/// `--no-progress`: only what happens after an interrupt is said.
#[derive(Default)]
pub struct Stops {
    times: PlainTimes,
}

impl Observer for Stops {
    fn tick(&mut self, snapshot: &Snapshot) {
        let Some(text) = self.times.stopping(snapshot) else {
            return;
        };
        match say::is_in_json() {
            true => say::object("WARN", &text, stopping_fields(snapshot)),
            false => say::line(&text),
        }
    }
}

fn fields(snapshot: &Snapshot, rate_now: f64) -> Map<String, Value> {
    let endpoints = snapshot.endpoints.iter().zip(&snapshot.counts.endpoints);
    let endpoints: Vec<Value> = endpoints
        .map(|(endpoint, counts)| {
            json!({
                "name": endpoint.name,
                "state": endpoint.state.as_str(),
                "reason": endpoint.reason,
                "seconds_left": endpoint.cooldown.map(seconds),
                "attempts": counts.attempts,
                "successes": counts.successes,
                "in_flight": counts.in_flight,
            })
        })
        .collect();
    let (done, lines) = (snapshot.done(), snapshot.gauges.lines);
    object(json!({
        "lines": lines,
        "done": done,
        "percent": rounded(progress::percent(done, lines)),
        "rate_now": rounded(rate_now),
        "rate_mean": rounded(snapshot.lines_per_second()),
        "success_count": snapshot.succeeded(),
        "failure_count": snapshot.failed(),
        "in_flight": snapshot.in_flight(),
        "latency_ms": {"p50": snapshot.latency.ms_p50, "p99": snapshot.latency.ms_p99},
        "retries": snapshot.counts.retries,
        "rate_limited": snapshot.rate_limited(),
        "tokens_per_second": rounded(snapshot.tokens_per_second()),
        "eta_seconds": progress::seconds_left(snapshot, rate_now),
        "elapsed_seconds": seconds(snapshot.elapsed),
        "cost_usd": snapshot.counts.cost_usd,
        "rate_found": snapshot.rate_found,
        "workers_found": snapshot.workers_found(),
        "endpoints": endpoints,
    }))
}

fn stopping_fields(snapshot: &Snapshot) -> Map<String, Value> {
    let left = snapshot
        .stopping
        .as_ref()
        .map(|stopping| seconds(stopping.left));
    object(json!({"in_flight": snapshot.in_flight(), "grace_seconds_left": left}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn seconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64())
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
