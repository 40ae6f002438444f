use super::*;
use crate::config::{InputSource, OutputTarget, ProviderKind, Workers};

fn environment(name: &str) -> Option<String> {
    match name {
        "KEY" => Some("sk-hunter2".to_owned()),
        "WORKERS" => Some("8".to_owned()),
        "TRICK" => Some("a\", \"weight\": 0, \"x\": \"".to_owned()),
        _ => None,
    }
}

fn file(path: &str, text: &str) -> RawConfig {
    read(Path::new(path), text, &environment).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A complaint: one line, the file's name first, without what the variables hold.
fn check_error(path: &str, text: &str, expect: &str) {
    let Err(error) = read(Path::new(path), text, &environment) else {
        panic!("accepted: {text}")
    };
    let message = error.to_string();
    assert!(
        message.starts_with(expect),
        "{message}\nshould begin with\n{expect}"
    );
    assert!(
        !message.contains('\n') && !message.contains("hunter2"),
        "{message}"
    );
    assert_eq!(error.exit_status(), 1);
}

fn value<T>(given: Option<Given<T>>) -> T {
    given.expect("given").value
}

#[test]
fn the_documented_example_loads_in_all_three_formats() {
    let json = r#"{
      "endpoints": [{"name": "primary", "url": "https://api.openai.com/v1/chat/completions", "provider": "openai",
        "api_key": "${KEY}", "model": "gpt-4o-mini", "weight": 2, "max_concurrent": 100, "rpm_limit": 10000,
        "tpm_limit": 2000000, "quota_group": "org-a", "headers": {"x-team": "search"}}],
      "request": {"timeout": "30s", "connect_timeout": "5s", "rate_limit": 5000, "workers": 100},
      "retry": {"max_attempts": 3, "initial_backoff": "100ms", "max_backoff": "10s", "multiplier": 2.0},
      "prices": {"gpt-4o-mini": {"input": 0.15, "cached_input": 0.075, "output": 0.6}}
    }"#;
    let toml = "[[endpoints]]\nname = 'primary'\nurl = 'https://api.openai.com/v1/chat/completions'\nprovider = 'openai'\n\
        api_key = '${KEY}'\nmodel = 'gpt-4o-mini'\nweight = 2\nmax_concurrent = 100\nrpm_limit = 10_000\n\
        tpm_limit = 2_000_000\nquota_group = 'org-a'\nheaders = { x-team = 'search' }\n\
        [request]\ntimeout = '30s'\nconnect_timeout = '5s'\nrate_limit = 5000\nworkers = 100\n\
        [retry]\nmax_attempts = 3\ninitial_backoff = '100ms'\nmax_backoff = '10s'\nmultiplier = 2.0\n\
        [prices.gpt-4o-mini]\ninput = 0.15\ncached_input = 0.075\noutput = 0.6\n";
    let yaml = "endpoints:\n  - name: primary\n    url: https://api.openai.com/v1/chat/completions\n    provider: openai\n\
    \x20   api_key: ${KEY}\n    model: gpt-4o-mini\n    weight: 2\n    max_concurrent: 100\n    rpm_limit: 10000\n\
    \x20   tpm_limit: 2000000\n    quota_group: org-a\n    headers: {x-team: search}\n\
        request: {timeout: 30s, connect_timeout: 5s, rate_limit: 5000, workers: 100}\n\
        retry: {max_attempts: 3, initial_backoff: 100ms, max_backoff: 10s, multiplier: 2.0}\n\
        prices:\n  gpt-4o-mini: {input: 0.15, cached_input: 0.075, output: 0.6}\n";
    for (path, text) in [("c.json", json), ("c.toml", toml), ("c.yaml", yaml)] {
        let raw = file(path, text);
        let expect = EndpointConfig {
            name: Some("primary".into()),
            url: "https://api.openai.com/v1/chat/completions".into(),
            provider: Some(ProviderKind::OpenAi),
            api_key: Some("sk-hunter2".into()),
            model: Some("gpt-4o-mini".into()),
            weight: 2,
            max_concurrent: 100,
            rpm_limit: Some(10_000),
            tpm_limit: Some(2_000_000),
            quota_group: Some("org-a".into()),
            headers: [("x-team".to_owned(), "search".into())].into(),
            ..EndpointConfig::default()
        };
        assert_eq!(raw.endpoints, [expect], "{path}");
        assert_eq!(
            value(raw.settings.timeout),
            Duration::from_secs(30),
            "{path}"
        );
        assert_eq!(value(raw.connect_timeout), Duration::from_secs(5));
        assert_eq!(value(raw.settings.rate), Rate::PerSecond(5000.0));
        assert_eq!(value(raw.settings.workers), Workers::Most(100));
        assert_eq!(value(raw.settings.max_attempts), 3);
        assert_eq!(value(raw.initial_backoff), Duration::from_millis(100));
        assert_eq!(value(raw.max_backoff), Duration::from_secs(10));
        assert_eq!(value(raw.multiplier), 2.0);
        let price = Price {
            input: 0.15,
            cached_input: Some(0.075),
            output: 0.6,
        };
        assert_eq!(raw.prices, [("gpt-4o-mini".to_owned(), price)].into());
        assert_eq!(raw.notes, [""; 0]);
    }
}

