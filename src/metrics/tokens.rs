//! Tokens a response was billed for. Pure.

use std::ops::{Add, AddAssign};

use crate::json;

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

impl Tokens {
    /// Reads the object that responses carry as `usage`; `None` if it counts neither prompt nor completion.
    pub fn from_usage(usage: &[u8]) -> Option<Self> {
        let mut read = Usage::default();
        json::members(usage, |member| {
            read.read(&member.name(usage), member.value.of(usage));
        })
        .ok()?;
        read.tokens()
    }
}

/// The counts in the object that responses carry as `usage`, read member by member.
///
/// Two families of names are in use: `prompt_tokens`, `completion_tokens` and
/// `prompt_tokens_details.cached_tokens`; and `input_tokens`, `output_tokens` with either
/// `input_tokens_details.cached_tokens` (a part of the input) or `cache_read_input_tokens` and
/// `cache_creation_input_tokens` (which come on top of it, and are added here).
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    prompt: Option<u64>,
    input: Option<u64>,
    completion: Option<u64>,
    cached_part: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
}

impl Usage {
    /// Takes in a member with this name and this value, as it was written.
    pub fn read(&mut self, name: &[u8], value: &[u8]) {
        let number = || json::as_u64(value);
        match name {
            b"prompt_tokens" => self.prompt = number(),
            b"input_tokens" => self.input = number(),
            b"completion_tokens" | b"output_tokens" => {
                self.completion = number().or(self.completion);
            }
            b"prompt_tokens_details" | b"input_tokens_details" => {
                self.cached_part = cached_tokens(value).or(self.cached_part);
            }
            // DeepSeek's spelling of cached prompt tokens.
            b"prompt_cache_hit_tokens" => self.cached_part = number().or(self.cached_part),
            b"cache_read_input_tokens" => self.cache_read = number(),
            b"cache_creation_input_tokens" => self.cache_creation = number(),
            _ => {}
        }
    }

    /// What all members came to; `None` if they count neither prompt nor completion.
    pub fn tokens(&self) -> Option<Tokens> {
        let prompt = self.prompt.or(self.input);
        if prompt.is_none() && self.completion.is_none() {
            return None;
        }
        let on_top = match (self.prompt, self.cached_part) {
            (None, None) => {
                (self.cache_read.unwrap_or(0)).saturating_add(self.cache_creation.unwrap_or(0))
            }
            _ => 0,
        };
        Some(Tokens {
            prompt: prompt.unwrap_or(0).saturating_add(on_top),
            completion: self.completion.unwrap_or(0),
            cached: self.cached_part.or(self.cache_read).unwrap_or(0),
        })
    }
}

/// `cached_tokens` in an object of details.
fn cached_tokens(details: &[u8]) -> Option<u64> {
    let mut cached = None;
    json::members(details, |member| {
        if *member.name(details) == *b"cached_tokens" {
            cached = json::as_u64(member.value.of(details));
        }
    })
    .ok()?;
    cached
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_usage_of_every_dialect() {
        let tokens = |prompt, completion, cached| {
            Some(Tokens {
                prompt,
                completion,
                cached,
            })
        };
        for (usage, expect) in [
            (
                r#"{"prompt_tokens":23,"completion_tokens":47,"total_tokens":70}"#,
                tokens(23, 47, 0),
            ),
            (
                r#"{"prompt_tokens":23,"completion_tokens":47,"prompt_tokens_details":{"cached_tokens":20}}"#,
                tokens(23, 47, 20),
            ),
            (
                r#"{"input_tokens":23,"input_tokens_details":{"cached_tokens":20},"output_tokens":47}"#,
                tokens(23, 47, 20),
            ),
            (
                r#"{"input_tokens":3,"cache_creation_input_tokens":5,"cache_read_input_tokens":20,"output_tokens":47}"#,
                tokens(28, 47, 20),
            ),
            // A proxy that speaks both: `prompt_tokens` includes the cache already.
            (
                r#"{"prompt_tokens":28,"completion_tokens":47,"input_tokens":3,"cache_read_input_tokens":20}"#,
                tokens(28, 47, 20),
            ),
            (r#"{"prompt_tokens":8,"total_tokens":8}"#, tokens(8, 0, 0)),
            (
                r#"{"prompt_tokens":8.0,"prompt_tokens_details":null}"#,
                tokens(8, 0, 0),
            ),
            (
                r#"{"output_tokens":4,"completion_tokens":null}"#,
                tokens(0, 4, 0),
            ),
            (r#"{"total_tokens":8}"#, None),
            (r#"{"prompt_tokens":-1}"#, None),
            ("{}", None),
            ("null", None),
            ("[1]", None),
            ("", None),
        ] {
            assert_eq!(Tokens::from_usage(usage.as_bytes()), expect, "{usage}");
        }
    }

    #[test]
    fn sums_saturate() {
        let mut sum = Tokens {
            prompt: u64::MAX,
            completion: 1,
            cached: 0,
        };
        sum += Tokens {
            prompt: 1,
            completion: 2,
            cached: 3,
        };
        assert_eq!(
            sum,
            Tokens {
                prompt: u64::MAX,
                completion: 3,
                cached: 3
            }
        );
    }
}
