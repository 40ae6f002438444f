//! What a shard holds and cannot use goes back to the coordinator, for those that can.

use std::time::Instant;

use super::{Admission, Admitted};
use crate::batch::message::{Pool, Report};

impl Admission {
    /// Hands over the last permits that others have asked for, now that the next request has had its
    /// chance to use them. Kept are only those that wait for a permit of a later kind, in the order
    /// workers, group, endpoint: who holds an earlier one gets the later, and sends. Without an order,
    /// shards that each hold what the other lacks would pass both round for ever.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let holds_worker = self.workers.lease.available() > 0;
        let (mut waits, mut asked_back) = (false, false);
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            let group = self.groups[index];
            let waits_for_endpoint =
                holds_worker && endpoint.is_awaited() && self.health.usable(index, now);
            let window = &mut self.windows[group];
            let waits_for_group =
                holds_worker && window.is_awaited() && self.health.usable(index, now);
            window.is_kept |= waits_for_endpoint;
            waits |= waits_for_group | waits_for_endpoint;
            endpoint.hand_over(Pool::Endpoint(index), &mut self.reports);
        }
        for (group, window) in self.windows.iter_mut().enumerate() {
            match std::mem::take(&mut window.is_kept) {
                true => asked_back |= window.asked_back,
                false => window.hand_over(Pool::Group(group), &mut self.reports),
            }
        }
        match waits {
            true => asked_back |= self.workers.asked_back,
            false => self.workers.hand_over(Pool::Workers, &mut self.reports),
        }
        self.asked_back = asked_back;
    }

    /// No line is ready: what is not needed goes back, so that other shards can use it.
    pub(super) fn nothing_to_send(&mut self) -> Admitted {
        if !self.source.exhausted {
            return Admitted::Wait(self.parked.next_due());
        }
        self.workers.surrender(0, Pool::Workers, &mut self.reports);
        // One for each endpoint while a line may still be retried: else it would go to the endpoint
        // whose permit comes back first, though that has just failed it.
        let keep = u32::from(self.in_flight + self.parked.len() > 0);
        for (index, permits) in self.endpoints.iter_mut().enumerate() {
            permits.surrender(keep, Pool::Endpoint(index), &mut self.reports);
        }
        for (group, window) in self.windows.iter_mut().enumerate() {
            window.surrender(keep, Pool::Group(group), &mut self.reports);
        }
        if let Some(slots) = &mut self.slots {
            slots.surrender(&mut self.reports);
        }
        for gate in &mut self.gates {
            gate.surrender(&mut self.reports);
        }
        let probes = self.health.surrender_probes();
        self.reports
            .extend(probes.into_iter().map(Report::ProbeDeclined));
        if self.working {
            self.working = false;
            self.reports.push(Report::Working(false));
            // The coordinator forgets what an idle shard has asked for.
            self.workers.wanted = false;
            for permits in self.endpoints.iter_mut().chain(&mut self.windows) {
                permits.wanted = false;
            }
        }
        match self.parked.next_due() {
            Some(due) => Admitted::Wait(Some(due)),
            None if self.in_flight > 0 => Admitted::Wait(None),
            None if self.records_held > 0 => {
                if !std::mem::replace(&mut self.only_held, true) {
                    self.reports.push(Report::OnlyHeld);
                }
                Admitted::Wait(None)
            }
            None => Admitted::Drained,
        }
    }
}
