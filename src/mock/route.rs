//! Which API a target names. Any prefix before the API's path is accepted. Pure.

/// The APIs that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Completions,
    Embeddings,
    Responses,
    /// Anthropic Messages.
    Messages,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'t> {
    /// The name of an Azure deployment stands for a model.
    Api {
        api: Api,
        deployment: Option<&'t str>,
    },
    Models,
    Health,
    Stats,
    /// An Azure deployment without `api-version`, which Azure answers like an unknown path.
    Unknown,
}

/// The APIs by the end of their path, longest first.
const APIS: [(&str, Api); 5] = [
    ("/chat/completions", Api::Chat),
    ("/completions", Api::Completions),
    ("/embeddings", Api::Embeddings),
    ("/responses", Api::Responses),
    ("/messages", Api::Messages),
];

/// Splits a target into path and query, and finds its route.
pub(super) fn route(target: &str) -> Route<'_> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    for (end, api) in APIS {
        let Some(prefix) = path.strip_suffix(end) else {
            continue;
        };
        let Some((_, deployment)) = prefix.rsplit_once("/openai/deployments/") else {
            return Route::Api {
                api,
                deployment: None,
            };
        };
        let versioned = query
            .split('&')
            .any(|pair| pair.starts_with("api-version=") && pair.len() > 12);
        return if versioned && !deployment.is_empty() && !deployment.contains('/') {
            Route::Api {
                api,
                deployment: Some(deployment),
            }
        } else {
            Route::Unknown
        };
    }
    match path.rsplit_once('/').map(|(_, last)| last) {
        Some("models") => Route::Models,
        Some("health") => Route::Health,
        Some("stats") => Route::Stats,
        _ => Route::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let api = |api| Route::Api {
            api,
            deployment: None,
        };
        let azure = |api, name| Route::Api {
            api,
            deployment: Some(name),
        };
        for (target, expect) in [
            ("/v1/chat/completions", api(Api::Chat)),
            ("/any/prefix/v1/chat/completions?x=1", api(Api::Chat)),
            ("/v1/completions", api(Api::Completions)),
            ("/v1/embeddings", api(Api::Embeddings)),
            ("/v1/responses", api(Api::Responses)),
            ("/v1/messages", api(Api::Messages)),
            ("/openai/v1/chat/completions", api(Api::Chat)),
            (
                "/openai/deployments/gpt-4o/chat/completions?api-version=2025-01-01-preview",
                azure(Api::Chat, "gpt-4o"),
            ),
            (
                "/p/openai/deployments/e/embeddings?a=b&api-version=1",
                azure(Api::Embeddings, "e"),
            ),
            (
                "/openai/deployments/gpt-4o/chat/completions",
                Route::Unknown,
            ),
            (
                "/openai/deployments/gpt-4o/chat/completions?api-version=",
                Route::Unknown,
            ),
            (
                "/openai/deployments//chat/completions?api-version=1",
                Route::Unknown,
            ),
            ("/v1/models", Route::Models),
            ("/health", Route::Health),
            ("/stats?pretty", Route::Stats),
            ("/v1/chat/completions/", Route::Unknown),
            ("/", Route::Unknown),
            ("*", Route::Unknown),
        ] {
            assert_eq!(route(target), expect, "{target}");
        }
    }
}
