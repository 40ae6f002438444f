//! Where a shard puts what it finished: an output segment, an error segment and the journal that
//! points into them.
//!
//! Records and entries gather in buffers and go out in groups: segments first, then the journal,
//! then its mark, so that an entry never precedes its record. A write that fails loses nothing:
//! what is not in the file stays in the buffer, and the next flush goes on at the same place.
//!
//! With [`ShardLog::writing_ahead`] a flush writes to the write-ahead file instead, and what is next in
//! the order of the input goes on from there, in large writes. Where that file cannot be had, or its
//! space is needed, everything goes as above.

mod ahead;
mod append_file;
mod order;
mod syncer;
mod write_out;

pub use super::storage_error::StorageError;

use std::fmt;
use std::path::PathBuf;

use super::folder::{FileKind, RunFolder, remove_if_there};
use crate::config::{Durability, Order};
use crate::journal::{
    ENTRY_BYTES, Entry, HEADER_BYTES, Header, MARK_OFFSET, Outcome, Tokens, entry_offset,
};
use ahead::Ahead;
use append_file::AppendFile;
use syncer::{Job, Syncer};
use write_out::WriteOut;

/// Space reserved for the journal at most: entries of 14,000 requests in flight on one shard.
const JOURNAL_AHEAD_BYTES_MAX: u64 = 1 << 20;
/// So much of what was written ahead goes to the segments at once: writes that large get large folios in
/// the page cache, and the records are still in the processor's.
const PUT_AWAY_BYTES: usize = if cfg!(test) { 1 << 10 } else { 256 << 10 };

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
    /// With [`ShardLog::writing_ahead`], as long as that is possible.
    ahead: Option<Ahead>,
    /// A write-ahead file that is not used any more: it goes when everything in it is in the journal.
    leftover: Option<PathBuf>,
    /// With [`ShardLog::writing_out`].
    write_out: Option<WriteOut>,
    /// Records and attempts so far, wherever they are.
    committed: u64,
    /// Attempts among them that ended no line.
    attempts: u64,
    /// Entries made for the journal; the next one's index.
    journalled: u64,
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
            ahead: None,
            leftover: None,
            write_out: None,
            committed: 0,
            attempts: 0,
            journalled: 0,
            settled: 0,
            sync_failed: false,
        })
    }

    /// Has records wait in a write-ahead file until they are next in the order of the input
    /// ([`ShardLog::begin`]), or, with [`Order::Completion`], until there are enough for a large write.
    /// Without effect under [`Durability::Power`], where each of the two would have to be synced.
    pub fn writing_ahead(mut self, folder: &RunFolder, order: Order) -> Self {
        if self.syncer.is_none() {
            let Header {
                generation, shard, ..
            } = self.header;
            let path = folder.shard_path(FileKind::Ahead, generation, shard);
            self.ahead = Some(Ahead::new(path, self.header, order == Order::Input));
        }
        self
    }

    /// Has the output segment go to the disk as it grows: where it may become the final file as it is.
    pub fn writing_out(mut self) -> Self {
        self.write_out = Some(WriteOut::default());
        self
    }

    /// A line is about to be sent for the first time, or to be refused; records of later ones wait for its
    /// own.
    pub fn begin(&mut self, line_number: u64) {
        if let Some(ahead) = &mut self.ahead {
            ahead.begin(line_number);
        }
    }

    /// The buffer that the record of a line with this outcome is appended to, its newline included;
    /// [`ShardLog::commit`] completes it, with the buffer's length before as `start`.
    pub fn record_buffer(&mut self, outcome: Outcome) -> &mut Vec<u8> {
        if let Some(ahead) = &mut self.ahead {
            ahead.record_buffer();
        }
        self.buffer(outcome)
    }

    /// The same as it is.
    fn buffer(&mut self, outcome: Outcome) -> &mut Vec<u8> {
        if let Some(ahead) = &mut self.ahead {
            return ahead.buffer();
        }
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
        let is_kept = self.segment(entry.outcome).is_some();
        let buffer = self.buffer(entry.outcome);
        let record = &buffer[start..];
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
        let (length, record_checksum) = match is_kept {
            true => (record.len() as u64, crc32fast::hash(record)),
            false => {
                buffer.truncate(start);
                (0, 0)
            }
        };
        let mut entry = Entry {
            line_offset: entry.line_offset,
            line_number: entry.line_number,
            completed_us: entry.completed_us,
            outcome: Some(entry.outcome),
            position: 0,
            length,
            record_checksum,
            attempts: entry.attempts,
            tokens: entry.tokens,
            cost_nano_usd: entry.cost_nano_usd,
        };
        self.committed += 1;
        match &mut self.ahead {
            Some(ahead) => ahead.commit(&entry, start),
            None => {
                let segment = entry.outcome.and_then(|outcome| self.segment(outcome));
                entry.position = segment.map_or(0, |file| file.position(start));
                self.push(&entry);
            }
        }
    }

    /// Where records of this outcome are kept, if they are.
    fn segment(&mut self, outcome: Outcome) -> Option<&mut AppendFile> {
        match (outcome, &mut self.output) {
            (Outcome::Success, Output::Kept(file)) => Some(file),
            (Outcome::Success, Output::Counted(_)) => None,
            (Outcome::Failure, _) => Some(&mut self.errors),
        }
    }

    /// Journals an attempt that is not its line's end: a process that resumes counts it.
    pub fn note_attempt(&mut self, attempt: NewAttempt) {
        self.committed += 1;
        self.attempts += 1;
        let entry = Entry {
            line_offset: attempt.line_offset,
            line_number: attempt.line_number,
            completed_us: attempt.completed_us,
            outcome: None,
            position: self.attempts,
            length: 0,
            record_checksum: 0,
            attempts: attempt.attempts,
            tokens: attempt.tokens,
            cost_nano_usd: attempt.cost_nano_usd,
        };
        match &mut self.ahead {
            Some(ahead) => {
                let start = ahead.record_buffer().len();
                ahead.commit(&entry, start);
            }
            None => self.push(&entry),
        }
    }

    fn push(&mut self, entry: &Entry) {
        self.journal
            .buffer()
            .extend_from_slice(&entry.encode(&self.header, self.journalled));
        self.journalled += 1;
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

    /// Records of this process that are in memory only, or have left the write-ahead file and not
    /// arrived in the journal.
    pub fn buffered(&self) -> usize {
        let ahead = self.ahead.as_ref().map_or(0, Ahead::unwritten);
        (self.unjournalled() + ahead) as usize
    }

    /// Entries made for the journal that are not in its file.
    fn unjournalled(&self) -> u64 {
        let written = self.journal.written().saturating_sub(HEADER_BYTES as u64);
        self.journalled - written / ENTRY_BYTES as u64
    }

    /// Bytes that wait in the buffers for the next flush.
    pub fn buffered_bytes(&self) -> usize {
        let output = match &self.output {
            Output::Kept(file) => file.pending(),
            Output::Counted(_) => 0,
        };
        let ahead = self.ahead.as_ref().map_or(0, Ahead::unwritten_bytes);
        output + self.errors.pending() + self.journal.pending() + ahead
    }

    /// Records that survive what the durability promises to survive.
    pub fn safe(&self) -> u64 {
        match self.ahead {
            Some(_) => self.committed - self.buffered() as u64,
            None => self.settled,
        }
    }

    /// Writes everything buffered: to the write-ahead file, or to the segments, then the journal. Under
    /// [`Durability::Process`] all records are safe afterwards. On an error nothing is lost: call it
    /// again when there is room.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        let unjournalled = self.unjournalled();
        match &mut self.ahead {
            None => self.write_through(),
            Some(ahead) if ahead.is_full() => self.turn_over(),
            Some(ahead) => match ahead.write() {
                Err(error) => self.go_without(&error),
                Ok(()) if unjournalled == 0 && ahead.ready_bytes() < PUT_AWAY_BYTES => Ok(()),
                Ok(()) => {
                    self.put_away()?;
                    if let Some(ahead) = self.ahead.as_mut().filter(|ahead| ahead.may_turn_over()) {
                        ahead.turn_over();
                    }
                    Ok(())
                }
            },
        }
    }

    /// Segments, then the journal, then its mark.
    fn write_through(&mut self) -> Result<(), StorageError> {
        if let Output::Kept(file) = &mut self.output {
            file.flush()?;
            if let Some(write_out) = &mut self.write_out {
                write_out.reached(file.file(), file.written());
            }
        }
        self.errors.flush()?;
        self.journal.flush()?;
        if self.syncer.is_none() {
            self.settle(self.journalled)?;
        }
        if let Some(path) = self.leftover.take() {
            // All that it holds is in the journal, too.
            let _ = remove_if_there(&path);
        }
        Ok(())
    }

    /// Moves what was written ahead, and need not wait, on to segments and journal.
    fn put_away(&mut self) -> Result<(), StorageError> {
        self.take_ready()?;
        self.write_through()
    }

    /// Records go to their segments as they fill the buffers, entries only to the journal's buffer. On an
    /// error, too, everything that was ready is in one or the other.
    fn take_ready(&mut self) -> Result<(), StorageError> {
        let Some(mut ahead) = self.ahead.take() else {
            return Ok(());
        };
        if let Output::Kept(file) = &mut self.output {
            // At once: to grow by and by would leave several times as much behind in the allocator.
            file.buffer()
                .reserve(ahead.ready_bytes().min(PUT_AWAY_BYTES));
        }
        let mut outcome = Ok(());
        ahead.take_ready(|mut entry, record| {
            let segment = entry.outcome.and_then(|outcome| self.segment(outcome));
            if let Some(file) = segment {
                if file.pending() + record.len() > PUT_AWAY_BYTES && outcome.is_ok() {
                    outcome = file.flush();
                }
                entry.position = file.end();
                file.buffer().extend_from_slice(record);
            }
            self.push(&entry);
        });
        self.ahead = Some(ahead);
        outcome
    }

    /// A half of the write-ahead file is full. What is in the other one goes, in order or not.
    fn turn_over(&mut self) -> Result<(), StorageError> {
        if let Some(ahead) = &mut self.ahead {
            ahead.give_up_other();
        }
        self.put_away()?;
        let Some(ahead) = &mut self.ahead else {
            return Ok(());
        };
        if ahead.turn_over() {
            return match ahead.write() {
                Ok(()) => Ok(()),
                Err(error) => self.go_without(&error),
            };
        }
        // Records that are larger than a half.
        ahead.give_up_all();
        self.put_away()?;
        if let Some(ahead) = &mut self.ahead {
            ahead.forget_unwritten();
        }
        Ok(())
    }

    /// Everything goes to the segments from now on, which have the space for it.
    fn go_without(&mut self, reason: &dyn fmt::Display) -> Result<(), StorageError> {
        if let Some(ahead) = &self.ahead {
            let path = ahead.path().display();
            tracing::warn!("going on without the write-ahead file {path}: {reason}");
        }
        self.close_ahead()
    }

    /// Moves everything on to segments and journal, and removes the write-ahead file.
    fn close_ahead(&mut self) -> Result<(), StorageError> {
        if let Some(ahead) = &mut self.ahead {
            ahead.give_up_all();
        }
        let taken = self.take_ready();
        if let Some(ahead) = self.ahead.take() {
            self.leftover = ahead.into_path();
        }
        taken.and_then(|()| self.write_through())
    }

    /// Under [`Durability::Power`]: flushes and has the segments, then the journal, synced by another
    /// thread, unless it still is at what it was given before. What it has done since the last call is
    /// safe afterwards. A failed sync is final: what the disk holds is unknown from then on.
    ///
    /// Under [`Durability::Process`]: puts away what was written ahead and need not wait.
    pub fn sync_in_background(&mut self) -> Result<(), StorageError> {
        let Some(result) = self.syncer.as_mut().map(Syncer::poll) else {
            return match &self.ahead {
                Some(ahead) if ahead.ready_bytes() > 0 => self.put_away(),
                _ => Ok(()),
            };
        };
        self.take_synced(result)?;
        self.flush()?;
        if self.settled == self.journalled || self.syncer.as_ref().is_some_and(Syncer::is_busy) {
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
        if self.settled == self.journalled {
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
            entries: self.journalled,
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
    /// reserve. The write-ahead file needs no promise, and gives its space away before there is none.
    pub fn reserve(&mut self, bytes_ahead: u64) -> Result<(), StorageError> {
        match self.reserve_segments(bytes_ahead) {
            Err(StorageError::NoSpace { source, .. }) if self.ahead.is_some() => {
                self.go_without(&source)?;
                self.reserve_segments(bytes_ahead)
            }
            result => result,
        }
    }

    fn reserve_segments(&mut self, bytes_ahead: u64) -> Result<(), StorageError> {
        let (output, errors, entries) = self.ahead.as_ref().map_or((0, 0, 0), Ahead::waiting);
        if let Output::Kept(file) = &mut self.output {
            file.reserve(bytes_ahead + output)?;
        }
        self.errors.reserve(bytes_ahead + errors)?;
        let waiting = entries * ENTRY_BYTES as u64;
        self.journal
            .reserve(bytes_ahead.min(JOURNAL_AHEAD_BYTES_MAX) + waiting)
    }

    /// Makes everything safe and gives unused reserved space back. The log can still be used.
    pub fn finish(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        if self.ahead.is_some() {
            self.close_ahead()?;
        }
        if let Output::Kept(file) = &mut self.output {
            file.trim()?;
        }
        self.errors.trim()?;
        self.journal.trim()
    }
}

#[cfg(test)]
mod tests;