#[test]
fn azure_openai_blasters_file_loads_unchanged() {
    let raw = file(
        "config.json",
        r#"{"deployments": [{"name": "east", "endpoint": "https://east.openai.azure.com/", "api_key": "${KEY}",
            "model": "gpt-4o", "api_version": "2024-10-21", "weight": 3, "temperature": 0.2,
            "max_completion_tokens": 256, "rpm_limit": 600, "tpm_limit": 90000}],
            "num_workers": 16, "max_job_retry": 5,
            "worker_polling_interval": 0.1, "strategy": "round_robin"}"#,
    );
    let expect = EndpointConfig {
        name: Some("east".into()),
        url: "https://east.openai.azure.com/".into(),
        api_key: Some("sk-hunter2".into()),
        model: Some("gpt-4o".into()),
        api_version: "2024-10-21".into(),
        weight: 3,
        temperature: Some(0.2),
        max_completion_tokens: Some(256),
        rpm_limit: Some(600),
        tpm_limit: Some(90_000),
        ..EndpointConfig::default()
    };
    assert_eq!(raw.endpoints, [expect]);
    assert_eq!(raw.endpoints[0].provider_or_host(), ProviderKind::Azure);
    assert_eq!(value(raw.settings.workers), Workers::Most(16));
    assert_eq!(value(raw.settings.max_attempts), 5);
    assert_eq!(
        raw.notes,
        [
            "ignored: config.json:5: worker_polling_interval, because workers are woken, they do not poll",
            "ignored: config.json:5: strategy, because endpoints are always chosen by smooth weighted round robin",
        ]
    );
}

#[test]
fn zaps_file_loads_unchanged() {
    let raw = file(
        "zap.toml",
        "[server]\nhost = '0.0.0.0'\nport = 8080\n[queue]\nmax_size = 10000\ntimeout_secs = 45\n\
         [[backends]]\nurl = 'http://127.0.0.1:8000'\nweight = 2\nhealth_path = '/health'\napi_key = ''\n\
         default_model = 'llama'\nchat_path = '/v1/chat/completions'\n[rate_limit]\nrequests_per_minute = 90\n",
    );
    let expect = EndpointConfig {
        url: "http://127.0.0.1:8000".into(),
        weight: 2,
        health_path: Some("/health".into()),
        model: Some("llama".into()),
        chat_path: Some("/v1/chat/completions".into()),
        ..EndpointConfig::default()
    };
    assert_eq!(raw.endpoints, [expect]);
    assert_eq!(value(raw.settings.timeout), Duration::from_secs(45));
    assert_eq!(value(raw.settings.rate), Rate::PerSecond(1.5));
    assert_eq!(
        raw.notes,
        [
            "ignored: zap.toml:5: queue.max_size, because the input file is the queue",
            "ignored: zap.toml:2: server.host, because a batch run does not listen",
            "ignored: zap.toml:3: server.port, because a batch run does not listen",
        ]
    );
}

