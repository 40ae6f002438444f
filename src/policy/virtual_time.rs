//! Test support: the one real instant from which the tests of this folder count virtual time.

use std::time::{Duration, Instant};

/// The start of virtual time. A real instant, because `Instant` has no other constructor; tests
/// only ever add to it.
pub fn start() -> Instant {
    Instant::now()
}

/// `ms` milliseconds.
pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
