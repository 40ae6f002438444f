//! The coordinator's half of what quota groups may do: `rpm_limit` and `--rate auto` as schedules
//! of send slots, `tpm_limit` as a budget of tokens, and a number in flight. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::policy::budget::{Budget, Leased};
use crate::policy::load::{Load, Pushback};
use crate::policy::pacer::{Pacer, per_minute};
use crate::policy::slowdown::{Remainders, Slowdown};
use crate::policy::wait_hint::Quota;

/// What one quota group may do, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupLimits {
    /// The smallest `rpm_limit` of the group's endpoints.
    pub requests_per_minute: Option<u64>,
    /// The smallest `tpm_limit` of the group's endpoints.
    pub tokens_per_minute: Option<u64>,
    /// `--rate auto`: the rate the group sustains is searched for.
    pub search_rate: bool,
    /// How many requests of the group may be in flight at most; below, it is searched for.
    pub in_flight_max: u32,
}

impl GroupLimits {
    /// Whether the group's requests need send slots of its own.
    pub fn paced(&self) -> bool {
        self.requests_per_minute.is_some() || self.search_rate
    }
}

/// The limits of every quota group.
pub struct Quotas {
    groups: Vec<Group>,
    /// Quota groups whose requests need send slots from now on, or no longer.
    changes: Vec<(usize, bool)>,
}

struct Group {
    /// Requests per second by `rpm_limit`.
    rate_max: Option<f64>,
    load: Load,
    slowdown: Slowdown,
    pacer: Option<Pacer>,
    budget: Option<Budget>,
    /// Shards that wait for tokens, longest first; each at most once.
    waiting: VecDeque<(usize, u64)>,
    /// When the budget has something for the first of them.
    serve_at: Option<Instant>,
}

/// What the searches of one quota group have found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// `--rate auto`: requests per second.
    pub rate: Option<f64>,
    /// Requests in flight, once there were too many.
    pub workers: Option<u32>,
}

/// Tokens that go to a shard now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLease {
    /// The receiver.
    pub shard: usize,
    /// Of which quota group.
    pub group: usize,
    /// How many; a shard that needs more asks again.
    pub amount: u64,
}

impl Quotas {
    /// Nothing spent yet, by `shards` shards.
    pub fn new(limits: &[GroupLimits], shards: usize, now: Instant) -> Self {
        let group = |limits: &GroupLimits| {
            let rate_max = limits.requests_per_minute.map(per_minute);
            let load = Load::new(limits.in_flight_max, limits.search_rate, shards, now);
            let rate = slower(load.rate(), rate_max);
            Group {
                rate_max,
                load,
                slowdown: Slowdown::default(),
                pacer: rate.map(|rate| Pacer::new(rate, now)),
                budget: limits
                    .tokens_per_minute
                    .map(|limit| Budget::new(limit, now)),
                waiting: VecDeque::new(),
                serve_at: None,
            }
        };
        Self {
            groups: limits.iter().map(group).collect(),
            changes: Vec::new(),
        }
    }

    /// The schedule of a group, if it has one.
    pub fn pacer(&mut self, group: usize) -> Option<&mut Pacer> {
        self.groups[group].pacer.as_mut()
    }

    /// The rate that `--rate auto` has found, over all groups.
    pub fn found_rate(&self) -> Option<f64> {
        let searched = self
            .groups
            .iter()
            .filter(|group| group.load.is_always_paced());
        let rates = searched.filter_map(Group::rate_found);
        rates.reduce(|sum, rate| sum + rate)
    }

    /// How many of the group's requests may be in flight.
    pub fn window(&self, group: usize) -> u32 {
        self.groups[group].load.window()
    }

    /// What has been found for each group so far.
    pub fn found(&self) -> impl Iterator<Item = Found> {
        self.groups.iter().map(|group| Found {
            rate: group.rate_found(),
            workers: group.load.window_found(),
        })
    }

    /// `count` requests of the group were served since the last call, in `latency` added up.
    pub fn handle_successes(&mut self, group: usize, count: u64, latency: Duration, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.adapt(group, now, |load| load.handle_answers(count, latency, now));
    }

