use super::*;
use crate::config::Rate;
use crate::config::Secret;

const FILE: &str = r#"{"endpoints": [
    {"name": "a", "url": "http://a/v1", "model": "m"},
    {"name": "b", "url": "http://b/v1"}]}"#;

fn try_load(
    text: &str,
    overrides: &Overrides,
    variables: &[(&str, &str)],
) -> Result<(Config, Vec<String>), ConfigError> {
    let environment = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    load(
        Some(Path::new("blaze.json")),
        Some(text.to_owned()),
        overrides,
        &environment,
    )
}

fn check_error(text: &str, overrides: &Overrides, variables: &[(&str, &str)], expect: &str) {
    let message = try_load(text, overrides, variables)
        .expect_err(text)
        .to_string();
    assert!(
        message.starts_with(expect),
        "{message}\nshould begin with\n{expect}"
    );
    assert!(
        !message.contains('\n') && !message.contains("hunter2"),
        "{message}"
    );
}

fn models(config: &Config) -> Vec<Option<&str>> {
    config
        .endpoints
        .iter()
        .map(|endpoint| endpoint.model.as_deref())
        .collect()
}

fn url_by(origin: fn(&str, Secret) -> Given<Secret>, name: &str, url: &str) -> Overrides {
    Overrides {
        endpoint_url: Some(origin(name, Secret::from(url))),
        ..Overrides::default()
    }
}

#[test]
fn nothing_given_leaves_the_defaults() {
    let (config, notes) = try_load(FILE, &Overrides::default(), &[]).expect("a config");
    assert_eq!(notes, [""; 0]);
    assert_eq!(models(&config), [Some("m"), None]);
    assert_eq!(
        config,
        Config {
            endpoints: config.endpoints.clone(),
            ..Config::default()
        }
    );
}

#[test]
fn a_single_endpoint_needs_no_file() {
    let overrides = Overrides {
        model: Some(Given::by_environment("BLAZE_MODEL", "m".to_owned())),
        ..url_by(Given::by_flag, "--endpoint-url", "http://h/v1")
    };
    let environment = |name: &str| (name == "BLAZE_API_KEY").then(|| "k".to_owned());
    let (config, notes) = load(None, None, &overrides, &environment).expect("a config");
    let expect = EndpointConfig {
        url: "http://h/v1".into(),
        api_key: Some("k".into()),
        model: Some("m".into()),
        ..EndpointConfig::default()
    };
    assert_eq!((config.endpoints, notes), (vec![expect], vec![]));
}

#[test]
fn an_endpoint_by_flag_or_environment_replaces_the_files_and_says_so() {
    for (overrides, expect) in [
        (
            url_by(Given::by_flag, "--endpoint-url", "http://h"),
            "--endpoint-url replaces the 2 endpoint(s)",
        ),
        (
            url_by(Given::by_environment, "BLAZE_ENDPOINT_URL", "http://h"),
            "BLAZE_ENDPOINT_URL replaces the 2",
        ),
    ] {
        let (config, notes) = try_load(FILE, &overrides, &[]).expect("a config");
        assert_eq!(config.endpoints.len(), 1);
        assert_eq!(config.endpoints[0].url, "http://h");
        assert_eq!(config.endpoints[0].model, None);
        assert!(notes[0].starts_with(expect), "{notes:?}");
    }
    let both = r#"{"endpoint_url": "http://h", "endpoints": [{"url": "http://a"}]}"#;
    check_error(
        both,
        &Overrides::default(),
        &[],
        "blaze.json:1: endpoint_url: stands beside a list of endpoints",
    );
}

