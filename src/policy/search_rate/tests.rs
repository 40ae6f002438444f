use std::collections::BTreeMap;

use super::*;
use crate::policy::balance::Ring;
use crate::policy::virtual_time::{ms, start};

/// Refusals come back at once, however long answers take.
const REFUSAL: Duration = ms(20);

/// Shards report what was served in batches, and refusals at once.
const REPORT: Duration = ms(100);

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Requests per second.
    limit: f64,
    /// Bursts of so many seconds' worth get through.
    burst_seconds: f64,
    latency: Duration,
    /// What refusals ask to wait.
    wait: Duration,
}

/// A server, and the search for what it allows.
struct Pair {
    manner: Manner,
    level: f64,
    level_at: Instant,
    search: RateSearch,
    next_slot: Instant,
    waits_until: Instant,
    unreported: u32,
    served: u32,
    refused: u32,
}

impl Pair {
    fn new(manner: Manner, now: Instant) -> Self {
        Self {
            manner,
            level: f64::INFINITY,
            level_at: now,
            search: RateSearch::new(now),
            next_slot: now,
            waits_until: now,
            unreported: 0,
            served: 0,
            refused: 0,
        }
    }

    /// When the next request may go.
    fn opens(&self) -> Instant {
        self.next_slot.max(self.waits_until)
    }

    /// Sends a request; when the answer comes, and whether it was served.
    fn send(&mut self, now: Instant) -> (Instant, bool) {
        // A slot that passed during a wait is lost.
        self.next_slot = now + Duration::from_secs_f64(1.0 / self.search.rate());
        let arrival = now + REFUSAL / 2;
        let depth = (self.manner.limit * self.manner.burst_seconds).max(1.0);
        let refill = (arrival - self.level_at).as_secs_f64() * self.manner.limit;
        self.level = (self.level + refill).min(depth);
        self.level_at = arrival;
        let ok = self.level >= 1.0;
        self.level -= f64::from(u8::from(ok));
        match ok {
            true => (now + self.manner.latency, true),
            false => (now + REFUSAL, false),
        }
    }

    fn answered(&mut self, ok: bool, sent: Instant, now: Instant) {
        if ok {
            self.served += 1;
            self.unreported += 1;
            return;
        }
        self.refused += 1;
        self.search.handle_pushback(sent, now);
        if !self.manner.wait.is_zero() {
            self.waits_until = self.waits_until.max(now + self.manner.wait);
            self.search.handle_wait(now + self.manner.wait, now);
        }
    }

    fn report(&mut self, now: Instant) {
        let count = std::mem::take(&mut self.unreported);
        self.search.handle_successes(count, now);
    }

    /// What was served of what the limit allows in so many seconds, since the last call.
    fn reached(&mut self, seconds: u64) -> f64 {
        f64::from(std::mem::take(&mut self.served)) / (self.manner.limit * seconds as f64)
    }
}

/// Endpoints of equal weight with an endless input, over virtual time.
struct Simulation {
    now: Instant,
    pairs: Vec<Pair>,
    ring: Ring,
    /// By their time and number: whose, sent when, served?
    answers: BTreeMap<(Instant, u64), (usize, Instant, bool)>,
    report_at: Instant,
    number: u64,
}

impl Simulation {
    fn new(manners: &[Manner]) -> Self {
        let now = start();
        Self {
            now,
            pairs: manners.iter().map(|&one| Pair::new(one, now)).collect(),
            ring: Ring::new(&vec![1; manners.len()]),
            answers: BTreeMap::new(),
            report_at: now + REPORT,
            number: 0,
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            let opens = self.pairs.iter().map(Pair::opens).min();
            let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
            let next = opens.into_iter().chain(answer).min();
            self.now = next
                .map_or(self.report_at, |at| at.min(self.report_at))
                .max(self.now);
            let now = self.now;
            if now >= self.report_at {
                self.report_at += REPORT;
                self.pairs.iter_mut().for_each(|pair| pair.report(now));
            }
            while let Some(first) = self
                .answers
                .first_entry()
                .filter(|first| first.key().0 <= now)
            {
                let (index, sent, ok) = first.remove();
                self.pairs[index].answered(ok, sent, now);
            }
            let pairs = &mut self.pairs;
            if let Some(index) = self.ring.pick(|index| pairs[index].opens() <= now, None) {
                let (at, ok) = pairs[index].send(now);
                self.number += 1;
                self.answers.insert((at, self.number), (index, now, ok));
            }
        }
    }

