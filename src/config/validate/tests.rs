use super::*;
use crate::config::{ProviderKind, Secret};

fn config() -> Config {
    let endpoint = EndpointConfig {
        url: "http://127.0.0.1:8000/v1".into(),
        ..Default::default()
    };
    Config {
        endpoints: vec![endpoint],
        ..Config::default()
    }
}

/// `change` breaks one rule, and the message begins with `expect`.
fn check(change: impl FnOnce(&mut Config), expect: &str) {
    let mut config = config();
    change(&mut config);
    let error = validate(&config).expect_err(expect);
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

fn check_endpoint(change: impl FnOnce(&mut EndpointConfig), expect: &str) {
    check(
        |config| change(&mut config.endpoints[0]),
        &format!("endpoints[0].{expect}"),
    );
}

#[test]
fn a_plain_config_is_valid() {
    validate(&config()).expect("valid");
}

#[test]
fn settings_of_the_run() {
    check(|config| config.endpoints.clear(), "no endpoint configured");
    check(
        |config| config.request.workers = 0,
        "request.workers: must be at least 1, found 0",
    );
    check(
        |config| config.request.workers = 1_000_001,
        "request.workers: 1000001 is above 1000000",
    );
    check(
        |config| config.request.timeout = Duration::ZERO,
        "request.timeout: 0 would fail every request",
    );
    check(
        |config| config.request.timeout = Duration::MAX,
        "request.timeout:",
    );
    check(
        |config| config.request.connect_timeout = Duration::ZERO,
        "request.connect_timeout: 0 would",
    );
    for rate in [-1.0, f64::NAN, f64::INFINITY, 1e-300] {
        check(
            |config| config.request.rate_limit = Rate::PerSecond(rate),
            "request.rate_limit: expected a rate",
        );
    }
    check(
        |config| config.request.rate_limit = Rate::PerSecond(0.0),
        "request.rate_limit: 0 per second sends nothing",
    );
    check(
        |config| config.retry.max_attempts = 0,
        "retry.max_attempts: must be at least 1, found 0",
    );
    check(
        |config| config.retry.max_attempts = 10_001,
        "retry.max_attempts: 10001 is above",
    );
    for multiplier in [0.99, -2.0, f64::NAN, f64::INFINITY] {
        check(
            |config| config.retry.multiplier = multiplier,
            "retry.multiplier:",
        );
    }
    check(
        |config| config.retry.max_backoff = Duration::ZERO,
        "retry.max_backoff: 0ns is below",
    );
    check(
        |config| config.retry.initial_backoff = Duration::MAX,
        "retry.initial_backoff:",
    );
    check(|config| config.cores = Some(0), "cores: must be at least 1");
    check(|config| config.max_outage = Duration::MAX, "max_outage:");
    check(|config| config.grace = Duration::MAX, "grace:");
    check(
        |config| config.max_line_bytes = 0,
        "max_line_bytes: must be at least 1",
    );
    check(
        |config| config.max_response_bytes = 0,
        "max_response_bytes: must be at least 1",
    );
    check(
        |config| config.ca_file = Some("".into()),
        "ca_file: the path is empty",
    );
    for cost in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        check(|config| config.max_cost = Some(cost), "max_cost:");
    }
    check(
        |config| config.max_cost = Some(1.0),
        "max_cost: costs are unknown without prices",
    );
    for price in [-0.1, f64::NAN, f64::INFINITY] {
        let price = Price {
            output: price,
            ..Price::default()
        };
        check(
            |config| _ = config.prices.insert("m".into(), price),
            "prices.m:",
        );
        let price = Price {
            cached_input: Some(price.output),
            ..Price::default()
        };
        check(
            |config| _ = config.prices.insert("m".into(), price),
            "prices.m:",
        );
    }
}

