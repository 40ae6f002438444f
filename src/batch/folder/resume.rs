//! What earlier processes of a run finished: their journals replayed, torn tails cut, every record
//! verified before another request is paid for.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::drain::drain;
use super::name::{self, FileKind, ShardFiles};
use super::stopped_by::StoppedBy;
use crate::batch::storage_error::StorageError;
use crate::journal::{ENTRY_BYTES, Entry, Outcome, Slots, Tokens, entry_offset};
use crate::runtime;
use crate::runtime::files::{self, Mapping};

/// Mapped pages are let go after this much was read.
const RELEASE_EVERY_BYTES: u64 = 8 << 20;
/// Entries that a thread verifies at a time, records included; then it lets go of their pages, so that
/// verifying does not fill the memory.
const BLOCK_ENTRIES: u64 = if cfg!(test) { 2 } else { 1 << 13 };

/// What a resumed run starts from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// Lines that have a record.
    pub done: DoneSet,
    /// Lines that succeeded.
    pub succeeded: u64,
    /// Lines that failed.
    pub failed: u64,
    /// Attempts they took.
    pub attempts: u64,
    /// Tokens they cost.
    pub tokens: TokenTotals,
    /// What those cost, in billionths of a US dollar, as far as it was known then.
    pub cost_nano_usd: u64,
    /// The generation of the process that resumes.
    pub generation: u32,
}

/// Tokens of many lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTotals {
    /// Prompt tokens, cached ones included.
    pub prompt: u64,
    /// Completion tokens.
    pub completion: u64,
    /// Prompt tokens served from the provider's cache.
    pub cached: u64,
}

impl AddAssign<Tokens> for TokenTotals {
    fn add_assign(&mut self, tokens: Tokens) {
        self.prompt += u64::from(tokens.prompt);
        self.completion += u64::from(tokens.completion);
        self.cached += u64::from(tokens.cached);
    }
}

/// Finished lines by physical number, two bits a line, and the unfinished ones that have spent attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoneSet {
    /// Lines whose record is in the output.
    pub succeeded: LineSet,
    /// Lines whose record is in the error file.
    pub failed: LineSet,
    /// Lines without a record that endpoints have answered with an error that may be the line's own:
    /// the attempts that this has cost them. Few: a line leaves with its record.
    tried: HashMap<u64, u32>,
    /// Lines whose answers were the reason for which earlier processes have stopped.
    pub stopped_by: StoppedBy,
}

impl DoneSet {
    /// The line has a record.
    pub fn contains(&self, number: u64) -> bool {
        self.succeeded.contains(number) || self.failed.contains(number)
    }

    /// Attempts that an unfinished line has spent in earlier processes, if it is to be sent after all
    /// others: it may be what always fails, or what there is no money for.
    pub fn goes_last(&self, number: u64) -> Option<u32> {
        let spent = self.tried.get(&number).copied();
        spent.or_else(|| self.stopped_by.unpaid.contains(&number).then_some(0))
    }
}

/// A set of physical line numbers, one bit a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineSet {
    words: Vec<u64>,
}

impl LineSet {
    /// Whether the line is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64)
            .ok()
            .and_then(|index| self.words.get(index));
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Adds a line; `false` if it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let index = (number / 64) as usize;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let added = !self.contains(number);
        self.words[index] |= 1 << (number % 64);
        added
    }

    /// Takes a line out; `false` if it was not there.
    pub fn remove(&mut self, number: u64) -> bool {
        let there = self.contains(number);
        if there {
            self.words[(number / 64) as usize] &= !(1 << (number % 64));
        }
        there
    }
}

/// Replays every journal in the folder. Cuts torn tails off, drains write-ahead files; refuses damage.
pub(super) fn resume(folder: &Path, run_id: [u8; 16]) -> Result<Resume, StorageError> {
    let shards = name::shards(folder).map_err(StorageError::io(folder, "list"))?;
    for &files in &shards {
        repair(folder, files, run_id)?;
        drain(folder, files)?;
    }
    let mut resume = Resume {
        done: DoneSet::default(),
        succeeded: 0,
        failed: 0,
        attempts: 0,
        tokens: TokenTotals::default(),
        cost_nano_usd: 0,
        generation: shards.last().map_or(0, |files| files.generation) + 1,
    };
    resume.done.stopped_by = StoppedBy::read(folder);
    each_entry(folder, &shards, &mut |entry| resume.add(entry))?;
    Ok(resume)
}

/// Every entry in order of generation: of two records of one line (an error sent again) the last counts.
pub(super) fn each_entry(
    folder: &Path,
    shards: &[ShardFiles],
    on_entry: &mut dyn FnMut(&Entry),
) -> Result<(), StorageError> {
    for &files in shards {
        let Some(journal) = map(&files.path(folder, FileKind::Journal))? else {
            continue;
        };
        let mut unreleased = 0;
        let slots = Slots::new(&journal).map_err(|damage| damaged(folder, files, damage))?;
        let Some(slots) = slots else { continue };
        // Every journal was repaired before: all of it is intact.
        for entry in (0..slots.len()).map_while(|index| slots.entry(index)) {
            on_entry(&entry);
            unreleased += ENTRY_BYTES as u64;
            if unreleased >= RELEASE_EVERY_BYTES {
                unreleased = 0;
                journal.release_all();
            }
        }
    }
    Ok(())
}

