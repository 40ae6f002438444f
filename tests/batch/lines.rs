//! How a file is cut into lines, and what becomes of those that are no requests.

use serde_json::Value;

use crate::support::{Place, batch_args, bodies, mock, run, runtimes};

const LINE: &str = r#"{"messages":[{"role":"user","content":"x"}],"model":"m"}"#;

/// Runs these bytes: exit status, successes and failures.
fn outcome(runtime: &str, bytes: &[u8], more: &[&str]) -> (Option<i32>, Vec<Value>, Vec<Value>) {
    let (place, mock) = (Place::new(), mock());
    place.write("in.jsonl", bytes);
    let run = run(&place, &batch_args(&mock, runtime, more));
    let successes = place.records("out.jsonl");
    let failed = place.path("errors.jsonl").exists();
    let failures = if failed {
        place.records("errors.jsonl")
    } else {
        Vec::new()
    };
    assert_eq!(
        mock.stats().requests,
        successes.len() as u64,
        "{}",
        run.stderr
    );
    assert!(bodies(&mock).iter().all(|body| body == LINE));
    (run.status, successes, failures)
}

fn numbers(records: &[Value]) -> Vec<u64> {
    let number = |record: &Value| {
        let own = &record["line_number"];
        let metadata = &record["metadata"]["line_number"];
        own.as_u64().or(metadata.as_u64()).expect("a line number")
    };
    records.iter().map(number).collect()
}

#[test]
fn every_way_to_end_a_line() {
    for (text, expect) in [
        (format!("{LINE}\n{LINE}\n"), vec![1, 2]),
        (format!("{LINE}\n{LINE}"), vec![1, 2]),
        (format!("{LINE}\r\n{LINE}\r\n"), vec![1, 2]),
        (format!("{LINE}\r\n{LINE}"), vec![1, 2]),
        (format!("\u{feff}{LINE}\n{LINE}\n"), vec![1, 2]),
        (format!("\u{feff}{LINE}\r\n"), vec![1]),
        (format!("\n\n{LINE}\n \t \n\r\n{LINE}\n\n\n"), vec![3, 6]),
        (format!("  {LINE}  \n\t{LINE}\t"), vec![1, 2]),
    ] {
        for runtime in runtimes() {
            let (status, successes, failures) = outcome(runtime, text.as_bytes(), &[]);
            assert_eq!(status, Some(0), "{text:?} on {runtime}");
            assert_eq!(numbers(&successes), expect, "{text:?} on {runtime}");
            assert!(failures.is_empty());
        }
    }
}

#[test]
fn an_input_without_a_line_is_done_at_once() {
    for bytes in ["", "\n", "\r\n\n  \n", "\u{feff}", "\u{feff}\n"] {
        for runtime in runtimes() {
            let (status, successes, failures) = outcome(runtime, bytes.as_bytes(), &[]);
            assert_eq!(status, Some(0), "{bytes:?} on {runtime}");
            assert!(successes.is_empty() && failures.is_empty());
        }
    }
}

#[test]
fn invalid_lines_are_records_and_not_the_end() {
    let lines: [&[u8]; 13] = [
        LINE.as_bytes(),
        b"not json at all",
        br#"{"messages":[}"#,
        br#"{"messages":[{"role":"user","content":"x"}]"#,
        b"{\"input\":\"\xff\xfe\"}",
        b"[1,2]",
        b"42",
        br#"{"neither":1}"#,
        br#"{"body":7}"#,
        br#"{"input":null}"#,
        br#"{"url":"http://evil.example/v1","body":{}}"#,
        br#"{"a":1} trailing"#,
        LINE.as_bytes(),
    ];
    let text = lines.join(&b'\n');
    for runtime in runtimes() {
        let (status, successes, failures) = outcome(runtime, &text, &[]);
        assert_eq!(status, Some(3), "{runtime}");
        assert_eq!(numbers(&successes), [1, 13]);
        assert_eq!(numbers(&failures), (2..=12).collect::<Vec<_>>());
        for (failure, line) in failures.iter().zip(&lines[1..]) {
            assert_eq!(failure["error_kind"], "invalid_input", "{failure}");
            assert_eq!(failure["raw"], String::from_utf8_lossy(line).as_ref());
            assert_eq!(failure["attempts"], 0, "{failure}");
            assert!(
                failure["error"]
                    .as_str()
                    .is_some_and(|error| !error.is_empty()),
                "{failure}"
            );
        }
    }
}

#[test]
fn a_line_above_its_limit_is_a_record() {
    let exact = format!(
        r#"{{"messages":[{{"role":"user","content":"x"}}],"model":"m","pad":"{}"}}"#,
        "x".repeat(35)
    );
    assert_eq!(exact.len(), 100);
    let long = format!(
        r#"{{"messages":[{{"role":"user","content":"x"}}],"model":"m","pad":"{}"}}"#,
        "x".repeat(36)
    );
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[&exact, &long, &exact]);
        run(
            &place,
            &batch_args(&mock, runtime, &["--max-line-bytes", "100"]),
        )
        .expect(3);
        assert_eq!(numbers(&place.records("out.jsonl")), [1, 3], "{runtime}");
        let failures = place.records("errors.jsonl");
        assert_eq!(numbers(&failures), [2]);
        assert_eq!(failures[0]["error_kind"], "too_large");
        assert_eq!(bodies(&mock), [exact.as_str(), &exact]);
    }
}

#[test]
fn a_line_of_twenty_megabytes_arrives_whole() {
    let line = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"m"}}"#,
        "0123456789abcdef".repeat(20 << 16)
    );
    assert!(line.len() > 20 << 20);
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[LINE, &line, LINE]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(numbers(&place.records("out.jsonl")), [1, 2, 3], "{runtime}");
        let mut arrived = bodies(&mock);
        arrived.sort_by_key(String::len);
        assert!(
            arrived[2] == line,
            "{runtime}: the long line arrived differently"
        );
    }
}
