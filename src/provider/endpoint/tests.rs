mod routes;

use super::*;
use crate::provider::EntraSource;

fn config(url: &str) -> EndpointConfig {
    EndpointConfig {
        url: url.to_owned(),
        ..EndpointConfig::default()
    }
}

fn resolve(config: &EndpointConfig) -> Endpoint {
    Endpoint::resolve(config).unwrap()
}

/// Header lines as text, for comparison.
fn lines(headers: Vec<(String, Secret)>) -> Vec<String> {
    headers
        .into_iter()
        .map(|(name, value)| format!("{name}: {}", value.expose()))
        .collect()
}

#[test]
fn a_label_shows_neither_credentials_nor_query() {
    let check = |url: &str, expect: &str| assert_eq!(resolve(&config(url)).name, expect);
    check("http://127.0.0.1:8080", "127.0.0.1");
    check("http://h?key=secret", "h");
    check("https://me:secret@h/v1/chat/completions?key=secret#x", "h");
    let named = EndpointConfig {
        name: Some("primary".to_owned()),
        ..config("http://h")
    };
    assert_eq!(resolve(&named).name, "primary");
}

#[test]
fn headers_carry_the_key_the_dialects_way() {
    let check = |url: &str, expect: &[&str]| {
        let config = EndpointConfig {
            api_key: Some(" key-1\n".into()),
            ..config(url)
        };
        let common = [
            "content-type: application/json",
            "accept: application/json",
            "accept-encoding: identity",
            concat!("user-agent: blaze-uring/", env!("CARGO_PKG_VERSION")),
        ];
        let expect: Vec<&str> = common.iter().chain(expect).copied().collect();
        assert_eq!(lines(resolve(&config).headers()), expect, "{url}");
    };
    check("https://api.openai.com", &["authorization: Bearer key-1"]);
    check("https://r.openai.azure.com", &["api-key: key-1"]);
    check(
        "https://api.anthropic.com",
        &["anthropic-version: 2023-06-01", "x-api-key: key-1"],
    );
}

