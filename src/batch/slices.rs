//! Who works on which part of the input: a contiguous slice per shard, handed out range by range;
//! a shard that has finished its slice takes over the tail of the largest one left. Pure.

use std::collections::VecDeque;

use crate::batch::input::LineRange;

/// The ranges not yet handed out, by the shard they belong to.
#[derive(Debug)]
pub struct Slices {
    by_shard: Vec<VecDeque<LineRange>>,
    /// The first slice is everybody's.
    is_ordered: bool,
}

impl Slices {
    /// Cuts `ranges` (in input order) into one contiguous slice per shard, about equal in bytes.
    pub fn new(ranges: Vec<LineRange>, shards: usize) -> Self {
        assert!(shards > 0, "a run has at least one shard");
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut by_shard = vec![VecDeque::new(); shards];
        let mut before = 0;
        for range in ranges {
            // The shard whose share of the bytes the range's first byte falls into.
            let shard = (before as u128 * shards as u128 / total.max(1) as u128) as usize;
            before += range.end - range.start;
            by_shard[shard.min(shards - 1)].push_back(range);
        }
        Self {
            by_shard,
            is_ordered: false,
        }
    }

    /// One slice for all shards: ranges go out in the order of the input, for records that are wanted in
    /// this order at once.
    pub fn in_order(ranges: Vec<LineRange>, shards: usize) -> Self {
        let mut slices = Self::new(ranges, 1);
        slices.by_shard.resize(shards, VecDeque::new());
        slices.is_ordered = true;
        slices
    }

    /// The next range for `shard`: of its own slice, else the front of the tail half of the largest
    /// slice left, which becomes its own. `None`: all input has been handed out.
    pub fn next(&mut self, shard: usize) -> Option<LineRange> {
        if self.is_ordered {
            return self.by_shard[0].pop_front();
        }
        if self.by_shard[shard].is_empty() {
            let donor = (0..self.by_shard.len()).max_by_key(|&other| self.by_shard[other].len())?;
            let keep = self.by_shard[donor].len() / 2;
            self.by_shard[shard] = self.by_shard[donor].split_off(keep);
        }
        self.by_shard[shard].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(count: u64) -> Vec<LineRange> {
        (0..count)
            .map(|index| LineRange {
                start: index * 10,
                end: index * 10 + 10,
                first_line: index + 1,
            })
            .collect()
    }

    #[test]
    fn every_range_is_handed_out_once_whoever_asks() {
        for shards in [1, 2, 3, 8] {
            for count in [0, 1, 2, 7, 100] {
                let mut slices = Slices::new(ranges(count), shards);
                let mut seen = Vec::new();
                // A lopsided caller: shard 0 asks three times as often.
                let mut turn = 0;
                loop {
                    let shard = if turn % 4 == 0 { turn / 4 % shards } else { 0 };
                    turn += 1;
                    match slices.next(shard) {
                        Some(range) => seen.push(range.start),
                        None => break,
                    }
                }
                seen.sort_unstable();
                let expect: Vec<u64> = (0..count).map(|index| index * 10).collect();
                assert_eq!(seen, expect, "{shards} shards, {count} ranges");
            }
        }
    }

    #[test]
    fn in_order_whoever_asks_gets_what_comes_next() {
        let mut slices = Slices::in_order(ranges(4), 3);
        for (shard, start) in [
            (2, Some(0)),
            (0, Some(10)),
            (0, Some(20)),
            (1, Some(30)),
            (2, None),
        ] {
            assert_eq!(slices.next(shard).map(|range| range.start), start);
        }
    }

    #[test]
    fn slices_are_contiguous_and_the_tail_is_taken_over() {
        let mut slices = Slices::new(ranges(8), 2);
        assert_eq!(slices.next(0).map(|range| range.start), Some(0));
        assert_eq!(slices.next(1).map(|range| range.start), Some(40));
        for _ in 0..3 {
            slices.next(0);
        }
        // Shard 0 is done with 0..40; of 50, 60, 70 it takes the tail half, 60 and 70.
        assert_eq!(slices.next(0).map(|range| range.start), Some(60));
        assert_eq!(slices.next(1).map(|range| range.start), Some(50));
        assert_eq!(slices.next(1).map(|range| range.start), Some(70));
        assert_eq!(slices.next(1), None);
    }
}
