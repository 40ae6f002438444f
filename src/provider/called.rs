//! What may be said of a request that went out: where to, and whether with a key. Pure.

use super::{Authorization, Endpoint};

/// A configured header with one of these in its name is a key.
const KEY_WORDS: [&str; 3] = ["authorization", "api-key", "token"];

impl Endpoint {
    /// The URL of a request, as [`Endpoint::route`] finds it, without query and secrets.
    pub fn called_url(
        &self,
        line_url: Option<&str>,
        body_model: Option<&str>,
        completes_prompt: bool,
    ) -> String {
        let route = self.route(line_url, body_model, completes_prompt);
        let path = route.target.split('?').next().unwrap_or_default();
        self.redact(&format!("{}{path}", self.origin))
    }

    /// Nothing that proves who asks goes along with its requests.
    pub fn sends_no_key(&self) -> bool {
        let is_key = |name: &str| KEY_WORDS.iter().any(|word| name.contains(word));
        let headers = self.headers();
        self.authorization == Authorization::None && !headers.iter().any(|(name, _)| is_key(name))
    }
}
