//! Unix: modes, identities, positioned writes; space reservation on Linux.

use std::ffi::CString;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use memmap2::{Mmap, MmapMut, UncheckedAdvice};

#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
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

#[cfg(not(target_os = "linux"))]
pub(super) fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `ulimit -f`, in bytes.
#[cfg(target_os = "linux")]
fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: libc::RLIM64_INFINITY,
        rlim_max: libc::RLIM64_INFINITY,
    };
    // SAFETY: the call only fills in the struct that is passed; if it fails there is no limit known.
    unsafe { libc::getrlimit64(libc::RLIMIT_FSIZE, &raw mut limit) };
    limit.rlim_cur
}

pub(super) fn only_owner(options: &mut OpenOptions) {
    options.mode(0o600);
}

pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(bytes, offset)
}

pub(super) fn same_identity(one: &Metadata, other: &Metadata) -> Option<bool> {
    Some(one.dev() == other.dev() && one.ino() == other.ino())
}

pub(super) fn same_device(one: &Metadata, other: &Metadata) -> bool {
    one.dev() == other.dev()
}

pub(super) fn is_writable_folder(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        ) == 0
    }
}

pub(super) fn ignore_file_size_signal() {
    // SAFETY: installs no handler, only the disposition "ignore".
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

pub(super) fn release(map: &Mmap, range: Range<usize>) {
    // SAFETY: the mapping is shared and file-backed, so a released page is read again from the
    // file and no content is lost.
    let advised =
        unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    // Only an optimisation: if the kernel declines, the pages stay until it needs them.
    let _ = advised;
}

pub(super) fn release_mut(map: &MmapMut) {
    // SAFETY: as in `release`; dirty pages of a shared mapping stay in the page cache.
    let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
}
