//! Stands where the unit tests run: inside a simulated world its disk decides about each operation.

use std::fs::File;
use std::io;

use super::operation::Operation;
use super::platform;
use crate::runtime::simulated;

/// Makes a change, if the simulated disk lets it.
pub(super) fn perform<T>(
    operation: Operation<'_>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match simulated::current() {
        None => act(),
        Some(world) => world.disk.perform(&world, operation, act),
    }
}

/// How many of `length` bytes a write takes.
pub(super) fn taken(length: usize) -> usize {
    match simulated::current() {
        None => length,
        Some(world) => world.disk.taken(&world, length),
    }
}

/// What the simulated disk holds of a file; `None` where it is a real one's.
pub(super) fn content(file: &File) -> Option<Vec<u8>> {
    simulated::current()?.disk.content(file)
}

/// What tells an open file from every other one, under whatever name.
pub(in crate::runtime) fn identity(file: &File) -> Option<u64> {
    platform::identity_of(file).map(|identity| identity.file)
}
