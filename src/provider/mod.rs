//! Dialects: how an endpoint is addressed and what its answers mean. Pure.
//!
//! [`Endpoint`] is the door: it is resolved once from the config, tells where a line goes
//! ([`Endpoint::route`]), what its body and head need, and what an answer means
//! ([`Endpoint::classify`]). [`StreamAssembler`] turns an event stream into the JSON that the same
//! request would have returned without streaming. `docs/PROVIDERS.md` tells how to add a dialect.

mod address;
mod answer;
mod anthropic;
pub mod assemble;
mod azure;
mod called;
pub mod cost;
mod credentials;
mod dialect;
mod endpoint;
pub mod entra;
pub mod no_answer;
mod openai;
mod redactor;
pub mod text;
mod usage;
mod vendor_codes;
mod verdict;

pub use assemble::{StreamAssembler, StreamError};
pub use credentials::{Authorization, EntraSource};
pub use endpoint::{Endpoint, EndpointError, EndpointProblem};
pub use redactor::Redactor;
pub use usage::usage_of;
pub use verdict::{Effect, Refusal, Verdict};

use std::fmt;

use crate::config::ProviderKind;
use dialect::Dialect;

/// Finds the dialect of a provider. A new one is its file, named here, and an entry in
/// `config/provider_kind.rs`.
macro_rules! dialects {
    ($($file:ident: $kind:ident,)+) => {
        /// The dialect of a provider.
        fn dialect_of(provider: ProviderKind) -> &'static Dialect {
            match provider {
                $(ProviderKind::$kind => &$file::DIALECT,)+
            }
        }
    };
}

dialects! {
    openai: OpenAi,
    azure: Azure,
    anthropic: Anthropic,
}

/// The API a path belongs to; it decides the shape of bodies and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiPath {
    /// `…/chat/completions`
    ChatCompletions,
    /// `…/completions`, OpenAI's first API
    Completions,
    /// `…/embeddings`
    Embeddings,
    /// `…/responses`
    Responses,
    /// `…/messages`, Anthropic
    Messages,
    /// Any other path: bodies pass with as little done to them as possible.
    Other,
}

impl ApiPath {
    /// The known API paths. `/chat/completions` stands before its own ending `/completions`.
    const KNOWN: [(&'static str, Self); 5] = [
        ("/chat/completions", Self::ChatCompletions),
        ("/completions", Self::Completions),
        ("/embeddings", Self::Embeddings),
        ("/responses", Self::Responses),
        ("/messages", Self::Messages),
    ];

    /// The API that `path` (no query) ends in.
    pub fn of(path: &str) -> Self {
        Self::split(path).1
    }

    /// The field that limits the tokens of a completion; embeddings and unknown APIs have none.
    pub fn max_tokens_field(self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions => Some("max_completion_tokens"),
            Self::Completions | Self::Messages => Some("max_tokens"),
            Self::Responses => Some("max_output_tokens"),
            Self::Embeddings | Self::Other => None,
        }
    }

    /// `path` without its API path and trailing slashes, and the API.
    fn split(path: &str) -> (&str, Self) {
        let path = path.trim_end_matches('/');
        Self::KNOWN
            .into_iter()
            .find_map(|(suffix, api)| Some((path.strip_suffix(suffix)?.trim_end_matches('/'), api)))
            .unwrap_or((path, Self::Other))
    }
}

/// Where one request goes on its endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Route {
    /// Request target: path and query, only bytes that may stand on a request line.
    pub target: String,
    /// The API the path belongs to.
    pub path: ApiPath,
}

impl Route {
    /// A route to `path`; `api` follows from the path's ending.
    fn new(path: &str, query: Option<&str>) -> Self {
        let mut target = address::encode(path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(&address::encode(query));
        }
        Self {
            target,
            path: ApiPath::of(path),
        }
    }
}

impl fmt::Debug for Route {
    /// Without the query, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        f.debug_struct("Route")
            .field("target", &path)
            .field("path", &self.path)
            .finish()
    }
}
