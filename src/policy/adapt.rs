//! `--rate auto`: finds the rate one quota group sustains. Pure.
//!
//! Additive increase, multiplicative decrease, with a memory. The rate doubles every second until
//! the first pushback (429, 529, timeout), which halves it. From then on the rate of the last
//! pushback is the *ceiling*: the rate returns close to it in seconds, creeps past it at a percent
//! per second, faster the longer nothing happens, and drops by 15 % when pushed back again. So
//! most time is spent just below the limit, and a limit that has moved is found again.

use std::time::{Duration, Instant};

/// Where the search starts, in requests per second.
pub const RATE_START: f64 = 10.0;

/// The search never goes below: one request in ten seconds still notices a recovery.
pub const RATE_MIN: f64 = 0.1;

/// Nor above; no server of this field answers a tenth of it.
pub const RATE_MAX: f64 = 1_000_000.0;

/// Growth per second until the first pushback.
const SLOW_START: f64 = 2.0;

/// What the first pushback leaves. Doubling overshoots by what the server's own burst allowance
/// hides, up to twice the limit.
const FIRST_DECREASE: f64 = 0.5;

/// What every further one leaves.
const DECREASE: f64 = 0.85;

/// A pushback that follows a decrease this closely says that the decrease was too small: the limit
/// is what was served meanwhile.
const SERIES: Duration = Duration::from_millis(600);

/// The least a decrease within a series leaves; a short series measures badly.
const DECREASE_MOST: f64 = 0.5;

/// Pushbacks within this time count once: most answer requests sent before the last decrease took
/// hold. About a round trip to a distant server.
const DECREASE_INTERVAL: Duration = Duration::from_millis(200);

/// The rate returns quickly to this part of the ceiling; beyond begins the slow search.
const APPROACH: f64 = 0.95;

/// The part of the way back that is made good per second.
const APPROACH_PER_SECOND: f64 = 0.7;

/// Additive increase per second, as a part of the ceiling.
const SEARCH_PER_SECOND: f64 = 0.01;

/// Above the ceiling the increase per second is at least this part of the excess, so that a limit
/// that was raised is found in seconds, not minutes.
const ESCAPE_PER_SECOND: f64 = 0.25;

/// Time between two answers beyond which the rate does not grow: nothing was learnt meanwhile.
const GROWTH_STEP_MAX: Duration = Duration::from_secs(1);

/// How long answers are counted to measure the throughput.
const METER: Duration = Duration::from_millis(500);

/// The rate grows only while at least this part of it is answered. Below, it is not the limit
/// that holds the traffic back. A quarter leaves room for answers that take seconds.
const USED: f64 = 0.25;

/// A quota whose remainder is below this part of it is about to be exhausted.
const REMAINING_LOW: f64 = 0.1;

/// Low remainders count once per this time, and the rate does not grow meanwhile: they are a
/// warning that repeats with every answer, not a refusal.
const REMAINING_INTERVAL: Duration = Duration::from_secs(1);

/// Main-owned: the search for one quota group's rate.
#[derive(Debug)]
pub struct Adaptive {
    rate: f64,
    /// The rate of the last pushback; `None` before the first.
    ceiling: Option<f64>,
    decreased_at: Option<Instant>,
    /// Answers since the last decrease.
    served_since: u32,
    /// Low remainders before then are ignored, and growth waits.
    grow_from: Instant,
    grown_at: Instant,
    meter_since: Instant,
    meter_count: u32,
    /// Answers per second in the last full metering period.
    answered: f64,
}

impl Adaptive {
    /// A search that starts at [`RATE_START`].
    pub fn new(now: Instant) -> Self {
        Self {
            rate: RATE_START,
            ceiling: None,
            decreased_at: None,
            served_since: 0,
            grow_from: now,
            grown_at: now,
            meter_since: now,
            meter_count: 0,
            answered: RATE_START,
        }
    }

    /// The rate to send at, in requests per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// A request was served.
    pub fn handle_success(&mut self, now: Instant) {
        self.handle_successes(1, now);
    }

    /// `count` requests were served since the last call.
    pub fn handle_successes(&mut self, count: u32, now: Instant) {
        self.meter_count = self.meter_count.saturating_add(count);
        self.served_since = self.served_since.saturating_add(count);
        let metered = now.saturating_duration_since(self.meter_since);
        if metered >= METER {
            self.answered = f64::from(self.meter_count) / metered.as_secs_f64();
            self.meter_count = 0;
            self.meter_since = now;
        }
        let elapsed = now
            .saturating_duration_since(self.grown_at)
            .min(GROWTH_STEP_MAX);
        self.grown_at = self.grown_at.max(now);
        if count > 0 && now >= self.grow_from && self.answered >= self.rate * USED {
            self.grow(elapsed.as_secs_f64());
        }
    }

