//! Stands where no disk is simulated: every operation goes to the system.

use std::fs::File;
use std::io;

use super::operation::Operation;

/// Makes a change.
#[inline]
pub(super) fn perform<T>(
    _operation: Operation<'_>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    act()
}

/// How many of `length` bytes a write takes.
#[inline]
pub(super) fn taken(length: usize) -> usize {
    length
}

/// What a simulated disk holds of a file.
#[inline]
pub(super) fn content(_file: &File) -> Option<Vec<u8>> {
    None
}
