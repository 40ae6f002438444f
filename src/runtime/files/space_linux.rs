//! Space on Linux: `fallocate`, and the limit of file sizes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub(in super::super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    // The call itself ignores the limit as long as the size stays, and the write would fail later.
    if offset.saturating_add(length) > file_size_limit() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let offset = libc::off64_t::try_from(offset).map_err(too_large)?;
    let length = libc::off64_t::try_from(length).map_err(too_large)?;
    loop {
        // SAFETY: a system call on a descriptor that `file` keeps open; no memory is passed.
        let result = unsafe {
            libc::fallocate64(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, length)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Old kernels and some network file systems answer ENOSYS.
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

/// `ulimit -f`, in bytes.
fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: libc::RLIM64_INFINITY,
        rlim_max: libc::RLIM64_INFINITY,
    };
    // SAFETY: the call only fills in the struct that is passed; if it fails there is no limit known.
    unsafe { libc::getrlimit64(libc::RLIMIT_FSIZE, &raw mut limit) };
    limit.rlim_cur
}
