//! The page cache on Linux: passed by, emptied, written out.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file for reads that pass the page cache by. File systems without a disk refuse it.
pub(in super::super) fn open_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    options.open(path)
}

/// Takes a file's clean pages out of the page cache, so that the next read is one of the disk.
pub(in super::super) fn forget(file: &File) {
    // SAFETY: a system call on a descriptor that `file` keeps open; no memory is passed. It is advice:
    // what it says on failure changes nothing.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

pub(in super::super) fn begin_writing_out(file: &File, range: Range<u64>) {
    let (Ok(offset), Ok(length)) = (
        libc::off64_t::try_from(range.start),
        libc::off64_t::try_from(range.end.saturating_sub(range.start)),
    ) else {
        return;
    };
    // To this call, no length means up to the end.
    if length > 0 {
        // SAFETY: as above. An error of writing back stays with the file, for the sync to tell.
        unsafe {
            libc::sync_file_range(
                file.as_raw_fd(),
                offset,
                length,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }
}
