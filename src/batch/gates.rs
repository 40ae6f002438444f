//! A shard's half of what paces requests: leased send slots, of the run and of quota groups, and
//! leased tokens of quota groups. Pure. A request passes when every gate on its way is open; only
//! then anything is spent.

use std::time::Instant;

use crate::batch::message::{Report, Schedule};
use crate::batch::quotas::GroupLimits;
use crate::policy::budget::Allowance;
use crate::policy::pacer::{SlotQueue, Slots, Taken};
use crate::policy::refusals::Spread;

/// The slots this shard holds of one schedule.
pub(super) struct SlotGate {
    schedule: Schedule,
    queue: SlotQueue,
    /// Asked for more; the coordinator always answers.
    wanted: bool,
}

impl SlotGate {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            queue: SlotQueue::new(),
            wanted: false,
        }
    }

    /// What the next slot allows, without spending it.
    pub(super) fn look(&mut self, now: Instant) -> Taken {
        self.queue.look(now)
    }

    /// Spends the slot that [`Self::look`] found open at the same `now`.
    pub(super) fn spend(&mut self, now: Instant) {
        assert_eq!(self.queue.take(now), Taken::Go, "a slot was open");
    }

    /// Asks for more slots if they run low; to be called only while they could be used.
    pub(super) fn ask(&mut self, now: Instant, reports: &mut Vec<Report>) {
        if self.wanted {
            return;
        }
        let want = self.queue.wants_more(now);
        if want > 0 {
            self.wanted = true;
            reports.push(Report::WantSlots(self.schedule, want));
        }
    }

    pub(super) fn add(&mut self, slots: Slots) {
        self.wanted = false;
        self.queue.add(slots);
    }

    /// Nothing to send: the slots go back.
    pub(super) fn surrender(&mut self, reports: &mut Vec<Report>) {
        let unused = self.queue.drain().into_iter();
        reports.extend(unused.map(|slots| Report::GiveBackSlots(self.schedule, slots)));
    }
}

/// The tokens this shard holds of one quota group's budget.
pub(super) struct TokenGate {
    group: usize,
    allowance: Allowance,
    /// Asked for more; the coordinator answers when there is some.
    wanted: bool,
    /// The limit itself. Nothing is taken for more, or it could never be sent.
    per_minute: u64,
}

impl TokenGate {
    fn new(group: usize, per_minute: u64) -> Self {
        Self {
            group,
            allowance: Allowance::new(),
            wanted: false,
            per_minute,
        }
    }

    /// Whether `amount` can be taken; asks for what is missing.
    fn holds(&mut self, amount: u64, reports: &mut Vec<Report>) -> bool {
        let amount = self.allowance.missing(amount.min(self.per_minute));
        if amount > 0 && !self.wanted {
            self.wanted = true;
            reports.push(Report::WantTokens {
                group: self.group,
                amount,
            });
        }
        amount == 0
    }

    /// Tells the coordinator that `used` tokens were spent of `taken`.
    fn settle(&self, taken: u64, used: u64, reports: &mut Vec<Report>) {
        // A count beyond 2^63 is a broken server's.
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let more = signed(used) - signed(taken);
        if more != 0 {
            reports.push(Report::SettleTokens {
                group: self.group,
                more,
            });
        }
    }
}

/// What paces the requests of one quota group.
#[derive(Default)]
pub(super) struct GroupGate {
    slots: Option<SlotGate>,
    tokens: Option<TokenGate>,
    /// The group's requests need slots although neither `rpm_limit` nor `--rate auto` asks for them.
    slowed: bool,
    /// The last answer said that little is left of a quota.
    runs_low: bool,
}

impl GroupGate {
    /// The gate of quota group `group`; a group without limits is always open.
    pub(super) fn new(group: usize, limits: &GroupLimits) -> Self {
        let tokens = limits.tokens_per_minute;
        Self {
            slots: limits
                .paced()
                .then(|| SlotGate::new(Schedule::Group(group))),
            tokens: tokens.map(|per_minute| TokenGate::new(group, per_minute)),
            slowed: false,
            runs_low: false,
        }
    }

    /// The coordinator slows `group`, this one, down by send slots, or does not any more.
    pub(super) fn pace(&mut self, group: usize, slots: bool) {
        self.slowed = slots;
        if !slots {
            // What is left of a pace that has ended is worth nothing.
            self.slots = None;
        } else if self.slots.is_none() {
            self.slots = Some(SlotGate::new(Schedule::Group(group)));
        }
    }

    /// [`Self::pace`] before the coordinator says so; a group that is paced anyway goes on.
    pub(super) fn pace_at_once(&mut self, group: usize) {
        if self.slots.is_none() {
            self.pace(group, true);
        }
    }

    /// Whether the coordinator should hear what an answer said about remainders: that they run low,
    /// and how it goes on from there.
    pub(super) fn concerns(&mut self, run_low: bool) -> bool {
        let ran_low = std::mem::replace(&mut self.runs_low, run_low);
        run_low || ran_low || self.slowed
    }

    /// What spreads the group's requests over time.
    pub(super) fn spread(&self) -> Spread {
        (self.slots.as_ref()).map_or(Spread::Unpaced, |slots| slots.queue.spread())
    }

