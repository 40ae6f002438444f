//! Where records go: files, standard output, nowhere; what is there already, and exit statuses.

use blaze_uring::mock::Scripted;

use crate::support::{
    Place, batch_args, mock, mock_with, parse_records, replaced, run, run_stdin, runtimes, scripted,
};

const LINES: [&str; 3] = [r#"{"input":"a"}"#, r#"{"input":"b"}"#, r#"{"input":"c"}"#];

/// The usual arguments without an option and its value.
fn without(mut args: Vec<String>, option: &str) -> Vec<String> {
    let at = args
        .iter()
        .position(|argument| argument == option)
        .expect("the option is there");
    args.drain(at..at + 2);
    args
}

#[test]
fn successes_alone_leave_one_file() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let run = run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"], "{runtime}");
        assert_eq!(run.stdout, "");
        let inputs: Vec<_> = place
            .records("out.jsonl")
            .iter()
            .map(|r| r["input"].clone())
            .collect();
        assert_eq!(inputs, ["a", "b", "c"]);
    }
}

#[test]
fn nothing_but_failures_still_makes_an_output() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::json(400, "{}")));
        place.input(&LINES);
        run(&place, &batch_args(&mock, runtime, &["-e", "bad.jsonl"])).expect(3);
        assert_eq!(place.listing(), ["bad.jsonl", "in.jsonl", "out.jsonl"]);
        assert!(place.read("out.jsonl").is_empty());
        assert_eq!(place.records("bad.jsonl").len(), 3);
    }
}

#[test]
fn an_empty_input_makes_an_empty_output() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.write("in.jsonl", "");
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
        assert!(place.read("out.jsonl").is_empty());
        assert_eq!(mock.stats().connections, 0);
    }
}

#[test]
fn standard_input_is_an_input() {
    let text = LINES.join("\r\n");
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        let args = replaced(batch_args(&mock, runtime, &[]), "-i", "-");
        run_stdin(&place, &args, text.as_bytes()).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 3);
        assert_eq!(place.listing(), ["out.jsonl"], "{runtime}");
    }
}

#[test]
fn standard_output_carries_records_only() {
    for runtime in runtimes() {
        for more in [&[][..], &["--json-logs"], &["-vv"]] {
            let (place, mock) = (Place::new(), mock());
            place.input(&[LINES[0], "broken", LINES[1]]);
            let args = replaced(batch_args(&mock, runtime, more), "-o", "-");
            let run = run(&place, &args).expect(3);
            let records = parse_records("stdout", run.stdout.as_bytes());
            let inputs: Vec<_> = records
                .iter()
                .map(|record| record["input"].clone())
                .collect();
            assert_eq!(inputs, ["a", "b"], "{runtime} {more:?}");
            assert!(records.iter().all(|record| record["response"].is_object()));
            assert_eq!(place.listing(), ["errors.jsonl", "in.jsonl"]);
        }
    }
}

#[test]
fn both_ends_can_be_pipes() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        let args = replaced(batch_args(&mock, runtime, &[]), "-i", "-");
        let args = replaced(args, "-o", "-");
        let run = run_stdin(&place, &args, LINES.join("\n").as_bytes()).expect(0);
        assert_eq!(parse_records("stdout", run.stdout.as_bytes()).len(), 3);
        assert!(place.listing().is_empty(), "{:?}", place.listing());
    }
}

#[test]
fn without_an_output_successes_are_counted() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let args = without(batch_args(&mock, runtime, &["--json-logs"]), "-o");
        let run = run(&place, &args).expect(0);
        let summary: serde_json::Value = serde_json::from_str(&run.stdout).expect("the summary");
        assert_eq!(summary["success_count"], 3);
        assert_eq!(place.listing(), ["in.jsonl"], "{runtime}");
    }
}

#[test]
fn order_is_the_inputs_or_that_of_completion() {
    for runtime in runtimes() {
        for (order, expect) in [
            ("input", ["slow", "fast"]),
            ("completion", ["fast", "slow"]),
        ] {
            let place = Place::new();
            let mock = scripted(|request| {
                let slow = String::from_utf8_lossy(&request.body).contains("slow");
                let wait = std::time::Duration::from_millis(if slow { 700 } else { 0 });
                Some(Scripted::json(200, r#"{"choices":[{"text":"a"}]}"#).after(wait))
            });
            place.input(&[r#"{"input":"slow"}"#, r#"{"input":"fast"}"#]);
            run(&place, &batch_args(&mock, runtime, &["--order", order])).expect(0);
            let records = place.records("out.jsonl");
            let found: Vec<_> = records
                .iter()
                .map(|record| record["input"].clone())
                .collect();
            assert_eq!(found, expect, "{order} on {runtime}");
        }
    }
}

#[test]
fn a_finished_output_is_refused_unless_overwritten() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        let finished = place.read("out.jsonl");

        let again = run(&place, &batch_args(&mock, runtime, &[])).expect(1);
        assert!(again.stderr.contains("--overwrite"), "{}", again.stderr);
        assert!(again.stderr.contains("out.jsonl"), "{}", again.stderr);
        assert_eq!(place.read("out.jsonl"), finished);
        assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
        assert_eq!(mock.stats().requests, 3, "nothing more was sent");

        place.input(&LINES[..1]);
        run(&place, &batch_args(&mock, runtime, &["--overwrite"])).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 1);
        assert_eq!(mock.stats().requests, 4);
    }
}

#[test]
fn an_overwriting_run_leaves_no_old_errors() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&["broken"]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(3);
        place.input(&LINES);
        run(&place, &batch_args(&mock, runtime, &["--overwrite"])).expect(0);
        assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"], "{runtime}");
    }
}

#[test]
fn the_exit_status_tells_how_it_went() {
    for runtime in runtimes() {
        for (lines, status) in [
            (&[r#"{"input":"a"}"#][..], 0),
            (&[r#"{"input":"a"}"#, "x"], 3),
        ] {
            let (place, mock) = (Place::new(), mock());
            place.input(lines);
            run(&place, &batch_args(&mock, runtime, &[])).expect(status);
        }
        let (place, mock) = (Place::new(), mock_with(|_| {}));
        // No input file.
        run(&place, &batch_args(&mock, runtime, &[])).expect(1);
        place.input(&LINES);
        run(&place, &batch_args(&mock, runtime, &["--no-such-flag"])).expect(2);
        run(&place, &batch_args(&mock, runtime, &["--workers", "0"])).expect(2);
        assert_eq!(mock.stats().requests, 0);
    }
}
