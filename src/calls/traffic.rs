//! Whether a call may be sent now, and where: the policy machines of a run, both halves of each,
//! on one thread. Pure.

use std::time::{Duration, Instant};

use crate::batch::plan::Plan;
use crate::config::Rate;
use crate::error::ErrorKind;
use crate::policy::adapt::Adaptive;
use crate::policy::balance::Ring;
use crate::policy::budget::{Allowance, Budget, Leased};
use crate::policy::health::{Health, LocalHealth, MAX_OUTAGE_NEVER, State, StopReason};
use crate::policy::pacer::{Pacer, SlotQueue, Taken};
use crate::policy::permits::Lease;
use crate::provider::{Effect, Verdict};

/// The only sender there is.
const SHARD: usize = 0;
/// A schedule whose next slot has just expired is asked again after this.
const SLOT_RETRY: Duration = Duration::from_millis(1);

/// The answer to a call that wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Send it there.
    Go {
        /// Which endpoint.
        endpoint: usize,
        /// The request decides whether the endpoint is usable again.
        probe: bool,
    },
    /// Not before then, or (`None`) not before something is reported.
    Wait(Option<Instant>),
}

/// Both halves of every machine.
pub(super) struct Traffic {
    names: Vec<String>,
    groups: Vec<usize>,
    health: Health,
    local: LocalHealth,
    ring: Ring,
    workers: Lease,
    caps: Vec<Lease>,
    pace: Option<Pace>,
    /// By quota group.
    budgets: Vec<GroupBudgets>,
    last_failure: Vec<Option<(ErrorKind, String)>>,
    max_outage: Duration,
}

/// The rate as a schedule.
struct Pace {
    pacer: Pacer,
    slots: SlotQueue,
    /// `--rate auto`: one search for all endpoints together.
    adaptive: Option<Adaptive>,
}

/// `rpm_limit` and `tpm_limit` of one quota group.
#[derive(Default)]
struct GroupBudgets {
    requests: Option<Limited>,
    tokens: Option<Limited>,
}

struct Limited {
    budget: Budget,
    allowance: Allowance,
}

impl Limited {
    /// The strictest of the limits that a group's endpoints name: they share one quota.
    fn strictest(limits: impl Iterator<Item = u64>, now: Instant) -> Option<Self> {
        limits.min().map(|per_minute| Self {
            budget: Budget::new(per_minute, now),
            allowance: Allowance::new(),
        })
    }

    /// Leases until `amount` can be taken; the error says when to ask again.
    fn prepare(&mut self, amount: u64, now: Instant) -> Result<(), Instant> {
        loop {
            let missing = self.allowance.missing(amount);
            if missing == 0 {
                return Ok(());
            }
            match self.budget.lease(missing, now) {
                Leased::Now(leased) => self.allowance.add(leased),
                Leased::At(at) => return Err(at),
            }
        }
    }
}

impl GroupBudgets {
    fn prepare(&mut self, tokens: u64, now: Instant) -> Result<(), Instant> {
        let requests = self.requests.as_mut().map(|limit| limit.prepare(1, now));
        let tokens = self.tokens.as_mut().map(|limit| limit.prepare(tokens, now));
        match (requests.unwrap_or(Ok(())), tokens.unwrap_or(Ok(()))) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(at), Ok(())) | (Ok(()), Err(at)) => Err(at),
            (Err(one), Err(other)) => Err(one.max(other)),
        }
    }

    fn take(&mut self, tokens: u64) {
        for (limit, amount) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            if let Some(limit) = limit {
                assert!(limit.allowance.take(amount), "an allowance was prepared");
            }
        }
    }
}

impl Pace {
    fn new(rate: Rate, now: Instant) -> Option<Self> {
        let (per_second, adaptive) = match rate {
            Rate::Unlimited => return None,
            Rate::PerSecond(per_second) => (per_second, None),
            Rate::Auto => {
                let adaptive = Adaptive::new(now);
                (adaptive.rate(), Some(adaptive))
            }
        };
        Some(Self {
            pacer: Pacer::new(per_second, now),
            slots: SlotQueue::new(),
            adaptive,
        })
    }

    /// Spends a slot; the error says when there is one.
    fn take(&mut self, want: u32, now: Instant) -> Result<(), Instant> {
        // The second look is for a lease that followed an expired one.
        for _ in 0..2 {
            match self.slots.take(now) {
                Taken::Go => return Ok(()),
                Taken::At(at) => return Err(at),
                Taken::Empty => self.slots.add(self.pacer.lease(want, now)),
            }
        }
        match self.slots.take(now) {
            Taken::Go => Ok(()),
            Taken::At(at) => Err(at),
            Taken::Empty => Err(now + SLOT_RETRY),
        }
    }

