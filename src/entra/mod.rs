//! Microsoft Entra tokens for endpoints that want them: a helper thread fetches them, renews them
//! before they expire or when one is refused, and announces each to whoever sends requests. No shard
//! waits for it. What is asked, and what the answers mean, is in `provider::entra`.

mod book;
mod fetch;

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use book::{BearerTokens, Refusal, Token, TokenBook};

use crate::client::{PoolSettings, ProxyRules};
use crate::config::RuntimeChoice;
use crate::provider::entra::{Issued, Surroundings};
use crate::provider::{Authorization, Endpoint, EntraSource};
use crate::runtime::backend::{self, Backend, ShardMain};
use crate::runtime::dns::Resolver;
use crate::runtime::mailbox::{self, Mailbox, Sender};
use crate::runtime::{self, Panicked, Runtime, catch_panic};
use fetch::Fetcher;

/// Between two tries to renew a token that is still good.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What the thread has to say, after the first tokens.
#[derive(Clone, Debug)]
pub enum News {
    /// A newer token.
    Token(Token),
    /// No token can be had any more, and the last one is of no use.
    Failed(EntraSource, String),
}

/// A source that gives no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Entra token (api_key \"{}\"): {reason}", .from.name())]
pub struct TokenError {
    from: EntraSource,
    reason: String,
}

/// What fetching needs of the machine.
pub struct Means {
    /// Which runtime drives the thread.
    pub backend: Backend,
    /// What the environment says about tokens.
    pub surroundings: Surroundings,
    /// Caps, and the trusted certificates.
    pub settings: PoolSettings,
    /// Proxies.
    pub proxies: ProxyRules,
    /// Name resolution.
    pub resolver: Resolver,
}

