//! HTTP/2 at a client's end (RFC 9113): bytes come in and go out, requests and answers stand on the
//! other side. Pure: sockets, TLS, tasks and clocks are elsewhere.
//!
//! [`Connection`] is the machine. It writes requests straight into what goes out next, and the fields
//! and bodies of answers, as they come, straight into the buffer that their exchange is left with. So
//! a stream that waits holds about a hundred bytes, and a usual request or answer is copied once.

mod connection;
mod fields;
mod frame;
mod hpack;
mod incoming;
mod request;
mod stream;
mod upload;

pub use connection::{Backlog, Connection, Key, STREAMS_MAX};
pub use frame::Reason;
pub use request::RequestHead;
pub use stream::{Fault, State, Stream};

#[cfg(test)]
mod tests;
