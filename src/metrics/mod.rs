//! Plain counters and histograms, and their export.

pub mod tokens;
