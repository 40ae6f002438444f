//! A file as the disk has it, and not as the page cache does: what a write that failed unnoticed has left
//! differs in the two.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{disk, platform};

/// Offsets, lengths and memory of reads that pass the page cache by are multiples of this: of every block
/// size of disks that such reads are allowed on.
const ALIGNMENT: usize = 4096;

/// A file opened for reading it back. Reads pass the page cache by where the file system has such reads;
/// elsewhere the cache is told to forget the file first.
#[derive(Debug)]
pub struct FromDisk {
    file: File,
    length: u64,
    is_direct: bool,
    /// In a simulated world: what its disk holds.
    simulated: Option<Vec<u8>>,
}

/// Memory for a read.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    size: usize,
}

impl Block {
    /// Room for `size` bytes, rounded up to a multiple of 4096.
    pub fn new(size: usize) -> Self {
        let size = size.next_multiple_of(ALIGNMENT);
        let bytes = vec![0; size + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, size }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }
}

impl FromDisk {
    /// Opens a file. Where reads do not pass the page cache by, what is read is what the disk holds only if
    /// everything that was written is synced.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if let Some(bytes) = disk::content(&file) {
            return Ok(Self {
                file,
                length: bytes.len() as u64,
                is_direct: true,
                simulated: Some(bytes),
            });
        }
        // Some refuse only the read.
        let direct = platform::open_direct(path).and_then(|direct| {
            platform::read_at(&direct, Block::new(ALIGNMENT).room(), 0)?;
            Ok(direct)
        });
        let (file, is_direct) = match direct {
            Ok(direct) => (direct, true),
            Err(_) => {
                platform::forget(&file);
                (file, false)
            }
        };
        Ok(Self {
            file,
            length,
            is_direct,
            simulated: None,
        })
    }

    /// Whether reads pass the page cache by, so that what is on its way to the disk is waited for and read
    /// from there.
    pub fn passes_cache_by(&self) -> bool {
        self.is_direct
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file's bytes from `offset` on, a multiple of 4096: a block, or fewer at the end.
    pub fn read<'a>(&self, block: &'a mut Block, offset: u64) -> io::Result<&'a [u8]> {
        let room = block.room();
        let wanted = (self.length.saturating_sub(offset)).min(room.len() as u64) as usize;
        let mut filled = 0;
        while filled < wanted {
            match self.read_at(&mut room[filled..], offset + filled as u64) {
                Ok(read) if filled + read >= wanted => filled = wanted,
                // Shorter than there is bytes: the next one has to be aligned, too.
                Ok(read) if read >= ALIGNMENT => filled += read - read % ALIGNMENT,
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&room[..filled])
    }

    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(bytes) = &self.simulated else {
            return platform::read_at(&self.file, room, offset);
        };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(room.len());
        room[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_from_any_block() {
        // On a disk and in memory, which knows no reads past the cache.
        let mut folders = vec![tempfile::tempdir_in(".").expect("a temporary folder")];
        folders.extend(tempfile::tempdir_in("/dev/shm"));
        for folder in folders {
            for length in [0, 1, 4095, 4096, 4097, 20_000] {
                let written: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                let path = folder.path().join(length.to_string());
                std::fs::write(&path, &written).expect("a file");
                let file = File::open(&path).expect("a file");
                file.sync_all().expect("synced");
                let from_disk = FromDisk::open(&path).expect("a file");
                assert_eq!(from_disk.length(), length);
                let mut block = Block::new(8000);
                let mut read = Vec::new();
                for offset in (0..length).step_by(8192) {
                    read.extend_from_slice(from_disk.read(&mut block, offset).expect("bytes"));
                }
                assert_eq!(read, written, "{}", path.display());
            }
        }
    }
}
