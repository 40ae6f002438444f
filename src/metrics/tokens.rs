//! Tokens a response was billed for. Pure.

use std::ops::{Add, AddAssign};

/// Tokens of one response, or of many added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens, those read from the provider's cache included.
    pub prompt: u64,
    /// Completion tokens, reasoning included.
    pub completion: u64,
    /// Prompt tokens that the provider read from its cache.
    pub cached: u64,
}

impl Add for Tokens {
    type Output = Self;

    /// Saturates: a server may claim any number, and a lying one must not end the run.
    fn add(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_add(other.prompt),
            completion: self.completion.saturating_add(other.completion),
            cached: self.cached.saturating_add(other.cached),
        }
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
