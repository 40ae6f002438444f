//! What a user sees: the summary, progress lines, JSON logs, metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use blaze_uring::mock::Scripted;
use serde_json::Value;

use crate::support::{
    Place, batch_args, mock, mock_with, parse_records, run, runtimes, scripted, spawn,
};

#[test]
fn the_summary_is_for_people() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"a"}"#, "broken", r#"{"input":"b"}"#]);
        let run = run(&place, &batch_args(&mock, runtime, &[])).expect(3);
        assert_eq!(run.stdout, "");
        for part in [
            "3 = 2 succeeded + 1 failed + 0 not finished",
            "out.jsonl",
            "errors.jsonl",
            "1 invalid_input",
            "p50",
            "p99",
            "2 ok",
        ] {
            assert!(
                run.stderr.contains(part),
                "{part} is not in\n{}",
                run.stderr
            );
        }
    }
}

#[test]
fn json_logs_end_in_the_summary() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        let lines: Vec<_> = (0..9).map(|n| format!(r#"{{"input":"{n}"}}"#)).collect();
        place.input(&[&lines[..], &["broken".to_owned()]].concat());
        let run = run(&place, &batch_args(&mock, runtime, &["--json-logs", "-v"])).expect(3);
        let logs: Vec<Value> = run
            .stderr
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        let summary: Value =
            serde_json::from_str(&run.stdout).expect("standard output is the summary");
        assert_eq!(logs.last(), Some(&summary));
        for (field, value) in [
            ("total_processed", 10),
            ("success_count", 9),
            ("failure_count", 1),
            ("attempts", 9),
            ("retries", 0),
        ] {
            assert_eq!(summary[field], value, "{field}: {summary}");
        }
        assert_eq!(summary["success_rate"], 90.0);
        assert!(summary["status"].is_string(), "{summary}");
        for field in [
            "elapsed_seconds",
            "avg_latency_ms",
            "throughput_rps",
            "cost_usd",
        ] {
            assert!(summary[field].is_number(), "{field}: {summary}");
        }
        for quantile in ["p50", "p90", "p99", "max"] {
            assert!(summary["latency_ms"][quantile].is_number(), "{summary}");
        }
        let tokens = &summary["tokens"];
        assert!(
            tokens["prompt"].as_u64().is_some_and(|count| count > 0),
            "{tokens}"
        );
        assert!(
            tokens["completion"].as_u64().is_some_and(|count| count > 0),
            "{tokens}"
        );
        assert!(tokens["cached"].is_u64(), "{tokens}");
        assert_eq!(summary["endpoints"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn tokens_and_prices_give_the_cost() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| {
            let usage = r#"{"prompt_tokens":1000,"completion_tokens":500,"prompt_tokens_details":{"cached_tokens":400}}"#;
            Some(Scripted::json(
                200,
                format!(r#"{{"choices":[{{"text":"ok"}}],"usage":{usage}}}"#),
            ))
        });
        place.input(&[r#"{"input":"a"}"#; 4]);
        place.write(
            "c.json",
            format!(
                r#"{{"endpoints":[{{"url":"{}","model":"m"}}],"prices":{{"m":{{"input":2.0,"cached_input":1.0,"output":10.0}}}}}}"#,
                mock.url("/v1")
            ),
        );
        let args = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "c.json",
            "--json-logs",
            "--runtime",
            runtime,
        ];
        let run = run(&place, &args).expect(0);
        let summary: Value = serde_json::from_str(&run.stdout).expect("the summary");
        assert_eq!(summary["tokens"]["prompt"], 4000);
        assert_eq!(summary["tokens"]["completion"], 2000);
        assert_eq!(summary["tokens"]["cached"], 1600);
        // (2400 × 2 + 1600 × 1 + 2000 × 10) / 1,000,000
        let cost = summary["cost_usd"].as_f64().expect("a number");
        assert!((cost - 0.0264).abs() < 1e-9, "{cost}");
    }
}

/// One scrape; the text after the head.
fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the metrics server listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // The text is OpenMetrics; as the older format its counters would lose their type.
    assert!(
        answer.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    answer
        .split_once("\r\n\r\n")
        .expect("a head and a body")
        .1
        .to_owned()
}

#[test]
fn metrics_can_be_scraped_during_a_run() {
    for runtime in runtimes() {
        let place = Place::new();
        // The last line hangs until the scrape has shown the others.
        let mock = scripted(|request| {
            let held = String::from_utf8_lossy(&request.body).contains("held");
            held.then(|| Scripted::raw("").then_hang())
        });
        let mut lines = vec![r#"{"input":"a"}"#; 5];
        lines.push(r#"{"input":"held"}"#);
        place.input(&lines);
        let more = ["--metrics-addr", "127.0.0.1:0", "--grace", "0"];
        let mut running = spawn(&place, &batch_args(&mock, runtime, &more));
        let said = running.until_stderr("/metrics");
        let address = said
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .expect("an address")
            .to_owned();
        let mut text = String::new();
        running.until("five successes in the metrics", || {
            text = scrape(&address);
            text.contains("\nblaze_lines_total{outcome=\"succeeded\"} 5\n")
        });
        assert!(text.contains("# TYPE"), "{text}");
        assert!(text.trim_end().ends_with("# EOF"), "{text}");
        running.signal(libc::SIGINT);
        running.wait().expect(130);
        assert!(
            TcpStream::connect(&address).is_err(),
            "it stops with the run"
        );
    }
}

#[test]
fn a_log_gets_plain_progress_lines() {
    for runtime in runtimes().into_iter().take(1) {
        let mock = mock_with(|options| options.latency = "150ms".parse().expect("valid"));
        let lines: Vec<_> = (0..90).map(|n| format!(r#"{{"input":"{n}"}}"#)).collect();
        let start = |more: &[&str]| {
            let place = Place::new();
            place.input(&lines);
            let mut args = batch_args(&mock, runtime, &[&["-w", "1"], more].concat());
            args.retain(|argument| argument != "--no-progress");
            let running = spawn(&place, &args);
            (place, running)
        };
        // At the same time: each takes more than ten seconds.
        let (_place, json) = start(&["--json-logs"]);
        let (_other_place, plain) = start(&[]);
        let run = plain.wait().expect(0);
        let progress: Vec<_> = run
            .stderr
            .lines()
            .filter(|line| line.contains("/90 lines"))
            .collect();
        assert!(!progress.is_empty(), "{}", run.stderr);
        for part in [
            "ok",
            "failed",
            "in flight",
            "p50",
            "ETA",
            "tokens/s",
            "elapsed",
            "retries",
            "429s",
        ] {
            assert!(progress[0].contains(part), "{part}: {}", progress[0]);
        }
        assert!(
            !run.stderr.contains('\x1b'),
            "no cursor movements: {}",
            run.stderr
        );

        let run = json.wait().expect(0);
        let progress = parse_records("stderr", run.stderr.as_bytes())
            .into_iter()
            .find(|line| line["message"] == "progress");
        let progress = progress.unwrap_or_else(|| panic!("no progress in {}", run.stderr));
        assert_eq!(progress["lines"], 90);
        for field in [
            "done",
            "percent",
            "rate_now",
            "rate_mean",
            "success_count",
            "failure_count",
            "in_flight",
            "retries",
            "rate_limited",
            "tokens_per_second",
            "eta_seconds",
            "elapsed_seconds",
            "cost_usd",
        ] {
            assert!(progress[field].is_number(), "{field}: {progress}");
        }
        assert!(progress["latency_ms"]["p99"].is_number(), "{progress}");
        assert_eq!(progress["endpoints"][0]["state"], "healthy", "{progress}");
    }
}
