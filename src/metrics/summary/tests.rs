//! The books, the JSON and the terminal form of a summary, over the same small run.

use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::metrics::{
    Availability, EndpointState, Failed, FailureExample, Gauges, ShardMetrics, Totals,
};

/// 12,000 lines on two endpoints: some fail, one endpoint is disabled.
fn snapshot() -> Snapshot {
    let mut shard = ShardMetrics::new(2);
    let tokens = Tokens {
        prompt: 100,
        completion: 20,
        cached: 50,
    };
    for _ in 0..11_988 {
        shard.attempt(0);
        shard.success(0, Duration::from_millis(200), tokens, None);
    }
    for _ in 0..7 {
        shard.attempt(1);
        shard.failed_attempt(1, ErrorKind::Auth, Tokens::default());
    }
    for _ in 0..5 {
        shard.attempt(0);
        shard.failed_attempt(0, ErrorKind::RateLimited, Tokens::default());
        shard.retry();
    }
    shard.attempt(0);
    shard.failed_attempt(0, ErrorKind::Timeout, Tokens::default());
    for kind in [
        ErrorKind::RateLimited,
        ErrorKind::Timeout,
        ErrorKind::Timeout,
    ] {
        shard.line_failed(kind);
    }
    let failed = Failed {
        kind: ErrorKind::Timeout,
        status: None,
        message: "no answer within 30 s, \u{1b}[2Jwhich is the time that an attempt may take",
    };
    for _ in 0..2 {
        shard.failures().line(failed, || FailureExample {
            url: "https://llm.example.com/v1/chat/completions".to_owned(),
            endpoint: "primary".to_owned(),
            line_number: 17,
            id: Some("r17".to_owned()),
            ..FailureExample::default()
        });
    }
    shard.attempt(0);
    shard.transferred(3_000_000, 9_000_000);
    shard.cost(1.25);
    let mut totals = Totals::new(2);
    totals.absorb(&shard.take_delta());
    let states = vec![
        EndpointState {
            name: "primary".to_owned(),
            state: Availability::Healthy,
            reason: None,
            cooldown: None,
        },
        EndpointState {
            name: "https://eu.llm.example.com/v1/chat/completions".to_owned(),
            state: Availability::Disabled,
            reason: Some("HTTP 401: \u{1b}[31mbad key\nreally".to_owned()),
            cooldown: None,
        },
    ];
    totals.snapshot(&Gauges::default(), Duration::from_millis(12_500), states)
}

fn end() -> End {
    End {
        status: Status::Interrupted,
        reason: Some("Ctrl-C".to_owned()),
        books: Books {
            lines: 12_000,
            succeeded: 11_988,
            failed: 3,
            not_finished: 9,
        },
        output: Some("results.jsonl".to_owned()),
        errors: Some("errors.jsonl".to_owned()),
        folder: Some("results.jsonl.blaze".to_owned()),
        failure: snapshot().failure.map(|failure| (failure, "wait longer")),
    }
}

#[test]
fn books_balance_only_if_every_line_is_in_one_column() {
    let check = |lines, succeeded, failed, not_finished, expect| {
        let books = Books {
            lines,
            succeeded,
            failed,
            not_finished,
        };
        assert_eq!(books.balance(), expect, "{books:?}");
    };
    check(0, 0, 0, 0, true);
    check(10, 7, 2, 1, true);
    check(10, 7, 2, 0, false);
    check(10, 8, 2, 1, false);
    check(1, u64::MAX, 2, 0, false);
}

