//! What a process does to its files, as a fault would find it.

#![cfg_attr(
    not(test),
    expect(dead_code, reason = "only a simulated disk looks at what is done")
)]

use std::fs::File;
use std::path::Path;

/// A change that a process makes to its files.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime) enum Operation<'a> {
    /// A file may come into being.
    Create(&'a Path),
    /// A folder comes into being.
    CreateFolder(&'a Path),
    /// Bytes go into a file.
    Write(&'a File, u64, &'a [u8]),
    /// Space is promised.
    Reserve(&'a File, u64, u64),
    /// A file gets another length.
    SetLength(&'a File, u64),
    /// Who may open a file changes.
    SetPermissions,
    /// A file's content becomes durable.
    Sync(&'a File),
    /// A folder's names become durable.
    SyncDirectory(&'a Path),
    /// A file gets another name.
    Rename(&'a Path, &'a Path),
    /// A file gets a second name.
    Link(&'a Path, &'a Path),
    /// A name goes.
    Remove(&'a Path),
    /// A folder goes.
    RemoveFolder(&'a Path),
}
