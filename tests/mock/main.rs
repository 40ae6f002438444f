//! The trial endpoint over real sockets.

mod answers;
mod client;
mod faults;
mod limits;
