//! What earlier processes left of one shard's files, judged before anything is touched: what is whole,
//! what is a tail that is dropped, and what is damaged.
//!
//! The tail of a file is what has nothing whole behind it. It may be missing for reasons that are no
//! damage: a kill in the middle of a write, or a power loss, which may take the end of a segment whose
//! journal is on the disk, leave zeros, or bring back an older state of a file. What is broken and has
//! something whole behind it was changed by a bad disk or a hand.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::name::{FileKind, ShardFiles};
use super::resume::{damaged, map, record};
use crate::batch::storage_error::StorageError;
use crate::journal::{self, DamageKind, Entry, Header, Outcome, Slots, ahead, entry_offset};
use crate::runtime;
use crate::runtime::files::Mapping;

/// Entries that a thread verifies at a time, records included; then it lets go of their pages, so that
/// verifying does not fill the memory.
const BLOCK_ENTRIES: u64 = if cfg!(test) { 2 } else { 1 << 13 };

/// What one shard's files hold. Nothing is changed yet.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) files: ShardFiles,
    /// What the journal begins with, or ought to.
    pub(super) header: Header,
    /// That it does, its mark included.
    pub(super) is_header_whole: bool,
    /// Entries that the mark counts.
    pub(super) settled: u64,
    /// Slots of the journal up to the last one that is whole.
    pub(super) slots: u64,
    /// Those of them that are not whole, or whose record is not.
    pub(super) lost: Ranges,
    /// Records without an entry that were recognised (`--salvage`).
    pub(super) found: Vec<Entry>,
    /// What was written ahead and is not in the journal, or only without its record.
    pub(super) ahead: HashSet<Key>,
    /// Where the last whole record ends, by segment.
    pub(super) output_bytes: u64,
    pub(super) errors_bytes: u64,
    /// Lines that had finished and have no whole record any more.
    pub(super) lines_lost: u64,
    /// Where: a file, and the offset from which it is not whole.
    pub(super) places: Vec<(PathBuf, u64)>,
    /// Something is broken that has something whole behind it.
    pub(super) damage: Option<StorageError>,
}

/// What tells a frame of the write-ahead file from all others of its shard: a shard ends each line once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Line(u64),
    Attempt(u64),
}

impl Key {
    pub(super) fn of(entry: &Entry) -> Self {
        match entry.outcome {
            Some(_) => Self::Line(entry.line_number),
            None => Self::Attempt(entry.position),
        }
    }
}

impl Findings {
    /// Nothing in these files counts.
    pub(super) fn is_empty(&self) -> bool {
        self.slots == 0 && self.found.is_empty() && self.ahead.is_empty()
    }

    /// The journal as it is cannot simply be cut.
    pub(super) fn is_rewritten(&self) -> bool {
        !self.lost.is_empty() || !self.found.is_empty() || !self.is_header_whole
    }

    /// An entry that is kept, and its record with it.
    pub(super) fn keeps(&self, index: u64) -> bool {
        index < self.slots && !self.lost.contains(index)
    }

    pub(super) fn segment_bytes(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Success => &mut self.output_bytes,
            Outcome::Failure => &mut self.errors_bytes,
        }
    }
}

/// Which segment holds records of this outcome.
pub(super) fn segment_kind(outcome: Outcome) -> FileKind {
    match outcome {
        Outcome::Success => FileKind::Output,
        Outcome::Failure => FileKind::Errors,
    }
}

/// Numbers that grow, as ranges: what is lost is usually lost together.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Higher than all before.
    pub(super) fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => self.0.push(number..number + 1),
        }
    }

    /// Both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut numbers: Vec<Range<u64>> = self.0.iter().chain(&other.0).cloned().collect();
        numbers.sort_unstable_by_key(|range| range.start);
        let mut all = Self::default();
        all.append(Self(numbers));
        all
    }

    fn append(&mut self, other: Self) {
        for range in other.0 {
            match self.0.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => self.0.push(range),
            }
        }
    }

    /// Those below `end`.
    fn cut(&mut self, end: u64) {
        self.0.retain(|range| range.start < end);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(end);
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|range| range.start <= number);
        after > 0 && self.0[after - 1].contains(&number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().cloned().flatten()
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }
}

