//! The providers, as far as a configuration knows them: one entry each, all in one table. What sets
//! their dialects apart is in `provider/`. Pure.

use std::fmt;
use std::str::FromStr;

use super::scalar::Expected;

/// Headers in which one dialect or another carries its key, in lower case.
pub const KEY_HEADERS: &[&str] = &["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// What the checks of a configuration need to know of a provider.
struct Facts {
    /// An endpoint at one of these domains, or below, speaks this dialect.
    domains: &'static [&'static str],
    /// Headers that carry this dialect's key, in lower case.
    key_headers: &'static [&'static str],
    /// Where requests without a key are refused.
    needs_key: Keyed,
}

/// Where a provider asks for a key.
enum Keyed {
    /// Wherever its dialect is spoken.
    Everywhere,
    /// At this host. Servers of one's own usually take none.
    At(&'static str),
}

/// Declares [`ProviderKind`]. The first provider is the one that any server is taken for which no other
/// claims.
macro_rules! providers {
    (
        $(#[$first_doc:meta])* $first:ident = $first_name:literal => $first_facts:expr,
        $($(#[$doc:meta])* $kind:ident = $name:literal => $facts:expr,)+
    ) => {
        /// The dialect an endpoint speaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProviderKind {
            $(#[$first_doc])* $first,
            $($(#[$doc])* $kind,)+
        }

        const NAMES: Expected = Expected(concat!($first_name, $(", ", $name),+));

        impl ProviderKind {
            /// All there are; the first is the fallback.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$kind),+];

            /// The name in configuration files.
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_name,
                    $(Self::$kind => $name,)+
                }
            }

            const fn facts(self) -> &'static Facts {
                match self {
                    Self::$first => const { &$first_facts },
                    $(Self::$kind => const { &$facts },)+
                }
            }
        }
    };
}

providers! {
    /// OpenAI, or any server compatible with it.
    OpenAi = "openai" => Facts {
        domains: &["api.openai.com"],
        key_headers: &["authorization"],
        needs_key: Keyed::At("api.openai.com"),
    },
    /// Azure OpenAI, classic deployment URLs and v1.
    Azure = "azure" => Facts {
        domains: &[
            "openai.azure.com",
            "cognitiveservices.azure.com",
            "services.ai.azure.com",
            "openai.azure.us",
            "cognitiveservices.azure.us",
            "services.ai.azure.us",
            "openai.azure.cn",
            "cognitiveservices.azure.cn",
            "services.ai.azure.cn",
        ],
        key_headers: &["api-key", "authorization"],
        needs_key: Keyed::Everywhere,
    },
    /// Anthropic Messages.
    Anthropic = "anthropic" => Facts {
        domains: &["anthropic.com"],
        key_headers: &["x-api-key", "authorization"],
        needs_key: Keyed::Everywhere,
    },
}

impl ProviderKind {
    /// The dialect spoken at `host` when the configuration names none.
    pub fn from_host(host: &str) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let claims = |kind: &&Self| {
            let domains = kind.facts().domains;
            domains.iter().any(|domain| is_within(&host, domain))
        };
        *Self::ALL.iter().find(claims).unwrap_or(&Self::ALL[0])
    }

    /// Whether requests to `host` are refused without a key.
    pub(super) fn needs_key(self, host: &str) -> bool {
        match self.facts().needs_key {
            Keyed::Everywhere => true,
            Keyed::At(keyed) => host == keyed,
        }
    }

    /// The headers that carry this dialect's key, lower-case.
    pub(super) fn key_headers(self) -> &'static [&'static str] {
        self.facts().key_headers
    }
}

/// Whether `host` is `domain` or lies below it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ProviderKind {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim().to_ascii_lowercase();
        let named = Self::ALL.iter().find(|kind| kind.as_str() == text);
        named.copied().ok_or(NAMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_follows_the_host() {
        for (host, expect) in [
            ("api.openai.com", ProviderKind::OpenAi),
            ("localhost", ProviderKind::OpenAi),
            ("res.openai.azure.com", ProviderKind::Azure),
            ("RES.OpenAI.Azure.com.", ProviderKind::Azure),
            ("res.cognitiveservices.azure.com", ProviderKind::Azure),
            ("res.services.ai.azure.com", ProviderKind::Azure),
            ("openai.azure.com.evil.example", ProviderKind::OpenAi),
            ("notopenai.azure.com", ProviderKind::OpenAi),
            ("api.anthropic.com", ProviderKind::Anthropic),
            ("api.anthropic.com.evil.example", ProviderKind::OpenAi),
            ("res.openai.azure.us", ProviderKind::Azure),
        ] {
            assert_eq!(ProviderKind::from_host(host), expect, "{host}");
        }
    }
}
