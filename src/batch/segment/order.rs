//! Which finished lines are next in the order of the input, and which wait for older ones. Pure.
//!
//! Lines are begun in the order of the input and finished in any. A finished line is a [`Spot`] in the
//! write-ahead file until it is taken to its segment. Order is a matter of cost only (a segment that is
//! in order needs no merge), so it is given up wherever keeping it would cost memory.

use std::collections::VecDeque;

/// Lines remembered at most, at 16 bytes each: all that are in flight in one shard, and then some.
/// More than these only when very many wait for a retry.
const LINES_MAX: usize = if cfg!(test) { 24 } else { 1 << 15 };

/// Where a frame lies in the write-ahead file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// 0 or 1.
    pub(super) half: usize,
    /// Where it begins in that half.
    pub(super) offset: usize,
    /// Its bytes, record included.
    pub(super) length: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct InOrder {
    /// `false`: in the order in which they are finished.
    by_input: bool,
    /// From the oldest one that is not finished, in ascending order.
    lines: VecDeque<Line>,
    /// What nothing is waited for any more.
    ready: Vec<Spot>,
    ready_bytes: usize,
}

/// A line with its spot once it is finished, packed: there is one for every request in flight.
#[derive(Debug)]
struct Line {
    number: u64,
    offset: u32,
    /// Length of the frame and, in the lowest bit, its half; 0 before there is one.
    length_and_half: u32,
}

impl Line {
    fn begun(number: u64) -> Self {
        Self {
            number,
            offset: 0,
            length_and_half: 0,
        }
    }

    fn spot(&self) -> Option<Spot> {
        let length = (self.length_and_half >> 1) as usize;
        (length > 0).then_some(Spot {
            half: (self.length_and_half & 1) as usize,
            offset: self.offset as usize,
            length,
        })
    }

    /// Whether `spot` can be kept: no frame of 2 GiB can.
    fn put(&mut self, spot: Spot) -> bool {
        let length = u32::try_from(spot.length)
            .ok()
            .filter(|length| length >> 31 == 0);
        let (Some(length), Ok(offset)) = (length, u32::try_from(spot.offset)) else {
            return false;
        };
        self.offset = offset;
        self.length_and_half = length << 1 | spot.half as u32;
        true
    }
}

impl InOrder {
    pub(super) fn new(by_input: bool) -> Self {
        Self {
            by_input,
            lines: VecDeque::new(),
            ready: Vec::new(),
            ready_bytes: 0,
        }
    }

    /// A line is sent for the first time, or refused.
    pub(super) fn begin(&mut self, number: u64) {
        if !self.by_input {
            return;
        }
        // The shard goes on in another part of the input: what is finished there may come first.
        if self.lines.back().is_some_and(|last| last.number >= number) {
            self.give_up(self.lines.len());
        }
        if self.lines.len() >= LINES_MAX {
            self.give_up(LINES_MAX / 2);
        }
        self.lines.push_back(Line::begun(number));
    }

    /// A line has its record.
    pub(super) fn finish(&mut self, number: u64, spot: Spot) {
        match self.lines.binary_search_by_key(&number, |line| line.number) {
            Ok(0) => {
                self.lines.pop_front();
                self.free(spot);
                self.advance();
            }
            Ok(at) => {
                if !self.lines[at].put(spot) {
                    self.lines.remove(at);
                    self.free(spot);
                }
            }
            // Nothing waits for it any more.
            Err(_) => self.free(spot),
        }
    }

    /// What belongs to no place in the order.
    pub(super) fn free(&mut self, spot: Spot) {
        self.ready_bytes += spot.length;
        self.ready.push(spot);
    }

