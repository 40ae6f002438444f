//! What sets one dialect apart, as data: one value per dialect, each in its own file. Pure.

use super::credentials::EntraSource;
use super::{ApiPath, anthropic, azure, openai};
use crate::config::ProviderKind;

/// One provider's way to be addressed.
pub(super) struct Dialect {
    /// Whether a URL without a configured provider speaks this dialect.
    pub recognises: fn(host: &str, path: &str) -> bool,
    /// Joined to a base URL when neither line nor config names a path.
    pub chat_path: &'static str,
    /// The API of `chat_path`.
    pub chat: ApiPath,
    /// A cheap GET that a healthy endpoint answers with 200.
    pub health_path: &'static str,
    /// Header that carries the key, in lower case.
    pub key_header: &'static str,
    /// What stands before the key in that header.
    pub key_prefix: &'static str,
    /// Headers every request of this dialect needs.
    pub headers: &'static [(&'static str, &'static str)],
    /// The `api_key` values that name a source of tokens and are no key.
    pub token_source: fn(api_key: &str) -> Option<EntraSource>,
}

/// The dialect of a provider.
pub(super) fn of(provider: ProviderKind) -> &'static Dialect {
    match provider {
        ProviderKind::OpenAi => &openai::DIALECT,
        ProviderKind::Azure => &azure::DIALECT,
        ProviderKind::Anthropic => &anthropic::DIALECT,
    }
}

/// The provider a URL speaks for itself; any server that is not known otherwise is taken for
/// OpenAI-compatible.
pub(super) fn recognise(host: &str, path: &str) -> ProviderKind {
    [ProviderKind::Anthropic, ProviderKind::Azure]
        .into_iter()
        .find(|provider| (of(*provider).recognises)(host, path))
        .unwrap_or(ProviderKind::OpenAi)
}

/// Whether `host` is `domain` or lies below it.
pub(super) fn within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
}
