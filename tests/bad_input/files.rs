//! Input, output and error file that cannot be what they are asked to be.

use std::fs;

use crate::support::{Place, run, run_stdin};
use crate::{Case, LINE, check, check_in, check_message, contents, usual};

#[test]
fn inputs_that_cannot_be_read() {
    let with = |input: &'static str| {
        vec![
            "-i",
            input,
            "-o",
            "out.jsonl",
            "--endpoint-url",
            "http://127.0.0.1:9/v1",
        ]
    };
    check(vec![
        Case::new(
            "missing",
            1,
            &with("none.jsonl"),
            &["none.jsonl", "does not exist"],
        ),
        Case::new(
            "in a missing folder",
            1,
            &with("no/in.jsonl"),
            &["no/in.jsonl"],
        ),
        Case::new("below a file", 1, &with("in.jsonl/x"), &["in.jsonl/x"]),
        Case::new(
            "a name longer than any",
            1,
            &with(Box::leak("x".repeat(300).into_boxed_str())),
            &["cannot read input xxx"],
        ),
        Case::new("a directory", 1, &with("."), &["directory", "JSONL"]),
        Case::new("a device", 1, &with("/dev/null"), &["/dev/null", "`-i -`"]),
        Case::new(
            "no input at all",
            2,
            &["-o", "out.jsonl", "--endpoint-url", "http://127.0.0.1:9/v1"],
            &["-i FILE"],
        ),
    ]);
}

/// A file of another kind, what is guessed, and the command that mends it.
fn foreign() -> Vec<(&'static str, Vec<u8>, [&'static str; 2])> {
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    vec![
        (
            "a program",
            b"\x7fELF\0\0\0\x01\n{}\n".to_vec(),
            ["ELF", "as JSON"],
        ),
        (
            "gzip",
            b"\x1f\x8b\x08\0\n{\"input\":1}\n".to_vec(),
            ["gzip", "gunzip"],
        ),
        (
            "zstd",
            b"\x28\xb5\x2f\xfd\x04".to_vec(),
            ["zstd", "zstd -dc"],
        ),
        (
            "UTF-16 with a mark",
            wide("\u{feff}{\"input\":1}\n"),
            ["UTF-16", "iconv -f UTF-16 "],
        ),
        (
            "UTF-16",
            wide("{\"input\":1}\n{\"input\":2}\n"),
            ["UTF-16LE", "iconv -f UTF-16LE "],
        ),
        (
            "CSV",
            b"id,input\n1,\"first\"\n2,\"second\"\n".to_vec(),
            ["CSV", "python3"],
        ),
        (
            "an array",
            b"[{\"input\": \"first\"}]\n".to_vec(),
            ["JSON array", "jq -c '.[]'"],
        ),
        (
            "an array in lines",
            b"[\n{\"input\":1},\n{\"input\":2}\n]\n".to_vec(),
            ["JSON array", "jq -c '.[]'"],
        ),
        (
            "pretty",
            b"{\n  \"input\": 1\n}\n".to_vec(),
            ["pretty-printed", "jq -c ."],
        ),
    ]
}

#[test]
fn inputs_of_another_kind_are_refused_as_a_whole() {
    let mut cases = Vec::new();
    for (what, bytes, [guess, command]) in foreign() {
        let mut arguments = usual(&[]);
        arguments[1] = "data.x";
        let told = ["input data.x is not JSONL", guess, command];
        cases.push(Case::new(what, 1, &arguments, &told).file("data.x", bytes));
    }
    check(cases);
}

