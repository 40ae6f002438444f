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
//! second: then the pace is searched for, from what was taken so far. Elsewhere it is *tried*: for a second or
//! so requests are paced, from what was served without, and as many may be in flight as that needs. A server that
//! counts by the second serves more then, since two and three in flight are not all there is between 100 and 150 a
//! second; one that counts places does not, and the number in flight is gone back to.

use std::time::{Duration, Instant};

use super::search_in_flight::InFlightSearch;
use super::search_pace::PaceSearch;
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
const METER: Duration = Duration::from_millis(300);

/// A group that has been refused spreads its requests over the time that answers take, and a bit
/// closer: what is sent together is refused by servers that count by the second, and a place that
/// falls free waits for no longer than an eighth of that time's share.
const SPREAD: f64 = 1.15;

/// A paced group may have so many more in flight than its pace needs.
const PACED_MIN: u32 = 4;

/// So long after the first refusals a pace is tried ...
const TRIAL_AFTER: Duration = Duration::from_millis(200);

/// ... and again so long after one that brought nothing, twice as long after each further one.
const TRIAL_PATIENCE: Duration = Duration::from_secs(2);

/// See [`TRIAL_PATIENCE`].
const TRIAL_PATIENCE_MAX: Duration = Duration::from_secs(120);

/// A pace must bring so much more than the number in flight alone.
const TRIAL_GAIN: f64 = 1.1;

/// What is left of the best that was served without a pace, by each metering period.
const TRIAL_FORGETS: f64 = 0.93;

/// How much each metering period counts for what is served with a pace.
const TRIAL_REMEMBERS: f64 = 0.2;

/// Within this time, and four times the latency.
const TRIAL_MAX: Duration = Duration::from_secs(1);

/// Slower groups cannot be judged by a period.
const TRIAL_RATE_MIN: f64 = 10.0;

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
    /// `--rate auto`: there is always a rate, and every pushback concerns it.
    auto: Option<RateSearch>,
    /// The server counts by the second, or that is tried.
    pace: Option<PaceSearch>,
    trial: Trial,
    /// Until something is, there is no reason to hold requests back: a server that queues paces them itself.
    was_refused: bool,
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

