//! A shard's sockets: an io_uring of our own beside monoio's, for what monoio has no operation for.
//!
//! Each connection has one receive in the ring for as long as it lives (multishot, Linux 6.0): it
//! costs no system call and holds no buffer while it waits, and tells of a peer that closes or speaks
//! out of turn as soon as it does. What is sent in one turn of the loop goes out with one
//! `io_uring_enter`.
//!
//! [`drive`] is the task that turns the ring. It works behind the tasks that it has woken, so that it
//! finds all their requests at once, and sleeps on an eventfd that monoio watches: with deferred task
//! work nothing else wakes a thread that waits elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};
use monoio::net::UnixStream;

use super::buffers::{self, Buffers};
use super::connection::Connection;
use super::linger;
use super::prefetch::prefetch;
use super::trouble::Trouble;
use crate::runtime::{self, awaited, remember_waker};

/// `io_uring_enter(2)`: run deferred work and post completions.
const ENTER_GETEVENTS: u32 = 1;
/// Turns in a row that found work, before the runtime gets its own turn at the kernel: its timers and
/// messages of other threads must not starve on a busy shard.
const TURNS_MAX: u32 = 8;
/// Completions handed out before what they lead to is sent. When thousands of answers come at once, their
/// tasks go one batch after the other, with the same buffers.
const ARRIVALS_MAX: usize = 128;
/// Times that the kernel may leave a full ring full before an operation fails.
const PUSH_ROUNDS: u32 = 8;
/// How soon a ring that may hold something back is looked at again.
const PAUSE: Duration = Duration::from_millis(1);
/// How often the end of a run looks whether the kernel is done, and how long in all it waits.
const END_PAUSE: Duration = Duration::from_millis(1);
const END_ROUNDS: u32 = 1000;

/// User data of operations whose completion nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What an operation does, kept in the lowest bit of its user data; the rest is the connection's place.
pub(super) const RECEIVES: u64 = 0;
pub(super) const SENDS: u64 = 1;

/// See the module.
pub(super) struct Ring {
    // Before the buffers: fields are dropped in this order, and a closed ring writes nothing more.
    io: RefCell<IoUring>,
    pub(super) buffers: Buffers,
    places: RefCell<Places>,
    /// Connections that want a receive or a send in the ring.
    queue: RefCell<Vec<Rc<Connection>>>,
    /// Completions that were taken and not handed out: user data, result, flags.
    arrived: RefCell<VecDeque<(u64, i32, u32)>>,
    /// Receives that may be put into the ring before it has to be looked at again: see `lend`.
    loans: Cell<u16>,
    /// Counts up whenever there may be work, for a thread that sleeps.
    event: OwnedFd,
    driver: RefCell<Option<Waker>>,
    /// The driver will run anyway.
    awake: Cell<bool>,
    ended: Cell<bool>,
    pub(super) trouble: Trouble,
}

/// Connections that the kernel knows by number.
#[derive(Default)]
struct Places {
    taken: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
}

impl Places {
    /// Connections that have one.
    fn open(&self) -> usize {
        self.taken.len() - self.free.len()
    }
}

impl Ring {
    /// A ring over `io`, whose buffers it registers. Fails before Linux 6.0.
    pub(super) fn new(io: IoUring) -> io::Result<Rc<Self>> {
        // SAFETY: eventfd only makes a descriptor.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        io.submitter().register_eventfd(event.as_raw_fd())?;
        // SAFETY: dropped after the ring, and only when no operation is under way (see `end`).
        let buffers = unsafe { Buffers::register(&io)? };
        Ok(Rc::new(Self {
            io: RefCell::new(io),
            buffers,
            places: RefCell::default(),
            queue: RefCell::default(),
            arrived: RefCell::default(),
            loans: Cell::new(0),
            event,
            driver: RefCell::default(),
            awake: Cell::new(false),
            ended: Cell::new(false),
            trouble: Trouble::default(),
        }))
    }

