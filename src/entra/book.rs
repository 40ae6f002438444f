//! The tokens a shard holds, and what a refused one means. Pure.

use super::Refusals;
use crate::config::Secret;
use crate::provider::{Authorization, Endpoint, EntraSource};

/// A token that was fetched for every endpoint of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose login it is.
    pub source: EntraSource,
    /// Counts the source's tokens, from 1.
    pub generation: u32,
    /// It was fetched because the one before was refused.
    pub forced: bool,
    /// The token itself.
    pub secret: Secret,
}

/// What to do about a token that an endpoint refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is a newer one already: send again.
    Outdated,
    /// Ask for a newer one, and send again when it is here.
    Renew(EntraSource),
    /// A fresh one was refused too: the endpoint will take none.
    Final,
}

/// The last token of each source.
#[derive(Clone, Debug, Default)]
pub struct TokenBook(Vec<Token>);

impl TokenBook {
    /// A book with the first tokens.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Takes a newer token.
    pub fn update(&mut self, token: Token) {
        self.0.retain(|held| held.source != token.source);
        self.0.push(token);
    }

    /// The token for requests to `endpoint`; `None` if it wants none.
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Token> {
        match endpoint.authorization {
            Authorization::Entra(source) => self.0.iter().find(|token| token.source == source),
            Authorization::None | Authorization::Key(_) => None,
        }
    }

    /// `endpoint` refused the token of that generation.
    pub fn judge(&self, endpoint: &Endpoint, generation: u32) -> Refusal {
        match self.of(endpoint) {
            Some(token) if token.generation > generation => Refusal::Outdated,
            Some(token) if !token.forced => Refusal::Renew(token.source),
            Some(_) | None => Refusal::Final,
        }
    }
}

/// The tokens of one thread, and the way to newer ones.
pub struct BearerTokens {
    book: TokenBook,
    refusals: Refusals,
}

impl BearerTokens {
    /// With the first tokens of [`super::TokenService::start`].
    pub fn new(tokens: Vec<Token>, refusals: Refusals) -> Self {
        Self {
            book: TokenBook::new(tokens),
            refusals,
        }
    }

    /// Takes a newer token.
    pub fn update(&mut self, token: Token) {
        self.book.update(token);
    }

    /// The token for requests to `endpoint`; `None` if it wants none.
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Token> {
        self.book.of(endpoint)
    }

    /// `endpoint` refused the token of that generation (0: none was sent): whether the request may
    /// be sent again with a newer one, which is asked for if need be.
    pub fn excuses(&self, endpoint: &Endpoint, generation: u32) -> bool {
        match self.book.judge(endpoint, generation) {
            Refusal::Outdated => true,
            Refusal::Renew(source) => {
                self.refusals.report(source, generation);
                true
            }
            Refusal::Final => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EndpointConfig, ProviderKind};

    fn endpoint(key: &str) -> Endpoint {
        Endpoint::resolve(&EndpointConfig {
            url: "https://x.openai.azure.com".to_owned(),
            provider: Some(ProviderKind::Azure),
            api_key: Some(key.into()),
            ..EndpointConfig::default()
        })
        .expect("a good endpoint")
    }

    #[test]
    fn one_renewal_then_the_end() {
        let token = |generation, forced| Token {
            source: EntraSource::AzureCli,
            generation,
            forced,
            secret: Secret::from("t"),
        };
        let mut book = TokenBook::new(vec![token(1, false)]);
        let (az, keyed) = (endpoint("az"), endpoint("a-key"));
        assert_eq!(book.judge(&az, 1), Refusal::Renew(EntraSource::AzureCli));
        book.update(token(2, true));
        assert_eq!(book.judge(&az, 1), Refusal::Outdated);
        assert_eq!(book.judge(&az, 2), Refusal::Final);
        book.update(token(3, false));
        assert_eq!(book.judge(&az, 3), Refusal::Renew(EntraSource::AzureCli));
        assert_eq!(book.judge(&keyed, 0), Refusal::Final);
        assert_eq!(book.of(&keyed), None);
    }
}
