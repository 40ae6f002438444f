//! One shard's files, opened for the merge.

use std::path::PathBuf;

use crate::batch::folder::{FileKind, ShardFiles, damaged, map, record};
use crate::batch::storage_error::StorageError;
use crate::journal::{Damage, DamageKind, Entry, Header, Outcome, Slots, entry_at, entry_offset};
use crate::runtime::files::Mapping;

/// Mapped pages are let go after so many entries: about a megabyte.
const RELEASE_EVERY_ENTRIES: u64 = 1 << 14;

/// A journal and the segments it points into.
#[derive(Debug)]
pub(super) struct Source {
    folder: PathBuf,
    files: ShardFiles,
    header: Header,
    entries: u64,
    line_number_max: u64,
    journal: Mapping,
    output: Option<Mapping>,
    errors: Option<Mapping>,
}

impl Source {
    /// `None` if no line finished there. The process that merges has repaired or written every
    /// journal, so a torn one is damage.
    pub(super) fn open(folder: PathBuf, files: ShardFiles) -> Result<Option<Self>, StorageError> {
        let Some(journal) = map(&files.path(&folder, FileKind::Journal))? else {
            return Ok(None);
        };
        let damage = |damage| damaged(&folder, files, damage);
        let Some(slots) = Slots::new(&journal).map_err(damage)? else {
            return match journal.is_empty() {
                true => Ok(None),
                false => Err(damage(Damage {
                    offset: 0,
                    what: DamageKind::Entry,
                })),
            };
        };
        let (mut entries, mut line_number_max) = (0, None);
        while let Some(entry) = slots.entry(entries) {
            entries += 1;
            line_number_max = line_number_max.max(Some(entry.line_number));
            if entries.is_multiple_of(RELEASE_EVERY_ENTRIES) {
                journal.release_all();
            }
        }
        if let Some(offset) = slots.end(entries).map_err(damage)?.torn() {
            return Err(damage(Damage {
                offset,
                what: DamageKind::Entry,
            }));
        }
        let header = slots.header();
        let Some(line_number_max) = line_number_max else {
            return Ok(None);
        };
        let output = map(&files.path(&folder, FileKind::Output))?;
        let errors = map(&files.path(&folder, FileKind::Errors))?;
        let source = Self {
            folder,
            files,
            header,
            entries,
            line_number_max,
            journal,
            output,
            errors,
        };
        source.release();
        Ok(Some(source))
    }

    pub(super) fn generation(&self) -> u32 {
        self.files.generation
    }

    /// Entries in the journal.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// The highest physical line number in the journal.
    pub(super) fn line_number_max(&self) -> u64 {
        self.line_number_max
    }

    /// The entry at `index`, below [`Source::entries`].
    pub(super) fn entry(&self, index: u64) -> Result<Entry, StorageError> {
        entry_at(&self.journal, &self.header, index).ok_or_else(|| {
            damaged(
                &self.folder,
                self.files,
                Damage {
                    offset: entry_offset(index),
                    what: DamageKind::Entry,
                },
            )
        })
    }

    /// The entry's record, unless it is not there or not what was written.
    pub(super) fn record(&self, entry: &Entry, outcome: Outcome) -> Result<&[u8], StorageError> {
        record(self.segment(outcome), entry).map_err(|what| StorageError::Damaged {
            path: self.segment_path(outcome),
            offset: entry.position,
            what,
        })
    }

    /// All records of one outcome.
    pub(super) fn segment(&self, outcome: Outcome) -> &[u8] {
        let segment = match outcome {
            Outcome::Success => &self.output,
            Outcome::Failure => &self.errors,
        };
        segment.as_deref().unwrap_or_default()
    }

    /// Bytes of all records.
    pub(super) fn record_bytes(&self) -> u64 {
        let bytes = |outcome| self.segment(outcome).len() as u64;
        bytes(Outcome::Success) + bytes(Outcome::Failure)
    }

    pub(super) fn segment_path(&self, outcome: Outcome) -> PathBuf {
        self.files.path(
            &self.folder,
            match outcome {
                Outcome::Success => FileKind::Output,
                Outcome::Failure => FileKind::Errors,
            },
        )
    }

    /// Lets go of all mapped pages.
    pub(super) fn release(&self) {
        self.journal.release_all();
        [&self.output, &self.errors]
            .into_iter()
            .flatten()
            .for_each(Mapping::release_all);
    }
}
