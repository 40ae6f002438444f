//! The global rate as leased send slots. Pure.
//!
//! A slot is an instant at which one request may leave. The main thread's [`Pacer`] numbers them
//! along the time axis, `1 / rate` apart, and leases short runs of them to shards; a shard's
//! [`SlotQueue`] spends them without asking anybody. Since no slot is handed out twice and none
//! is used more than [`CATCH_UP`] late, a window of one second holds at most the slots of
//! `1 s + CATCH_UP`: 1 % above the rate, whatever shards and messages do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::refusals::Spread;

/// How far ahead slots are leased. Long enough to hide message round trips also on a busy machine,
/// where a thread waits for its core 10 ms and more; short enough that a change of rate or of work
/// takes hold at once.
pub const HORIZON: Duration = Duration::from_millis(60);

/// How late a slot may still be used: 10 ms of a 1 s window are 1 %, half of the 2 % allowed.
pub const CATCH_UP: Duration = Duration::from_millis(10);

/// A shard asks again when its last slot is nearer than this: half the horizon, several round trips.
pub const ASK_AHEAD: Duration = Duration::from_millis(30);

/// Most slots asked for at once; bounds the burst a single shard can hold.
pub const ASK_MAX: u32 = 4096;

/// Where a server takes nothing in advance, a request that leaves late must not make the next one too early:
/// so much of the time between two slots lies between what one shard sends at least. Not all of it, or the shard
/// could never come back to its slots, and would run into those of another shard.
pub const GAP: f64 = 0.95;

/// So long after a refusal its slot is used again, see [`SlotQueue::again`].
pub const AGAIN: Duration = Duration::from_micros(700);

/// Most returned runs the pacer keeps. Shards return at most a handful each; what does not fit is
/// lost capacity, never extra rate.
const RETURNED_MAX: usize = 1024;

/// A run of send slots: `count` instants, `spacing_ns` apart, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slots {
    /// The earliest slot of the run.
    pub first: Instant,
    /// Nanoseconds between two slots.
    pub spacing_ns: f64,
    /// Slots in the run.
    pub count: u32,
    /// A slot is used no sooner than [`GAP`] after the one before, though that was used late.
    pub evenly: bool,
}

impl Slots {
    /// The slot number `index`, counted from 0.
    fn at(&self, index: u32) -> Instant {
        self.first + nanoseconds(self.spacing_ns * f64::from(index))
    }

    /// The last slot of a run that is not empty.
    fn last(&self) -> Instant {
        self.at(self.count.saturating_sub(1))
    }

    /// How late a slot may be used. Below 50 slots a second half a spacing is more than
    /// [`CATCH_UP`]; it adds less than one slot to any window and spares slow rates the loss of
    /// a whole slot to a short stall.
    fn lateness(&self) -> Duration {
        CATCH_UP.max(nanoseconds(self.spacing_ns / 2.0))
    }

    /// Removes the slots that can no longer be used.
    fn expire(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.first + self.lateness());
        if late.is_zero() {
            return;
        }
        let expired = (late.as_nanos() as f64 / self.spacing_ns).ceil();
        // A float-to-integer `as` saturates, so an age of days expires everything.
        self.split_off_front((expired as u32).min(self.count));
    }

    /// Takes the first `count` slots out of the run.
    fn split_off_front(&mut self, count: u32) -> Slots {
        let front = Slots { count, ..*self };
        self.first = self.at(count);
        self.count -= count;
        front
    }
}

/// Main-owned: numbers the slots and leases them.
#[derive(Debug)]
pub struct Pacer {
    spacing_ns: f64,
    evenly: bool,
    /// The first slot that was never leased.
    next: Instant,
    /// Leased and given back unused, earliest first.
    returned: Vec<Slots>,
}

impl Pacer {
    /// A pacer of `per_second` slots per second, the first one at `now`: no start-up burst.
    ///
    /// # Panics
    /// If `per_second` is not a positive number; "no limit" has no pacer.
    pub fn new(per_second: f64, now: Instant) -> Self {
        Self {
            spacing_ns: spacing_ns(per_second),
            evenly: false,
            next: now,
            returned: Vec::new(),
        }
    }

