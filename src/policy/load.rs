//! What one quota group takes: how many requests at once, and how many a second. Pure.
//!
//! A server that refuses for load does not say which of the two it counts, and the two want different
//! cures: eight places are used best by eight requests in flight, whatever these take; 200 a second by
//! one request every 5 ms, however many are in flight. Either cure alone fails for the other server: with
//! answers of a quarter of a second, 200 a second are 50 in flight, of which those that are sent together
//! are refused all the same; and one request at a time is still 1000 a second where answers take 1 ms.
//!
//! So refusals shrink the number in flight, and what is sent from then on is spread evenly over the time
//! that answers take. Where a request is refused though nothing else is in flight, the server counts by the
//! second: then the rate is searched for, from what was taken so far.

use std::time::{Duration, Instant};

use super::search_in_flight::InFlightSearch;
use super::search_rate::RateSearch;

/// So many refusals of requests that were alone in flight begin the search for the rate.
const REFUSALS_TO_PACE: u32 = 10;

/// So many requests must have been taken meanwhile: nothing can be measured by less, and where none is
/// taken there is an outage.
const TAKEN_TO_PACE: u64 = 3;

/// What was taken is measured over this long at least.
const MEASURE_MIN: Duration = Duration::from_millis(40);

/// Refusals further apart belong to different spells, and the rate is measured anew.
const SPELL: Duration = Duration::from_secs(1);

/// Answers per second are counted over this long.
const METER: Duration = Duration::from_millis(500);

/// A group that has been refused spreads its requests over the time that answers take, and a bit
/// closer: what is sent together is refused by servers that count by the second, and a place that
/// falls free waits for no longer than an eighth of that time's share.
const SPREAD: f64 = 1.15;

/// A request that is refused with no more in flight than this, itself, was sent too soon.
const FEW: u32 = 1;

/// A request that was pushed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushback {
    /// When it was sent.
    pub sent: Instant,
    /// Why.
    pub cause: Cause,
    /// It took the last place in flight that its shard had.
    pub is_last_place: bool,
    /// What the shard has sent to the group so far.
    pub sends: u64,
    /// Of these, what was refused.
    pub refusals: u64,
}

/// Why a request was pushed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answer came in time.
    Timeout,
    /// Refused for load, as others were.
    Refused,
    /// Refused for load while nearly all others were answered.
    RefusedAlone,
}

/// Main-owned: the searches of one quota group.
#[derive(Debug)]
pub struct Load {
    in_flight: InFlightSearch,
    rate: Option<RateSearch>,
    /// `--rate auto`: there is always a rate, and every pushback concerns it.
    always_paced: bool,
    begun: Instant,
    /// By shard: requests sent and refused, as of its latest pushback.
    shards: Vec<(u64, u64)>,
    spell: Option<Spell>,
    meter_since: Instant,
    meter_count: u32,
    /// Answers per second in the last full metering period.
    answered: f64,
    /// Mean latency of what was served lately.
    latency: Duration,
}

/// Refusals that follow each other.
#[derive(Debug)]
struct Spell {
    /// What was taken is counted from then on.
    since: Instant,
    /// What had been taken before.
    taken_before: u64,
    refusals: u32,
    last: Instant,
}

impl Load {
    /// Nothing sent yet, by `shards` shards; `in_flight_max` as for [`InFlightSearch::new`].
    pub fn new(in_flight_max: u32, always_paced: bool, shards: usize, now: Instant) -> Self {
        Self {
            in_flight: InFlightSearch::new(in_flight_max, now),
            rate: always_paced.then(|| RateSearch::new(now)),
            always_paced,
            begun: now,
            shards: vec![(0, 0); shards],
            spell: None,
            meter_since: now,
            meter_count: 0,
            answered: 0.0,
            latency: Duration::ZERO,
        }
    }

    /// How many requests may be in flight.
    pub fn window(&self) -> u32 {
        self.in_flight.window()
    }

    /// The same, once there were too many.
    pub fn window_found(&self) -> Option<u32> {
        self.in_flight.found()
    }

    /// How many requests may be sent a second; `None`: as many as there are.
    pub fn rate(&self) -> Option<f64> {
        let searched = self.rate.as_ref().map(RateSearch::rate);
        if self.always_paced || self.window_found().is_none() || self.latency.is_zero() {
            return searched;
        }
        let even = SPREAD * f64::from(self.window()) / self.latency.as_secs_f64();
        Some(searched.map_or(even, |rate| rate.min(even)))
    }

