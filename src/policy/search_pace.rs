//! The search for the pace that one quota group of a server that refuses for load can be sent requests at. Pure.
//!
//! A pace is tried for a period. Where few of its requests are refused, it is *proven*, and a faster one is tried;
//! where many are, it is the *ceiling*, and the gap between the two is halved until it is closed. From then on the
//! ceiling is tried again only now and then. Some refusals are let be: they cost a request each and no time,
//! and without them nobody knows where the limit is.
//!
//! What was refused does not tell the limit. A server that takes one request every 5 ms and nothing in advance
//! refuses every other one of those that come every 4.9 ms. So what is known to pass is held on to, and only where
//! nothing is does the part that was taken say where to look.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pacer::HORIZON;
use super::search_rate::{RATE_MAX, RATE_MIN};

/// A rate holds for what is sent so long after it was decided: slots of the one before may be in use until then.
const SETTLE: Duration = HORIZON;

/// A period lasts at least so long: shards count every 100 ms.
const PERIOD: Duration = Duration::from_millis(100);

/// And for so many requests.
const PERIOD_REQUESTS: f64 = 20.0;

/// Until the first ceiling fewer will do: it will be met soon.
const PERIOD_REQUESTS_FIRST: f64 = 5.0;

/// So many refusals, if they are [`REFUSED_CLEARLY`], end a period at once.
const REFUSED_ENOUGH: u32 = 5;

/// See [`REFUSED_ENOUGH`].
const REFUSED_CLEARLY: f64 = 0.4;

/// Up to this part of refusals the rate grows.
const REFUSED_FEW: f64 = 0.08;

/// From this part on it shrinks.
const REFUSED_MANY: f64 = 0.2;

/// Growth per period until the first ceiling.
const GROWTH: f64 = 1.5;

/// The gap between what is proven and the ceiling is closed when it is below this part of the rate.
const GAP_CLOSED: f64 = 0.02;

/// What is left where nothing is proven, of what was taken.
const DECREASE: f64 = 0.95;

/// The least that one such decrease leaves: a server without any burst takes half of what is a bit too much.
const DECREASE_MOST: f64 = 0.7;

/// How long a closed gap is left alone, at first ...
const PATIENCE: Duration = Duration::from_secs(2);

/// ... and after tries that failed.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// What was taken is measured over this long: servers that count by a clock's seconds take all of one's at once.
const TAKEN_OVER: Duration = Duration::from_secs(1);

/// The rate grows only while at least this part of it is answered: else something else holds the traffic back.
/// A quarter leaves room for answers that come late.
const USED: f64 = 0.25;

/// How long answers are counted for that.
const METER: Duration = Duration::from_millis(500);

/// Main-owned: the search for one quota group's pace.
#[derive(Debug)]
pub struct PaceSearch {
    rate: f64,
    /// The fastest rate of which few requests were refused, as far as is known now.
    proven: Option<f64>,
    /// The slowest above it of which many were.
    ceiling: Option<f64>,
    /// Growth beyond a ceiling that has turned out to be none, as a part of it.
    step: f64,
    /// What is sent from then on is sent at the present rate.
    settled_at: Instant,
    /// Refusals of what was sent since then.
    refused: u32,
    /// The latest period was one of those in which some were refused, neither few nor many.
    was_between: bool,
    /// What was taken until then, ends of periods of the last [`TAKEN_OVER`].
    taken: VecDeque<(Instant, f64)>,
    meter_since: Instant,
    meter_count: u32,
    /// Answers per second in the last full metering period.
    answered: f64,
    hold_until: Instant,
    patience: Duration,
}

impl PaceSearch {
    /// A search that starts at `rate` requests per second.
    pub fn new(rate: f64, now: Instant) -> Self {
        let mut search = Self {
            rate,
            proven: None,
            ceiling: None,
            step: GAP_CLOSED,
            settled_at: now,
            refused: 0,
            was_between: false,
            taken: VecDeque::from([(now, 0.0)]),
            meter_since: now,
            meter_count: 0,
            answered: rate,
            hold_until: now,
            patience: PATIENCE,
        };
        search.go_on_at(rate, now);
        search
    }

