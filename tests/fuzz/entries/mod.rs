//! What the fuzzer calls, and `tests/corpus.rs` with the seeds: bytes in, and a panic if something
//! that must always hold does not.
//!
//! The first bytes of an input choose what a caller would choose (a format, an API path, the sizes
//! of the reads); the rest is what the world sends.

#![allow(dead_code, reason = "each fuzz target uses one entry function")]

mod config;
mod http2;
mod journal;
mod line;
mod members;
mod response;
mod stream;
mod verdict;

pub use config::config;
pub use http2::http2;
pub use journal::journal;
pub use line::line;
pub use response::response;
pub use stream::stream;
pub use verdict::verdict;

/// An entry function with its name, which is also that of its target and of its corpus.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry function.
pub const ENTRIES: [Entry; 7] = [
    ("line", line),
    ("response", response),
    ("http2", http2),
    ("stream", stream),
    ("verdict", verdict),
    ("journal", journal),
    ("config", config),
];
