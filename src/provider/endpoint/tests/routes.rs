//! Where requests go: origins, providers, paths.

use super::*;

#[test]
fn an_openai_url_is_a_base_or_complete() {
    use ApiPath::*;
    let check = |url: &str, line: Option<&str>, target: &str, path: ApiPath| {
        let route = resolve(&config(url)).route(line, None, false);
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
        let route = resolve(&config).route(line, None, false);
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
fn the_configured_model_names_azures_deployment_before_the_bodys() {
    let check = |model: Option<&str>, body_model: Option<&str>, target: &str| {
        let config = EndpointConfig {
            model: model.map(str::to_owned),
            api_version: "1".to_owned(),
            ..config("https://r.openai.azure.com")
        };
        let route = resolve(&config).route(None, body_model, false);
        assert_eq!(
            (route.target.as_str(), route.path),
            (target, ApiPath::ChatCompletions)
        );
    };
    check(
        Some("a"),
        Some("b"),
        "/openai/deployments/a/chat/completions?api-version=1",
    );
    check(
        None,
        Some("b"),
        "/openai/deployments/b/chat/completions?api-version=1",
    );
    check(None, None, "/openai/v1/chat/completions");
}

#[test]
fn anthropic_speaks_messages() {
    let check = |url: &str, line: Option<&str>, target: &str| {
        let endpoint = resolve(&config(url));
        assert_eq!(endpoint.provider, ProviderKind::Anthropic, "{url}");
        let route = endpoint.route(line, None, false);
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
fn a_prompt_without_messages_goes_to_completions_on_a_base() {
    let check = |config: &EndpointConfig, line: Option<&str>, target: &str| {
        let endpoint = resolve(config);
        let route = endpoint.route(line, Some("m"), true);
        assert_eq!(route.target, target, "{} {line:?}", config.url);
    };
    for (url, target) in [
        ("http://h", "/v1/completions"),
        ("http://h/v1", "/v1/completions"),
        ("http://h/v1/", "/v1/completions"),
        ("http://h/openai/v1?key=1", "/openai/v1/completions?key=1"),
        ("http://h/api/v3", "/api/v3/completions"),
        // Complete: used as it is.
        ("http://h/v1/chat/completions", "/v1/chat/completions"),
        ("http://h/v1/completions", "/v1/completions"),
        // There is no such API.
        ("https://api.anthropic.com", "/v1/messages"),
        (
            "https://r.openai.azure.com",
            "/openai/deployments/m/completions?api-version=2025-01-01-preview",
        ),
        (
            "https://r.openai.azure.com/openai/v1",
            "/openai/v1/completions",
        ),
    ] {
        check(&config(url), None, target);
    }
    // What the line or the configuration names counts.
    check(
        &config("http://h/v1"),
        Some("/v1/embeddings"),
        "/v1/embeddings",
    );
    for (chat_path, target) in [
        ("/api/v2/chat/completions", "/api/v2/completions"),
        ("/chat/completions?x=1", "/completions?x=1"),
        ("/api/chat", "/v1/completions"),
    ] {
        let config = EndpointConfig {
            chat_path: Some(chat_path.into()),
            ..config("http://h")
        };
        check(&config, None, target);
    }
    let completions = resolve(&config("http://h/v1")).route(None, None, true);
    assert_eq!(completions.path, ApiPath::Completions);
}
