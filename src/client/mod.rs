//! Connection pump and per-shard pool.