#[test]
fn every_flag_is_a_field_too() {
    let raw = file(
        "c.json",
        r#"{"input": "-", "output": "o", "errors": "e", "rate": "auto", "workers": "${WORKERS}", "timeout": 1.5,
            "max_attempts": 2, "endpoint_url": "http://h", "model": "m", "cores": 3, "runtime": "uring",
            "order": "completion", "format": "blaze", "overwrite": true, "fresh": "yes", "salvage": true, "retry_errors": 1,
            "max_outage": "2m", "max_cost": 3, "max_line_bytes": "1KiB", "max_response_bytes": 9, "ca_file": "p",
            "grace": 0, "durability": "power", "metrics_addr": "127.0.0.1:9", "verbose": 2, "json_logs": false,
            "no_progress": true, "dry_run": true}"#,
    );
    // Destructured in full: a flag without a field would show here as `None`.
    let settings = raw.settings;
    assert_eq!(value(settings.input), InputSource::Stdin);
    assert_eq!(value(settings.output), OutputTarget::File("o".into()));
    assert_eq!(value(settings.errors), PathBuf::from("e"));
    assert_eq!(value(settings.rate), Rate::Auto);
    assert_eq!(value(settings.workers), Workers::Most(8));
    assert_eq!(value(settings.timeout), Duration::from_millis(1500));
    assert_eq!(value(settings.max_attempts), 2);
    assert_eq!(value(settings.endpoint_url).expose(), "http://h");
    assert_eq!(value(settings.model), "m");
    assert_eq!(value(settings.cores), 3);
    assert_eq!(value(settings.max_outage), Duration::from_secs(120));
    assert_eq!(value(settings.max_cost), 3.0);
    assert_eq!(
        (
            value(settings.max_line_bytes),
            value(settings.max_response_bytes)
        ),
        (1024, 9)
    );
    assert_eq!(value(settings.ca_file), PathBuf::from("p"));
    assert_eq!(value(settings.grace), Duration::ZERO);
    assert_eq!(value(settings.metrics_addr).to_string(), "127.0.0.1:9");
    assert_eq!(value(settings.verbose), 2);
    assert!(!value(settings.json_logs));
    for flag in [
        settings.overwrite,
        settings.fresh,
        settings.salvage,
        settings.retry_errors,
        settings.no_progress,
        settings.dry_run,
    ] {
        assert!(value(flag));
    }
    for given in [
        settings.runtime.is_some(),
        settings.order.is_some(),
        settings.format.is_some(),
        settings.durability.is_some(),
    ] {
        assert!(given);
    }
}

#[test]
fn spellings_of_the_rate() {
    for text in [
        r#"{"rate": 0}"#,
        r#"{"rate_limit": 0}"#,
        r#"{"rate_limit": "0"}"#,
        r#"{"max_requests_per_second": 0.0}"#,
        r#"{"request": {"rate_limit": 0}}"#,
        r#"{"request": {"rate": 0}}"#,
        r#"{"rate_limit": {"requests_per_minute": 0}}"#,
    ] {
        assert_eq!(
            value(file("c.json", text).settings.rate),
            Rate::Unlimited,
            "{text}"
        );
    }
    let both = "{\"rate\": 1,\n\"request\": {\"rate_limit\": 1}}";
    check_error(
        "c.json",
        both,
        "c.json:2: request.rate_limit and c.json:1: rate are the same setting",
    );
}

#[test]
fn null_is_not_given() {
    let raw = file(
        "c.yaml",
        "rate:\nrequest:\nendpoints:\n  - url: http://h\n    api_key:\n    headers: ~\n",
    );
    assert_eq!(raw.settings, Overrides::default());
    assert_eq!(raw.endpoints[0].api_key, None);
}

#[test]
fn what_a_variable_holds_is_text_and_nothing_else() {
    let raw = file(
        "c.json",
        r#"{"endpoints": [{"url": "http://h", "name": "${TRICK}", "model": "$${KEY}"}]}"#,
    );
    assert_eq!(
        raw.endpoints[0].name.as_deref(),
        Some("a\", \"weight\": 0, \"x\": \"")
    );
    assert_eq!(raw.endpoints[0].weight, 1);
    assert_eq!(raw.endpoints[0].model.as_deref(), Some("${KEY}"));
}