    /// The part of all answers so far that were refusals; `served` were counted before.
    fn refused(&self, served: f64) -> f64 {
        let refused: u32 = self.pairs.iter().map(|pair| pair.refused).sum();
        f64::from(refused) / (f64::from(refused) + served)
    }
}

const MANNER: Manner = Manner {
    limit: 500.0,
    burst_seconds: 1.0,
    latency: ms(50),
    wait: Duration::ZERO,
};

/// Every manner that is promised to be found.
fn manners() -> Vec<Manner> {
    let mut manners = Vec::new();
    for limit in [20.0, 500.0, 8000.0] {
        for latency in [ms(5), ms(50), ms(2000)] {
            for (burst_seconds, wait) in [(1.0, 0), (1.0, 1000)] {
                manners.push(Manner {
                    limit,
                    burst_seconds,
                    latency,
                    wait: ms(wait),
                });
            }
        }
    }
    // Servers that let no bursts through, of which most do not ask for a wait either.
    manners.extend([500.0, 8000.0].map(|limit| Manner {
        limit,
        burst_seconds: 0.1,
        ..MANNER
    }));
    manners
}

/// The limit stays, halves, and comes back.
#[test]
fn finds_the_limit_and_follows_it() {
    for manner in manners() {
        let label = format!("{manner:?}");
        let mut simulation = Simulation::new(&[manner]);
        let mut served = 0.0;
        for (limit, seconds, judged) in [
            (manner.limit, 20, false),
            (manner.limit, 20, true),
            (manner.limit / 2.0, 20, false),
            (manner.limit / 2.0, 20, true),
            (manner.limit, 40, false),
            (manner.limit, 20, true),
        ] {
            simulation.pairs[0].manner.limit = limit;
            simulation.run(seconds);
            let reached = simulation.pairs[0].reached(seconds);
            served += reached * limit * seconds as f64;
            if judged {
                assert!(
                    (0.9..1.1).contains(&reached),
                    "{label}: {reached:.3} of {limit}"
                );
            }
            let refused = simulation.refused(served);
            assert!(refused < 0.02, "{label}: {refused:.4} refused at {limit}");
        }
    }
}

#[test]
fn two_endpoints_have_a_limit_each() {
    for (slow, fast) in [(20.0, 500.0), (500.0, 8000.0), (30.0, 45.0)] {
        for wait in [ms(0), ms(1000)] {
            let manners = [slow, fast].map(|limit| Manner {
                limit,
                wait,
                ..MANNER
            });
            let mut simulation = Simulation::new(&manners);
            simulation.run(20);
            let early: u32 = simulation.pairs.iter().map(|pair| pair.served).sum();
            simulation.pairs.iter_mut().for_each(|pair| pair.served = 0);
            simulation.run(20);
            let late: u32 = simulation.pairs.iter().map(|pair| pair.served).sum();
            let refused = simulation.refused(f64::from(early + late));
            assert!(refused < 0.02, "{manners:?}: {refused:.4} refused");
            for pair in &mut simulation.pairs {
                let reached = pair.reached(20);
                assert!(
                    (0.9..1.1).contains(&reached),
                    "{reached:.3} of {:?}",
                    pair.manner
                );
            }
        }
    }
}

#[test]
fn a_large_burst_allowance_delays_the_answer_but_does_not_change_it() {
    for limit in [20.0, 500.0, 8000.0] {
        let manner = Manner {
            limit,
            burst_seconds: 10.0,
            ..MANNER
        };
        let mut simulation = Simulation::new(&[manner]);
        simulation.run(40);
        simulation.pairs[0].served = 0;
        simulation.pairs[0].refused = 0;
        simulation.run(20);
        let served = f64::from(simulation.pairs[0].served);
        let part = served / (20.0 * limit);
        assert!((0.9..1.1).contains(&part), "{part} of {limit}");
        assert!(simulation.refused(served) < 0.02, "{limit}");
    }
}

