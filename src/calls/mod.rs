//! Single requests through the engine: [`Client`] sends them by the same policy machines and over
//! the same connections as a batch.
//!
//! `engine` is the driver, on one thread of its own; `traffic` decides what may be sent where and
//! when (pure), `request` turns a call into a line (pure), `handle` holds the outcome for whoever
//! waits, and outlives the engine: an engine that dies fails every call that is open.

mod engine;
mod handle;
mod outcome;
mod report;
mod request;
#[cfg(test)]
mod tests;
mod traffic;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use handle::Handle;
pub use outcome::{CallError, Completion, Delta};
pub use report::{ClientReport, EndpointReport, Sample};
pub use request::{CallOptions, Messages};

use crate::batch::open_files;
use crate::batch::plan::Plan;
use crate::config::{Config, ConfigError};
use crate::entra::{self, BearerTokens, TokenService};
use crate::error::ErrorKind;
use crate::provider::{Endpoint, EndpointError};
use crate::runtime::backend::Backend;
use crate::runtime::dns::Resolver;
use crate::runtime::mailbox;
use engine::Order;
use handle::OpenCalls;
use request::Call;

/// How long [`Client::report`] waits between two looks at whether the engine is still there.
const REPORT_PATIENCE: Duration = Duration::from_millis(100);

/// Sends single requests to the configured endpoints: weights, retries, wait hints, health, caps
/// and limits as in a batch. Threads may share it.
///
/// ```
/// use blaze_uring::mock::{Mock, MockOptions};
/// use blaze_uring::{Client, Config, EndpointConfig};
///
/// let mock = Mock::start(MockOptions::default())?;
/// let endpoint = EndpointConfig { url: mock.url("/v1"), model: Some("trial".into()), ..Default::default() };
/// let client = Client::new(Config { endpoints: vec![endpoint], ..Default::default() })?;
///
/// let answer = client.chat_completion("Why is the sky blue?")?;
/// println!("{}", answer.text().unwrap_or_default());
/// assert_eq!((answer.status, answer.attempts), (200, 1));
///
/// let handle = client.submit_chat_completion("And at night?");
/// assert!(handle.wait(std::time::Duration::from_secs(10)).is_some_and(|outcome| outcome.is_ok()));
/// client.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client {
    orders: mailbox::Sender<Order>,
    open: Arc<OpenCalls>,
    grace: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Fetches tokens for as long as the client lives.
    _tokens: Option<TokenService>,
}

/// A client that could not start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An endpoint cannot be used as configured.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The machine refused something the client needs.
    #[error("{0}")]
    Setup(String),
}

