//! HTTP/2: many exchanges share a connection. [`crate::http2`] does frames, header compression and
//! flow control; one task per connection moves its bytes.
//!
//! [`connection`] is that task and its handle, [`group`] the connections to one target and the
//! queue for their streams, [`stream`] one exchange, [`request`] the heads that were translated.

mod connection;
mod group;
mod request;
mod stream;

pub use group::CONNECTIONS_MAX;

pub(super) use connection::serve;
pub(super) use group::{Group, Opening, Slot, Turn};
pub(super) use request::HeadCache;
pub(super) use stream::{Ended, Sending, perform, room};
