//! Calls a task that is there for the whole run, where one started anew each time would cost memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module. Rung several times before the task gets its turn, it is heard once.
#[derive(Default)]
pub(super) struct Bell {
    is_rung: Cell<bool>,
    listener: Cell<Option<Waker>>,
}

impl Bell {
    /// Calls the task: it runs after those that are ready now.
    pub(super) fn ring(&self) {
        self.is_rung.set(true);
        if let Some(listener) = self.listener.take() {
            listener.wake();
        }
    }

    /// Waits for the next call. One task may listen.
    pub(super) async fn heard(&self) {
        poll_fn(|context| match self.is_rung.replace(false) {
            true => Poll::Ready(()),
            false => {
                self.listener.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
    }

    /// Nobody will ring any more: a task that only waits for that ends, and lets go of what it holds.
    pub(super) fn fall_silent(&self) {
        drop(self.listener.take());
    }
}
