//! The OpenAI dialect, which every compatible server speaks (vLLM, Groq, Ollama, gateways). Pure.

use super::ApiPath;
use super::dialect::{Dialect, joined};

pub(super) static DIALECT: Dialect = Dialect {
    // Never asked: it is what remains.
    recognises: |_| true,
    addressing: joined,
    chat_path: "/v1/chat/completions",
    chat: ApiPath::ChatCompletions,
    completions_path: Some("/v1/completions"),
    health_path: "/v1/models",
    key_header: "authorization",
    key_prefix: "Bearer ",
    headers: &[],
    token_source: |_| None,
};
