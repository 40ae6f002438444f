//! A final file's length and checksum, read from the disk by several threads.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crc32fast::Hasher;

use super::THREADS_MAX;
use crate::batch::folder::Sum;
use crate::runtime;
use crate::runtime::files::{Block, FromDisk};

/// What is read at once: large enough for a disk to be busy with four of them, and a multiple of what disks
/// ask for.
pub(super) const BLOCK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 512 << 10 };

/// The beginning of a file, of whole blocks, that the disk was found to hold as it was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Checked {
    pub(super) bytes: u64,
    sum: Hasher,
}

impl Checked {
    /// Looks for the next `bytes`, a multiple of a block's, of which `expected` is the checksum; they may be on
    /// their way to the disk. They are read through `memory`, by a whole part of them at a time. Where reads cannot
    /// pass the page cache by, nothing is found: it is as it was.
    pub(super) fn extend(
        &mut self,
        path: &Path,
        bytes: u64,
        expected: &Hasher,
        memory: &mut Block,
    ) -> io::Result<()> {
        let file = FromDisk::open(path)?;
        if !file.passes_cache_by() {
            return Ok(());
        }
        let mut sum = Hasher::new();
        let end = self.bytes + bytes;
        let mut offset = self.bytes;
        while offset < end {
            let read = file.read(memory, offset)?;
            if read.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A file that is being written may be longer by now.
            let read = &read[..read.len().min((end - offset) as usize)];
            sum.update(read);
            offset += read.len() as u64;
        }
        if sum.clone().finalize() != expected.clone().finalize() {
            return Err(io::Error::other("the disk does not hold what was written"));
        }
        self.sum.combine(&sum);
        self.bytes += bytes;
        Ok(())
    }
}

/// What the disk holds of a file that was synced. What was `checked` is not read again.
pub(super) fn on_disk(path: &Path, checked: &Checked) -> io::Result<Sum> {
    let file = FromDisk::open(path)?;
    let first = checked.bytes / BLOCK_BYTES as u64;
    let blocks = file.length().div_ceil(BLOCK_BYTES as u64);
    let threads = runtime::parallel_threads()
        .min(THREADS_MAX)
        .min(usize::try_from(blocks.saturating_sub(first)).unwrap_or(usize::MAX));
    let next = AtomicU64::new(first);
    let work = || blocks_of(&file, &next, blocks);
    let mut sums = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut sums = work()?;
        for other in others {
            // A panic there is a bug here; it goes on, rather than being taken for a result.
            let theirs = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sums.extend(theirs?);
        }
        Ok::<_, io::Error>(sums)
    })?;
    sums.sort_unstable_by_key(|(block, _)| *block);
    let mut whole = checked.sum.clone();
    for (_, sum) in &sums {
        whole.combine(sum);
    }
    Ok(Sum {
        bytes: file.length(),
        crc32: whole.finalize(),
    })
}

/// One thread's part.
fn blocks_of(file: &FromDisk, next: &AtomicU64, blocks: u64) -> io::Result<Vec<(u64, Hasher)>> {
    let mut memory = Block::new(BLOCK_BYTES);
    let mut sums = Vec::new();
    loop {
        let block = next.fetch_add(1, Ordering::Relaxed);
        if block >= blocks {
            return Ok(sums);
        }
        let mut sum = Hasher::new();
        sum.update(file.read(&mut memory, block * BLOCK_BYTES as u64)?);
        sums.push((block, sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_all_bytes_in_their_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        for length in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 9 * BLOCK_BYTES + 77] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 / 3) as u8).collect();
            std::fs::write(&path, &bytes).expect("a file");
            let expected = Sum {
                bytes: length as u64,
                crc32: crc32fast::hash(&bytes),
            };
            let unread = Checked::default();
            assert_eq!(on_disk(&path, &unread).expect("it is read"), expected);
        }
    }

    #[test]
    fn what_was_checked_is_not_read_again_and_what_differs_is_found() {
        const STEP: usize = 2 * BLOCK_BYTES;
        // On a disk: memory knows no reads past the cache.
        let folder = tempfile::tempdir_in(".").expect("a temporary folder");
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..2 * STEP + 77).map(|at| (at * 7 / 3) as u8).collect();
        std::fs::write(&path, &bytes).expect("a file");
        if !FromDisk::open(&path).expect("a file").passes_cache_by() {
            eprintln!("skipped: no reads past the cache here");
            return;
        }
        let sum = |bytes: &[u8]| {
            let mut sum = Hasher::new();
            sum.update(bytes);
            sum
        };
        let mut checked = Checked::default();
        let mut memory = Block::new(BLOCK_BYTES);
        let step = STEP as u64;
        (checked.extend(&path, step, &sum(&bytes[..STEP]), &mut memory))
            .expect("it is there, synced or not");
        let other = checked.extend(&path, step, &sum(b"something else"), &mut memory);
        assert!(other.is_err(), "{checked:?}");
        assert_eq!(checked.bytes, step);
        let whole = on_disk(&path, &checked).expect("it is read");
        assert_eq!(
            (whole.bytes, whole.crc32),
            (bytes.len() as u64, crc32fast::hash(&bytes))
        );
        // What changes behind the check's back is not seen in its part, and is in the rest.
        for (at, is_seen) in [(0, false), (STEP, true)] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).expect("a file");
            let found = on_disk(&path, &checked).expect("it is read");
            assert_eq!(found.crc32 != whole.crc32, is_seen, "byte {at}");
        }
    }
}