    /// A request of `shard` to the group was pushed back.
    pub fn handle_pushback(
        &mut self,
        group: usize,
        shard: usize,
        pushback: &Pushback,
        now: Instant,
    ) {
        self.adapt(group, now, |load| {
            load.handle_pushback(shard, pushback, now)
        });
    }

    /// No more of the group's requests are in flight than [`Self::window`] allows.
    pub fn handle_kept(&mut self, group: usize, now: Instant) {
        self.groups[group].load.handle_kept(now);
    }

    /// A server asked the group to wait until `until`.
    pub fn handle_wait(&mut self, group: usize, until: Instant, now: Instant) {
        self.adapt(group, now, |load| load.handle_wait(until, now));
    }

    /// The group was out, and is back.
    pub fn handle_back(&mut self, group: usize, now: Instant) {
        self.adapt(group, now, |load| load.handle_back(now));
    }

    /// A request of the group took `used` tokens; 0: its answer does not say.
    pub fn handle_used(&mut self, group: usize, used: u64) {
        self.groups[group].slowdown.handle_used(used);
    }

    /// What an answer said about the remainders of the group's quotas.
    pub fn handle_remainders(&mut self, group: usize, said: &Remainders, now: Instant) {
        let requests = said.requests;
        let mut said = *said;
        if self.groups[group].load.is_always_paced() {
            // The search follows the requests itself, in smaller steps.
            said.requests = Quota::default();
            if let (Some(remaining), Some(limit), Some(reset)) =
                (requests.remaining, requests.limit, requests.reset)
            {
                self.adapt(group, now, |load| {
                    if let Some(search) = load.quota_search() {
                        search.handle_remaining(remaining, limit, reset, now);
                    }
                });
            }
        }
        self.groups[group].slowdown.handle_remainders(&said, now);
        self.repace(group, now);
    }

    /// Quota groups whose requests need send slots from now on (`true`), or no longer, since the
    /// last call. Those that always need some are not among them.
    pub fn take_changes(&mut self) -> Vec<(usize, bool)> {
        std::mem::take(&mut self.changes)
    }

    /// Lets a group's searches act, and its schedule follow.
    fn adapt(&mut self, group: usize, now: Instant, act: impl FnOnce(&mut Load)) {
        let load = &mut self.groups[group].load;
        let before = (load.rate(), load.is_paced_evenly());
        act(load);
        if (load.rate(), load.is_paced_evenly()) != before {
            self.repace(group, now);
        }
    }

    /// Lets a group's schedule follow its limit, its search and its remainders.
    fn repace(&mut self, index: usize, now: Instant) {
        let group = &mut self.groups[index];
        let lasting = slower(group.load.rate(), group.rate_max);
        let rate = slower(lasting, group.slowdown.rate(now));
        // Other schedules than that of the search promise how much is sent, also of what is refused.
        let evenly = group.load.is_paced_evenly() && rate == group.load.rate();
        match (rate, &mut group.pacer) {
            (Some(rate), Some(pacer)) => {
                pacer.set_rate(rate, now);
                pacer.set_evenly(evenly);
            }
            (Some(rate), None) => {
                let pacer = group.pacer.insert(Pacer::new(rate, now));
                pacer.set_evenly(evenly);
                self.changes.push((index, true));
            }
            (None, Some(_)) => {
                group.pacer = None;
                self.changes.push((index, false));
            }
            (None, None) => {}
        }
    }

    /// `shard` needs `amount` tokens more of the group's budget; [`Self::poll`] serves it.
    pub fn handle_want(&mut self, shard: usize, group: usize, amount: u64) {
        let group = &mut self.groups[group];
        group.waiting.retain(|&(waiting, _)| waiting != shard);
        group.waiting.push_back((shard, amount));
        group.serve_at = None;
    }

    /// `more` tokens were spent than leased (or, negative, fewer).
    pub fn handle_settled(&mut self, group: usize, more: i64) {
        let group = &mut self.groups[group];
        if let Some(budget) = &mut group.budget {
            budget.correct(more);
            group.serve_at = None;
        }
    }

    /// `shard` has nothing to send any more.
    pub fn handle_idle(&mut self, shard: usize) {
        for group in &mut self.groups {
            group.waiting.retain(|&(waiting, _)| waiting != shard);
        }
    }

