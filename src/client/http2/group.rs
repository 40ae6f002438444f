//! The HTTP/2 connections to one target, and the queue of exchanges that wait for a stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::HeadCache;
use super::connection::{Handle, Shared};
use crate::client::deadline::Lease;
use crate::client::failure::{Failure, Phase};
use crate::http2::Backlog;
use crate::runtime;

/// Streams that one connection carries at most, whatever the server allows: all of them share one
/// congestion window, and one lost packet holds all of them up.
const STREAMS_PER_CONNECTION_MAX: usize = 128;
/// Connections to one target from one shard: 15 000 exchanges over two shards at 100 streams each
/// take 75; a server that allows one stream gets as many connections as over HTTP/1.1, up to here.
pub const CONNECTIONS_MAX: usize = 256;
/// Streams expected of a connection before the first has told: what RFC 9113 section 6.5.2
/// recommends as the least.
const STREAMS_EXPECTED: usize = 100;

/// See the module.
pub(in crate::client) struct Group {
    connections: RefCell<Vec<Handle>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// Connections under way.
    opening: Cell<usize>,
    streams_expected: Cell<usize>,
    pub(in crate::client) heads: HeadCache,
    backlog: Backlog,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            connections: RefCell::default(),
            waiting: RefCell::default(),
            opening: Cell::new(0),
            streams_expected: Cell::new(STREAMS_EXPECTED),
            heads: HeadCache::default(),
            backlog: Backlog::default(),
        }
    }
}

/// How waiting for a stream ended.
#[derive(Debug)]
pub(in crate::client) enum Turn {
    /// Something has changed: look again.
    Look,
    /// No connection could be opened.
    Failed(Box<Failure>),
    /// The deadline came first.
    Late,
}

#[derive(Default)]
struct Waiter {
    turn: RefCell<Option<Turn>>,
    waker: RefCell<Option<Waker>>,
}

