//! Token counts of one response, or summed.

/// Tokens as the provider billed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens, cached ones included.
    pub prompt: u64,
    /// Completion tokens, reasoning included.
    pub completion: u64,
    /// The part of `prompt` served from the provider's cache.
    pub cached: u64,
}
