//! Whether a call may be sent now, and where: the policy machines of a run, both halves of each,
//! on one thread. Pure.

use std::time::{Duration, Instant};

use crate::batch::admission::UnknownModels;
use crate::batch::judgement::Failed;
use crate::batch::plan::Plan;
use crate::batch::quotas::{Quotas, TokenLease};
use crate::config::Rate;
use crate::error::ErrorKind;
use crate::policy::balance::Ring;
use crate::policy::health::{Health, LocalHealth, Probe, Sending, State, StopReason};
use crate::policy::load::Pushback;
use crate::policy::pacer::{Pacer, SlotQueue};
use crate::policy::permits::Lease;
use crate::policy::refusals::{self, History, RefusedInARow, Spread};
use crate::policy::slowdown::Remainders;
use crate::policy::wait_hint::WaitHint;
use crate::provider::{Effect, Refusal, Verdict};

mod gates;
mod places;
mod preference;

use gates::{GroupGate, slot_open};
use places::Places;
pub(super) use preference::Rather;

/// The only sender there is.
const SHARD: usize = 0;

/// The answer to a call that wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Send it there.
    Go {
        /// Which endpoint.
        endpoint: usize,
        /// Its place among the requests to that endpoint.
        sending: Sending,
    },
    /// Not before then, or (`None`) not before something is reported.
    Wait(Option<Instant>),
    /// An endpoint that is better for it has no place now; other calls may go.
    NotYet,
}

/// Both halves of every machine.
pub(super) struct Traffic {
    names: Vec<String>,
    groups: Vec<usize>,
    health: Health,
    local: LocalHealth,
    ring: Ring,
    workers: Lease,
    /// By quota group: what the search in flight has found.
    windows: Vec<Places>,
    /// By quota group: requests sent.
    sends: Vec<u64>,
    /// By quota group: those that were refused for load.
    refusals: Vec<u64>,
    /// By quota group: its latest outcomes.
    histories: Vec<History>,
    /// What the servers have answered so far.
    answers: u64,
    /// By endpoint: refusals since it served a call.
    refused: Vec<RefusedInARow>,
    /// By quota group: refusals since the last answer while nothing else was in flight.
    refused_in_a_row: Vec<u32>,
    caps: Vec<Lease>,
    /// The schedule of all requests together.
    pace: Option<(Pacer, SlotQueue)>,
    quotas: Quotas,
    /// By quota group.
    gates: Vec<GroupGate>,
    leases: Vec<TokenLease>,
    last_failure: Vec<Option<(ErrorKind, String)>>,
    models: UnknownModels,
    max_outage: Duration,
    max_outage_at_first: Duration,
}

impl Traffic {
    /// All endpoints usable, nothing in flight.
    pub fn new(plan: &Plan, now: Instant) -> Self {
        let endpoints = &plan.endpoints;
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        // More than four billion in flight are no cap at all.
        let lease = |cap: usize| Lease::new(u32::try_from(cap).unwrap_or(u32::MAX));
        let pace = match plan.config.request.rate_limit {
            Rate::PerSecond(rate) => Some((Pacer::new(rate, now), SlotQueue::new())),
            Rate::Unlimited | Rate::Auto => None,
        };
        let quotas = Quotas::new(&plan.limits, 1, now);
        let mut health = Health::new(plan.groups.clone(), 1);
        health.set_working(SHARD, false);
        Self {
            names: endpoints.iter().map(|one| one.name.clone()).collect(),
            health,
            local: LocalHealth::new(plan.groups.clone(), SHARD),
            ring: Ring::new(&weights),
            workers: lease(plan.config.request.workers),
            windows: (0..plan.limits.len())
                .map(|group| Places::new(quotas.window(group)))
                .collect(),
            caps: endpoints
                .iter()
                .map(|one| lease(one.max_concurrent))
                .collect(),
            pace,
            quotas,
            gates: plan.limits.iter().map(GroupGate::new).collect(),
            leases: Vec::new(),
            sends: vec![0; plan.limits.len()],
            refusals: vec![0; plan.limits.len()],
            histories: vec![History::new(); plan.limits.len()],
            answers: 0,
            refused: vec![RefusedInARow::default(); endpoints.len()],
            refused_in_a_row: vec![0; plan.limits.len()],
            last_failure: vec![None; endpoints.len()],
            models: UnknownModels::default(),
            max_outage: plan.config.max_outage,
            max_outage_at_first: plan.config.max_outage_at_first(),
            groups: plan.groups.clone(),
        }
    }

