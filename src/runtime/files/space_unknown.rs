//! Space where there is no way to reserve it that leaves a file's size alone.

use std::fs::File;
use std::io;

pub(in super::super) fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
