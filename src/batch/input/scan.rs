//! One parallel pass over the input: lines counted, content fingerprinted, ranges cut.
//!
//! The file is taken in blocks of a fixed size, so that the result does not depend on the number
//! of threads. Each block handles the lines that start in it; what needs the blocks before it
//! (absolute line numbers) is added up afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::cursor::{is_blank, line_at, skip_byte_order_mark};
use crate::runtime::files::Mapping;

/// Part of the fingerprint's definition (`docs/RUN_FOLDER.md`). 4 MiB fit a core's share of the
/// cache, so that hashing and counting read the memory once.
const BLOCK_BYTES: usize = 4 << 20;
/// Ranges of a huge file grow rather than multiply: their list stays under 32 MiB.
const RANGES_MAX: usize = 1 << 20;

/// What one pass over the input found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Lines that are not blank: the lines of the run.
    pub lines: u64,
    /// All lines, blank ones included.
    pub physical_lines: u64,
    /// XXH3-128 over the content's blocks and its length; equal for equal content.
    pub fingerprint: [u8; 16],
    /// The whole input in pieces cut at newlines, in order; empty for an empty input.
    pub ranges: Vec<LineRange>,
}

/// A run of whole lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRange {
    /// Byte offset of its first line.
    pub start: u64,
    /// Byte offset just after its last line.
    pub end: u64,
    /// Physical number of its first line, from 1.
    pub first_line: u64,
}

/// What one block contributes.
struct Block {
    newlines: u64,
    lines: u64,
    hash: u128,
    /// Line starts at which a range may begin, each with the newlines before it in the block.
    starts: Vec<(usize, u64)>,
}

pub(super) fn scan(map: &Mapping, threads: usize, range_bytes: usize) -> Scan {
    let range_bytes = range_bytes.max(map.len() / RANGES_MAX).max(1);
    let blocks = scan_blocks(map, threads, range_bytes);
    let mut fingerprint = Xxh3::new();
    for block in &blocks {
        fingerprint.update(&block.hash.to_le_bytes());
    }
    fingerprint.update(&(map.len() as u64).to_le_bytes());
    let newlines: u64 = blocks.iter().map(|block| block.newlines).sum();
    let unfinished_line = map.last().is_some_and(|&last| last != b'\n');
    Scan {
        lines: blocks.iter().map(|block| block.lines).sum(),
        physical_lines: newlines + u64::from(unfinished_line),
        fingerprint: fingerprint.digest128().to_le_bytes(),
        ranges: cut(&blocks, map.len(), range_bytes),
    }
}

/// All blocks in order, shared out among the threads one by one.
fn scan_blocks(map: &Mapping, threads: usize, range_bytes: usize) -> Vec<Block> {
    let count = map.len().div_ceil(BLOCK_BYTES);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            let start = index * BLOCK_BYTES;
            let end = map.len().min(start + BLOCK_BYTES);
            done.push((index, scan_block(map, start, end, range_bytes)));
            map.release(start..end);
        }
    };
    let mut blocks = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(work)).collect();
        let mut blocks = work();
        for other in others {
            // A panic there is a bug here; it goes on, rather than being taken for a result.
            blocks.extend(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        blocks
    });
    blocks.sort_unstable_by_key(|(index, _)| *index);
    blocks.into_iter().map(|(_, block)| block).collect()
}

fn scan_block(bytes: &[u8], start: usize, end: usize, range_bytes: usize) -> Block {
    let mut block = Block {
        newlines: 0,
        lines: 0,
        hash: xxh3_128(&bytes[start..end]),
        starts: Vec::new(),
    };
    let mut at = start;
    if start > 0 && bytes[start - 1] != b'\n' {
        // The line that runs into this block belongs to the block it starts in.
        match memchr::memchr(b'\n', &bytes[start..end]) {
            Some(length) => at = start + length + 1,
            None => return block,
        }
        block.newlines += 1;
    }
    let mut cut_from = at;
    while at < end {
        if at >= cut_from {
            block.starts.push((at, block.newlines));
            cut_from = next_cut(at, range_bytes);
        }
        let (text, after) = line_at(bytes, skip_byte_order_mark(bytes, at));
        block.lines += u64::from(!is_blank(text));
        block.newlines += u64::from(after <= end && bytes[after - 1] == b'\n');
        at = after;
    }
    block
}

/// Ranges begin at the first line start at or after each multiple of `range_bytes`.
fn cut(blocks: &[Block], length: usize, range_bytes: usize) -> Vec<LineRange> {
    let mut ranges: Vec<LineRange> = Vec::new();
    let (mut newlines_before, mut cut_from) = (0, 0);
    for block in blocks {
        for &(start, newlines) in &block.starts {
            if start < cut_from {
                continue;
            }
            cut_from = next_cut(start, range_bytes);
            let start = start as u64;
            if let Some(last) = ranges.last_mut() {
                last.end = start;
            }
            ranges.push(LineRange {
                start,
                end: length as u64,
                first_line: newlines_before + newlines + 1,
            });
        }
        newlines_before += block.newlines;
    }
    ranges
}

fn next_cut(start: usize, range_bytes: usize) -> usize {
    (start / range_bytes + 1).saturating_mul(range_bytes)
}
