//! What an endpoint's configuration says about itself: label, provider, a `Debug` without secrets. Pure.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use super::{Config, EndpointConfig, ProviderKind, Secret};

/// Prints in place of a secret.
const REDACTED: &str = "***";

impl EndpointConfig {
    /// How a message calls this endpoint: its name, else its host. Several may be called alike, see
    /// [`Config::endpoint_names`].
    pub fn label(&self) -> String {
        let host = || self.host().unwrap_or_default();
        let label = self.name.clone().unwrap_or_else(host);
        match label.is_empty() {
            // It is no URL, which validation tells.
            true => without_credentials_and_query(&self.url),
            false => label,
        }
    }

    /// The host of `url`, lower-case; `None` where the URL has none or is no URL.
    pub fn host(&self) -> Option<String> {
        Url::parse(&self.url).ok()?.host_str().map(str::to_owned)
    }

    /// `provider`, else what the host says.
    pub fn provider_or_host(&self) -> ProviderKind {
        self.provider
            .unwrap_or_else(|| ProviderKind::from_host(&self.host().unwrap_or_default()))
    }

    /// Whether one of `headers` is called `name`, in any case.
    pub(super) fn has_header(&self, name: &str) -> bool {
        self.headers
            .keys()
            .any(|header| header.eq_ignore_ascii_case(name))
    }

    /// Drops what stands around keys but is no part of them, such as the line end of a mounted secret. A
    /// key of nothing else is none.
    pub(super) fn trim_keys(&mut self) {
        let around = |letter: char| letter.is_whitespace() || letter == '\u{feff}';
        if let Some(key) = self.api_key.take().map(Zeroizing::new) {
            let key = key.trim_matches(around);
            self.api_key = (!key.is_empty()).then(|| key.to_owned());
        }
        for value in self.headers.values_mut() {
            let trimmed = value.expose().trim_matches(around);
            if trimmed.len() < value.expose().len() {
                *value = Secret::from(trimmed);
            }
        }
    }

    /// Turns `https://user:password@host` into `https://host` and an `authorization: Basic …`
    /// header (RFC 7617), as curl does. Left alone, for validation to refuse, beside another key.
    pub(super) fn move_credentials_to_header(&mut self) {
        let Ok(mut url) = Url::parse(&self.url) else {
            return;
        };
        let given = !url.username().is_empty() || url.password().is_some();
        if !given || self.api_key.is_some() || self.has_header("authorization") {
            return;
        }
        let password = Zeroizing::new(percent_decoded(url.password().unwrap_or_default()));
        let user = percent_decoded(url.username());
        let credentials = Zeroizing::new([user.as_slice(), b":", &password].concat());
        // Both fail only for URLs without a host, which have no credentials either.
        if url.set_username("").is_ok() && url.set_password(None).is_ok() {
            let encoded = Zeroizing::new(BASE64.encode(&*credentials));
            let value = Secret::from(format!("Basic {}", &*encoded));
            self.headers.insert("authorization".to_owned(), value);
            self.url = url.into();
        }
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            url,
            provider,
            api_key,
            model,
            override_model,
            api_version,
            temperature,
            max_completion_tokens,
            weight,
            max_concurrent,
            rpm_limit,
            tpm_limit,
            quota_group,
            headers,
            health_path,
            chat_path,
            http2,
        } = self;
        let mut shown_url = without_credentials_and_query(url);
        if url.contains('?') {
            shown_url.push('?');
            shown_url.push_str(REDACTED);
        }
        f.debug_struct("EndpointConfig")
            .field("name", name)
            .field("url", &shown_url)
            .field("provider", provider)
            .field("api_key", &api_key.as_ref().map(|_| Secret::from("")))
            .field("model", model)
            .field("override_model", override_model)
            .field("api_version", api_version)
            .field("temperature", temperature)
            .field("max_completion_tokens", max_completion_tokens)
            .field("weight", weight)
            .field("max_concurrent", max_concurrent)
            .field("rpm_limit", rpm_limit)
            .field("tpm_limit", tpm_limit)
            .field("quota_group", quota_group)
            .field("headers", headers)
            .field("health_path", health_path)
            .field("chat_path", chat_path)
            .field("http2", http2)
            .finish()
    }
}

impl Config {
    /// What records, summary and metrics call the endpoints, in their order: by name, else by host; where
    /// that is taken, by host and a number, as `api.openai.com#2`. No two are alike if no two names are.
    pub fn endpoint_names(endpoints: &[EndpointConfig]) -> Vec<String> {
        let given = endpoints
            .iter()
            .filter_map(|endpoint| endpoint.name.clone());
        let mut taken: BTreeSet<String> = given.collect();
        let name = |endpoint: &EndpointConfig| {
            if let Some(name) = &endpoint.name {
                return name.clone();
            }
            let host = endpoint.label();
            let numbered = (2_usize..).map(|number| format!("{host}#{number}"));
            let name = std::iter::once(host.clone())
                .chain(numbered)
                .find(|name| !taken.contains(name))
                // There are more numbers than endpoints.
                .unwrap_or(host);
            taken.insert(name.clone());
            name
        };
        endpoints.iter().map(name).collect()
    }

