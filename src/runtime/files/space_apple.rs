//! Space on macOS: `F_PREALLOCATE`, which counts from what is allocated already.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Unit of `st_blocks`, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

pub(in super::super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let until = offset.saturating_add(length);
    let allocated = file.metadata()?.blocks().saturating_mul(BLOCK_BYTES);
    if length == 0 || allocated >= until {
        return Ok(());
    }
    let missing = until - allocated;
    let mut wanted = libc::fstore_t {
        // All or nothing, wherever on the disk.
        fst_flags: libc::F_ALLOCATEALL,
        fst_posmode: libc::F_PEOFPOSMODE,
        fst_offset: 0,
        fst_length: libc::off_t::try_from(missing)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?,
        fst_bytesalloc: 0,
    };
    // SAFETY: the descriptor is open as long as `file`; the call reads and fills the struct.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PREALLOCATE, &raw mut wanted) };
    if result != -1 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // File systems that cannot: those of other systems, and most on a network.
        Some(libc::ENOTSUP | libc::EINVAL | libc::ENOTTY) => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(error),
    }
}
