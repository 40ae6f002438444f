//! The Azure OpenAI dialect: deployment URLs (classic), the v1 API, keys and Entra words. Pure.
//!
//! Classic: `{resource}/openai/deployments/{deployment}/chat/completions?api-version=…`;
//! v1: `{resource}/openai/v1/chat/completions` with the deployment as the body's `model`.

use super::address::{
    below, encode_segment, has_parameter, join, merge_queries, parameter_name, path_and_query,
};
use super::credentials::EntraSource;
use super::dialect::Dialect;
use super::endpoint::Addressing;
use super::{ApiPath, Route};
use crate::config::Secret;

pub(super) static DIALECT: Dialect = Dialect {
    recognises: |path| path.contains("/openai/deployments"),
    addressing: |url, config| {
        Addressing::Azure(AzureAddress::new(
            url.path(),
            url.query(),
            &config.api_version,
        ))
    },
    chat_path: "/v1/chat/completions",
    chat: ApiPath::ChatCompletions,
    completions_path: Some("/v1/completions"),
    health_path: "/openai/models",
    key_header: "api-key",
    key_prefix: "",
    headers: &[],
    token_source: |api_key| match api_key {
        "default" => Some(EntraSource::Default),
        "az" => Some(EntraSource::AzureCli),
        "interactive" => Some(EntraSource::Interactive),
        _ => None,
    },
};

/// A configured Azure URL, cut into what it says and what it leaves open.
#[derive(Clone, Debug)]
pub(super) struct AzureAddress {
    /// What stands before `/openai`: empty, or a gateway's prefix.
    resource: String,
    api: Api,
    /// The whole path, if it ends in a known API path.
    full: Option<String>,
    /// The URL's query, which may hold a key.
    query: Option<Secret>,
    /// `api-version` of deployment URLs whose query gives none.
    api_version: String,
}

/// The part of Azure's API that the URL names.
#[derive(Clone, Debug, PartialEq)]
enum Api {
    /// `/openai/deployments/{deployment}`; `None`: the model is the deployment.
    Deployment(Option<String>),
    /// `/openai/v1`
    V1,
    /// Another prefix, such as `/models`: paths are joined to it as to any base.
    Literal(String),
}

impl AzureAddress {
    pub(super) fn new(path: &str, query: Option<&str>, api_version: &str) -> Self {
        let (prefix, path_api) = ApiPath::split(path);
        let is_full = path_api != ApiPath::Other;
        let (resource, api) = match cut_at_openai(prefix) {
            Some((resource, "" | "/deployments")) => (resource, Api::Deployment(None)),
            Some((resource, rest)) => (
                resource,
                match below(rest, "/deployments") {
                    Some(deployment) => Api::Deployment(Some(deployment[1..].to_owned())),
                    None if rest == "/v1" || below(rest, "/v1").is_some() => Api::V1,
                    None => Api::Literal(prefix.to_owned()),
                },
            ),
            None if is_full => (prefix, Api::Literal(prefix.to_owned())),
            None => (prefix, Api::Deployment(None)),
        };
        Self {
            resource: resource.to_owned(),
            api,
            full: is_full.then(|| path.to_owned()),
            query: query.filter(|query| !query.is_empty()).map(Secret::from),
            api_version: api_version.to_owned(),
        }
    }

    /// The route of a line; `model` names the deployment where the URL does not.
    pub(super) fn route(
        &self,
        line_url: Option<&str>,
        chat_path: &str,
        model: Option<&str>,
    ) -> Route {
        if let (None, Some(full)) = (line_url, &self.full) {
            return self.finish(full, None);
        }
        let (path, own_query) = path_and_query(line_url.unwrap_or(chat_path));
        if path.starts_with("/openai/") {
            return self.finish(&format!("{}{path}", self.resource), own_query);
        }
        // `/v1` belongs to OpenAI's own paths; below a deployment it does not exist.
        let operation = below(&path, "/v1").unwrap_or(&path);
        let path = match &self.api {
            Api::Literal(prefix) => join(prefix, &path),
            Api::Deployment(named) => match named
                .as_deref()
                .map(str::to_owned)
                .or_else(|| model.map(encode_segment))
            {
                // The Responses API exists only beside deployments, in v1.
                Some(deployment) if ApiPath::of(operation) != ApiPath::Responses => {
                    format!(
                        "{}/openai/deployments/{deployment}{operation}",
                        self.resource
                    )
                }
                // Without a model v1's own error tells best what is missing.
                _ => format!("{}/openai/v1{operation}", self.resource),
            },
            Api::V1 => format!("{}/openai/v1{operation}", self.resource),
        };
        self.finish(&path, own_query)
    }

    /// The GET that tells whether the resource answers.
    pub(super) fn health(&self, health_path: &str) -> Route {
        let (path, own_query) = path_and_query(health_path);
        let path = format!("{}{path}", self.resource);
        let query = merge_queries(self.query.as_ref().map(Secret::expose), own_query);
        self.versioned(&path, query)
    }

