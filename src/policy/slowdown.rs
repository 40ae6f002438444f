//! Slowing a quota group down before its server refuses: what the remaining-quota headers of
//! answers allow. Pure.
//!
//! A quota of which less than a tenth is left is spread over the time until its reset. Of a fixed
//! window that is all there is. A quota that refills steadily allows more, and shows it by a
//! remainder that grows: it loses nothing, because it never fills up meanwhile. From a fifth on the
//! group is free again.

use std::time::{Duration, Instant};

use super::wait_hint::{Quota, WaitHint};

/// Below this part of a quota, its group slows down.
const LOW: f64 = 0.1;

/// From this part on it is free again.
const FREE: f64 = 0.2;

/// Quotas with a later reset are used up and then waited for: the rest of a day's quota is worth
/// more now than spread over the night. Resets of quotas that are counted by the minute lie below.
pub const RESET_MAX: Duration = Duration::from_secs(120);

/// The slowest pace, in requests per second: a guard against absurd headers. A quota that allows
/// even less will be exhausted, and its reset waited for.
const RATE_MIN: f64 = 0.01;

/// How much one answer counts in the mean of what a request takes of a token quota.
const TOKENS_WEIGHT: f64 = 0.1;

/// What the latest answers of one quota group said about its remainders.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Remainders {
    /// Of requests.
    pub requests: Quota,
    /// Of tokens: of both sorts, of prompts, of completions.
    pub tokens: [Quota; 3],
}

impl Remainders {
    /// The figures of an answer.
    pub fn of(hint: &WaitHint) -> Self {
        Self {
            requests: hint.requests,
            tokens: [hint.tokens, hint.input_tokens, hint.output_tokens],
        }
    }

    /// Some quota is about to be exhausted.
    pub fn run_low(&self) -> bool {
        self.quotas().any(|quota| below(&quota, LOW))
    }

    /// [`Slowdown`] slows the group down when it hears of this and of the `used` tokens.
    pub fn slow_down(&self, used: u64) -> bool {
        let tokens = self.tokens.iter().filter(|_| used > 0);
        let quotas = [&self.requests].into_iter().chain(tokens);
        quotas
            .into_iter()
            .any(|quota| pace(quota, LOW, 1.0).is_some())
    }

    fn quotas(&self) -> impl Iterator<Item = Quota> {
        [self.requests].into_iter().chain(self.tokens)
    }
}

/// Main-owned: the pace that the remainders of one quota group leave.
#[derive(Debug, Default)]
pub struct Slowdown {
    /// Requests per second, and until when.
    pace: Option<(f64, Instant)>,
    /// Mean tokens of a request; 0: unknown.
    tokens_per_request: f64,
}

impl Slowdown {
    /// A request took `used` tokens; 0: its answer does not say.
    pub fn handle_used(&mut self, used: u64) {
        if used > 0 {
            let mean = self.tokens_per_request;
            self.tokens_per_request = match mean > 0.0 {
                true => mean + (used as f64 - mean) * TOKENS_WEIGHT,
                false => used as f64,
            };
        }
    }

    /// The figures of an answer. Only those that run low are needed, and those that come while the
    /// group is slowed down.
    pub fn handle_remainders(&mut self, said: &Remainders, now: Instant) {
        let part = match self.pace {
            Some(_) => FREE,
            None => LOW,
        };
        let requests = pace(&said.requests, part, 1.0);
        let per_request = self.tokens_per_request;
        let tokens = said.tokens.iter().filter(|_| per_request > 0.0);
        let paces = tokens.filter_map(|quota| pace(quota, part, per_request));
        let slowest = requests
            .into_iter()
            .chain(paces)
            .min_by(|one, other| one.0.total_cmp(&other.0));
        match slowest {
            Some((rate, reset)) => self.pace = Some((rate.max(RATE_MIN), now + reset)),
            // An exhausted quota is waited for, and says nothing about what comes after.
            None if said.quotas().any(|quota| quota.exhausted()) => {}
            // An answer without such headers, such as a gateway's own error, says nothing.
            None if said.quotas().all(|quota| quota.remaining.is_none()) => {}
            None => self.pace = None,
        }
    }

    /// The pace at `now` in requests per second; `None`: free.
    pub fn rate(&self, now: Instant) -> Option<f64> {
        self.pace
            .filter(|(_, until)| *until > now)
            .map(|(rate, _)| rate)
    }

    /// Whether the pace has just ended because its quota is replenished.
    pub fn end(&mut self, now: Instant) -> bool {
        let ended = self.until().is_some_and(|until| until <= now);
        if ended {
            self.pace = None;
        }
        ended
    }

    /// When [`end`](Self::end) has something to do.
    pub fn until(&self) -> Option<Instant> {
        self.pace.map(|(_, until)| until)
    }
}

/// Less than `part` of the quota is left, by figures that mean something.
fn below(quota: &Quota, part: f64) -> bool {
    let (Some(remaining), Some(limit), Some(_)) = (quota.remaining, quota.limit, quota.reset)
    else {
        return false;
    };
    (remaining as f64) < limit as f64 * part
}