/// Looks at everything in a shard's files. An error is the system's; damage is a finding.
pub(super) fn examine(
    folder: &Path,
    files: ShardFiles,
    run_id: [u8; 16],
) -> Result<Findings, StorageError> {
    let header = Header::new(run_id, files.generation, files.shard);
    let open = |kind| map(&files.path(folder, kind));
    let (journal, output, errors) = (
        open(FileKind::Journal)?,
        open(FileKind::Output)?,
        open(FileKind::Errors)?,
    );
    let written_ahead = open(FileKind::Ahead)?;
    let (slots, wrong) = Slots::expected(journal.as_deref().unwrap_or_default(), header);
    let examination = Examination {
        folder,
        files,
        journal: journal.as_ref(),
        slots,
        output: output.as_ref(),
        errors: errors.as_ref(),
        next: AtomicU64::new(0),
    };
    let seen = examination.verify();
    let ahead = ahead::examine(written_ahead.as_deref().unwrap_or_default(), &header);
    Ok(examination.conclude(seen, wrong, &ahead))
}

/// The files of a shard, mapped.
struct Examination<'a> {
    folder: &'a Path,
    files: ShardFiles,
    journal: Option<&'a Mapping>,
    slots: Slots<'a>,
    output: Option<&'a Mapping>,
    errors: Option<&'a Mapping>,
    /// The next block to take.
    next: AtomicU64,
}

/// What was seen of some entries of a journal, and of their records.
#[derive(Debug, Default)]
struct Seen {
    /// The block that it begins with.
    number: u64,
    /// One more than the last whole entry.
    end: u64,
    /// Entries that are not whole.
    broken: Ranges,
    /// Whole ones whose record is not.
    bereft: Ranges,
    output: SegmentSeen,
    errors: SegmentSeen,
}

#[derive(Debug, Default)]
struct SegmentSeen {
    /// Where the last whole record begins, and where it ends.
    whole: Option<(u64, u64)>,
    /// The first record that is not whole, and why.
    broken: Option<(u64, String)>,
    /// The first of those below the mark.
    settled_broken: Option<(u64, String)>,
}

/// The one that comes first in the file.
fn earlier(one: Option<(u64, String)>, other: Option<(u64, String)>) -> Option<(u64, String)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.0 <= other.0 { one } else { other }),
        (one, other) => one.or(other),
    }
}

impl SegmentSeen {
    fn merge(&mut self, other: Self) {
        self.whole = self.whole.max(other.whole);
        self.broken = earlier(self.broken.take(), other.broken);
        self.settled_broken = earlier(self.settled_broken.take(), other.settled_broken);
    }

    fn end(&self) -> u64 {
        self.whole.map_or(0, |(_, end)| end)
    }

    /// The first broken record, if a whole one stands behind it. Above the mark that is no damage: under
    /// `--durability power` what is not synced yet may be lost in any order.
    fn damage(&self) -> Option<(u64, &str)> {
        let (at, what) = self.settled_broken.as_ref()?;
        (self.whole? > (*at, *at)).then_some((*at, what))
    }
}

