//! Everything a user can get wrong before a run: one clear message, the right exit status, nothing
//! sent, nothing created, nothing touched, no secret told. And `--dry-run`, which looks for all of it.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod support;

use std::fs;

use support::{Place, Run, mock, run, run_stdin, run_with, runtimes};

/// Stands wherever a key or password may stand; no output may ever hold it.
const SECRET: &str = "s3cr3t-8f2a";

/// The variable that holds it.
const SECRET_VARIABLE: &str = "TEST_SECRET";

const LINE: &str = r#"{"input":"a"}"#;

/// A config that would work if the server existed; `{}` takes more fields of its endpoint.
const ENDPOINT: &str =
    r#""url":"http://127.0.0.1:9/v1","api_key":"${TEST_SECRET}","name":"the-endpoint""#;

/// One mistake.
struct Case {
    what: &'static str,
    /// Files to write besides a good `in.jsonl`.
    files: Vec<(&'static str, Vec<u8>)>,
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
    status: i32,
    /// All stand in the message.
    told: Vec<&'static str>,
}

impl Case {
    fn new(what: &'static str, status: i32, arguments: &[&str], told: &[&'static str]) -> Self {
        Self {
            what,
            files: Vec::new(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            variables: Vec::new(),
            status,
            told: told.to_vec(),
        }
    }

    fn file(mut self, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name, bytes.into()));
        self
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }
}

