//! What became of the latest requests to one endpoint, in the order in which they were *sent*. Pure.
//!
//! Failures come back sooner than successes: of a hundred requests sent at once to an endpoint that
//! fails one in ten at once and answers the others after seconds, the first five to come back are
//! failures, and none of them says that the endpoint is out. In the order of sending they do not
//! stand together: requests that are still under way lie between them, and may succeed. So a
//! failure continues a streak only if the request sent just before it is over.

/// Requests remembered per endpoint and shard. A request older than that counts as if all before it
/// were over: beyond this many in flight the order of sending is given up for that of the answers.
pub(super) const REMEMBERED: usize = 4096;

/// What a failure adds to the endpoint's streak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Failed requests that were sent one right after the other, this one among them. At least 1,
    /// at most 40, twice [`STREAK_TO_SHUN`](super::STREAK_TO_SHUN): more say nothing more.
    pub together: u32,
    /// The request sent just before is over, or there was none: this failure follows whatever came
    /// back last, from whichever shard.
    pub follows: bool,
}

/// Shard-owned: the latest requests to one endpoint.
#[derive(Debug)]
pub(super) struct SendOrder {
    /// Of request `number` at `number % REMEMBERED`; requests are numbered from 0.
    fates: Box<[Fate; REMEMBERED]>,
    next: u64,
    /// Whether any of them is [`Fate::Failed`] or [`Fate::Complained`].
    any_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    UnderWay,
    Failed,
    /// Answered, but not well.
    Complained,
    /// Answered well, or of no consequence.
    Over,
}

impl SendOrder {
    /// Nothing sent yet.
    pub(super) fn new() -> Self {
        Self {
            fates: Box::new([Fate::Over; REMEMBERED]),
            next: 0,
            any_failed: false,
        }
    }

    /// A request goes out; returns its number.
    pub(super) fn send(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.fates[slot(number)] = Fate::UnderWay;
        number
    }

    /// Request `number` is over and speaks neither for nor against the endpoint.
    pub(super) fn end(&mut self, number: u64) {
        if self.remembers(number) {
            self.fates[slot(number)] = Fate::Over;
        }
    }

    /// A streak ended: no failure so far belongs to the next one.
    pub(super) fn forget_failures(&mut self) {
        if std::mem::take(&mut self.any_failed) {
            self.turn(&[Fate::Failed, Fate::Complained], Fate::Over);
        }
    }

    /// The endpoint is alive: no failure so far belongs to the next streak of failures. It may still be one
    /// that answers nothing well.
    pub(super) fn note_alive(&mut self) {
        if self.any_failed {
            self.turn(&[Fate::Failed], Fate::Complained);
        }
    }

    fn turn(&mut self, from: &[Fate], to: Fate) {
        for fate in self.fates.iter_mut().filter(|fate| from.contains(fate)) {
            *fate = to;
        }
    }

    /// Request `number` failed in a way that speaks against the endpoint.
    pub(super) fn fail(&mut self, number: u64) -> Failures {
        self.note(number, Fate::Failed, &[Fate::Failed])
    }

    /// Request `number` was answered, but not well. Counts the failures with the others that were not.
    pub(super) fn complain(&mut self, number: u64) -> Failures {
        self.note_alive();
        let unwell = [Fate::Failed, Fate::Complained];
        self.note(number, Fate::Complained, &unwell)
    }

    fn note(&mut self, number: u64, fate: Fate, counted: &[Fate]) -> Failures {
        if !self.remembers(number) {
            return Failures {
                together: 1,
                follows: true,
            };
        }
        self.fates[slot(number)] = fate;
        self.any_failed = true;
        let is_counted =
            |&other: &u64| self.remembers(other) && counted.contains(&self.fates[slot(other)]);
        let before = (0..number).rev().take_while(is_counted);
        let after = (number + 1..self.next).take_while(is_counted);
        let enough = super::STREAK_TO_SHUN as usize;
        let together = 1 + before.take(enough).count() + after.take(enough).count();
        let previous = number.checked_sub(1).filter(|&other| self.remembers(other));
        Failures {
            together: together.min(2 * enough) as u32,
            follows: previous.is_none_or(|other| self.fates[slot(other)] != Fate::UnderWay),
        }
    }

    fn remembers(&self, number: u64) -> bool {
        number < self.next && self.next - number <= REMEMBERED as u64
    }
}

fn slot(number: u64) -> usize {
    (number % REMEMBERED as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> SendOrder {
        let mut order = SendOrder::new();
        for number in 0..count {
            assert_eq!(order.send(), number);
        }
        order
    }

    /// Fails `numbers` in this order; what each said.
    fn fail(order: &mut SendOrder, numbers: &[u64]) -> Vec<(u32, bool)> {
        let say = |failures: Failures| (failures.together, failures.follows);
        numbers
            .iter()
            .map(|&number| say(order.fail(number)))
            .collect()
    }

    #[test]
    fn failures_in_the_order_of_sending_add_up() {
        let expect = [
            (1, true),
            (2, true),
            (3, true),
            (4, true),
            (5, true),
            (6, true),
        ];
        assert_eq!(fail(&mut sent(9), &[0, 1, 2, 3, 4, 5]), expect);
    }

    #[test]
    fn a_request_under_way_stands_between() {
        let mut order = sent(100);
        let scattered = [3, 20, 41, 60, 99];
        assert_eq!(fail(&mut order, &scattered), [(1, false); 5]);
        assert_eq!(fail(&mut order, &[21, 19]), [(2, true), (3, false)]);
        order.end(59);
        // What has ended well is no failure, but nothing is awaited of it any more.
        assert_eq!(fail(&mut order, &[58, 61]), [(1, false), (2, true)]);
    }

    #[test]
    fn failures_that_come_back_in_disorder_join() {
        let mut order = sent(5);
        let expect = [(1, false), (1, true), (3, true), (1, false), (5, true)];
        assert_eq!(fail(&mut order, &[2, 0, 1, 4, 3]), expect);
    }

    #[test]
    fn a_streak_that_ended_leaves_nothing() {
        let mut order = sent(9);
        fail(&mut order, &[0, 1, 2, 3]);
        order.forget_failures();
        assert_eq!(fail(&mut order, &[4, 5]), [(1, true), (2, true)]);
    }

    #[test]
    fn complaints_end_a_streak_of_failures_and_count_on_among_themselves() {
        let mut order = sent(9);
        assert_eq!(fail(&mut order, &[0, 1]), [(1, true), (2, true)]);
        let say = |failures: Failures| (failures.together, failures.follows);
        assert_eq!(say(order.complain(2)), (3, true));
        assert_eq!(fail(&mut order, &[3]), [(1, true)]);
        assert_eq!(say(order.complain(5)), (1, false));
        assert_eq!(say(order.complain(4)), (6, true));
        order.forget_failures();
        assert_eq!(say(order.complain(6)), (1, true));
    }

    #[test]
    fn what_is_too_old_counts_by_itself() {
        let mut order = sent(REMEMBERED as u64 + 2);
        assert_eq!(fail(&mut order, &[0, 1]), [(1, true); 2]);
        order.end(0);
        // The oldest that is remembered: nothing is known of the one before it.
        assert_eq!(fail(&mut order, &[2, 3]), [(1, true), (2, true)]);
        assert!(!order.fail(REMEMBERED as u64 + 1).follows);
    }
}
