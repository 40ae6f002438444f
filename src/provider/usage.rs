//! Token counts out of a response body, whichever way its API spells them. Pure.

use crate::json;
use crate::metrics::tokens::Tokens;

/// The tokens that `body`, a response of any known API, says it cost; `None` without a `usage`
/// object that counts any.
pub fn usage_of(body: &[u8]) -> Option<Tokens> {
    json::get(body, &["usage"]).and_then(Tokens::from_usage)
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
