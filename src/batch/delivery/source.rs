//! One shard's journal and output segment, read while the shard still writes them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::batch::folder::{FileKind, ShardFiles, damaged, record_text};
use crate::batch::storage_error::StorageError;
use crate::journal::{
    Damage, DamageKind, ENTRY_BYTES, Entry, HEADER_BYTES, Header, Slots, decode_entry, entry_offset,
};

/// Entries read at a time.
const ENTRIES_AT_ONCE: u64 = if cfg!(test) { 2 } else { 256 };
/// Bytes of a segment read at a time, unless a record is longer.
const WINDOW_BYTES: usize = if cfg!(test) { 48 } else { 64 << 10 };

/// A journal and the segment with its successes.
#[derive(Debug)]
pub(super) struct Source {
    folder: PathBuf,
    files: ShardFiles,
    /// This process's own: it grows, and only what its mark covers may leave.
    grows: bool,
    journal: File,
    header: Header,
    /// Entries that may be read.
    pub(super) limit: u64,
    /// The next entry to be looked at.
    pub(super) next: u64,
    entries: Window,
    output: Option<File>,
    records: Window,
}

/// What was read of a file last.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    /// Room for the most that was wanted; the first `filled` bytes are the file's.
    bytes: Vec<u8>,
    filled: usize,
}

impl Source {
    /// `None` if its process died before the journal had a header.
    pub(super) fn open(
        folder: &Path,
        files: ShardFiles,
        generation: u32,
    ) -> Result<Option<Self>, StorageError> {
        let Some(mut journal) = open(&files.path(folder, FileKind::Journal))? else {
            return Ok(None);
        };
        let damage = |damage| damaged(folder, files, damage);
        let unreadable = unreadable(folder, files, FileKind::Journal);
        let Some(slots) = read_head(&mut journal).map_err(&unreadable)? else {
            return Ok(None);
        };
        let header = Slots::new(&slots)
            .map_err(damage)?
            .map(|slots| slots.header());
        let Some(header) = header else {
            return Ok(None);
        };
        let mut source = Self {
            folder: folder.to_path_buf(),
            files,
            grows: files.generation == generation,
            journal,
            header,
            limit: 0,
            next: 0,
            entries: Window::default(),
            output: open(&files.path(folder, FileKind::Output))?,
            records: Window::default(),
        };
        if !source.grows {
            // Repaired before this process began: all of it is whole.
            let length = source.journal.metadata().map_err(&unreadable)?.len();
            source.limit = length.saturating_sub(HEADER_BYTES as u64) / ENTRY_BYTES as u64;
        }
        Ok(Some(source))
    }

    pub(super) fn generation(&self) -> u32 {
        self.files.generation
    }

    /// Looks how far the shard has come.
    pub(super) fn refresh(&mut self) -> Result<(), StorageError> {
        if !self.grows {
            return Ok(());
        }
        let unreadable = unreadable(&self.folder, self.files, FileKind::Journal);
        let head = read_head(&mut self.journal).map_err(unreadable)?;
        // A mark that is being written may be read torn: the next look finds it whole.
        if let Some(Ok(Some(slots))) = head.as_ref().map(|head| Slots::new(head)) {
            self.limit = slots.settled();
        }
        Ok(())
    }

    /// The entry at `index`, below the limit.
    pub(super) fn entry(&mut self, index: u64) -> Result<Entry, StorageError> {
        let start = entry_offset(index);
        let unreadable = unreadable(&self.folder, self.files, FileKind::Journal);
        let wanted = ENTRIES_AT_ONCE.min(self.limit - index) as usize * ENTRY_BYTES;
        let bytes = self
            .entries
            .read(&mut self.journal, start, ENTRY_BYTES, wanted)
            .map_err(unreadable)?;
        decode_entry(bytes, &self.header, index).ok_or_else(|| {
            let damage = Damage {
                offset: start,
                what: DamageKind::Entry,
            };
            damaged(&self.folder, self.files, damage)
        })
    }

    /// Whether the segment is long enough for a success's record.
    pub(super) fn has_record(&self, entry: &Entry) -> Result<bool, StorageError> {
        let length = match &self.output {
            Some(output) => {
                let unreadable = unreadable(&self.folder, self.files, FileKind::Output);
                output.metadata().map_err(unreadable)?.len()
            }
            None => 0,
        };
        Ok(entry.length == 0 || entry.end().is_some_and(|end| end <= length))
    }

    /// A success's record, compared with its entry; empty if it was only counted.
    pub(super) fn record(&mut self, entry: &Entry) -> Result<&[u8], StorageError> {
        let (folder, files) = (&self.folder, self.files);
        let length = usize::try_from(entry.length).unwrap_or(usize::MAX);
        let bytes = match &mut self.output {
            Some(output) if length > 0 => self
                .records
                .read(output, entry.position, length, length.max(WINDOW_BYTES))
                .map_err(unreadable(folder, files, FileKind::Output))?,
            _ => &[],
        };
        record_text(bytes, entry).map_err(|what| StorageError::Damaged {
            path: files.path(folder, FileKind::Output),
            offset: entry.position,
            what,
        })?;
        Ok(bytes)
    }
}

/// What to say of one of a shard's files that cannot be read; its name is made up only then.
fn unreadable(
    folder: &Path,
    files: ShardFiles,
    kind: FileKind,
) -> impl Fn(io::Error) -> StorageError {
    move |error| StorageError::io(&files.path(folder, kind), "read")(error)
}

impl Window {
    /// `length` bytes of the file from `start` on, fewer at its end; reads `wanted` if it reads.
    fn read(
        &mut self,
        file: &mut File,
        start: u64,
        length: usize,
        wanted: usize,
    ) -> io::Result<&[u8]> {
        let held = start
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| self.filled.saturating_sub(*skip) >= length);
        let skip = match held {
            Some(skip) => skip,
            None => {
                self.fill(file, start, wanted)?;
                0
            }
        };
        Ok(&self.bytes[skip..self.filled.min(skip + length)])
    }

    fn fill(&mut self, file: &mut File, start: u64, wanted: usize) -> io::Result<()> {
        (self.start, self.filled) = (start, 0);
        // A record of megabytes does not keep its memory.
        self.bytes.truncate(wanted);
        self.bytes.shrink_to(wanted);
        self.bytes.resize(wanted, 0);
        file.seek(SeekFrom::Start(start))?;
        while self.filled < wanted {
            match file.read(&mut self.bytes[self.filled..]) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Header and mark of a journal; `None` if the file is shorter.
fn read_head(journal: &mut File) -> io::Result<Option<[u8; HEADER_BYTES]>> {
    let mut head = [0; HEADER_BYTES];
    journal.seek(SeekFrom::Start(0))?;
    match journal.read_exact(&mut head) {
        Ok(()) => Ok(Some(head)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` if there is no such file.
fn open(path: &Path) -> Result<Option<File>, StorageError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(path, "read")(error)),
    }
}