/// Whether the group is served better if its requests are paced, though more of them are in flight.
#[derive(Debug)]
struct Trial {
    /// Answers per second without, and since when the trial lasts.
    without: Option<(f64, Instant)>,
    /// Answers per second without and, on average lately, with the pace that was found.
    served: (f64, f64),
    /// The most of the latest metering periods without.
    best: f64,
    /// The next one begins no earlier.
    not_before: Option<Instant>,
    patience: Duration,
    /// Servers that ask to wait make it too costly.
    is_costly: bool,
    /// What was sent before then was sent in the last one.
    ended: Option<Instant>,
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
            auto: always_paced.then(|| RateSearch::new(now)),
            pace: None,
            trial: Trial {
                without: None,
                served: (0.0, 0.0),
                best: 0.0,
                not_before: None,
                patience: TRIAL_PATIENCE,
                is_costly: false,
                ended: None,
            },
            was_refused: false,
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
        let found = self.in_flight.window();
        match &self.pace {
            // Twice what the pace needs: it alone is to decide.
            Some(pace) => {
                let needs = (2.0 * pace.rate() * self.latency.as_secs_f64()).ceil() as u32;
                found.max(needs + PACED_MIN).min(self.in_flight.most())
            }
            None => found,
        }
    }

    /// The same, once there were too many.
    pub fn window_found(&self) -> Option<u32> {
        self.in_flight.found().map(|_| self.window())
    }

    /// How many requests may be sent a second; `None`: as many as there are.
    pub fn rate(&self) -> Option<f64> {
        if let Some(rate) = self.rate_found() {
            return Some(rate);
        }
        let window = f64::from(self.in_flight.found()?);
        let is_known = !self.latency.is_zero();
        (self.was_refused && is_known).then(|| SPREAD * window / self.latency.as_secs_f64())
    }

    /// `count` requests were served since the last call, in `latency` added up.
    pub fn handle_answers(&mut self, count: u32, latency: Duration, now: Instant) {
        self.meter_count = self.meter_count.saturating_add(count);
        let metered = now.saturating_duration_since(self.meter_since);
        if metered >= METER {
            self.answered = f64::from(self.meter_count) / metered.as_secs_f64();
            (self.meter_count, self.meter_since) = (0, now);
            self.try_pace(now);
        }
        if count > 0 {
            let mean = latency / count;
            let part = (f64::from(count) / f64::from(self.window().max(10))).min(1.0);
            self.latency = match self.latency.is_zero() {
                true => mean,
                false => self.latency.mul_f64(1.0 - part * 0.3) + mean.mul_f64(part * 0.3),
            };
        }
        if let Some(pace) = &mut self.pace {
            pace.handle_answers(count, now);
            return self.judge_trial(now);
        }
        self.in_flight.handle_answers(count, latency, now);
        if let Some(rate) = &mut self.auto {
            rate.handle_successes(count, now);
        }
    }

    /// A request of `shard` was pushed back.
    pub fn handle_pushback(&mut self, shard: usize, pushback: &Pushback, now: Instant) {
        let Pushback { sent, cause, .. } = *pushback;
        self.shards[shard] = (pushback.sends, pushback.refusals);
        self.was_refused |= cause == Cause::Refused;
        if let (Some(pace), true) = (&mut self.pace, cause != Cause::Timeout) {
            pace.handle_refusal(sent, now);
            return self.judge_trial(now);
        }
        if cause != Cause::Timeout && self.trial.ended.is_some_and(|ended| sent < ended) {
            return;
        }
        let was_few = self.window() <= FEW && self.in_flight.is_kept_since(sent);
        match &mut self.auto {
            Some(rate) => rate.handle_pushback(sent, now),
            None if cause == Cause::Refused && was_few && pushback.is_last_place => {
                self.measure(now)
            }
            None => {}
        }
        if cause != Cause::RefusedAlone {
            self.in_flight.handle_pushback(sent, now);
        }
    }

    /// A metering period is over: tries whether a pace brings more, or judges the trial.
    fn try_pace(&mut self, now: Instant) {
        if self.auto.is_some() || !self.was_refused || self.in_flight.found().is_none() {
            return;
        }
        let trial = &mut self.trial;
        if self.pace.is_none() {
            trial.best = (trial.best * TRIAL_FORGETS).max(self.answered);
            let not_before = *trial.not_before.get_or_insert(now + TRIAL_AFTER);
            if now >= not_before && !trial.is_costly && trial.best >= TRIAL_RATE_MIN {
                trial.without = Some((trial.best, now));
                self.pace = Some(PaceSearch::new(trial.best, now));
            }
        } else if let Some((without, since)) = trial.without {
            if self.answered >= without * TRIAL_GAIN {
                trial.without = None;
                trial.served = (without, self.answered);
                self.in_flight.forget_ceiling();
            } else if now >= since + TRIAL_MAX + 4 * self.latency {
                self.end_trial(now);
            }
        } else {
            let (without, with) = &mut trial.served;
            *with += (self.answered - *with) * TRIAL_REMEMBERS;
            if with < without {
                self.end_trial(now);
            }
        }
    }

    /// The trial has failed once what is more than without a pace is refused.
    fn judge_trial(&mut self, now: Instant) {
        let (Some(pace), Some((without, _))) = (&self.pace, self.trial.without) else {
            return;
        };
        let is_worse = |rate: f64| rate < without * TRIAL_GAIN;
        if pace.ceiling().is_some_and(is_worse) {
            self.end_trial(now);
        }
    }

    /// Without a pace the group was served as well.
    fn end_trial(&mut self, now: Instant) {
        self.pace = None;
        let trial = &mut self.trial;
        (trial.without, trial.served) = (None, (0.0, 0.0));
        trial.ended = Some(now);
        trial.not_before = Some(now + trial.patience);
        trial.patience = (trial.patience * 2).min(TRIAL_PATIENCE_MAX);
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
        self.pace = Some(PaceSearch::new(limit, now));
        self.trial.served = (0.0, 0.0);
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
        self.trial.is_costly = true;
        if self.trial.without.is_some() {
            self.end_trial(now);
        }
        self.in_flight.handle_wait(now);
        if let Some(rate) = &mut self.auto {
            rate.handle_wait(until, now);
        }
        if let Some(pace) = &mut self.pace {
            pace.handle_wait(until);
        }
    }

    /// The group was out, and is back: nothing that was learnt meanwhile says what it takes now.
    pub fn handle_back(&mut self, now: Instant) {
        self.in_flight.come_back(now);
        self.pace = None;
        self.trial.without = None;
        self.spell = None;
    }

    /// The rate, where it has been searched for.
    pub fn rate_found(&self) -> Option<f64> {
        let auto = self.auto.as_ref().map(RateSearch::rate);
        auto.or(self.pace.as_ref().map(PaceSearch::rate))
    }

    /// The pace was searched for among refusals: each request that comes too early may be refused.
    pub fn is_paced_evenly(&self) -> bool {
        self.pace.is_some()
    }

    /// `--rate auto`.
    pub fn is_always_paced(&self) -> bool {
        self.auto.is_some()
    }

    /// The search of `--rate auto`, which remaining quotas slow down.
    pub fn quota_search(&mut self) -> Option<&mut RateSearch> {
        self.auto.as_mut()
    }
}

#[cfg(test)]
mod tests;