impl Resume {
    /// Takes failed lines for unfinished (`--retry-errors`), and tells how many there are. Their
    /// records stay until a later one of the same line replaces them.
    pub fn send_failures_again(&mut self) -> u64 {
        let failed = std::mem::take(&mut self.done.failed);
        (self.done.stopped_by).forget(|number| failed.contains(number));
        std::mem::take(&mut self.failed)
    }

    fn add(&mut self, entry: &Entry) {
        self.tokens += entry.tokens;
        self.cost_nano_usd = self.cost_nano_usd.saturating_add(entry.cost_nano_usd);
        let Some(outcome) = entry.outcome else {
            if entry.attempts > 0 {
                self.done.tried.insert(entry.line_number, entry.attempts);
            }
            return;
        };
        self.done.tried.remove(&entry.line_number);
        self.attempts += u64::from(entry.attempts);
        let (to, from) = match outcome {
            Outcome::Success => (&mut self.done.succeeded, &mut self.done.failed),
            Outcome::Failure => (&mut self.done.failed, &mut self.done.succeeded),
        };
        let (added, moved) = (
            u64::from(to.insert(entry.line_number)),
            u64::from(from.remove(entry.line_number)),
        );
        let (to, from) = match outcome {
            Outcome::Success => (&mut self.succeeded, &mut self.failed),
            Outcome::Failure => (&mut self.failed, &mut self.succeeded),
        };
        *to += added;
        *from -= moved;
    }
}

/// Brings one shard's files to what their process surely finished.
fn repair(folder: &Path, files: ShardFiles, run_id: [u8; 16]) -> Result<(), StorageError> {
    let journal_path = files.path(folder, FileKind::Journal);
    let journal = map(&journal_path)?;
    let Some(journal) = journal else {
        return remove_unused(folder, files);
    };
    let slots = Slots::new(&journal).map_err(|damage| damaged(folder, files, damage))?;
    let Some(slots) = slots else {
        drop(journal);
        return remove_unused(folder, files);
    };
    let header = slots.header();
    if (header.run_id, header.generation, header.shard) != (run_id, files.generation, files.shard) {
        return Err(StorageError::Damaged {
            path: journal_path,
            offset: 0,
            what: "the journal belongs to another run or shard".to_owned(),
        });
    }
    let kept = Verification::new(folder, files, &journal, slots)?.run()?;
    let journal_bytes = entry_offset(kept.entries);
    drop(journal);
    shorten(&journal_path, journal_bytes)?;
    shorten(&files.path(folder, FileKind::Output), kept.output_bytes)?;
    shorten(&files.path(folder, FileKind::Errors), kept.errors_bytes)
}

/// What of a shard's files is whole.
#[derive(Default)]
struct Kept {
    entries: u64,
    output_bytes: u64,
    errors_bytes: u64,
}

/// Checks every entry of a journal, and every record against its entry: all that are settled must be
/// there. After them the first one that is not ends the journal: a torn tail, or records that were not
/// synced when power was lost.
struct Verification<'a> {
    folder: &'a Path,
    files: ShardFiles,
    journal: &'a Mapping,
    slots: Slots<'a>,
    output: Option<Mapping>,
    errors: Option<Mapping>,
    /// The next block to take.
    next: AtomicU64,
    /// The lowest block in which something is wrong; those behind it do not matter.
    last: AtomicU64,
}

/// What was found in a block of entries.
struct Block {
    number: u64,
    /// Intact ones from its beginning on.
    kept: Kept,
    /// What is wrong with the next one; an entry that is not intact has no record to name.
    wrong: Option<Option<(FileKind, u64, String)>>,
}

