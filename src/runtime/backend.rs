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

/// Runs `main` on this thread until it is done. With [`RuntimeChoice::Auto`] a thread whose ring is
/// refused (each takes its share of a limit that one alone did not exhaust) goes on with tokio.
///
/// # Errors
/// The kernel refuses what the runtime needs.
pub fn run(backend: Backend, choice: RuntimeChoice, main: impl ShardMain) -> io::Result<()> {
    if backend == Backend::Tokio {
        return Tokio::run(main.run::<Tokio>());
    }
    let mut main = Some(main);
    let result = Uring::run(async {
        if let Some(main) = main.take() {
            main.run::<Uring>().await;
        }
    });
    match (result, main) {
        // The runtime could not be built, so nothing has begun.
        (Err(refused), Some(main)) if choice == RuntimeChoice::Auto => {
            tracing::warn!("io_uring cannot be used by this core ({refused}); it runs on tokio");
            Tokio::run(main.run::<Tokio>())
        }
        (result, _) => result,
    }
}
