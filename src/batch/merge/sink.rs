//! One final file in the making: records gathered into large writes; or a whole segment that needs no
//! copy at all. It is made when the disk has it.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::begun::Begun;
use super::publish::{Made, places};
use super::sum::{self, Checked};
use super::{StorageError, Target};
use crate::batch::folder::{PERMISSIONS_PROBE, Sum, remove_if_there};
use crate::journal::Outcome;
use crate::runtime::files;

/// Records are gathered into writes of this size: large folios for the page cache, and still in a
/// core's cache when the kernel copies them.
const WRITE_BYTES: usize = if cfg!(test) { 50 } else { 1 << 20 };
/// A segment that could be the final file is copied all the same if it is no larger than this, in a tenth
/// of a second: then the records stay a second time, whatever becomes of the final file before the folder
/// goes.
const COPIED_BYTES_MAX: u64 = if cfg!(test) { 0 } else { 64 << 20 };

/// Takes the records of one outcome in their final order.
pub(super) enum Sink {
    /// Records are counted, not kept.
    Nowhere,
    /// Can only be written in order.
    Stream(BufWriter<Box<dyn Write>>),
    /// The final file, and what was gathered for it.
    File(FinalFile, Gathered),
    /// The final file was made while the run went on; its checksum.
    Made(FinalFile, Hasher),
}

/// A final file under its temporary name.
pub(super) struct FinalFile {
    temporary: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    bytes: u64,
    /// `None`: a segment already is the final file, and `temporary` a second name of it.
    file: Option<File>,
    /// What the disk is known to hold of it.
    checked: Checked,
    finished: bool,
}

/// Records that follow one another in a final file, until there are enough for a write.
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// Where they go.
    offset: u64,
    /// Of all that was written since it was last taken.
    sum: Hasher,
}

impl Sink {
    /// `bytes` is what will be pushed in all; `whole` the segment that is the final file already, if
    /// it can be renamed; `begun` is what was made while the run went on.
    pub(super) fn new(
        folder: &Path,
        target: Target,
        outcome: Outcome,
        bytes: u64,
        whole: Option<PathBuf>,
        begun: Option<Begun>,
    ) -> Result<Self, StorageError> {
        match target {
            Target::Stdout(stream) => {
                Ok(Self::Stream(BufWriter::with_capacity(WRITE_BYTES, stream)))
            }
            // A device or pipe (`-e /dev/null`) is written to; a file in its place would do harm.
            Target::File(path) if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) => {
                let device = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(StorageError::io(&path, "write to"))?;
                let device = BufWriter::with_capacity(WRITE_BYTES, Box::new(device) as _);
                Ok(Self::Stream(device))
            }
            Target::File(path) => {
                let (file, sum) = FinalFile::new(folder, path, outcome, bytes, whole, begun)?;
                Ok(match sum {
                    Some(sum) => Self::Made(file, sum),
                    None => Self::File(file, Gathered::at(0)),
                })
            }
        }
    }

    /// Appends a record that was verified.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::Nowhere | Self::Made(..) => Ok(()),
            Self::Stream(stream) => stream.write_all(record).map_err(stream_error),
            Self::File(file, gathered) => gathered.push(file, record),
        }
    }

    /// Where records can be written in any order: `None` inside if they are written nowhere.
    pub(super) fn places(&self) -> Option<Option<&FinalFile>> {
        match self {
            Self::Nowhere | Self::Made(..) => Some(None),
            Self::Stream(_) => None,
            Self::File(file, _) => Some(Some(file)),
        }
    }

    /// Completes the file; `None` if there is nothing to put in place. `sum` is that of records that were
    /// written elsewhere ([`Sink::places`]).
    ///
    /// # Errors
    /// [`StorageError::NotOnDisk`]: nothing else but to make the file anew can help.
    pub(super) fn finish(self, sum: Option<Hasher>) -> Result<Option<Made>, StorageError> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Stream(mut stream) => stream.flush().map(|()| None).map_err(stream_error),
            Self::File(file, mut gathered) => {
                gathered.write(&file)?;
                let sum = sum.unwrap_or_else(|| gathered.take_sum());
                file.finish(sum.finalize()).map(Some)
            }
            Self::Made(file, sum) => file.finish(sum.finalize()).map(Some),
        }
    }
}

impl Gathered {
    /// Nothing yet, for this place of the file.
    pub(super) fn at(offset: u64) -> Self {
        Self {
            bytes: Vec::new(),
            offset,
            sum: Hasher::new(),
        }
    }

    /// The checksum of what was written, and begins another.
    pub(super) fn take_sum(&mut self) -> Hasher {
        std::mem::take(&mut self.sum)
    }

