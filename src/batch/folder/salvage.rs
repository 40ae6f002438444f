//! `--salvage`: records whose journal entry is lost, found again in the segments.
//!
//! A record counts if what is left of its entry has its checksum, or if nothing is left of the entry. In
//! both cases it must be JSON to its end and begin with the very bytes that a record of its line begins
//! with. Where what is left of an entry says otherwise, the line is sent again.

use std::collections::HashSet;
use std::path::Path;

use super::examine::{Findings, Key, Ranges};
use super::name::FileKind;
use super::resume::{DoneSet, map, record};
use crate::batch::finished::{Stray, recognise};
use crate::batch::input::Input;
use crate::batch::storage_error::StorageError;
use crate::config::Format;
use crate::journal::{self, Entry, Outcome, Slots, Tokens};
use crate::runtime::files::Mapping;

/// What tells lines and records of a damaged run apart.
#[derive(Clone, Copy, Debug)]
pub struct Salvage<'a> {
    /// The input, which is the run's.
    pub input: &'a Input,
    /// `--format`.
    pub format: Format,
}

/// A part of a segment that no kept entry points to.
struct Gap {
    outcome: Outcome,
    start: u64,
    end: u64,
    /// Something is left of an entry that may have pointed here.
    is_doubtful: bool,
}

/// One shard's files, mapped while its strays are looked at.
struct Shard {
    journal: Option<Mapping>,
    output: Option<Mapping>,
    errors: Option<Mapping>,
}

/// Keeps of a run whose manifest is lost what is of a line of this input: nothing else says that any of it
/// is. Successes that were only counted have nothing to show.
pub(super) fn prove(
    folder: &Path,
    findings: &mut [Findings],
    salvage: &Salvage<'_>,
) -> Result<(), StorageError> {
    let shards = open(folder, findings)?;
    let mut ahead = Vec::with_capacity(findings.len());
    for found in findings.iter() {
        ahead.push(map(&found.files.path(folder, FileKind::Ahead))?);
    }
    let (mut strays, mut places) = (Vec::new(), Vec::new());
    for (number, (found, shard)) in findings.iter().zip(&shards).enumerate() {
        let slots = shard.slots(found);
        for index in (0..found.slots).filter(|index| found.keeps(*index)) {
            let Some(entry) = slots.entry(index) else {
                continue;
            };
            let Some(outcome) = entry.outcome else {
                continue;
            };
            let record = record(shard.segment(outcome), &entry).unwrap_or_default();
            places.push((number, Some(index), entry));
            strays.push(Stray::new(outcome, record));
        }
        let bytes = ahead[number].as_deref().unwrap_or_default();
        for frame in journal::ahead::examine(bytes, &found.header).frames() {
            if let Some(outcome) = frame.entry.outcome {
                places.push((number, None, frame.entry));
                strays.push(Stray::new(outcome, frame.record));
            }
        }
    }
    let lines = recognise(salvage.input, salvage.format, &strays);
    let mut others = vec![Ranges::default(); findings.len()];
    for (line, (number, index, entry)) in lines.into_iter().zip(places) {
        let is_own = line.is_some_and(|line| {
            (line.number, line.offset) == (entry.line_number, entry.line_offset)
        });
        match index {
            _ if is_own => continue,
            Some(index) => others[number].push(index),
            None => _ = findings[number].ahead.remove(&Key::of(&entry)),
        }
        findings[number].lines_lost += 1;
    }
    for (found, others) in findings.iter_mut().zip(others) {
        found.lost = found.lost.and(&others);
    }
    Ok(())
}

fn open(folder: &Path, findings: &[Findings]) -> Result<Vec<Shard>, StorageError> {
    let open = |found: &Findings| {
        let open = |kind| map(&found.files.path(folder, kind));
        Ok(Shard {
            journal: open(FileKind::Journal)?,
            output: open(FileKind::Output)?,
            errors: open(FileKind::Errors)?,
        })
    };
    findings.iter().map(open).collect()
}

