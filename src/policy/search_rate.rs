//! `--rate auto`: finds the rate one quota group sustains. Pure.
//!
//! Additive increase, multiplicative decrease, with a memory. The rate doubles every second until
//! the first pushback (429, 529, timeout), which halves it. From then on the rate of the last
//! pushback is the *ceiling*: the rate returns close to it in seconds, creeps past it, faster the
//! longer nothing happens, and drops by a few percent when pushed back again. If that does not end
//! the refusals, their share tells the limit. So most time is spent just below the limit, and a
//! limit that has moved is found again.

use std::time::{Duration, Instant};

use super::pacer::HORIZON;
use super::slowdown;

/// Where the search starts, in requests per second.
pub const RATE_START: f64 = 10.0;

/// The search never goes below: one request in ten seconds still notices a recovery.
pub const RATE_MIN: f64 = 0.1;

/// Nor above; no server of this field answers a tenth of it.
pub const RATE_MAX: f64 = 1_000_000.0;

/// Growth per second until the first pushback.
const SLOW_START: f64 = 2.0;

/// What the first pushback leaves. Doubling overshoots by what the server's own burst allowance
/// hides, up to twice the limit and more.
const FIRST_DECREASE: f64 = 0.5;

/// What every further one leaves. The rate was just creeping, so the limit is near.
const DECREASE: f64 = 0.93;

/// A rate holds for what is sent so long after it was decided; slots of the rate before may be in
/// use until then. Pushbacks against requests sent earlier have had their effect.
const SETTLE: Duration = HORIZON;

/// A pushback is judged when so much has been sent at the rate, in time and in requests: until then
/// it may speak for the rate before.
const MEASURE: Duration = Duration::from_millis(50);
/// See [`MEASURE`].
const MEASURE_REQUESTS: f64 = 10.0;

/// From this part of refusals on, their share tells the limit; below, what was served does.
const REFUSED_MANY: f64 = 0.1;

/// What was served tells less where a wait lies in between, which not every server makes up for.
const SERVED_LEAST: f64 = 0.85;

/// The least a measured decrease leaves; a short measurement measures badly.
const DECREASE_MOST: f64 = 0.1;

/// The rate returns quickly to this part of the ceiling; beyond begins the slow search.
const APPROACH: f64 = 0.97;

/// The part of the way back that is made good per second.
const APPROACH_PER_SECOND: f64 = 0.7;

/// Additive increase per second, as a part of the ceiling.
const SEARCH_PER_SECOND: f64 = 0.004;

/// Above the ceiling the increase per second is at least this part of the excess, so that a limit
/// that was raised is found in seconds, not minutes.
const ESCAPE_PER_SECOND: f64 = 0.35;

/// Time between two answers beyond which the rate does not grow: nothing was learnt meanwhile.
const GROWTH_STEP_MAX: Duration = Duration::from_secs(1);

/// How long answers are counted to measure the throughput.
const METER: Duration = Duration::from_millis(500);

/// The rate grows only while at least this part of it is answered. Below, it is not the limit
/// that holds the traffic back. A quarter leaves room for answers that take seconds.
const USED: f64 = 0.25;

/// A quota whose remainder is below this part of it is about to be exhausted.
const REMAINING_LOW: f64 = 0.1;

/// What a quota that runs low leaves of the rate at the least.
const DECREASE_REMAINING: f64 = 0.85;

/// Low remainders count once per this time, and the rate does not grow meanwhile: they are a
/// warning that repeats with every answer, not a refusal.
const REMAINING_INTERVAL: Duration = Duration::from_secs(1);

/// Main-owned: the search for one quota group's rate.
#[derive(Debug)]
pub struct RateSearch {
    rate: f64,
    /// The rate of the last pushback; `None` before the first.
    ceiling: Option<f64>,
    /// When the rate was last decreased; `None`: never.
    decreased_at: Option<Instant>,
    /// What is sent from then on is sent at the present rate.
    settled_at: Instant,
    /// Requests sent since then, if the rate was used; counted up to `counted_at`.
    requests: f64,
    counted_at: Instant,
    /// Pushbacks against them.
    refused: u32,
    /// The remainder that last slowed the search.
    remaining_low: Option<u64>,
    /// Low remainders before then are ignored, and growth waits.
    grow_from: Instant,
    grown_at: Instant,
    meter_since: Instant,
    meter_count: u32,
    /// Answers per second in the last full metering period.
    answered: f64,
}