#[test]
fn unknown_fields_name_place_and_nearest() {
    for (path, text, expect) in [
        (
            "c.json",
            "{\"endpionts\": []}",
            "c.json:1: endpionts: unknown field; the nearest known field is `endpoints`",
        ),
        (
            "c.json",
            "{\"endpoints\": [{\"url\": \"http://h\"},\n{\"url\": \"http://h\", \"wieght\": 1}]}",
            "c.json:2: endpoints[1].wieght: unknown field; the nearest known field is `weight`",
        ),
        (
            "c.toml",
            "[request]\ntime_out = 1\n",
            "c.toml:2: request.time_out: unknown field; the nearest known field is `timeout`",
        ),
        (
            "c.yaml",
            "retry:\n  max_attempt: 1\n",
            "c.yaml:2: retry.max_attempt: unknown field; the nearest known field is `max_attempts`",
        ),
        (
            "c.yaml",
            "retry:\n  workers: 1\n",
            "c.yaml:2: retry.workers: unknown field; `workers` belongs in `request`",
        ),
        (
            "c.json",
            "{\"api_key\": \"x\"}",
            "c.json:1: api_key: unknown field; `api_key` belongs in `endpoints[]`",
        ),
        (
            "c.json",
            "{\"prices\": {\"m\": {\"input\": 1, \"output\": 1, \"cached\": 1}}}",
            "c.json:1: prices.m.cached: unknown field; the nearest known field is `cached_input`",
        ),
        (
            "c.toml",
            "[server]\nhots = 1\n",
            "c.toml:2: server.hots: unknown field; the nearest known field is `host`",
        ),
        (
            "c.toml",
            "[queue]\nmax_sise = 1\n",
            "c.toml:2: queue.max_sise: unknown field; the nearest known field is `max_size`",
        ),
        (
            "c.toml",
            "[rate_limit]\nrpm = 1\n",
            "c.toml:2: rate_limit.rpm: unknown field; the nearest known field is `requests_per_minute`",
        ),
    ] {
        check_error(path, text, expect);
    }
}