#[test]
fn a_model_by_flag_beats_the_endpoints_and_one_in_the_file_only_fills_in() {
    let overrides = Overrides {
        model: Some(Given::by_flag("--model", "x".to_owned())),
        ..Overrides::default()
    };
    let (config, notes) = try_load(FILE, &overrides, &[]).expect("a config");
    assert_eq!(models(&config), [Some("x"), Some("x")]);
    assert_eq!(notes, ["--model replaces the model of 1 endpoint(s)"]);
    let text = FILE.replacen('{', "{\"model\": \"y\", ", 1);
    let (config, notes) = try_load(&text, &Overrides::default(), &[]).expect("a config");
    assert_eq!(models(&config), [Some("m"), Some("y")]);
    assert_eq!(notes, [""; 0]);
}

#[test]
fn the_single_endpoints_key_never_goes_to_the_files_endpoints() {
    let (config, notes) =
        try_load(FILE, &Overrides::default(), &[("BLAZE_API_KEY", "hunter2")]).expect("a config");
    assert!(
        config
            .endpoints
            .iter()
            .all(|endpoint| endpoint.api_key.is_none())
    );
    assert!(
        notes[0].starts_with("BLAZE_API_KEY is not used"),
        "{notes:?}"
    );
}

#[test]
fn missing_keys_name_the_endpoint_and_how_to_set_one() {
    for (url, needed) in [
        ("https://api.openai.com/v1", true),
        ("https://r.openai.azure.com", true),
        ("https://api.anthropic.com", true),
        ("https://api.groq.com/openai/v1", false),
        ("http://localhost:8000", false),
    ] {
        let text = format!("{{\"endpoints\": [{{\"url\": {url:?}}}]}}");
        let result = try_load(&text, &Overrides::default(), &[]);
        assert_eq!(result.is_err(), needed, "{url}");
        if needed {
            let host = EndpointConfig {
                url: url.into(),
                ..Default::default()
            }
            .label();
            let expect = format!("blaze.json:1: endpoints[0].api_key: missing, and {host} (");
            check_error(&text, &Overrides::default(), &[], &expect);
            check_error(
                "{}",
                &url_by(Given::by_flag, "--endpoint-url", url),
                &[],
                "BLAZE_API_KEY: missing, and",
            );
            // A variable set to nothing is no key.
            let empty = text.replace("}]", ", \"api_key\": \"${EMPTY}\"}]");
            check_error(
                &empty,
                &Overrides::default(),
                &[("EMPTY", "")],
                "blaze.json:1: endpoints[0].api_key: missing",
            );
        }
    }
    let provider =
        r#"{"endpoints": [{"url": "http://127.0.0.1:1", "provider": "anthropic", "name": "n"}]}"#;
    check_error(
        provider,
        &Overrides::default(),
        &[],
        "blaze.json:1: endpoints[0].api_key: missing, and n (anthropic)",
    );
    let header = r#"{"endpoints": [{"url": "https://api.openai.com", "headers": {"Authorization": "Bearer hunter2"}}]}"#;
    try_load(header, &Overrides::default(), &[]).expect("a header is a key too");
}

#[test]
fn credentials_in_a_url_are_sent_as_basic_authorization() {
    let text = r#"{"endpoints": [{"url": "http://user:${PASSWORD}@h/v1"}]}"#;
    let (config, _) =
        try_load(text, &Overrides::default(), &[("PASSWORD", "hunter2")]).expect("a config");
    assert_eq!(config.endpoints[0].url, "http://h/v1");
    assert_eq!(
        config.endpoints[0].headers["authorization"].expose(),
        "Basic dXNlcjpodW50ZXIy"
    );
    assert!(!format!("{config:?}").contains("dXNlcjpodW50ZXIy"));
    let both = r#"{"endpoints": [{"url": "http://user:hunter2@h/v1", "api_key": "k"}]}"#;
    check_error(
        both,
        &Overrides::default(),
        &[],
        "blaze.json:1: endpoints[0].url: has credentials in it",
    );
}

