//! Sends requests and reads answers: one shard's connections, from name resolution to the last byte.
//!
//! [`Pool`] owns the deadlines and an `endpoint` per target, which has its connections; `connect`
//! opens them (name, TCP, proxy tunnel, TLS), `pump` moves one HTTP/1.1 exchange through one of
//! them, `http2` many at once. A failure is reported, never retried here, with one exception: a
//! reused connection that had gone stale, and a request that the server says it did nothing with,
//! cost nothing but a second sending.

mod connect;
mod deadline;
mod endpoint;
mod failure;
mod http2;
mod pool;
mod proxy;
mod pump;
mod tls;

use std::time::Duration;

pub use failure::{Failure, Phase};
pub use http2::CONNECTIONS_MAX as HTTP2_CONNECTIONS_MAX;
pub use pool::{Pool, PoolSettings, PoolStats};
pub use proxy::{Proxy, ProxyError, ProxyRules};
pub use tls::{TlsSetupError, load_tls};

use crate::http::{Origin, Response};

/// Where a pool connects to. Each target has connections of its own.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host, port, and whether TLS is spoken.
    pub origin: Origin,
    /// Bounds name resolution and TCP together with the proxy's tunnel and the TLS handshake.
    pub connect_timeout: Duration,
    /// Through which proxy, if any: a tunnel for `https`, absolute-form requests for `http`.
    pub proxy: Option<Proxy>,
    /// HTTP/2: over TLS, unless this is `false`, it is offered and the server chooses. Over plain
    /// TCP it is spoken if this is `true`, without asking.
    pub http2: Option<bool>,
}

/// Whether a caller wants more of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To its end.
    More,
    /// What has come says that it is complete. Its end is waited for a moment, so that the connection can
    /// be used again, and not more: some servers never send it.
    Enough,
}

/// How long the end of a body is waited for that says of itself that it is complete. It comes with the last
/// bytes, or in the packet behind them.
const LINGER: Duration = Duration::from_secs(1);

/// What came of one exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The response, whose spans point into `reply`, or why there is none.
    pub result: Result<Response, Failure>,
    /// What was received, for the caller to read and to give back ([`crate::runtime::buffers`]).
    pub reply: Vec<u8>,
    /// Whether a byte of an answer came.
    pub answered: bool,
    /// Whether a stale connection made a second sending necessary.
    pub resent: bool,
}

#[cfg(test)]
mod tests;