impl Client {
    /// Checks `config` as the command line does, and starts the engine. What concerns files
    /// (format, order, durability) is ignored, and so is `cores`: a client is one thread. Where the system
    /// allows fewer open files than `workers` need, there are fewer of those.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn new(config: Config) -> Result<Self, ClientError> {
        let mut config = config;
        crate::config::normalise(&mut config);
        crate::config::validate(&config)?;
        let endpoints = Endpoint::resolve_all(&config.endpoints)?;
        config.forget_keys();
        let (backend, refused) = Backend::choose(config.runtime).map_err(ClientError::Setup)?;
        if let Some(reason) = refused {
            tracing::warn!("io_uring cannot be used here ({reason}); running on tokio");
        }
        let grace = config.grace;
        let config = open_files::fit(&config, 1);
        let plan = Plan::prepare(config, endpoints).map_err(ClientError::Setup)?;
        let resolver = Resolver::start().map_err(|error| {
            ClientError::Setup(format!("cannot start name resolution: {error}"))
        })?;
        let open = Arc::<OpenCalls>::default();
        let (orders, inbox) = mailbox::channel();
        let announce = {
            let orders = orders.clone();
            move |news| {
                // A client that is gone needs no token.
                let _ = orders.send(Order::News(news));
            }
        };
        let settings = plan.pool_settings();
        let (service, tokens) = entra::serve(
            (backend, plan.config.runtime),
            settings,
            &plan.endpoints,
            announce,
        )
        .map_err(ClientError::Setup)?
        .map(|(service, first)| {
            let tokens = BearerTokens::new(first, service.refusals());
            (service, tokens)
        })
        .unzip();
        let start = engine::Start {
            tokens,
            plan,
            resolver,
            open: Arc::clone(&open),
            orders: orders.clone(),
            inbox,
        };
        let thread = thread::Builder::new()
            .name("blaze-client".to_owned())
            .spawn(move || engine::run(backend, start))
            .map_err(|error| {
                ClientError::Setup(format!("cannot start the client's thread: {error}"))
            })?;
        Ok(Self {
            orders,
            open,
            grace,
            thread: Mutex::new(Some(thread)),
            _tokens: service,
        })
    }

    /// Asks for a chat completion and waits for the answer, through retries, cooldowns and limits.
    /// It ends at the latest when no endpoint has been usable for `max_outage`; for a bound of
    /// your own see [`CallOptions::give_up_after`].
    ///
    /// # Errors
    /// Why there is no answer, as a record of a batch would say.
    pub fn chat_completion(&self, messages: impl Into<Messages>) -> Result<Completion, CallError> {
        self.submit_chat_completion(messages).wait_until_over()
    }

    /// [`Self::chat_completion`] with options of its own.
    ///
    /// # Errors
    /// As [`Self::chat_completion`].
    pub fn chat_completion_with(
        &self,
        messages: impl Into<Messages>,
        options: &CallOptions,
    ) -> Result<Completion, CallError> {
        self.submit_chat_completion_with(messages, options)
            .wait_until_over()
    }

    /// Starts a chat completion. The handle can be waited for, awaited on any executor, or cancelled;
    /// dropping it lets the call go on.
    pub fn submit_chat_completion(&self, messages: impl Into<Messages>) -> Handle {
        self.submit_chat_completion_with(messages, &CallOptions::default())
    }

    /// [`Self::submit_chat_completion`] with options of its own.
    pub fn submit_chat_completion_with(
        &self,
        messages: impl Into<Messages>,
        options: &CallOptions,
    ) -> Handle {
        self.submit(messages.into(), options, false)
    }

    /// Asks for a streamed chat completion: `on_delta` is called on this thread for each event as
    /// it arrives, and the assembled answer is returned at the end. Once a delta has been handed
    /// out the call is not tried again, because its text would come twice.
    ///
    /// # Errors
    /// As [`Self::chat_completion`]; a stream that breaks is an error.
    pub fn chat_completion_stream(
        &self,
        messages: impl Into<Messages>,
        options: &CallOptions,
        on_delta: impl FnMut(&Delta),
    ) -> Result<Completion, CallError> {
        self.submit(messages.into(), options, true)
            .wait_streaming(on_delta)
    }

    /// Every endpoint as it stands, and the figures since the start. After the end of the engine
    /// the last ones.
    pub fn report(&self) -> ClientReport {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        if self.orders.send(Order::Report(sender)).is_ok() {
            loop {
                match receiver.recv_timeout(REPORT_PATIENCE) {
                    Ok(report) => return report,
                    Err(error) if error.is_disconnected() || self.open.ended() => break,
                    Err(_) => {}
                }
            }
        }
        self.open.last_report()
    }

    /// Ends the client: no further call starts, calls in flight may finish within the configured
    /// grace, all others fail as [`ErrorKind::Cancelled`]. Returns when no call is open any more.
    pub fn close(&self) {
        self.end(self.grace);
    }

    fn submit(&self, messages: Messages, options: &CallOptions, stream: bool) -> Handle {
        let (id, handle) = match self.open.open(self.orders.clone()) {
            Ok(opened) => opened,
            Err(refused) => return refused,
        };
        match Call::new(id, messages, options, stream, crate::runtime::now()) {
            Err(error) => self.open.finish(id, Err(error)),
            Ok(call) => {
                if self.orders.send(Order::Start(Box::new(call))).is_err() {
                    let error = CallError::new(ErrorKind::Cancelled, handle::CLOSED);
                    self.open.finish(id, Err(error));
                }
            }
        }
        handle
    }

    fn end(&self, grace: Duration) {
        // A client that is gone already has nobody to tell.
        let _ = self.orders.send(Order::Close { grace });
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic has failed every open call, with its message.
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    /// As [`Client::close`] without grace.
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
