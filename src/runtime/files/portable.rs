//! Where files have no Unix modes or identities (Windows): access is inherited from the folder,
//! space is not reserved, and files are compared by their resolved paths.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

pub(super) fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn only_owner(_: &mut OpenOptions) {}

pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Moves the cursor, which nobody else uses.
pub(super) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    file.write(bytes)
}

pub(super) fn same_identity(_: &Metadata, _: &Metadata) -> Option<bool> {
    None
}

pub(super) fn same_device(_: &Metadata, _: &Metadata) -> bool {
    true
}

pub(super) fn is_writable_folder(path: &Path) -> bool {
    path.is_dir()
}

pub(super) fn ignore_file_size_signal() {}

pub(super) fn release(_: &Mmap, _: Range<usize>) {}

pub(super) fn release_mut(_: &MmapMut) {}
