//! Refused for load: 429, 503 and 529 that are not about the line they answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use blaze_uring::mock::{Mock, Scripted};
use serde_json::{Value, json};

use crate::support::{Place, mock_with, on_each_runtime, run, runtimes, scripted};
use crate::{args, arrivals, assert_complete, config, endpoint, numbered};

const GOOD: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// Waits that a test need not sit through.
fn brisk(max_attempts: u32) -> Value {
    json!({"retry": {"initial_backoff": "5ms", "max_backoff": "20ms", "max_attempts": max_attempts}})
}

fn good() -> Scripted {
    Scripted::json(200, GOOD).after(Duration::from_millis(10))
}

/// The line that says `unlucky` gets what `answers` says for its first, second, … request; all others
/// are answered well.
fn unlucky(answers: fn(usize) -> Scripted) -> Mock {
    let met = AtomicUsize::new(0);
    scripted(move |request| {
        let is_unlucky = memchr::memmem::find(&request.body, b"unlucky").is_some();
        Some(match is_unlucky {
            true => answers(met.fetch_add(1, Ordering::SeqCst)),
            false => good(),
        })
    })
}

/// `count` lines and, second of all, the unlucky one.
fn with_unlucky(place: &Place, count: usize) {
    let mut lines: Vec<String> = (0..count)
        .map(|id| json!({"input": format!("q{id}")}).to_string())
        .collect();
    lines.insert(1, json!({"input": "unlucky"}).to_string());
    place.input(&lines);
}