#[test]
fn complaints_point_at_the_line_that_is_to_blame() {
    for (text, expect) in [
        ("{}", "no endpoint configured"),
        ("{\"endpoints\": []}", "no endpoint configured"),
        (
            "{\"endpoints\":\n[{\"url\": \"http://h\",\n\"weight\": 0}]}",
            "blaze.json:3: endpoints[0].weight: must be at least 1",
        ),
        (
            "{\"deployments\": [\n{\"endpoint\": \"ftp://h\"}]}",
            "blaze.json:2: deployments[0].endpoint: does not begin with http",
        ),
        (
            "{\"num_workers\":\n0, \"endpoints\": [{\"url\": \"http://h\"}]}",
            "blaze.json:2: num_workers: must be at least 1",
        ),
        (
            "{\"endpoints\": [{\"url\": \"http://h\", \"headers\": {\n\"x-a\": \"1\\r\\nx-b: hunter2\"}}]}",
            "blaze.json:2: endpoints[0].headers.x-a: its value holds a line break",
        ),
        (
            "{\"endpoints\": [{\"url\": \"http://h\", \"headers\": {\n\"a b\\n\": \"hunter2\"}}]}",
            "blaze.json:2: endpoints[0].headers.a b\\n: is no HTTP header name",
        ),
        (
            "{\"endpoints\": [{\"url\": \"http://u:hunter2@h:99999/\"}]}",
            "blaze.json:1: endpoints[0].url: is no URL (invalid port number)",
        ),
        (
            "{\"prices\": {\n\"m\": {\"input\": -1, \"output\": 0}}, \"endpoints\": [{\"url\": \"http://h\"}]}",
            "blaze.json:2: prices.m: -1 is no price",
        ),
    ] {
        check_error(text, &Overrides::default(), &[], expect);
    }
}

#[test]
fn one_bound_of_the_backoff_moves_the_default_of_the_other() {
    for (text, initial, max) in [
        (r#"{"max_backoff": "50ms"}"#, 50, 50),
        (r#"{"initial_backoff": "30s"}"#, 30_000, 30_000),
        (r#"{"max_backoff": "20s"}"#, 100, 20_000),
    ] {
        let text = FILE.replacen('{', &format!("{{\"retry\": {text}, "), 1);
        let (config, _) = try_load(&text, &Overrides::default(), &[]).expect("a config");
        let retry = config.retry;
        assert_eq!(
            (
                retry.initial_backoff.as_millis(),
                retry.max_backoff.as_millis()
            ),
            (initial, max)
        );
    }
    let text = FILE.replacen(
        '{',
        r#"{"retry": {"initial_backoff": 2, "max_backoff": 1}, "#,
        1,
    );
    check_error(
        &text,
        &Overrides::default(),
        &[],
        "blaze.json:1: retry.max_backoff: 1s is below",
    );
}

#[test]
fn both_certificate_files_are_trusted() {
    let overrides = Overrides {
        ca_file: Some(Given::by_flag("--ca-file", "a.pem".into())),
        rate: Some(Given::by_flag("--rate", Rate::Auto)),
        workers: Some(Given::by_flag("--workers", Workers::Auto)),
        ..Overrides::default()
    };
    let (config, _) = try_load(FILE, &overrides, &[("SSL_CERT_FILE", "b.pem")]).expect("a config");
    assert_eq!(
        config.ca_files().collect::<Vec<_>>(),
        [Path::new("a.pem"), Path::new("b.pem")]
    );
    assert_eq!(config.request.rate_limit, Rate::Auto);
    assert_eq!(config.request.workers, Workers::AUTO_MAX);
}

#[test]
fn a_file_is_read_where_its_text_is_not_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("blaze.json");
    std::fs::write(&path, FILE).expect("written");
    let (config, _) = load(Some(&path), None, &Overrides::default(), &|_| None).expect("a config");
    assert_eq!(config.endpoints.len(), 2);
    let none = load(
        Some(&folder.path().join("x.json")),
        None,
        &Overrides::default(),
        &|_| None,
    );
    assert!(
        none.expect_err("no such file")
            .to_string()
            .starts_with("cannot read the config file")
    );
}
