//! A blocking call on a thread of its own, as a future that any executor can await.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use atomic_waker::AtomicWaker;

/// Completes when the thread does. Dropping it leaves the thread running.
pub(super) struct OnThread<T> {
    thread: Option<JoinHandle<T>>,
    end: Arc<End>,
}

/// Wakes the awaiting task when the thread ends, also by a panic.
struct WakeAtEnd(Arc<End>);

/// What the thread and the future share.
#[derive(Default)]
struct End {
    reached: AtomicBool,
    waker: AtomicWaker,
}

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.reached.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl<T: Send + 'static> OnThread<T> {
    /// Starts `work` at once.
    ///
    /// # Panics
    /// The system gives no thread.
    pub(super) fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let end = Arc::<End>::default();
        let at_end = WakeAtEnd(Arc::clone(&end));
        let thread = thread::Builder::new()
            .name("blaze-run".to_owned())
            .spawn(move || {
                let _at_end = at_end;
                work()
            })
            .expect("the system gives a thread");
        Self {
            thread: Some(thread),
            end,
        }
    }
}

impl<T> Future for OnThread<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.end.waker.register(context.waker());
        if !self.end.reached.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let thread = self.thread.take().expect("polled after completion");
        // The work is done: joining takes no time.
        match thread.join() {
            Ok(value) => Poll::Ready(value),
            Err(panic) => resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn the_value_arrives_whenever_it_is_polled() {
        for _ in 0..200 {
            let mut future = OnThread::start(|| 7);
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let mut context = Context::from_waker(&waker);
            let value = loop {
                match Pin::new(&mut future).poll(&mut context) {
                    Poll::Ready(value) => break value,
                    Poll::Pending => thread::park(),
                }
            };
            assert_eq!(value, 7);
        }
    }
}
