//! What happened in a world, as a number that any difference changes, and for people if they ask.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// See the module.
pub(super) struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    is_shown: bool,
}

impl Trace {
    pub(super) fn new(is_shown: bool) -> Self {
        Self {
            hash: Cell::new(0),
            events: Cell::new(0),
            is_shown,
        }
    }

    /// One more thing happened; `detail` is for people.
    pub(super) fn event(
        &self,
        at: Duration,
        thread: usize,
        what: &'static str,
        number: u64,
        detail: impl FnOnce() -> String,
    ) {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&(at.as_nanos() as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..].copy_from_slice(&(thread as u64).to_le_bytes());
        let hash = xxh3_64_with_seed(what.as_bytes(), self.hash.get());
        self.hash.set(xxh3_64_with_seed(&bytes, hash));
        self.events.set(self.events.get() + 1);
        if self.is_shown {
            let seconds = at.as_secs_f64();
            println!("{seconds:12.6} [{thread}] {what} {number} {}", detail());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(super) fn events(&self) -> u64 {
        self.events.get()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events, {:016x}", self.events(), self.hash())
    }
}
