//! The end of a run: every record from its segment into the final files, in order; the files onto the disk,
//! compared with what was written; then under their final names.
//!
//! Segments and journals stay as they are until the folder goes, so a merge that is killed is simply done
//! again; once the manifest says "publishing", the next process looks for the files that it speaks of, and
//! merges again if they are not what the manifest says. Memory stays constant: segments, journals and the
//! index are mapped files, let go as the merge passes.

mod begun;
mod index;
mod pieces;
mod publish;
mod sink;
mod source;
mod sum;
mod targets;

pub use super::folder::Merged;
pub use begun::{Begun, InTheMaking};
pub use publish::complete;
pub use targets::{TargetError, check_targets};

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::folder::{Publication, RunFolder};
use super::storage_error::StorageError;
use crate::config::Order;
use crate::journal::Outcome;
use index::{Index, Place};
use publish::{Made, old_errors, put_in_place};
use sink::Sink;
use source::Source;

/// How often a final file is made in all, if the disk turns out not to hold it: what the kernel could not
/// write it may write elsewhere, but not for ever.
const MADE_TIMES_MAX: usize = 3;
/// One thread checks and gathers about as fast as the kernel takes writes to one file, which it
/// takes one by one: more than these would wait.
const THREADS_MAX: usize = 4;
/// How often progress is told: every so many lines.
const PROGRESS_EVERY_LINES: u64 = 1 << 14;
/// Mapped pages are let go after this many bytes of records: to fault a few hot pages in again
/// costs less than to know which they are.
const RELEASE_EVERY_BYTES: u64 = 32 << 20;
/// What a line costs of mapped memory besides its record: journal entry and index slot.
const LINE_BYTES: u64 = 80;

/// What to make of a run's segments.
#[derive(Debug)]
pub struct MergePlan {
    /// Order of the records.
    pub order: Order,
    /// Where successes go; `None` if they were only counted.
    pub output: Option<Target>,
    /// Where failures go. A file is created only if there are any.
    pub errors: Target,
    /// Existing final files are replaced; if nothing failed, an old error file is removed.
    /// Usually [`Manifest::overwrite`](super::folder::Manifest::overwrite).
    pub overwrite: bool,
    /// The output, if it was made while the run went on.
    pub begun: Option<Begun>,
}

/// A place for final records.
pub enum Target {
    /// Appears under this name when complete.
    File(PathBuf),
    /// Standard output, or anything else that can only be written to.
    Stdout(Box<dyn Write>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stdout(_) => f.write_str("Stdout"),
        }
    }
}