    /// `path` with the queries: classic paths get an `api-version`, v1 loses one meant for them.
    fn finish(&self, path: &str, own_query: Option<&str>) -> Route {
        let mut base = self.query.as_ref().map(|query| query.expose().to_owned());
        if !is_classic(path) && matches!(self.api, Api::Deployment(_)) {
            base = base
                .map(|query| without_version(&query))
                .filter(|query| !query.is_empty());
        }
        self.versioned(path, merge_queries(base.as_deref(), own_query))
    }

    fn versioned(&self, path: &str, query: Option<String>) -> Route {
        let query = match query {
            query if !is_classic(path) => query,
            Some(query) if has_parameter(&query, "api-version") => Some(query),
            Some(query) => Some(format!("{query}&api-version={}", self.api_version)),
            None => Some(format!("api-version={}", self.api_version)),
        };
        Route::new(path, query.as_deref())
    }
}

/// What stands before and after the first `/openai` segment.
fn cut_at_openai(prefix: &str) -> Option<(&str, &str)> {
    prefix
        .match_indices("/openai")
        .map(|(at, found)| (&prefix[..at], &prefix[at + found.len()..]))
        .find(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `path` lies below `/openai` but outside v1: such paths need an `api-version`.
fn is_classic(path: &str) -> bool {
    cut_at_openai(path).is_some_and(|(_, rest)| below(rest, "/v1").is_none())
}

fn without_version(query: &str) -> String {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| parameter_name(pair) != "api-version")
        .collect();
    kept.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target of a line whose configured or own model is `model`.
    fn target(path: &str, query: Option<&str>, line: Option<&str>, model: Option<&str>) -> String {
        AzureAddress::new(path, query, "2025-01-01-preview")
            .route(line, DIALECT.chat_path, model)
            .target
    }

    #[test]
    fn a_url_without_a_path_leads_to_the_models_deployment() {
        let check = |path: &str, line: Option<&str>, expect: &str| {
            assert_eq!(
                target(path, None, line, Some("m 1/x")),
                expect,
                "{path} {line:?}"
            );
        };
        const CHAT: &str =
            "/openai/deployments/m%201%2Fx/chat/completions?api-version=2025-01-01-preview";
        for path in [
            "/",
            "/openai",
            "/openai/",
            "/openai/deployments",
            "/openai/deployments/",
        ] {
            check(path, None, CHAT);
            // OpenAI's spelling, and Azure Batch's.
            check(path, Some("/v1/chat/completions"), CHAT);
            check(path, Some("/chat/completions"), CHAT);
        }
        check("/team", None, &format!("/team{CHAT}"));
        check(
            "/",
            Some("/v1/embeddings"),
            "/openai/deployments/m%201%2Fx/embeddings?api-version=2025-01-01-preview",
        );
        check("/", Some("/v1/responses"), "/openai/v1/responses");
        check(
            "/",
            Some("/openai/deployments/d/embeddings?api-version=2"),
            "/openai/deployments/d/embeddings?api-version=2",
        );
        assert_eq!(target("/", None, None, None), "/openai/v1/chat/completions");
    }

    #[test]
    fn a_deployment_in_the_url_counts_whatever_the_model() {
        let check = |path: &str, query: Option<&str>, line: Option<&str>, expect: &str| {
            assert_eq!(
                target(path, query, line, Some("m")),
                expect,
                "{path} {line:?}"
            );
        };
        const FULL: &str = "/openai/deployments/d/chat/completions";
        let versioned = format!("{FULL}?api-version=2025-01-01-preview");
        check("/openai/deployments/d", None, None, &versioned);
        check(
            "/openai/deployments/d/",
            None,
            Some("/v1/chat/completions"),
            &versioned,
        );
        check(FULL, None, None, &versioned);
        check(
            FULL,
            Some("api-version=9"),
            None,
            &format!("{FULL}?api-version=9"),
        );
        check(
            FULL,
            Some("x=1"),
            None,
            &format!("{FULL}?x=1&api-version=2025-01-01-preview"),
        );
        check(
            FULL,
            Some("api-version=9"),
            Some("/v1/embeddings"),
            "/openai/deployments/d/embeddings?api-version=9",
        );
        check(
            FULL,
            Some("api-version=9&x=1"),
            Some("/v1/responses"),
            "/openai/v1/responses?x=1",
        );
    }

    #[test]
    fn v1_and_other_prefixes_are_ordinary_bases() {
        let check = |path: &str, query: Option<&str>, line: Option<&str>, expect: &str| {
            assert_eq!(
                target(path, query, line, Some("m")),
                expect,
                "{path} {line:?}"
            );
        };
        check("/openai/v1", None, None, "/openai/v1/chat/completions");
        check(
            "/openai/v1/",
            None,
            Some("/v1/embeddings"),
            "/openai/v1/embeddings",
        );
        check(
            "/openai/v1",
            None,
            Some("/openai/v1/responses"),
            "/openai/v1/responses",
        );
        check(
            "/openai/v1/responses",
            Some("api-version=preview"),
            None,
            "/openai/v1/responses?api-version=preview",
        );
        check(
            "/models/chat/completions",
            Some("api-version=9"),
            None,
            "/models/chat/completions?api-version=9",
        );
        check(
            "/models/chat/completions",
            Some("api-version=9"),
            Some("/embeddings"),
            "/models/embeddings?api-version=9",
        );
    }
}
