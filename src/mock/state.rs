//! What the threads of one endpoint share: options, clock and books.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::options::MockOptions;
use super::stats::{Books, Ticket};

pub(super) struct State {
    pub options: MockOptions,
    started: Instant,
    books: Mutex<Books>,
}

impl State {
    pub(super) fn new(options: MockOptions) -> Self {
        Self {
            books: Mutex::new(Books::new(&options)),
            started: Instant::now(),
            options,
        }
    }

    /// Since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The books, for a moment: nothing waits while holding them.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // Counts stay usable whatever panicked beside them.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrive(self: &Arc<Self>, now: Duration, target: &str) -> InFlight {
        let ticket = self.books().arrive(now, target);
        InFlight {
            state: Arc::clone(self),
            ticket,
        }
    }
}

/// A request in flight; dropping it, also by a vanished client or a stopped server, ends the flight.
pub(super) struct InFlight {
    state: Arc<State>,
    pub ticket: Ticket,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.books().finish(self.ticket);
    }
}
