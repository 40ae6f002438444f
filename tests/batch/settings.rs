//! Settings that drive a real run: files in every format, files of other tools, and who beats whom.

use blaze_uring::mock::Mock;
use serde_json::Value;

use crate::support::{Place, mock, run, run_with, runtimes};

const LINES: [&str; 6] = [r#"{"input":"x"}"#; 6];

/// Runs `LINES` with this config file, and returns how many requests each path prefix got.
fn shares(runtime: &str, mock: &Mock, name: &str, text: &str) -> Vec<(String, u64)> {
    let place = Place::new();
    place.input(&LINES);
    place.write(name, text);
    let args = [
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "-c",
        name,
        "--runtime",
        runtime,
        "--cores",
        "1",
    ];
    run_with(&place, &args, |command| {
        command.env("TEST_KEY", "k-123");
    })
    .expect(0);
    assert_eq!(place.records("out.jsonl").len(), 6);
    let paths = mock.stats().paths;
    paths
        .into_iter()
        .map(|(path, stats)| (path, stats.requests))
        .collect()
}

#[test]
fn one_schema_in_three_formats() {
    for runtime in runtimes() {
        for (name, text) in [
            (
                "c.json",
                r#"{"endpoints":[
                    {"name":"a","url":"URL/a/v1","api_key":"${TEST_KEY}","weight":2,"model":"m-a","headers":{"x-team":"t"}},
                    {"name":"b","url":"URL/b/v1","api_key":"${TEST_KEY}","model":"m-b"}],
                   "request":{"workers":1,"rate_limit":0},"retry":{"max_attempts":1}}"#,
            ),
            (
                "c.toml",
                "[[endpoints]]\nname = 'a'\nurl = 'URL/a/v1'\napi_key = '${TEST_KEY}'\nweight = 2\nmodel = 'm-a'\nheaders = {x-team = 't'}\n\
                 [[endpoints]]\nname = 'b'\nurl = 'URL/b/v1'\napi_key = '${TEST_KEY}'\nmodel = 'm-b'\n\
                 [request]\nworkers = 1\nrate_limit = 0\n[retry]\nmax_attempts = 1\n",
            ),
            (
                "c.yaml",
                "endpoints:\n  - {name: a, url: URL/a/v1, api_key: '${TEST_KEY}', weight: 2, model: m-a, headers: {x-team: t}}\n  \
                 - {name: b, url: URL/b/v1, api_key: '${TEST_KEY}', model: m-b}\n\
                 request: {workers: 1, rate_limit: 0}\nretry: {max_attempts: 1}\n",
            ),
            (
                "c.yml",
                "backends:\n  - {name: a, url: URL/a/v1, api_key: '${TEST_KEY}', weight: 2, default_model: m-a, headers: {x-team: t}}\n  \
                 - {name: b, endpoint: URL/b/v1, api_key: '${TEST_KEY}', model: m-b}\nworkers: 1\nrate: 0\n",
            ),
        ] {
            let mock = mock();
            let text = text.replace("URL", &mock.url(""));
            let expect = [("/a/v1/chat/completions", 4), ("/b/v1/chat/completions", 2)]
                .map(|(path, requests)| (path.to_owned(), requests));
            assert_eq!(
                shares(runtime, &mock, name, &text),
                expect,
                "{name} on {runtime}"
            );
            for request in mock.requests() {
                let body: Value = serde_json::from_slice(&request.body).expect("JSON");
                let of_a = request.target.starts_with("/a/");
                assert_eq!(request.header("authorization"), Some("Bearer k-123"));
                assert_eq!(body["model"], if of_a { "m-a" } else { "m-b" });
                assert_eq!(request.header("x-team"), of_a.then_some("t"));
            }
            assert_eq!(mock.stats().in_flight_max, 1, "one worker");
        }
    }
}

