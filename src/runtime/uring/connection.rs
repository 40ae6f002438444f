//! One socket on the ring: what has come and was not read, what goes out.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::Shutdown as Direction;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;

use super::prefetch::prefetch;
use super::ring::{RECEIVES, Ring, SENDS};
use crate::runtime::{buffers, remember_waker};

/// Bytes kept of what comes while nobody reads. Beyond that the receive is taken back, so that the
/// peer has to wait.
const UNREAD_MAX: usize = 64 << 10;

/// About what a request's task holds; it runs soon after it is woken.
const TASK_BYTES: usize = 1024;

/// See the module.
pub(super) struct Connection {
    /// Closed when the kernel is done with the last operation.
    pub(super) descriptor: OwnedFd,
    /// Its number on the ring.
    pub(super) place: usize,
    receiving: RefCell<Receiving>,
    sending: RefCell<Sending>,
    /// Waits for the next turn of the ring.
    queued: Cell<bool>,
    /// Both halves are gone.
    closed: Cell<bool>,
    /// The next request goes out only if nothing comes before it.
    expects_quiet: Cell<bool>,
    /// The ring holds something that was received.
    expects_news: Cell<bool>,
}

#[derive(Default)]
struct Receiving {
    /// What has come, the first `taken` bytes of it read; without capacity if nothing is left.
    unread: Vec<u8>,
    taken: usize,
    /// What ended the stream: 0 by the peer's close, else the number of an error.
    end: Option<i32>,
    /// In the ring.
    armed: bool,
    /// To be put there.
    wanted: bool,
    /// Somebody waits for what comes, and will take it.
    reading: bool,
    /// The receive is being taken back.
    cancelled: bool,
    reader: Option<Waker>,
}

#[derive(Default)]
struct Sending {
    state: State,
    told: Told,
    writer: Option<Waker>,
}

/// When the task that sends is woken.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Told {
    /// When everything is sent, or that has failed.
    #[default]
    Always,
    /// Only when it has failed; what is sent goes to [`buffers`].
    OfFailure,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// To be put into the ring, from this byte on.
    Queued(Vec<u8>, usize),
    /// In the ring.
    Sending(Vec<u8>, usize),
    Done(io::Result<()>, Vec<u8>),
}

impl Connection {
    pub(super) fn new(descriptor: OwnedFd, place: usize) -> Self {
        Self {
            descriptor,
            place,
            receiving: RefCell::default(),
            sending: RefCell::default(),
            queued: Cell::new(false),
            closed: Cell::new(false),
            expects_quiet: Cell::new(false),
            expects_news: Cell::new(false),
        }
    }

    /// Waits for something to read: bytes, the end, an error.
    pub(super) fn poll_ready(self: &Rc<Self>, ring: &Ring, context: &Context<'_>) -> Poll<()> {
        let mut receiving = self.receiving.borrow_mut();
        if receiving.has_news() {
            return Poll::Ready(());
        }
        receiving.reading = true;
        remember_waker(&mut receiving.reader, context.waker());
        if !receiving.armed && !receiving.wanted {
            receiving.wanted = true;
            self.enqueue(ring);
        }
        Poll::Pending
    }

