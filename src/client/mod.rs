//! Sends requests and reads answers: one shard's connections, from name resolution to the last byte.
//!
//! [`Pool`] owns the connections and the deadlines, `connect` opens them (name, TCP, proxy tunnel,
//! TLS), `pump` moves one exchange through one of them. A failure is reported, never retried here,
//! with one exception: a reused connection that had gone stale costs nothing but a fresh one.

mod connect;
mod deadline;
mod failure;
mod pool;
mod proxy;
mod pump;
mod tls;

use std::time::{Duration, Instant};

pub use failure::{Failure, Phase};
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
}

/// What came of one exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The response, whose spans point into `reply`, or why there is none.
    pub result: Result<Response, Failure>,
    /// The request, handed back unchanged.
    pub request: Vec<u8>,
    /// What was received, for the caller to read and to hand in again with the next exchange.
    pub reply: Vec<u8>,
    /// When the first byte of an answer came.
    pub first_byte_at: Option<Instant>,
    /// Whether a stale connection made a second sending necessary.
    pub resent: bool,
}

#[cfg(test)]
mod tests;
