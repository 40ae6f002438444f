//! Keys as they come from files and variables, and two of them on one URL.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Place, mock, run_with, runtimes};

#[test]
fn white_space_around_a_key_is_not_sent() {
    for (given, key) in [
        ("sk-1", "sk-1"),
        ("sk-1\n", "sk-1"),
        ("sk-1\r\n", "sk-1"),
        (" \tsk-1\n\n", "sk-1"),
    ] {
        for runtime in runtimes() {
            let (place, mock) = (Place::new(), mock());
            place.input(&[r#"{"input":"x"}"#]);
            let url = mock.url("/v1");
            for (at, (name, config)) in [
                // In the file itself, by a variable that the file names, and in a header.
                ("api_key", format!("{given:?}")),
                ("api_key", r#""${TEST_KEY}""#.to_owned()),
                (
                    "headers",
                    format!(
                        r#"{{"authorization": {:?}}}"#,
                        format!("Bearer {}", given.trim_start())
                    ),
                ),
            ]
            .into_iter()
            .enumerate()
            {
                let text = format!(r#"{{"endpoints": [{{"url": "{url}", "{name}": {config}}}]}}"#);
                place.write("c.json", text);
                let output = format!("out-{at}.jsonl");
                let args = [
                    "-i",
                    "in.jsonl",
                    "-o",
                    &output,
                    "-c",
                    "c.json",
                    "--runtime",
                    runtime,
                ];
                run_with(&place, &args, |command| {
                    command.env("TEST_KEY", given);
                })
                .expect(0);
            }
            let args = [
                "-i",
                "in.jsonl",
                "-o",
                "out.jsonl",
                "--endpoint-url",
                &url,
                "--runtime",
                runtime,
            ];
            run_with(&place, &args, |command| {
                command.env("BLAZE_API_KEY", given);
            })
            .expect(0);
            let requests = mock.requests();
            assert_eq!(requests.len(), 4);
            for request in requests {
                let expect = format!("Bearer {key}");
                assert_eq!(request.header("authorization"), Some(&*expect), "{given:?}");
            }
        }
    }
}

#[test]
fn two_keys_on_one_url_have_distinct_names() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[r#"{"input":"x"}"#; 8]);
        let url = mock.url("/v1");
        place.write(
            "c.json",
            format!(
                r#"{{"endpoints": [{{"url": "{url}", "api_key": "k1"}}, {{"url": "{url}", "api_key": "k2"}},
                    {{"url": "{url}", "api_key": "k3", "name": "127.0.0.1#2"}}]}}"#
            ),
        );
        let args = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "c.json",
            "--runtime",
            runtime,
            "--json-logs",
            "--no-progress",
        ];
        let run = run_with(&place, &args, |_| {}).expect(0);
        let expect = ["127.0.0.1", "127.0.0.1#2", "127.0.0.1#3"];
        let summary: Value = serde_json::from_str(run.stdout.trim()).expect("a summary");
        let names: Vec<_> = summary["endpoints"]
            .as_array()
            .expect("endpoints")
            .iter()
            .map(|endpoint| endpoint["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names, ["127.0.0.1", "127.0.0.1#3", "127.0.0.1#2"]);
        let records = place.records("out.jsonl");
        let named: BTreeSet<_> = records
            .iter()
            .map(|record| record["metadata"]["endpoint"].as_str().expect("a name"))
            .collect();
        assert_eq!(named.into_iter().collect::<Vec<_>>(), expect);
    }
}