impl Examination<'_> {
    /// Checks every entry of the journal, and every record against its entry.
    fn verify(&self) -> Seen {
        let blocks = self.slots.len().div_ceil(BLOCK_ENTRIES);
        let threads =
            runtime::parallel_threads().min(usize::try_from(blocks).unwrap_or(usize::MAX));
        let mut blocks = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.work())).collect();
            let mut blocks = self.work();
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
        blocks.sort_unstable_by_key(|block| block.number);
        blocks.into_iter().fold(Seen::default(), |mut all, block| {
            all.end = all.end.max(block.end);
            all.broken.append(block.broken);
            all.bereft.append(block.bereft);
            all.output.merge(block.output);
            all.errors.merge(block.errors);
            all
        })
    }

    /// One thread's part.
    fn work(&self) -> Vec<Seen> {
        let mut blocks = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let first = number * BLOCK_ENTRIES;
            if first >= self.slots.len() {
                return blocks;
            }
            blocks.push(self.block(number, first));
            // The other threads' pages are mapped again when they touch them.
            [self.journal, self.output, self.errors]
                .into_iter()
                .flatten()
                .for_each(Mapping::release_all);
        }
    }

    fn block(&self, number: u64, first: u64) -> Seen {
        let mut seen = Seen {
            number,
            ..Seen::default()
        };
        for index in first..self.slots.len().min(first + BLOCK_ENTRIES) {
            let Some(entry) = self.slots.entry(index) else {
                seen.broken.push(index);
                continue;
            };
            seen.end = index + 1;
            let Some(outcome) = entry.outcome.filter(|_| entry.length > 0) else {
                // It has no record.
                continue;
            };
            let segment = self.segment(outcome);
            let seen_there = match outcome {
                Outcome::Success => &mut seen.output,
                Outcome::Failure => &mut seen.errors,
            };
            match record(segment.map(|map| &**map).unwrap_or_default(), &entry) {
                Ok(record) => {
                    let place = (entry.position, entry.position + record.len() as u64);
                    seen_there.whole = seen_there.whole.max(Some(place));
                }
                Err(what) => {
                    seen.bereft.push(index);
                    let broken = Some((entry.position, what));
                    if index < self.slots.settled() {
                        let before = seen_there.settled_broken.take();
                        seen_there.settled_broken = earlier(before, broken.clone());
                    }
                    seen_there.broken = earlier(seen_there.broken.take(), broken);
                }
            }
        }
        seen
    }

    fn segment(&self, outcome: Outcome) -> Option<&Mapping> {
        match outcome {
            Outcome::Success => self.output,
            Outcome::Failure => self.errors,
        }
    }

    fn conclude(
        &self,
        mut seen: Seen,
        wrong: Option<journal::Damage>,
        ahead: &ahead::Examined<'_>,
    ) -> Findings {
        seen.broken.cut(seen.end);
        let frames = ahead.frames();
        let damage = self.damage(&seen, wrong, ahead, !frames.is_empty());
        let mut findings = Findings {
            files: self.files,
            header: self.slots.header(),
            is_header_whole: wrong.is_none(),
            settled: self.slots.settled(),
            slots: seen.end,
            lost: seen.broken.and(&seen.bereft),
            found: Vec::new(),
            ahead: frames.iter().map(|frame| Key::of(&frame.entry)).collect(),
            output_bytes: seen.output.end(),
            errors_bytes: seen.errors.end(),
            lines_lost: 0,
            places: Vec::new(),
            damage,
        };
        let mut bereft: HashSet<Key> = ahead.bereft.iter().map(Key::of).collect();
        if !findings.ahead.is_empty() || !bereft.is_empty() {
            for index in (0..findings.slots).filter(|index| !findings.lost.contains(*index)) {
                if let Some(entry) = self.slots.entry(index) {
                    findings.ahead.remove(&Key::of(&entry));
                    bereft.remove(&Key::of(&entry));
                }
            }
        }
        let torn = ahead.torn + bereft.len() as u64;
        self.count_lost(&mut findings, &seen, ahead, torn);
        findings
    }

    /// The first thing that no kill and no power loss does.
    fn damage(
        &self,
        seen: &Seen,
        wrong: Option<journal::Damage>,
        ahead: &ahead::Examined<'_>,
        has_frames: bool,
    ) -> Option<StorageError> {
        let in_journal = |damage| damaged(self.folder, self.files, damage);
        let path = |kind| self.files.path(self.folder, kind);
        let segments = [Outcome::Success, Outcome::Failure];
        if self.journal.is_none() {
            // Its name is older than anything in the other files.
            let filled = segments
                .into_iter()
                .filter(|outcome| self.segment(*outcome).is_some_and(|map| !map.is_empty()))
                .map(segment_kind);
            let filled = filled.chain(has_frames.then_some(FileKind::Ahead)).next()?;
            return Some(StorageError::Damaged {
                path: path(FileKind::Journal),
                offset: 0,
                what: format!(
                    "the journal is missing, though {} has records",
                    path(filled).display()
                ),
            });
        }
        if let Some(wrong) = wrong {
            let is_other = matches!(wrong.what, DamageKind::Foreign | DamageKind::Version(_));
            if is_other || seen.end > 0 {
                return Some(in_journal(wrong));
            }
        }
        let broken = seen.broken.numbers().next();
        // Above it, as with records.
        if let Some(broken) = broken.filter(|broken| *broken < self.slots.settled()) {
            let offset = entry_offset(broken);
            let what = DamageKind::Entry;
            return Some(in_journal(journal::Damage { offset, what }));
        }
        for outcome in segments {
            let seen = match outcome {
                Outcome::Success => &seen.output,
                Outcome::Failure => &seen.errors,
            };
            let (offset, what) = match (self.segment(outcome), seen.damage()) {
                (None, _) if seen.broken.is_some() => (0, "the segment is missing"),
                (_, Some(damage)) => damage,
                _ => continue,
            };
            let path = path(segment_kind(outcome));
            let what = what.to_owned();
            return Some(StorageError::Damaged { path, offset, what });
        }
        ahead.damage.map(|damage| StorageError::Damaged {
            path: path(FileKind::Ahead),
            offset: damage.offset,
            what: damage.what.to_string(),
        })
    }

    /// Lines that had finished, by all that still tells of them, and are neither in the journal with
    /// their record nor in the write-ahead file.
    fn count_lost(
        &self,
        findings: &mut Findings,
        seen: &Seen,
        ahead: &ahead::Examined<'_>,
        torn: u64,
    ) {
        let path = |kind| self.files.path(self.folder, kind);
        let records: HashSet<_> = (ahead.frames().iter())
            .map(|frame| (frame.entry.length, frame.entry.record_checksum))
            .collect();
        let bereft = (seen.bereft.numbers())
            .filter_map(|index| self.slots.entry(index))
            .filter(|entry| !findings.ahead.contains(&Key::of(entry)))
            .count() as u64;
        let mut without_entry = 0;
        for outcome in [Outcome::Success, Outcome::Failure] {
            let seen = match outcome {
                Outcome::Success => &seen.output,
                Outcome::Failure => &seen.errors,
            };
            let bytes = self.segment(outcome).map(|map| &**map).unwrap_or_default();
            // Of what is broken the entries tell.
            let from = seen.broken.as_ref().map_or(seen.end(), |_| u64::MAX);
            let tail = bytes.get(from.min(bytes.len() as u64) as usize..);
            let there = tail
                .into_iter()
                .flat_map(|tail| tail.split_inclusive(|byte| *byte == b'\n'))
                .filter(|record| record.ends_with(b"\n"))
                .filter(|record| !records.contains(&(record.len() as u64, crc32fast::hash(record))))
                .count() as u64;
            if there > 0 {
                findings.places.push((path(segment_kind(outcome)), from));
            }
            if let Some((at, _)) = seen.broken.as_ref().filter(|_| bereft > 0) {
                findings.places.push((path(segment_kind(outcome)), *at));
            }
            without_entry += there;
        }
        let cut = findings.settled.saturating_sub(findings.slots);
        let entries = seen.broken.count() + cut.saturating_sub(findings.ahead.len() as u64);
        if entries > 0 {
            let first = seen.broken.numbers().next().unwrap_or(findings.slots);
            let place = (path(FileKind::Journal), entry_offset(first));
            findings.places.push(place);
        }
        if torn > 0 {
            findings.places.push((path(FileKind::Ahead), 0));
        }
        findings.lines_lost = bereft + without_entry.max(entries) + torn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_numbers_that_were_put_in() {
        let numbers = [1, 2, 3, 7, 9, 10];
        let mut ranges = Ranges::default();
        numbers.iter().for_each(|number| ranges.push(*number));
        assert_eq!(ranges.0, [1..4, 7..8, 9..11]);
        for number in 0..12 {
            assert_eq!(ranges.contains(number), numbers.contains(&number));
        }
        assert_eq!(ranges.count(), 6);
        let mut other = Ranges::default();
        [0, 4, 8].iter().for_each(|number| other.push(*number));
        assert_eq!(ranges.and(&other).0, [0..5, 7..11]);
        ranges.cut(10);
        assert_eq!(ranges.0, [1..4, 7..8, 9..10]);
        ranges.cut(7);
        assert_eq!(ranges.numbers().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