    /// `count` requests were served since the last call, in `latency` added up.
    pub fn handle_answers(&mut self, count: u32, latency: Duration, now: Instant) {
        self.meter_count = self.meter_count.saturating_add(count);
        let metered = now.saturating_duration_since(self.meter_since);
        if metered >= METER {
            self.answered = f64::from(self.meter_count) / metered.as_secs_f64();
            (self.meter_count, self.meter_since) = (0, now);
        }
        if count > 0 {
            let mean = latency / count;
            let part = (f64::from(count) / f64::from(self.window().max(10))).min(1.0);
            self.latency = match self.latency.is_zero() {
                true => mean,
                false => self.latency.mul_f64(1.0 - part * 0.3) + mean.mul_f64(part * 0.3),
            };
        }
        self.in_flight.handle_answers(count, latency, now);
        if let Some(rate) = &mut self.rate {
            rate.handle_successes(count, now);
        }
    }

    /// A request of `shard` was pushed back.
    pub fn handle_pushback(&mut self, shard: usize, pushback: &Pushback, now: Instant) {
        let Pushback { sent, cause, .. } = *pushback;
        self.shards[shard] = (pushback.sends, pushback.refusals);
        let was_few = self.window() <= FEW && self.in_flight.is_kept_since(sent);
        match &mut self.rate {
            Some(rate) if self.always_paced => rate.handle_pushback(sent, now),
            Some(rate) if cause == Cause::Refused => {
                rate.handle_pushback(sent, now);
                if !pushback.is_last_place {
                    return;
                }
            }
            None if cause == Cause::Refused && was_few && pushback.is_last_place => {
                self.measure(now)
            }
            _ => {}
        }
        if cause != Cause::RefusedAlone {
            self.in_flight.handle_pushback(sent, now);
        }
    }

    /// Begins the search for the rate once it is known where.
    fn measure(&mut self, now: Instant) {
        let taken = self.taken();
        let spell = match &mut self.spell {
            Some(spell) if now < spell.last + SPELL => spell,
            spell => {
                // What was sent in the first second was sent since the beginning.
                let is_first = now < self.begun + SPELL;
                spell.insert(Spell {
                    since: if is_first { self.begun } else { now },
                    taken_before: if is_first { 0 } else { taken },
                    refusals: 0,
                    last: now,
                })
            }
        };
        spell.refusals += 1;
        spell.last = now;
        let measured = now.saturating_duration_since(spell.since);
        let taken = taken.saturating_sub(spell.taken_before);
        if spell.refusals < REFUSALS_TO_PACE || taken < TAKEN_TO_PACE || measured < MEASURE_MIN {
            return;
        }
        let limit = (taken as f64 / measured.as_secs_f64()).max(self.answered);
        self.rate = Some(RateSearch::near(limit, now));
        // It was met by requests that nothing spread over time.
        self.in_flight.forget_ceiling();
        self.spell = None;
    }

    /// Requests that were not refused, as far as is known.
    fn taken(&self) -> u64 {
        let taken = |&(sends, refusals): &(u64, u64)| sends.saturating_sub(refusals);
        self.shards.iter().map(taken).sum()
    }

    /// No more requests are in flight than [`window`](Self::window) allows.
    pub fn handle_kept(&mut self, now: Instant) {
        self.in_flight.handle_kept(now);
    }

    /// Nothing is sent before `until`: the server asked to wait.
    pub fn handle_wait(&mut self, until: Instant, now: Instant) {
        self.in_flight.handle_wait(now);
        if let Some(rate) = &mut self.rate {
            rate.handle_wait(until, now);
        }
    }

    /// The group was out, and is back: nothing that was learnt meanwhile says what it takes now.
    pub fn handle_back(&mut self, now: Instant) {
        self.in_flight.come_back(now);
        if !self.always_paced {
            self.rate = None;
            self.spell = None;
        }
    }

    /// The rate, where it has been searched for.
    pub fn rate_found(&self) -> Option<f64> {
        self.rate.as_ref().map(RateSearch::rate)
    }

    /// `--rate auto`.
    pub fn is_always_paced(&self) -> bool {
        self.always_paced
    }

    /// The search of `--rate auto`, which remaining quotas slow down.
    pub fn quota_search(&mut self) -> Option<&mut RateSearch> {
        self.rate.as_mut().filter(|_| self.always_paced)
    }
}

#[cfg(test)]
mod tests;