/// The running helper thread; dropping it ends it.
pub struct TokenService {
    asks: Sender<Ask>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the helper thread which tokens were refused.
#[derive(Clone)]
pub struct Refusals(Sender<Ask>);

impl Refusals {
    /// A server refused the `generation`th token of `source`; asked for again, nothing happens.
    pub fn report(&self, source: EntraSource, generation: u32) {
        // A thread that is gone has said so.
        let _ = self.0.send(Ask::Renew(source, generation));
    }
}

enum Ask {
    Renew(EntraSource, u32),
    Wake,
    End,
}

/// The sources that `endpoints` name, each once.
fn sources(endpoints: &[Endpoint]) -> Vec<EntraSource> {
    let mut sources = Vec::new();
    for endpoint in endpoints {
        if let Authorization::Entra(source) = endpoint.authorization
            && !sources.contains(&source)
        {
            sources.push(source);
        }
    }
    sources
}

impl TokenService {
    /// Starts the thread and waits for the first token of each source; `announce` hears of all later
    /// ones, on that thread.
    ///
    /// # Errors
    /// A source that gives none, or a thread that cannot run.
    pub fn start(
        means: Means,
        sources: Vec<EntraSource>,
        announce: impl FnMut(News) + Send + 'static,
    ) -> Result<(Self, Vec<Token>), String> {
        let (asks, inbox) = mailbox::channel();
        let (first, firsts) = crossbeam_channel::bounded(1);
        let backend = means.backend;
        let task = Keeper {
            means,
            sources,
            announce,
            first,
            asks: asks.clone(),
            inbox,
        };
        let thread = thread::Builder::new()
            .name("blaze-tokens".to_owned())
            .spawn(move || {
                // One thread more than the shards: where rings run short, tokio does as well.
                if let Err(error) = backend::run(backend, RuntimeChoice::Auto, task) {
                    tracing::error!("the thread that fetches tokens cannot run: {error}");
                }
            })
            .map_err(|error| format!("cannot start the thread that fetches tokens: {error}"))?;
        let service = Self {
            asks,
            thread: Some(thread),
        };
        match firsts.recv() {
            Ok(Ok(tokens)) => Ok((service, tokens)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the thread that fetches tokens ended early".to_owned()),
        }
    }

    /// For those who see tokens refused.
    pub fn refusals(&self) -> Refusals {
        Refusals(self.asks.clone())
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        // A thread that is gone needs no word; one that is asking a server ends within its time-out.
        let _ = self.asks.send(Ask::End);
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

/// The thread's task.
struct Keeper<A> {
    means: Means,
    sources: Vec<EntraSource>,
    announce: A,
    first: crossbeam_channel::Sender<Result<Vec<Token>, TokenError>>,
    asks: Sender<Ask>,
    inbox: Mailbox<Ask>,
}

/// One source's token.
struct Held {
    token: Token,
    renew_at: Option<Instant>,
    expires_at: Option<Instant>,
}

impl Held {
    fn new(source: EntraSource, generation: u32, forced: bool, issued: &Issued) -> Self {
        let now = runtime::now();
        // Lives beyond what the clock can hold never end.
        let after = |life: Option<Duration>| now.checked_add(life?);
        Self {
            token: Token {
                source,
                generation,
                forced,
                secret: issued.token.clone(),
            },
            renew_at: after(issued.renew_after()),
            expires_at: after(issued.life),
        }
    }
}

impl<A: FnMut(News) + Send + 'static> ShardMain for Keeper<A> {
    async fn run<R: Runtime>(self) {
        if let Err(Panicked(message)) = catch_panic(self.keep::<R>()).await {
            tracing::error!("fetching tokens failed by a defect of blaze-uring: {message}");
        }
    }
}

impl<A: FnMut(News) + Send + 'static> Keeper<A> {
    async fn keep<R: Runtime>(mut self) {
        let mut fetcher = Fetcher::<R>::new(self.means);
        let mut held = Vec::with_capacity(self.sources.len());
        for &source in &self.sources {
            match fetcher.fetch(source).await {
                Ok(issued) => held.push(Held::new(source, 1, false, &issued)),
                Err(reason) => {
                    let from = source;
                    // Whoever started the thread waits for this.
                    let _ = self.first.send(Err(TokenError { from, reason }));
                    return;
                }
            }
        }
        let firsts = held.iter().map(|held| held.token.clone()).collect();
        let _ = self.first.send(Ok(firsts));
        loop {
            if let Some(wake) = held.iter().filter_map(|held| held.renew_at).min() {
                let asks = self.asks.clone();
                R::spawn(async move {
                    R::sleep_until(wake).await;
                    // Nobody to wake: the thread is ending.
                    let _ = asks.send(Ask::Wake);
                });
            }
            let refused = match self.inbox.recv().await {
                None | Some(Ask::End) => return,
                Some(Ask::Wake) => None,
                Some(Ask::Renew(source, generation)) => Some((source, generation)),
            };
            for held in &mut held {
                let Token {
                    source, generation, ..
                } = held.token;
                let forced = refused == Some((source, generation));
                let due = held.renew_at.is_some_and(|at| at <= runtime::now());
                if !(forced || due) {
                    continue;
                }
                match fetcher.fetch(source).await {
                    Ok(issued) => {
                        *held = Held::new(source, generation + 1, forced, &issued);
                        (self.announce)(News::Token(held.token.clone()));
                    }
                    Err(reason) => {
                        let now = runtime::now();
                        let is_over = held.expires_at.is_some_and(|at| at <= now + TRY_AGAIN);
                        tracing::warn!("cannot renew an Entra token: {reason}");
                        if forced || is_over {
                            held.renew_at = None;
                            (self.announce)(News::Failed(source, reason));
                        } else {
                            held.renew_at = Some(now + TRY_AGAIN);
                        }
                    }
                }
            }
        }
    }
}

/// Starts the service for `endpoints`, if any of them wants tokens; see [`TokenService::start`].
///
/// # Errors
/// As [`TokenService::start`], and variables of the environment that cannot be used.
pub fn serve(
    backend: Backend,
    settings: PoolSettings,
    endpoints: &[Endpoint],
    announce: impl FnMut(News) + Send + 'static,
) -> Result<Option<(TokenService, Vec<Token>)>, String> {
    let sources = sources(endpoints);
    if sources.is_empty() {
        return Ok(None);
    }
    let means = means(backend, settings)?;
    TokenService::start(means, sources, announce).map(Some)
}

/// What the environment gives to [`TokenService::start`].
///
/// # Errors
/// Variables that cannot be used, in words for the operator.
#[expect(
    clippy::disallowed_methods,
    reason = "tokens come from the environment, as Microsoft's libraries have it"
)]
fn means(backend: Backend, settings: PoolSettings) -> Result<Means, String> {
    let lookup = |name: &str| std::env::var(name).ok();
    Ok(Means {
        backend,
        surroundings: Surroundings::read(lookup)?,
        proxies: ProxyRules::from_env(lookup).map_err(|error| error.to_string())?,
        resolver: Resolver::start()
            .map_err(|error: io::Error| format!("cannot start name resolution: {error}"))?,
        settings,
    })
}
