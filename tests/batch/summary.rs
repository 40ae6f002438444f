//! The summary says what happened, over all processes of a run, why, and what would help.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blaze_uring::mock::{Mock, Scripted};
use serde_json::{Value, json};

use crate::support::{Place, batch_args, mock, replaced, run, runtimes, scripted, spawn};

/// Answers with usage, a 400 to `bad`, and to `held` nothing while that is so.
fn paid(is_held: &Arc<AtomicBool>) -> Mock {
    let is_held = Arc::clone(is_held);
    scripted(move |request| {
        let body = String::from_utf8_lossy(&request.body);
        if body.contains("held") && is_held.load(Ordering::Relaxed) {
            return Some(Scripted::raw("").then_hang());
        }
        if body.contains("bad") {
            let error = r#"{"error":{"message":"no such thing"}}"#;
            return Some(Scripted::json(400, error));
        }
        let answer = r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":500}}"#;
        Some(Scripted::json(200, answer))
    })
}

fn summary(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap_or_default()).expect("a summary")
}

#[test]
fn figures_are_of_all_processes_of_the_run() {
    for runtime in runtimes() {
        for is_killed in [false, true] {
            let is_held = Arc::new(AtomicBool::new(true));
            let (place, mock) = (Place::new(), paid(&is_held));
            place.input(&[
                r#"{"input":"a"}"#,
                r#"{"input":"bad","id":"b7"}"#,
                r#"{"input":"b"}"#,
                r#"{"input":"held"}"#,
            ]);
            place.write(
                "c.json",
                format!(
                    r#"{{"endpoints":[{{"url":"{}","model":"m"}}],"prices":{{"m":{{"input":2.0,"output":10.0}}}}}}"#,
                    mock.url("/v1/chat/completions")
                ),
            );
            let mut args = batch_args(&mock, runtime, &["-c", "c.json", "--json-logs"]);
            args.extend(["--grace", "0"].map(str::to_owned));
            let at = args.iter().position(|arg| arg == "--endpoint-url");
            let at = at.expect("it is there");
            args.drain(at..at + 2);
            let mut running = spawn(&place, &args);
            running.until("all but one are answered", || mock.stats().requests == 4);
            // Their records are written, at the latest when their figures are kept.
            let figures = place.path("out.jsonl.blaze/figures-0001.json");
            running.until("the figures are kept", || {
                let parts = [r#""bad_request":1"#, r#""successes":2"#];
                std::fs::read_to_string(&figures)
                    .is_ok_and(|text| parts.iter().all(|part| text.contains(part)))
            });
            if is_killed {
                running.kill();
            } else {
                running.signal(libc::SIGINT);
                let first = summary(&running.wait().expect(130).stdout);
                assert_eq!(first["run_folder"], "out.jsonl.blaze", "{first}");
                assert_eq!(first["attempts"], 4, "{first}");
            }
            is_held.store(false, Ordering::Relaxed);
            let second = summary(&run(&place, &args).expect(3).stdout);
            for (field, value) in [
                ("lines", json!(4)),
                ("success_count", json!(3)),
                ("failure_count", json!(1)),
                // The one that was in flight was sent twice.
                ("attempts", json!(5)),
                ("failures_by_kind", json!({"bad_request": 1})),
                (
                    "tokens",
                    json!({"prompt": 3000, "completion": 1500, "cached": 0}),
                ),
            ] {
                assert_eq!(
                    second[field], value,
                    "{runtime} {is_killed} {field}: {second}"
                );
            }
            // 3 × (1000 × 2 + 500 × 10) / 1,000,000
            let cost = second["cost_usd"].as_f64().expect("a number");
            assert!((cost - 0.021).abs() < 1e-9, "{second}");
            assert_eq!(second["endpoints"][0]["successes"], 3, "{second}");
            let elapsed = second["elapsed_seconds"].as_f64().expect("a number");
            assert!(
                elapsed >= 1.0,
                "the first process ran for a second: {second}"
            );
            let failure = &second["top_failure"];
            assert_eq!(
                failure["line_number"], 2,
                "the first process saw it: {second}"
            );
            assert_eq!(failure["id"], "b7", "{second}");
        }
    }
}

#[test]
fn the_most_frequent_failure_is_told_with_url_example_and_help() {
    for runtime in runtimes() {
        let is_held = Arc::default();
        let (place, mock) = (Place::new(), paid(&is_held));
        let mut lines = vec![r#"{"input":"a"}"#; 3];
        lines.push("broken");
        lines.extend([r#"{"input":"bad","id":"b7"}"#; 2]);
        place.input(&lines);
        let run = run(&place, &batch_args(&mock, runtime, &[])).expect(3);
        let url = format!("sent to {}", mock.url("/v1/chat/completions"));
        for part in [
            "2 lines with bad_request: HTTP 400: no such thing",
            "for example line 5 (b7)",
            &url,
            "what helps",
        ] {
            assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
        }
    }
}

#[test]
fn a_run_that_cannot_go_on_tells_why_and_where_its_records_are() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| {
            Some(Scripted::json(
                401,
                r#"{"error":{"message":"who are you"}}"#,
            ))
        });
        place.input(&[r#"{"input":"a"}"#; 3]);
        let run = run(&place, &batch_args(&mock, runtime, &["--json-logs"])).expect(4);
        let summary = summary(&run.stdout);
        assert_eq!(summary["run_folder"], "out.jsonl.blaze");
        let failure = &summary["top_failure"];
        assert_eq!(failure["error_kind"], "auth", "{summary}");
        assert_eq!(failure["lines"], 0, "{summary}");
        let help = failure["help"].as_str().expect("a text");
        assert!(help.contains("BLAZE_API_KEY"), "{help}");
    }
}

#[test]
fn endpoints_on_one_url_have_names_of_their_own_everywhere() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        let lines: Vec<_> = (0..8).map(|n| format!(r#"{{"input":"{n}"}}"#)).collect();
        place.input(&lines);
        let url = mock.url("/v1/chat/completions");
        place.write(
            "c.json",
            format!(
                r#"{{"endpoints":[{{"url":"{url}","model":"m","api_key":"k1"}},{{"url":"{url}","model":"m","api_key":"k2"}}]}}"#
            ),
        );
        let args = batch_args(&mock, runtime, &["-c", "c.json", "--json-logs"]);
        let args = replaced(args, "--endpoint-url", "x");
        let at = args
            .iter()
            .position(|arg| arg == "--endpoint-url")
            .expect("it is there");
        let args = [&args[..at], &args[at + 2..]].concat();
        let summary = summary(&run(&place, &args).expect(0).stdout);
        let names: Vec<&str> = (summary["endpoints"].as_array().expect("a list").iter())
            .map(|endpoint| endpoint["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names.len(), 2);
        assert_ne!(names[0], names[1]);
        for record in place.records("out.jsonl") {
            let name = record["metadata"]["endpoint"].as_str().expect("a name");
            assert!(names.contains(&name), "{name} is not of {names:?}");
        }
    }
}