    /// Takes a place for a new connection.
    pub(super) fn enrol(&self, connect: impl FnOnce(usize) -> Rc<Connection>) -> Rc<Connection> {
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.taken.push(None);
            places.taken.len() - 1
        });
        let connection = connect(place);
        places.taken[place] = Some(Rc::clone(&connection));
        connection
    }

    /// Forgets a connection that the kernel does nothing for.
    pub(super) fn dismiss(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        if places.taken[place].take().is_some() {
            places.free.push(place);
        }
    }

    /// Has the next turn look after `connection`.
    pub(super) fn enqueue(&self, connection: &Rc<Connection>) {
        self.queue.borrow_mut().push(Rc::clone(connection));
        if !self.awake.replace(true)
            && let Some(driver) = self.driver.borrow().as_ref()
        {
            driver.wake_by_ref();
        }
    }

    /// Whether the kernel has more to tell than it has posted.
    fn holds_back(&self) -> bool {
        let mut io = self.io.borrow_mut();
        let submission = io.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Whether the kernel has left some operations in the ring.
    fn has_unsubmitted(&self) -> bool {
        !self.io.borrow_mut().submission().is_empty()
    }

    /// For how many completions a turn should wait; see [`linger::completions`].
    fn patience(&self, busy: bool) -> Option<usize> {
        linger::completions(&linger::Turn {
            busy,
            ended: awaited::take_ended(),
            awaited: awaited::count(),
            queued: self.queue.borrow().len(),
            connections: self.places.borrow().open(),
        })
    }

    /// Takes what has come, then puts into the ring what is queued. Whether that made work for a task
    /// or for another turn. `busy`: and so did the turn before.
    fn turn(&self, busy: bool) -> bool {
        let mut patience = self.patience(busy);
        // First: what came before a request went out is no answer to it. The kernel posts a few
        // completions each time.
        while self.holds_back() {
            let _ = match patience.take() {
                Some(completions) => self.linger(completions),
                None => self.enter(),
            };
            let before = self.arrived.borrow().len();
            self.collect();
            let after = self.arrived.borrow().len();
            if after == before || after >= ARRIVALS_MAX {
                break;
            }
        }
        let mut woke = self.dispatch();
        let mut queued = mem::take(&mut *self.queue.borrow_mut());
        if !queued.is_empty() || self.has_unsubmitted() {
            // What has arrived and was not handed out holds the others.
            let held = self.arrived.borrow().len();
            let free = usize::from(buffers::COUNT).saturating_sub(held);
            self.loans.set(free as u16);
            for connection in queued.drain(..) {
                woke |= connection.submit(self);
            }
            let _ = self.enter();
            woke |= self.dispatch();
            // Nothing else would come back to what the kernel has not taken.
            woke |= self.has_unsubmitted();
        }
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            // Its memory is used again.
            *queue = queued;
            return woke;
        }
        true
    }

    /// Puts an operation into the ring. Fails if the ring is full and the kernel takes nothing from it.
    ///
    /// # Safety
    ///
    /// What the operation refers to must stay as it is until its completion, unless this fails.
    unsafe fn push(&self, operation: &Entry) -> io::Result<()> {
        let mut refusal = io::Error::from_raw_os_error(libc::EAGAIN);
        for _ in 0..PUSH_ROUNDS {
            // SAFETY: the caller's promise.
            if unsafe { self.io.borrow_mut().submission().push(operation) }.is_ok() {
                return Ok(());
            }
            if let Err(error) = self.enter() {
                refusal = error;
            }
            // The kernel may take nothing more before these are out of its way.
            self.collect();
        }
        Err(refusal)
    }

    /// Whether a receive may be put into the ring in this turn. When buffers have run out, thousands of
    /// connections may want one again whose bytes wait in the kernel. Each takes a buffer at once, and those
    /// for whom none is left would be refused, and want one again: turn after turn.
    pub(super) fn lend(&self) -> bool {
        let left = self.loans.get().checked_sub(1);
        left.inspect(|left| self.loans.set(*left)).is_some()
    }

    /// A receive that goes on until the connection ends or buffers run out.
    pub(super) fn push_receive(&self, connection: &Connection) -> io::Result<()> {
        let descriptor = types::Fd(connection.descriptor.as_raw_fd());
        let operation = opcode::RecvMulti::new(descriptor, buffers::GROUP)
            .build()
            .user_data((connection.place as u64) << 1 | RECEIVES);
        // SAFETY: the buffers outlive the ring; the connection keeps its descriptor until the
        // completion that ends this.
        unsafe { self.push(&operation) }
    }

    /// Sends all of `bytes`.
    ///
    /// # Safety
    ///
    /// They must stay where they are until the completion, unless this fails.
    pub(super) unsafe fn push_send(&self, connection: &Connection, bytes: &[u8]) -> io::Result<()> {
        let descriptor = types::Fd(connection.descriptor.as_raw_fd());
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let operation = opcode::Send::new(descriptor, bytes.as_ptr(), length)
            // The kernel goes on after a part of a large request by itself.
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data((connection.place as u64) << 1 | SENDS);
        // SAFETY: the caller's promise.
        unsafe { self.push(&operation) }
    }

    /// Takes an operation of a connection back; its last completion says so.
    pub(super) fn push_cancel(&self, connection: &Connection, operation: u64) -> io::Result<()> {
        let operation = opcode::AsyncCancel::new((connection.place as u64) << 1 | operation)
            .build()
            .user_data(NOBODY);
        // SAFETY: refers to no memory.
        unsafe { self.push(&operation) }
    }

    /// One system call: submits what is in the ring and lets the kernel post what has come. If it was
    /// interrupted, short of memory, or completions have to be taken first, the next turn tries again.
    fn enter(&self) -> io::Result<()> {
        let mut io = self.io.borrow_mut();
        let waiting = io.submission().len() as u32;
        // SAFETY: no argument that could be wrong.
        let result = unsafe {
            io.submitter()
                .enter::<libc::sigset_t>(waiting, 0, ENTER_GETEVENTS, None)
        };
        let outcome = result.map(|_| self.trouble.over());
        outcome.inspect_err(|error| {
            tracing::trace!("io_uring_enter: {error}");
            self.trouble.note(error, runtime::now());
        })
    }

    /// The same, but sleeps for a moment unless so many completions are there.
    fn linger(&self, completions: usize) -> io::Result<()> {
        let time = types::Timespec::new().nsec(linger::TIME.subsec_nanos());
        let arguments = types::SubmitArgs::new().timespec(&time);
        let io = self.io.borrow();
        let submitter = io.submitter();
        submitter
            .submit_with_args(completions, &arguments)
            .map(drop)
    }

    /// Takes the completions from the ring.
    fn collect(&self) {
        let mut io = self.io.borrow_mut();
        let completions = io.completion();
        let arrived = completions.map(|one| (one.user_data(), one.result(), one.flags()));
        self.arrived.borrow_mut().extend(arrived);
    }

    /// Hands out completions, but not so many that everything they lead to needs memory at once. Whether
    /// that woke a task, or there are more.
    fn dispatch(&self) -> bool {
        self.collect();
        self.prefetch_connections();
        let mut woke = false;
        for _ in 0..ARRIVALS_MAX {
            let next = self.arrived.borrow_mut().pop_front();
            let Some((number, result, flags)) = next else {
                return woke;
            };
            let Some(connection) = self.connection(number) else {
                continue;
            };
            woke |= match number & 1 {
                RECEIVES => {
                    let buffer = cqueue::buffer_select(flags);
                    connection.received(self, result, buffer, cqueue::more(flags))
                }
                _ => connection.sent(self, result),
            };
        }
        let arrived = self.arrived.borrow();
        for (number, ..) in arrived.iter().filter(|(number, ..)| number & 1 == RECEIVES) {
            self.connection(*number).inspect(|one| one.expect_news());
        }
        woke || !arrived.is_empty()
    }

    /// Asks for what is about to be touched.
    fn prefetch_connections(&self) {
        let places = self.places.borrow();
        let arrived = self.arrived.borrow();
        for (number, ..) in arrived.iter().take(ARRIVALS_MAX) {
            if let Some(Some(one)) = places.taken.get((*number >> 1) as usize) {
                prefetch(Rc::as_ptr(one), size_of::<Connection>());
            }
        }
    }

    /// Whose operation has this user data.
    fn connection(&self, number: u64) -> Option<Rc<Connection>> {
        if number == NOBODY {
            return None;
        }
        let connection = self.places.borrow().taken[(number >> 1) as usize].clone();
        Some(connection.expect("a place is kept until its operations are over"))
    }

    /// Whether [`Ring::end`] has begun.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Ends every operation, waiting for the kernel, so that the memory may be freed.
    pub(super) fn end(self: &Rc<Self>) {
        self.ended.set(true);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
        let connections: Vec<_> = self
            .places
            .borrow()
            .taken
            .iter()
            .flatten()
            .cloned()
            .collect();
        connections.iter().for_each(|one| one.abandon(self));
        for _ in 0..END_ROUNDS {
            self.turn(false);
            if !connections.iter().any(|one| one.is_busy()) {
                // Tasks that still wait are freed, and with them their sockets.
                connections.iter().for_each(|one| one.forget_wakers());
                return;
            }
            std::thread::sleep(END_PAUSE);
        }
        // The kernel may still write: this memory is its own from here on.
        mem::forget(Rc::clone(self));
    }

    /// The driver runs: whom to wake when it does not.
    fn know(&self, waker: &Waker) {
        self.awake.set(true);
        remember_waker(&mut self.driver.borrow_mut(), waker);
    }

    /// The descriptor of the eventfd.
    pub(super) fn event(&self) -> io::Result<OwnedFd> {
        self.event.try_clone()
    }

    /// Forgets what the eventfd has told of so far.
    fn clear_event(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads eight bytes into an array of eight.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }

    /// Makes whoever waits for the eventfd look.
    fn signal_event(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of an array of eight.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), 8) };
    }
}