#[test]
fn urls() {
    for (url, expect) in [
        ("", "url: is empty"),
        (
            "api.openai.com/v1",
            "url: does not begin with http:// or https://",
        ),
        ("localhost:8000/v1", "url: does not begin with"),
        ("https:api.openai.com", "url: does not begin with"),
        ("ftp://h", "url: does not begin with"),
        ("file:///etc/passwd", "url: does not begin with"),
        ("http://", "url: is no URL (empty host)"),
        ("http://?q", "url: is no URL"),
        ("http://h:65536", "url: is no URL (invalid port number)"),
        ("http://h:0", "url: has port 0"),
        ("http://[::1", "url: is no URL"),
        ("http://h h/", "url: holds white space"),
        (" http://h", "url: holds white space"),
        ("http://h/\r\nx: hunter2", "url: holds white space"),
        (
            "http://h\\@evil/",
            "url: holds white space, a control character or a backslash",
        ),
        ("http://h/#x", "url: has a fragment"),
        ("http://u:hunter2@h/", "url: has credentials in it"),
        ("http://hunter2@h/", "url: has credentials in it"),
    ] {
        check_endpoint(|endpoint| endpoint.url = url.into(), expect);
    }
    for url in [
        "http://h",
        "HTTPS://h:1/v1?a=b",
        "http://[::1]:8000/v1",
        "http://127.1/",
        "https://h/v1/@cf/x",
    ] {
        let mut config = config();
        config.endpoints[0].url = url.into();
        validate(&config).unwrap_or_else(|error| panic!("{url}: {error}"));
    }
}

#[test]
fn endpoints() {
    check_endpoint(
        |endpoint| endpoint.weight = 0,
        "weight: must be at least 1, found 0",
    );
    check_endpoint(
        |endpoint| endpoint.max_concurrent = 0,
        "max_concurrent: must be at least 1",
    );
    check_endpoint(
        |endpoint| endpoint.rpm_limit = Some(0),
        "rpm_limit: 0 lets nothing through",
    );
    check_endpoint(
        |endpoint| endpoint.tpm_limit = Some(0),
        "tpm_limit: 0 lets nothing through",
    );
    check_endpoint(
        |endpoint| endpoint.max_completion_tokens = Some(0),
        "max_completion_tokens: 0",
    );
    check_endpoint(
        |endpoint| endpoint.temperature = Some(f64::NAN),
        "temperature: is no finite number",
    );
    check_endpoint(
        |endpoint| endpoint.model = Some("a\r\nb".into()),
        "model: holds a control character",
    );
    check_endpoint(
        |endpoint| endpoint.model = Some(String::new()),
        "model: is empty",
    );
    check_endpoint(
        |endpoint| endpoint.name = Some("a\u{1b}[31m".into()),
        "name: holds a control",
    );
    check_endpoint(
        |endpoint| endpoint.quota_group = Some(String::new()),
        "quota_group: is empty",
    );
    check_endpoint(
        |endpoint| endpoint.override_model = true,
        "override_model: there is no `model`",
    );
    for version in ["", "a b", "1&x=y", "1\r\n"] {
        check_endpoint(
            |endpoint| endpoint.api_version = version.into(),
            "api_version: is no API version",
        );
    }
    for path in ["", "v1", "/a b", "/a\r\nb", "/a#b", "/\u{e9}"] {
        check_endpoint(
            |endpoint| endpoint.chat_path = Some(path.into()),
            "chat_path: is no URL path",
        );
        check_endpoint(
            |endpoint| endpoint.health_path = Some(path.into()),
            "health_path: is no URL path",
        );
    }
}

