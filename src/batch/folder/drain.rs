//! What a process that died had written ahead goes on to its segments and journal, as it would have
//! done itself. Killed in the middle of it, it is done again: what the journal has by then is left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::examine::{Findings, Key};
use super::mend::open;
use super::name::{self, FileKind};
use super::resume::{damaged, map};
use crate::batch::storage_error::StorageError;
use crate::journal::ahead::{self, Frame};
use crate::journal::{MARK_OFFSET, Outcome, Slots, entry_offset};
use crate::runtime::files;

/// Empties and removes the write-ahead file of a shard whose other files are mended.
pub(super) fn drain(folder: &Path, findings: &Findings) -> Result<(), StorageError> {
    let path = findings.files.path(folder, FileKind::Ahead);
    // A few megabytes at most.
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.map_err(StorageError::io(&path, "read"))?,
    };
    let frames = ahead::examine(&bytes, &findings.header).frames();
    append_missing(folder, findings, &frames)?;
    name::remove_if_there(&path).map_err(StorageError::io(&path, "remove"))
}

/// Appends what the journal does not have.
fn append_missing(
    folder: &Path,
    findings: &Findings,
    frames: &[Frame<'_>],
) -> Result<(), StorageError> {
    let files = findings.files;
    let mapping = map(&files.path(folder, FileKind::Journal))?;
    let slots = Slots::new(mapping.as_deref().unwrap_or_default());
    let slots = slots.map_err(|damage| damaged(folder, files, damage))?;
    let (before, settled) = slots.map_or((0, 0), |slots| (slots.len(), slots.settled()));
    drop(mapping);
    let mut missing = findings.ahead.clone();
    let mut output = Tail::new(folder, findings, FileKind::Output)?;
    let mut errors = Tail::new(folder, findings, FileKind::Errors)?;
    let mut journal = Tail::new(folder, findings, FileKind::Journal)?;
    let mut entries = before;
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
        journal.push(&entry.encode(&findings.header, entries));
        entries += 1;
    }
    for tail in [output, errors, journal] {
        tail.write()?;
    }
    if entries > settled {
        let path = files.path(folder, FileKind::Journal);
        let mark = findings.header.mark(entries);
        open(&path)
            .and_then(|file| files::write_all_at(&file, &mark, MARK_OFFSET as u64))
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
    path: PathBuf,
    end: u64,
    bytes: Vec<u8>,
}

impl Tail {
    fn new(folder: &Path, findings: &Findings, kind: FileKind) -> Result<Self, StorageError> {
        let path = findings.files.path(folder, kind);
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
