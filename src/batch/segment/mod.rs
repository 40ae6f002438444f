//! Where a shard puts what it finished: an output segment, an error segment and the journal that
//! points into them.
//!
//! Records and entries gather in buffers and go out in groups: segments first, then the journal,
//! then its mark, so that an entry never precedes its record. A write that fails loses nothing:
//! what is not in the file stays in the buffer, and the next flush goes on at the same place.

mod append_file;
mod syncer;

pub use super::storage_error::StorageError;

use super::folder::{FileKind, RunFolder};
use crate::config::Durability;
use crate::journal::{Entry, HEADER_BYTES, Header, MARK_OFFSET, Outcome, Tokens, entry_offset};
use append_file::AppendFile;
use syncer::{Job, Syncer};

/// Space reserved for the journal at most: entries of 14,000 requests in flight on one shard.
const JOURNAL_AHEAD_BYTES_MAX: u64 = 1 << 20;

/// A finished line, before its record has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Byte offset of the line in the input.
    pub line_offset: u64,
    /// Physical line number, from 1.
    pub line_number: u64,
    /// When it finished, in microseconds since the Unix epoch.
    pub completed_us: u64,
    /// Which segment its record belongs to.
    pub outcome: Outcome,
    /// Attempts spent, the first included; 0 for a line that was never sent.
    pub attempts: u32,
    /// Tokens of its last attempt.
    pub tokens: Tokens,
    /// What those cost, in billionths of a US dollar.
    pub cost_nano_usd: u64,
}

/// An attempt that is not its line's end, and was paid for or counts against the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAttempt {
    /// Byte offset of the line in the input.
    pub line_offset: u64,
    /// Physical line number, from 1.
    pub line_number: u64,
    /// When it finished, in microseconds since the Unix epoch.
    pub completed_us: u64,
    /// Attempts that its line has spent by then and that a process that resumes counts too; 0: not
    /// this one.
    pub attempts: u32,
    /// Tokens it took.
    pub tokens: Tokens,
    /// What those cost, in billionths of a US dollar.
    pub cost_nano_usd: u64,
}

/// One shard's segments and journal.
#[derive(Debug)]
pub struct ShardLog {
    header: Header,
    /// Under [`Durability::Power`].
    syncer: Option<Syncer>,
    output: Output,
    errors: AppendFile,
    journal: AppendFile,
    /// Entries made; the next one's index.
    committed: u64,
    /// Entries that the mark in the file covers.
    settled: u64,
    /// An fsync failed. The kernel may have dropped the pages and would report success next time.
    sync_failed: bool,
}

/// Successes are kept, or only counted.
#[derive(Debug)]
enum Output {
    Kept(AppendFile),
    /// The buffer takes the record that nobody keeps.
    Counted(Vec<u8>),
}

impl ShardLog {
    /// New files in the run folder. `generation` is [`RunFolder::generation`]; an earlier process's
    /// files are never touched.
    pub fn create(
        folder: &RunFolder,
        generation: u32,
        shard: usize,
        keep_output: bool,
        durability: Durability,
    ) -> Result<Self, StorageError> {
        let shard = u32::try_from(shard).expect("there are fewer shards than processors");
        let create = |kind| AppendFile::create(folder.shard_path(kind, generation, shard));
        // The journal comes last: where it has a header, the segments exist.
        let output = match keep_output {
            true => Output::Kept(create(FileKind::Output)?),
            false => Output::Counted(Vec::new()),
        };
        let errors = create(FileKind::Errors)?;
        let mut journal = create(FileKind::Journal)?;
        let header = Header::new(folder.run_id(), generation, shard);
        journal.buffer().extend_from_slice(&header.encode());
        journal.flush()?;
        let mut syncer = None;
        if durability == Durability::Power {
            let files = journal.take_unsynced().into_iter().collect();
            Job { files, entries: 0 }.run()?;
            folder.sync_names()?;
            let started = Syncer::start(shard);
            syncer = Some(started.map_err(StorageError::io(folder.path(), "sync"))?);
        }
        Ok(Self {
            header,
            syncer,
            output,
            errors,
            journal,
            committed: 0,
            settled: 0,
            sync_failed: false,
        })
    }

