//! One shard's files brought to what is whole of them, and what was written ahead put in its place. Killed
//! in the middle of it, it is done again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::drain::drain;
use super::examine::{Findings, Key};
use super::name::{self, FileKind};
use super::resume::map;
use crate::batch::storage_error::StorageError;
use crate::journal::{Entry, MARK_OFFSET, Slots, entry_offset};
use crate::runtime::files;

/// A journal that is written anew goes out in pieces of about this size.
const WRITE_BYTES: usize = 1 << 20;
/// Added to the number of an entry whose record is lost: it is none of the process's own.
const LOST_NUMBER: u64 = 1 << 63;

/// Cuts tails, drops entries without their record, and appends what was written ahead.
pub(super) fn mend(folder: &Path, findings: &Findings) -> Result<(), StorageError> {
    let files = findings.files;
    if findings.is_empty() {
        return remove_files(folder, findings);
    }
    match findings.is_rewritten() {
        true => rewrite(folder, findings)?,
        false => cut_journal(folder, findings)?,
    }
    shorten(&files.path(folder, FileKind::Output), findings.output_bytes)?;
    shorten(&files.path(folder, FileKind::Errors), findings.errors_bytes)?;
    drain(folder, findings)
}

fn remove_files(folder: &Path, findings: &Findings) -> Result<(), StorageError> {
    super::resume::remove_files(folder, findings.files)
}

/// The mark first: what lies behind it may be longer, never shorter.
fn cut_journal(folder: &Path, findings: &Findings) -> Result<(), StorageError> {
    let path = findings.files.path(folder, FileKind::Journal);
    if findings.settled > findings.slots {
        let mark = findings.header.mark(findings.slots);
        open(&path)
            .and_then(|file| files::write_all_at(&file, &mark, MARK_OFFSET as u64))
            .map_err(StorageError::io(&path, "write"))?;
    }
    shorten(&path, entry_offset(findings.slots))
}

/// Writes the journal anew, with the entries that are kept, and puts it in place of the old one.
fn rewrite(folder: &Path, findings: &Findings) -> Result<(), StorageError> {
    let path = findings.files.path(folder, FileKind::Journal);
    let partial = findings.files.partial_journal(folder);
    let journal = map(&path)?;
    let write = |journal: &[u8]| {
        name::remove_if_there(&partial)?;
        let file = files::create_private(&partial)?;
        let (slots, _) = Slots::expected(journal, findings.header);
        let mut out = Writer {
            file: &file,
            offset: 0,
            bytes: findings.header.encode().to_vec(),
            entries: 0,
        };
        for index in 0..findings.slots {
            let Some(entry) = slots.entry(index) else {
                continue;
            };
            match findings.keeps(index) {
                true => out.push(&entry, findings)?,
                // It comes again with its record.
                false if findings.ahead.contains(&Key::of(&entry)) => {}
                false => out.push(&bereft(entry, index), findings)?,
            }
        }
        for entry in &findings.found {
            out.push(entry, findings)?;
        }
        out.flush()?;
        let mark = findings.header.mark(out.entries);
        files::write_all_at(&file, &mark, MARK_OFFSET as u64)?;
        // What it replaces is gone for good.
        files::sync_all(&file)
    };
    let written = write(journal.as_deref().unwrap_or_default());
    // Not every system replaces a file that is mapped.
    drop(journal);
    written
        .and_then(|()| files::rename(&partial, &path))
        .map_err(|error| StorageError::new(&partial, "write", 0, error))
}

/// What is left of an entry without its record: what its attempt cost.
fn bereft(entry: Entry, index: u64) -> Entry {
    Entry {
        outcome: None,
        position: LOST_NUMBER + index,
        length: 0,
        record_checksum: 0,
        attempts: 0,
        ..entry
    }
}

struct Writer<'a> {
    file: &'a File,
    offset: u64,
    bytes: Vec<u8>,
    entries: u64,
}

impl Writer<'_> {
    fn push(&mut self, entry: &Entry, findings: &Findings) -> io::Result<()> {
        let bytes = entry.encode(&findings.header, self.entries);
        self.bytes.extend_from_slice(&bytes);
        self.entries += 1;
        match self.bytes.len() >= WRITE_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        files::write_all_at(self.file, &self.bytes, self.offset)?;
        self.offset += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
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

/// For writing; a file that is missing is made.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::exists(path)? {
        true => OpenOptions::new().write(true).open(path),
        false => files::create_private(path),
    }
}
