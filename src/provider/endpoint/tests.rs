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
fn an_openai_url_is_a_base_or_complete() {
    use ApiPath::*;
    let check = |url: &str, line: Option<&str>, target: &str, path: ApiPath| {
        let route = resolve(&config(url)).route(line, None);
        assert_eq!(
            (route.target.as_str(), route.path),
            (target, path),
            "{url} {line:?}"
        );
    };
    // Complete: used as it is.
    check(
        "https://api.openai.com/v1/chat/completions",
        None,
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "https://api.openai.com/v1/completions",
        None,
        "/v1/completions",
        Completions,
    );
    check(
        "https://api.openai.com/v1/embeddings",
        None,
        "/v1/embeddings",
        Embeddings,
    );
    check(
        "https://api.openai.com/v1/responses",
        None,
        "/v1/responses",
        Responses,
    );
    check(
        "http://h/chat/completions/?k=1&l",
        None,
        "/chat/completions/?k=1&l",
        ChatCompletions,
    );
    // A base.
    check(
        "https://api.openai.com",
        None,
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "https://api.openai.com/",
        None,
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "https://api.openai.com/v1",
        None,
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "https://api.openai.com/v1/",
        None,
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "https://api.groq.com/openai/v1",
        None,
        "/openai/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "http://host/proxy/v1/",
        None,
        "/proxy/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "http://host/proxy",
        None,
        "/proxy/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "http://host/v1?key=a",
        None,
        "/v1/chat/completions?key=a",
        ChatCompletions,
    );
    check(
        "https://g.example/v1beta/openai/",
        None,
        "/v1beta/openai/chat/completions",
        ChatCompletions,
    );
    // A line's own URL replaces the API path.
    check(
        "https://api.openai.com/v1/chat/completions",
        Some("/v1/embeddings"),
        "/v1/embeddings",
        Embeddings,
    );
    check(
        "https://api.openai.com/v1/chat/completions",
        Some("/embeddings"),
        "/v1/embeddings",
        Embeddings,
    );
    check(
        "https://api.openai.com/v1",
        Some("/v1/responses?a=1"),
        "/v1/responses?a=1",
        Responses,
    );
    check(
        "https://api.openai.com",
        Some("/v1/moderations"),
        "/v1/moderations",
        Other,
    );
    check(
        "http://host/proxy/v1/chat/completions",
        Some("/v1/completions"),
        "/proxy/v1/completions",
        Completions,
    );
    check(
        "http://host/v1/chat/completions?k=1",
        Some("/v1/embeddings?l=2"),
        "/v1/embeddings?k=1&l=2",
        Embeddings,
    );
    check(
        "https://api.groq.com/openai/v1",
        Some("/openai/v1/embeddings"),
        "/openai/v1/embeddings",
        Embeddings,
    );
    check(
        "http://host",
        Some("https://api.openai.com/v1/responses"),
        "/v1/responses",
        Responses,
    );
    check(
        "http://host",
        Some(""),
        "/v1/chat/completions",
        ChatCompletions,
    );
    check(
        "http://host/",
        Some("/v1/a b\r\nX: y"),
        "/v1/a%20b%0D%0AX:%20y",
        Other,
    );
}

#[test]
fn a_chat_path_replaces_the_providers() {
    let check = |url: &str, chat_path: &str, line: Option<&str>, target: &str, path: ApiPath| {
        let config = EndpointConfig {
            chat_path: Some(chat_path.to_owned()),
            ..config(url)
        };
        let route = resolve(&config).route(line, None);
        assert_eq!((route.target.as_str(), route.path), (target, path));
    };
    check(
        "http://h",
        "/v1/chat/completions",
        None,
        "/v1/chat/completions",
        ApiPath::ChatCompletions,
    );
    check(
        "http://h/v1",
        "/v1/chat/completions",
        None,
        "/v1/chat/completions",
        ApiPath::ChatCompletions,
    );
    check(
        "http://h",
        "api/chat?x=1",
        None,
        "/api/chat?x=1",
        ApiPath::ChatCompletions,
    );
    check(
        "http://h",
        "/api/chat",
        Some("/v1/embeddings"),
        "/v1/embeddings",
        ApiPath::Embeddings,
    );
    check(
        "http://h/v1/completions",
        "/api/chat",
        None,
        "/v1/completions",
        ApiPath::Completions,
    );
}

