//! Addresses: a configured URL and a line's own path become a request target. Pure.
//!
//! The rules, with examples, are in docs/PROVIDERS.md: a URL that ends in a known API path is used as it is, any other
//! is a base; a line's own path replaces the API path; a version on both sides is written once.

use std::fmt::Write as _;

use super::{ApiPath, Route};
use crate::config::Secret;

/// A configured URL, cut where API paths are joined to it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// What stands before the API path: empty, or with a leading and no trailing slash.
    prefix: String,
    /// The whole path, if it ends in a known API path.
    full: Option<String>,
    /// The URL's query, which may hold a key.
    query: Option<Secret>,
}

impl Address {
    pub(super) fn new(path: &str, query: Option<&str>) -> Self {
        let (prefix, api) = ApiPath::split(path);
        Self {
            prefix: prefix.to_owned(),
            full: (api != ApiPath::Other).then(|| path.to_owned()),
            query: query.filter(|query| !query.is_empty()).map(Secret::from),
        }
    }

    /// The route of a line: its own URL, else the configured one, else the base with `chat_path`.
    pub(super) fn route(&self, line_url: Option<&str>, chat_path: &str, chat: ApiPath) -> Route {
        let base_query = self.query.as_ref().map(Secret::expose);
        match (line_url, &self.full) {
            (None, Some(full)) => Route::new(full, base_query),
            (None, None) => {
                let mut route = self.joined(chat_path);
                // A chat path of the user's own, such as `/api/chat`, is still the chat API.
                if route.path == ApiPath::Other {
                    route.path = chat;
                }
                route
            }
            (Some(url), _) => self.joined(url),
        }
    }

    /// The base with `url`'s path and query.
    pub(super) fn joined(&self, url: &str) -> Route {
        let (path, query) = path_and_query(url);
        let query = merge_queries(self.query.as_ref().map(Secret::expose), query);
        Route::new(&join(&self.prefix, &path), query.as_deref())
    }

    /// The base above its version with `health_path`: `/health` stands beside `/v1`, not in it.
    pub(super) fn health(&self, health_path: &str) -> Route {
        let above = match self.prefix.rsplit_once('/') {
            Some((above, last)) if is_version(last) && !health_path.starts_with("/v1/") => above,
            _ => &self.prefix,
        };
        let (path, query) = path_and_query(health_path);
        let query = merge_queries(self.query.as_ref().map(Secret::expose), query);
        Route::new(&join(above, &path), query.as_deref())
    }
}

/// `prefix` + `path`, with what stands on both sides written once: the whole prefix, or `/v1`
/// below a base that has a version of its own (`/v1`, `/api/v3`, `/v1beta/openai`).
pub(super) fn join(prefix: &str, path: &str) -> String {
    if !prefix.is_empty() && below(path, prefix).is_some() {
        return path.to_owned();
    }
    match below(path, "/v1") {
        Some(rest) if has_version(prefix) => format!("{prefix}{rest}"),
        _ => format!("{prefix}{path}"),
    }
}

/// What of `path` lies below `prefix`, if anything: whole segments only.
pub(super) fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.starts_with('/'))
}

/// Whether the base's last segment is a version, or stands right below one as Google's `openai`.
fn has_version(prefix: &str) -> bool {
    let base = prefix.strip_suffix("/openai").unwrap_or(prefix);
    base.rsplit('/').next().is_some_and(is_version)
}

/// `v1`, `v4`, `v1beta`.
fn is_version(segment: &str) -> bool {
    let mut letters = segment.chars();
    letters.next() == Some('v')
        && letters.next().is_some_and(|letter| letter.is_ascii_digit())
        && letters.all(|letter| letter.is_ascii_alphanumeric())
}

/// Path (with a leading slash) and query of a line's URL. Of an absolute URL only these count: a
/// line chooses the API, the config alone chooses the server that sees the key.
pub(super) fn path_and_query(url: &str) -> (String, Option<&str>) {
    let url = url.split('#').next().unwrap_or_default();
    let url = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest.find(['/', '?']).map_or("", |at| &rest[at..]),
        _ => url,
    };
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, Some(query).filter(|query| !query.is_empty())),
        None => (url, None),
    };
    (format!("/{}", path.trim_start_matches('/')), query)
}

