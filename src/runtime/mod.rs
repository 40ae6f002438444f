//! The only place that names a runtime, and the home of the clock.
//!
//! A [`Runtime`] drives one shard: a single thread with its own tasks, timers and sockets. Buffers
//! are owned across the seam because io_uring writes into memory while nobody may borrow it. Both
//! backends are whole files: `uring` (io_uring through monoio, Linux) and `tokio` (portable).

#![expect(
    clippy::disallowed_methods,
    reason = "the clock and the files of the system live here"
)]

pub mod awaited;
pub mod backend;
pub mod buffers;
pub mod cores;
pub mod dns;
pub mod files;
#[cfg(target_os = "linux")]
pub mod kernel_time;
#[cfg(not(target_os = "linux"))]
#[path = "kernel_time_absent.rs"]
pub mod kernel_time;
pub mod mailbox;
mod panic;
pub mod pause;
pub mod process;
#[cfg(test)]
pub mod simulated;
#[cfg(not(test))]
#[path = "simulated_absent.rs"]
pub mod simulated;
pub mod tokio;
#[cfg(all(target_os = "linux", feature = "uring"))]
pub mod uring;
#[cfg(not(all(target_os = "linux", feature = "uring")))]
#[path = "uring_absent.rs"]
pub mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Weak;
use std::task::Waker;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use cores::{available_cores, parallel_threads, pin_current_thread};
pub use panic::{Panicked, catch_panic};
pub use uring::uring_available;

/// One thread's executor, timers and sockets.
pub trait Runtime: 'static + Sized {
    /// Name in logs and summaries.
    const NAME: &'static str;
    /// The receiving half of a connection.
    type Reader: Read;
    /// The sending half of a connection.
    type Writer: Write;

    /// Builds the runtime on this thread and blocks until `main` is done.
    ///
    /// Tasks still running then are dropped, or leaked where the kernel may still write into their
    /// buffers: end them first. Fails when the kernel refuses what the runtime needs.
    fn run<T>(main: impl Future<Output = T>) -> io::Result<T>;

    /// Starts a task on this thread. A panic in it must not reach the runtime (on io_uring it would
    /// end the whole core): wrap whatever may panic in [`catch_panic`].
    fn spawn(task: impl Future<Output = ()> + 'static);

    /// Completes at `at`, up to 2 ms late.
    fn sleep_until(at: Instant) -> impl Future<Output = ()>;

    /// Opens a TCP connection with `TCP_NODELAY`. Dropping the future gives the attempt up.
    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<Socket<Self>>>;

    /// Lets every other task run, and the kernel deliver what has completed, before it returns.
    fn yield_now() -> impl Future<Output = ()>;
}

/// An open TCP connection. It closes when both halves are dropped.
pub struct Socket<R: Runtime> {
    /// Receives.
    pub reader: R::Reader,
    /// Sends; may be in use while `reader` is.
    pub writer: R::Writer,
    /// Ends operations in flight on either half.
    pub abort: Abort,
}

/// The receiving half of a connection, or a layer over one.
pub trait Read: 'static {
    /// Completes when a read would not wait: for bytes, for the end of the stream, or for an error, which
    /// the read reports. It holds no buffer, so whoever takes one only then holds none while a server
    /// thinks. A layer such as TLS may complete early: when bytes are there that make no whole record.
    fn ready(&mut self) -> impl Future<Output = ()>;

    /// Appends at least one byte to the spare capacity of `buffer`, which the caller has reserved
    /// (a full buffer is a bug), and hands it back with the number of bytes; 0 is the end of the
    /// stream. Await it to its end: a read that is given up loses its buffer and what it received.
    fn read(&mut self, buffer: Vec<u8>) -> impl Future<Output = (io::Result<usize>, Vec<u8>)>;
}

/// The sending half of a connection, or a layer over one.
pub trait Write: 'static {
    /// Sends all of `buffer` and hands it back unchanged.
    fn write_all(&mut self, buffer: Vec<u8>) -> impl Future<Output = (io::Result<()>, Vec<u8>)>;

    /// The same for whoever waits for an answer meanwhile: `buffer` goes to [`buffers`] when it is sent.
    /// Failure wakes the task, success need not: poll this again when the answer comes. Who drops it before
    /// its end must write nothing more.
    fn send(&mut self, buffer: Vec<u8>) -> impl Future<Output = io::Result<()>> {
        async {
            let (outcome, buffer) = self.write_all(buffer).await;
            buffers::give_back(buffer);
            outcome
        }
    }
}

/// Ends whatever is in flight on a socket without dropping a future: `shutdown(2)` both ways, so
/// that a pending read sees the end of the stream and a pending write an error.
///
/// It does not keep the socket open and does nothing once the socket is closed, so it can never
/// hit another connection that was given the same descriptor.
#[derive(Clone)]
pub struct Abort(Weak<dyn Shutdown>);

impl Abort {
    /// Shuts the socket down both ways, if it is still open.
    pub fn abort(&self) {
        if let Some(socket) = self.0.upgrade() {
            socket.shutdown();
        }
    }

    /// Whether the socket is open and holds nothing to be read, the end of the stream included. Does not
    /// wait. Ask right before a write: a runtime that sends later looks again then, and if something has
    /// come, nothing is sent and both halves fail with `NotConnected`.
    pub fn is_quiet(&self) -> bool {
        self.0.upgrade().is_some_and(|socket| socket.is_quiet())
    }
}

/// A backend's socket, as far as [`Abort`] needs it.
trait Shutdown {
    /// `shutdown(2)` both ways; a connection that is already gone is fine.
    fn shutdown(&self);

    /// See [`Abort::is_quiet`].
    fn is_quiet(&self) -> bool;
}

/// Has `slot` hold `waker`, without a copy if it would wake the same task already.
pub fn remember_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) => known.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    simulated::current().map_or_else(Instant::now, |world| world.now())
}

/// Microseconds since 1970 by the wall clock; 0 for a clock set before that.
pub fn unix_micros() -> u64 {
    if let Some(world) = simulated::current() {
        return world.unix_micros();
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| {
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests;