#[test]
fn standard_input_of_another_kind_leaves_nothing_behind() {
    for (what, bytes, [guess, command]) in foreign() {
        for dry in [&[][..], &["--dry-run"]] {
            let place = Place::new();
            let mut arguments = usual(&[]);
            arguments[1] = "-";
            arguments.extend(dry);
            let run = run_stdin(&place, &arguments, &bytes);
            let told = ["standard input is not JSONL", guess, command];
            check_message(what, &run, 1, &told);
            assert!(place.listing().is_empty(), "{what}: {:?}", place.listing());
        }
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let out = |output: &'static str| {
        vec![
            "-i",
            "in.jsonl",
            "-o",
            output,
            "--endpoint-url",
            "http://127.0.0.1:9/v1",
        ]
    };
    check(vec![
        Case::new(
            "a missing folder",
            1,
            &out("no/out.jsonl"),
            &["folder no", "output", "create it"],
        ),
        Case::new(
            "a directory",
            1,
            &out("."),
            &["output", "directory; name a file"],
        ),
        Case::new("below a file", 1, &out("in.jsonl/out"), &["in.jsonl"]),
        Case::new(
            "a missing folder for errors",
            1,
            &usual(&["-e", "no/e.jsonl"]),
            &["folder no", "error file"],
        ),
        Case::new(
            "errors into a directory",
            1,
            &usual(&["-e", "."]),
            &["error file", "directory"],
        ),
        Case::new(
            "a finished output",
            1,
            &usual(&[]),
            &["out.jsonl", "--overwrite"],
        )
        .file("out.jsonl", "{}\n"),
        Case::new(
            "old errors",
            1,
            &usual(&[]),
            &[
                "errors.jsonl",
                "of another job",
                "line 3, \"no\"",
                "-e out.errors.jsonl",
            ],
        )
        .file("errors.jsonl", "{\"error\":\"no\",\"line_number\":3}\n"),
        Case::new(
            "a metrics address in use elsewhere",
            2,
            &usual(&["--metrics-addr", "nowhere"]),
            &["--metrics-addr"],
        ),
    ]);
}

/// No user may create a file in `/proc`, the superuser neither.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files() {
    let place = Place::new();
    place.input(&[LINE]);
    let before = contents(&place);
    let url = "http://127.0.0.1:9/v1";
    let arguments = [
        "-i",
        "in.jsonl",
        "-o",
        "/proc/out.jsonl",
        "--endpoint-url",
        url,
    ];
    let run = run(&place, &arguments);
    check_message("/proc", &run, 1, &["/proc/out.jsonl", "cannot create"]);
    assert_eq!(contents(&place), before);
}

#[test]
fn one_file_in_two_roles() {
    for (what, link) in [
        ("the same path", None),
        ("another spelling", None),
        ("a symbolic link", Some(false)),
        ("a hard link", Some(true)),
    ] {
        for roles in [["-o", "-e"], ["-e", "-o"]] {
            let place = Place::new();
            place.input(&[LINE]);
            let other = match (what, link) {
                ("the same path", _) => "in.jsonl",
                ("another spelling", _) => "./in.jsonl",
                _ => "link.jsonl",
            };
            match link {
                Some(true) => {
                    fs::hard_link(place.path("in.jsonl"), place.path(other)).expect("linked")
                }
                #[cfg(unix)]
                Some(false) => {
                    std::os::unix::fs::symlink("in.jsonl", place.path(other)).expect("linked")
                }
                _ => {}
            }
            let arguments = [
                "-i",
                "in.jsonl",
                roles[0],
                other,
                roles[1],
                "x.jsonl",
                "--overwrite",
                "--endpoint-url",
                "http://127.0.0.1:9/v1",
            ];
            for dry in [false, true] {
                let mut case = Case::new(
                    what,
                    2,
                    &arguments,
                    &["same file", "in.jsonl", "give each its own"],
                );
                // Only the file system knows of links.
                case.status = if link.is_some() { 1 } else { 2 };
                case.told[1] = other.trim_start_matches("./");
                check_in(&place, &case, dry);
            }
        }
    }
    check(vec![Case::new(
        "output and errors",
        2,
        &[
            "-i",
            "in.jsonl",
            "-o",
            "x.jsonl",
            "-e",
            "./x.jsonl",
            "--endpoint-url",
            "http://127.0.0.1:9/v1",
        ],
        &["same file", "x.jsonl"],
    )]);
}

#[test]
fn a_taken_metrics_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let place = Place::new();
    place.input(&[LINE]);
    let arguments: Vec<_> = usual(&["--metrics-addr"])
        .into_iter()
        .chain([address.as_str()])
        .collect();
    let before = contents(&place);
    let run = run(&place, &arguments);
    check_message("a taken address", &run, 1, &["--metrics-addr", &address]);
    assert_eq!(contents(&place), before);
}
