//! A file that only grows, with a buffer before it and reserved space after it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;
use crate::runtime::files;

/// Reserving is a system call and a transaction of the file system: not for less than this ...
const RESERVE_STEP_BYTES_MIN: u64 = 64 << 10;
/// ... and not for more, because it is taken from everyone else on the disk.
const RESERVE_STEP_BYTES_MAX: u64 = 8 << 20;
/// A buffer that one huge record has grown is cut back to this once it is empty.
const BUFFER_BYTES_KEPT_MAX: usize = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct AppendFile {
    path: PathBuf,
    file: Arc<File>,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs in the file.
    base: u64,
    /// How much of the buffer's start is in the file already, after a flush that failed half-way.
    flushed: usize,
    /// Up to where space is promised; `None` where the file system promises none.
    reserved: Option<u64>,
    /// Written to since it was last synced, or handed over for it.
    unsynced: bool,
}

impl AppendFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, StorageError> {
        let file = files::create_private(&path).map_err(StorageError::io(&path, "create"))?;
        Ok(Self {
            path,
            file: Arc::new(file),
            buffer: Vec::new(),
            base: 0,
            flushed: 0,
            reserved: Some(0),
            unsynced: true,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Append only.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Where in the file the buffer's byte `at` belongs.
    pub(super) fn position(&self, at: usize) -> u64 {
        self.base + at as u64
    }

    /// Where what is appended next belongs.
    pub(super) fn end(&self) -> u64 {
        self.position(self.buffer.len())
    }

    /// Bytes in the file.
    pub(super) fn written(&self) -> u64 {
        self.position(self.flushed)
    }

    /// Bytes that are not in the file yet.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len() - self.flushed
    }

    pub(super) fn flush(&mut self) -> Result<(), StorageError> {
        self.unsynced |= self.pending() > 0;
        while self.pending() > 0 {
            match files::write_at(&self.file, &self.buffer[self.flushed..], self.written()) {
                Ok(0) => return Err(self.write_error(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.flushed += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.write_error(error)),
            }
        }
        self.base = self.written();
        self.flushed = 0;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT_MAX);
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> StorageError {
        StorageError::new(&self.path, "write", self.pending() as u64, source)
    }

    /// Replaces bytes that are in the file.
    pub(super) fn overwrite(&mut self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        files::write_all_at(&self.file, bytes, offset)
            .map_err(StorageError::io(&self.path, "write"))
    }

    /// What is to be synced, if anything is. From here on it counts as done: a sync that fails is
    /// final for the whole log.
    pub(super) fn take_unsynced(&mut self) -> Option<(PathBuf, Arc<File>)> {
        std::mem::take(&mut self.unsynced).then(|| (self.path.clone(), Arc::clone(&self.file)))
    }

    /// Promises space for `bytes_ahead` bytes after what is buffered.
    pub(super) fn reserve(&mut self, bytes_ahead: u64) -> Result<(), StorageError> {
        let Some(reserved) = self.reserved else {
            return Ok(());
        };
        let position = self.end();
        let needed = position.saturating_add(bytes_ahead);
        if needed <= reserved {
            return Ok(());
        }
        // In proportion to what the file holds: a small run takes little, a large one asks rarely.
        let step = position.clamp(RESERVE_STEP_BYTES_MIN, RESERVE_STEP_BYTES_MAX);
        let from = reserved.max(self.written());
        let grow = |until: u64| files::reserve(&self.file, from, until - from).map(|()| until);
        // Where the step does not fit, what is needed may.
        match grow(needed.saturating_add(step)).or_else(|_| grow(needed)) {
            Ok(until) => self.reserved = Some(until),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.reserved = None,
            Err(error) => {
                return Err(StorageError::new(
                    &self.path,
                    "reserve space for",
                    needed - from,
                    error,
                ));
            }
        }
        Ok(())
    }

    /// Lets another file take the writes, such as one that is always full.
    #[cfg(test)]
    #[allow(dead_code, reason = "only Linux has such a file")]
    pub(super) fn swap(&mut self, file: impl Into<Arc<File>>) -> Arc<File> {
        std::mem::replace(&mut self.file, file.into())
    }

    /// Gives back the space beyond the end.
    pub(super) fn trim(&mut self) -> Result<(), StorageError> {
        if self
            .reserved
            .is_some_and(|reserved| reserved > self.written())
        {
            files::set_length(&self.file, self.written())
                .map_err(StorageError::io(&self.path, "trim"))?;
            self.reserved = Some(self.written());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_flush_that_failed_half_way_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut file = AppendFile::create(folder.path().join("segment")).expect("a new file");
        file.buffer().extend_from_slice(b"first\n");
        file.flush().expect("space");
        file.buffer().extend_from_slice(b"second\n");
        // The disk takes three bytes more, then is full.
        files::write_all_at(&file.file, b"sec", 6).expect("space");
        file.flushed = 3;
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("a device");
        let real = file.swap(full);
        match file.flush() {
            Err(StorageError::NoSpace {
                path,
                needed_bytes: 4,
                ..
            }) => assert_eq!(path, file.path),
            other => panic!("{other:?}"),
        }
        assert_eq!(file.position(file.buffer.len()), 13);
        file.buffer().extend_from_slice(b"third\n");
        file.file = real;
        file.flush().expect("room was made");
        let content = std::fs::read(&file.path).expect("a file");
        assert_eq!(content, b"first\nsecond\nthird\n");
        assert_eq!((file.written(), file.pending()), (19, 0));
    }

    #[test]
    fn a_huge_record_does_not_keep_its_memory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut file = AppendFile::create(folder.path().join("segment")).expect("a new file");
        file.buffer().resize(2 * BUFFER_BYTES_KEPT_MAX, b'x');
        file.flush().expect("space");
        assert!(file.buffer.capacity() <= BUFFER_BYTES_KEPT_MAX);
    }
}