    /// Appends what there is to `buffer`, as far as it has room; `None` if there is nothing yet.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
        let mut receiving = self.receiving.borrow_mut();
        let count = receiving.take(buffer);
        if count == 0 {
            return receiving.end.map(|error| match error {
                0 => Ok(0),
                error => Err(io::Error::from_raw_os_error(error)),
            });
        }
        // Whoever took a part may want no more for long: from here on only a wait counts as reading.
        receiving.reading = false;
        Some(Ok(count))
    }

    /// Begins to send; the next turn of the ring puts it in. One at a time.
    pub(super) fn start_sending(self: &Rc<Self>, ring: &Ring, buffer: Vec<u8>, told: Told) {
        let mut sending = self.sending.borrow_mut();
        let state = match sending.state {
            State::Idle => State::Queued(buffer, 0),
            // An earlier one was given up: how much of it went out, nobody knows.
            _ => State::Done(Err(io::ErrorKind::BrokenPipe.into()), buffer),
        };
        let queued = matches!(state, State::Queued(..));
        sending.state = state;
        sending.told = told;
        drop(sending);
        if queued {
            self.enqueue(ring);
        }
    }

    /// Waits for what [`Connection::start_sending`] began.
    pub(super) fn poll_sent(&self, context: &Context<'_>) -> Poll<(io::Result<()>, Vec<u8>)> {
        let mut sending = self.sending.borrow_mut();
        if let State::Done(..) = sending.state
            && let State::Done(result, buffer) = mem::take(&mut sending.state)
        {
            return Poll::Ready((result, buffer));
        }
        remember_waker(&mut sending.writer, context.waker());
        Poll::Pending
    }

    /// Whether the peer has said nothing that was not read, and has not closed. From here on until the
    /// next request is on its way, it must not: what came before a request is no answer to it, so the
    /// request stays here, and both halves fail with `NotConnected`.
    pub(super) fn is_quiet(&self) -> bool {
        self.expects_quiet.set(true);
        let receiving = self.receiving.borrow();
        if receiving.has_news() || self.expects_news.get() {
            return false;
        }
        if receiving.armed {
            return true;
        }
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let peeked =
            SockRef::from(&self.descriptor).recv_with_flags(&mut [MaybeUninit::uninit()], flags);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// A completion of the receive waits to be handed out.
    pub(super) fn expect_news(&self) {
        self.expects_news.set(true);
    }

    /// Both ways, also for operations in the ring.
    pub(super) fn shutdown(&self) {
        // Fails only where the peer has already gone, which is what is wanted.
        let _ = SockRef::from(&self.descriptor).shutdown(Direction::Both);
    }

    /// Nobody will be woken any more.
    pub(super) fn forget_wakers(&self) {
        let reader = self.receiving.borrow_mut().reader.take();
        let writer = self.sending.borrow_mut().writer.take();
        drop((reader, writer));
    }

    /// Both halves are gone: closes the socket as soon as the kernel has given up its operations. They
    /// are taken back rather than ended by a shutdown: closing then resets a peer that still sends,
    /// which would else wait for a window that nobody opens any more.
    pub(super) fn close(self: &Rc<Self>, ring: &Ring) {
        self.closed.set(true);
        self.receiving.borrow_mut().discard();
        if self.is_busy() {
            self.enqueue(ring);
        } else {
            ring.dismiss(self.place);
        }
    }

    /// The ring ends: so does every operation, and whoever waits is told.
    pub(super) fn abandon(self: &Rc<Self>, ring: &Ring) {
        self.receiving
            .borrow_mut()
            .end
            .get_or_insert(libc::ECONNABORTED);
        if self.is_busy() {
            self.enqueue(ring);
        }
    }

    /// Whether an operation is in the ring.
    pub(super) fn is_busy(&self) -> bool {
        self.receiving.borrow().armed || matches!(self.sending.borrow().state, State::Sending(..))
    }

    fn enqueue(self: &Rc<Self>, ring: &Ring) {
        if !self.queued.replace(true) {
            ring.enqueue(self);
        }
    }

    /// Puts into the ring what waits for it. Whether that woke a task.
    pub(super) fn submit(self: &Rc<Self>, ring: &Ring) -> bool {
        self.queued.set(false);
        let mut sending = self.sending.borrow_mut();
        let mut receiving = self.receiving.borrow_mut();
        if self.closed.get() || ring.has_ended() {
            if receiving.armed {
                self.cancel(ring, RECEIVES);
            }
            if let State::Sending(..) = sending.state {
                self.cancel(ring, SENDS);
            }
            return false;
        }
        let mut woke = false;
        if let State::Queued(..) = sending.state
            && let State::Queued(buffer, from) = mem::take(&mut sending.state)
        {
            if self.expects_quiet.take() && (receiving.has_news() || self.expects_news.get()) {
                receiving.discard();
                receiving.end = Some(libc::ENOTCONN);
                receiving.wanted = false;
                self.shutdown();
                sending.state = State::Done(Err(io::ErrorKind::NotConnected.into()), buffer);
                return sending.wake() | receiving.wake();
            }
            // SAFETY: the buffer stays in the state, untouched, until `sent`.
            let pushed = unsafe { ring.push_send(self, &buffer[from..]) };
            if let Err(error) = pushed {
                sending.state = State::Done(Err(error), buffer);
                woke = sending.wake();
            } else {
                sending.state = State::Sending(buffer, from);
            }
        }
        if mem::take(&mut receiving.wanted) {
            if receiving.has_news() {
                woke |= receiving.wake();
            } else if ring.lend() {
                match ring.push_receive(self) {
                    Ok(()) => {
                        receiving.armed = true;
                        receiving.cancelled = false;
                    }
                    Err(error) => {
                        receiving.end = error.raw_os_error();
                        woke |= receiving.wake();
                    }
                }
            } else {
                receiving.wanted = true;
                self.enqueue(ring);
            }
        }
        woke
    }

    /// Takes an operation back.
    fn cancel(&self, ring: &Ring, operation: u64) {
        if ring.push_cancel(self, operation).is_err() {
            // This ends it, too.
            self.shutdown();
        }
    }

    /// A completion of the receive: bytes in `buffer`, the end of the stream, or an error. `more`: it
    /// goes on. Whether that woke a task.
    pub(super) fn received(
        self: &Rc<Self>,
        ring: &Ring,
        result: i32,
        buffer: Option<u16>,
        more: bool,
    ) -> bool {
        self.expects_news.set(false);
        let mut receiving = self.receiving.borrow_mut();
        receiving.armed = more;
        match (result, buffer) {
            (1.., Some(buffer)) => {
                if !self.closed.get() && receiving.end.is_none() {
                    receiving.keep(ring.buffers.bytes(buffer, result as u16));
                    let held_back = !receiving.reading && receiving.left() > UNREAD_MAX;
                    if held_back && receiving.armed && !mem::replace(&mut receiving.cancelled, true)
                    {
                        self.cancel(ring, RECEIVES);
                    }
                }
                ring.buffers.give(buffer);
            }
            (result, buffer) => {
                if let Some(buffer) = buffer {
                    ring.buffers.give(buffer);
                }
                match -result {
                    // No buffer was free, the receive was taken back, or a signal came: whoever
                    // reads on begins a new one.
                    libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                    error => {
                        receiving.end.get_or_insert(error);
                    }
                }
            }
        }
        if self.closed.get() {
            drop(receiving);
            if !self.is_busy() {
                ring.dismiss(self.place);
            }
            return false;
        }
        if receiving.has_news() {
            return receiving.wake();
        }
        if receiving.reading && !receiving.armed {
            receiving.wanted = true;
            self.enqueue(ring);
        }
        false
    }

    /// The completion of a send. Whether that woke a task.
    pub(super) fn sent(self: &Rc<Self>, ring: &Ring, result: i32) -> bool {
        let mut sending = self.sending.borrow_mut();
        let State::Sending(buffer, from) = mem::take(&mut sending.state) else {
            unreachable!("only a send in the ring completes");
        };
        if self.closed.get() {
            drop(sending);
            if !self.is_busy() {
                ring.dismiss(self.place);
            }
            return false;
        }
        let from = from + result.max(0) as usize;
        let outcome = match -result {
            libc::EINTR | libc::EAGAIN => None,
            0 => Some(Err(io::ErrorKind::WriteZero.into())),
            error @ 1.. => Some(Err(io::Error::from_raw_os_error(error))),
            _ => (from == buffer.len()).then_some(Ok(())),
        };
        let Some(outcome) = outcome else {
            sending.state = State::Queued(buffer, from);
            drop(sending);
            self.enqueue(ring);
            return false;
        };
        if outcome.is_ok() && sending.told == Told::OfFailure {
            buffers::give_back(buffer);
            sending.state = State::Done(outcome, Vec::new());
            sending.writer = None;
            return false;
        }
        sending.state = State::Done(outcome, buffer);
        sending.wake()
    }
}