impl RateSearch {
    /// A search that starts at [`RATE_START`].
    pub fn new(now: Instant) -> Self {
        Self {
            rate: RATE_START,
            ceiling: None,
            decreased_at: None,
            settled_at: now,
            requests: 0.0,
            counted_at: now,
            refused: 0,
            remaining_low: None,
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

    /// `count` requests were served since the last call.
    pub fn handle_successes(&mut self, count: u32, now: Instant) {
        self.meter_count = self.meter_count.saturating_add(count);
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
            self.count(now);
            self.grow(elapsed.as_secs_f64());
        }
    }

    /// A 429, a 529 or a timeout of a request sent at `sent`: the rate was too high.
    pub fn handle_pushback(&mut self, sent: Instant, now: Instant) {
        let Some(decreased_at) = self.decreased_at else {
            return self.decrease(self.rate, FIRST_DECREASE, now);
        };
        if sent < self.settled_at {
            return;
        }
        self.refused += 1;
        self.count(now);
        // What was sent after it is not answered yet.
        let unanswered = self.rate * now.saturating_duration_since(sent).as_secs_f64();
        let requests = (self.requests - unanswered).max(f64::from(self.refused));
        if requests < MEASURE_REQUESTS.max(self.rate * MEASURE.as_secs_f64()) {
            return;
        }
        let refused = f64::from(self.refused) / requests;
        let limit = if refused >= REFUSED_MANY {
            self.rate * (1.0 - refused).max(DECREASE_MOST)
        } else {
            // A server that lets bursts through has let through, on the whole, what its limit allows.
            let seconds = sent.saturating_duration_since(decreased_at).as_secs_f64();
            let served = (requests - f64::from(self.refused)) / seconds;
            served.clamp(self.rate * SERVED_LEAST, self.rate)
        };
        self.decrease(limit, DECREASE, now);
    }

    /// Nothing is sent before `until`: the server asked to wait.
    pub fn handle_wait(&mut self, until: Instant, now: Instant) {
        self.count(now);
        self.settled_at = self.settled_at.max(until);
    }

    /// The remaining-quota headers of an answer: `remaining` of `limit` requests until `reset`
    /// has passed. A quota that runs low slows the search before the server refuses.
    pub fn handle_remaining(&mut self, remaining: u64, limit: u64, reset: Duration, now: Instant) {
        if remaining as f64 >= limit as f64 * REMAINING_LOW {
            self.remaining_low = None;
            return;
        }
        if now < self.grow_from || reset.is_zero() || reset > slowdown::RESET_MAX {
            return;
        }
        // What comes back until the reset is what a quota that refills steadily allows; a fixed
        // window allows less than this says, late in it much less. There no more than `sustained`
        // can be had until the reset, but of a steady refill more: so that one slows in small
        // steps, and only while the remainder falls.
        let refill = (limit - remaining) as f64 / reset.as_secs_f64();
        let sustained = remaining as f64 / reset.as_secs_f64();
        let falls = self.remaining_low.is_none_or(|before| remaining < before);
        if self.rate > refill {
            // Where a busy machine misses slots, less is sent than the rate says.
            let used = (self.answered / self.rate).clamp(USED, 1.0);
            self.decrease((refill / used).min(self.rate), DECREASE, now);
        } else if falls && remaining > 0 && sustained < self.rate {
            let part = (sustained / self.rate).max(DECREASE_REMAINING);
            self.decrease(self.rate, part, now);
        }
        self.remaining_low = Some(remaining);
        self.grow_from = now + REMAINING_INTERVAL;
    }

    /// The limit is near `ceiling`: goes on at a `part` of it.
    fn decrease(&mut self, ceiling: f64, part: f64, now: Instant) {
        self.ceiling = Some(ceiling);
        self.rate = (ceiling * part).max(RATE_MIN);
        self.decreased_at = Some(now);
        self.settled_at = self.settled_at.max(now + SETTLE);
        self.requests = 0.0;
        self.refused = 0;
    }

    /// Counts what was sent until `now` at the present rate.
    fn count(&mut self, now: Instant) {
        let since = self.counted_at.max(self.settled_at);
        self.requests += self.rate * now.saturating_duration_since(since).as_secs_f64();
        self.counted_at = self.counted_at.max(now);
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
mod tests;
