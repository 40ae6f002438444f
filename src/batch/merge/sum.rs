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
const BLOCK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 2 << 20 };

/// What the disk holds of a file that was synced.
pub(super) fn on_disk(path: &Path) -> io::Result<Sum> {
    let file = FromDisk::open(path)?;
    let blocks = file.length().div_ceil(BLOCK_BYTES as u64);
    let threads = runtime::parallel_threads()
        .min(THREADS_MAX)
        .min(usize::try_from(blocks).unwrap_or(usize::MAX));
    let next = AtomicU64::new(0);
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
    let mut whole = Hasher::new();
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
            assert_eq!(on_disk(&path).expect("it is read"), expected);
        }
    }
}