/// Merges the run into its final files, puts them in place and deletes the run folder.
///
/// Call it when every line has its record and every shard's log is finished; unless exactly `lines`
/// lines have one, nothing is published. `progress` is told the
/// lines merged so far and in all. Each record is verified on its way. When this returns, the final files
/// are on the disk; if a record is damaged, space runs out or the disk does not hold what was written, they do
/// not appear and the folder stays as it was.
pub fn merge(
    folder: &RunFolder,
    plan: MergePlan,
    lines: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Merged, StorageError> {
    let overwrite = plan.overwrite;
    let errors = match &plan.errors {
        Target::File(path) => Some(path.clone()),
        Target::Stdout(_) => None,
    };
    let (publication, made) = prepare(folder, plan, progress)?;
    let Merged { succeeded, failed } = publication.merged;
    if succeeded + failed != lines {
        return Err(StorageError::Books {
            path: folder.path().to_path_buf(),
            lines,
            succeeded,
            failed,
        });
    }
    folder.publish(&publication)?;
    let errors = errors.as_deref();
    let old_errors = errors.and_then(|errors| old_errors(&publication, errors, overwrite));
    put_in_place(&made, old_errors)?;
    folder.remove()?;
    Ok(publication.merged)
}

/// Makes the final files under temporary names, each anew if the disk does not hold it, and streams what goes
/// to a stream. Of the files, the output comes first.
fn prepare(
    folder: &RunFolder,
    plan: MergePlan,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Publication, [Option<Made>; 2]), StorageError> {
    let MergePlan {
        order,
        output,
        errors,
        overwrite,
        begun,
    } = plan;
    let mut sources = Vec::new();
    for files in folder.shards()? {
        sources.extend(Source::open(folder.path().to_path_buf(), files)?);
    }
    let index = Index::build(folder.path(), &sources)?;
    let totals = index.totals();
    // Failures that were sent again by this process have two records, of which it may have the earlier one.
    let mut begun = begun.filter(|begun| {
        (begun.successes, begun.bytes) == (totals.merged.succeeded, totals.output_bytes)
    });
    // What an earlier process of this run has published is its own to replace.
    if !overwrite && folder.publication().is_none() {
        output
            .iter()
            .try_for_each(|target| refuse_existing(target, |_| true))?;
        let replaced = |length| totals.merged.failed > 0 && length > 0;
        refuse_existing(&errors, replaced)?;
    }
    let mut targets = [output, (totals.merged.failed > 0).then_some(errors)];
    let mut made = [None, None];
    for time in 1..=MADE_TIMES_MAX {
        let mut sink = |target: Option<&mut Option<Target>>, outcome| {
            let Some(target) = target.and_then(|target| again(target, time)) else {
                return Ok(Sink::Nowhere);
            };
            // What the disk has lost of a segment it has lost of the final file, too.
            let whole = (time == 1).then(|| whole_segment(&sources, &index, outcome, order));
            let begun = begun.take_if(|_| outcome == Outcome::Success);
            let bytes = totals.bytes(outcome);
            Sink::new(
                folder.path(),
                target,
                outcome,
                bytes,
                whole.flatten(),
                begun,
            )
        };
        let [output, errors] = &mut targets;
        let mut merge = Merge {
            output: sink(made[0].is_none().then_some(output), Outcome::Success)?,
            errors: sink(made[1].is_none().then_some(errors), Outcome::Failure)?,
            sources: &sources,
            index: &index,
            merged: Merged::default(),
            unreleased: 0,
            progress,
        };
        let sums = match order {
            Order::Input => merge.in_input_order()?,
            Order::Completion => merge.in_completion_order().map(|()| None)?,
        };
        merge.tell();
        assert_eq!(
            merge.merged, totals.merged,
            "every line's final entry is merged exactly once"
        );
        let sums = sums.map_or([None, None], |sums| sums.map(Some));
        let mut lost = None;
        for ((sink, sum), made) in [merge.output, merge.errors]
            .into_iter()
            .zip(sums)
            .zip(&mut made)
        {
            match sink.finish(sum) {
                Ok(None) => {}
                Ok(Some(file)) => *made = Some(file),
                Err(error @ StorageError::NotOnDisk { .. }) => lost = Some(error),
                Err(error) => return Err(error),
            }
        }
        match lost {
            None => break,
            Some(error) if time == MADE_TIMES_MAX => return Err(error),
            Some(error) => tracing::warn!("{error}; merging once more"),
        }
    }
    let publication = Publication {
        merged: totals.merged,
        output: made[0].as_ref().map(|made| made.sum),
        errors: made[1].as_ref().map(|made| made.sum),
    };
    Ok((publication, made))
}

/// The target to write to for the `time`th time. What went down a stream is gone.
fn again(target: &mut Option<Target>, time: usize) -> Option<Target> {
    match target {
        Some(Target::File(path)) => Some(Target::File(path.clone())),
        Some(Target::Stdout(_)) if time == 1 => target.take(),
        _ => None,
    }
}

/// The segment that already is the final file, and need not be copied.
fn whole_segment(
    sources: &[Source],
    index: &Index,
    outcome: Outcome,
    order: Order,
) -> Option<PathBuf> {
    let bytes = |source: usize| sources[source].segment(outcome).len() as u64;
    let mut with_records = (0..sources.len()).filter(|source| bytes(*source) > 0);
    let sole = with_records.next()?;
    let is_whole =
        with_records.next().is_none() && index.is_whole(sole, outcome, order, bytes(sole));
    is_whole.then(|| sources[sole].segment_path(outcome))
}

/// A merge under way.
struct Merge<'a> {
    sources: &'a [Source],
    index: &'a Index,
    output: Sink,
    errors: Sink,
    merged: Merged,
    unreleased: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Merge<'_> {
    /// The index is sorted by line. The checksums, if they are not in the sinks.
    fn in_input_order(&mut self) -> Result<Option<[Hasher; 2]>, StorageError> {
        if let (Some(output), Some(errors)) = (self.output.places(), self.errors.places()) {
            let pieces = pieces::Pieces {
                sources: self.sources,
                index: self.index,
                output,
                errors,
            };
            let sums = pieces.merge(self.progress)?;
            self.merged = self.index.totals().merged;
            return Ok(Some(sums));
        }
        for line_number in 0..self.index.line_number_end() {
            if let Some(place) = self.index.get(line_number) {
                self.take(place)?;
            }
        }
        Ok(None)
    }

    /// Each journal is sorted by completion; always the earliest head goes next. Processes of a run
    /// never overlap, so the generation comes before the clock, which may have been set back.
    fn in_completion_order(&mut self) -> Result<(), StorageError> {
        let mut heads = BinaryHeap::new();
        let sources = self.sources;
        let head = |source: usize, entry: u64| -> Result<_, StorageError> {
            let completed_us = sources[source].entry(entry)?.completed_us;
            Ok(Reverse((
                sources[source].generation(),
                completed_us,
                source,
                entry,
            )))
        };
        for source in 0..sources.len() {
            heads.push(head(source, 0)?);
        }
        while let Some(Reverse((_, _, source, entry))) = heads.pop() {
            let place = Place { source, entry };
            let line_number = sources[source].entry(entry)?.line_number;
            // An error that was sent again has a later entry, which counts.
            if self.index.get(line_number) == Some(place) {
                self.take(place)?;
            }
            if entry + 1 < sources[source].entries() {
                heads.push(head(source, entry + 1)?);
            }
        }
        Ok(())
    }

    /// One record on its way.
    fn take(&mut self, place: Place) -> Result<(), StorageError> {
        let source = &self.sources[place.source];
        let entry = source.entry(place.entry)?;
        // Only ends of lines are in the index.
        let Some(outcome) = entry.outcome else {
            return Ok(());
        };
        let record = source.record(&entry, outcome)?;
        let (sink, count) = match outcome {
            Outcome::Success => (&mut self.output, &mut self.merged.succeeded),
            Outcome::Failure => (&mut self.errors, &mut self.merged.failed),
        };
        sink.push(record)?;
        *count += 1;
        self.unreleased += entry.length + LINE_BYTES;
        if self.unreleased >= RELEASE_EVERY_BYTES {
            self.unreleased = 0;
            self.index.release();
            self.sources.iter().for_each(Source::release);
        }
        if (self.merged.succeeded + self.merged.failed).is_multiple_of(PROGRESS_EVERY_LINES) {
            self.tell();
        }
        Ok(())
    }

    fn tell(&mut self) {
        let lines = |merged: Merged| merged.succeeded + merged.failed;
        (self.progress)(lines(self.merged), lines(self.index.totals().merged));
    }
}

/// A final file that came into being during the run is not ours to replace. `replaced` tells by the
/// file's length whether this merge would.
fn refuse_existing(target: &Target, replaced: impl Fn(u64) -> bool) -> Result<(), StorageError> {
    let Target::File(path) = target else {
        return Ok(());
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && replaced(metadata.len()) => {
            Err(StorageError::TargetExists {
                path: Path::to_path_buf(path),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
