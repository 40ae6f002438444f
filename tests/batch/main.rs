//! The main job end to end: the real binary against the trial endpoint, on every runtime.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod console;
mod engine;
mod fields;
mod files;
mod json_logs;
mod keys;
mod lines;
mod making;
mod messages;
mod settings;
mod shapes;
mod stdout;
mod summary;
#[cfg(target_os = "linux")]
mod terminal;
