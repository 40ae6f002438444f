//! `--json-logs`: standard error is JSON lines from the first byte to the last.

use blaze_uring::mock::Scripted;
use serde_json::Value;

use crate::support::{
    Place, Run, batch_args, mock, parse_records, run_with, runtimes, scripted, spawn,
};

/// Every line is an object that says how bad it is and what it is about; the last may be a summary.
#[track_caller]
fn lines_of(run: &Run) -> Vec<Value> {
    let lines = parse_records("stderr", run.stderr.as_bytes());
    assert!(!lines.is_empty(), "{run:#?}");
    let (last, messages) = lines.split_last().expect("a line");
    for line in messages
        .iter()
        .chain((last.get("status").is_none()).then_some(last))
    {
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
    lines
}

#[test]
fn what_is_wrong_before_the_start_is_json_too() {
    let place = Place::new();
    place.input(&[r#"{"input":"a"}"#]);
    place.write(
        "bad.json",
        r#"{"endpoints":[{"url":"http://x","nonsense":1}]}"#,
    );
    let url = ["--endpoint-url", "http://127.0.0.1:9/v1"];
    let check = |args: &[&str], variables: &[(&str, &str)], status: &[i32], says: &str| {
        let run = run_with(&place, args, |command| {
            command.envs(variables.iter().copied());
        });
        assert!(
            run.status.is_some_and(|found| status.contains(&found)),
            "{run:#?}"
        );
        let lines = lines_of(&run);
        let said = lines.iter().any(|line| {
            line["level"] == "ERROR"
                && line["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(says))
        });
        assert!(said, "{says}: {run:#?}");
        assert_eq!(run.stdout, "");
    };
    let json = [("BLAZE_JSON_LOGS", "true")];
    check(&["--json-logs", "--nonsense"], &[], &[2], "--nonsense");
    check(&["--nonsense"], &json, &[2], "--nonsense");
    check(
        &["--json-logs", "-i", "in.jsonl", "-w", "none"],
        &[],
        &[2],
        "none",
    );
    check(&["--json-logs"], &[], &[1, 2], "input");
    check(
        &[&["-i", "missing.jsonl", "--json-logs"], &url[..]].concat(),
        &[],
        &[1],
        "missing.jsonl",
    );
    check(
        &["-i", "in.jsonl", "-c", "bad.json", "--json-logs"],
        &[],
        &[1, 2],
        "nonsense",
    );
    check(
        &[&["-i", "in.jsonl"], &url[..]].concat(),
        &[json[0], ("BLAZE_WORKER", "9")],
        &[2],
        "BLAZE_WORKERS",
    );
}

#[test]
fn a_dry_run_is_json_and_ends_in_what_it_found() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"a"}"#, "broken", r#"{"input":"b"}"#]);
        let args = batch_args(&mock, runtime, &["--dry-run", "--json-logs"]);
        let run = crate::support::run(&place, &args).expect(3);
        let lines = lines_of(&run);
        let invalid = lines.iter().find(|line| line["line_number"] == 2);
        assert_eq!(
            invalid.map(|line| &line["level"]),
            Some(&"WARN".into()),
            "{run:#?}"
        );
        let last = lines.last().expect("a line");
        for (field, value) in [("lines", 3), ("valid", 2), ("invalid", 1)] {
            assert_eq!(last[field], value, "{last}");
        }
        assert_eq!(last["status"], "dry_run");
        assert_eq!(mock.stats().requests, 0);
    }
}

#[test]
#[cfg(unix)]
fn an_interrupt_tells_what_is_in_flight_whatever_progress_is_shown() {
    for runtime in runtimes() {
        for no_progress in [true, false] {
            for json in [true, false] {
                let place = Place::new();
                let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
                place.input(&[r#"{"input":"a"}"#; 3]);
                let mut args = batch_args(&mock, runtime, &["--grace", "1"]);
                if json {
                    args.push("--json-logs".to_owned());
                }
                if !no_progress {
                    args.retain(|argument| argument != "--no-progress");
                }
                let mut running = spawn(&place, &args);
                running.until("all are in flight", || mock.stats().requests == 3);
                running.signal(libc::SIGINT);
                running.until_stderr("a second Ctrl-C exits at once");
                let run = running.wait().expect(130);
                assert!(run.stderr.contains("3 requests are in flight"), "{run:#?}");
                if json {
                    let lines = lines_of(&run);
                    let told = lines.iter().find(|line| line["in_flight"] == 3);
                    let told = told.unwrap_or_else(|| panic!("{run:#?}"));
                    assert!(told["grace_seconds_left"].is_number(), "{told}");
                    assert_eq!(lines.last().expect("a line")["status"], "interrupted");
                }
            }
        }
    }
}

#[test]
#[cfg(unix)]
fn a_second_interrupt_exits_at_once_and_says_so() {
    for runtime in runtimes() {
        for json in [true, false] {
            let place = Place::new();
            let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
            place.input(&[r#"{"input":"a"}"#]);
            let mut args = batch_args(&mock, runtime, &["--grace", "100"]);
            if json {
                args.push("--json-logs".to_owned());
            }
            let mut running = spawn(&place, &args);
            running.until("it is in flight", || mock.stats().requests == 1);
            running.signal(libc::SIGINT);
            running.until_stderr("a second Ctrl-C exits at once");
            running.signal(libc::SIGINT);
            let run = running.wait().expect(130);
            assert!(run.stderr.contains("left at once"), "{run:#?}");
            if json {
                lines_of(&run);
            }
        }
    }
}