/// Both queries; of a parameter given in both, the line's own counts.
pub(super) fn merge_queries(base: Option<&str>, own: Option<&str>) -> Option<String> {
    let own_has = |name: &str| own.is_some_and(|own| has_parameter(own, name));
    let kept = base
        .into_iter()
        .flat_map(|base| base.split('&'))
        .filter(|pair| !own_has(parameter_name(pair)));
    let merged: Vec<&str> = kept.chain(own).collect();
    (!merged.is_empty()).then(|| merged.join("&"))
}

/// Whether `query` gives `name`.
pub(super) fn has_parameter(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| parameter_name(pair) == name)
}

/// The name of one `name=value`.
pub(super) fn parameter_name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// `text` with every byte escaped that may not stand in a request target (RFC 3986, appendix A).
/// `%` is kept: what is escaped already stays as it is.
pub(super) fn encode(text: &str) -> String {
    escape(text, |byte| {
        byte.is_ascii_graphic() && !br##""#<>\^`{|}"##.contains(&byte)
    })
}

/// `text` as one path segment: only unreserved characters stay.
pub(super) fn encode_segment(text: &str) -> String {
    escape(text, |byte| {
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
    })
}

fn escape(text: &str, keep: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keep(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_and_a_path_are_joined_with_the_version_once() {
        let check = |prefix: &str, path: &str, expect: &str| {
            assert_eq!(join(prefix, path), expect, "{prefix} + {path}");
        };
        check("", "/v1/chat/completions", "/v1/chat/completions");
        check("/v1", "/v1/chat/completions", "/v1/chat/completions");
        check("/v1", "/chat/completions", "/v1/chat/completions");
        check("/v10", "/v1/embeddings", "/v10/embeddings");
        check("/openai/v1", "/v1/embeddings", "/openai/v1/embeddings");
        check(
            "/openai/v1",
            "/openai/v1/embeddings",
            "/openai/v1/embeddings",
        );
        check("/proxy", "/v1/embeddings", "/proxy/v1/embeddings");
        check("/proxy/v1", "/v1/embeddings", "/proxy/v1/embeddings");
        check("/v1/proxy", "/v1/embeddings", "/v1/proxy/v1/embeddings");
        check(
            "/api/paas/v4",
            "/v1/chat/completions",
            "/api/paas/v4/chat/completions",
        );
        check(
            "/v1beta/openai",
            "/v1/chat/completions",
            "/v1beta/openai/chat/completions",
        );
        check(
            "/openai",
            "/v1/chat/completions",
            "/openai/v1/chat/completions",
        );
        check("/v1", "/v1beta/x", "/v1/v1beta/x");
        check("/vault", "/v1/x", "/vault/v1/x");
    }

    #[test]
    fn a_line_chooses_path_and_query_only() {
        let check = |url: &str, path: &str, query: Option<&str>| {
            assert_eq!(path_and_query(url), (path.to_owned(), query), "{url}");
        };
        check("/v1/x", "/v1/x", None);
        check("v1/x", "/v1/x", None);
        check("//v1/x", "/v1/x", None);
        check("/v1/x?a=1&b=/?", "/v1/x", Some("a=1&b=/?"));
        check("/v1/x?", "/v1/x", None);
        check("/v1/x?a=1#top", "/v1/x", Some("a=1"));
        check("https://evil.example/v1/x?a=1", "/v1/x", Some("a=1"));
        check("https://evil.example?a=1", "/", Some("a=1"));
        check("https://evil.example", "/", None);
    }

    #[test]
    fn queries_are_merged_and_the_lines_own_counts() {
        let check = |base: Option<&str>, own: Option<&str>, expect: Option<&str>| {
            assert_eq!(
                merge_queries(base, own).as_deref(),
                expect,
                "{base:?} + {own:?}"
            );
        };
        check(None, None, None);
        check(Some("a=1"), None, Some("a=1"));
        check(None, Some("b=2"), Some("b=2"));
        check(Some("a=1"), Some("b=2"), Some("a=1&b=2"));
        check(Some("a=1&c=3"), Some("a=2"), Some("c=3&a=2"));
    }

    #[test]
    fn a_target_holds_only_what_may_stand_on_a_request_line() {
        assert_eq!(
            encode("/a b\r\nHost: x/é%20|"),
            "/a%20b%0D%0AHost:%20x/%C3%A9%20%7C"
        );
        assert_eq!(encode_segment("my model/1?%"), "my%20model%2F1%3F%25");
    }
}
