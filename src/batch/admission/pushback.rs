//! What answers say about load and quotas: what only this shard must know, and what the coordinator hears.

use std::time::Instant;

use super::{Admission, Ticket};
use crate::batch::message::{Pool, Report};
use crate::policy::load::{Cause, Pushback};
use crate::policy::refusals;
use crate::policy::slowdown::Remainders;
use crate::policy::wait_hint::WaitHint;

impl Admission {
    /// A request that was sent at `sent` was pushed back, and is [released](Self::release). Its place goes
    /// back behind the news: used again at once, it would be refused again, over and over until the
    /// coordinator's smaller number is known here.
    pub fn note_pushback(&mut self, ticket: &Ticket, cause: Cause, sent: Instant) {
        let (endpoint, group) = (ticket.endpoint, self.groups[ticket.endpoint]);
        let pushback = Pushback {
            sent,
            cause,
            is_last_place: ticket.is_last_place,
            sends: self.sends[group],
            refusals: self.refusals[group],
        };
        self.reports.push(Report::Pushback { endpoint, pushback });
        if cause != Cause::RefusedAlone {
            self.windows[group].give_back_one(Pool::Group(group), &mut self.reports);
        }
    }

    /// A request was refused for load, and is [released](Self::release). Returns whether the wait it asked
    /// for is its line's alone.
    pub fn note_refusal(&mut self, endpoint: usize, now: Instant) -> bool {
        let group = self.groups[endpoint];
        self.refusals[group] += 1;
        self.gates[group].use_again(now);
        if self.windows[group].lease.in_use() == 0 {
            self.refused_in_a_row[group] += 1;
            let rest = refusals::rest(self.refused_in_a_row[group], self.gates[group].spread());
            self.health.note_hint(endpoint, now + rest);
        }
        let history = &mut self.histories[group];
        history.note_refusal();
        history.waits_alone()
    }

    /// The latest refusal of the endpoint's quota group speaks of no limit.
    pub fn is_lone_refusal(&self, endpoint: usize) -> bool {
        self.histories[self.groups[endpoint]].is_lone()
    }

    /// No request of this shard to the endpoint is under way: none that was taken while another was refused.
    pub fn is_served_nothing(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].lease.in_use() == 0
    }

    /// What the servers have answered this shard so far.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// A server asked the endpoint's quota group to wait.
    pub fn note_hint(&mut self, endpoint: usize, until: Instant) {
        self.histories[self.groups[endpoint]].note_wait();
        self.health.note_hint(endpoint, until);
    }

    /// The tokens that a request really took are known.
    pub fn settle_tokens(&mut self, ticket: &Ticket, used: u64) {
        let gate = &mut self.gates[self.groups[ticket.endpoint]];
        gate.settle(ticket.tokens, used, &mut self.reports);
    }

    /// An answer of `endpoint` said something about its quotas, to a request that took `used` tokens
    /// (0: unknown). The coordinator hears of it when that changes anything.
    pub fn note_remainders(&mut self, endpoint: usize, hint: &WaitHint, used: u64) {
        let said = Remainders::of(hint);
        let group = self.groups[endpoint];
        let gate = &mut self.gates[group];
        if gate.concerns(said.run_low()) {
            if said.slow_down(used) {
                // The coordinator will say the same; until then its slots are waited for.
                gate.pace_at_once(group);
            }
            let said = Box::new(said);
            self.reports.push(Report::Remaining {
                endpoint,
                said,
                used,
            });
        }
    }
}
