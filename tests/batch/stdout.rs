//! `-o -`: records leave while the run goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blaze_uring::mock::{Mock, Scripted};
use serde_json::Value;

use crate::support::{
    Place, batch_args, mock, parse_records, replaced, run, runtimes, scripted, spawn, spawn_with,
};

/// Answers everything at once, but lines with `held` never while that is so.
fn holding(is_held: &Arc<AtomicBool>) -> Mock {
    let is_held = Arc::clone(is_held);
    scripted(move |request| {
        let held = String::from_utf8_lossy(&request.body).contains("held");
        (held && is_held.load(Ordering::Relaxed)).then(|| Scripted::raw("").then_hang())
    })
}

fn args(mock: &Mock, runtime: &str, more: &[&str]) -> Vec<String> {
    replaced(batch_args(mock, runtime, more), "-o", "-")
}

fn inputs(stdout: &str) -> Vec<String> {
    let records = parse_records("stdout", stdout.as_bytes());
    let input = |record: &Value| record["input"].as_str().expect("an input").to_owned();
    records.iter().map(input).collect()
}

/// Whether any file of the run folder holds this.
fn is_written(place: &Place, text: &str) -> bool {
    let names = place.listing();
    let mut files = names
        .iter()
        .filter(|name| name.starts_with("errors.jsonl.blaze/"))
        .filter_map(|name| std::fs::read(place.path(name)).ok());
    files.any(|bytes| memchr::memmem::find(&bytes, text.as_bytes()).is_some())
}

#[test]
fn records_leave_while_the_run_goes_on_and_all_again_when_it_is_repeated() {
    for runtime in runtimes() {
        for (order, first) in [("input", &["a", "b"][..]), ("completion", &["a", "b", "c"])] {
            for cores in ["1", "2"] {
                let is_held = Arc::new(AtomicBool::new(true));
                let (place, mock) = (Place::new(), holding(&is_held));
                let line = |text: &str| format!(r#"{{"input":"{text}"}}"#);
                let lines = ["a", "", "b", "held", "c"].map(|text| match text {
                    "" => String::new(),
                    text => line(text),
                });
                place.input(&lines);
                let more = ["--order", order, "--grace", "0"];
                let args = replaced(args(&mock, runtime, &more), "--cores", cores);
                let mut running = spawn(&place, &args);
                for text in first {
                    running.until_stdout(&format!("\"{text}\""));
                }
                // The last one is finished, too; its turn comes only by completion.
                running.until("all others have their records", || {
                    is_written(&place, r#""input":"c""#)
                });
                running.until("one is held", || mock.stats().requests == 4);
                running.signal(libc::SIGINT);
                let stopped = running.wait().expect(130);
                let mut seen = inputs(&stopped.stdout);
                if order == "completion" {
                    seen.sort_unstable();
                }
                assert_eq!(seen, first, "{runtime} {order}");

                is_held.store(false, Ordering::Relaxed);
                let repeated = run(&place, &args).expect(0);
                let mut seen = inputs(&repeated.stdout);
                if order == "completion" {
                    seen.sort_unstable();
                    assert_eq!(seen, ["a", "b", "c", "held"], "{runtime}");
                } else {
                    assert_eq!(seen, ["a", "b", "held", "c"], "{runtime}");
                }
                assert_eq!(mock.stats().requests, 5, "nothing is paid twice");
                assert_eq!(place.listing(), ["in.jsonl"]);
            }
        }
    }
}

#[test]
fn a_closed_pipe_is_like_an_interrupt() {
    for runtime in runtimes() {
        let is_held = Arc::new(AtomicBool::new(true));
        let (place, mock) = (Place::new(), holding(&is_held));
        place.input(&[
            r#"{"input":"a"}"#,
            r#"{"input":"held"}"#,
            r#"{"input":"b"}"#,
        ]);
        let args = args(&mock, runtime, &["--grace", "0"]);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let running = spawn_with(&place, &args, |command| {
            command.stdout(writer);
        });
        let stopped = running.wait().expect(130);
        assert!(stopped.stderr.contains("has closed it"), "{stopped:#?}");
        is_held.store(false, Ordering::Relaxed);
        let repeated = run(&place, &args).expect(0);
        assert_eq!(inputs(&repeated.stdout), ["a", "held", "b"], "{runtime}");
        assert_eq!(place.listing(), ["in.jsonl"]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_behind_standard_output_stops_the_run() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"a"}"#, r#"{"input":"b"}"#]);
        let args = args(&mock, runtime, &[]);
        let full = std::fs::File::options().write(true).open("/dev/full");
        let running = spawn_with(&place, &args, |command| {
            command.stdout(full.expect("a device"));
        });
        let stopped = running.wait().expect(4);
        assert!(
            stopped.stderr.contains("no space for standard output"),
            "{stopped:#?}"
        );
        let repeated = run(&place, &args).expect(0);
        assert_eq!(inputs(&repeated.stdout), ["a", "b"], "{runtime}");
        assert_eq!(mock.stats().requests, 2, "nothing is paid twice");
    }
}

#[test]
fn failures_that_are_sent_again_take_their_place() {
    for runtime in runtimes() {
        let fails = Arc::new(AtomicBool::new(true));
        let place = Place::new();
        let mock = {
            let fails = Arc::clone(&fails);
            scripted(move |request| {
                let bad = String::from_utf8_lossy(&request.body).contains("bad");
                (bad && fails.load(Ordering::Relaxed))
                    .then(|| Scripted::json(400, r#"{"error":{"message":"no"}}"#))
            })
        };
        place.input(&[r#"{"input":"a"}"#, r#"{"input":"bad"}"#, r#"{"input":"b"}"#]);
        let first = run(&place, &args(&mock, runtime, &[])).expect(3);
        assert_eq!(inputs(&first.stdout), ["a", "b"]);
        assert_eq!(place.records("errors.jsonl").len(), 1);
        fails.store(false, Ordering::Relaxed);
        // The first run's records went to a reader of their own: what is sent now is what leaves.
        let again = run(&place, &args(&mock, runtime, &["--retry-errors"])).expect(0);
        assert_eq!(inputs(&again.stdout), ["bad"], "{runtime}");
        assert_eq!(place.listing(), ["in.jsonl"]);
    }
}
