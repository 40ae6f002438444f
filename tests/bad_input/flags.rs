//! Flags, variables, URLs and certificates that cannot be used.

use crate::{Case, check, usual};

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
            "a variable with a typo",
            2,
            &usual(&[]),
            &[
                "unknown environment variable BLAZE_WORKER;",
                "BLAZE_WORKERS",
            ],
        )
        .variable("BLAZE_WORKER", "s3cr3t-8f2a"),
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