#[test]
fn headers() {
    for (name, value, expect) in [
        ("", "x", "headers.: is no HTTP header name"),
        ("a b", "x", "headers.a b: is no HTTP header name"),
        ("a:b", "x", "headers.a:b: is no HTTP header name"),
        (
            "x-a",
            "hunter2\r\nx-b: c",
            "headers.x-a: its value holds a line break",
        ),
        ("x-a", "hunter2\0", "headers.x-a: its value holds"),
        (
            "Content-Length",
            "5",
            "headers.Content-Length: is written by the transport",
        ),
        (
            "transfer-encoding",
            "chunked",
            "headers.transfer-encoding: is written by the transport",
        ),
        ("Host", "evil", "headers.Host: is written by the transport"),
    ] {
        check_endpoint(
            |endpoint| _ = endpoint.headers.insert(name.into(), value.into()),
            expect,
        );
    }
    check_endpoint(
        |endpoint| endpoint.headers = ["X-A", "x-a"].map(|name| (name.into(), "1".into())).into(),
        "headers.X-A: is given twice",
    );
}

#[test]
fn keys() {
    for key in [
        "",
        "hunter2\r\nx: y",
        "hunter2 2",
        "hunter2\thunter2",
        "hunter2\u{e9}",
        "hunter2\0",
    ] {
        check_endpoint(
            |endpoint| endpoint.api_key = Some(key.into()),
            "api_key: is empty or holds, inside it, a line break",
        );
    }
    check_endpoint(
        |endpoint| endpoint.provider = Some(ProviderKind::Azure),
        "api_key: missing, and 127.0.0.1 (azure) needs one",
    );
    for name in ["Authorization", "X-API-Key", "api-key"] {
        for provider in [
            None,
            Some(ProviderKind::Azure),
            Some(ProviderKind::Anthropic),
        ] {
            check_endpoint(
                |endpoint| {
                    endpoint.provider = provider;
                    endpoint.api_key = Some("hunter2".into());
                    endpoint.headers.insert(name.into(), "hunter2".into());
                },
                &format!(
                    "api_key: stands beside the header `{}`: two keys",
                    name.to_lowercase()
                ),
            );
        }
    }
    check_endpoint(
        |endpoint| {
            for name in ["Authorization", "x-api-key"] {
                endpoint.headers.insert(name.into(), "hunter2".into());
            }
        },
        "headers: `authorization` and `x-api-key` are two keys",
    );
    for key in ["default", "az", "interactive", "k"] {
        let mut config = config();
        config.endpoints[0].provider = Some(ProviderKind::Azure);
        config.endpoints[0].api_key = Some(key.into());
        validate(&config).expect("a key");
    }
}

#[test]
fn white_space_around_a_key_is_no_part_of_it() {
    for (given, key) in [
        ("hunter2", Some("hunter2")),
        ("hunter2\n", Some("hunter2")),
        ("hunter2\r\n", Some("hunter2")),
        ("\n \thunter2 \n\n", Some("hunter2")),
        ("\u{feff}hunter2\u{a0}", Some("hunter2")),
        (" \n", None),
        ("", None),
        ("hunter2 2\n", Some("hunter2 2")),
    ] {
        let mut config = config();
        config.endpoints[0].api_key = Some(given.into());
        let header = format!("Bearer {given}");
        let headers = &mut config.endpoints[0].headers;
        headers.insert("x-key".into(), Secret::from(header.as_str()));
        normalise(&mut config);
        let endpoint = &config.endpoints[0];
        assert_eq!(endpoint.api_key.as_deref(), key, "{given:?}");
        assert_eq!(
            endpoint.headers["x-key"].expose(),
            header.trim(),
            "{given:?}"
        );
    }
}

#[test]
fn endpoints_among_each_other() {
    let two = |config: &mut Config| config.endpoints.push(config.endpoints[0].clone());
    let mut twins = config();
    two(&mut twins);
    validate(&twins).expect("the same URL twice is fine");
    check(
        |config| {
            config.endpoints[0].name = Some("a".into());
            two(config);
        },
        "endpoints[1].name: `a` is also the name of endpoints[0]",
    );
    check(
        |config| {
            config.endpoints[0].quota_group = Some("g".into());
            config.endpoints[0].rpm_limit = Some(1);
            two(config);
            config.endpoints[1].rpm_limit = Some(2);
        },
        "endpoints[1].rpm_limit: 2 differs from 1 of endpoints[0], and both are in the quota group `g`",
    );
}
