//! The trial endpoint's own rate limit: a token bucket whose rate follows a schedule. Pure.

use std::time::Duration;

/// How much the bucket holds, in seconds of its rate: a steady client is never refused for the
/// jitter of its timers, and a burst is.
const BURST_SECONDS: f64 = 1.0;

/// The longest wait that is told: a day, however low the limit.
const WAIT_SECONDS_MAX: f64 = 86_400.0;

/// A token bucket; one token is one request.
#[derive(Debug)]
pub(super) struct Bucket {
    /// `(from, requests per second)`, ascending; 0 means no limit.
    schedule: Vec<(Duration, f64)>,
    limit: f64,
    tokens: f64,
    updated: Duration,
}

/// What the bucket said about one request; the numbers of the rate limit headers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quota {
    /// Requests per second.
    pub limit: f64,
    /// Whole requests left now.
    pub remaining: u64,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// `Some`: refused, and this long until the next token.
    pub wait: Option<Duration>,
}

impl Bucket {
    /// `initial` holds from the start, each `(at, limit)` of `changes` from then on.
    pub(super) fn new(initial: Option<f64>, changes: &[(Duration, f64)]) -> Self {
        let mut schedule = vec![(Duration::ZERO, initial.unwrap_or(0.0))];
        schedule.extend_from_slice(changes);
        schedule.sort_by_key(|&(from, _)| from);
        Self {
            schedule,
            limit: 0.0,
            tokens: 0.0,
            updated: Duration::ZERO,
        }
    }

    /// Takes one token at `now`; `None` while there is no limit.
    pub(super) fn take(&mut self, now: Duration) -> Option<Quota> {
        self.refill(now);
        if self.limit == 0.0 {
            return None;
        }
        let wait = if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            None
        } else {
            Some(self.time_for(1.0 - self.tokens))
        };
        Some(Quota {
            limit: self.limit,
            remaining: self.tokens as u64,
            reset: self.time_for(self.capacity() - self.tokens),
            wait,
        })
    }

    fn refill(&mut self, now: Duration) {
        let due = self.schedule.iter().rev().find(|&&(from, _)| from <= now);
        let limit = due.map_or(0.0, |&(_, limit)| limit);
        if limit != self.limit {
            let was_unlimited = self.limit == 0.0;
            self.limit = limit;
            self.tokens = if was_unlimited {
                self.capacity()
            } else {
                self.tokens
            };
        }
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.limit).min(self.capacity());
        self.updated = now;
    }

    /// How long `tokens` take to come in.
    fn time_for(&self, tokens: f64) -> Duration {
        Duration::from_secs_f64((tokens.max(0.0) / self.limit).min(WAIT_SECONDS_MAX))
    }

    fn capacity(&self) -> f64 {
        (self.limit * BURST_SECONDS).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn no_limit_says_nothing() {
        assert_eq!(Bucket::new(None, &[]).take(ms(5)), None);
        assert_eq!(Bucket::new(Some(0.0), &[]).take(ms(5)), None);
    }

    #[test]
    fn a_burst_beyond_the_bucket_is_refused_with_the_time_of_the_next_token() {
        let mut bucket = Bucket::new(Some(4.0), &[]);
        for remaining in [3, 2, 1, 0] {
            let quota = bucket.take(ms(0)).unwrap();
            assert_eq!((quota.remaining, quota.wait), (remaining, None));
        }
        let refused = bucket.take(ms(0)).unwrap();
        assert_eq!(
            refused,
            Quota {
                limit: 4.0,
                remaining: 0,
                reset: ms(1000),
                wait: Some(ms(250))
            }
        );
        assert_eq!(bucket.take(ms(125)).unwrap().wait, Some(ms(125)));
        assert_eq!(bucket.take(ms(250)).unwrap().wait, None);
    }

    #[test]
    fn the_lowest_limit_has_a_finite_wait() {
        let mut bucket = Bucket::new(Some(f64::MIN_POSITIVE), &[]);
        bucket.take(ms(0));
        assert_eq!(
            bucket.take(ms(0)).unwrap().wait,
            Some(Duration::from_secs(86_400))
        );
    }

    #[test]
    fn a_steady_client_at_the_limit_is_never_refused() {
        let mut bucket = Bucket::new(Some(100.0), &[]);
        for tick in 0..10_000 {
            assert_eq!(
                bucket.take(ms(tick * 10)).unwrap().wait,
                None,
                "tick {tick}"
            );
        }
    }

    #[test]
    fn the_schedule_changes_the_limit() {
        let mut bucket = Bucket::new(Some(2.0), &[(ms(2000), 0.0), (ms(1000), 50.0)]);
        assert_eq!(bucket.take(ms(0)).unwrap().limit, 2.0);
        assert_eq!(bucket.take(ms(1000)).unwrap().limit, 50.0);
        assert_eq!(bucket.take(ms(2000)), None);
    }
}