/// Turns the ring until [`Ring::end`]. `event` is its eventfd once more.
pub(super) async fn drive(ring: Rc<Ring>, event: UnixStream) {
    while !ring.ended.get() {
        let (mut turns, mut resting, mut asleep) = (0, false, false);
        let mut signal = pin!(event.readable(true));
        let mut pause = pin!(None);
        poll_fn(|context| {
            if ring.ended.get() {
                return Poll::Ready(());
            }
            if !resting {
                ring.know(context.waker());
                let mut found = ring.turn(turns > 0);
                if !found && !asleep {
                    // From here on the event tells of what comes; what came before is taken now.
                    ring.clear_event();
                    found = ring.turn(false);
                }
                if found && turns < TURNS_MAX {
                    turns += 1;
                    // Behind the tasks that the turn has woken.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if found {
                    // Back from the kernel at once, but with what the runtime waits for. Nothing
                    // goes out until then, so that the tasks come to rest.
                    ring.signal_event();
                    resting = true;
                } else {
                    ring.awake.set(false);
                    asleep = true;
                }
            }
            if asleep && ring.holds_back() {
                // The kernel sets its flag a moment after it has queued work, which may be done by
                // then; nothing clears it before the next. So it proves nothing, and no event need
                // follow: look again soon.
                if pause.is_none() {
                    pause.set(Some(monoio::time::sleep(PAUSE)));
                }
                if let Some(over) = pause.as_mut().as_pin_mut()
                    && over.poll(context).is_ready()
                {
                    pause.set(None);
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            signal.as_mut().poll(context).map(drop)
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
