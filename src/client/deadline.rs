//! Deadlines of a shard's connections, enforced by a sweep.
//!
//! No timer per request: setting a deadline writes one slot, and the shard's ticker compares. The
//! earliest deadline is remembered, so a sweep with nothing due looks at one number; one with
//! something due looks at every open connection, a few microseconds for ten thousand.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::runtime::Abort;

/// The deadlines of every open connection of a pool.
#[derive(Default)]
pub(super) struct Deadlines {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    /// No deadline is earlier; may be too early after its exchange has ended.
    earliest: Cell<Option<Instant>>,
}

#[derive(Default)]
struct Slot {
    abort: Option<Abort>,
    deadline: Option<Instant>,
    fired: bool,
}

impl Deadlines {
    /// A place for a new connection's deadlines.
    pub(super) fn lease(self: &Rc<Self>, abort: Abort) -> Lease {
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        slots[slot] = Slot {
            abort: Some(abort),
            deadline: None,
            fired: false,
        };
        Lease {
            deadlines: Rc::clone(self),
            slot,
        }
    }

    /// Aborts every connection whose deadline has come; how many.
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
            if let Some(abort) = &slot.abort {
                abort.abort();
            }
        }
        self.earliest.set(earliest);
        aborted
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.slots.borrow().len() - self.free.borrow().len()
    }
}

/// A connection's place among the deadlines; gives it back when dropped.
pub(super) struct Lease {
    deadlines: Rc<Deadlines>,
    slot: usize,
}

impl Lease {
    /// Aborts the connection at the first sweep from `deadline` on.
    pub(super) fn arm(&self, deadline: Instant) {
        let earliest = self.deadlines.earliest.get();
        self.deadlines
            .earliest
            .set(Some(earliest.map_or(deadline, |known| known.min(deadline))));
        self.deadlines.slots.borrow_mut()[self.slot].deadline = Some(deadline);
    }

    /// Takes the deadline back; whether it had fired.
    pub(super) fn disarm(&self) -> bool {
        let mut slots = self.deadlines.slots.borrow_mut();
        let slot = &mut slots[self.slot];
        slot.deadline = None;
        slot.fired
    }

    /// Whether the connection's peer has said nothing that was not read, and has not closed it.
    pub(super) fn is_quiet(&self) -> bool {
        let slots = self.deadlines.slots.borrow();
        slots[self.slot].abort.as_ref().is_some_and(Abort::is_quiet)
    }

    /// Aborts the connection now.
    pub(super) fn abort(&self) {
        if let Some(abort) = &self.deadlines.slots.borrow()[self.slot].abort {
            abort.abort();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.deadlines.slots.borrow_mut()[self.slot] = Slot::default();
        self.deadlines.free.borrow_mut().push(self.slot);
    }
}
