//! The permits that a shard holds of one cap. Pure.

use crate::batch::message::{Pool, Report};
use crate::policy::permits::Lease;

/// A lease, whether more has been asked for, and whether others have asked for its last.
pub(super) struct Permits {
    pub(super) lease: Lease,
    pub(super) wanted: bool,
    pub(super) asked_back: bool,
    /// Scratch of `Admission::hand_over`: a later kind is awaited.
    pub(super) is_kept: bool,
}

impl Permits {
    pub(super) fn new(granted: u32) -> Self {
        Self {
            lease: Lease::new(granted),
            wanted: false,
            asked_back: false,
            is_kept: false,
        }
    }

    /// None is to spare, and one will come.
    pub(super) fn is_awaited(&self) -> bool {
        self.wanted && self.lease.available() == 0
    }

    pub(super) fn recall(&mut self, pool: Pool, reports: &mut Vec<Report>) {
        let returned = self.lease.recall();
        if returned > 0 {
            reports.push(Report::ReturnPermits(pool, returned));
        }
    }

    /// Answers the recall that was put off, if one was.
    pub(super) fn hand_over(&mut self, pool: Pool, reports: &mut Vec<Report>) {
        if std::mem::take(&mut self.asked_back) {
            self.recall(pool, reports);
        }
    }

    /// Asks once; the next grant clears it.
    pub(super) fn want(&mut self, pool: Pool, reports: &mut Vec<Report>) {
        if !self.wanted {
            self.wanted = true;
            reports.push(Report::WantPermit(pool));
        }
    }

    pub(super) fn grant(&mut self, count: u32) {
        self.wanted = false;
        self.lease.grant(count);
    }

    pub(super) fn release(&mut self, pool: Pool, reports: &mut Vec<Report>) {
        let returned = self.lease.release();
        if returned > 0 {
            reports.push(Report::ReturnPermits(pool, returned));
        }
    }

    /// Returns one, if any is to spare.
    pub(super) fn give_back_one(&mut self, pool: Pool, reports: &mut Vec<Report>) {
        if self.lease.available() > 0 {
            self.surrender(self.lease.available() - 1, pool, reports);
        }
    }

    /// Returns what is to spare beyond `keep`.
    pub(super) fn surrender(&mut self, keep: u32, pool: Pool, reports: &mut Vec<Report>) {
        let returned = self.lease.surrender(keep);
        if returned > 0 {
            reports.push(Report::ReturnPermits(pool, returned));
        }
    }
}