impl Receiving {
    /// Whether a read would not have to wait.
    fn has_news(&self) -> bool {
        !self.unread.is_empty() || self.end.is_some()
    }

    /// Bytes that have come and were not read.
    fn left(&self) -> usize {
        self.unread.len() - self.taken
    }

    /// Copies what has come, so that its buffer is free for the next.
    fn keep(&mut self, bytes: &[u8]) {
        if self.unread.capacity() == 0 {
            self.unread = buffers::take();
        }
        self.unread.extend_from_slice(bytes);
    }

    /// Moves what has come to `buffer`, as far as it has room; how much. Into an empty one without a copy.
    fn take(&mut self, buffer: &mut Vec<u8>) -> usize {
        let unread = &self.unread[self.taken..];
        let count = unread.len().min(buffer.capacity() - buffer.len());
        if count == 0 {
            return 0;
        }
        if buffer.is_empty() && count == self.unread.len() {
            mem::swap(buffer, &mut self.unread);
        } else {
            buffer.extend_from_slice(&unread[..count]);
            self.taken += count;
            if self.taken < self.unread.len() {
                return count;
            }
        }
        self.discard();
        count
    }

    /// Lets go of what was not read.
    fn discard(&mut self) {
        buffers::give_back(mem::take(&mut self.unread));
        self.taken = 0;
    }

    fn wake(&mut self) -> bool {
        let reader = self.reader.take();
        reader
            .map(|reader| {
                prefetch(reader.data(), TASK_BYTES);
                reader.wake();
            })
            .is_some()
    }
}

impl Sending {
    fn wake(&mut self) -> bool {
        self.writer.take().map(Waker::wake).is_some()
    }
}