    /// The buffer that the record of a line with this outcome is appended to, its newline included;
    /// [`ShardLog::commit`] completes it, with the buffer's length before as `start`.
    pub fn record_buffer(&mut self, outcome: Outcome) -> &mut Vec<u8> {
        match (outcome, &mut self.output) {
            (Outcome::Success, Output::Kept(file)) => file.buffer(),
            (Outcome::Success, Output::Counted(buffer)) => buffer,
            (Outcome::Failure, _) => self.errors.buffer(),
        }
    }

    /// Journals the record that fills the outcome's buffer from `start` on.
    ///
    /// # Panics
    ///
    /// If what was appended is not one line: a bug that would tear the final files.
    pub fn commit(&mut self, entry: NewEntry, start: usize) {
        let record = &self.record_buffer(entry.outcome)[start..];
        assert_eq!(
            record.last(),
            Some(&b'\n'),
            "a record ends with its newline"
        );
        debug_assert_eq!(
            memchr::memchr(b'\n', record),
            Some(record.len() - 1),
            "a record is one line"
        );
        let (length, record_checksum) = (record.len() as u64, crc32fast::hash(record));
        let (position, length, record_checksum) = match (entry.outcome, &mut self.output) {
            (Outcome::Success, Output::Kept(file)) => {
                (file.position(start), length, record_checksum)
            }
            (Outcome::Failure, _) => (self.errors.position(start), length, record_checksum),
            (Outcome::Success, Output::Counted(buffer)) => {
                buffer.clear();
                (0, 0, 0)
            }
        };
        let entry = Entry {
            line_offset: entry.line_offset,
            line_number: entry.line_number,
            completed_us: entry.completed_us,
            outcome: Some(entry.outcome),
            position,
            length,
            record_checksum,
            attempts: entry.attempts,
            tokens: entry.tokens,
            cost_nano_usd: entry.cost_nano_usd,
        };
        self.push(&entry);
    }

    /// Journals an attempt that is not its line's end: a process that resumes counts it.
    pub fn note_attempt(&mut self, attempt: NewAttempt) {
        self.push(&Entry {
            line_offset: attempt.line_offset,
            line_number: attempt.line_number,
            completed_us: attempt.completed_us,
            outcome: None,
            position: 0,
            length: 0,
            record_checksum: 0,
            attempts: attempt.attempts,
            tokens: attempt.tokens,
            cost_nano_usd: attempt.cost_nano_usd,
        });
    }

    fn push(&mut self, entry: &Entry) {
        self.journal
            .buffer()
            .extend_from_slice(&entry.encode(&self.header, self.committed));
        self.committed += 1;
    }

    /// [`ShardLog::record_buffer`] and [`ShardLog::commit`] in one, for a record made elsewhere.
    /// `record` includes its newline.
    pub fn append(&mut self, entry: NewEntry, record: &[u8]) {
        let buffer = self.record_buffer(entry.outcome);
        let start = buffer.len();
        buffer.extend_from_slice(record);
        self.commit(entry, start);
    }

    /// Entries made so far.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Records of this process whose entries are not in the journal file yet.
    pub fn buffered(&self) -> usize {
        let written = self.journal.written().saturating_sub(HEADER_BYTES as u64);
        (self.committed - written / crate::journal::ENTRY_BYTES as u64) as usize
    }

    /// Bytes that wait in the buffers for the next flush.
    pub fn buffered_bytes(&self) -> usize {
        let output = match &self.output {
            Output::Kept(file) => file.pending(),
            Output::Counted(_) => 0,
        };
        output + self.errors.pending() + self.journal.pending()
    }

    /// Records that survive what the durability promises to survive.
    pub fn safe(&self) -> u64 {
        self.settled
    }

