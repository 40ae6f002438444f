//! Whether, and when, a failed attempt is repeated: the one place that decides. Pure. (What an endpoint
//! refuses has a table of its own: [`refusal`](super::refusal).)
//!
//! [`decide`] judges one failed attempt; [`RetryQueue`] holds a shard's lines until their time
//! has come. A parked line is 32 bytes: the request itself stays in the mapped input.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::refusal::Marks;
use super::refusals::LineRefusals;
use crate::config::RetryConfig;

/// Exponential backoff with full jitter: a wait is uniform between 0 and a bound that grows with
/// each attempt, so that lines that failed together do not return together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    multiplier: f64,
}

impl From<&RetryConfig> for Backoff {
    fn from(config: &RetryConfig) -> Self {
        Self {
            initial: config.initial_backoff,
            max: config.max_backoff,
            multiplier: config.multiplier,
        }
    }
}

impl Backoff {
    /// The longest wait after `attempts_made` attempts (at least 1):
    /// `initial · multiplier^(attempts_made - 1)`, at most the configured maximum.
    pub fn bound(&self, attempts_made: u32) -> Duration {
        let exponent = i32::try_from(attempts_made.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        // The power may be infinite, and 0 times infinity not a number: neither is a duration.
        match Duration::try_from_secs_f64(seconds) {
            Ok(bound) => bound.min(self.max),
            Err(_) if self.initial.is_zero() => Duration::ZERO,
            Err(_) => self.max,
        }
    }

    /// A wait after `attempts_made` attempts; `random` gives numbers in `[0, 1)`.
    pub fn wait(&self, attempts_made: u32, random: &mut impl FnMut() -> f64) -> Duration {
        self.bound(attempts_made).mul_f64(random().clamp(0.0, 1.0))
    }
}

/// One failed attempt, as far as repeating it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failure {
    /// The same request may succeed later or elsewhere: the provider's verdict on the answer, or
    /// the transport's on its failure.
    pub retryable: bool,
    /// How long the server asked to wait.
    pub server_wait: Option<Duration>,
    /// Another endpoint, of another quota group, is usable now.
    pub elsewhere: bool,
    /// Refused for load: it spends no attempt. All such refusals of the line, this one included.
    pub refused: Option<LineRefusals>,
}

/// What becomes of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again, not before `after` has passed.
    Retry {
        /// The wait from now on.
        after: Duration,
    },
    /// The failure is final: write its record.
    GiveUp,
}

/// Decides about a line that has made `attempts_made` attempts (this one included) of at most
/// `max_attempts`.
pub fn decide(
    failure: &Failure,
    attempts_made: u32,
    max_attempts: u32,
    backoff: &Backoff,
    random: &mut impl FnMut() -> f64,
) -> Decision {
    let spent = match failure.refused {
        Some(refusals) => refusals.are_too_many(),
        None => attempts_made >= max_attempts,
    };
    if !failure.retryable || spent {
        return Decision::GiveUp;
    }
    let made = match failure.refused {
        // Each refusal makes the next wait longer, as an attempt would.
        Some(refusals) => attempts_made.saturating_add(refusals.seen()),
        None => attempts_made,
    };
    let jitter = backoff.wait(made, random);
    let server_wait = match failure.elsewhere {
        true => Duration::ZERO,
        false => failure.server_wait.unwrap_or_default(),
    };
    // Added, not the longer of the two: lines told to come back at the same moment spread out.
    Decision::Retry {
        after: server_wait.saturating_add(jitter),
    }
}

/// A line that waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// When it may be sent again.
    pub due: Instant,
    /// Where the line starts in the input, in bytes.
    pub line_offset: u64,
    /// Its physical line number, from 1.
    pub line_number: u64,
    /// Attempts made so far.
    pub attempts: u16,
    /// The endpoint that failed it, to be avoided.
    pub last_endpoint: u16,
    /// How often it was refused for load.
    pub refusals: LineRefusals,
    /// Why an answer to it could not be read; 0: none was unreadable.
    pub unreadable: u16,
    /// What it has met.
    pub marks: Marks,
}

