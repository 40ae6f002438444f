//! What a process that died had written ahead goes on to its segments and journal, as it would have
//! done itself. Killed in the middle of it, it is done again: what the journal has by then is left out.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::name::{self, FileKind, ShardFiles};
use super::resume::{damaged, map};
use crate::batch::storage_error::StorageError;
use crate::journal::ahead::{self, Frame};
use crate::journal::{Entry, MARK_OFFSET, Outcome, Slots, entry_offset};
use crate::runtime::files;

/// What tells a frame from all others of its shard: a shard ends each line once.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Line(u64),
    Attempt(u64),
}

impl Key {
    fn of(entry: &Entry) -> Self {
        match entry.outcome {
            Some(_) => Self::Line(entry.line_number),
            None => Self::Attempt(entry.position),
        }
    }
}

/// Empties and removes the write-ahead file of a shard whose other files are repaired.
pub(super) fn drain(folder: &Path, files: ShardFiles) -> Result<(), StorageError> {
    let path = files.path(folder, FileKind::Ahead);
    // A few megabytes at most.
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.map_err(StorageError::io(&path, "read"))?,
    };
    let journal = map(&files.path(folder, FileKind::Journal))?;
    let slots = Slots::new(journal.as_deref().unwrap_or_default());
    // Where there was no journal, the repair has removed or refused this file.
    if let Some(slots) = slots.map_err(|damage| damaged(folder, files, damage))? {
        let frames = ahead::read(&bytes, &slots.header());
        let frames = frames.map_err(|damage| StorageError::Damaged {
            path: path.clone(),
            offset: damage.offset,
            what: damage.what.to_string(),
        })?;
        append_missing(folder, files, &slots, &frames)?;
    }
    drop(journal);
    name::remove_if_there(&path).map_err(StorageError::io(&path, "remove"))
}

/// Appends what the journal does not have.
fn append_missing(
    folder: &Path,
    files: ShardFiles,
    slots: &Slots<'_>,
    frames: &[Frame<'_>],
) -> Result<(), StorageError> {
    let mut missing: HashSet<Key> = frames.iter().map(|frame| Key::of(&frame.entry)).collect();
    for entry in (0..slots.len()).map_while(|index| slots.entry(index)) {
        missing.remove(&Key::of(&entry));
    }
    let mut output = Tail::new(folder, files, FileKind::Output)?;
    let mut errors = Tail::new(folder, files, FileKind::Errors)?;
    let mut journal = Tail::new(folder, files, FileKind::Journal)?;
    let header = slots.header();
    let mut entries = slots.len();
    for Frame { mut entry, record } in frames.iter().copied() {
        if !missing.remove(&Key::of(&entry)) {
            continue;
        }
        match entry.outcome {
            // Successes that are only counted have no segment.
            Some(Outcome::Success) if entry.length > 0 => entry.position = output.push(record),
            Some(Outcome::Failure) => entry.position = errors.push(record),
            _ => {}
        }
        journal.push(&entry.encode(&header, entries));
        entries += 1;
    }
    for tail in [output, errors, journal] {
        tail.write()?;
    }
    if entries > slots.settled() {
        let path = files.path(folder, FileKind::Journal);
        open(&path)
            .and_then(|file| files::write_all_at(&file, &header.mark(entries), MARK_OFFSET as u64))
            .map_err(StorageError::io(&path, "write"))?;
    }
    debug_assert_eq!(
        fs::metadata(files.path(folder, FileKind::Journal)).map_or(0, |journal| journal.len()),
        entry_offset(entries)
    );
    Ok(())
}

/// What is appended to one file.
struct Tail {
    path: std::path::PathBuf,
    end: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn new(folder: &Path, files: ShardFiles, kind: FileKind) -> Result<Self, StorageError> {
        let path = files.path(folder, kind);
        let end = match fs::metadata(&path) {
            // Without `-o` there is no output segment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            metadata => metadata.map_err(StorageError::io(&path, "find"))?.len(),
        };
        Ok(Self {
            path,
            end,
            bytes: Vec::new(),
        })
    }

    /// Where in the file the bytes will lie.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        let position = self.end + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        position
    }

    fn write(self) -> Result<(), StorageError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        open(&self.path)
            .and_then(|file| files::write_all_at(&file, &self.bytes, self.end))
            .map_err(|error| StorageError::new(&self.path, "write", self.bytes.len() as u64, error))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