/// What is left of a quota below `part`, spread over the time until its reset: requests per second,
/// each taking `each` of it, and that time.
fn pace(quota: &Quota, part: f64, each: f64) -> Option<(f64, Duration)> {
    let remaining = quota.remaining.filter(|&remaining| remaining > 0)?;
    let near = |reset: &Duration| !reset.is_zero() && *reset <= RESET_MAX;
    let reset = quota
        .reset
        .filter(|reset| near(reset) && below(quota, part))?;
    Some((remaining as f64 / each / reset.as_secs_f64(), reset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::virtual_time::start;

    fn quota(remaining: u64, limit: u64, reset_seconds: u64) -> Quota {
        Quota {
            limit: Some(limit),
            remaining: Some(remaining),
            reset: Some(Duration::from_secs(reset_seconds)),
        }
    }

    fn requests(remaining: u64, limit: u64, reset_seconds: u64) -> Remainders {
        Remainders {
            requests: quota(remaining, limit, reset_seconds),
            ..Remainders::default()
        }
    }

    #[test]
    fn the_pace_by_what_is_left() {
        let check_tokens = |said: Remainders, used, expect: Option<f64>| {
            let now = start();
            let mut slowdown = Slowdown::default();
            slowdown.handle_used(used);
            slowdown.handle_remainders(&said, now);
            assert_eq!(slowdown.rate(now), expect, "{said:?}");
            assert_eq!(said.slow_down(used), expect.is_some(), "{said:?}");
        };
        let check = |said, expect| check_tokens(said, 0, expect);
        check(requests(10, 100, 60), None);
        check(requests(9, 100, 60), Some(0.15));
        check(requests(90, 1000, 45), Some(2.0));
        check(requests(1, 1000, 120), Some(RATE_MIN));
        // Of a day: used up, then waited for.
        check(requests(90, 1000, 121), None);
        // Waited for by everybody: a wait hint, no pace.
        check(requests(0, 100, 60), None);
        // Unknown.
        check(requests(0, 0, 60), None);
        check(requests(9, 100, 0), None);
        check(Remainders::default(), None);
        let missing = Quota {
            limit: None,
            ..quota(1, 1, 60)
        };
        check(
            Remainders {
                requests: missing,
                ..Remainders::default()
            },
            None,
        );
        // Tokens: the slowest quota decides, in requests of this size.
        let tokens = [
            quota(5000, 100_000, 10),
            quota(900, 10_000, 9),
            quota(90_000, 100_000, 10),
        ];
        check_tokens(
            Remainders {
                tokens,
                ..requests(90, 1000, 10)
            },
            200,
            Some(0.5),
        );
        check(
            Remainders {
                tokens,
                ..requests(90, 1000, 10)
            },
            Some(9.0),
        );
        check(
            Remainders {
                tokens,
                ..requests(500, 1000, 10)
            },
            None,
        );
    }

    #[test]
    fn it_ends_when_the_quota_has_recovered_or_is_reset() {
        let now = start();
        let mut slowdown = Slowdown::default();
        slowdown.handle_remainders(&requests(9, 100, 60), now);
        assert!(slowdown.rate(now).is_some());
        assert_eq!(slowdown.until(), Some(now + Duration::from_secs(60)));
        assert_eq!(slowdown.rate(now + Duration::from_secs(60)), None);
        // Answers that say nothing, or that nothing is left, change nothing.
        slowdown.handle_remainders(&Remainders::default(), now);
        slowdown.handle_remainders(&requests(0, 100, 60), now);
        assert_eq!(slowdown.rate(now), Some(0.15));
        // Not at once, or it would flicker.
        slowdown.handle_remainders(&requests(18, 100, 60), now);
        assert_eq!(slowdown.rate(now), Some(0.3));
        slowdown.handle_remainders(&requests(20, 100, 60), now);
        assert_eq!(slowdown.rate(now), None);
        slowdown.handle_remainders(&requests(18, 100, 60), now);
        assert_eq!(slowdown.rate(now), None);
    }

    /// A server's window or bucket of 600, used by whoever is not slowed down at 50 a second.
    #[test]
    fn nothing_is_refused_and_nothing_wasted() {
        for refills in [false, true] {
            let begin = start();
            let mut slowdown = Slowdown::default();
            let (mut level, mut served) = (600.0_f64, 0);
            let mut now = begin;
            let mut window_end = begin + Duration::from_secs(60);
            while now < begin + Duration::from_secs(300) {
                let step = Duration::from_secs_f64(1.0 / slowdown.rate(now).unwrap_or(50.0));
                // A slow pace that is lifted meanwhile is not waited out.
                let step = slowdown.until().map_or(step, |until| {
                    step.min(
                        until
                            .saturating_duration_since(now)
                            .max(Duration::from_millis(20)),
                    )
                });
                now += step;
                if refills {
                    level = (level + step.as_secs_f64() * 10.0).min(600.0);
                } else if now >= window_end {
                    level = 600.0;
                    window_end += Duration::from_secs(60);
                }
                assert!(level >= 1.0, "refused after {served}");
                level -= 1.0;
                served += 1;
                let reset = match refills {
                    true => Duration::from_secs_f64((600.0 - level) / 10.0),
                    false => window_end - now,
                };
                let mut said = requests(level as u64, 600, 0);
                said.requests.reset = Some(reset);
                slowdown.handle_remainders(&said, now);
            }
            // 600 a minute, and the first bucket in advance.
            assert!((2900..=3700).contains(&served), "{served}");
        }
    }
}
