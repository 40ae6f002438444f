//! Unix: modes, identities, positioned writes.

#[cfg(target_os = "linux")]
#[path = "space_linux.rs"]
mod space;
#[cfg(target_vendor = "apple")]
#[path = "space_apple.rs"]
mod space;
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
#[path = "space_unknown.rs"]
mod space;

#[cfg(target_os = "linux")]
#[path = "cache_linux.rs"]
mod cache;
#[cfg(not(target_os = "linux"))]
#[path = "cache_unknown.rs"]
mod cache;

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use memmap2::{Mmap, MmapMut, UncheckedAdvice};

use super::Identity;
pub(super) use cache::{begin_writing_out, forget, open_direct};
pub(super) use space::reserve;

pub(super) fn only_owner(options: &mut OpenOptions) {
    options.mode(0o600);
}

pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn open_to_sync(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(bytes, offset)
}

pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(bytes, offset)
}

pub(super) fn remove_open(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

pub(super) fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path)
        .ok()
        .map(|metadata| identity_in(&metadata))
}

pub(super) fn identity_of(file: &File) -> Option<Identity> {
    file.metadata().ok().map(|metadata| identity_in(&metadata))
}

fn identity_in(metadata: &fs::Metadata) -> Identity {
    Identity {
        device: metadata.dev(),
        file: metadata.ino(),
    }
}

/// Devices have paths of their own, and their file type tells.
pub(super) fn is_device_name(_: &Path) -> bool {
    false
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

pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut told = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `folder` is a NUL-terminated string that lives through the call, which fills the struct; all
    // zeros is a valid value of it, too.
    let told = unsafe {
        if libc::statvfs(folder.as_ptr(), told.as_mut_ptr()) != 0 {
            return None;
        }
        told.assume_init()
    };
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the types are not u64 on every system"
    )]
    Some(u64::from(told.f_bavail).saturating_mul(told.f_frsize as u64))
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
