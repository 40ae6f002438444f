//! HTTP/2: many exchanges share a connection. The `h2` crate does frames, header compression and
//! flow control, fed through a [`crate::runtime::pipe`] by one task per connection.
//!
//! [`connection`] is that task and its handle, [`group`] the connections to one target and the
//! queue for their streams, [`stream`] one exchange, [`request`] its head in HTTP/2's terms.

mod connection;
mod group;
mod request;
mod stream;

pub use group::CONNECTIONS_MAX;

pub(super) use connection::serve;
pub(super) use group::{Group, Opening, Slot, Turn};
pub(super) use request::HeadCache;
pub(super) use stream::{Ended, Sending, perform};
