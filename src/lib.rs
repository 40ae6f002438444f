//! blaze-uring sends every line of a JSONL file to LLM HTTP endpoints, and every line ends in
//! exactly one record.
//!
//! Layers, top to bottom; imports point down only (`tests/architecture.rs` checks it):
//! faces (`cli`, `demo`) → `processor`, `calls` → `batch` → drivers (`client`, `mock`) → pure machines
//! (`policy`, `provider`, `http`, `journal`, `tls`) → `runtime` → vocabulary (`config`, `metrics`,
//! `json`, `error`).
//!
//! # As a library
//!
//! [`Processor`] does what the command line does. The engine owns its threads, so its future can be
//! awaited on any executor; [`Processor::process_file_blocking`] needs none.
//!
//! A configuration is built in code, or read by [`Config::from_file`].
//!
//! ```
//! use blaze_uring::mock::{Mock, MockOptions};
//! use blaze_uring::{Config, EndpointConfig, Processor};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = |name: &str| folder.path().join(name);
//! # std::fs::write(path("requests.jsonl"), "{\"input\": \"hello\", \"id\": 7}\n{\"input\": \"world\"}\n")?;
//! // The trial endpoint stands for a real one, such as https://api.openai.com/v1.
//! let mock = Mock::start(MockOptions::default())?;
//! let config = Config {
//!     endpoints: vec![EndpointConfig { url: mock.url("/v1"), ..Default::default() }],
//!     ..Default::default()
//! };
//! # let run = async {
//! let result = Processor::new(config)?
//!     .process_file(path("requests.jsonl"), Some(path("results.jsonl")), path("errors.jsonl"), true)
//!     .await?;
//! result.print_summary();
//! assert_eq!(result.success_count, 2);
//! # Ok::<(), blaze_uring::RunError>(())
//! # };
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(run)?;
//! # assert_eq!(mock.stats().requests, 2);
//! # assert_eq!(std::fs::read_to_string(path("results.jsonl"))?.lines().count(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests make their own files, sockets and clocks"
    )
)]

#[doc(hidden)]
pub mod batch;
mod block;
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
pub mod http2;
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
#[cfg(test)]
mod simulation;
#[doc(hidden)]
pub mod tls;

pub use calls::{CallOptions, Client};
pub use config::{Config, EndpointConfig, RequestConfig, RetryConfig};
pub use processor::{ProcessingResult, Processor, RunError};