    /// Whether requests of this group need tokens.
    pub(super) fn counts_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// What the next slot allows.
    pub(super) fn look(&mut self, now: Instant) -> Taken {
        match &mut self.slots {
            Some(slots) => slots.look(now),
            None => Taken::Go,
        }
    }

    /// Whether a request of `tokens` may go now, if `next` is what [`Self::look`] has just found; asks for
    /// what is missing.
    pub(super) fn open(
        &mut self,
        next: Taken,
        tokens: u64,
        now: Instant,
        reports: &mut Vec<Report>,
    ) -> bool {
        // Tokens first: they keep, while slots would expire during the wait for them.
        if let Some(gate) = &mut self.tokens
            && !gate.holds(tokens, reports)
        {
            return false;
        }
        if let Some(slots) = &mut self.slots {
            slots.ask(now, reports);
        }
        next == Taken::Go
    }

    /// Spends what [`Self::open`] found at the same `now`; returns the tokens taken.
    pub(super) fn spend(&mut self, tokens: u64, now: Instant) -> u64 {
        if let Some(slots) = &mut self.slots {
            slots.spend(now);
        }
        match &mut self.tokens {
            Some(gate) => {
                let tokens = tokens.min(gate.per_minute);
                assert!(gate.allowance.take(tokens), "the tokens were there");
                tokens
            }
            None => 0,
        }
    }

    /// A request for which `taken` tokens were spent took `used`.
    pub(super) fn settle(&self, taken: u64, used: u64, reports: &mut Vec<Report>) {
        if let Some(gate) = &self.tokens {
            gate.settle(taken, used, reports);
        }
    }

    /// A request of the group was refused for load: its slot may be used again.
    pub(super) fn use_again(&mut self, now: Instant) {
        if let Some(slots) = &mut self.slots {
            slots.queue.again(now);
        }
    }

    pub(super) fn add_slots(&mut self, more: Slots) {
        if let Some(slots) = &mut self.slots {
            slots.add(more);
        }
    }

    pub(super) fn add_tokens(&mut self, amount: u64) {
        if let Some(gate) = &mut self.tokens {
            gate.wanted = false;
            gate.allowance.add(amount);
        }
    }

    /// Nothing to send: slots and tokens go back, and the coordinator forgets what was asked for.
    pub(super) fn surrender(&mut self, reports: &mut Vec<Report>) {
        if let Some(slots) = &mut self.slots {
            slots.surrender(reports);
        }
        if let Some(gate) = &mut self.tokens {
            gate.wanted = false;
            let unused = gate.allowance.drain();
            gate.settle(unused, 0, reports);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "`Instant` has no other constructor; the test only adds to it"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_gate_asks_for_what_is_missing_and_spends_only_when_open() {
        let now = start();
        let limits = GroupLimits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(6000),
            ..GroupLimits::default()
        };
        let mut gate = GroupGate::new(3, &limits);
        let mut reports = Vec::new();
        let mut check = |gate: &mut GroupGate, open: bool, asked: &str| {
            let next = gate.look(now);
            assert_eq!(gate.open(next, 100, now, &mut reports), open);
            let reported: Vec<String> = reports
                .drain(..)
                .map(|report| format!("{report:?}"))
                .collect();
            assert!(
                reported.concat().starts_with(asked) && reported.len() <= 1,
                "{reported:?}, not {asked}"
            );
            assert_eq!(reported.is_empty(), asked.is_empty(), "{reported:?}");
        };
        check(&mut gate, false, "WantTokens { group: 3, amount: 100 }");
        check(&mut gate, false, "");
        gate.add_tokens(60);
        check(&mut gate, false, "WantTokens { group: 3, amount: 40 }");
        gate.add_tokens(50);
        check(&mut gate, false, "WantSlots(Group(3), ");
        let slots = |count| Slots {
            first: now,
            spacing_ns: 1e9,
            count,
            evenly: false,
        };
        gate.add_slots(slots(2));
        check(&mut gate, true, "");
        assert_eq!(gate.spend(100, now), 100);
        assert_eq!(
            gate.look(now),
            Taken::At(now + std::time::Duration::from_secs(1))
        );

        let mut reports = Vec::new();
        gate.settle(100, 40, &mut reports);
        gate.surrender(&mut reports);
        let reported: Vec<String> = reports.iter().map(|report| format!("{report:?}")).collect();
        assert_eq!(reported.len(), 3, "{reported:?}");
        assert_eq!(reported[0], "SettleTokens { group: 3, more: -60 }");
        assert!(
            reported[1].starts_with("GiveBackSlots(Group(3), "),
            "{reported:?}"
        );
        assert_eq!(reported[2], "SettleTokens { group: 3, more: -10 }");
    }

    #[test]
    fn a_group_without_limits_is_open() {
        let now = start();
        let mut gate = GroupGate::new(0, &GroupLimits::default());
        let mut reports = Vec::new();
        let next = gate.look(now);
        assert!(gate.open(next, 1 << 40, now, &mut reports) && !gate.counts_tokens());
        assert_eq!(gate.spend(1 << 40, now), 0);
        gate.settle(0, 99, &mut reports);
        gate.surrender(&mut reports);
        assert!(reports.is_empty(), "{reports:?}");
    }
}