    /// Wipes the endpoints' keys, when whoever sends them has them as [`Secret`]s.
    pub fn forget_keys(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.api_key.zeroize();
        }
    }

    /// Every PEM file whose certificates are trusted besides webpki-roots.
    pub fn ca_files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.ca_file
            .iter()
            .chain(&self.ssl_cert_file)
            .map(AsRef::as_ref)
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *first == b'%');
        let byte = escape
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// Works on the text, not on a parsed URL: it must hide credentials in what is no valid URL too,
/// and it keeps the user's spelling.
pub(super) fn without_credentials_and_query(url: &str) -> String {
    let kept = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = kept
        .split_once(':')
        .filter(|(_, rest)| rest.starts_with("//"))
    else {
        // Without `//` nobody can say where an authority ends.
        return kept.rsplit('@').next().unwrap_or_default().to_owned();
    };
    // The URL standard skips any number of slashes before the authority, and takes `\` for `/`.
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority_end = rest.find(['/', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_provider_beats_the_host() {
        let mut endpoint = EndpointConfig {
            url: "https://r.openai.azure.com".into(),
            ..Default::default()
        };
        assert_eq!(endpoint.provider_or_host(), ProviderKind::Azure);
        endpoint.provider = Some(ProviderKind::OpenAi);
        assert_eq!(endpoint.provider_or_host(), ProviderKind::OpenAi);
    }

    #[test]
    fn labels_are_hosts_and_hide_what_may_be_secret() {
        for (url, expect) in [
            ("https://h/v1", "h"),
            ("https://u:p@h:8080/v1?key=k#f", "h"),
            ("https://u:p@w@H/v1", "h"),
            ("https://[::1]:8080/v1", "[::1]"),
            ("https://u:p@h:port/v1?key=k#f", "https://h:port/v1"),
            ("https://u:p@w@h h/v1", "https://h h/v1"),
            ("https:////u:p@h h/v1", "https://h h/v1"),
            ("https:u:p@h h/v1", "h h/v1"),
            ("u:p@h", "h"),
            ("https://u:p@", "https://"),
            ("", ""),
        ] {
            let endpoint = EndpointConfig {
                url: url.into(),
                ..Default::default()
            };
            assert_eq!(endpoint.label(), expect, "{url}");
        }
        let named = EndpointConfig {
            name: Some("a".into()),
            ..Default::default()
        };
        assert_eq!(named.label(), "a");
    }

    #[test]
    fn endpoints_without_a_name_are_called_by_host_and_numbered() {
        let check = |endpoints: &[(&str, &str)], expect: &[&str]| {
            let endpoints: Vec<_> = endpoints
                .iter()
                .map(|&(name, url)| EndpointConfig {
                    name: (!name.is_empty()).then(|| name.to_owned()),
                    url: url.to_owned(),
                    ..Default::default()
                })
                .collect();
            assert_eq!(Config::endpoint_names(&endpoints), expect);
        };
        const OPENAI: &str = "https://api.openai.com/v1";
        check(&[], &[]);
        check(&[("", OPENAI)], &["api.openai.com"]);
        check(
            &[
                ("", OPENAI),
                ("", "http://h:1"),
                ("", OPENAI),
                ("", "http://h:2/v1"),
                ("", OPENAI),
            ],
            &[
                "api.openai.com",
                "h",
                "api.openai.com#2",
                "h#2",
                "api.openai.com#3",
            ],
        );
        // A name that somebody gave is not taken from him, wherever it stands.
        check(
            &[
                ("", "http://h"),
                ("", "http://h"),
                ("h#2", OPENAI),
                ("h", OPENAI),
            ],
            &["h#3", "h#4", "h#2", "h"],
        );
    }

    #[test]
    fn credentials_in_the_url_become_a_header() {
        for (url, kept, header) in [
            (
                "https://u:p%40ss@h/v1?q=1",
                "https://h/v1?q=1",
                "Basic dTpwQHNz",
            ),
            ("http://u@h:81", "http://h:81/", "Basic dTo="),
            ("https://u%zz:p@h/", "https://h/", "Basic dSV6ejpw"),
        ] {
            let mut endpoint = EndpointConfig {
                url: url.into(),
                ..Default::default()
            };
            endpoint.move_credentials_to_header();
            assert_eq!(endpoint.url, kept);
            let value = endpoint.headers["authorization"].expose();
            assert_eq!(value, header, "{url}");
        }
        let mut keyed = EndpointConfig {
            url: "https://u:p@h/".into(),
            api_key: Some("k".into()),
            ..Default::default()
        };
        keyed.move_credentials_to_header();
        assert_eq!(
            (keyed.url.as_str(), keyed.headers.len()),
            ("https://u:p@h/", 0)
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let endpoint = EndpointConfig {
            url: "https://user:hunter2@host/v1?key=hunter2".into(),
            api_key: Some("hunter2".into()),
            // Whether a value is a secret nobody can tell by its header's name.
            headers: ["Authorization", "x-team"]
                .map(|name| (name.to_owned(), "hunter2".into()))
                .into(),
            ..Default::default()
        };
        let config = Config {
            endpoints: vec![endpoint],
            ..Default::default()
        };
        let shown = format!("{config:?} {config:#?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains("user"), "{shown}");
        assert!(shown.contains("https://host/v1?***"), "{shown}");
        assert!(shown.contains("x-team"), "{shown}");
    }
}