    /// Goes on at another place. Nothing may be left to write.
    pub(super) fn seek(&mut self, offset: u64) {
        assert!(self.bytes.is_empty(), "what was gathered is written first");
        self.offset = offset;
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    pub(super) fn push(&mut self, file: &FinalFile, record: &[u8]) -> Result<(), StorageError> {
        if file.file.is_none() {
            self.sum.update(record);
            self.offset += record.len() as u64;
            return Ok(());
        }
        if self.bytes.len() + record.len() > WRITE_BYTES {
            self.write(file)?;
        }
        // What is larger than a write goes out as it is.
        if record.len() >= WRITE_BYTES {
            file.write_at(record, self.offset)?;
            self.sum.update(record);
            self.offset += record.len() as u64;
            return Ok(());
        }
        self.bytes.reserve_exact(WRITE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(record);
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn write(&mut self, file: &FinalFile) -> Result<(), StorageError> {
        file.write_at(&self.bytes, self.offset)?;
        self.sum.update(&self.bytes);
        self.offset = self.end();
        self.bytes.clear();
        Ok(())
    }
}

impl FinalFile {
    /// The file, and its checksum if it was made while the run went on.
    fn new(
        folder: &Path,
        target: PathBuf,
        outcome: Outcome,
        bytes: u64,
        whole: Option<PathBuf>,
        begun: Option<Begun>,
    ) -> Result<(Self, Option<Hasher>), StorageError> {
        let absolute = |path: &Path| std::path::absolute(path);
        let folder = absolute(folder).map_err(StorageError::io(folder, "find"))?;
        let places = places(&folder, &target, outcome)?;
        let mut begun = begun.filter(|_| places.beside);
        let mut file = Self {
            temporary: places.temporary,
            target: places.target,
            folder,
            bytes,
            file: None,
            checked: Checked::default(),
            finished: false,
        };
        let is_there = match begun.as_ref().map(|begun| begun.is_segment) {
            Some(false) => {
                fs::metadata(&file.temporary).is_ok_and(|metadata| metadata.len() == bytes)
            }
            _ => {
                let whole = whole.filter(|_| places.beside && bytes > COPIED_BYTES_MAX);
                whole.is_some_and(|segment| link(&segment, &file.temporary).is_ok())
            }
        };
        if !is_there {
            begun = None;
            file.file = Some(create(&file.temporary, bytes)?);
        }
        let sum = begun.map(|begun| {
            let (sum, checked) = begun.take();
            file.checked = checked;
            sum
        });
        Ok((file, sum))
    }

    /// Nothing to write if the file is whole already.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        match &self.file {
            None => Ok(()),
            Some(file) => {
                files::write_all_at(file, bytes, offset).map_err(|error| {
                    StorageError::new(&self.temporary, "write", self.bytes, error)
                })?;
                // The sync at the end finds the most of it done.
                files::begin_writing_out(file, offset..offset + bytes.len() as u64);
                Ok(())
            }
        }
    }

    /// The file is on the disk, and what was written is what the disk holds.
    fn finish(mut self, crc32: u32) -> Result<Made, StorageError> {
        let path = self.temporary.clone();
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => {
                opened = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(StorageError::io(&path, "open"))?;
                &opened
            }
        };
        let permissions = self
            .permissions()
            .map_err(StorageError::io(&self.folder, "create a file in"))?;
        files::set_permissions(file, permissions)
            .map_err(StorageError::io(&path, "set the permissions of"))?;
        if let Err(error) = files::sync_all(file) {
            return Err(match StorageError::new(&path, "sync", self.bytes, error) {
                // What the kernel could not write it may have thrown away: the next sync would say nothing.
                StorageError::Io { source, .. } => {
                    self.not_on_disk(format!("cannot sync it: {source}"))
                }
                no_space => no_space,
            });
        }
        let expected = Sum {
            bytes: self.bytes,
            crc32,
        };
        match sum::on_disk(&path, &self.checked) {
            Ok(found) if found == expected => {}
            Ok(found) => {
                return Err(self.not_on_disk(format!(
                    "{} bytes with the checksum {:08x} were, {} with {:08x} are there",
                    expected.bytes, expected.crc32, found.bytes, found.crc32
                )));
            }
            Err(error) => return Err(self.not_on_disk(format!("cannot read it back: {error}"))),
        }
        self.finished = true;
        Ok(Made {
            temporary: path,
            target: self.target.clone(),
            sum: expected,
        })
    }

    fn not_on_disk(&self, what: String) -> StorageError {
        StorageError::NotOnDisk {
            path: self.temporary.clone(),
            folder: self.folder.clone(),
            what,
        }
    }

    /// Those of the file that is replaced, else those that any new file gets.
    fn permissions(&self) -> io::Result<Permissions> {
        if let Ok(metadata) = fs::metadata(&self.target) {
            return Ok(metadata.permissions());
        }
        let probe = self.folder.join(PERMISSIONS_PROBE);
        let permissions = files::create(&probe)?.metadata()?.permissions();
        remove_if_there(&probe)?;
        Ok(permissions)
    }
}

impl Drop for FinalFile {
    fn drop(&mut self) {
        if !self.finished {
            // A merge that failed, perhaps for want of space, should not keep what it took.
            let _ = remove_if_there(&self.temporary);
        }
    }
}

fn create(path: &Path, bytes: u64) -> Result<File, StorageError> {
    let create = || {
        remove_if_there(path)?;
        let file = files::create_private(path)?;
        match files::reserve(&file, 0, bytes) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                remove_if_there(path)?;
                Err(error)
            }
            _ => Ok(file),
        }
    };
    create().map_err(|error| StorageError::new(path, "create", bytes, error))
}

fn link(segment: &Path, temporary: &Path) -> io::Result<()> {
    remove_if_there(temporary)?;
    files::link(segment, temporary)
}

fn stream_error(source: io::Error) -> StorageError {
    StorageError::io(Path::new("the output stream"), "write to")(source)
}