/// `-i in.jsonl -o out.jsonl` and an endpoint where nobody listens, with `more`.
fn usual(more: &[&'static str]) -> Vec<&'static str> {
    let mut arguments = vec!["-i", "in.jsonl", "-o", "out.jsonl"];
    arguments.extend(["--endpoint-url", "http://127.0.0.1:9/v1"]);
    arguments.extend(more);
    arguments
}

/// The same with a config file.
fn configured(file: &'static str) -> Vec<&'static str> {
    vec!["-i", "in.jsonl", "-o", "out.jsonl", "-c", file]
}

/// A mistake in a JSON config file with these members.
fn config(what: &'static str, members: &str, told: &[&'static str]) -> Case {
    Case::new(what, 1, &configured("c.json"), told).file("c.json", format!("{{{members}}}"))
}

/// A mistake in the one endpoint of a JSON config file.
fn endpoint(what: &'static str, field: &str, told: &[&'static str]) -> Case {
    let members = format!(r#""endpoints":[{{{ENDPOINT},{field}}}]"#);
    config(what, &members, told)
}

/// Makes every mistake with and without `--dry-run`.
fn check(cases: Vec<Case>) {
    for case in cases {
        for dry in [false, true] {
            let place = Place::new();
            place.input(&[LINE]);
            for (name, bytes) in &case.files {
                place.write(name, bytes);
            }
            check_in(&place, &case, dry);
        }
    }
}

fn check_in(place: &Place, case: &Case, dry: bool) {
    let before = contents(place);
    let mut arguments = case.arguments.clone();
    arguments.extend(dry.then(|| "--dry-run".to_owned()));
    let run = run_with(place, &arguments, |command| {
        command.env(SECRET_VARIABLE, SECRET);
        command.envs(case.variables.iter().copied());
    });
    let what = format!("{} (dry: {dry})", case.what);
    check_message(&what, &run, case.status, &case.told);
    assert_eq!(contents(place), before, "{what}: something was touched");
}

fn check_message(what: &str, run: &Run, status: i32, told: &[&str]) {
    assert_eq!(run.status, Some(status), "{what}: {run:#?}");
    assert_eq!(run.stdout, "", "{what}");
    let message: Vec<_> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(message.len(), 1, "{what}: one message: {}", run.stderr);
    for part in told {
        assert!(
            run.stderr.contains(part),
            "{what}: {part:?} is not in {}",
            run.stderr
        );
    }
    for part in ["panicked", "RUST_BACKTRACE", SECRET] {
        assert!(
            !run.stderr.contains(part),
            "{what}: {part:?} is in {}",
            run.stderr
        );
    }
}

/// Every name in the folder, with the bytes of files.
fn contents(place: &Place) -> Vec<(String, Vec<u8>)> {
    let bytes = |name: &String| fs::read(place.path(name)).unwrap_or_default();
    place
        .listing()
        .into_iter()
        .map(|name| (name.clone(), bytes(&name)))
        .collect()
}

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
        Case::new("binary", 1, &with("b.jsonl"), &["b.jsonl", "binary"])
            .file("b.jsonl", b"\x7fELF\0\0\0\x01\n{}\n"),
        Case::new("UTF-16", 1, &with("u.jsonl"), &["u.jsonl", "UTF-8"])
            .file("u.jsonl", b"\xff\xfe{\0}\0\n\0".to_vec()),
        Case::new(
            "no input at all",
            2,
            &["-o", "out.jsonl", "--endpoint-url", "http://127.0.0.1:9/v1"],
            &["-i FILE"],
        ),
    ]);
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
            &["errors.jsonl", "--overwrite"],
        )
        .file("errors.jsonl", "{}\n"),
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
fn malformed_config_files() {
    check(vec![
        Case::new("missing", 1, &configured("none.json"), &["none.json"]),
        Case::new("a directory", 1, &configured("."), &["config file"]),
        Case::new(
            "another format",
            1,
            &configured("c.ini"),
            &["c.ini", ".toml"],
        )
        .file("c.ini", "a=1"),
        Case::new("no extension", 1, &configured("conf"), &["conf", ".json"]).file("conf", "{}"),
        Case::new("empty", 1, &configured("c.json"), &["c.json"]).file("c.json", ""),
        Case::new(
            "cut JSON",
            1,
            &configured("c.json"),
            &["c.json:2", "not valid JSON"],
        )
        .file(
            "c.json",
            format!("{{\"endpoints\":\n[{{\"api_key\":\"{SECRET}\""),
        ),
        Case::new(
            "bad TOML",
            1,
            &configured("c.toml"),
            &["c.toml:2", "not valid TOML"],
        )
        .file("c.toml", format!("workers = 1\napi_key = {SECRET}\n")),
        Case::new(
            "bad YAML",
            1,
            &configured("c.yaml"),
            &["c.yaml", "not valid YAML"],
        )
        .file("c.yaml", format!("endpoints:\n  - url: [\"{SECRET}\n")),
        Case::new("not UTF-8", 1, &configured("c.json"), &["c.json", "UTF-8"])
            .file("c.json", b"{\"a\":\"\xff\"}".to_vec()),
        Case::new("a list", 1, &configured("c.json"), &["c.json"]).file("c.json", "[]"),
        Case::new("deep nesting", 1, &configured("c.json"), &["c.json"]).file(
            "c.json",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        config(
            "no endpoints",
            r#""workers":1"#,
            &["no endpoint configured", "--endpoint-url"],
        ),
        config(
            "an empty list of endpoints",
            r#""endpoints":[]"#,
            &["no endpoint configured"],
        ),
        config(
            "endpoints of a wrong type",
            r#""endpoints":"http://x""#,
            &["endpoints", "expected"],
        ),
        config(
            "an endpoint that is a number",
            r#""endpoints":[7]"#,
            &["endpoints[0]", "expected"],
        ),
        config(
            "a field no one knows",
            r#""endpionts":[]"#,
            &["endpionts", "unknown field", "`endpoints`"],
        ),
        endpoint(
            "a misspelt field",
            r#""wieght":2"#,
            &["endpoints[0].wieght", "nearest", "`weight`"],
        ),
        config(
            "a field in the wrong table",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"workers":1}}"#),
            &["retry.workers", "`request`"],
        ),
        config(
            "an unknown field deep down",
            &format!(
                r#""endpoints":[{{{ENDPOINT}}}],"prices":{{"m":{{"input":1,"output":1,"outptu":1}}}}"#
            ),
            &["prices.m.outptu", "`output`"],
        ),
        endpoint(
            "a text for a number",
            r#""weight":"heavy""#,
            &["endpoints[0].weight", "expected"],
        ),
        endpoint(
            "headers that are a list",
            r#""headers":["x"]"#,
            &["endpoints[0].headers", "expected"],
        ),
        endpoint(
            "twice the same setting",
            r#""default_model":"a","model":"b""#,
            &["same setting"],
        ),
        endpoint(
            "an unset variable",
            r#""model":"${NO_SUCH_VARIABLE}""#,
            &["endpoints[0].model", "NO_SUCH_VARIABLE", "not set"],
        ),
        config(
            "a duration without sense",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"request":{{"timeout":"100mss"}}"#),
            &["request.timeout", "100mss", "\"30s\""],
        ),
    ]);
}