    /// A 429, a 529 or a timeout: the rate was too high.
    pub fn handle_pushback(&mut self, now: Instant) {
        let since_decrease = self
            .decreased_at
            .map(|at| now.saturating_duration_since(at));
        let part = match since_decrease {
            None => FIRST_DECREASE,
            Some(since) if since < DECREASE_INTERVAL => return,
            Some(since) if since < SERIES => {
                let served = f64::from(self.served_since) / since.as_secs_f64();
                (served / self.rate).clamp(DECREASE_MOST, DECREASE)
            }
            Some(_) => DECREASE,
        };
        self.decrease(self.rate * part, now);
    }

    /// The remaining-quota headers of an answer: `remaining` of `limit` requests until `reset`
    /// has passed. A quota that runs low slows the search before the server refuses.
    pub fn handle_remaining(&mut self, remaining: u64, limit: u64, reset: Duration, now: Instant) {
        let low = (remaining as f64) < limit as f64 * REMAINING_LOW;
        // Until the reset of a fixed window no more than this can be had. Of a quota that refills
        // steadily more can: hence never more than one decrease at a time.
        let sustained = remaining as f64 / reset.as_secs_f64();
        if low && !reset.is_zero() && sustained < self.rate && now >= self.grow_from {
            self.decrease(sustained.max(self.rate * DECREASE), now);
            self.grow_from = now + REMAINING_INTERVAL;
        }
    }

    fn decrease(&mut self, rate: f64, now: Instant) {
        self.ceiling = Some(self.rate);
        self.rate = rate.max(RATE_MIN);
        self.decreased_at = Some(now);
        self.served_since = 0;
    }

