//! What earlier processes of a run finished: everything examined first, then brought to what is whole
//! of it, and every record verified before another request is paid for.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use super::examine::{Findings, examine};
use super::mend::mend;
use super::name::{self, FileKind, ShardFiles};
use super::salvage::{self, Salvage};
use super::stopped_by::StoppedBy;
use crate::batch::storage_error::StorageError;
use crate::journal::{ENTRY_BYTES, Entry, Outcome, Slots, Tokens};
use crate::runtime::files::Mapping;

/// Mapped pages are let go after this much was read.
const RELEASE_EVERY_BYTES: u64 = 8 << 20;
/// Places that a warning names.
const PLACES_TOLD_MAX: usize = 6;

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
    /// What was not whole.
    pub mended: Mended,
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

/// What was not whole in a folder that is resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Lines that had finished, have no whole record any more and are sent again.
    pub lines_lost: u64,
    /// Records that had lost their journal entry and were recognised (`--salvage`).
    pub found: u64,
    /// There was damage before the tail of a file, which only `--salvage` gets over.
    pub damaged: bool,
}

/// Reads everything that earlier processes left, then brings it to what is whole of it: tails are dropped,
/// what was written ahead is put in its place. Damage is refused before anything is changed, or, with
/// `salvage`, dropped, too. Unless it `is_proven` by the manifest that all is of this input, each record must
/// show it.
pub(super) fn resume(
    folder: &Path,
    run_id: [u8; 16],
    salvage: Option<&Salvage<'_>>,
    is_proven: bool,
) -> Result<Resume, StorageError> {
    let shards = name::shards(folder).map_err(StorageError::io(folder, "list"))?;
    let mut findings = Vec::with_capacity(shards.len());
    let mut mended = Mended::default();
    for &files in &shards {
        let mut found = examine(folder, files, run_id)?;
        match found.damage.take() {
            Some(damage) if salvage.is_none() => return Err(damage),
            Some(damage) => {
                tracing::warn!("{}", damage.place());
                mended.damaged = true;
            }
            None => {}
        }
        findings.push(found);
    }
    let is_whole = |found: &Findings| found.lines_lost == 0 && !found.is_rewritten();
    if let Some(salvage) = salvage.filter(|_| !is_proven) {
        mended.damaged = true;
        salvage::prove(folder, &mut findings, salvage)?;
    }
    if let Some(salvage) = salvage
        && (mended.damaged || !findings.iter().all(is_whole))
    {
        mended.found = salvage::salvage(folder, &mut findings, salvage)?;
    }
    mended.lines_lost = findings.iter().map(|found| found.lines_lost).sum();
    if mended.lines_lost > 0 {
        tracing::warn!("{}", dropped(folder, &findings, mended.lines_lost));
    }
    for found in &findings {
        mend(folder, found)?;
    }
    let mut resume = Resume {
        done: DoneSet::default(),
        succeeded: 0,
        failed: 0,
        attempts: 0,
        tokens: TokenTotals::default(),
        cost_nano_usd: 0,
        generation: shards.last().map_or(0, |files| files.generation) + 1,
        mended,
    };
    resume.done.stopped_by = StoppedBy::read(folder);
    each_entry(folder, &shards, &mut |entry| resume.add(entry))?;
    Ok(resume)
}

/// For people: how many lines, and where their records were.
fn dropped(folder: &Path, findings: &[Findings], lines: u64) -> String {
    let mut places: Vec<_> = findings.iter().flat_map(|found| &found.places).collect();
    let more = places.len().saturating_sub(PLACES_TOLD_MAX);
    places.truncate(PLACES_TOLD_MAX);
    let places = places.into_iter().map(|(path, offset)| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} from byte {offset}")
    });
    let mut places = places.collect::<Vec<_>>().join(", ");
    if more > 0 {
        places.push_str(&format!(" and {more} more"));
    }
    let (lines, have, are) = match lines {
        1 => ("1 finished line".to_owned(), "has", "is"),
        _ => (format!("{lines} finished lines"), "have", "are"),
    };
    format!(
        "{}: {lines} {have} no whole record any more (a power cut, a kill in mid-write or a file cut short) and {are} sent again; dropped: {places}",
        folder.display()
    )
}

/// Whether any line of the run in this folder has ended.
pub(super) fn holds_records(folder: &Path, run_id: [u8; 16]) -> Result<bool, StorageError> {
    for files in name::shards(folder).map_err(StorageError::io(folder, "list"))? {
        let found = examine(folder, files, run_id)?;
        if !found.is_empty() || found.lines_lost > 0 || found.damage.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
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

pub(super) fn remove_files(folder: &Path, files: ShardFiles) -> Result<(), StorageError> {
    FileKind::ALL
        .into_iter()
        .map(|kind| files.path(folder, kind))
        .try_for_each(|path| {
            name::remove_if_there(&path).map_err(StorageError::io(&path, "remove"))
        })
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