    /// The rate to send at, in requests per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The slowest rate that is known to be too fast.
    pub fn ceiling(&self) -> Option<f64> {
        self.ceiling
    }

    /// `count` requests were served since the last call.
    pub fn handle_answers(&mut self, count: u32, now: Instant) {
        self.meter_count = self.meter_count.saturating_add(count);
        let metered = now.saturating_duration_since(self.meter_since);
        if metered >= METER {
            self.answered = f64::from(self.meter_count) / metered.as_secs_f64();
            (self.meter_count, self.meter_since) = (0, now);
        }
        if count > 0 {
            self.judge(now, now);
        }
    }

    /// A request sent at `sent` was refused.
    pub fn handle_refusal(&mut self, sent: Instant, now: Instant) {
        if let Some((_, taken)) = self.taken.back_mut() {
            *taken -= 1.0;
        }
        if sent >= self.settled_at {
            self.refused += 1;
            self.judge(sent, now);
        }
    }

    /// Nothing is sent before `until`.
    pub fn handle_wait(&mut self, until: Instant) {
        if until > self.settled_at {
            (self.settled_at, self.refused) = (until, 0);
            self.taken = VecDeque::from([(until, 0.0)]);
        }
    }

    /// Ends the period if enough was sent in it by `until`.
    fn judge(&mut self, until: Instant, now: Instant) {
        let elapsed = until.saturating_duration_since(self.settled_at);
        let requests = (self.rate * elapsed.as_secs_f64()).max(f64::from(self.refused));
        let part = f64::from(self.refused) / requests.max(1.0);
        let is_clear = self.refused >= REFUSED_ENOUGH && part >= REFUSED_CLEARLY;
        let enough = match self.ceiling {
            None if self.refused == 0 => PERIOD_REQUESTS_FIRST,
            _ => PERIOD_REQUESTS,
        };
        let is_whole = elapsed >= PERIOD && requests >= enough;
        if !is_clear && !is_whole {
            return;
        }
        let was_between = std::mem::take(&mut self.was_between);
        if part > REFUSED_MANY {
            self.shrink(part, now);
        } else if part > REFUSED_FEW {
            self.was_between = !was_between;
            if was_between {
                self.ceiling = Some(self.rate);
                self.go_on_at(self.rate * (1.0 - part / 2.0), now);
                self.proven = Some(self.rate);
            } else {
                self.go_on_at(self.rate, now);
            }
        } else if self.answered >= self.rate * USED {
            self.grow(now);
        } else {
            self.go_on_at(self.rate, now);
        }
    }

    fn shrink(&mut self, part: f64, now: Instant) {
        let was = self.rate;
        self.step = GAP_CLOSED;
        self.hold_until = now + self.patience;
        self.ceiling = Some(was);
        match self.proven.filter(|&proven| proven < was) {
            Some(proven) => self.go_on_at(proven, now),
            None => {
                self.proven = None;
                let taken = (1.0 - part).max(DECREASE_MOST) * was;
                let taken = taken.max(self.taken_lately(now).min(was));
                self.go_on_at(taken * DECREASE, now);
            }
        }
    }