    /// Changes the rate from the next lease on. Slots already leased stay valid: at most
    /// [`HORIZON`] of the old rate, or one slot per shard.
    ///
    /// # Panics
    /// If `per_second` is not a positive number.
    pub fn set_rate(&mut self, per_second: f64, now: Instant) {
        let old_ns = std::mem::replace(&mut self.spacing_ns, spacing_ns(per_second));
        if self.spacing_ns >= old_ns {
            self.next += nanoseconds(self.spacing_ns - old_ns);
        } else {
            // Slots of the slow rate may be leased seconds ahead, and the faster one must not wait
            // for them: as many slots as are leased ahead are now counted in the new spacing.
            let ahead = self.next.saturating_duration_since(now);
            let shorter = ahead.mul_f64(1.0 - self.spacing_ns / old_ns);
            // Cannot underflow: `next` lies at least that much after `now`.
            self.next -= shorter;
        }
    }

    /// From the next lease on, late slots do or do not make those behind them late, see [`GAP`].
    pub fn set_evenly(&mut self, evenly: bool) {
        self.evenly = evenly;
    }

    /// Hands out up to `want` consecutive slots before `now + HORIZON`, and at least one, however
    /// far away it lies. Of what lies before the horizon half is left to the other shards, so a
    /// greedy asker cannot starve them. Slots missed while nobody asked are made up only up to
    /// [`CATCH_UP`].
    pub fn lease(&mut self, want: u32, now: Instant) -> Slots {
        self.drop_expired(now);
        let want = want.max(1);
        if self
            .returned
            .first()
            .is_some_and(|run| run.first <= self.next)
        {
            let run = &mut self.returned[0];
            let front = run.split_off_front(want.min(run.count));
            if run.count == 0 {
                self.returned.remove(0);
            }
            return front;
        }
        if self.next + CATCH_UP < now {
            // Cannot underflow: `next` lies more than that before `now`.
            self.next = now - CATCH_UP;
        }
        let ahead = (now + HORIZON).saturating_duration_since(self.next);
        let before_horizon = (ahead.as_nanos() as f64 / self.spacing_ns).ceil();
        let share = ((before_horizon / 2.0).ceil() as u32).max(1);
        let mut run = Slots {
            first: self.next,
            spacing_ns: self.spacing_ns,
            count: want.min(share),
            evenly: self.evenly,
        };
        let leased = run.split_off_front(run.count);
        self.next = run.first;
        leased
    }

    /// Takes back the unused slots of a shard that has nothing to send; they are leased again
    /// before any later slot while they are usable.
    pub fn give_back(&mut self, slots: Slots, now: Instant) {
        self.drop_expired(now);
        if slots.count > 0 && self.returned.len() < RETURNED_MAX {
            let index = self
                .returned
                .partition_point(|run| run.first <= slots.first);
            self.returned.insert(index, slots);
            self.drop_expired(now);
        }
    }

    /// Leases what was given back and is still usable. The main thread does well to send it,
    /// unasked, to a shard that has work: at slow rates that shard holds a slot seconds away and
    /// would not ask before.
    pub fn take_returned(&mut self, now: Instant) -> Vec<Slots> {
        self.drop_expired(now);
        std::mem::take(&mut self.returned)
    }

    fn drop_expired(&mut self, now: Instant) {
        for run in &mut self.returned {
            run.expire(now);
        }
        self.returned.retain(|run| run.count > 0);
    }
}

/// What a shard may do about sending its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A slot was spent: send one request.
    Go,
    /// The next slot opens then; nothing was spent.
    At(Instant),
    /// No slot is held: wait for a lease.
    Empty,
}

/// Shard-owned: the slots leased to one shard.
#[derive(Debug, Default)]
pub struct SlotQueue {
    /// Earliest first; runs never overlap, because no slot is leased twice.
    runs: VecDeque<Slots>,
    /// Slots are used evenly: nothing is sent before, see [`GAP`].
    not_before: Option<Instant>,
    /// That long after the latest request.
    gap: Duration,
    /// The latest slot comes back then, see [`Self::again`].
    again_at: Option<Instant>,
    /// It was given back already.
    is_spent_twice: bool,
}

