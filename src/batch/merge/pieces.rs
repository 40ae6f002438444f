//! The merge in the order of the input, by several threads. The index knows how many bytes come before
//! each piece of the input, so every thread writes the pieces it takes to their places in the final
//! files by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crc32fast::Hasher;

use super::index::{Index, PIECE_LINES, Totals};
use super::sink::{FinalFile, Gathered};
use super::source::Source;
use super::{LINE_BYTES, RELEASE_EVERY_BYTES, THREADS_MAX};
use crate::batch::storage_error::StorageError;
use crate::journal::Outcome;
use crate::runtime;

/// What is merged, and where to.
pub(super) struct Pieces<'a> {
    pub(super) sources: &'a [Source],
    pub(super) index: &'a Index,
    /// `None`: successes are only counted, or in place already.
    pub(super) output: Option<&'a FinalFile>,
    /// `None`: nothing failed.
    pub(super) errors: Option<&'a FinalFile>,
}

/// Checksums of a piece's bytes: of the output, and of the error file.
type Sums = [Hasher; 2];

/// What the threads share: one access a piece.
#[derive(Default)]
struct Shared {
    /// The next piece to take.
    next: AtomicUsize,
    /// A thread has failed: the others need not go on.
    failed: AtomicBool,
    lines: AtomicU64,
}

/// A thread's hands.
struct Lane {
    totals: Totals,
    output: Gathered,
    errors: Gathered,
    unreleased: u64,
    sums: Vec<(usize, Sums)>,
}

impl Pieces<'_> {
    /// Merges all of them, and tells the checksums of both files. `progress` is told the lines merged so
    /// far and in all, but not the end.
    pub(super) fn merge(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Sums, StorageError> {
        let threads = runtime::parallel_threads()
            .min(THREADS_MAX)
            .min(self.index.pieces());
        let shared = Shared::default();
        let work = |tell: &mut dyn FnMut(u64)| {
            let result = self.work(&shared, tell);
            if result.is_err() {
                shared.failed.store(true, Ordering::Relaxed);
            }
            result
        };
        let merged = self.index.totals().merged;
        let total = merged.succeeded + merged.failed;
        let sums = thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|_| scope.spawn(|| work(&mut |_| {})))
                .collect();
            let mut result = work(&mut |lines| {
                if lines < total {
                    progress(lines, total);
                }
            });
            for other in others {
                // A panic there is a bug here; it goes on, rather than being taken for a result.
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and_then(|sums| Ok([sums, theirs?].concat()));
            }
            result
        });
        let mut sums = sums?;
        sums.sort_unstable_by_key(|(piece, _)| *piece);
        let mut whole = Sums::default();
        for (_, sums) in &sums {
            for (whole, sum) in whole.iter_mut().zip(sums) {
                whole.combine(sum);
            }
        }
        Ok(whole)
    }

    fn work(
        &self,
        shared: &Shared,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Vec<(usize, Sums)>, StorageError> {
        let mut lane = Lane {
            totals: Totals::default(),
            output: Gathered::at(0),
            errors: Gathered::at(0),
            unreleased: 0,
            sums: Vec::new(),
        };
        while !shared.failed.load(Ordering::Relaxed) {
            let piece = shared.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.index.pieces() {
                break;
            }
            self.take(piece, &mut lane)?;
            let sums = [&mut lane.output, &mut lane.errors].map(Gathered::take_sum);
            lane.sums.push((piece, sums));
            let before = self.index.before(piece).merged;
            let after = lane.totals.merged;
            let lines = after.succeeded + after.failed - before.succeeded - before.failed;
            tell(shared.lines.fetch_add(lines, Ordering::Relaxed) + lines);
        }
        Ok(lane.sums)
    }

    /// All records of one piece.
    fn take(&self, piece: usize, lane: &mut Lane) -> Result<(), StorageError> {
        lane.totals = self.index.before(piece);
        lane.output.seek(lane.totals.output_bytes);
        lane.errors.seek(lane.totals.errors_bytes);
        let first = piece as u64 * PIECE_LINES;
        for line_number in first..first + PIECE_LINES {
            let Some(place) = self.index.get(line_number) else {
                continue;
            };
            let source = &self.sources[place.source];
            let entry = source.entry(place.entry)?;
            // Only ends of lines are in the index.
            let Some(outcome) = entry.outcome else {
                continue;
            };
            let (file, gathered) = match outcome {
                Outcome::Success => (self.output, &mut lane.output),
                Outcome::Failure => (self.errors, &mut lane.errors),
            };
            if let Some(file) = file {
                gathered.push(file, source.record(&entry, outcome)?)?;
            }
            lane.totals.add(outcome, entry.length);
            lane.unreleased += entry.length + LINE_BYTES;
            if lane.unreleased >= RELEASE_EVERY_BYTES {
                lane.unreleased = 0;
                // Pages that another thread is at are mapped again when it touches them.
                self.index.release();
                self.sources.iter().for_each(Source::release);
            }
        }
        for (file, gathered) in [
            (self.output, &mut lane.output),
            (self.errors, &mut lane.errors),
        ] {
            if let Some(file) = file {
                gathered.write(file)?;
            }
        }
        assert_eq!(
            lane.totals,
            self.index.before(piece + 1),
            "a piece holds what the index counted"
        );
        Ok(())
    }
}
