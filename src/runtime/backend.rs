//! Which backend drives the shards, decided at start-up.

use std::future::Future;
use std::io;

use super::Runtime;
use super::tokio::Tokio;
use super::uring::{Uring, uring_available};
use crate::config::RuntimeChoice;

/// A backend that this machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// The portable one.
    Tokio,
}

/// Work that runs on whichever backend was chosen.
pub trait ShardMain {
    /// The thread's main task.
    fn run<R: Runtime>(self) -> impl Future<Output = ()>;
}

impl Backend {
    /// The backend for `choice`; with [`RuntimeChoice::Auto`] also why io_uring was not taken.
    ///
    /// # Errors
    /// io_uring was asked for and is refused here; the text says by what.
    pub fn choose(choice: RuntimeChoice) -> Result<(Self, Option<String>), String> {
        match (choice, uring_available()) {
            (RuntimeChoice::Tokio, _) => Ok((Self::Tokio, None)),
            (RuntimeChoice::Auto | RuntimeChoice::Uring, Ok(())) => Ok((Self::Uring, None)),
            (RuntimeChoice::Auto, Err(reason)) => Ok((Self::Tokio, Some(reason))),
            (RuntimeChoice::Uring, Err(reason)) => Err(format!(
                "--runtime uring: io_uring cannot be used here: {reason}; use --runtime auto or tokio"
            )),
        }
    }

    /// As in logs and summaries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => Uring::NAME,
            Self::Tokio => Tokio::NAME,
        }
    }
}

/// Runs `main` on this thread until it is done.
///
/// # Errors
/// The kernel refuses what the runtime needs.
pub fn run(backend: Backend, main: impl ShardMain) -> io::Result<()> {
    match backend {
        Backend::Uring => Uring::run(main.run::<Uring>()),
        Backend::Tokio => Tokio::run(main.run::<Tokio>()),
    }
}