    /// Requests per second that were taken in the last [`TAKEN_OVER`].
    fn taken_lately(&self, now: Instant) -> f64 {
        let Some(&(since, _)) = self.taken.front() else {
            return 0.0;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < TAKEN_OVER {
            return 0.0;
        }
        let (at, _) = self.taken.back().copied().unwrap_or((now, 0.0));
        let sent_since = self.rate * now.saturating_duration_since(at).as_secs_f64();
        let taken: f64 = self.taken.iter().skip(1).map(|(_, taken)| taken).sum();
        (taken + sent_since) / elapsed.as_secs_f64()
    }

    fn grow(&mut self, now: Instant) {
        let rate = self.rate;
        self.proven = Some(self.proven.map_or(rate, |proven| proven.max(rate)));
        let next = match self.ceiling {
            None => rate * GROWTH,
            Some(ceiling) if rate >= ceiling => {
                self.patience = PATIENCE;
                self.step *= 2.0;
                rate * (1.0 + self.step.min(GROWTH - 1.0))
            }
            Some(ceiling) if ceiling - rate > ceiling * GAP_CLOSED => rate + (ceiling - rate) / 2.0,
            Some(ceiling) if now >= self.hold_until => {
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
                ceiling
            }
            Some(_) => rate,
        };
        self.go_on_at(next, now);
    }

    fn go_on_at(&mut self, rate: f64, now: Instant) {
        if let Some((at, taken)) = self.taken.back_mut() {
            *taken += self.rate * now.saturating_duration_since(*at).as_secs_f64();
            *at = now;
            self.taken.push_back((now, 0.0));
        }
        while self
            .taken
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= TAKEN_OVER)
        {
            self.taken.pop_front();
        }
        let settles = rate != self.rate || self.settled_at > now;
        self.rate = rate.clamp(RATE_MIN, RATE_MAX);
        self.settled_at = if settles { now + SETTLE } else { now };
        self.refused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::virtual_time::{ms, start};

    /// Requests from `begin` on, at the search's rate, against a server that refuses the part of them that `limit` says,
    /// for `seconds`. Returns the part that was refused in the last half.
    fn run(
        search: &mut PaceSearch,
        begin: Instant,
        limit: impl Fn(f64) -> f64,
        seconds: u64,
    ) -> f64 {
        let (mut sent, mut debt) = (Duration::ZERO, 0.0);
        let (mut served, mut requests, mut refused) = (0, 0, 0);
        while sent < Duration::from_secs(seconds) {
            let now = begin + sent;
            let rate = search.rate();
            debt += limit(rate);
            let is_refused = debt >= 1.0;
            if is_refused {
                debt -= 1.0;
                search.handle_refusal(now, now);
            } else {
                served += 1;
            }
            if served >= 10 {
                search.handle_answers(std::mem::take(&mut served), now);
            }
            if sent >= Duration::from_secs(seconds / 2) {
                requests += 1;
                refused += u32::from(is_refused);
            }
            sent += Duration::from_secs_f64(1.0 / rate);
        }
        f64::from(refused) / f64::from(requests)
    }

    #[test]
    fn the_fastest_pace_that_passes_is_found_and_kept() {
        let bucket = |rate: f64| (1.0 - 200.0 / rate).max(0.0);
        let evenly = |rate: f64| if rate > 200.0 { 0.5 } else { 0.0 };
        let check = |name: &str, from: f64, limit: &dyn Fn(f64) -> f64| {
            let begin = start();
            let mut search = PaceSearch::new(from, begin);
            let refused = run(&mut search, begin, limit, 30);
            let rate = search.rate();
            assert!(
                (190.0..=225.0).contains(&rate),
                "{name} from {from}: {rate}"
            );
            assert!(refused < 0.1, "{name} from {from}: {refused} refused");
        };
        for from in [20.0, 150.0, 210.0, 900.0] {
            check("what is too much is refused", from, &bucket);
            check("half of what is too fast is refused", from, &evenly);
        }
    }

    #[test]
    fn a_limit_that_moves_is_found_again() {
        let evenly = |most: f64| move |rate: f64| if rate > most { 0.5 } else { 0.0 };
        let begin = start();
        let mut search = PaceSearch::new(100.0, begin);
        run(&mut search, begin, evenly(200.0), 10);
        run(&mut search, begin + ms(10_000), evenly(100.0), 10);
        assert!((90.0..=105.0).contains(&search.rate()), "{}", search.rate());
        run(&mut search, begin + ms(20_000), evenly(400.0), 90);
        assert!(search.rate() > 360.0, "{}", search.rate());
    }

    #[test]
    fn a_rate_that_nobody_uses_does_not_grow() {
        let begin = start();
        let mut search = PaceSearch::new(100.0, begin);
        for tick in 1..100 {
            search.handle_answers(1, begin + ms(100) * tick);
        }
        assert!(search.rate() < 600.0, "{}", search.rate());
        let rate = search.rate();
        for tick in 100..200 {
            search.handle_answers(1, begin + ms(100) * tick);
        }
        assert_eq!(search.rate(), rate);
    }
}
