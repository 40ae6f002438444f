//! Token counts out of a response body, whichever way its API spells them. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::metrics::tokens::Tokens;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// `usage` of the four APIs; what an API lacks is absent.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage<'a> {
    /// Chat, legacy completions, embeddings.
    #[serde(borrow)]
    prompt_tokens: Count<'a>,
    #[serde(borrow)]
    completion_tokens: Count<'a>,
    #[serde(borrow)]
    prompt_tokens_details: Details<'a>,
    /// DeepSeek's spelling of cached tokens.
    #[serde(borrow)]
    prompt_cache_hit_tokens: Count<'a>,
    /// Responses, Messages.
    #[serde(borrow)]
    input_tokens: Count<'a>,
    #[serde(borrow)]
    output_tokens: Count<'a>,
    #[serde(borrow)]
    input_tokens_details: Details<'a>,
    /// Messages, whose `input_tokens` count neither of these.
    #[serde(borrow)]
    cache_creation_input_tokens: Count<'a>,
    #[serde(borrow)]
    cache_read_input_tokens: Count<'a>,
}

/// A number as written; servers also send `null` and floats.
#[derive(Default, Deserialize)]
struct Count<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl Count<'_> {
    fn get(&self) -> u64 {
        let text = self.0.map_or("", RawValue::get);
        // The cast saturates: negative and not-a-number become 0.
        text.parse()
            .unwrap_or_else(|_| text.parse::<f64>().map_or(0, |count| count as u64))
    }
}

/// `null`, or an object with `cached_tokens`.
#[derive(Default, Deserialize)]
struct Details<'a>(#[serde(borrow)] Option<CachedTokens<'a>>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct CachedTokens<'a> {
    #[serde(borrow)]
    cached_tokens: Count<'a>,
}

/// The tokens that `body`, a response of any known API, says it cost; `None` without a `usage`
/// object.
pub fn usage_of(body: &[u8]) -> Option<Tokens> {
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    let usage: Usage<'_> = serde_json::from_str(body.usage?.get()).ok()?;
    let cached_of = |details: &Details<'_>| {
        details
            .0
            .as_ref()
            .map_or(0, |details| details.cached_tokens.get())
    };
    let cache_read = usage.cache_read_input_tokens.get();
    let cached = [
        cache_read,
        cached_of(&usage.prompt_tokens_details),
        cached_of(&usage.input_tokens_details),
        usage.prompt_cache_hit_tokens.get(),
    ];
    let outside_input = cache_read.saturating_add(usage.cache_creation_input_tokens.get());
    Some(Tokens {
        prompt: usage
            .prompt_tokens
            .get()
            .max(usage.input_tokens.get().saturating_add(outside_input)),
        completion: usage.completion_tokens.get().max(usage.output_tokens.get()),
        cached: cached.into_iter().max().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_usage_is_read() {
        let check = |body: &str, expect: Option<(u64, u64, u64)>| {
            let expect = expect.map(|(prompt, completion, cached)| Tokens {
                prompt,
                completion,
                cached,
            });
            assert_eq!(usage_of(body.as_bytes()), expect, "{body}");
        };
        check(
            r#"{"id":"x","usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":5,"audio_tokens":0}}}"#,
            Some((19, 10, 5)),
        );
        check(
            r#"{"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":3},"output_tokens":87,"total_tokens":123}}"#,
            Some((36, 87, 3)),
        );
        check(
            r#"{"usage":{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":7,"service_tier":"standard"}}"#,
            Some((1110, 7, 1000)),
        );
        check(
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":4}}"#,
            Some((9, 1, 4)),
        );
        check(
            r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            Some((8, 0, 0)),
        );
        check(
            r#"{"usage":{"prompt_tokens":8.0,"completion_tokens":null,"prompt_tokens_details":null}}"#,
            Some((8, 0, 0)),
        );
        check(r#"{"usage":null}"#, None);
        check(r#"{"error":{}}"#, None);
        check("[]", None);
        check("no json", None);
    }
}
