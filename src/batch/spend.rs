//! What answers cost: tokens by the price of the model they were billed for. Pure.
//!
//! A cost is counted as it arises. Of earlier processes of a run the journals know the tokens of
//! every line, and its model stands in the input: that is what `--max-cost` counts on from. They do
//! not tell the endpoint (the dearest that may have answered counts) nor the tokens of attempts before
//! a line's last one, which hardly ever have any.

use crate::batch::input::Input;
use crate::batch::line::Parsed;
use crate::batch::plan::Plan;
use crate::journal::{self, Entry};
use crate::metrics::tokens::Tokens;
use crate::provider::Endpoint;
use crate::provider::cost::{cost_usd, price_of};

/// US dollars for an answer of `endpoint` to `line`; nothing is looked at without prices.
pub fn of_answer(
    plan: &Plan,
    endpoint: &Endpoint,
    parsed: &Parsed,
    line: &[u8],
    tokens: Tokens,
) -> f64 {
    let prices = &plan.config.prices;
    if prices.is_empty() || tokens == Tokens::default() {
        return 0.0;
    }
    let model = endpoint.billed_model(parsed.model(line));
    // A deployment's name in the body may be none that is sold; the endpoint's model then is.
    let named = [model.as_deref(), endpoint.model()].into_iter().flatten();
    let priced = named
        .into_iter()
        .find(|model| price_of(prices, model).is_some());
    priced.map_or(0.0, |model| cost_usd(prices, model, tokens))
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

    /// Adds a finished line.
    pub fn add(&mut self, entry: &Entry) {
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
            .map(|endpoint| of_answer(self.plan, endpoint, &self.parsed, line, tokens))
            .fold(0.0, f64::max);
    }

    /// US dollars.
    pub fn usd(&self) -> f64 {
        self.usd
    }
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
