//! The wire as it really is: answers that are broken, cut, slow or hostile, TLS, proxies, streams
//! and providers, each through the whole program on both runtimes. Whatever happens to one line, it
//! ends in one record of its own, and the other lines never notice.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

#[path = "../support/authority.rs"]
mod authority;
mod batch;
mod codings;
mod connections;
mod cuts;
#[allow(dead_code, reason = "the unit tests of codings use the rest")]
#[path = "../../src/http/coding/tests/encoders.rs"]
mod encoders;
mod framing;
mod hostile;
mod providers;
mod proxies;
mod servers;
mod spending;
mod stream_forms;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tls;