    fn adapt(&mut self, learn: impl FnOnce(&mut Adaptive), now: Instant) {
        if let Some(adaptive) = &mut self.adaptive {
            let before = adaptive.rate();
            learn(adaptive);
            if adaptive.rate() != before {
                self.pacer.set_rate(adaptive.rate(), now);
            }
        }
    }
}

impl Traffic {
    /// All endpoints usable, nothing in flight.
    pub fn new(plan: &Plan, now: Instant) -> Self {
        let endpoints = &plan.endpoints;
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        // More than four billion in flight are no cap at all.
        let lease = |cap: usize| Lease::new(u32::try_from(cap).unwrap_or(u32::MAX));
        let groups_len = plan.groups.iter().max().map_or(0, |last| last + 1);
        let budgets = (0..groups_len).map(|group| {
            let members = || {
                let of_group = plan.groups.iter().map(move |&other| other == group);
                endpoints
                    .iter()
                    .zip(of_group)
                    .filter_map(|(endpoint, belongs)| belongs.then_some(endpoint))
            };
            GroupBudgets {
                requests: Limited::strictest(members().filter_map(|one| one.rpm_limit), now),
                tokens: Limited::strictest(members().filter_map(|one| one.tpm_limit), now),
            }
        });
        let mut health = Health::new(plan.groups.clone(), 1);
        health.set_working(SHARD, false);
        Self {
            names: endpoints.iter().map(|one| one.name.clone()).collect(),
            health,
            local: LocalHealth::new(plan.groups.clone(), SHARD),
            ring: Ring::new(&weights),
            workers: lease(plan.config.request.workers),
            caps: endpoints
                .iter()
                .map(|one| lease(one.max_concurrent))
                .collect(),
            pace: Pace::new(plan.config.request.rate_limit, now),
            budgets: budgets.collect(),
            last_failure: vec![None; endpoints.len()],
            max_outage: plan.config.max_outage,
            groups: plan.groups.clone(),
        }
    }

