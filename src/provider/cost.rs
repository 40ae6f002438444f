//! What tokens cost, and how many a request will take. Pure.

use std::collections::BTreeMap;

use crate::config::Price;
use crate::metrics::tokens::Tokens;

/// Prices are per this many tokens.
const TOKENS_PER_PRICE: f64 = 1e6;

/// English text and JSON come to about 4 bytes a token (OpenAI's rule of thumb).
const BYTES_PER_TOKEN: u64 = 4;

/// A completion without a limit is taken for a few paragraphs until its `usage` corrects that.
const COMPLETION_TOKENS_ASSUMED: u64 = 256;

/// The price of `model`: of the same name, else of the longest configured name that differs only by a
/// date or `latest` (`gpt-4o-mini` for `gpt-4o-mini-2024-07-18`, never `gpt-4o`).
pub fn price_of<'a>(prices: &'a BTreeMap<String, Price>, model: &str) -> Option<&'a Price> {
    prices.get(model).or_else(|| {
        prices
            .iter()
            .filter(|(name, _)| model.strip_prefix(name.as_str()).is_some_and(is_snapshot))
            .max_by_key(|(name, _)| name.len())
            .map(|(_, price)| price)
    })
}

/// US dollars for `tokens` of `model`; a model without a price costs nothing that we know of.
pub fn cost_usd(prices: &BTreeMap<String, Price>, model: &str, tokens: Tokens) -> f64 {
    let Some(price) = price_of(prices, model) else {
        return 0.0;
    };
    let cached = tokens.cached.min(tokens.prompt);
    let fresh = tokens.prompt - cached;
    let cached_price = price.cached_input.unwrap_or(price.input);
    // Token counts stay far below 2^53, where the conversion would round.
    (fresh as f64 * price.input
        + cached as f64 * cached_price
        + tokens.completion as f64 * price.output)
        / TOKENS_PER_PRICE
}

/// Tokens that a request of `body_bytes` will count against a `tpm_limit`, before it is sent;
/// `max_completion` is the limit on its completion, if it has one.
pub fn estimate_tokens(body_bytes: usize, max_completion: Option<u64>) -> u64 {
    // A body cannot outgrow 64 bits.
    let prompt = (body_bytes as u64).div_ceil(BYTES_PER_TOKEN);
    prompt.saturating_add(max_completion.unwrap_or(COMPLETION_TOKENS_ASSUMED))
}

/// `-2024-07-18`, `-0613`, `@20240620`, `-latest`.
fn is_snapshot(rest: &str) -> bool {
    let Some(version) = rest.strip_prefix(['-', '@', ':']) else {
        return false;
    };
    version == "latest"
        || (version.starts_with(|letter: char| letter.is_ascii_digit())
            && version
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-')
            && version.bytes().filter(u8::is_ascii_digit).count() >= SNAPSHOT_DIGITS_MIN)
}

/// `-0613` is a date; the `-4` of `model-4` or `-1-5` of `model-1-5` is another model.
const SNAPSHOT_DIGITS_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> BTreeMap<String, Price> {
        let price = |input, cached_input, output| Price {
            input,
            cached_input,
            output,
        };
        BTreeMap::from([
            ("gpt-4o".to_owned(), price(2.5, Some(1.25), 10.0)),
            ("gpt-4o-mini".to_owned(), price(0.15, Some(0.075), 0.6)),
            ("gpt-4o-2024-05-13".to_owned(), price(5.0, None, 15.0)),
            ("claude-3-5-sonnet".to_owned(), price(3.0, None, 15.0)),
        ])
    }

    #[test]
    fn a_snapshot_costs_what_its_model_costs() {
        let check = |model: &str, input: Option<f64>| {
            assert_eq!(
                price_of(&prices(), model).map(|price| price.input),
                input,
                "{model}"
            );
        };
        check("gpt-4o", Some(2.5));
        check("gpt-4o-2024-08-06", Some(2.5));
        check("gpt-4o-2024-05-13", Some(5.0));
        check("gpt-4o-mini", Some(0.15));
        check("gpt-4o-mini-2024-07-18", Some(0.15));
        check("gpt-4o-audio", None);
        check("gpt-4o-4", None);
        check("gpt-4", None);
        check("claude-3-5-sonnet-20241022", Some(3.0));
        check("claude-3-5-sonnet@20240620", Some(3.0));
        check("claude-3-5-sonnet-latest", Some(3.0));
        check("", None);
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        let check = |model: &str, prompt: u64, completion: u64, cached: u64, expect: f64| {
            let cost = cost_usd(
                &prices(),
                model,
                Tokens {
                    prompt,
                    completion,
                    cached,
                },
            );
            assert!((cost - expect).abs() < 1e-12, "{model}: {cost}");
        };
        check("gpt-4o-mini", 1_000_000, 0, 0, 0.15);
        check(
            "gpt-4o-mini",
            1_000_000,
            1_000_000,
            500_000,
            0.0375 + 0.075 + 0.6,
        );
        check("claude-3-5-sonnet", 1_000_000, 0, 1_000_000, 3.0);
        check("gpt-4o-mini", 10, 0, 1_000_000, 10.0 * 0.075 / 1e6);
        check("unknown", 1_000_000, 1_000_000, 0, 0.0);
    }

    #[test]
    fn an_estimate_counts_the_prompt_and_the_limit() {
        assert_eq!(estimate_tokens(400, Some(50)), 150);
        assert_eq!(estimate_tokens(401, Some(0)), 101);
        assert_eq!(estimate_tokens(400, None), 356);
        assert_eq!(estimate_tokens(usize::MAX, Some(u64::MAX)), u64::MAX);
    }
}
