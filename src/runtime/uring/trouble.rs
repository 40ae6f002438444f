//! Whether the kernel still does anything for a ring. A call that fails now and then (a signal, no memory, a
//! full completion queue) is made again in the next turn; a ring whose calls all fail is given up, and what
//! runs on it ends. Otherwise its requests would wait for ever: an operation that the kernel never took
//! is not ended by a shutdown of its socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::runtime::remember_waker;

/// How long calls may fail without one that succeeds between them.
const FAILING_MAX: Duration = Duration::from_secs(2);
/// And how many must, at least: two failures far apart prove nothing. A ring with work makes thousands of
/// calls in that time.
const FAILURES_MIN: u32 = 100;

/// See the module.
#[derive(Default)]
pub(super) struct Trouble {
    /// When the failures that no success has followed began, and how many they are.
    failures: Cell<Option<(Instant, u32)>>,
    /// The last error of a ring that is given up.
    verdict: Cell<Option<i32>>,
    waits: RefCell<Option<Waker>>,
}

impl Trouble {
    /// A call succeeded.
    pub(super) fn over(&self) {
        self.failures.set(None);
    }

    /// A call failed.
    pub(super) fn note(&self, error: &io::Error, now: Instant) {
        let (since, count) = self.failures.get().unwrap_or((now, 0));
        let count = count.saturating_add(1);
        self.failures.set(Some((since, count)));
        if count >= FAILURES_MIN && now.duration_since(since) >= FAILING_MAX {
            self.verdict.set(error.raw_os_error());
            if let Some(waiting) = self.waits.take() {
                waiting.wake();
            }
        }
    }

    /// Completes when the ring is given up.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<io::Error> {
        let Some(error) = self.verdict.get() else {
            remember_waker(&mut self.waits.borrow_mut(), context.waker());
            return Poll::Pending;
        };
        let error = io::Error::from_raw_os_error(error);
        let text = format!(
            "the system fails every io_uring_enter ({error}), --runtime tokio does without"
        );
        Poll::Ready(io::Error::new(error.kind(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::repeat_n;

    /// Failures at these moments, in seconds, or successes (`None`): whether the ring is given up.
    fn check(calls: impl IntoIterator<Item = Option<f64>>, given_up: bool) {
        let (trouble, start) = (Trouble::default(), crate::runtime::now());
        for call in calls {
            match call {
                Some(at) => trouble.note(
                    &io::Error::from_raw_os_error(libc::EBUSY),
                    start + Duration::from_secs_f64(at),
                ),
                None => trouble.over(),
            }
        }
        let context = Context::from_waker(Waker::noop());
        assert_eq!(trouble.poll(&context).is_ready(), given_up);
    }

    #[test]
    fn only_failures_that_last_count() {
        check([], false);
        check([Some(0.0), Some(60.0)], false);
        check(repeat_n(Some(0.0), 10_000), false);
        let lasting = |tenths: u32| (0..tenths).map(|tenth| Some(f64::from(tenth) / 100.0));
        check(lasting(200), false);
        check(lasting(202), true);
        check(
            lasting(150).chain([None]).chain(lasting(202).skip(150)),
            false,
        );
    }
}