#[test]
fn values_that_cannot_be_used() {
    check(vec![
        endpoint(
            "weight 0",
            r#""weight":0"#,
            &["c.json:1", "endpoints[0].weight", "at least 1"],
        ),
        endpoint("weight -1", r#""weight":-1"#, &["endpoints[0].weight"]),
        endpoint(
            "max_concurrent 0",
            r#""max_concurrent":0"#,
            &["endpoints[0].max_concurrent", "at least 1"],
        ),
        endpoint(
            "rpm_limit 0",
            r#""rpm_limit":0"#,
            &["endpoints[0].rpm_limit", "leave it out"],
        ),
        endpoint(
            "a header name",
            r#""headers":{"x team":"a"}"#,
            &["endpoints[0].headers", "header name"],
        ),
        endpoint(
            "a header value",
            &format!(r#""headers":{{"x-key":"{SECRET}\nevil: 1"}}"#),
            &["endpoints[0].headers.x-key", "line break"],
        ),
        endpoint(
            "a header of the transport",
            r#""headers":{"Content-Length":"1"}"#,
            &["Content-Length", "transport"],
        ),
        endpoint(
            "two keys",
            r#""headers":{"authorization":"Bearer x"}"#,
            &["endpoints[0].api_key", "authorization"],
        ),
        endpoint(
            "an unknown provider",
            r#""provider":"openia""#,
            &["endpoints[0].provider", "openai"],
        ),
        config(
            "no URL",
            r#""endpoints":[{"name":"a"}]"#,
            &["endpoints[0]", "`url`"],
        ),
        config(
            "a key with a line break",
            r#""endpoints":[{"url":"http://127.0.0.1:9/v1","api_key":"${BROKEN_KEY}"}]"#,
            &["endpoints[0].api_key", "line break"],
        )
        .variable("BROKEN_KEY", "s3cr3t-8f2a\n"),
        config(
            "a provider without its key",
            r#""endpoints":[{"url":"http://127.0.0.1:9","provider":"anthropic"}]"#,
            &["endpoints[0].api_key", "anthropic", "needs one"],
        ),
        config(
            "azure without its key",
            r#""endpoints":[{"url":"http://127.0.0.1:9","provider":"azure","model":"m"}]"#,
            &["endpoints[0].api_key", "azure"],
        ),
        config(
            "two endpoints of one name",
            &format!(r#""endpoints":[{{{ENDPOINT}}},{{{ENDPOINT}}}]"#),
            &["endpoints[1].name", "the-endpoint"],
        ),
        config(
            "a budget without prices",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"max_cost":1.0"#),
            &["max_cost", "prices"],
        ),
        config(
            "workers 0",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"workers":0"#),
            &["workers", "at least 1"],
        ),
        config(
            "attempts 0",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"max_attempts":0}}"#),
            &["retry.max_attempts", "at least 1"],
        ),
        config(
            "a multiplier below 1",
            &format!(r#""endpoints":[{{{ENDPOINT}}}],"retry":{{"multiplier":0.5}}"#),
            &["retry.multiplier"],
        ),
    ]);
}

#[test]
fn urls_that_lead_nowhere() {
    let with = |url: &str, told: &[&'static str]| {
        Case::new(
            "a URL",
            2,
            &["-i", "in.jsonl", "-o", "out.jsonl", "--endpoint-url", url],
            told,
        )
    };
    check(vec![
        with("example.com/v1", &["--endpoint-url", "http://"]),
        with(
            "ftp://user:s3cr3t-8f2a@example.com",
            &["--endpoint-url", "http://"],
        ),
        with("http://", &["--endpoint-url"]),
        with("http://user:s3cr3t-8f2a@", &["--endpoint-url"]),
        with(
            "http://exa mple.com?key=s3cr3t-8f2a",
            &["--endpoint-url", "white space"],
        ),
        with("http://[::1?key=s3cr3t-8f2a", &["--endpoint-url"]),
        with(
            "http://127.0.0.1:99999/?key=s3cr3t-8f2a",
            &["--endpoint-url"],
        ),
        with("http://127.0.0.1:0/v1", &["--endpoint-url", "port 0"]),
        with(
            "http://127.0.0.1:9/v1#s3cr3t-8f2a",
            &["--endpoint-url", "fragment"],
        ),
        with("https://api.openai.com/v1", &["BLAZE_API_KEY", "needs one"]),
        with("", &["--endpoint-url"]),
    ]);
    check(vec![
        Case::new(
            "nowhere to send to",
            1,
            &["-i", "in.jsonl", "-o", "out.jsonl"],
            &["no endpoint configured", "--endpoint-url", "-c FILE"],
        ),
        Case::new(
            "by variable",
            2,
            &["-i", "in.jsonl"],
            &["BLAZE_ENDPOINT_URL"],
        )
        .variable("BLAZE_ENDPOINT_URL", "gopher://s3cr3t-8f2a@x"),
    ]);
}

#[test]
fn flags_that_cannot_be_used() {
    let mut cases = Vec::new();
    for (flag, value, told) in [
        ("--workers", "0", "at least 1"),
        ("--workers", "-1", "-1"),
        ("--workers", "many", "many"),
        ("--max-attempts", "0", "at least 1"),
        ("--rate", "-5", "-5"),
        ("--rate", "fast", "fast"),
        ("--rate", "NaN", "NaN"),
        ("--timeout", "0", "30s"),
        ("--timeout", "soon", "soon"),
        ("--cores", "0", "at least 1"),
        ("--runtime", "threads", "tokio"),
        ("--order", "random", "completion"),
        ("--format", "csv", "openai"),
        ("--durability", "hope", "power"),
        ("--max-line-bytes", "0", "at least 1"),
        ("--max-cost", "0", "above 0"),
    ] {
        let arguments = usual(&[])
            .into_iter()
            .chain([flag, value])
            .collect::<Vec<_>>();
        cases.push(Case::new(flag, 2, &arguments, &[flag, told]));
    }
    cases.push(Case::new(
        "--wrokers",
        2,
        &usual(&["--wrokers", "1"]),
        &["--wrokers", "--workers"],
    ));
    cases.push(Case::new(
        "an argument too many",
        2,
        &usual(&["more.jsonl"]),
        &["more.jsonl"],
    ));
    cases.push(
        Case::new(
            "a variable",
            2,
            &usual(&[]),
            &["BLAZE_WORKERS", "at least 1"],
        )
        .variable("BLAZE_WORKERS", "0"),
    );
    cases.push(
        Case::new(
            "a variable without sense",
            2,
            &usual(&[]),
            &["BLAZE_RATE", "quick"],
        )
        .variable("BLAZE_RATE", "quick"),
    );
    check(cases);
}

#[test]
fn certificates_that_cannot_be_read() {
    let arguments = |file: &'static str| {
        vec![
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "--endpoint-url",
            "https://127.0.0.1:9/v1",
            "--ca-file",
            file,
        ]
    };
    check(vec![
        Case::new("missing", 1, &arguments("none.pem"), &["none.pem"]),
        Case::new("no PEM", 1, &arguments("ca.pem"), &["ca.pem"])
            .file("ca.pem", "nothing of the kind"),
        Case::new("broken PEM", 1, &arguments("ca.pem"), &["ca.pem"]).file(
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
    ]);
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