impl Group {
    /// A stream on the fullest connection that has room, so that the others can grow old and close.
    pub(in crate::client) fn take_stream(self: &Rc<Self>) -> Option<Slot> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|one| !one.closing.get());
        let connection = connections
            .iter()
            .filter(|one| one.room() > 0)
            .max_by_key(|one| one.active.get())?;
        connection.active.set(connection.active.get() + 1);
        Some(Slot {
            answers: connection.answers(),
            connection: connection.clone(),
            group: Rc::downgrade(self),
        })
    }

    /// Whether those who wait need one more connection than is under way, counting one who is
    /// about to.
    pub(in crate::client) fn wants_connection(&self) -> bool {
        let (open, opening) = (self.connections.borrow().len(), self.opening.get());
        let coming = opening * self.streams_expected.get();
        open + opening < CONNECTIONS_MAX && self.waiting.borrow().len() >= coming
    }

    /// Waits until [`Group::take_stream`] may succeed; in front, for who has waited before.
    pub(in crate::client) async fn wait(&self, lease: &Lease, again: bool) -> Turn {
        let waiter = Rc::new(Waiter::default());
        match again {
            true => self.waiting.borrow_mut().push_front(Rc::clone(&waiter)),
            false => self.waiting.borrow_mut().push_back(Rc::clone(&waiter)),
        }
        let waiting = Waiting {
            group: self,
            waiter,
        };
        poll_fn(|context| {
            if let Some(turn) = waiting.waiter.turn.borrow_mut().take() {
                return Poll::Ready(turn);
            }
            if lease.has_fired(context.waker()) {
                return Poll::Ready(Turn::Late);
            }
            *waiting.waiter.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Lets up to `count` of those who wait look again, who came first first.
    pub(in crate::client) fn wake(&self, count: usize) {
        for _ in 0..count {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            waiter.end(Turn::Look);
        }
    }

    /// Closes connections that have idled for `idle_timeout`.
    pub(in crate::client) fn sweep(&self, now: Instant, idle_timeout: Duration) {
        self.connections.borrow_mut().retain(|one| {
            let idle = now.saturating_duration_since(one.idle_since.get());
            one.active.get() > 0 || idle < idle_timeout
        });
    }

    /// Closes every connection without an exchange.
    pub(in crate::client) fn close_idle(&self) {
        self.connections
            .borrow_mut()
            .retain(|one| one.active.get() > 0);
    }

    /// Connections without an exchange.
    pub(in crate::client) fn idle(&self) -> usize {
        let connections = self.connections.borrow();
        connections
            .iter()
            .filter(|one| one.active.get() == 0)
            .count()
    }

    fn add(&self, connection: Handle) {
        let room = connection.room();
        self.streams_expected.set(room);
        self.connections.borrow_mut().push(connection);
        // One more than fit: it sees to further connections for the rest.
        self.wake(room + 1);
    }
}

impl Shared {
    /// Streams that may be opened now.
    fn room(&self) -> usize {
        if self.closing.get() {
            return 0;
        }
        let allowed = self.streams_max.get().min(STREAMS_PER_CONNECTION_MAX);
        allowed.saturating_sub(self.active.get())
    }
}

impl Waiter {
    fn end(&self, turn: Turn) {
        *self.turn.borrow_mut() = Some(turn);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A place in the queue; leaves it when dropped, and passes on a turn that was not taken.
struct Waiting<'a> {
    group: &'a Group,
    waiter: Rc<Waiter>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(Turn::Look) = self.waiter.turn.borrow_mut().take() {
            self.group.wake(1);
        }
        let mut waiting = self.group.waiting.borrow_mut();
        let place = waiting
            .iter()
            .position(|other| Rc::ptr_eq(other, &self.waiter));
        if let Some(place) = place {
            waiting.remove(place);
        }
    }
}

/// One stream's place on a connection; gives it back when dropped.
pub(in crate::client) struct Slot {
    pub(super) connection: Handle,
    /// [`Shared::answers`] when the stream was taken.
    pub(super) answers: u64,
    group: Weak<Group>,
}

impl Slot {
    /// Whether an answer had come over the connection before.
    pub(in crate::client) fn is_reused(&self) -> bool {
        self.answers > 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let active = self.connection.active.get() - 1;
        self.connection.active.set(active);
        if active == 0 {
            self.connection.idle_since.set(runtime::now());
        }
        if let Some(group) = self.group.upgrade() {
            group.wake(1);
        }
    }
}

/// A connection under way, on behalf of everybody who waits.
pub(in crate::client) struct Opening {
    group: Weak<Group>,
    peer: String,
    connect_timeout: Duration,
    over: bool,
}

impl Opening {
    /// Announces a connection to `peer`.
    pub(in crate::client) fn new(group: &Rc<Group>, peer: &str, connect_timeout: Duration) -> Self {
        group.opening.set(group.opening.get() + 1);
        Self {
            group: Rc::downgrade(group),
            peer: peer.to_owned(),
            connect_timeout,
            over: false,
        }
    }

    /// What the connection shares with others to the same target.
    pub(super) fn backlog(&self) -> Backlog {
        let group = self.group.upgrade();
        group.map_or_else(Backlog::default, |group| group.backlog.clone())
    }

    /// Host and port.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether it has succeeded or failed.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// What is reported when the server's settings do not come in time.
    pub(super) fn timed_out(&self) -> Failure {
        Failure::Timeout {
            phase: Phase::Connecting,
            peer: self.peer.clone(),
            after: self.connect_timeout,
        }
    }

    /// The connection can be used.
    pub(super) fn succeed(&mut self, connection: Handle) {
        if let Some(group) = self.end() {
            group.add(connection);
        }
    }

    /// There is a connection, but it speaks HTTP/1.1: everybody looks elsewhere.
    pub(in crate::client) fn turn_to_http1(mut self) {
        if let Some(group) = self.end() {
            group.wake(usize::MAX);
        }
    }

    /// There is none. If no other is there or under way, those who wait fail with it.
    pub(in crate::client) fn fail(&mut self, failure: Failure) {
        let Some(group) = self.end() else { return };
        let others = group.opening.get() > 0
            || group
                .connections
                .borrow()
                .iter()
                .any(|one| !one.closing.get());
        if !others {
            let waiting: Vec<_> = group.waiting.borrow_mut().drain(..).collect();
            for waiter in waiting {
                waiter.end(Turn::Failed(Box::new(failure.clone())));
            }
        }
    }

    /// The server allows more streams, or the connection takes no more.
    pub(super) fn connection_changed(&self) {
        if let Some(group) = self.group.upgrade() {
            group
                .connections
                .borrow_mut()
                .retain(|one| !one.closing.get());
            group.wake(usize::MAX);
        }
    }

    fn end(&mut self) -> Option<Rc<Group>> {
        if self.over {
            return None;
        }
        self.over = true;
        let group = self.group.upgrade()?;
        group.opening.set(group.opening.get() - 1);
        Some(group)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let failure = Failure::Connect(format!("the connection to {} was given up", self.peer));
        self.fail(failure);
    }
}
