//! Deadlines of a shard's connections, enforced by a sweep.
//!
//! No timer per request: setting a deadline writes one slot, and the shard's ticker compares. The
//! earliest deadline is remembered, so a sweep with nothing due looks at one number; one with
//! something due looks at every slot, a few microseconds for ten thousand.
//!
//! A connection of one exchange is aborted. An exchange on a shared connection is woken: it ends its
//! own stream and leaves the others alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::runtime::{Abort, remember_waker};

/// The deadlines of every open connection of a pool, and of exchanges on shared connections.
#[derive(Default)]
pub(super) struct Deadlines {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    /// Slots that belong to a connection.
    connections: Cell<usize>,
    /// No deadline is earlier; may be too early after its exchange has ended.
    earliest: Cell<Option<Instant>>,
}

#[derive(Default)]
struct Slot {
    bound: Bound,
    deadline: Option<Instant>,
    fired: bool,
}

/// What a deadline ends.
#[derive(Default)]
enum Bound {
    #[default]
    Nothing,
    Connection(Abort),
    Exchange(Option<Waker>),
}

impl Deadlines {
    /// A place for a new connection's deadlines.
    pub(super) fn lease(self: &Rc<Self>, abort: Abort) -> Lease {
        self.connections.set(self.connections.get() + 1);
        self.take(Bound::Connection(abort))
    }

    /// A place for the deadline of an exchange on a shared connection.
    pub(super) fn lease_exchange(self: &Rc<Self>) -> Lease {
        self.take(Bound::Exchange(None))
    }

    fn take(self: &Rc<Self>, bound: Bound) -> Lease {
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        slots[slot] = Slot {
            bound,
            deadline: None,
            fired: false,
        };
        Lease {
            deadlines: Rc::clone(self),
            slot,
        }
    }

    /// Aborts every connection and wakes every exchange whose deadline has come; how many.
    pub(super) fn sweep(&self, now: Instant) -> usize {
        if self.earliest.get().is_none_or(|earliest| now < earliest) {
            return 0;
        }
        let mut aborted = 0;
        let mut earliest: Option<Instant> = None;
        for slot in self.slots.borrow_mut().iter_mut() {
            let Some(deadline) = slot.deadline else {
                continue;
            };
            if now < deadline {
                earliest = Some(earliest.map_or(deadline, |known| known.min(deadline)));
                continue;
            }
            slot.deadline = None;
            slot.fired = true;
            aborted += 1;
            match &mut slot.bound {
                Bound::Connection(abort) => abort.abort(),
                // Runs later: nothing of the exchange happens while the slots are borrowed.
                Bound::Exchange(waker) => drop(waker.take().map(Waker::wake)),
                Bound::Nothing => {}
            }
        }
        self.earliest.set(earliest);
        aborted
    }

    /// Gives back the time of a pause of `lasted` that ended `now`: deadlines move by as much, but to no later
    /// than `span` from now, which is all that anybody is given.
    pub(super) fn postpone(&self, now: Instant, lasted: Duration, span: Duration) {
        let latest = now + span;
        let moved = |deadline: Instant| (deadline + lasted).min(latest).max(deadline);
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.deadline = slot.deadline.map(moved);
        }
        // May be too early now, which costs a look at every slot.
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.connections.get()
    }
}

/// A place among the deadlines; gives it back when dropped.
pub(super) struct Lease {
    deadlines: Rc<Deadlines>,
    slot: usize,
}

impl Lease {
    /// Aborts the connection, or wakes the exchange, at the first sweep from `deadline` on.
    pub(super) fn arm(&self, deadline: Instant) {
        let earliest = self.deadlines.earliest.get();
        self.deadlines
            .earliest
            .set(Some(earliest.map_or(deadline, |known| known.min(deadline))));
        self.deadlines.slots.borrow_mut()[self.slot].deadline = Some(deadline);
    }

    /// Moves the deadline to `by`, unless it is earlier.
    pub(super) fn hasten(&self, by: Instant) {
        let deadline = self.deadlines.slots.borrow()[self.slot].deadline;
        if deadline.is_some_and(|deadline| by < deadline) {
            self.arm(by);
        }
    }

    /// Takes the deadline back; whether it had fired.
    pub(super) fn disarm(&self) -> bool {
        let mut slots = self.deadlines.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        slot.deadline = None;
        slot.fired
    }

    /// Whether the deadline has come; if not, `waker` is woken when it does.
    pub(super) fn has_fired(&self, waker: &Waker) -> bool {
        let mut slots = self.deadlines.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        if let Bound::Exchange(known) = &mut slot.bound {
            remember_waker(known, waker);
        }
        slot.fired
    }

    /// Whether the connection's peer has said nothing that was not read, and has not closed it.
    pub(super) fn is_quiet(&self) -> bool {
        let slots = self.deadlines.slots.borrow();
        matches!(&slots[self.slot].bound, Bound::Connection(abort) if abort.is_quiet())
    }

    /// Aborts the connection now.
    pub(super) fn abort(&self) {
        if let Bound::Connection(abort) = &self.deadlines.slots.borrow()[self.slot].bound {
            abort.abort();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let slot = std::mem::take(&mut self.deadlines.slots.borrow_mut()[self.slot]);
        if let Bound::Connection(_) = slot.bound {
            let connections = &self.deadlines.connections;
            connections.set(connections.get() - 1);
        }
        self.deadlines.free.borrow_mut().push(self.slot);
    }
}
