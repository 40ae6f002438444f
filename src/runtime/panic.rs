//! Keeps a panicking task from taking its shard down.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// A task panicked; holds the panic's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panicked(pub String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal error: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Awaits `future` and turns a panic inside it into an error.
///
/// State shared with the future may be left half changed: drop what the future owned, and share
/// only what stays sound between any two statements.
pub fn catch_panic<F: Future>(future: F) -> CatchPanic<F> {
    CatchPanic { future }
}

pin_project! {
    /// See [`catch_panic`]. A type of its own: an `async fn` would hold its argument twice, and every
    /// request in flight is such an argument.
    pub struct CatchPanic<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future<Output = ()>> CatchPanic<F> {
    /// A whole task: `handle` hears of a panic.
    pub fn or_else<H: FnOnce(Panicked)>(self, handle: H) -> OrElse<F, H> {
        OrElse {
            caught: self,
            handle: Some(handle),
        }
    }
}

pin_project! {
    /// See [`CatchPanic::or_else`]; a type of its own for the same reason.
    pub struct OrElse<F, H> {
        #[pin]
        caught: CatchPanic<F>,
        handle: Option<H>,
    }
}

impl<F: Future<Output = ()>, H: FnOnce(Panicked)> Future for OrElse<F, H> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.caught.poll(context).map(|outcome| {
            if let (Err(panic), Some(handle)) = (outcome, this.handle.take()) {
                handle(panic);
            }
        })
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(poll) => poll.map(Ok),
            // Ready, so the future that panicked is never polled again.
            Err(payload) => Poll::Ready(Err(Panicked(message(payload.as_ref())))),
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_owned()
    }
}
