//! Places in flight whose number moves.

use super::SHARD;
use crate::policy::permits::{Action, Lease, Permits};

/// Places in flight whose number moves: both halves.
pub(super) struct Places {
    pub(super) permits: Permits,
    pub(super) lease: Lease,
    actions: Vec<Action>,
}

impl Places {
    pub(super) fn new(total: u32) -> Self {
        let permits = Permits::new(total, 1, 0);
        Self {
            lease: Lease::new(permits.initial(SHARD)),
            permits,
            actions: Vec::new(),
        }
    }

    /// Whether there is one to spare.
    pub(super) fn open(&mut self) -> bool {
        if self.lease.available() == 0 {
            self.permits.handle_want(SHARD, &mut self.actions);
            self.act();
        }
        self.lease.available() > 0
    }

    pub(super) fn release(&mut self) {
        let returned = self.lease.release();
        self.put_back(returned);
    }

    pub(super) fn resize(&mut self, total: u32) {
        if total != self.permits.total() {
            self.permits.resize(total, &mut self.actions);
            self.act();
        }
    }

    fn put_back(&mut self, count: u32) {
        if count > 0 {
            self.permits.handle_return(SHARD, count, &mut self.actions);
            self.act();
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.actions.pop() {
            let returned = match action {
                Action::Grant { n, .. } => {
                    self.lease.grant(n);
                    0
                }
                Action::Recall { .. } => self.lease.recall(),
                Action::Withdraw { n, .. } => self.lease.withdraw(n),
            };
            self.put_back(returned);
        }
    }
}