#[test]
fn an_unused_rate_does_not_grow() {
    let begin = start();
    let mut adaptive = RateSearch::new(begin);
    // One answer a second, for an hour: the traffic is what is slow.
    for second in 1..3600 {
        adaptive.handle_successes(1, begin + Duration::from_secs(second));
    }
    assert!(
        adaptive.rate() <= RATE_START * SLOW_START,
        "{}",
        adaptive.rate()
    );
}

#[test]
fn pushbacks_against_what_was_sent_before_a_decrease_count_once() {
    let begin = start();
    let mut adaptive = RateSearch::new(begin);
    for at in [0, 0, 1, 50, 5000] {
        adaptive.handle_pushback(begin, begin + ms(at));
    }
    assert_eq!(adaptive.rate(), RATE_START * FIRST_DECREASE);
    // Timeouts of requests that were sent long before, too.
    let sent = begin + SETTLE - ms(1);
    adaptive.handle_pushback(sent, begin + Duration::from_secs(30));
    assert_eq!(adaptive.rate(), RATE_START * FIRST_DECREASE);
}

#[test]
fn a_measurement_takes_its_time_and_gives_the_limit() {
    let begin = start();
    let mut adaptive = RateSearch::new(begin);
    adaptive.rate = 2000.0;
    adaptive.handle_pushback(begin, begin);
    assert_eq!(adaptive.rate(), 1000.0);
    // From then on 1000 a second are sent, of which every other one is refused.
    let settled = begin + SETTLE;
    for request in 1..=48 {
        let sent = settled + ms(request);
        if request % 2 == 0 {
            adaptive.handle_pushback(sent, sent + ms(10));
        }
    }
    assert_eq!(adaptive.rate(), 1000.0, "48 ms are too short");
    let sent = settled + ms(50);
    adaptive.handle_pushback(sent, sent + ms(10));
    let rate = adaptive.rate();
    assert!((rate - 500.0 * DECREASE).abs() < 1.0, "{rate}");
}

#[test]
fn a_server_that_refuses_everything_is_asked_rarely() {
    let mut now = start();
    let mut adaptive = RateSearch::new(now);
    for _ in 0..2000 {
        now += Duration::from_secs_f64(1.0 / adaptive.rate());
        adaptive.handle_pushback(now, now + REFUSAL);
    }
    assert_eq!(adaptive.rate(), RATE_MIN);
}

#[test]
fn a_quota_that_runs_low_slows_the_search() {
    let check = |remaining, limit, reset, expect: f64| {
        let begin = start();
        let mut adaptive = RateSearch::new(begin);
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
    // What has been used comes back within the minute: that is the limit.
    check(9, 100, 60, 91.0 / 60.0 * DECREASE);
    check(0, 100, 60, 100.0 / 60.0 * DECREASE);
    // Late in a window that may be much more than there is.
    check(90, 1000, 10, 9.0);
    check(10, 1000, 10, RATE_START * DECREASE_REMAINING);
    check(90, 1000, 1, RATE_START);
    // A day's quota is used up, and then waited for.
    check(9, 100, 3600, grown);
    check(0, 100, 0, grown);
    check(0, 0, 60, grown);
}

/// A bucket that refills faster than it is used is left alone, however empty it is.
#[test]
fn a_remainder_that_grows_slows_nothing_further() {
    let begin = start();
    let mut adaptive = RateSearch::new(begin);
    // More comes back than is used, by far.
    let reset = Duration::from_secs(8);
    let at = |seconds| begin + Duration::from_secs(seconds);
    adaptive.handle_remaining(5, 100, reset, at(0));
    adaptive.handle_remaining(6, 100, reset, at(2));
    adaptive.handle_remaining(6, 100, reset, at(4));
    let once = RATE_START * DECREASE_REMAINING;
    assert_eq!(adaptive.rate(), once);
    adaptive.handle_remaining(4, 100, reset, at(6));
    assert_eq!(adaptive.rate(), once * DECREASE_REMAINING);
}
