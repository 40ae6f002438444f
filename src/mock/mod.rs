//! The trial endpoint: an LLM API on loopback that answers deterministically by seed, with
//! latency, limits and faults on request. `blaze-uring mock`, `demo`, tests and benches share it.
//!
//! A request goes one way through it: `wire` finds where it ends, `route` and `request` say what
//! it is, `stats` count it, `plan` decides what becomes of it, `answer` and `failure` write the
//! body, and `respond` compiles all that into a [`Scripted`]: bytes, pauses and an end, faults
//! included. `connection` plays it; `server` owns the threads, `state` the clock and the books.
//! What decides (`plan`, `limit`, `answer`, …) is pure.

#![expect(
    clippy::disallowed_methods,
    reason = "the trial endpoint owns its clock and sockets"
)]

mod answer;
mod connection;
mod failure;
mod interrupt;
mod limit;
mod options;
mod plan;
mod random;
mod request;
mod respond;
mod route;
mod script;
mod server;
mod state;
mod stats;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use options::{
    FailAttempts, FailFirst, Latency, MockArgs, MockOptions, Outage, Probability, RateChange,
    Script, StatusRate, WaitHint,
};
pub use request::identity;
pub use script::{End, Scripted, SeenRequest};
pub use stats::{PathStats, Stats};

use server::Server;
use state::State;

/// A running trial endpoint; dropping it closes every connection and joins its threads.
///
/// ```
/// use blaze_uring::mock::{Mock, MockOptions};
/// let mock = Mock::start(MockOptions { latency: "20ms".parse().unwrap(), ..MockOptions::default() }).unwrap();
/// println!("POST to {}", mock.url("/v1/chat/completions"));
/// assert_eq!(mock.stats().requests, 0);
/// ```
pub struct Mock {
    state: Arc<State>,
    server: Server,
}

impl Mock {
    /// Binds, starts its threads and returns; connections are accepted from now on.
    ///
    /// # Errors
    /// `InvalidInput` for options out of their bounds, and what binding or starting threads gave.
    pub fn start(options: MockOptions) -> io::Result<Self> {
        options.check().map_err(options::invalid)?;
        let state = Arc::new(State::new(options));
        let server = Server::start(&state)?;
        Ok(Self { state, server })
    }

    /// Where it listens, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The URL of a path, which begins with `/` or is empty.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.state.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address())
    }

    /// What it has seen until now.
    pub fn stats(&self) -> Stats {
        self.state.books().snapshot()
    }

    /// With [`MockOptions::record_requests`] the requests in order of arrival, the first 100,000.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state.books().recorded()
    }

    /// Stops it, as dropping does.
    pub fn stop(self) {}
}

/// `blaze-uring mock`: serves until interrupted, and then writes the statistics, without the long
/// lists, as one JSON line to standard error.
///
/// # Errors
/// Flags that make no sense, an address that is taken, or no way to wait for an interrupt.
pub fn run(args: MockArgs) -> io::Result<()> {
    let interrupted = interrupt::catch()?;
    let mock = Mock::start(args.into_options()?)?;
    eprintln!("listening on {}", mock.url(""));
    interrupted();
    let stats = Stats {
        arrivals_us: Vec::new(),
        seen: Default::default(),
        ..mock.stats()
    };
    mock.stop();
    eprintln!("{}", serde_json::to_string(&stats)?);
    Ok(())
}
