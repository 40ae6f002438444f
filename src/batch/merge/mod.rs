//! The end of a run: every record from its segment into the final files, in order, then the files
//! under their final names.
//!
//! Segments and journals stay as they are until the final files are complete, so a merge that is
//! killed is simply done again; once the manifest says "publishing", the next process only takes
//! the remaining steps. Memory stays constant: segments, journals and the index are mapped files,
//! let go as the merge passes.

mod index;
mod pieces;
mod sink;
mod source;
mod targets;

pub use super::folder::Merged;
pub use targets::{TargetError, check_targets};

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::folder::{Phase, Publication, RunFolder, Step};
use super::storage_error::StorageError;
use crate::config::{Durability, Order};
use crate::journal::Outcome;
use index::{Index, Place};
use sink::Sink;
use source::Source;

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
    /// Whether the final files survive power loss once this returns.
    pub durability: Durability,
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
/// lines merged so far and in all. Each record is verified on its way, unless this process alone wrote it
/// to a segment that is renamed; if one is damaged or space runs out, the final files do not appear and
/// the folder stays as it was.
pub fn merge(
    folder: &RunFolder,
    plan: MergePlan,
    lines: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Merged, StorageError> {
    let sync = plan.durability == Durability::Power;
    let publication = prepare(folder, plan, progress)?;
    let Merged { succeeded, failed } = publication.merged;
    if succeeded + failed != lines {
        return Err(StorageError::Books {
            path: folder.path().to_path_buf(),
            lines,
            succeeded,
            failed,
        });
    }
    folder.set_phase(Phase::Publishing, &publication)?;
    publication.perform(sync)?;
    folder.set_phase(Phase::Published, &publication)?;
    folder.remove()?;
    Ok(publication.merged)
}

/// Writes the final files under temporary names, and streams what goes to a stream.
fn prepare(
    folder: &RunFolder,
    plan: MergePlan,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Publication, StorageError> {
    let MergePlan {
        order,
        output,
        errors,
        overwrite,
        durability,
    } = plan;
    let mut sources = Vec::new();
    for files in folder.shards()? {
        sources.extend(Source::open(folder.path().to_path_buf(), files)?);
    }
    let index = Index::build(folder.path(), &sources)?;
    let totals = index.totals();
    if !overwrite {
        output
            .iter()
            .try_for_each(|target| refuse_existing(target, |_| true))?;
        let replaced = |length| totals.merged.failed > 0 && length > 0;
        refuse_existing(&errors, replaced)?;
    }
    let old_errors = match &errors {
        Target::File(path) if totals.merged.failed == 0 && overwrite && path.is_file() => {
            Some(path.clone())
        }
        _ => None,
    };
    let sink = |target, outcome| match target {
        Some(target) => {
            let whole = whole_segment(&sources, &index, outcome, order);
            Sink::new(folder.path(), target, outcome, totals.bytes(outcome), whole)
        }
        None => Ok(Sink::Nowhere),
    };
    let errors = (totals.merged.failed > 0).then_some(errors);
    let mut merge = Merge {
        output: sink(output, Outcome::Success)?,
        errors: sink(errors, Outcome::Failure)?,
        sources: &sources,
        index: &index,
        merged: Merged::default(),
        unreleased: 0,
        progress,
    };
    if let [source] = &sources[..]
        && source.generation() == folder.generation()
        && merge.output.is_complete()
        && merge.errors.is_complete()
    {
        // This process has just written these segments, to the length that the journal says: there is
        // no reason to read them again.
        merge.merged = totals.merged;
    } else {
        match order {
            Order::Input => merge.in_input_order()?,
            Order::Completion => merge.in_completion_order()?,
        }
    }
    merge.tell();
    let Merge {
        output,
        errors,
        merged,
        ..
    } = merge;
    assert_eq!(
        merged, totals.merged,
        "every line's final entry is merged exactly once"
    );
    let sync = durability == Durability::Power;
    let mut steps = Vec::new();
    // The errors first: whoever waits for the output finds both.
    steps.extend(errors.finish(sync)?);
    if let Some(path) = old_errors {
        let path = std::path::absolute(&path).map_err(StorageError::io(&path, "find"))?;
        steps.push(Step::Remove { path });
    }
    steps.extend(output.finish(sync)?);
    Ok(Publication { steps, merged })
}

/// The segment that already is the final file, renamed instead of copied.
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
    /// The index is sorted by line.
    fn in_input_order(&mut self) -> Result<(), StorageError> {
        if let (Some(output), Some(errors)) = (self.output.places(), self.errors.places()) {
            let pieces = pieces::Pieces {
                sources: self.sources,
                index: self.index,
                output,
                errors,
            };
            pieces.merge(self.progress)?;
            self.merged = self.index.totals().merged;
            return Ok(());
        }
        for line_number in 0..self.index.line_number_end() {
            if let Some(place) = self.index.get(line_number) {
                self.take(place)?;
            }
        }
        Ok(())
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
