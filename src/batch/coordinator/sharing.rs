//! What the shards share of a run: permits, send slots, tokens; lent, taken back, passed on.

use std::time::Instant;

use super::Coordinator;
use crate::batch::message::{Order, Pool, Schedule};
use crate::batch::quotas::TokenLease;
use crate::policy::pacer::{Pacer, Slots};
use crate::policy::permits::{Action, Permits};

impl Coordinator {
    pub(super) fn handle_working(&mut self, shard: usize, working: bool) {
        self.health.set_working(shard, working);
        self.shards[shard].working = working;
        if !working {
            self.quotas.handle_idle(shard);
        }
        let endpoints = (0..self.endpoints.len()).map(Pool::Endpoint);
        let groups = (0..self.windows.len()).map(Pool::Group);
        for pool in [Pool::Workers].into_iter().chain(endpoints).chain(groups) {
            self.permits(pool, |permits, actions| {
                permits.handle_working(shard, working, actions);
            });
        }
    }

    pub(super) fn pacer(&mut self, schedule: Schedule) -> Option<&mut Pacer> {
        match schedule {
            Schedule::Run => self.pacer.as_mut(),
            Schedule::Group(group) => self.quotas.pacer(group),
        }
    }

    /// Slots that `giver` does not need go to another shard that works: at slow rates it holds a slot
    /// seconds away and would not ask before.
    pub(super) fn take_back(
        &mut self,
        giver: usize,
        schedule: Schedule,
        slots: Slots,
        now: Instant,
    ) {
        let shards = self.shards.len();
        let taker = (0..shards)
            .map(|step| (self.next_taker + step) % shards)
            .find(|&shard| shard != giver && self.shards[shard].working);
        let Some(pacer) = self.pacer(schedule) else {
            return;
        };
        pacer.give_back(slots, now);
        let Some(taker) = taker else {
            return;
        };
        let returned = pacer.take_returned(now);
        for slots in returned {
            self.order(taker, Order::Slots(schedule, slots));
        }
        self.next_taker = taker + 1;
    }

    pub(super) fn poll_quotas(&mut self, now: Instant) {
        let mut leases = std::mem::take(&mut self.token_leases);
        self.quotas.poll(now, &mut leases);
        for TokenLease {
            shard,
            group,
            amount,
        } in leases.drain(..)
        {
            self.order(shard, Order::Tokens { group, amount });
        }
        self.token_leases = leases;
        self.pass_on_paces();
    }

    /// Tells every shard which quota groups are slowed down from now on, or no longer.
    pub(super) fn pass_on_paces(&mut self) {
        for (group, slots) in self.quotas.take_changes() {
            for shard in 0..self.shards.len() {
                self.order(shard, Order::Pace { group, slots });
            }
        }
    }

    /// Lets a permit machine act and passes on what it decides.
    pub(super) fn permits(&mut self, pool: Pool, act: impl FnOnce(&mut Permits, &mut Vec<Action>)) {
        let permits = match pool {
            Pool::Workers => &mut self.workers,
            Pool::Group(group) => &mut self.windows[group],
            Pool::Endpoint(index) => &mut self.endpoints[index],
        };
        let mut actions = std::mem::take(&mut self.actions);
        act(permits, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Grant { shard, n } => self.order(shard, Order::Grant(pool, n)),
                Action::Recall { shard } => self.order(shard, Order::Recall(pool)),
                Action::Withdraw { shard, n } => self.order(shard, Order::Withdraw(pool, n)),
            }
        }
        self.actions = actions;
    }

    /// Lets a quota group's permits follow its search.
    pub(super) fn resize(&mut self, group: usize, now: Instant) {
        let window = self.quotas.window(group);
        if window != self.windows[group].total() {
            self.permits(Pool::Group(group), |permits, actions| {
                permits.resize(window, actions);
            });
        }
        self.note_kept(group, now);
    }

    /// Tells a quota group's search if what it took away has come back.
    pub(super) fn note_kept(&mut self, group: usize, now: Instant) {
        if self.windows[group].is_kept() {
            self.quotas.handle_kept(group, now);
        }
    }
}