#[test]
fn the_json_has_the_fields_of_the_specification() {
    let found = serde_json::to_value(Summary::new(&snapshot(), end())).unwrap();
    let expect = serde_json::json!({
        "status": "interrupted",
        "reason": "Ctrl-C",
        "lines": 12_000,
        "total_processed": 11_991,
        "success_count": 11_988,
        "failure_count": 3,
        "not_finished": 9,
        "success_rate": 99.974,
        "elapsed_seconds": 12.5,
        "avg_latency_ms": found["avg_latency_ms"],
        "throughput_rps": 959.28,
        "latency_ms": found["latency_ms"],
        "attempts": 12_002,
        "retries": 5,
        "rate_limited": 5,
        "stale_resends": 0,
        "tokens": {"prompt": 1_198_800, "completion": 239_760, "cached": 599_400},
        "tokens_per_second": 115_084.8,
        "cost_usd": 1.25,
        "bytes_sent": 3_000_000,
        "bytes_received": 9_000_000,
        "failures_by_kind": {"rate_limited": 1, "timeout": 2},
        "endpoints": [
            {
                "name": "primary",
                "state": "healthy",
                "attempts": 11_995,
                "successes": 11_988,
                "failures": 6,
                "failures_by_kind": {"rate_limited": 5, "timeout": 1},
                "in_flight": 1,
                "avg_latency_ms": 200.0,
                "tokens": {"prompt": 1_198_800, "completion": 239_760, "cached": 599_400},
            },
            {
                "name": "https://eu.llm.example.com/v1/chat/completions",
                "state": "disabled",
                "reason": "HTTP 401: \u{1b}[31mbad key\nreally",
                "attempts": 7,
                "successes": 0,
                "failures": 7,
                "failures_by_kind": {"auth": 7},
                "in_flight": 0,
                "avg_latency_ms": 0.0,
                "tokens": {"prompt": 0, "completion": 0, "cached": 0},
            },
        ],
        "output": "results.jsonl",
        "errors": "errors.jsonl",
        "run_folder": "results.jsonl.blaze",
        "top_failure": {
            "error_kind": "timeout",
            "status_code": null,
            "lines": 2,
            "attempts": 0,
            "message": "no answer within 30 s, \u{1b}[2Jwhich is the time that an attempt may take",
            "url": "https://llm.example.com/v1/chat/completions",
            "endpoint": "primary",
            "line_number": 17,
            "id": "r17",
            "help": "wait longer",
        },
    });
    assert_eq!(found, expect);
    // The histogram keeps three digits.
    let latencies = found["latency_ms"].as_object().unwrap();
    assert_eq!(
        latencies.keys().collect::<Vec<_>>(),
        ["max", "p50", "p90", "p99"]
    );
    for ms in latencies.values().chain([&found["avg_latency_ms"]]) {
        assert!((ms.as_f64().unwrap() - 200.0).abs() < 0.2, "{ms}");
    }
}

#[test]
fn people_see_the_books_in_80_columns() {
    let expect = "\
Interrupted, the same command resumes
  reason     Ctrl-C
  lines      12,000 = 11,988 succeeded + 3 failed + 9 not finished
  success    99.974 %
  time       12.5 s, 959.3 lines/s, 115,085 tokens/s
  latency    p50 200, p90 200, p99 200, max 200 ms, mean 200 ms
  attempts   12,002, 5 retries, 5 answered 429
  tokens     1,198,800 prompt (599,400 cached), 239,760 completion
  cost       $1.2500
  failures   1 rate_limited
             2 timeout
  mostly     2 lines with timeout: no answer within 30 s,  [2Jwhich is the time that an attempt may take
             for example line 17 (r17)
             sent to https://llm.example.com/v1/chat/completions
  what helps wait longer
  endpoints  …v1/chat/completions  disabled   0 ok, 7 failed
               HTTP 401:  [31mbad key really
             primary               healthy    11,988 ok, 6 failed
  records    11,991 so far, in results.jsonl.blaze
  output     results.jsonl
  errors     errors.jsonl
";
    let shown = Summary::new(&snapshot(), end()).to_string();
    assert_eq!(shown, expect);
    for line in shown.lines().filter(|line| !line.contains("mostly")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn an_empty_run_divides_by_nothing() {
    let totals = Totals::new(0).snapshot(&Gauges::default(), Duration::ZERO, Vec::new());
    let end = End {
        status: Status::Completed,
        reason: None,
        books: Books::default(),
        output: None,
        errors: None,
        folder: None,
        failure: None,
    };
    let summary = Summary::new(&totals, end);
    assert_eq!((summary.success_rate, summary.throughput_rps), (0.0, 0.0));
    let json = serde_json::to_string(&summary).unwrap();
    assert!(
        json.contains(r#""avg_latency_ms":0.0"#) && !json.contains("ttft_ms"),
        "{json}"
    );
    assert!(summary.to_string().starts_with("Completed\n"));
}

#[test]
fn one_failure_in_a_million_is_not_hidden() {
    let books = Books {
        lines: 1_000_000,
        succeeded: 999_999,
        failed: 1,
        not_finished: 0,
    };
    let shown = Summary::new(&snapshot(), End { books, ..end() }).to_string();
    assert!(shown.contains("  success    99.999 %\n"), "{shown}");
}

#[test]
fn numbers_are_grouped_by_three() {
    let check = |number, expect: &str| assert_eq!(text::grouped(number), expect);
    check(0, "0");
    check(999, "999");
    check(1000, "1,000");
    check(123_456, "123,456");
    check(1_234_567, "1,234,567");
}

#[test]
fn a_lone_name_is_not_cut() {
    let mut shard = ShardMetrics::new(1);
    shard.attempt(0);
    let mut totals = Totals::new(1);
    totals.absorb(&shard.take_delta());
    let name = "a-name-that-is-longer-than-any-column-for-names-would-be";
    let state = EndpointState {
        name: name.to_owned(),
        state: Availability::Healthy,
        reason: None,
        cooldown: None,
    };
    let snapshot = totals.snapshot(&Gauges::default(), Duration::ZERO, vec![state]);
    let shown = Summary::new(&snapshot, end()).to_string();
    assert!(
        shown.contains(&format!("  endpoint   {name}  healthy")),
        "{shown}"
    );
}
