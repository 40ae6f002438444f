//! Windows: identities by handle, space reserved as allocation, positioned writes that move the
//! cursor (which nobody else uses). Access is inherited from the folder. What is mapped can be
//! neither removed, replaced nor cut; what is open goes when it is closed.

#[path = "cache_unknown.rs"]
mod cache;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Range;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::ptr;

use memmap2::{Mmap, MmapMut};
use windows_sys::Win32::Foundation::{
    ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_FUNCTION, ERROR_INVALID_PARAMETER,
    ERROR_NOT_SUPPORTED,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ALLOCATION_INFO, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_STANDARD_INFO, FileAllocationInfo, FileStandardInfo, GetDiskFreeSpaceExW,
    GetFileInformationByHandle, GetFileInformationByHandleEx, SetFileInformationByHandle,
};
use windows_sys::Win32::System::Memory::VirtualUnlock;

use super::Identity;
pub(super) use cache::{begin_writing_out, forget, open_direct};

/// What the file system allocates beyond the end belongs to the file until it is closed.
pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    let until = offset.checked_add(length).ok_or_else(too_large)?;
    let until = i64::try_from(until).map_err(|_| too_large())?;
    // Never less than there is: a smaller allocation would cut the file.
    if allocated(file)? >= until {
        return Ok(());
    }
    let wanted = FILE_ALLOCATION_INFO {
        AllocationSize: until,
    };
    // SAFETY: the handle is open as long as `file`; the struct is of the class's type and size.
    let done = unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle(),
            FileAllocationInfo,
            (&raw const wanted).cast(),
            size_of::<FILE_ALLOCATION_INFO>() as u32,
        )
    };
    if done != 0 { Ok(()) } else { Err(refusal()) }
}

fn allocated(file: &File) -> io::Result<i64> {
    let mut info = MaybeUninit::<FILE_STANDARD_INFO>::zeroed();
    // SAFETY: as in `reserve`; the call fills the struct, of which all zeros is a valid value too.
    unsafe {
        let done = GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileStandardInfo,
            info.as_mut_ptr().cast(),
            size_of::<FILE_STANDARD_INFO>() as u32,
        );
        if done == 0 {
            return Err(refusal());
        }
        let info = info.assume_init();
        Ok(info.AllocationSize.max(info.EndOfFile))
    }
}

/// The last error; `Unsupported` from file systems (and servers) that know no allocation.
fn refusal() -> io::Error {
    let error = io::Error::last_os_error();
    let unsupported = [
        ERROR_INVALID_FUNCTION,
        ERROR_NOT_SUPPORTED,
        ERROR_INVALID_PARAMETER,
        ERROR_CALL_NOT_IMPLEMENTED,
    ];
    match error.raw_os_error() {
        Some(code) if unsupported.contains(&code.cast_unsigned()) => {
            io::ErrorKind::Unsupported.into()
        }
        _ => error,
    }
}

pub(super) fn only_owner(_: &mut OpenOptions) {}

pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

pub(super) fn open_to_sync(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Names are the journal's of the file system; a folder cannot be flushed.
pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(bytes, offset)
}

/// The name goes at once, the file when the last handle does: until then its folder would not count
/// as empty, so it leaves that first.
pub(super) fn remove_open(path: &Path) -> io::Result<()> {
    let aside = path.parent().and_then(|folder| {
        let mut name = folder.as_os_str().to_os_string();
        name.push(format!(".removed-{}", std::process::id()));
        folder.parent().map(|_| name)
    });
    match aside {
        Some(aside) => {
            fs::rename(path, &aside)?;
            fs::remove_file(&aside)
        }
        None => fs::remove_file(path),
    }
}

pub(super) fn identity(path: &Path) -> Option<Identity> {
    // No access at all is asked for, so that it works on what others have open; the flag is for folders.
    let file = OpenOptions::new()
        .access_mode(0)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
        .ok()?;
    identity_of(&file)
}

pub(super) fn identity_of(file: &File) -> Option<Identity> {
    let mut info = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::zeroed();
    // SAFETY: as in `allocated`.
    let info = unsafe {
        if GetFileInformationByHandle(file.as_raw_handle(), info.as_mut_ptr()) == 0 {
            return None;
        }
        info.assume_init()
    };
    Some(Identity {
        device: u64::from(info.dwVolumeSerialNumber),
        file: (u64::from(info.nFileIndexHigh) << 32) | u64::from(info.nFileIndexLow),
    })
}

/// Access lists tell it only to the file system itself; creating the run folder will.
pub(super) fn is_writable_folder(path: &Path) -> bool {
    path.is_dir()
}

/// CON, NUL and their kin are devices in every folder and with any extension.
pub(super) fn is_device_name(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let stem = name.split(['.', ':']).next().unwrap_or(name);
    let stem = stem.trim_end().to_ascii_uppercase();
    let numbered = |prefix: &str| {
        let number = stem.strip_prefix(prefix);
        number.is_some_and(|number| matches!(number.as_bytes(), [b'1'..=b'9']))
    };
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str())
        || numbered("COM")
        || numbered("LPT")
}

pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let wide: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
    let mut free = 0;
    // SAFETY: `wide` ends in NUL and lives through the call, which fills the number; what is not asked for
    // may be null.
    let done = unsafe {
        GetDiskFreeSpaceExW(
            wide.as_ptr(),
            &raw mut free,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    (done != 0).then_some(free)
}

pub(super) fn ignore_file_size_signal() {}

pub(super) fn release(map: &Mmap, range: Range<usize>) {
    unload(&map[range]);
}

pub(super) fn release_mut(map: &MmapMut) {
    unload(map);
}

/// Takes pages out of the working set: that is what unlocking does to pages that were never locked.
fn unload(bytes: &[u8]) {
    // SAFETY: the range is mapped and file-backed, so its pages are read again when touched. The
    // call reports that they were not locked, which is known.
    unsafe { VirtualUnlock(bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_files() {
        for name in [
            "NUL",
            "nul.jsonl",
            "c:/data/Con",
            "aux .txt",
            "COM1",
            "lpt9.log",
            "NUL:",
        ] {
            assert!(is_device_name(Path::new(name)), "{name}");
        }
        for name in [
            "out.jsonl",
            "null",
            "COM",
            "COM0",
            "COM10",
            "console",
            "nul/out.jsonl",
        ] {
            assert!(!is_device_name(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn what_is_open_leaves_its_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("a folder");
        let file = File::create(inner.join("lock")).expect("a file");
        remove_open(&inner.join("lock")).expect("it goes");
        fs::remove_dir(&inner).expect("the folder is empty");
        drop(file);
    }
}