/// Adds what is found to `findings`; how many records that are.
pub(super) fn salvage(
    folder: &Path,
    findings: &mut [Findings],
    salvage: &Salvage<'_>,
) -> Result<u64, StorageError> {
    let shards = open(folder, findings)?;
    let mut done = kept(findings, &shards);
    let (mut strays, mut places) = (Vec::new(), Vec::new());
    for (number, (found, shard)) in findings.iter().zip(&shards).enumerate() {
        let (gaps, checksums) = gaps(found, shard);
        for gap in gaps {
            for (position, record) in lines_of(shard.segment(gap.outcome), &gap) {
                let checksum = crc32fast::hash(record);
                if gap.is_doubtful && !checksums.contains(&checksum) {
                    continue;
                }
                places.push((number, position, record.len() as u64, checksum));
                strays.push(Stray::new(gap.outcome, record));
            }
        }
    }
    let lines = recognise(salvage.input, salvage.format, &strays);
    let mut count = 0;
    for ((line, stray), (number, position, length, record_checksum)) in
        lines.into_iter().zip(&strays).zip(places)
    {
        let Some(line) = line else { continue };
        let outcome = stray.outcome;
        let is_done = done.succeeded.contains(line.number)
            || outcome == Outcome::Failure && done.failed.contains(line.number);
        if is_done {
            continue;
        }
        match outcome {
            Outcome::Success => done.succeeded.insert(line.number),
            Outcome::Failure => done.failed.insert(line.number),
        };
        let found = &mut findings[number];
        let bytes = found.segment_bytes(outcome);
        *bytes = (*bytes).max(position + length);
        found.lines_lost = found.lines_lost.saturating_sub(1);
        found.found.push(Entry {
            line_offset: line.offset,
            line_number: line.number,
            completed_us: last_completed_us(found, &shards[number]),
            outcome: Some(outcome),
            position,
            length,
            record_checksum,
            attempts: stray.attempts(),
            tokens: Tokens::default(),
            cost_nano_usd: 0,
        });
        count += 1;
    }
    Ok(count)
}

impl Shard {
    fn segment(&self, outcome: Outcome) -> &[u8] {
        let segment = match outcome {
            Outcome::Success => &self.output,
            Outcome::Failure => &self.errors,
        };
        segment.as_deref().unwrap_or_default()
    }

    fn slots(&self, findings: &Findings) -> Slots<'_> {
        Slots::expected(self.journal.as_deref().unwrap_or_default(), findings.header).0
    }
}

/// Lines whose record is kept, or waits in a write-ahead file.
fn kept(findings: &[Findings], shards: &[Shard]) -> DoneSet {
    let mut done = DoneSet::default();
    for (found, shard) in findings.iter().zip(shards) {
        let slots = shard.slots(found);
        let entries = (0..found.slots).filter(|index| found.keeps(*index));
        for entry in entries.filter_map(|index| slots.entry(index)) {
            match entry.outcome {
                Some(Outcome::Success) => done.succeeded.insert(entry.line_number),
                Some(Outcome::Failure) => done.failed.insert(entry.line_number),
                None => false,
            };
        }
        for key in &found.ahead {
            if let Key::Line(number) = key {
                done.succeeded.insert(*number);
            }
        }
    }
    done
}

/// What no kept entry points to, and the checksums of records that broken entries still speak of.
fn gaps(found: &Findings, shard: &Shard) -> (Vec<Gap>, HashSet<u32>) {
    let (mut gaps, mut checksums) = (Vec::new(), HashSet::new());
    let slots = shard.slots(found);
    let outcomes = [Outcome::Success, Outcome::Failure];
    let (mut ends, mut doubts) = ([0; 2], [false; 2]);
    for index in 0..slots.len() {
        let Some(entry) = slots.entry(index) else {
            if !slots.is_blank(index) {
                doubts = [true; 2];
                checksums.extend(slots.record_checksum(index));
            }
            continue;
        };
        let Some(outcome) = entry.outcome.filter(|_| entry.length > 0) else {
            continue;
        };
        let which = usize::from(outcome == Outcome::Failure);
        gaps.push(Gap {
            outcome,
            start: ends[which],
            end: entry.position,
            is_doubtful: doubts[which],
        });
        doubts[which] = false;
        // Also where the record is altered: what its entry contradicts is not looked at again.
        ends[which] = entry.end().unwrap_or(u64::MAX).max(ends[which]);
    }
    for (which, outcome) in outcomes.into_iter().enumerate() {
        gaps.push(Gap {
            outcome,
            start: ends[which],
            end: shard.segment(outcome).len() as u64,
            is_doubtful: doubts[which],
        });
    }
    gaps.retain(|gap| gap.start < gap.end);
    (gaps, checksums)
}

/// Lines with their newline in a gap, and where each begins.
fn lines_of<'a>(segment: &'a [u8], gap: &Gap) -> impl Iterator<Item = (u64, &'a [u8])> {
    let end = gap.end.min(segment.len() as u64) as usize;
    let mut at = (gap.start as usize).min(end);
    std::iter::from_fn(move || {
        let rest = &segment[at..end];
        let length = memchr::memchr(b'\n', rest)? + 1;
        // Zeros are what was never written; no record has any.
        let start = memchr::memrchr(0, &rest[..length]).map_or(0, |zero| zero + 1);
        let line = ((at + start) as u64, &rest[start..length]);
        at += length;
        Some(line)
    })
}

/// When the last line of a journal finished that tells when.
fn last_completed_us(found: &Findings, shard: &Shard) -> u64 {
    let slots = shard.slots(found);
    let last = (0..found.slots).rev().find_map(|index| slots.entry(index));
    last.map_or(0, |entry| entry.completed_us)
}
