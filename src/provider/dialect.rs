//! What sets one dialect apart, as data: one value per dialect, each in its own file. Pure.

use url::Url;

use super::ApiPath;
use super::address::Address;
use super::credentials::EntraSource;
use super::endpoint::Addressing;
use crate::config::{EndpointConfig, ProviderKind};

/// One provider's way to be addressed.
pub(super) struct Dialect {
    /// Whether a path that only this dialect has says that a URL speaks it, on any host.
    pub recognises: fn(path: &str) -> bool,
    /// How its URLs are put together; most join a line's path to the base.
    pub addressing: fn(url: &Url, config: &EndpointConfig) -> Addressing,
    /// Joined to a base URL when neither line nor config names a path.
    pub chat_path: &'static str,
    /// The API of `chat_path`.
    pub chat: ApiPath,
    /// Joined to a base URL for a body with a `prompt` and no `messages`; `None` where no such API is.
    pub completions_path: Option<&'static str>,
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

/// The provider a URL speaks for itself: by its path, where that tells, else by its host. Any server that
/// is not known otherwise is taken for OpenAI-compatible.
pub(super) fn recognise(host: &str, path: &str) -> ProviderKind {
    // The first is what remains, and so is never asked.
    let mut others = ProviderKind::ALL[1..].iter().copied();
    others
        .find(|provider| (super::dialect_of(*provider).recognises)(path))
        .unwrap_or_else(|| ProviderKind::from_host(host))
}

/// Addressing of most dialects: the line's path is joined to the base.
pub(super) fn joined(url: &Url, _: &EndpointConfig) -> Addressing {
    Addressing::Joined(Address::new(url.path(), url.query()))
}