    /// Bytes that may go to their segments.
    pub(super) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// What may go to its segment, in this order.
    pub(super) fn take_ready(&mut self) -> Vec<Spot> {
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    /// Everything in a half may go, in order or not.
    pub(super) fn give_up_half(&mut self, half: usize) {
        let is_there = |line: &Line| line.spot().is_some_and(|spot| spot.half == half);
        if let Some(last) = self.lines.iter().rposition(is_there) {
            self.give_up(last + 1);
        }
    }

    /// Everything may go, in order or not.
    pub(super) fn give_up_all(&mut self) {
        self.give_up(self.lines.len());
    }

    /// The oldest lines are not waited for any longer.
    fn give_up(&mut self, count: usize) {
        for line in self.lines.drain(..count) {
            if let Some(spot) = line.spot() {
                self.ready_bytes += spot.length;
                self.ready.push(spot);
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(spot) = self.lines.front().and_then(Line::spot) {
            self.lines.pop_front();
            self.free(spot);
        }
    }

    /// Frames from `offset` of a half on now lie in the other one, from `to` on.
    pub(super) fn relocate(&mut self, half: usize, offset: usize, to: usize) {
        let moved = |spot: Spot| {
            let is_there = spot.half == half && spot.offset >= offset;
            is_there.then(|| Spot {
                half: 1 - half,
                offset: spot.offset - offset + to,
                ..spot
            })
        };
        for line in &mut self.lines {
            if let Some(spot) = line.spot().and_then(moved) {
                // Nearer to the beginning than it was.
                line.put(spot);
            }
        }
        for spot in &mut self.ready {
            *spot = moved(*spot).unwrap_or(*spot);
        }
    }

    /// Whether no frame in this half is needed any more.
    pub(super) fn has_left(&self, half: usize) -> bool {
        let waiting = self.lines.iter().filter_map(Line::spot);
        let mut all = waiting.chain(self.ready.iter().copied());
        all.all(|spot| spot.half != half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(number: u64) -> Spot {
        Spot {
            half: usize::from(number >= 100),
            offset: number as usize,
            length: 10,
        }
    }

    fn taken(order: &mut InOrder) -> Vec<usize> {
        let bytes = order.ready_bytes();
        let ready = order.take_ready();
        assert_eq!((bytes, order.ready_bytes()), (10 * ready.len(), 0));
        ready.iter().map(|spot| spot.offset).collect()
    }

    fn begun(lines: impl IntoIterator<Item = u64>) -> InOrder {
        let mut order = InOrder::new(true);
        lines.into_iter().for_each(|line| order.begin(line));
        order
    }

    #[test]
    fn lines_go_in_the_order_in_which_they_were_begun() {
        let mut order = begun([1, 2, 3, 5, 6]);
        order.finish(3, spot(3));
        order.finish(2, spot(2));
        assert_eq!(taken(&mut order), [0; 0]);
        order.finish(1, spot(1));
        assert_eq!(taken(&mut order), [1, 2, 3]);
        order.finish(6, spot(6));
        order.begin(7);
        assert_eq!(taken(&mut order), [0; 0]);
        order.finish(5, spot(5));
        order.finish(7, spot(7));
        assert_eq!(taken(&mut order), [5, 6, 7]);
        order.finish(8, spot(8));
        assert_eq!(taken(&mut order), [8], "nothing is older");
    }

    #[test]
    fn a_half_that_is_given_up_takes_along_what_is_older() {
        let mut order = begun([1, 2, 3, 104, 5, 106]);
        for line in [2, 3, 104, 106] {
            order.finish(line, spot(line));
        }
        assert!(!order.has_left(0));
        order.give_up_half(0);
        assert_eq!(taken(&mut order), [2, 3, 104]);
        assert!(order.has_left(0) && !order.has_left(1));
        order.finish(1, spot(1));
        assert_eq!(taken(&mut order), [1], "nobody waits for it");
        order.give_up_all();
        assert_eq!(taken(&mut order), [106]);
        order.finish(5, spot(5));
        assert_eq!(taken(&mut order), [5]);
    }

    #[test]
    fn another_part_of_the_input_begins_anew() {
        let mut order = begun([50, 51]);
        order.finish(51, spot(51));
        order.begin(10);
        assert_eq!(taken(&mut order), [51]);
        order.finish(50, spot(50));
        assert_eq!(taken(&mut order), [50]);
        order.begin(11);
        order.finish(11, spot(11));
        assert_eq!(taken(&mut order), [0; 0], "line 10 is older");
        order.finish(10, spot(10));
        assert_eq!(taken(&mut order), [10, 11]);
    }

    #[test]
    fn memory_is_bounded_whatever_is_parked() {
        let mut order = begun(1..=LINES_MAX as u64);
        order.finish(3, spot(3));
        order.begin(LINES_MAX as u64 + 1);
        assert_eq!(taken(&mut order), [3]);
        assert!(order.lines.len() <= LINES_MAX / 2 + 1);
    }

    #[test]
    fn a_frame_that_is_too_long_to_be_remembered_does_not_wait() {
        let mut order = begun([1, 2, 3]);
        let huge = Spot {
            length: 1 << 31,
            ..spot(2)
        };
        order.finish(2, huge);
        assert_eq!(order.take_ready(), [huge]);
        let long = Spot {
            half: 1,
            length: (1 << 31) - 1,
            ..spot(3)
        };
        order.finish(3, long);
        assert_eq!(order.take_ready(), []);
        order.finish(1, spot(1));
        assert_eq!(order.take_ready(), [spot(1), long]);
        assert_eq!(size_of::<Line>(), 16);
    }

    #[test]
    fn by_completion_nothing_waits() {
        let mut order = InOrder::new(false);
        [1, 2, 3].into_iter().for_each(|line| order.begin(line));
        for line in [3, 1, 2] {
            order.finish(line, spot(line));
        }
        assert_eq!(taken(&mut order), [3, 1, 2]);
    }

    #[test]
    fn frames_that_move_are_found_where_they_are() {
        let mut order = begun([1, 2, 3]);
        order.finish(2, spot(20));
        order.finish(3, spot(30));
        order.relocate(0, 25, 4);
        order.give_up_all();
        let moved = Spot {
            half: 1,
            offset: 9,
            length: 10,
        };
        assert_eq!(order.take_ready(), [spot(20), moved]);
    }
}
