//! blaze-uring sends every line of a JSONL file to LLM HTTP endpoints, and every line ends in
//! exactly one record.
//!
//! Layers, top to bottom; imports point down only (`tests/architecture.rs` checks it):
//! faces (`cli`, `demo`) → `processor`, `calls` → `batch` → drivers (`client`, `mock`) → pure machines
//! (`policy`, `provider`, `http`, `journal`, `tls`) → `runtime` → vocabulary (`config`, `metrics`,
//! `json`, `error`).

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests make their own files, sockets and clocks"
    )
)]

#[doc(hidden)]
pub mod batch;
pub mod calls;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod client;
pub mod config;
#[doc(hidden)]
pub mod entra;
pub mod error;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod json;
#[doc(hidden)]
pub mod metrics;
pub mod mock;
#[doc(hidden)]
pub mod policy;
pub mod processor;
#[doc(hidden)]
pub mod provider;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod tls;

pub use calls::{CallOptions, Client};
pub use config::{Config, EndpointConfig};
pub use processor::{ProcessingResult, Processor, RunError};
