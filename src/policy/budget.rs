//! `rpm_limit` and `tpm_limit`: what a quota group may spend per minute. Pure.
//!
//! A token bucket owned by the main thread, from which shards lease amounts. Its depth is one
//! second's worth, because servers enforce minutes in smaller windows (Azure: 10 s) and a start-up
//! burst would be refused. It refills slightly slower than the limit, so that depth and refill
//! together never give more than the limit in any minute:
//! `depth + 60 s · refill = limit + 1`, and amounts are whole numbers.

use std::time::{Duration, Instant};

/// The window of the limits.
const MINUTE_SECONDS: f64 = 60.0;

/// The smallest lease, as a part of the depth: 100 ms worth, so that a shard which waits for much
/// does not ask for every single token.
const LEASE_PART: f64 = 0.1;

/// The answer to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// That much may be spent: what was asked for, or the part there is (at least 1).
    Now(u64),
    /// Nothing now; ask again then.
    At(Instant),
}

/// Main-owned: one limit of one quota group.
#[derive(Debug)]
pub struct Budget {
    depth: f64,
    refill_per_second: f64,
    /// Below 0 after a correction: spent more than was leased.
    level: f64,
    level_at: Instant,
}

impl Budget {
    /// A budget of `per_minute` units per minute, one second's worth of it at once.
    ///
    /// # Panics
    /// If `per_minute` is 0, which the configuration rules out: no lease could ever be given.
    pub fn new(per_minute: u64, now: Instant) -> Self {
        assert!(per_minute > 0, "a limit of 0 per minute");
        let limit = per_minute as f64;
        let depth = (limit / MINUTE_SECONDS).max(1.0);
        Self {
            depth,
            refill_per_second: (limit + 1.0 - depth) / MINUTE_SECONDS,
            level: depth,
            level_at: now,
        }
    }

    /// Leases up to `amount`. A shard that needs more than it got asks for the rest: in this way
    /// a single request may cost more than the depth.
    pub fn lease(&mut self, amount: u64, now: Instant) -> Leased {
        self.refill(now);
        let smallest = (self.depth * LEASE_PART).ceil().min(amount as f64);
        if self.level < smallest {
            let seconds = (smallest - self.level) / self.refill_per_second;
            // Rounded up, so that asking again then is not in vain.
            return Leased::At(now + Duration::from_secs_f64(seconds) + Duration::from_nanos(1));
        }
        // The cast drops the fraction, which stays in the bucket.
        let leased = amount.min(self.level as u64);
        self.level -= leased as f64;
        Leased::Now(leased)
    }

    /// Settles an estimate: `delta` units more (or, negative, fewer) were spent than leased.
    /// Leases that were not used at all come back in the same way.
    pub fn correct(&mut self, delta: i64) {
        // The next lease cuts what exceeds the depth.
        self.level -= delta as f64;
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.level_at).as_secs_f64();
        self.level = (self.level + seconds * self.refill_per_second).min(self.depth);
        self.level_at = self.level_at.max(now);
    }
}

/// Shard-owned: what a shard has leased of one budget and not spent.
#[derive(Debug, Default)]
pub struct Allowance {
    left: u64,
}

impl Allowance {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spends `amount` if that much is left.
    pub fn take(&mut self, amount: u64) -> bool {
        let enough = amount <= self.left;
        if enough {
            self.left -= amount;
        }
        enough
    }

    /// How much to ask for before `amount` can be taken.
    pub fn missing(&self, amount: u64) -> u64 {
        amount.saturating_sub(self.left)
    }

    /// Adds a lease.
    pub fn add(&mut self, amount: u64) {
        self.left += amount;
    }

