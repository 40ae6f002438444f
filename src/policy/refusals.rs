//! Refusals for load: 429, 503 and 529 that are not about the line they answer. Pure.
//!
//! The server did no work for a refused line and said nothing about it, so the line spends no attempt.
//! Two questions remain, and both are answered here.
//!
//! *When has one line been refused too often?* At [`REFUSALS_MAX`] refusals, of which only those count
//! between which the server answered somebody else: where it answers nobody there is an outage, and
//! that is no line's fault.
//!
//! *Does a refusal speak of a limit, or is it a lone one?* [`History`] holds the latest outcomes. A server
//! that refuses three of a hundred requests at random, each with "retry after a second", is not at its
//! limit; stopping everybody for a second each time would serve 30 requests a second of 1000.

use std::time::{Duration, Instant};

use super::health::{Failures, STREAK_TO_COOL};

/// Refusals that count and make a line a failure. With the default backoff they take a minute.
pub const REFUSALS_MAX: u8 = 20;

/// Of the latest 16 outcomes, so many refusals say that a limit is reached.
const LIMIT_OF_16: u32 = 6;

/// Of the latest 64. Random refusals of 3 % come that close together once in some thousand times.
const LIMIT_OF_64: u32 = 10;

/// What spreads a group's requests over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Nothing does.
    Unpaced,
    /// They need send slots.
    Paced,
    /// The pace is what is searched for: each slot is used twice at most, whatever is refused.
    Evenly,
}

/// How long a group rests on one shard after a refusal, `in_a_row` of which came since the last answer while
/// nothing else of it was in flight there. A server that allows twenty a second is asked four times
/// between two answers then, not fifty times. Where requests are spread already, the first refusal is a matter of
/// a millisecond; where the pace is searched for each is, or the search would take the rests for what is served.
pub fn rest(in_a_row: u32, spread: Spread) -> Duration {
    match (spread, in_a_row) {
        (Spread::Evenly, _) | (Spread::Paced, 0 | 1) => REST_PACED,
        _ => (REST * (1 << (in_a_row.clamp(1, 8) - 1))).min(REST_MAX),
    }
}

/// See [`rest`].
const REST_PACED: Duration = Duration::from_millis(1);

/// See [`rest`]; doubled with each further refusal.
const REST: Duration = Duration::from_millis(8);

/// See [`rest`].
const REST_MAX: Duration = Duration::from_secs(1);

/// How often one line was refused. It travels with the line, also while that is parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineRefusals {
    /// All refusals, up to 255.
    seen: u8,
    /// Those that count against the line.
    counted: u8,
    /// The number of answers to other lines at the last refusal, modulo 2^16.
    answers: u16,
}

impl LineRefusals {
    /// The line was refused again; `answers` counts what the server has answered so far, to whichever
    /// line. (A refusal after exactly a multiple of 65 536 answers does not count. The next one does.)
    pub fn again(self, answers: u64) -> Self {
        let answers = answers as u16;
        let counts = answers != self.answers;
        Self {
            seen: self.seen.saturating_add(1),
            counted: self.counted.saturating_add(u8::from(counts)),
            answers,
        }
    }

    /// All refusals so far, at most 255.
    pub fn seen(self) -> u32 {
        u32::from(self.seen)
    }

    /// What the record of a line says that was refused with `message` once too often.
    pub fn explain(self, message: &str) -> String {
        let times = self.seen;
        format!("{message} (refused for load {times} times while other lines were answered)")
    }

    /// The line has been refused too often: it is a failure.
    pub fn are_too_many(self) -> bool {
        self.counted >= REFUSALS_MAX
    }
}

/// Refusals of one endpoint since it served a request, while nothing else was in flight: an outage, or a
/// server that counts by the second.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefusedInARow {
    since: Option<Instant>,
    count: u32,
}

impl RefusedInARow {
    /// Some requests were served, up to 100 ms before `now`: perhaps before the first refusal.
    pub fn note_served(&mut self, now: Instant) {
        let after = |since| now.saturating_duration_since(since) > SERVED_WITHIN;
        if self.since.is_some_and(after) {
            *self = Self::default();
        }
    }

    /// The endpoint refused again. `Some`: that is an outage by now.
    pub fn again(&mut self, now: Instant) -> Option<Failures> {
        let since = *self.since.get_or_insert(now);
        self.count += 1;
        let is_outage =
            self.count >= STREAK_TO_COOL && now.saturating_duration_since(since) >= OUTAGE_AFTER;
        is_outage.then_some(Failures {
            together: STREAK_TO_COOL,
            follows: true,
        })
    }
}

