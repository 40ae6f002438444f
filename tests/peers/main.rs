//! HTTP/2 against servers that this project did not write: nghttpd, nginx and the `h2` crate, whole
//! batch files through each, on both runtimes. A tap between client and server reads every frame,
//! checks that the client keeps to the server's settings, and plays what no server does on request.
//!
//! nghttpd and nginx are Debian packages (`nghttp2-server`, `nginx-light`); where they are missing,
//! their tests say so and pass, except in CI.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

#[allow(dead_code, reason = "another test crate uses the rest")]
#[path = "../wire/batch.rs"]
mod batch;
mod books;
mod codings;
#[allow(dead_code, reason = "another test crate uses the rest")]
#[path = "../../src/http/coding/tests/encoders.rs"]
mod encoders;
mod external;
mod faults;
mod floods;
mod frame;
mod frozen;
#[allow(dead_code, reason = "the unit tests of the client use the rest")]
#[path = "../../src/client/tests/http2_server.rs"]
mod http2_server;
mod nghttpd;
mod nginx;
#[allow(dead_code, reason = "another test crate uses the rest")]
#[path = "../wire/servers.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tap;