#[test]
fn azure_addresses_deployments_or_v1() {
    use ApiPath::*;
    const RESOURCE: &str = "https://r.openai.azure.com";
    let check = |path: &str,
                 model: Option<&str>,
                 line: Option<&str>,
                 body_model: Option<&str>,
                 target: &str| {
        let config = EndpointConfig {
            api_version: "2025-01-01-preview".to_owned(),
            model: model.map(str::to_owned),
            ..config(&format!("{RESOURCE}{path}"))
        };
        let endpoint = resolve(&config);
        assert_eq!(endpoint.provider, ProviderKind::Azure);
        let route = endpoint.route(line, body_model);
        assert_eq!(route.target, target, "{path} {model:?} {line:?}");
        let expected = if target.contains("embeddings") {
            Embeddings
        } else if target.contains("responses") {
            Responses
        } else {
            ChatCompletions
        };
        assert_eq!(route.path, expected);
    };
    const VERSION: &str = "?api-version=2025-01-01-preview";
    let classic =
        |deployment: &str| format!("/openai/deployments/{deployment}/chat/completions{VERSION}");
    // A bare resource.
    check("", Some("dep"), None, None, &classic("dep"));
    check("/", Some("dep"), None, Some("body"), &classic("dep"));
    check("/openai", None, None, Some("body"), &classic("body"));
    check(
        "/openai/deployments/",
        None,
        None,
        Some("a b/c"),
        &classic("a%20b%2Fc"),
    );
    check("", None, None, None, "/openai/v1/chat/completions");
    check(
        "/team",
        Some("dep"),
        None,
        None,
        &format!("/team{}", classic("dep")),
    );
    // A deployment.
    check(
        "/openai/deployments/d",
        Some("dep"),
        None,
        None,
        &classic("d"),
    );
    check(
        "/openai/deployments/d/chat/completions",
        None,
        None,
        None,
        &classic("d"),
    );
    check(
        "/openai/deployments/d/chat/completions?api-version=2024-06-01",
        None,
        None,
        None,
        "/openai/deployments/d/chat/completions?api-version=2024-06-01",
    );
    // A line's own URL, in OpenAI's spelling, Azure Batch's and in full.
    check(
        "",
        Some("dep"),
        Some("/v1/chat/completions"),
        None,
        &classic("dep"),
    );
    check(
        "",
        Some("dep"),
        Some("/chat/completions"),
        None,
        &classic("dep"),
    );
    check(
        "",
        Some("dep"),
        Some("/v1/embeddings"),
        None,
        &format!("/openai/deployments/dep/embeddings{VERSION}"),
    );
    check(
        "/openai/deployments/d/chat/completions?api-version=2024-06-01",
        None,
        Some("/v1/embeddings"),
        None,
        "/openai/deployments/d/embeddings?api-version=2024-06-01",
    );
    check(
        "/openai/deployments/d?api-version=1&x=2",
        None,
        Some("/v1/responses"),
        None,
        "/openai/v1/responses?x=2",
    );
    check(
        "",
        Some("dep"),
        Some("/openai/deployments/other/embeddings?api-version=2023-05-15"),
        None,
        "/openai/deployments/other/embeddings?api-version=2023-05-15",
    );
    // v1: the model stays in the body.
    check(
        "/openai/v1",
        Some("dep"),
        None,
        None,
        "/openai/v1/chat/completions",
    );
    check(
        "/openai/v1/",
        None,
        Some("/v1/embeddings"),
        None,
        "/openai/v1/embeddings",
    );
    check(
        "/openai/v1/responses?api-version=preview",
        None,
        None,
        None,
        "/openai/v1/responses?api-version=preview",
    );
    // Another full URL of the same host.
    check(
        "/models/chat/completions?api-version=9",
        None,
        None,
        None,
        "/models/chat/completions?api-version=9",
    );
}