    /// Leases tokens to the shards that wait for them, as far as there are some, and ends slowdowns
    /// whose quota is replenished.
    pub fn poll(&mut self, now: Instant, leases: &mut Vec<TokenLease>) {
        for index in 0..self.groups.len() {
            if self.groups[index].slowdown.end(now) {
                self.repace(index, now);
            }
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            if group.serve_at.is_some_and(|at| at > now) {
                continue;
            }
            group.serve_at = None;
            let Some(budget) = &mut group.budget else {
                continue;
            };
            while let Some(&(shard, amount)) = group.waiting.front() {
                match budget.lease(amount, now) {
                    Leased::Now(amount) => {
                        group.waiting.pop_front();
                        leases.push(TokenLease {
                            shard,
                            group: index,
                            amount,
                        });
                    }
                    Leased::At(at) => {
                        group.serve_at = Some(at);
                        break;
                    }
                }
            }
        }
    }

    /// When [`Self::poll`] has something to do though nothing is reported.
    pub fn next_wake(&self) -> Option<Instant> {
        let wakes = |group: &Group| [group.serve_at, group.slowdown.until()];
        self.groups.iter().flat_map(wakes).flatten().min()
    }
}

impl Group {
    /// The rate, where it is searched for.
    fn rate_found(&self) -> Option<f64> {
        let found = self.load.rate_found()?;
        slower(Some(found), self.rate_max)
    }
}

/// The lower of two rates, of which either may be missing.
fn slower(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::load::Cause;

    #[expect(
        clippy::disallowed_methods,
        reason = "`Instant` has no other constructor; the test only adds to it"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn limits(
        requests_per_minute: Option<u64>,
        tokens_per_minute: Option<u64>,
        search_rate: bool,
    ) -> GroupLimits {
        GroupLimits {
            requests_per_minute,
            tokens_per_minute,
            search_rate,
            in_flight_max: 50,
        }
    }

    #[test]
    fn tokens_go_round_and_wait_for_the_budget() {
        let now = start();
        let mut quotas = Quotas::new(&[limits(None, Some(60_000), false)], 3, now);
        let mut leases = Vec::new();
        quotas.handle_want(0, 0, 700);
        quotas.handle_want(1, 0, 700);
        quotas.handle_want(2, 0, 700);
        quotas.poll(now, &mut leases);
        let lease = |shard, amount| TokenLease {
            shard,
            group: 0,
            amount,
        };
        assert_eq!(leases, [lease(0, 700), lease(1, 300)]);
        let wake = quotas.next_wake().expect("shard 2 waits");
        assert!(wake > now + Duration::from_millis(99) && wake < now + Duration::from_millis(103));
        quotas.handle_settled(0, -500);
        leases.clear();
        quotas.poll(now, &mut leases);
        assert_eq!(leases, [lease(2, 500)]);
        quotas.handle_want(1, 0, 1);
        quotas.handle_idle(1);
        leases.clear();
        quotas.poll(now + Duration::from_secs(9), &mut leases);
        assert!(leases.is_empty() && quotas.next_wake().is_none());
    }

    #[test]
    fn a_searched_rate_stays_below_the_configured_one() {
        let now = start();
        let groups = [
            limits(Some(300), None, true),
            limits(None, None, true),
            limits(Some(300), None, false),
        ];
        let mut quotas = Quotas::new(&groups, 1, now);
        assert_eq!(quotas.found_rate(), Some(per_minute(300) + 10.0));
        let later = now + Duration::from_secs(1);
        quotas.handle_successes(0, 10, Duration::ZERO, later);
        quotas.handle_successes(1, 10, Duration::ZERO, later);
        assert_eq!(quotas.found_rate(), Some(per_minute(300) + 20.0));
        let pushback = Pushback {
            sent: later,
            cause: Cause::Refused,
            is_last_place: false,
            sends: 1,
            refusals: 1,
        };
        quotas.handle_pushback(1, 0, &pushback, later);
        assert_eq!(quotas.found_rate(), Some(per_minute(300) + 10.0));
        assert!(quotas.pacer(0).is_some() && quotas.pacer(2).is_some());
        assert_eq!(
            Quotas::new(&[GroupLimits::default()], 1, now).found_rate(),
            None
        );
    }
}
