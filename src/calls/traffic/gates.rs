//! What paces calls: send slots, of all together and of quota groups, and tokens of quota groups. Pure.

use std::time::{Duration, Instant};

use super::{SHARD, Traffic};
use crate::batch::quotas::GroupLimits;
use crate::policy::budget::Allowance;
use crate::policy::pacer::{Pacer, SlotQueue, Taken};

/// A schedule whose next slot has just expired is asked again after this.
const SLOT_RETRY: Duration = Duration::from_millis(1);

/// What a quota group's requests need besides: send slots and tokens.
pub(super) struct GroupGate {
    pub(super) slots: Option<SlotQueue>,
    tokens: Option<TokenGate>,
}

impl GroupGate {
    pub(super) fn new(limits: &GroupLimits) -> Self {
        Self {
            slots: limits.paced().then(SlotQueue::new),
            tokens: limits.tokens_per_minute.map(|per_minute| TokenGate {
                allowance: Allowance::new(),
                per_minute,
            }),
        }
    }
}

struct TokenGate {
    allowance: Allowance,
    /// The limit itself. Nothing is taken for more, or it could never be sent.
    per_minute: u64,
}

/// Whether a slot can be spent; leases some if there are none. The error says when.
pub(super) fn slot_open(
    slots: &mut SlotQueue,
    pacer: &mut Pacer,
    want: u32,
    now: Instant,
) -> Result<(), Instant> {
    if slots.look(now) == Taken::Empty {
        slots.add(pacer.lease(want, now));
    }
    match slots.look(now) {
        Taken::Go => Ok(()),
        Taken::At(at) => Err(at),
        // The lease had expired at once.
        Taken::Empty => Err(now + SLOT_RETRY),
    }
}

impl Traffic {
    /// Whether the group lets a request go now; leases what is missing. The error says when to look
    /// again.
    pub(super) fn gate_open(
        &mut self,
        group: usize,
        tokens: u64,
        waiting: u32,
        now: Instant,
    ) -> Result<(), Instant> {
        let gate = &mut self.gates[group];
        if let (Some(slots), Some(pacer)) = (&mut gate.slots, self.quotas.pacer(group)) {
            slot_open(slots, pacer, waiting, now)?;
        }
        let Some(gate) = &mut gate.tokens else {
            return Ok(());
        };
        let missing = gate.allowance.missing(tokens.min(gate.per_minute));
        if missing == 0 {
            return Ok(());
        }
        self.quotas.handle_want(SHARD, group, missing);
        self.quotas.poll(now, &mut self.leases);
        self.take_leases();
        // What was missing came in part: the rest is asked for at the next look.
        let holds = |gate: &TokenGate| gate.allowance.missing(tokens.min(gate.per_minute)) == 0;
        match self.gates[group].tokens.as_ref().is_some_and(holds) {
            true => Ok(()),
            false => Err(self.quotas.next_wake().unwrap_or(now + SLOT_RETRY)),
        }
    }

    /// Spends what an open gate has shown.
    pub(super) fn spend(&mut self, group: usize, tokens: u64, now: Instant) {
        let shared = self.pace.as_mut().map(|(_, slots)| slots);
        let gate = &mut self.gates[group];
        for slots in shared.into_iter().chain(&mut gate.slots) {
            assert_eq!(slots.take(now), Taken::Go, "a slot was open");
        }
        if let Some(gate) = &mut gate.tokens {
            let amount = tokens.min(gate.per_minute);
            assert!(gate.allowance.take(amount), "the tokens were there");
        }
    }

    /// Corrects what was taken of a `tpm_limit` by what was used.
    pub(super) fn settle_tokens(&mut self, endpoint: usize, estimated: u64, used: Option<u64>) {
        let group = self.groups[endpoint];
        if let (Some(gate), Some(used)) = (&self.gates[group].tokens, used) {
            // A count beyond 2^63 is a broken server's.
            let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let taken = estimated.min(gate.per_minute);
            self.quotas
                .handle_settled(group, signed(used).saturating_sub(signed(taken)));
        }
    }

    pub(super) fn take_leases(&mut self) {
        for lease in self.leases.drain(..) {
            if let Some(gate) = &mut self.gates[lease.group].tokens {
                gate.allowance.add(lease.amount);
            }
        }
    }
}
