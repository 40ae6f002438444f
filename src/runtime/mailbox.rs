//! Messages from any thread into a shard.
//!
//! A queue and a waker. The queue is unbounded because its protocols are bounded: every message
//! answers a request or belongs to a fixed set of events.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, TryRecvError};

/// Opens a mailbox.
pub fn channel<T: Send>() -> (Sender<T>, Mailbox<T>) {
    let (sender, queue) = crossbeam_channel::unbounded();
    let waker = Arc::new(AtomicWaker::new());
    let sender = Sender {
        queue: sender,
        waker: WakeOnDrop(Arc::clone(&waker)),
    };
    (sender, Mailbox { queue, waker })
}

/// Puts messages into a mailbox from any thread.
pub struct Sender<T> {
    // Dropped first (fields drop in order), so that the receiver woken by `waker` sees it gone.
    queue: crossbeam_channel::Sender<T>,
    waker: WakeOnDrop,
}

impl<T: Send> Sender<T> {
    /// Queues `message` and wakes the receiver; never blocks. A message whose mailbox is gone
    /// comes back.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.queue
            .send(message)
            .map_err(|refused| refused.into_inner())?;
        self.waker.0.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            waker: WakeOnDrop(Arc::clone(&self.waker.0)),
        }
    }
}

struct WakeOnDrop(Arc<AtomicWaker>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// The receiving end; one task at a time may wait on it.
pub struct Mailbox<T> {
    queue: Receiver<T>,
    waker: Arc<AtomicWaker>,
}

impl<T> Mailbox<T> {
    /// The next message; `None` once it is empty and every sender is gone.
    pub async fn recv(&self) -> Option<T> {
        poll_fn(|context| {
            if let Poll::Ready(message) = self.poll_queue() {
                return Poll::Ready(message);
            }
            self.waker.register(context.waker());
            // A message sent between the look and the registration woke nobody: look again.
            self.poll_queue()
        })
        .await
    }

    /// The next message, if one is here.
    pub fn try_recv(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    fn poll_queue(&self) -> Poll<Option<T>> {
        match self.queue.try_recv() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }
}