#[test]
fn anthropic_speaks_messages() {
    let check = |url: &str, line: Option<&str>, target: &str| {
        let endpoint = resolve(&config(url));
        assert_eq!(endpoint.provider, ProviderKind::Anthropic, "{url}");
        let route = endpoint.route(line, None);
        assert_eq!(
            (route.target.as_str(), route.path),
            (target, ApiPath::Messages),
            "{url}"
        );
    };
    check("https://api.anthropic.com", None, "/v1/messages");
    check("https://api.anthropic.com/v1/", None, "/v1/messages");
    check(
        "https://api.anthropic.com/v1/messages",
        None,
        "/v1/messages",
    );
    check(
        "https://api.anthropic.com/v1/messages?beta=true",
        Some("/v1/messages"),
        "/v1/messages?beta=true",
    );
    check(
        "http://127.0.0.1:9/anthropic/v1/messages",
        None,
        "/anthropic/v1/messages",
    );
}

#[test]
fn the_provider_follows_from_the_host_unless_configured() {
    use ProviderKind::*;
    let check = |url: &str, expect: ProviderKind| {
        assert_eq!(resolve(&config(url)).provider, expect, "{url}");
    };
    check("https://api.openai.com/v1", OpenAi);
    check("http://127.0.0.1:8000", OpenAi);
    check("https://R.openai.azure.com", Azure);
    check("https://r.cognitiveservices.azure.com/", Azure);
    check("https://r.services.ai.azure.com/models", Azure);
    check("https://r.openai.azure.us", Azure);
    check("http://127.0.0.1:8000/openai/deployments/d", Azure);
    check("https://api.anthropic.com", Anthropic);
    check("https://notanthropic.com", OpenAi);
    check(
        "https://r.services.ai.azure.com/anthropic/v1/messages",
        Anthropic,
    );
    let configured = EndpointConfig {
        provider: Some(OpenAi),
        ..config("https://api.anthropic.com")
    };
    assert_eq!(resolve(&configured).provider, OpenAi);
}

#[test]
fn an_origin_is_the_scheme_host_and_port() {
    let check = |url: &str, scheme: Scheme, host: &str, port: u16| {
        let origin = resolve(&config(url)).origin;
        assert_eq!(
            origin,
            Origin {
                scheme,
                host: host.to_owned(),
                port
            },
            "{url}"
        );
    };
    check(
        "https://API.openai.com/v1",
        Scheme::Https,
        "api.openai.com",
        443,
    );
    check("http://h", Scheme::Http, "h", 80);
    check("http://127.0.0.1:8080/", Scheme::Http, "127.0.0.1", 8080);
    check("http://[::1]:8080/", Scheme::Http, "::1", 8080);
}

#[test]
fn a_label_shows_neither_credentials_nor_query() {
    let check = |url: &str, expect: &str| assert_eq!(resolve(&config(url)).name, expect);
    check("http://127.0.0.1:8080", "http://127.0.0.1:8080");
    check("http://127.0.0.1:8080/", "http://127.0.0.1:8080/");
    check("http://h?key=secret", "http://h");
    check(
        "https://me:secret@h/v1/chat/completions?key=secret#x",
        "https://h/v1/chat/completions",
    );
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
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        ..config("https://h")
    };
    let mut headers = lines(resolve(&config).headers());
    headers.sort();
    let user_agent = format!("user-agent: {USER_AGENT}");
    assert_eq!(
        headers,
        [
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
fn health_stands_beside_the_version() {
    let check = |url: &str, path: Option<&str>, target: &str| {
        let config = EndpointConfig {
            health_path: path.map(str::to_owned),
            ..config(url)
        };
        assert_eq!(
            resolve(&config).health_route().target,
            target,
            "{url} {path:?}"
        );
    };
    check("http://h", None, "/v1/models");
    check("http://h/v1/chat/completions", None, "/v1/models");
    check("http://h/v1", Some("/health"), "/health");
    check("http://h/proxy/v1", Some("health"), "/proxy/health");
    check("http://h", Some("/health"), "/health");
    check(
        "https://r.openai.azure.com/openai/v1",
        None,
        "/openai/models?api-version=2025-01-01-preview",
    );
    check("https://r.openai.azure.com", Some("/status"), "/status");
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
        headers: [(name.to_owned(), value.to_owned())].into(),
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
        headers: [("x-token".to_owned(), "secret-header".to_owned())].into(),
        provider: Some(ProviderKind::Azure),
        ..config("http://me:secret-password@h/v1?key=secret-query")
    };
    let endpoint = resolve(&config);
    let route = endpoint.route(None, Some("m"));
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
    assert_eq!(groups, ["http://h/v1", "http://h/v1 #2", "org", "org"]);
}