#[test]
fn the_fields_that_hints_point_at_exist_there() {
    for (table, names) in TABLES {
        for name in names {
            let text = match (table, *name) {
                ("endpoints[]", "url" | "endpoint") => {
                    format!(r#"{{"endpoints": [{{"{name}": "http://h"}}]}}"#)
                }
                ("endpoints[]", _) => {
                    format!(r#"{{"endpoints": [{{"url": "http://h", "{name}": null}}]}}"#)
                }
                _ => format!(r#"{{"{table}": {{"{name}": null}}}}"#),
            };
            file("c.json", &text);
        }
    }
}

#[test]
fn wrong_kinds_say_what_was_expected_and_found() {
    for (text, expect) in [
        ("[]", "c.json:1: expected a table, found a list"),
        (
            r#"{"endpoints": {}}"#,
            "c.json:1: endpoints: expected a list, found a table",
        ),
        (
            r#"{"endpoints": [null]}"#,
            "c.json:1: endpoints[0]: expected a table, found nothing",
        ),
        (
            r#"{"endpoints": [{"name": "a"}]}"#,
            "c.json:1: endpoints[0]: has no `url`",
        ),
        (
            r#"{"endpoints": [{"url": 5}]}"#,
            "c.json:1: endpoints[0].url: expected text in quotes, found a number",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "api_key": 72627262}]}"#,
            "c.json:1: endpoints[0].api_key: expected text in quotes, found a number",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "headers": {"a": ["${KEY}"]}}]}"#,
            "c.json:1: endpoints[0].headers.a: expected text, found a list",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "weight": -1}]}"#,
            "c.json:1: endpoints[0].weight: expected a number of 0 or more, found the number -1",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "weight": 4294967296}]}"#,
            "c.json:1: endpoints[0].weight: expected a smaller number",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "weight": 1.5}]}"#,
            "c.json:1: endpoints[0].weight: expected a whole number, found the number 1.5",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "provider": "gcp"}]}"#,
            "c.json:1: endpoints[0].provider: expected openai, azure, anthropic, found \"gcp\"",
        ),
        (
            r#"{"endpoints": [{"url": "http://h", "http2": "maybe"}]}"#,
            "c.json:1: endpoints[0].http2: expected true or false",
        ),
        (
            r#"{"request": {"timeout": "100mss"}}"#,
            "c.json:1: request.timeout: expected a duration",
        ),
        (
            r#"{"request": {"timeout": -1}}"#,
            "c.json:1: request.timeout: expected a duration",
        ),
        (
            r#"{"request": {"timeout": 1e300}}"#,
            "c.json:1: request.timeout: expected a duration",
        ),
        (
            r#"{"request": {"timeout": [1]}}"#,
            "c.json:1: request.timeout: expected a duration up to 10 years, as \"100ms\", \"30s\", \"2m\", \"1h\" or a number of seconds, found a list",
        ),
        (
            r#"{"request": {"rate_limit": -1}}"#,
            "c.json:1: request.rate_limit: expected a rate: 0 (no limit)",
        ),
        (
            r#"{"request": 5}"#,
            "c.json:1: request: expected a table, found the number 5",
        ),
        (
            r#"{"workers": "${KEY}"}"#,
            "c.json:1: workers: expected a whole number, or auto, found \"${KEY}\"",
        ),
        (
            r#"{"prices": {"m": {"input": 1}}}"#,
            "c.json:1: prices.m: needs `input` and `output`",
        ),
        (
            r#"{"input": "${NOPE}"}"#,
            "c.json:1: input: the environment variable NOPE is not set",
        ),
        (
            r#"{"input": "${NOPE"}"#,
            "c.json:1: input: `${` opens no variable",
        ),
        (
            "{\"timeout\": 1,\n\"queue\": {\"timeout_secs\": 1}}",
            "c.json:2: queue.timeout_secs and c.json:1: timeout are the same setting",
        ),
        (
            r#"{"endpoints": [{"url": "a", "endpoint": "b"}]}"#,
            "c.json:1: endpoints[0].endpoint and c.json:1: endpoints[0].url are the same setting",
        ),
        (
            r#"{"endpoints": [], "backends": []}"#,
            "c.json:1: backends and c.json:1: endpoints are the same setting",
        ),
    ] {
        check_error("c.json", text, expect);
    }
    check_error(
        "c.toml",
        "input = 2025-01-01\n",
        "c.toml:1: input: expected text in quotes, found a date",
    );
    check_error(
        "c.yaml",
        "timeout: .nan\n",
        "c.yaml:1: not valid YAML: non-finite float",
    );
    check_error(
        "c.toml",
        "timeout = nan\n",
        "c.toml:1: timeout: expected a duration",
    );
}

proptest::proptest! {
    /// Whatever a file holds: a result or a complaint of one line, never a panic.
    #[test]
    fn any_text_is_survived(text in "[\\[\\]{}\"':,=#$&*!|>\n a-c0-9.é\u{0}-]{0,60}", extension in "json|toml|yaml") {
        if let Err(error) = read(Path::new(&format!("c.{extension}")), &text, &environment) {
            let message = error.to_string();
            proptest::prop_assert!(!message.contains('\n'), "{message}");
        }
    }

    /// One damaged byte in a good file.
    #[test]
    fn any_damage_is_survived(at in 0usize..300, byte in 0u8..128, extension in 0usize..3) {
        let (path, good) = [
            ("c.json", r#"{"endpoints": [{"name": "a", "url": "http://h", "weight": 2, "headers": {"x-a": "1"}}], "request": {"timeout": "30s", "rate_limit": 5.5}, "prices": {"m": {"input": 1, "output": 2}}}"#),
            ("c.toml", "rate = 5\n[[endpoints]]\nname = 'a'\nurl = \"http://h\"\nheaders = { x-a = '1' }\n[request]\ntimeout = '30s'\n"),
            ("c.yaml", "endpoints:\n  - name: a\n    url: http://h\n    headers: {x-a: '1'}\nrequest:\n  timeout: 30s\n"),
        ][extension];
        let mut bytes = good.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).expect("ASCII stays UTF-8");
        if let Err(error) = read(Path::new(path), &text, &environment) {
            let message = error.to_string();
            proptest::prop_assert!(!message.contains('\n') && message.starts_with("c."), "{message}");
        }
    }
}