    /// Writes everything buffered: segments, then the journal. Under [`Durability::Process`] all
    /// records are safe afterwards. On an error nothing is lost: call it again when there is room.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        if let Output::Kept(file) = &mut self.output {
            file.flush()?;
        }
        self.errors.flush()?;
        self.journal.flush()?;
        match self.syncer {
            None => self.settle(self.committed),
            Some(_) => Ok(()),
        }
    }

    /// Under [`Durability::Power`]: flushes and has the segments, then the journal, synced by another
    /// thread, unless it still is at what it was given before. What it has done since the last call is
    /// safe afterwards. A failed sync is final: what the disk holds is unknown from then on.
    pub fn sync_in_background(&mut self) -> Result<(), StorageError> {
        let Some(result) = self.syncer.as_mut().map(Syncer::poll) else {
            return Ok(());
        };
        self.take_synced(result)?;
        self.flush()?;
        if self.settled == self.committed || self.syncer.as_ref().is_some_and(Syncer::is_busy) {
            return Ok(());
        }
        let job = self.unsynced()?;
        if let Some(syncer) = &mut self.syncer {
            syncer.hand_over(job);
        }
        Ok(())
    }

    /// Flushes; under [`Durability::Power`] also syncs, and waits for it. All records are safe
    /// afterwards.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        let Some(result) = self.syncer.as_mut().map(Syncer::wait) else {
            return Ok(());
        };
        self.take_synced(result)?;
        if self.settled == self.committed {
            return Ok(());
        }
        let result = self.unsynced()?.run();
        self.take_synced(Some(result))
    }

    /// Everything that has to reach the disk for the flushed entries to be safe.
    fn unsynced(&mut self) -> Result<Job, StorageError> {
        if self.sync_failed {
            let source = std::io::Error::other("an earlier sync failed");
            return Err(StorageError::new(self.journal.path(), "sync", 0, source));
        }
        let output = match &mut self.output {
            Output::Kept(file) => file.take_unsynced(),
            Output::Counted(_) => None,
        };
        let files = [
            output,
            self.errors.take_unsynced(),
            // Last: an entry that is on the disk has its record there.
            self.journal.take_unsynced(),
        ];
        Ok(Job {
            files: files.into_iter().flatten().collect(),
            entries: self.committed,
        })
    }

    fn take_synced(
        &mut self,
        result: Option<Result<u64, StorageError>>,
    ) -> Result<(), StorageError> {
        match result {
            None => Ok(()),
            Some(Ok(entries)) => self.settle(entries),
            Some(Err(error)) => {
                self.sync_failed = true;
                Err(error)
            }
        }
    }

    /// Moves the mark over so many entries.
    fn settle(&mut self, entries: u64) -> Result<(), StorageError> {
        if self.settled == entries {
            return Ok(());
        }
        debug_assert!(self.journal.written() >= entry_offset(entries));
        self.journal
            .overwrite(&self.header.mark(entries), MARK_OFFSET as u64)?;
        self.settled = entries;
        Ok(())
    }

    /// Makes sure that `bytes_ahead` more bytes fit into each segment (and their entries into the
    /// journal), whatever becomes of the free space. Call it before sending a request, with room for
    /// the answers of all that are in flight; if it fails, send nothing more, and what is in flight
    /// still fits.
    ///
    /// Grows in steps, so most calls cost nothing. Without effect where the file system cannot
    /// reserve.
    pub fn reserve(&mut self, bytes_ahead: u64) -> Result<(), StorageError> {
        if let Output::Kept(file) = &mut self.output {
            file.reserve(bytes_ahead)?;
        }
        self.errors.reserve(bytes_ahead)?;
        self.journal
            .reserve(bytes_ahead.min(JOURNAL_AHEAD_BYTES_MAX))
    }

    /// Makes everything safe and gives unused reserved space back. The log can still be used.
    pub fn finish(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        if let Output::Kept(file) = &mut self.output {
            file.trim()?;
        }
        self.errors.trim()?;
        self.journal.trim()
    }
}

#[cfg(test)]
mod tests;