#[test]
fn a_configured_header_replaces_ours() {
    let config = EndpointConfig {
        api_key: Some("key-1".into()),
        headers: [
            ("Authorization", "Token t"),
            ("X-Team", "search"),
            ("ACCEPT", "*/*"),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .into(),
        ..config("https://h")
    };
    let mut headers = lines(resolve(&config).headers());
    headers.sort();
    let user_agent = format!("user-agent: {USER_AGENT}");
    assert_eq!(
        headers,
        [
            "accept-encoding: identity",
            "accept: */*",
            "authorization: Token t",
            "content-type: application/json",
            &user_agent,
            "x-team: search"
        ]
    );
}

#[test]
fn a_user_name_in_the_url_becomes_basic_authorization() {
    let endpoint = resolve(&config("http://me:pass%21word@h/v1"));
    assert!(
        lines(endpoint.headers()).contains(&"authorization: Basic bWU6cGFzcyF3b3Jk".to_owned())
    );
    let both = EndpointConfig {
        api_key: Some("key-1".into()),
        ..config("http://me:x@h/v1")
    };
    assert_eq!(
        Endpoint::resolve(&both).unwrap_err().problem,
        EndpointProblem::TwoCredentials
    );
    let azure = EndpointConfig {
        provider: Some(ProviderKind::Azure),
        ..both
    };
    assert!(Endpoint::resolve(&azure).is_ok());
}

#[test]
fn entra_words_are_no_keys_on_azure_only() {
    let check = |url: &str, key: &str, expect: Authorization| {
        let config = EndpointConfig {
            api_key: Some(key.into()),
            ..config(url)
        };
        assert_eq!(resolve(&config).authorization, expect);
    };
    const AZURE: &str = "https://r.openai.azure.com";
    check(AZURE, "default", Authorization::Entra(EntraSource::Default));
    check(AZURE, "az", Authorization::Entra(EntraSource::AzureCli));
    check(
        AZURE,
        "interactive",
        Authorization::Entra(EntraSource::Interactive),
    );
    check(AZURE, "abc", Authorization::Key("abc".into()));
    check("https://h", "default", Authorization::Key("default".into()));
    check("https://h", " ", Authorization::None);

    let endpoint = resolve(&EndpointConfig {
        api_key: Some("az".into()),
        ..config(AZURE)
    });
    assert!(
        lines(endpoint.headers())
            .iter()
            .all(|line| !line.contains("authorization"))
    );
    let (name, value) = endpoint.token_header(&"t.o.k".into()).unwrap();
    assert_eq!(
        (name.as_str(), value.expose()),
        ("authorization", "Bearer t.o.k")
    );
    assert_eq!(resolve(&config(AZURE)).token_header(&"t".into()), None);
}

#[test]
fn a_body_gets_what_its_api_understands() {
    let config = EndpointConfig {
        model: Some("m".to_owned()),
        override_model: true,
        temperature: Some(0.5),
        max_completion_tokens: Some(100),
        ..config("https://h")
    };
    let endpoint = resolve(&config);
    let check = |path: ApiPath,
                 input_as: InputShape,
                 temperature: Option<f64>,
                 field: Option<&'static str>| {
        let expect = BodyRules {
            input_as,
            model: Some("m"),
            override_model: true,
            temperature,
            max_tokens: field.map(|field| (field, 100)),
        };
        assert_eq!(endpoint.body_rules(path), expect, "{path:?}");
    };
    check(
        ApiPath::ChatCompletions,
        InputShape::Messages,
        Some(0.5),
        Some("max_completion_tokens"),
    );
    check(
        ApiPath::Completions,
        InputShape::Prompt,
        Some(0.5),
        Some("max_tokens"),
    );
    check(
        ApiPath::Responses,
        InputShape::Input,
        Some(0.5),
        Some("max_output_tokens"),
    );
    check(
        ApiPath::Messages,
        InputShape::Messages,
        Some(0.5),
        Some("max_tokens"),
    );
    check(ApiPath::Embeddings, InputShape::Input, None, None);
    check(ApiPath::Other, InputShape::Input, None, None);
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let check = |config: EndpointConfig, problem: EndpointProblem| {
        let error = Endpoint::resolve(&config).unwrap_err();
        assert_eq!(error.problem, problem, "{config:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    };
    for url in [
        "",
        "api.openai.com/v1",
        "localhost:8080",
        "ftp://h/",
        "http://",
        "me:secret@h/v1?k=secret",
    ] {
        check(config(url), EndpointProblem::Url);
    }
    check(
        EndpointConfig {
            weight: 0,
            ..config("http://h")
        },
        EndpointProblem::Weight,
    );
    check(
        EndpointConfig {
            max_concurrent: 0,
            ..config("http://h")
        },
        EndpointProblem::MaxConcurrent,
    );
    check(
        EndpointConfig {
            rpm_limit: Some(0),
            ..config("http://h")
        },
        EndpointProblem::Limit("rpm_limit"),
    );
    check(
        EndpointConfig {
            tpm_limit: Some(0),
            ..config("http://h")
        },
        EndpointProblem::Limit("tpm_limit"),
    );
    check(
        EndpointConfig {
            api_key: Some("secret\r\nX: y".into()),
            ..config("http://h")
        },
        EndpointProblem::Key,
    );
    let header = |name: &str, value: &str| EndpointConfig {
        headers: [(name.to_owned(), value.into())].into(),
        ..config("http://h")
    };
    check(
        header("x y", "secret"),
        EndpointProblem::Header("x y".to_owned()),
    );
    check(
        header("x", "secret\n"),
        EndpointProblem::Header("x".to_owned()),
    );
    check(
        header("Content-Length", "1"),
        EndpointProblem::HeaderNotConfigurable("content-length".to_owned()),
    );
}

#[test]
fn nothing_secret_is_printed() {
    let config = EndpointConfig {
        api_key: Some("secret-key".into()),
        headers: [("x-token".to_owned(), "secret-header".into())].into(),
        provider: Some(ProviderKind::Azure),
        ..config("http://me:secret-password@h/v1?key=secret-query")
    };
    let endpoint = resolve(&config);
    let route = endpoint.route(None, Some("m"), false);
    assert!(route.target.contains("secret-query"));
    let shown = format!("{endpoint:?} {route:?} {:?}", endpoint.headers());
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(
        endpoint.redact("secret-key, secret-header, secret-password and secret-query"),
        "***, ***, *** and ***"
    );
}

#[test]
fn endpoints_without_a_group_are_their_own_quota() {
    let grouped = EndpointConfig {
        quota_group: Some("org".to_owned()),
        ..config("http://h/v1")
    };
    let endpoints = Endpoint::resolve_all(&[
        config("http://h/v1"),
        config("http://h/v1"),
        grouped.clone(),
        grouped,
    ])
    .unwrap();
    let groups: Vec<&str> = endpoints
        .iter()
        .map(|endpoint| endpoint.quota_group.as_str())
        .collect();
    assert_eq!(groups, ["h", "h#2", "org", "org"]);
    let names: Vec<&str> = endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    assert_eq!(names, ["h", "h#2", "h#3", "h#4"]);
}
