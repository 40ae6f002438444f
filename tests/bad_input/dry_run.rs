//! `--dry-run` with everything in order, and with invalid lines.

use crate::support::{Place, mock, run, run_stdin, runtimes};
use crate::{LINE, SECRET, contents};

#[test]
fn a_dry_run_says_what_would_run() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[LINE, "", r#"{"messages":[]}"#]);
        place.write(
            "c.json",
            format!(
                r#"{{"endpoints":[{{"name":"primary","url":"{}","model":"gpt-x","weight":3,"api_key":"{SECRET}"}}],"rate":77,"workers":5}}"#,
                mock.url("/v1")
            ),
        );
        let before = contents(&place);
        let arguments = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "c.json",
            "--runtime",
            runtime,
            "--dry-run",
        ];
        let run = run(&place, &arguments).expect(0);
        let told = run.stdout.clone() + &run.stderr;
        for part in [
            "2 lines",
            "0 invalid",
            "out.jsonl",
            "errors.jsonl",
            "primary",
            "gpt-x",
            "weight 3",
            "77",
            "5 in flight",
            "1 line of {\"input\"}, the first in line 1",
            "1 line of an API body, the first in line 3",
            &format!(
                "primary: POST {}, model gpt-x",
                mock.url("/v1/chat/completions")
            ),
        ] {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
        assert!(!told.contains(SECRET), "{told}");
        assert_eq!(contents(&place), before);
        assert_eq!(mock.stats().connections, 0);
    }
}

#[test]
fn a_dry_run_lists_invalid_lines_by_number() {
    let lines: [&[u8]; 7] = [
        LINE.as_bytes(),
        b"nonsense",
        b"",
        b"{\"input\":\"\xff\"}",
        LINE.as_bytes(),
        b"[]",
        b"{\"input\":\"too long\"}",
    ];
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.write("in.jsonl", lines.join(&b'\n'));
        let url = mock.url("/v1");
        let arguments = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "--endpoint-url",
            &url,
            "--runtime",
            runtime,
            "--dry-run",
            "--max-line-bytes",
            "16",
        ];
        let run = run(&place, &arguments).expect(3);
        for number in 1..=7 {
            let listed = run.stderr.contains(&format!("in.jsonl:{number}:"));
            assert_eq!(
                listed,
                [2, 4, 6, 7].contains(&number),
                "{number}: {}",
                run.stderr
            );
        }
        assert!(run.stderr.contains("4 invalid"), "{}", run.stderr);
        assert_eq!(place.listing(), ["in.jsonl"]);
        assert_eq!(mock.stats().connections, 0);
    }
}

#[test]
fn a_dry_run_reads_standard_input() {
    let place = Place::new();
    let arguments = [
        "-i",
        "-",
        "-o",
        "out.jsonl",
        "--endpoint-url",
        "http://127.0.0.1:9/v1",
        "--dry-run",
    ];
    let run = run_stdin(&place, &arguments, b"{\"input\":1}\nbroken\n").expect(3);
    assert!(run.stderr.contains(":2:"), "{}", run.stderr);
    assert!(place.listing().is_empty());
}