/// Shards count what was served every 100 ms; a busy machine is a bit late.
const SERVED_WITHIN: Duration = Duration::from_millis(120);

/// Refusals in a row are an outage after this long: whoever allows more than twenty a second has served
/// one of them by then.
const OUTAGE_AFTER: Duration = Duration::from_millis(50);

/// The latest 64 outcomes of requests to one quota group, as one shard has seen them.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// The latest in bit 0; 1: a refusal.
    outcomes: u64,
    /// The same, but outcomes that never were count as refusals.
    worst: u64,
    /// The group has been refused before, and has waited for it.
    has_waited: bool,
}

impl History {
    /// Nothing is known.
    pub fn new() -> Self {
        Self {
            outcomes: 0,
            worst: u64::MAX,
            has_waited: false,
        }
    }

    /// A request was answered.
    pub fn note_answer(&mut self) {
        self.outcomes <<= 1;
        self.worst <<= 1;
    }

    /// A request was refused.
    pub fn note_refusal(&mut self) {
        self.outcomes = self.outcomes << 1 | 1;
        self.worst = self.worst << 1 | 1;
    }

    /// The group waits because a server asked for it.
    pub fn note_wait(&mut self) {
        self.has_waited = true;
        // What was refused before the wait says nothing about what comes after it.
        self.outcomes = 0;
    }

    /// The refusals among the latest outcomes are few and stand apart: they speak of no limit.
    pub fn is_lone(&self) -> bool {
        are_few(self.outcomes)
    }

    /// The wait that a lone refusal asks for concerns its own line alone. The first wait is always
    /// everybody's: that refusals come alone has to be seen first, and by many answers.
    pub fn waits_alone(&self) -> bool {
        self.has_waited && are_few(self.worst)
    }
}

fn are_few(outcomes: u64) -> bool {
    let of_16 = (outcomes & 0xffff).count_ones();
    of_16 < LIMIT_OF_16 && outcomes.count_ones() < LIMIT_OF_64
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals of one line, told by how many answers came before each.
    #[test]
    fn a_refusal_counts_if_somebody_was_answered_since_the_last() {
        let check = |answers: &[u64], counted: u8| {
            let refused = answers
                .iter()
                .fold(LineRefusals::default(), |refused, &answers| {
                    refused.again(answers)
                });
            assert_eq!(refused.counted, counted, "{answers:?}");
            assert_eq!(refused.seen() as usize, answers.len());
        };
        check(&[0, 0, 0], 0);
        check(&[1], 1);
        check(&[5, 5, 5, 6, 6, 7], 3);
        check(&[70_000, 70_001], 2);
        let mut line = LineRefusals::default();
        for answers in 1..=u64::from(REFUSALS_MAX) {
            assert!(!line.are_too_many(), "{answers}");
            line = line.again(answers);
        }
        assert!(line.are_too_many());
        // Nobody is answered: for ever.
        let outage = (0..1000).fold(LineRefusals::default(), |line, _| line.again(7));
        assert!(!outage.are_too_many());
        assert_eq!(outage.seen(), 255);
    }

    /// `.` is an answer, `x` a refusal.
    #[test]
    fn what_is_lone() {
        let check = |outcomes: &str, lone: bool, waits_alone: bool| {
            let mut history = History::new();
            for outcome in outcomes.chars() {
                match outcome {
                    'x' => history.note_refusal(),
                    _ => history.note_answer(),
                }
            }
            assert_eq!(history.is_lone(), lone, "{outcomes}");
            assert!(!history.waits_alone(), "the first wait is everybody's");
            history.note_wait();
            assert_eq!(history.waits_alone(), waits_alone, "{outcomes}");
        };
        let many = ".".repeat(100);
        check("", true, false);
        check("x", true, false);
        check("xxxxxx", false, false);
        check(&format!("{}x", ".".repeat(50)), true, false);
        check(&format!("{}x", ".".repeat(60)), true, true);
        check(&format!("{many}x"), true, true);
        check(&format!("{many}xxxxx"), true, true);
        check(&format!("{many}xxxxxx"), false, false);
        check(&format!("{many}x..x..x.xx..x"), false, false);
        check(&format!("{many}{}x", "x.....".repeat(8)), true, true);
        check(&format!("{many}{}x", "x.....".repeat(9)), false, false);
    }
}