#[test]
fn refusals_spend_no_attempt() {
    // Name, what the line meets, the status it ends with, the attempts in its record.
    type Case = (&'static str, fn(usize) -> Scripted, u64);
    let cases: [Case; 6] = [
        (
            "429",
            |met| match met {
                0..5 => Scripted::json(429, "{}"),
                _ => good(),
            },
            1,
        ),
        (
            "503",
            |met| match met {
                0..5 => Scripted::json(503, "{}"),
                _ => good(),
            },
            1,
        ),
        (
            "529",
            |met| match met {
                0..5 => Scripted::json(529, "{}"),
                _ => good(),
            },
            1,
        ),
        (
            "503 with a wait",
            |met| match met {
                0..5 => Scripted::json(503, "{}").header("retry-after-ms", "20"),
                _ => good(),
            },
            1,
        ),
        (
            "both",
            |met| match met {
                0 | 2 => Scripted::json(500, "{}"),
                1 | 3..6 => Scripted::json(429, r#"{"error":"busy"}"#),
                _ => good(),
            },
            3,
        ),
        (
            "a 429 to be retried",
            |met| match met {
                0..4 => Scripted::json(429, "{}").header("x-should-retry", "true"),
                _ => good(),
            },
            1,
        ),
    ];
    for runtime in runtimes() {
        for (name, answers, attempts) in cases {
            let place = Place::new();
            let mock = unlucky(answers);
            config(&place, &[endpoint(&mock, "a", json!({}))], brisk(3));
            with_unlucky(&place, 120);
            let more = ["--workers", "3", "--cores", "1"];
            run(&place, &args(runtime, &more)).expect(0);
            let records = place.records("out.jsonl");
            assert_eq!(records.len(), 121, "{runtime}: {name}");
            for record in records {
                let expect = match record["input"] == "unlucky" {
                    true => attempts,
                    false => 1,
                };
                assert_eq!(
                    record["metadata"]["attempts"], expect,
                    "{runtime}: {name}: {record}"
                );
            }
        }
    }
}

#[test]
fn a_line_that_is_refused_while_others_are_answered_fails_at_last() {
    on_each_runtime(|runtime| {
        for (status, kind) in [
            (429, "rate_limited"),
            (503, "server_error"),
            (529, "server_error"),
        ] {
            let place = Place::new();
            let mock = match status {
                429 => unlucky(|_| Scripted::json(429, r#"{"error":"busy"}"#)),
                503 => unlucky(|_| Scripted::json(503, r#"{"error":"busy"}"#)),
                _ => unlucky(|_| Scripted::json(529, r#"{"error":"busy"}"#)),
            };
            config(&place, &[endpoint(&mock, "a", json!({}))], brisk(3));
            with_unlucky(&place, 800);
            let more = ["--workers", "4", "--cores", "1"];
            run(&place, &args(runtime, &more)).expect(3);
            assert_eq!(place.records("out.jsonl").len(), 800, "{runtime}: {status}");
            let errors = place.records("errors.jsonl");
            assert_eq!(errors.len(), 1, "{runtime}: {errors:?}");
            let error = &errors[0];
            assert_eq!(error["input"], "unlucky");
            assert_eq!(error["error_kind"], kind, "{error}");
            assert_eq!(error["status_code"], status, "{error}");
            assert_eq!(error["attempts"], 1, "{error}");
            assert_eq!(error["response"], json!({"error": "busy"}));
            let text = error["error"].as_str().expect("a text");
            assert!(text.contains("refused for load"), "{text}");
            // Those do not count between which nobody else was answered.
            let sent = mock.stats().requests - 800;
            assert!((20..100).contains(&sent), "{runtime}: {status}: {sent}");
        }
    });
}

/// What no waiting cures is said once.
#[test]
fn a_request_larger_than_the_limit_is_final_at_once() {
    const TOO_LARGE: &str = r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 45000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
    for runtime in runtimes() {
        let place = Place::new();
        let mock = unlucky(|_| Scripted::json(429, TOO_LARGE));
        config(&place, &[endpoint(&mock, "a", json!({}))], brisk(3));
        with_unlucky(&place, 40);
        run(&place, &args(runtime, &["--workers", "4"])).expect(3);
        assert_eq!(mock.stats().requests, 41, "{runtime}");
        let errors = place.records("errors.jsonl");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0]["error_kind"], "rate_limited");
        assert_eq!(errors[0]["attempts"], 1);
    }
}

/// Where nobody is answered it is an outage, which burns no line, whatever the refusal.
#[test]
fn where_nobody_is_answered_lines_wait() {
    const LINES: usize = 60;
    on_each_runtime(|runtime| {
        for status in [429, 503] {
            let place = Place::new();
            let is_out = std::sync::Arc::new(AtomicBool::new(false));
            let out = std::sync::Arc::clone(&is_out);
            let served = AtomicUsize::new(0);
            let mock = scripted(move |_| {
                if served.fetch_add(1, Ordering::SeqCst) >= 20 && !out.load(Ordering::SeqCst) {
                    return Some(Scripted::json(status, "{}"));
                }
                Some(Scripted::json(200, GOOD))
            });
            config(&place, &[endpoint(&mock, "a", json!({}))], brisk(2));
            place.input(&numbered(LINES));
            let stopped = run(&place, &args(runtime, &["--max-outage", "3"])).expect(4);
            assert!(stopped.stderr.contains(&status.to_string()), "{stopped:?}");
            is_out.store(true, Ordering::SeqCst);
            run(&place, &args(runtime, &[])).expect(0);
            assert_complete(&place, LINES);
            for record in place.records("out.jsonl") {
                assert_eq!(record["metadata"]["attempts"], 1, "{runtime}: {record}");
            }
        }
    });
}

/// Eight at once, and the rest is refused at once: no flag is given but the runtime.
#[test]
fn a_full_queue_costs_no_line() {
    const LINES: usize = 300;
    on_each_runtime(|runtime| {
        let place = Place::new();
        let mock = mock_with(|options| {
            options.latency = "60ms".parse().expect("a latency");
            options.max_concurrent = Some(8);
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&numbered(LINES));
        let plain = args(runtime, &["--workers", "auto", "--rate", "1000"]);
        run(&place, &plain).expect(0);
        assert_complete(&place, LINES);
        let stats = mock.stats();
        let refused = stats.statuses.get(&429).copied().unwrap_or(0);
        assert!(refused < 2 * LINES as u64, "{runtime}: {refused} refused");
        for record in place.records("out.jsonl") {
            assert_eq!(record["metadata"]["attempts"], 1, "{runtime}: {record}");
        }
    });
}

/// Three of a hundred requests are refused at random, each with a second to wait: that is no limit, and
/// the others go on. The first time it is waited for all the same.
#[test]
fn lone_refusals_do_not_stop_everybody() {
    const LINES: usize = 1000;
    for runtime in runtimes() {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let refused: Mutex<HashMap<Vec<u8>, ()>> = Mutex::default();
        let mock = scripted(move |request| {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            if number % 33 == 32 && number < LINES {
                refused
                    .lock()
                    .expect("nobody panics")
                    .insert(request.body.clone(), ());
                return Some(Scripted::json(429, "{}").header("retry-after", "1"));
            }
            Some(Scripted::json(200, GOOD).after(Duration::from_millis(5)))
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--cores", "1"])).expect(0);
        assert_complete(&place, LINES);
        let arrivals = arrivals(&mock, "");
        let pauses = (arrivals.windows(2))
            .filter(|pair| pair[1] - pair[0] >= Duration::from_millis(500))
            .count();
        // 30 refusals; the first few come before their like is known, and the last lines wait for their own.
        assert!((1..=6).contains(&pauses), "{runtime}: {pauses} pauses");
    }
}