    fn grow(&mut self, seconds: f64) {
        let grown = match self.ceiling {
            None => self.rate * SLOW_START.powf(seconds),
            Some(ceiling) => {
                let back = (ceiling * APPROACH - self.rate).max(0.0) * APPROACH_PER_SECOND;
                let escape = (self.rate - ceiling) * ESCAPE_PER_SECOND;
                let search = (ceiling * SEARCH_PER_SECOND).max(escape);
                self.rate + (back + search) * seconds
            }
        };
        self.rate = grown.min(RATE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::policy::virtual_time::{ms, start};

    const LATENCY: Duration = Duration::from_millis(50);

    /// A server that serves `per_second` and lets bursts of `burst_seconds` worth through.
    struct Server {
        per_second: f64,
        burst_seconds: f64,
        level: f64,
        at: Instant,
    }

    impl Server {
        fn serves(&mut self, now: Instant) -> bool {
            let depth = (self.per_second * self.burst_seconds).max(1.0);
            let refill = (now - self.at).as_secs_f64() * self.per_second;
            self.level = (self.level + refill).min(depth);
            self.at = now;
            let served = self.level >= 1.0;
            self.level -= f64::from(u8::from(served));
            served
        }
    }

    /// Drives a search against a server over virtual time.
    struct Simulation {
        now: Instant,
        adaptive: Adaptive,
        server: Server,
        /// Answers on their way: when, and whether served.
        answers: VecDeque<(Instant, bool)>,
    }

    impl Simulation {
        fn new(per_second: f64, burst_seconds: f64) -> Self {
            let now = start();
            let level = f64::INFINITY;
            Self {
                now,
                adaptive: Adaptive::new(now),
                server: Server {
                    per_second,
                    burst_seconds,
                    level,
                    at: now,
                },
                answers: VecDeque::new(),
            }
        }

        /// Sends for `seconds`; returns requests served and pushed back.
        fn run(&mut self, seconds: u64) -> (u32, u32) {
            let end = self.now + Duration::from_secs(seconds);
            let (mut served, mut pushed_back) = (0, 0);
            while self.now < end {
                while let Some(&(at, ok)) = self.answers.front().filter(|(at, _)| *at <= self.now) {
                    self.answers.pop_front();
                    if ok {
                        self.adaptive.handle_success(at);
                        served += 1;
                    } else {
                        self.adaptive.handle_pushback(at);
                        pushed_back += 1;
                    }
                }
                let ok = self.server.serves(self.now + LATENCY / 2);
                self.answers.push_back((self.now + LATENCY, ok));
                self.now += Duration::from_secs_f64(1.0 / self.adaptive.rate());
            }
            (served, pushed_back)
        }
    }

    /// The part of the answers that were pushbacks.
    fn pushed_back(runs: &[(u32, u32)]) -> f64 {
        let served: u32 = runs.iter().map(|run| run.0).sum();
        let pushed_back: u32 = runs.iter().map(|run| run.1).sum();
        f64::from(pushed_back) / f64::from(served + pushed_back)
    }

    #[test]
    fn finds_the_limit_and_follows_it() {
        for limit in [20.0, 500.0, 8000.0] {
            for burst_seconds in [0.0, 0.1, 1.0] {
                let label = format!("{limit}/s, bursts of {burst_seconds} s");
                let reached = |(served, _): (u32, u32), limit: f64| {
                    let part = f64::from(served) / (20.0 * limit);
                    assert!((0.9..1.1).contains(&part), "{label}: {part} of {limit}");
                };
                let mut simulation = Simulation::new(limit, burst_seconds);
                let mut runs = vec![simulation.run(20), simulation.run(20)];
                reached(runs[1], limit);
                assert!(pushed_back(&runs) < 0.02, "{label}: {}", pushed_back(&runs));
                simulation.server.per_second = limit / 2.0;
                runs.extend([simulation.run(20), simulation.run(20)]);
                reached(runs[3], limit / 2.0);
                assert!(pushed_back(&runs) < 0.02, "{label}: {}", pushed_back(&runs));
                assert!(
                    pushed_back(&runs[3..]) < 0.02,
                    "{label}, halved: {:?}",
                    runs[3]
                );
                simulation.server.per_second = limit;
                simulation.run(30);
                reached(simulation.run(20), limit);
            }
        }
    }

    #[test]
    fn a_large_burst_allowance_delays_the_answer_but_does_not_change_it() {
        for limit in [20.0, 500.0] {
            let mut simulation = Simulation::new(limit, 10.0);
            simulation.run(40);
            let late = simulation.run(20);
            let part = f64::from(late.0) / (20.0 * limit);
            assert!((0.9..1.1).contains(&part), "{part} of {limit}");
            assert!(pushed_back(&[late]) < 0.02, "{late:?}");
        }
    }

    #[test]
    fn an_unused_rate_does_not_grow() {
        let begin = start();
        let mut adaptive = Adaptive::new(begin);
        // One answer a second, for an hour: the traffic is what is slow.
        for second in 1..3600 {
            adaptive.handle_success(begin + Duration::from_secs(second));
        }
        assert!(
            adaptive.rate() <= RATE_START * SLOW_START,
            "{}",
            adaptive.rate()
        );
    }

    #[test]
    fn pushbacks_of_one_round_trip_count_once() {
        let begin = start();
        let mut adaptive = Adaptive::new(begin);
        for at in [0, 0, 1, 50, 199] {
            adaptive.handle_pushback(begin + ms(at));
        }
        assert_eq!(adaptive.rate(), RATE_START * FIRST_DECREASE);
        adaptive.handle_pushback(begin + Duration::from_secs(2));
        assert_eq!(adaptive.rate(), RATE_START * FIRST_DECREASE * DECREASE);
        for second in 3..100 {
            adaptive.handle_pushback(begin + Duration::from_secs(second));
        }
        assert_eq!(adaptive.rate(), RATE_MIN);
    }

    #[test]
    fn a_quota_that_runs_low_slows_the_search() {
        let check = |remaining, limit, reset, expect: f64| {
            let begin = start();
            let mut adaptive = Adaptive::new(begin);
            let reset = Duration::from_secs(reset);
            adaptive.handle_remaining(remaining, limit, reset, begin);
            adaptive.handle_remaining(remaining, limit, reset, begin + ms(500));
            adaptive.handle_successes(9, begin + ms(900));
            let rate = adaptive.rate();
            assert!(
                (rate - expect).abs() < 1e-9,
                "{remaining} of {limit} in {reset:?}: {rate}"
            );
        };
        let grown = RATE_START * SLOW_START.powf(0.9);
        check(50, 100, 60, grown);
        check(9, 100, 60, RATE_START * DECREASE);
        check(0, 100, 60, RATE_START * DECREASE);
        check(90, 1000, 10, 9.0);
        check(90, 1000, 1, grown);
        check(0, 100, 0, grown);
        check(0, 0, 60, grown);
    }
}