impl<'a> Verification<'a> {
    fn new(
        folder: &'a Path,
        files: ShardFiles,
        journal: &'a Mapping,
        slots: Slots<'a>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            folder,
            files,
            journal,
            slots,
            output: map(&files.path(folder, FileKind::Output))?,
            errors: map(&files.path(folder, FileKind::Errors))?,
            next: AtomicU64::new(0),
            last: AtomicU64::new(u64::MAX),
        })
    }

    fn run(self) -> Result<Kept, StorageError> {
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
        let mut kept = Kept::default();
        for block in blocks {
            kept.entries += block.kept.entries;
            kept.output_bytes = kept.output_bytes.max(block.kept.output_bytes);
            kept.errors_bytes = kept.errors_bytes.max(block.kept.errors_bytes);
            match block.wrong {
                None => {}
                Some(Some((kind, offset, what))) if kept.entries < self.slots.settled() => {
                    let path = self.files.path(self.folder, kind);
                    return Err(StorageError::Damaged { path, offset, what });
                }
                Some(_) => break,
            }
        }
        (self.slots.end(kept.entries))
            .map_err(|damage| damaged(self.folder, self.files, damage))?;
        Ok(kept)
    }

    /// One thread's part.
    fn work(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let first = number * BLOCK_ENTRIES;
            if first >= self.slots.len() || number > self.last.load(Ordering::Relaxed) {
                return blocks;
            }
            let block = self.check(number, first);
            if block.wrong.is_some() {
                self.last.fetch_min(number, Ordering::Relaxed);
            }
            blocks.push(block);
            // The other threads' pages are mapped again when they touch them.
            self.journal.release_all();
            [&self.output, &self.errors]
                .into_iter()
                .flatten()
                .for_each(Mapping::release_all);
        }
    }

    fn check(&self, number: u64, first: u64) -> Block {
        let mut block = Block {
            number,
            kept: Kept::default(),
            wrong: None,
        };
        for index in first..self.slots.len().min(first + BLOCK_ENTRIES) {
            let Some(entry) = self.slots.entry(index) else {
                block.wrong = Some(None);
                break;
            };
            let Some(outcome) = entry.outcome else {
                // It has no record.
                block.kept.entries += 1;
                continue;
            };
            let (kind, segment, kept_bytes) = match outcome {
                Outcome::Success => (FileKind::Output, &self.output, &mut block.kept.output_bytes),
                Outcome::Failure => (FileKind::Errors, &self.errors, &mut block.kept.errors_bytes),
            };
            match record(segment.as_deref().unwrap_or_default(), &entry) {
                Ok(record) => {
                    *kept_bytes = (*kept_bytes).max(entry.position + record.len() as u64);
                }
                Err(what) => {
                    block.wrong = Some(Some((kind, entry.position, what)));
                    break;
                }
            }
            block.kept.entries += 1;
        }
        block
    }
}

/// The record an entry points to, or what is wrong with it.
pub(in crate::batch) fn record<'a>(segment: &'a [u8], entry: &Entry) -> Result<&'a [u8], String> {
    let line = entry.line_number;
    let end = entry.end().filter(|end| *end <= segment.len() as u64);
    // Within the segment, so it fits into memory's addresses.
    let Some(end) = end else {
        return Err(format!("the record of line {line} is cut off"));
    };
    let record = &segment[entry.position as usize..end as usize];
    record_text(record, entry).map(|()| record)
}

/// What is wrong with these bytes, if they are not the record that an entry tells of.
pub(in crate::batch) fn record_text(record: &[u8], entry: &Entry) -> Result<(), String> {
    let line = entry.line_number;
    if (record.len() as u64) < entry.length {
        return Err(format!("the record of line {line} is cut off"));
    }
    if crc32fast::hash(record) != entry.record_checksum {
        return Err(format!("the record of line {line} is altered"));
    }
    Ok(())
}

/// Files of a process that died before its journal had a header: then nothing was in the segments.
fn remove_unused(folder: &Path, files: ShardFiles) -> Result<(), StorageError> {
    for kind in [FileKind::Output, FileKind::Errors, FileKind::Ahead] {
        let segment = files.path(folder, kind);
        if fs::metadata(&segment).is_ok_and(|metadata| metadata.len() > 0) {
            return Err(StorageError::Damaged {
                path: files.path(folder, FileKind::Journal),
                offset: 0,
                what: format!(
                    "the journal is missing or cut short, though {} has records",
                    segment.display()
                ),
            });
        }
    }
    remove_files(folder, files)
}

pub(super) fn remove_files(folder: &Path, files: ShardFiles) -> Result<(), StorageError> {
    FileKind::ALL
        .into_iter()
        .map(|kind| files.path(folder, kind))
        .try_for_each(|path| {
            name::remove_if_there(&path).map_err(StorageError::io(&path, "remove"))
        })
}

/// Cuts what lies behind `length`: a torn tail, and space that was reserved beyond the end.
fn shorten(path: &Path, length: u64) -> Result<(), StorageError> {
    match OpenOptions::new().write(true).open(path) {
        // Without `-o` there is no output segment.
        Err(error) if error.kind() == io::ErrorKind::NotFound && length == 0 => Ok(()),
        file => file
            .and_then(|file| files::set_length(&file, length))
            .map_err(StorageError::io(path, "cut the torn tail of")),
    }
}

/// `None` if there is no such file.
pub(in crate::batch) fn map(path: &Path) -> Result<Option<Mapping>, StorageError> {
    match fs::File::open(path).and_then(|file| Mapping::new(&file)) {
        Ok(mapping) => Ok(Some(mapping)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(path, "read")(error)),
    }
}

pub(in crate::batch) fn damaged(
    folder: &Path,
    files: ShardFiles,
    damage: crate::journal::Damage,
) -> StorageError {
    let path: PathBuf = files.path(folder, FileKind::Journal);
    StorageError::Damaged {
        path,
        offset: damage.offset,
        what: damage.what.to_string(),
    }
}