    /// Gives up what is left, for [`Budget::correct`] (negated): the shard has nothing to send.
    pub fn drain(&mut self) -> u64 {
        std::mem::take(&mut self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::virtual_time::{ms, start};

    const MINUTE: Duration = Duration::from_secs(60);

    /// Asks for `amount` again and again; the leases of `minutes`, with their times.
    fn greedy(per_minute: u64, amount: u64, minutes: u32) -> Vec<(Duration, u64)> {
        let begin = start();
        let mut budget = Budget::new(per_minute, begin);
        let mut leases = Vec::new();
        let mut now = begin;
        while now < begin + MINUTE * minutes {
            match budget.lease(amount, now) {
                Leased::Now(leased) => {
                    assert!(leased > 0 && leased <= amount);
                    leases.push((now - begin, leased));
                }
                Leased::At(at) => {
                    assert!(at > now);
                    now = at;
                }
            }
        }
        leases
    }

    /// The most leased in any window.
    fn most(leases: &[(Duration, u64)], window: Duration) -> u64 {
        let (mut sum, mut first, mut most) = (0, 0, 0);
        for &(at, amount) in leases {
            sum += amount;
            while leases[first].0 + window <= at {
                sum -= leases[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    #[test]
    fn no_minute_exceeds_the_limit_and_little_is_wasted() {
        for per_minute in [1, 7, 59, 60, 61, 119, 500, 10_000, 2_000_000] {
            for amount in [1, 3, 1000] {
                if per_minute > 100_000 && amount < 1000 {
                    continue;
                }
                let leases = greedy(per_minute, amount, 5);
                let label = format!("{per_minute} per minute in {amount}s");
                assert!(most(&leases, MINUTE) <= per_minute, "{label}");
                let total: u64 = leases.iter().map(|&(_, amount)| amount).sum();
                assert!(
                    total as f64 >= 5.0 * per_minute as f64 * 0.98 - 1.0,
                    "{label}: {total}"
                );
                let ten_seconds = most(&leases, Duration::from_secs(10));
                let fair = per_minute as f64 / 6.0;
                assert!(
                    ten_seconds as f64 <= fair * 1.1 + 1.0,
                    "{label}: {ten_seconds} in 10 s"
                );
            }
        }
    }

    #[test]
    fn the_start_is_one_second_worth() {
        let now = start();
        let mut budget = Budget::new(6000, now);
        assert_eq!(budget.lease(1000, now), Leased::Now(100));
        let Leased::At(at) = budget.lease(1000, now) else {
            panic!("the bucket is empty");
        };
        assert!(at > now + ms(100) && at < now + ms(103), "{:?}", at - now);
        assert_eq!(budget.lease(1000, at), Leased::Now(10));
        let after_a_break = now + MINUTE * 10;
        assert_eq!(budget.lease(1000, after_a_break), Leased::Now(100));
    }

    #[test]
    fn a_request_larger_than_the_depth_saves_up() {
        let begin = start();
        let mut budget = Budget::new(60_000, begin);
        let mut allowance = Allowance::new();
        let mut now = begin;
        while !allowance.take(4000) {
            match budget.lease(allowance.missing(4000), now) {
                Leased::Now(amount) => allowance.add(amount),
                Leased::At(at) => now = at,
            }
        }
        let waited = now - begin;
        assert!(waited > ms(3000) && waited < ms(3200), "{waited:?}");
        assert_eq!(allowance.drain(), 0);
    }

    #[test]
    fn corrections_settle_estimates() {
        let now = start();
        let mut budget = Budget::new(60_000, now);
        assert_eq!(budget.lease(800, now), Leased::Now(800));
        budget.correct(-700);
        assert_eq!(budget.lease(1000, now), Leased::Now(900));
        budget.correct(-5000);
        assert_eq!(
            budget.lease(5000, now),
            Leased::Now(1000),
            "never more than the depth"
        );
        budget.correct(3000);
        let Leased::At(at) = budget.lease(1, now) else {
            panic!("the bucket is in debt");
        };
        assert!(at > now + ms(3000) && at < now + ms(3200), "{:?}", at - now);
    }

    #[test]
    fn an_allowance_is_spent_whole_or_not() {
        let mut allowance = Allowance::new();
        allowance.add(10);
        assert!(!allowance.take(11) && allowance.take(4));
        assert_eq!((allowance.missing(10), allowance.missing(3)), (4, 0));
        assert_eq!((allowance.drain(), allowance.drain()), (6, 0));
    }
}