#[test]
fn files_of_other_tools_drive_a_run() {
    for runtime in runtimes() {
        let blaster = r#"{"deployments":[{"name":"east","endpoint":"URL/","provider":"azure","api_key":"${TEST_KEY}","model":"gpt-4o",
            "api_version":"2025-01-01-preview","weight":1,"temperature":0.0,"max_completion_tokens":256,"rpm_limit":6000,"tpm_limit":900000}],
            "num_workers":2,"max_job_retry":5,"worker_polling_interval":0.1,"strategy":"weighted_round_robin"}"#;
        let mock_blaster = mock();
        let text = blaster.replace("URL", &mock_blaster.url(""));
        shares(runtime, &mock_blaster, "c.json", &text);
        let request = &mock_blaster.requests()[0];
        assert_eq!(
            request.target,
            "/openai/deployments/gpt-4o/chat/completions?api-version=2025-01-01-preview"
        );
        assert_eq!(request.header("api-key"), Some("k-123"));
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body["max_completion_tokens"], 256);
        assert_eq!(body["temperature"].as_f64(), Some(0.0));

        let zap = "[server]\nhost = '0.0.0.0'\nport = 8080\n[queue]\nmax_size = 10000\ntimeout_secs = 30\n\
                   [[backends]]\nurl = 'URL'\nweight = 1\nhealth_path = '/health'\ndefault_model = 'llama-3'\n\
                   chat_path = '/v1/chat/completions'\n[rate_limit]\nrequests_per_minute = 60000\n";
        let mock_zap = mock();
        let text = zap.replace("URL", &mock_zap.url(""));
        let expect = [("/v1/chat/completions".to_owned(), 6)];
        assert_eq!(shares(runtime, &mock_zap, "c.toml", &text), expect);
        let body: Value = serde_json::from_slice(&mock_zap.requests()[0].body).expect("JSON");
        assert_eq!(body["model"], "llama-3");
    }
}

/// The number of attempts that `BLAZE_…`, flags and file together allow, seen at the endpoint.
fn attempts(runtime: &str, flag: Option<&str>, variable: Option<&str>, file: Option<&str>) -> u64 {
    let place = Place::new();
    let mock = crate::support::mock_with(|options| {
        options.fail_first = Some("1000=500".parse().expect("valid"));
    });
    place.input(&LINES[..1]);
    let field = file
        .map(|value| format!(r#","max_attempts":{value}"#))
        .unwrap_or_default();
    let text = format!(
        r#"{{"endpoints":[{{"url":"{}"}}]{field},"retry":{{"initial_backoff":"1ms","max_backoff":"2ms"}}}}"#,
        mock.url("/v1")
    );
    place.write("c.json", text);
    let mut args = vec!["-i", "in.jsonl", "-c", "c.json", "--runtime", runtime];
    args.extend(flag.into_iter().flat_map(|value| ["--max-attempts", value]));
    run_with(&place, &args, |command| {
        if let Some(value) = variable {
            command.env("BLAZE_MAX_ATTEMPTS", value);
        }
    })
    .expect(3);
    mock.stats().requests
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    for runtime in runtimes() {
        for (flag, variable, file, expect) in [
            (None, None, None, 3),
            (None, None, Some("2"), 2),
            (None, Some("4"), Some("2"), 4),
            (Some("1"), Some("4"), Some("2"), 1),
            (Some("3"), None, Some("2"), 3),
            (None, Some("3"), Some("2"), 3),
        ] {
            let found = attempts(runtime, flag, variable, file);
            assert_eq!(found, expect, "{flag:?} {variable:?} {file:?} on {runtime}");
        }
    }
}

#[test]
fn every_flag_has_a_variable() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let none: [&str; 0] = [];
        run_with(&place, &none, |command| {
            command
                .env("BLAZE_INPUT", "in.jsonl")
                .env("BLAZE_OUTPUT", "o.jsonl")
                .env("BLAZE_ERRORS", "e.jsonl")
                .env("BLAZE_ENDPOINT_URL", mock.url("/v1"))
                .env("BLAZE_MODEL", "from-env")
                .env("BLAZE_API_KEY", "k-env")
                .env("BLAZE_RUNTIME", runtime)
                .env("BLAZE_NO_PROGRESS", "true");
        })
        .expect(0);
        assert_eq!(place.listing(), ["in.jsonl", "o.jsonl"]);
        let request = &mock.requests()[0];
        assert_eq!(request.header("authorization"), Some("Bearer k-env"));
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body["model"], "from-env");
    }
}

#[test]
fn the_seeds_flags_still_work() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let url = mock.url("/v1");
        let args = [
            "--requests_filepath",
            "in.jsonl",
            "--save_filepath",
            "out.jsonl",
            "--max_requests_per_second",
            "500",
            "--max_attempts",
            "2",
            "--endpoint-url",
            &url,
            "--runtime",
            runtime,
        ];
        run(&place, &args).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 6);
    }
}
