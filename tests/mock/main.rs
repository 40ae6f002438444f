//! The trial endpoint over real sockets.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod answers;
mod client;
mod faults;
mod limits;