/// A shard's parked lines, by the time they are due; ties in input order.
#[derive(Debug)]
pub struct RetryQueue {
    /// Due times are kept as nanoseconds since then: half the size of an `Instant`.
    origin: Instant,
    heap: BinaryHeap<Reverse<Entry>>,
}

/// Ordered by its fields from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due_ns: u64,
    /// The line's offset above [`MARKS_SHIFT`], `marks` below it: no input has 2^61 bytes.
    offset_and_marks: u64,
    /// The line number above [`NUMBER_SHIFT`], `unreadable` below it: no input has 2^48 lines.
    number_and_fault: u64,
    attempts: u16,
    last_endpoint: u16,
    refusals: LineRefusals,
}

/// See [`Entry`].
const MARKS_SHIFT: u32 = Marks::BITS;

/// See [`Entry`].
const NUMBER_SHIFT: u32 = u16::BITS;

// Millions of lines may be parked while every endpoint cools.
const _: () = assert!(size_of::<Entry>() <= 32);

impl RetryQueue {
    /// An empty queue; lines due before `origin` (the start of the run) are due at once.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            heap: BinaryHeap::new(),
        }
    }

    /// Parks a line.
    pub fn push(&mut self, parked: Parked) {
        let Parked {
            due,
            line_offset,
            line_number,
            attempts,
            last_endpoint,
            refusals,
            unreadable,
            marks,
        } = parked;
        let due = due.saturating_duration_since(self.origin);
        // 2^64 ns are 584 years.
        let due_ns = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.heap.push(Reverse(Entry {
            due_ns,
            offset_and_marks: line_offset << MARKS_SHIFT | u64::from(marks.bits()),
            number_and_fault: line_number << NUMBER_SHIFT | u64::from(unreadable),
            attempts,
            last_endpoint,
            refusals,
        }));
    }

    /// Takes out the line that has been due longest, if one is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<Parked> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some(self.parked(entry))
    }

    /// The line that is due next.
    pub fn next(&self) -> Option<Parked> {
        let Reverse(entry) = self.heap.peek()?;
        Some(self.parked(*entry))
    }

    fn parked(&self, entry: Entry) -> Parked {
        let Entry {
            due_ns,
            offset_and_marks,
            number_and_fault,
            attempts,
            last_endpoint,
            refusals,
        } = entry;
        Parked {
            due: self.origin + Duration::from_nanos(due_ns),
            line_offset: offset_and_marks >> MARKS_SHIFT,
            line_number: number_and_fault >> NUMBER_SHIFT,
            attempts,
            last_endpoint,
            refusals,
            unreadable: number_and_fault as u16,
            marks: Marks::from_bits(offset_and_marks as u8),
        }
    }

    /// Where the line that is due next starts in the input.
    pub fn next_offset(&self) -> Option<u64> {
        let Reverse(entry) = self.heap.peek()?;
        Some(entry.offset_and_marks >> MARKS_SHIFT)
    }

    /// When the next line is due.
    pub fn next_due(&self) -> Option<Instant> {
        let Reverse(entry) = self.heap.peek()?;
        Some(self.origin + Duration::from_nanos(entry.due_ns))
    }

    /// Parked lines.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no line is parked.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::virtual_time::{ms, start};

    const ALMOST_ONE: f64 = 1.0 - f64::EPSILON;

    fn backoff(initial: u64, max: u64, multiplier: f64) -> Backoff {
        Backoff::from(&RetryConfig {
            max_attempts: 3,
            initial_backoff: ms(initial),
            max_backoff: ms(max),
            multiplier,
        })
    }

    #[test]
    fn the_bound_grows_and_saturates() {
        let check = |backoff: Backoff, attempts, expect| {
            assert_eq!(
                backoff.bound(attempts),
                ms(expect),
                "{backoff:?}, attempt {attempts}"
            );
        };
        check(backoff(100, 10_000, 2.0), 0, 100);
        check(backoff(100, 10_000, 2.0), 1, 100);
        check(backoff(100, 10_000, 2.0), 2, 200);
        check(backoff(100, 10_000, 2.0), 7, 6400);
        check(backoff(100, 10_000, 2.0), 8, 10_000);
        check(backoff(100, 10_000, 2.0), 1000, 10_000);
        check(backoff(100, 10_000, 2.0), u32::MAX, 10_000);
        check(backoff(100, 10_000, 1.0), u32::MAX, 100);
        check(backoff(0, 10_000, 2.0), u32::MAX, 0);
        check(backoff(500, 100, 2.0), 1, 100);
    }

    #[test]
    fn the_jitter_is_full() {
        let backoff = backoff(100, 10_000, 2.0);
        assert_eq!(backoff.wait(3, &mut || 0.0), Duration::ZERO);
        assert_eq!(backoff.wait(3, &mut || 0.5), ms(200));
        let longest = backoff.wait(3, &mut || ALMOST_ONE);
        assert!(longest <= ms(400) && longest > ms(399));
    }

    const FAILED: Failure = Failure {
        retryable: true,
        server_wait: None,
        elsewhere: false,
        refused: None,
    };

    fn decided(failure: &Failure, attempts_made: u32) -> Decision {
        decide(
            failure,
            attempts_made,
            3,
            &backoff(100, 10_000, 2.0),
            &mut || 0.5,
        )
    }

    #[test]
    fn what_no_attempt_can_cure_is_given_up() {
        let hopeless = Failure {
            retryable: false,
            ..FAILED
        };
        assert_eq!(decided(&hopeless, 1), Decision::GiveUp);
    }

    #[test]
    fn attempts_run_out() {
        let failed = FAILED;
        assert_eq!(decided(&failed, 2), Decision::Retry { after: ms(100) });
        assert_eq!(decided(&failed, 3), Decision::GiveUp);
        assert_eq!(decided(&failed, 4), Decision::GiveUp);
    }

    #[test]
    fn refusals_for_load_spend_no_attempts_and_end_all_the_same() {
        let mut line = LineRefusals::default();
        let mut waits = Vec::new();
        loop {
            line = line.again(u64::from(line.seen()) + 1);
            let refused = Failure {
                refused: Some(line),
                ..FAILED
            };
            // The line has spent two attempts of three before, and keeps the third.
            match decided(&refused, 2) {
                Decision::Retry { after } => waits.push(after),
                Decision::GiveUp => break,
            }
        }
        assert_eq!(waits.len(), 19);
        assert_eq!(
            (waits[0], waits[1], waits[18]),
            (ms(200), ms(400), ms(5000))
        );
        let unwanted = Failure {
            retryable: false,
            refused: Some(LineRefusals::default().again(1)),
            ..FAILED
        };
        assert_eq!(decided(&unwanted, 0), Decision::GiveUp);
    }

    #[test]
    fn the_server_is_waited_for_unless_the_line_goes_elsewhere() {
        let check = |server_wait, elsewhere, expect| {
            let failed = Failure {
                server_wait,
                elsewhere,
                ..FAILED
            };
            assert_eq!(decided(&failed, 1), Decision::Retry { after: expect });
        };
        check(Some(ms(7000)), false, ms(7050));
        check(Some(ms(7000)), true, ms(50));
        check(None, false, ms(50));
        check(Some(Duration::MAX), false, Duration::MAX);
    }

    #[test]
    fn lines_come_out_when_due_and_as_they_went_in() {
        let origin = start();
        let mut queue = RetryQueue::new(origin);
        let parked = |due, line_offset| Parked {
            due: origin + ms(due),
            line_offset,
            line_number: line_offset / 10,
            attempts: 2,
            last_endpoint: 1,
            refusals: LineRefusals::default(),
            unreadable: u16::MAX - 1,
            marks: Marks::KNOWN,
        };
        for line in [
            parked(30, 10),
            parked(10, 50),
            parked(20, 0),
            parked(10, 40),
        ] {
            queue.push(line);
        }
        assert_eq!(queue.pop_due(origin + ms(9)), None);
        assert_eq!((queue.len(), queue.next_due()), (4, Some(origin + ms(10))));
        let due: Vec<Parked> = std::iter::from_fn(|| queue.pop_due(origin + ms(20))).collect();
        assert_eq!(due, [parked(10, 40), parked(10, 50), parked(20, 0)]);
        assert_eq!((queue.len(), queue.next_due()), (1, Some(origin + ms(30))));
        assert_eq!(queue.pop_due(origin + ms(99)), Some(parked(30, 10)));
        assert!(queue.is_empty() && queue.next_due().is_none());
    }
}