    /// Whether a call that takes about `tokens` may be sent now; `waiting` calls would go if they
    /// could. `Go` holds a place in flight until [`Self::release`].
    pub fn admit(
        &mut self,
        rather: Rather<'_>,
        tokens: u64,
        waiting: u32,
        now: Instant,
    ) -> Admitted {
        self.poll(now);
        let wakes = [self.health.next_wake(), self.quotas.next_wake()];
        let mut wake = wakes.into_iter().flatten().min();
        if self.workers.available() == 0 {
            return Admitted::Wait(wake);
        }
        let mut ready = vec![false; self.caps.len()];
        for (index, ready) in ready.iter_mut().enumerate() {
            if !self.local.usable(index, now) || self.caps[index].available() == 0 {
                continue;
            }
            if !self.windows[self.groups[index]].open() {
                continue;
            }
            match self.gate_open(self.groups[index], tokens, waiting, now) {
                Ok(()) => *ready = true,
                Err(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
            }
        }
        if !ready.contains(&true) {
            return Admitted::Wait(wake);
        }
        if !self.prefer(rather, &mut ready, now) {
            return Admitted::NotYet;
        }
        if let Some((pacer, slots)) = &mut self.pace
            && let Err(at) = slot_open(slots, pacer, waiting, now)
        {
            return Admitted::Wait(Some(at));
        }
        let endpoint = self
            .ring
            .pick(|index| ready[index], rather.avoid)
            .expect("an endpoint was ready");
        assert!(self.workers.try_acquire(), "a worker was free");
        assert!(self.caps[endpoint].try_acquire(), "the cap had room");
        self.sends[self.groups[endpoint]] += 1;
        let window = &mut self.windows[self.groups[endpoint]];
        assert!(window.lease.try_acquire(), "the group had room");
        self.spend(self.groups[endpoint], tokens, now);
        Admitted::Go {
            endpoint,
            sending: self.local.send(endpoint),
        }
    }

    /// Whether the endpoint has answered any call well.
    pub fn is_well(&self, endpoint: usize) -> bool {
        self.local.is_well(endpoint)
    }

    /// A request is over.
    pub fn release(&mut self, endpoint: usize, sending: Sending, now: Instant) {
        self.local.end(endpoint, sending.number);
        self.workers.release();
        self.caps[endpoint].release();
        self.windows[self.groups[endpoint]].release();
        self.note_kept(self.groups[endpoint], now);
    }

    /// Lets a group's places follow its search.
    fn resize(&mut self, group: usize, now: Instant) {
        self.windows[group].resize(self.quotas.window(group));
        self.note_kept(group, now);
    }

    /// Tells a group's search if the places that it took away are free.
    fn note_kept(&mut self, group: usize, now: Instant) {
        if self.windows[group].permits.is_kept() {
            self.quotas.handle_kept(group, now);
        }
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

    /// A request was answered well, in `latency`; it used `used` tokens, if the answer says.
    pub fn handle_success(
        &mut self,
        endpoint: usize,
        sending: Sending,
        estimated: u64,
        used: Option<u64>,
        latency: Duration,
        now: Instant,
    ) {
        self.refused[endpoint] = RefusedInARow::default();
        self.note_answer(endpoint);
        self.answered(endpoint, sending, now);
        self.settle_tokens(endpoint, estimated, used);
        let group = self.groups[endpoint];
        self.quotas.handle_used(group, used.unwrap_or_default());
        self.quotas.handle_successes(group, 1, latency, now);
        self.resize(group, now);
    }

    /// The server asked the endpoint's quota group to wait.
    pub fn handle_wait(&mut self, endpoint: usize, wait: Duration, now: Instant) {
        let group = self.groups[endpoint];
        self.histories[group].note_wait();
        self.health.handle_hint(endpoint, wait, now);
        self.quotas.handle_wait(group, now + wait, now);
        self.resize(group, now);
    }

    /// What an answer says about the quotas of its group.
    pub fn handle_remainders(&mut self, endpoint: usize, hint: &WaitHint, now: Instant) {
        self.quotas
            .handle_remainders(self.groups[endpoint], &Remainders::of(hint), now);
    }

    /// A line was answered.
    fn note_answer(&mut self, endpoint: usize) {
        let group = self.groups[endpoint];
        self.answers += 1;
        self.refused_in_a_row[group] = 0;
        self.histories[group].note_answer();
    }

    /// What the servers have answered so far.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// A request failed.
    pub fn handle_failure(
        &mut self,
        endpoint: usize,
        sending: Sending,
        estimated: u64,
        failed: &Failed<'_>,
        sent: Instant,
        now: Instant,
    ) {
        let used = failed
            .tokens
            .prompt
            .saturating_add(failed.tokens.completion);
        let unknown = used == 0 && failed.uncounted;
        self.settle_tokens(endpoint, estimated, (!unknown).then_some(used));
        let effect = &failed.verdict.effect;
        let history = &mut self.histories[self.groups[endpoint]];
        let is_refusal = failed.is_refusal();
        if is_refusal {
            history.note_refusal();
            let group = self.groups[endpoint];
            self.refusals[group] += 1;
            if let Some(slots) = &mut self.gates[group].slots {
                slots.again(now);
            }
            if self.windows[group].lease.in_use() == 0 {
                self.refused_in_a_row[group] += 1;
                let slots = self.gates[group].slots.as_ref();
                let spread = slots.map_or(Spread::Unpaced, SlotQueue::spread);
                let rest = refusals::rest(self.refused_in_a_row[group], spread);
                self.health.handle_hint(endpoint, rest, now);
            }
        }
        let (is_lone, waits_alone) = (history.is_lone(), history.waits_alone());
        if let Some(wait) = failed.wait.filter(|_| !(is_refusal && waits_alone)) {
            self.handle_wait(endpoint, wait, now);
        }
        if *effect != Effect::None {
            let Verdict { kind, message, .. } = &failed.verdict;
            self.last_failure[endpoint] = Some((*kind, message.clone()));
        }
        if let Some(cause) = failed.pushback(|| is_lone) {
            let group = self.groups[endpoint];
            let window = &self.windows[group];
            let pushback = Pushback {
                sent,
                cause,
                // It is no longer in flight itself.
                is_last_place: window.lease.in_use() + 1 >= window.permits.total(),
                sends: self.sends[group],
                refusals: self.refusals[group],
            };
            self.quotas.handle_pushback(group, SHARD, &pushback, now);
            self.resize(group, now);
        }
        let refused = failed.may_be_an_outage();
        match effect {
            // What was refused beside others that are served says nothing about the endpoint's health.
            Effect::RateLimited if refused && !sending.probe && self.is_serving(endpoint) => {}
            Effect::RateLimited if !refused => self.alive(endpoint, sending, now),
            Effect::Transient | Effect::RateLimited => {
                self.probed(endpoint, sending, Probe::Failed, now);
                let failures = self.local.fail(endpoint, sending.number);
                let failures = match refused {
                    true => self.refused[endpoint].again(now),
                    false => Some(failures),
                };
                if let Some(failures) = failures {
                    self.health.handle_transient(endpoint, failures, now);
                }
            }
            // The endpoint answered: whatever it said, it is not out.
            Effect::None if failed.status.is_none() => self.alive(endpoint, sending, now),
            Effect::None => self.complained(endpoint, sending, now),
            Effect::Refused { what, reason } => {
                self.refuse(endpoint, sending, *what, reason, now);
            }
            Effect::Exhausted { reason } => {
                let group = self.groups[endpoint];
                for index in 0..self.groups.len() {
                    if self.groups[index] == group {
                        self.health.handle_disable(index, reason.clone());
                    }
                }
                self.poll(now);
            }
        }
    }

    /// The endpoint refused. Nobody waits for what becomes of it: a call has its answer.
    fn refuse(
        &mut self,
        endpoint: usize,
        sending: Sending,
        what: Refusal,
        reason: &str,
        now: Instant,
    ) {
        /// Calls have no numbers, and nobody asks for those that were to blame.
        const CALL: u64 = 0;
        match what {
            Refusal::Transport => self.health.handle_disable(endpoint, reason.to_owned()),
            Refusal::Model => self.complained(endpoint, sending, now),
            Refusal::Path if self.local.is_well(endpoint) => {
                self.complained(endpoint, sending, now);
            }
            Refusal::Path => (self.health).handle_path_refused(endpoint, CALL, reason, now),
            Refusal::Key => {
                let is_probe = sending.probe;
                self.local.complain(endpoint, sending.number);
                (self.health).handle_key_refused(endpoint, CALL, is_probe, reason, now);
            }
            Refusal::Request => {
                let failures = self.local.complain(endpoint, sending.number);
                self.probed(endpoint, sending, Probe::Alive, now);
                (self.health).handle_line_refused(endpoint, CALL, None, failures, reason, now);
            }
        }
        self.poll(now);
    }

    fn complained(&mut self, endpoint: usize, sending: Sending, now: Instant) {
        self.note_answer(endpoint);
        let failures = self.local.complain(endpoint, sending.number);
        self.probed(endpoint, sending, Probe::Alive, now);
        self.health.handle_complaint(endpoint, failures, now);
    }

    fn alive(&mut self, endpoint: usize, sending: Sending, now: Instant) {
        self.local.note_alive(endpoint, sending.number);
        self.probed(endpoint, sending, Probe::Alive, now);
        self.health.handle_alive(endpoint, now);
    }

    fn probed(&mut self, endpoint: usize, sending: Sending, shown: Probe, now: Instant) {
        if sending.probe {
            self.health.handle_probe_result(endpoint, shown, now);
            if shown != Probe::Failed {
                let group = self.groups[endpoint];
                self.quotas.handle_back(group, now);
                self.resize(group, now);
            }
        }
    }

    /// An endpoint is out for good.
    pub fn disable(&mut self, endpoint: usize, reason: &str) {
        self.last_failure[endpoint] = Some((ErrorKind::Auth, reason.to_owned()));
        self.health.handle_disable(endpoint, reason.to_owned());
    }

    /// Whether another endpoint could take a call now.
    pub fn usable_elsewhere(&mut self, endpoint: usize, now: Instant) -> bool {
        self.poll(now);
        (0..self.caps.len()).any(|other| other != endpoint && self.local.usable(other, now))
    }

    /// `--rate auto`: the rate found, per second.
    pub fn rate_found(&self) -> Option<f64> {
        self.quotas.found_rate()
    }

    /// The limits of every quota group.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Takes in that the thread did not run for so long until `now`.
    pub fn postpone(&mut self, lasted: Duration, now: Instant) {
        self.health.postpone(lasted, now);
    }

    /// Why no call can be sent for as long as anybody should wait, if that is so: the kind and the
    /// words of the error for those that wait.
    pub fn outage(&self, now: Instant) -> Option<(ErrorKind, String)> {
        let reason = self
            .health
            .verdict(now, self.max_outage, self.max_outage_at_first)?;
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

    /// Another call is under way at the endpoint.
    fn is_serving(&self, endpoint: usize) -> bool {
        self.caps[endpoint].in_use() > 0
    }

    fn answered(&mut self, endpoint: usize, sending: Sending, now: Instant) {
        self.local.answer(endpoint, sending.number);
        self.probed(endpoint, sending, Probe::Well, now);
        self.health.handle_success(endpoint, now);
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
            self.local.apply(endpoint, self.health.view(endpoint), now);
        }
        self.quotas.poll(now, &mut self.leases);
        self.take_leases();
        for (group, slots) in self.quotas.take_changes() {
            self.gates[group].slots = slots.then(SlotQueue::new);
        }
    }
}

#[cfg(test)]
mod tests;