    /// Whether a call that takes about `tokens` may be sent now, rather not to `avoid`; `waiting`
    /// calls would go if they could. `Go` holds a place in flight until [`Self::release`].
    pub fn admit(
        &mut self,
        avoid: Option<usize>,
        tokens: u64,
        waiting: u32,
        now: Instant,
    ) -> Admitted {
        self.poll(now);
        let mut wake = self.health.next_wake();
        if self.workers.available() == 0 {
            return Admitted::Wait(wake);
        }
        let mut ready = vec![false; self.caps.len()];
        for (index, cap) in self.caps.iter().enumerate() {
            if !self.local.usable(index, now) || cap.available() == 0 {
                continue;
            }
            match self.budgets[self.groups[index]].prepare(tokens, now) {
                Ok(()) => ready[index] = true,
                Err(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
            }
        }
        if !ready.contains(&true) {
            return Admitted::Wait(wake);
        }
        if let Some(Err(at)) = self.pace.as_mut().map(|pace| pace.take(waiting, now)) {
            return Admitted::Wait(Some(at));
        }
        let endpoint = self
            .ring
            .pick(|index| ready[index], avoid)
            .expect("an endpoint was ready");
        assert!(self.workers.try_acquire(), "a worker was free");
        assert!(self.caps[endpoint].try_acquire(), "the cap had room");
        self.budgets[self.groups[endpoint]].take(tokens);
        Admitted::Go {
            endpoint,
            probe: self.local.take_probe(endpoint),
        }
    }

    /// A request is over.
    pub fn release(&mut self, endpoint: usize) {
        self.workers.release();
        self.caps[endpoint].release();
    }

    /// Whether any call wants to be sent; a probe is only given to somebody who can send it.
    pub fn set_working(&mut self, working: bool, now: Instant) {
        self.health.set_working(SHARD, working);
        if !working {
            for endpoint in self.local.surrender_probes() {
                self.health.handle_probe_declined(endpoint, SHARD, now);
            }
        }
    }

    /// A request was answered well; `delta` tokens more were billed than estimated.
    pub fn handle_success(&mut self, endpoint: usize, probe: bool, delta: i64, now: Instant) {
        self.answered(endpoint, probe, now);
        self.correct(endpoint, delta);
        if let Some(pace) = &mut self.pace {
            pace.adapt(|adaptive| adaptive.handle_success(now), now);
        }
    }

    /// The server asked to wait.
    pub fn handle_hint(&mut self, endpoint: usize, wait: Duration, now: Instant) {
        self.health.handle_hint(endpoint, wait, now);
    }

    /// A request failed; `delta` tokens more were billed than estimated. Returns whether the
    /// endpoint is to blame alone: no call can succeed there, and there may be others.
    pub fn handle_failure(
        &mut self,
        endpoint: usize,
        probe: bool,
        delta: i64,
        verdict: &Verdict,
        now: Instant,
    ) -> bool {
        self.correct(endpoint, delta);
        if verdict.effect != Effect::None {
            self.last_failure[endpoint] = Some((verdict.kind, verdict.message.clone()));
        }
        let pushback = verdict.effect == Effect::RateLimited || verdict.kind == ErrorKind::Timeout;
        if let (true, Some(pace)) = (pushback, &mut self.pace) {
            pace.adapt(|adaptive| adaptive.handle_pushback(now), now);
        }
        match &verdict.effect {
            Effect::Transient => {
                if probe {
                    self.health.handle_probe_result(endpoint, false, now);
                }
                self.health.handle_transient(endpoint, now);
                false
            }
            // The endpoint answered: whatever it said, it is not out.
            Effect::None | Effect::RateLimited => {
                self.answered(endpoint, probe, now);
                false
            }
            Effect::Disable { reason } => {
                self.health.handle_disable(endpoint, reason.clone());
                true
            }
            Effect::Exhausted { reason } => {
                let group = self.groups[endpoint];
                for index in 0..self.groups.len() {
                    if self.groups[index] == group {
                        self.health.handle_disable(index, reason.clone());
                    }
                }
                self.poll(now);
                self.local.any_enabled_outside_group(endpoint)
            }
        }
    }

    /// Whether another endpoint could take a call now.
    pub fn usable_elsewhere(&mut self, endpoint: usize, now: Instant) -> bool {
        self.poll(now);
        (0..self.caps.len()).any(|other| other != endpoint && self.local.usable(other, now))
    }

    /// Why no call can be sent for as long as anybody should wait, if that is so: the kind and the
    /// words of the error for those that wait.
    pub fn outage(&self, now: Instant) -> Option<(ErrorKind, String)> {
        let reason = self
            .health
            .verdict(now, self.max_outage, MAX_OUTAGE_NEVER)?;
        let head = match reason {
            StopReason::AllDisabled(_) => "no endpoint can be used any more".to_owned(),
            StopReason::Outage(lasted) => format!(
                "no endpoint has been usable for {:.0} s",
                lasted.as_secs_f64()
            ),
        };
        let clauses: Vec<String> = (self.names.iter().zip(&self.last_failure))
            .map(|(name, failure)| match failure {
                Some((_, message)) => format!("{name}: {message}"),
                None => format!("{name}: out"),
            })
            .collect();
        let kind = (self.last_failure.iter().flatten().map(|(kind, _)| *kind))
            .next_back()
            .unwrap_or(ErrorKind::Connect);
        Some((kind, format!("{head} ({})", clauses.join("; "))))
    }

    /// The state of an endpoint, its streak of failures, and what failed there last.
    pub fn endpoint(&self, index: usize, now: Instant) -> (State, u32, Option<&str>) {
        let failure = self.last_failure[index].as_ref();
        (
            self.health.state(index, now),
            self.health.view(index).streak,
            failure.map(|(_, message)| message.as_str()),
        )
    }

    fn answered(&mut self, endpoint: usize, probe: bool, now: Instant) {
        if probe {
            self.health.handle_probe_result(endpoint, true, now);
        }
        self.health.handle_success(endpoint, now);
    }

    fn correct(&mut self, endpoint: usize, delta: i64) {
        if let Some(limit) = &mut self.budgets[self.groups[endpoint]].tokens {
            limit.budget.correct(delta);
        }
    }

    /// Both halves see the same.
    fn poll(&mut self, now: Instant) {
        for transition in self.health.poll(now) {
            let endpoint = transition.endpoint;
            if let State::Disabled { reason } = &transition.state {
                tracing::warn!(
                    endpoint = self.names[endpoint],
                    "endpoint disabled: {reason}"
                );
            }
            self.local.apply(endpoint, self.health.view(endpoint));
        }
    }
}
