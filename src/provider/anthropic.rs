//! The Anthropic dialect: the Messages API. Pure.

use super::ApiPath;
use super::dialect::{Dialect, joined};

pub(super) static DIALECT: Dialect = Dialect {
    // Claude also answers on other hosts (`…services.ai.azure.com/anthropic/v1/messages`,
    // gateways), always below this path, which no other provider has.
    recognises: |path| path.trim_end_matches('/').ends_with("/v1/messages"),
    addressing: joined,
    chat_path: "/v1/messages",
    chat: ApiPath::Messages,
    completions_path: None,
    health_path: "/v1/models",
    key_header: "x-api-key",
    key_prefix: "",
    headers: &[("anthropic-version", "2023-06-01")],
    token_source: |_| None,
};
