//! What answers cost: tokens by the price of the model they were billed for. Pure.
//!
//! A cost is counted as it arises, and journalled with the tokens. A process that had no price for a
//! model has journalled its tokens only: `--max-cost` counts them by the prices of now. The journal does
//! not tell the endpoint, so the dearest that may have answered counts then.

use std::borrow::Cow;

use crate::batch::input::Input;
use crate::batch::line::Parsed;
use crate::batch::plan::Plan;
use crate::journal::{self, Entry};
use crate::json;
use crate::metrics::tokens::Tokens;
use crate::provider::Endpoint;
use crate::provider::cost::{cost_usd, price_of};

/// Costs are kept in billionths of a US dollar: a token of the cheapest models costs ten of them.
const NANO_USD: f64 = 1e9;

/// US dollars for an answer of `endpoint` to `line`; `None` without a price.
///
/// The model that the answer names is the one that was billed. Where it has no price (a path on a
/// server of one's own) the one that was asked for counts, and then the endpoint's: a deployment's name
/// in a body may be none that is sold.
pub fn of_answer(
    plan: &Plan,
    endpoint: &Endpoint,
    parsed: &Parsed,
    line: &[u8],
    tokens: Tokens,
    answered: Option<&str>,
) -> Option<f64> {
    let prices = &plan.config.prices;
    if prices.is_empty() || tokens == Tokens::default() {
        return None;
    }
    let asked = endpoint.billed_model(parsed.model(line));
    let named = [answered, asked.as_deref(), endpoint.model()];
    let priced = named
        .into_iter()
        .flatten()
        .find(|model| price_of(prices, model).is_some())?;
    let usd = cost_usd(prices, priced, tokens);
    Some((usd * NANO_USD).round() / NANO_USD)
}

/// The same for an answer that names its model in this JSON text, which is read only where it counts.
pub fn of_named(
    plan: &Plan,
    endpoint: &Endpoint,
    parsed: &Parsed,
    line: &[u8],
    tokens: Tokens,
    answered: Option<&[u8]>,
) -> Option<f64> {
    if plan.config.prices.is_empty() {
        return None;
    }
    let answered = answered.and_then(json::text);
    of_answer(plan, endpoint, parsed, line, tokens, answered.as_deref())
}

/// The model that an answer names.
pub fn model_of(answer: &[u8]) -> Option<Cow<'_, str>> {
    json::text(json::get(answer, &["model"])?)
}

/// Adds up what earlier processes of a run spent, line by line.
pub struct Earlier<'a> {
    plan: &'a Plan,
    input: &'a Input,
    parsed: Parsed,
    usd: f64,
}

impl<'a> Earlier<'a> {
    /// Nothing yet.
    pub fn new(plan: &'a Plan, input: &'a Input) -> Self {
        Self {
            plan,
            input,
            parsed: Parsed::default(),
            usd: 0.0,
        }
    }

    /// Adds a finished line, or an attempt before its end.
    pub fn add(&mut self, entry: &Entry) {
        if entry.cost_nano_usd > 0 {
            // Exact up to 9 million dollars a line.
            self.usd += entry.cost_nano_usd as f64 / NANO_USD;
            return;
        }
        let tokens = widened(entry.tokens);
        if tokens == Tokens::default() {
            return;
        }
        let line = self.input.line(entry.line_offset);
        if self.parsed.parse(line).is_err() {
            return;
        }
        let endpoints = self.plan.endpoints.iter();
        self.usd += endpoints
            .filter_map(|endpoint| of_answer(self.plan, endpoint, &self.parsed, line, tokens, None))
            .fold(0.0, f64::max);
    }

    /// US dollars.
    pub fn usd(&self) -> f64 {
        self.usd
    }
}

/// Of what journals keep.
pub fn usd(nano_usd: u64) -> f64 {
    nano_usd as f64 / NANO_USD
}

/// As journals keep it.
pub(super) fn nano_usd(usd: Option<f64>) -> u64 {
    // Saturating, and 0 for what is no number.
    (usd.unwrap_or(0.0) * NANO_USD).round() as u64
}

/// Saturating: a line of more than four billion tokens is nobody's.
pub(super) fn narrowed(tokens: Tokens) -> journal::Tokens {
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    journal::Tokens {
        prompt: narrow(tokens.prompt),
        completion: narrow(tokens.completion),
        cached: narrow(tokens.cached),
    }
}

fn widened(tokens: journal::Tokens) -> Tokens {
    Tokens {
        prompt: tokens.prompt.into(),
        completion: tokens.completion.into(),
        cached: tokens.cached.into(),
    }
}
