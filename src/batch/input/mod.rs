//! The input file as memory: opened, checked, scanned once, then read line by line.
//!
//! The file is mapped, never copied. A line is known by its byte offset; pages behind the readers
//! are released, so memory stays flat whatever the file's size. If another program cuts the file
//! short while it is mapped, the next touch is SIGBUS, which `runtime::process` turns into a message
//! and an exit; the run resumes like after any kill. [`Input::changed`] catches every slower change.

#![expect(clippy::disallowed_methods, reason = "the input is a file")]

mod cursor;
mod kind;
mod scan;
mod spool;

pub use cursor::{LineCursor, LineRef};
pub use kind::ForeignKind;
pub use scan::{LineRange, Scan};

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::runtime::files::{self, Mapping};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Pages are released in steps of this: one system call for about 2,000 usual lines.
const RELEASE_STEP_BYTES: u64 = 1 << 20;

/// The mapped input file.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    file: File,
    map: Mapping,
    stamp: Stamp,
    /// Last, so that the file is closed before.
    leftover: Option<Leftover>,
}

/// A file that goes with its value.
#[derive(Debug)]
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        // A leftover in the temporary folder is not worth failing for.
        let _ = files::remove(&self.0);
    }
}

/// Size and time of last change, to notice that the file was replaced or edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified_ns: u64,
}

/// Why an input cannot be used. Nothing ran; the user has to act.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// No such file.
    #[error("input {} does not exist; give a JSONL file of requests", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A folder.
    #[error("input {} is a directory; give a JSONL file", path.display())]
    Directory {
        /// As given.
        path: PathBuf,
    },
    /// Not JSONL as a whole.
    #[error("{}", kind.explain(path.as_deref()))]
    Foreign {
        /// As given; `None` for standard input.
        path: Option<PathBuf>,
        /// The guess.
        kind: ForeignKind,
    },
    /// A pipe, socket or device.
    #[error("input {} is not a regular file; pipe it in with `-i -`", path.display())]
    Special {
        /// As given.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {operation} input {}: {source}", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Standard input is not what the unfinished run was started with.
    #[error("standard input differs from the one the unfinished run keeps in {}; pipe the same data, or start again with --fresh", path.display())]
    OtherSpool {
        /// The spooled file.
        path: PathBuf,
    },
}

impl Input {
    /// Opens and maps a regular file.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let path = path.to_path_buf();
        let fail = |operation, source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => InputError::Missing { path: path.clone() },
            _ => InputError::Io {
                path: path.clone(),
                operation,
                source,
            },
        };
        // Before opening, which would wait for ever on a pipe without a writer.
        let metadata = fs::metadata(&path).map_err(|error| fail("read", error))?;
        if metadata.is_dir() {
            return Err(InputError::Directory { path });
        }
        if !metadata.is_file() {
            return Err(InputError::Special { path });
        }
        let file = File::open(&path).map_err(|error| fail("read", error))?;
        let stamp = Stamp::of(&file).map_err(|error| fail("read", error))?;
        let map = Mapping::new(&file).map_err(|error| fail("map", error))?;
        Ok(Self {
            path,
            file,
            map,
            stamp,
            leftover: None,
        })
    }

    /// Its file is not needed under its name any more: it goes at once, or, where what is mapped
    /// cannot go (Windows), with this value.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        if files::remove(&self.path).is_err() {
            self.leftover = Some(Leftover(self.path.clone()));
        }
        self
    }

    /// Copies standard input (or any reader) to `path` and opens that.
    ///
    /// If `path` exists, an earlier process of the run spooled it: the reader must then hold the
    /// same bytes, or none at all, because a pipe can rarely be read twice.
    pub fn spool(reader: &mut dyn io::Read, path: &Path) -> Result<Self, InputError> {
        spool::spool(reader, path, false)?;
        Self::open(path)
    }

    /// As [`Input::spool`], but a spool of something else gives way: nothing was made of it.
    pub fn spool_anew(reader: &mut dyn io::Read, path: &Path) -> Result<Self, InputError> {
        spool::spool(reader, path, true)?;
        Self::open(path)
    }

    /// As given to [`Input::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// Time of last change when it was opened, in nanoseconds since the Unix epoch.
    pub fn modified_ns(&self) -> u64 {
        self.stamp.modified_ns
    }

    /// What the file is instead of JSONL, as a whole: compressed, UTF-16, a table, one JSON array,
    /// pretty-printed. A line longer than `line_bytes_max` counts as not valid.
    pub fn foreign_kind(&self, line_bytes_max: usize) -> Option<ForeignKind> {
        kind::recognise(&self.map, line_bytes_max)
    }

    /// The file's size or time of change is no longer what it was at the start.
    pub fn changed(&self) -> bool {
        // A path that now names another file does no harm: the mapping keeps the old one.
        Stamp::of(&self.file).map_or(true, |now| now != self.stamp)
    }

    /// Counts lines, fingerprints the content and cuts it into ranges; see [`Scan`].
    ///
    /// Reads the file once with `threads` threads (at least one). `range_bytes` is the size aimed at.
    pub fn scan(&self, threads: usize, range_bytes: usize) -> Scan {
        scan::scan(&self.map, threads, range_bytes)
    }

    /// The text of the line that starts at `offset`, without its line ending.
    ///
    /// `offset` comes from a [`LineRef`] of this input; beyond the end it is an empty line.
    pub fn line(&self, offset: u64) -> &[u8] {
        let start = self
            .map
            .len()
            .min(usize::try_from(offset).unwrap_or(usize::MAX));
        cursor::line_at(&self.map, start).0
    }

    /// The text of a line of this input, without looking for its end.
    pub fn text(&self, line: &LineRef) -> &[u8] {
        let start = line.offset as usize;
        &self.map[start..start + line.len as usize]
    }

    /// Lets go of the pages of `range`, if it is at least a step long, and tells where the next
    /// range to release begins: call it with that and the oldest offset still needed.
    ///
    /// Releasing too much is harmless: a page touched again is read again.
    #[must_use]
    pub fn release_before(&self, range: Range<u64>) -> u64 {
        let end = range.end - range.end % RELEASE_STEP_BYTES;
        if end < range.start.saturating_add(RELEASE_STEP_BYTES) {
            return range.start;
        }
        // The map is in memory, so its offsets fit.
        self.map.release(range.start as usize..end as usize);
        end
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // 64 bits of nanoseconds reach to the year 2554.
        Ok(Self {
            size: metadata.len(),
            modified_ns: modified.as_nanos() as u64,
        })
    }
}

#[cfg(test)]
mod tests;