impl SlotQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a lease, in whatever order leases arrive.
    pub fn add(&mut self, slots: Slots) {
        if slots.count > 0 {
            let index = self.runs.partition_point(|run| run.first <= slots.first);
            self.runs.insert(index, slots);
        }
    }

    /// What these slots do to requests.
    pub fn spread(&self) -> Spread {
        match self.not_before {
            Some(_) => Spread::Evenly,
            None => Spread::Paced,
        }
    }

    /// Spends the earliest slot if its time has come.
    pub fn take(&mut self, now: Instant) -> Taken {
        let seen = self.look(now);
        if seen == Taken::Go {
            if self.again_at.take().is_some_and(|at| at <= now) {
                self.is_spent_twice = true;
            } else if let Some(run) = self.runs.front_mut() {
                let slot = run.split_off_front(1);
                self.gap = nanoseconds(slot.spacing_ns * GAP);
                self.not_before = slot.evenly.then_some(now);
                self.is_spent_twice = false;
                if run.count == 0 {
                    self.runs.pop_front();
                }
            }
            self.not_before = self.not_before.map(|_| now + self.gap);
        }
        seen
    }

    /// What was sent with the latest slot was refused at `now`: if slots are used evenly, a request may leave in a
    /// moment instead, once for each slot. A server that takes nothing in advance has refused it because it
    /// came a bit too early; the time until the next slot would be lost.
    pub fn again(&mut self, now: Instant) {
        if self.not_before.is_some() && !self.is_spent_twice {
            self.again_at = Some(now + AGAIN);
        }
    }

    /// What [`take`](Self::take) would answer, without spending anything.
    pub fn look(&mut self, now: Instant) -> Taken {
        self.again_at = self.again_at.filter(|&at| now < at + CATCH_UP);
        let again_at = self.again_at.filter(|_| !self.is_spent_twice);
        if again_at.is_some_and(|at| at <= now) {
            return Taken::Go;
        }
        match (self.look_at_runs(now), again_at) {
            (Taken::At(at), Some(again_at)) => Taken::At(at.min(again_at)),
            (seen, _) => seen,
        }
    }

    fn look_at_runs(&mut self, now: Instant) -> Taken {
        while let Some(run) = self.runs.front_mut() {
            let spaced = |at: Instant| self.not_before.map_or(at, |before| before.max(at));
            if run.first > now {
                return Taken::At(spaced(run.first));
            }
            run.expire(now);
            if run.count == 0 {
                self.runs.pop_front();
            } else if spaced(run.first) > now {
                return Taken::At(spaced(run.first));
            } else {
                return Taken::Go;
            }
        }
        Taken::Empty
    }

    /// How many slots to ask the main thread for now; 0: enough are held. Ask once and wait for
    /// the answer, only while there is work, and for no more than could be sent (permits free).
    pub fn wants_more(&self, now: Instant) -> u32 {
        match self.runs.back() {
            Some(run) if run.last() >= now + ASK_AHEAD => 0,
            _ => ASK_MAX,
        }
    }

    /// Gives up every slot, to be sent back when the shard has nothing to send.
    pub fn drain(&mut self) -> Vec<Slots> {
        self.again_at = None;
        self.runs.drain(..).collect()
    }
}

/// The rate, per second, at which no minute holds more than `limit` slots. Slots used late may
/// join a minute at its start: [`CATCH_UP`] worth of them, or one where slots are rare.
///
/// # Panics
/// If `limit` is 0, which the configuration rules out.
pub fn per_minute(limit: u64) -> f64 {
    const MINUTE_SECONDS: f64 = 60.0;
    assert!(limit > 0, "a limit of 0 per minute");
    let limit = limit as f64;
    let rare = (limit - 0.5) / MINUTE_SECONDS;
    rare.min(limit / (MINUTE_SECONDS + CATCH_UP.as_secs_f64()))
}

fn spacing_ns(per_second: f64) -> f64 {
    assert!(
        per_second.is_finite() && per_second > 0.0,
        "a rate is a positive number, not {per_second}"
    );
    // One slot in about 11 days is slow enough for anybody and keeps instants from overflowing.
    (1e9 / per_second).min(1e15)
}

fn nanoseconds(ns: f64) -> Duration {
    Duration::from_nanos(ns.round() as u64)
}

#[cfg(test)]
mod tests;
