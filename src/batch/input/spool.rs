//! Standard input kept in the run folder, so that it can be mapped and read again on resuming.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::InputError;
use crate::runtime::files;

const COPY_BYTES: usize = 1 << 20;

/// Leaves the reader's bytes in `path`. They appear under that name only when they are complete.
pub(super) fn spool(reader: &mut dyn Read, path: &Path) -> Result<(), InputError> {
    let fail = |operation| {
        move |source| InputError::Io {
            path: path.to_path_buf(),
            operation,
            source,
        }
    };
    if path.exists() {
        return match holds(reader, path).map_err(fail("compare standard input with"))? {
            true => Ok(()),
            false => Err(InputError::OtherSpool {
                path: path.to_path_buf(),
            }),
        };
    }
    let partial = partial_path(path);
    write(reader, &partial).map_err(fail("spool"))?;
    files::rename(&partial, path).map_err(fail("spool"))
}

/// Where an incomplete spool lies.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".partial");
    name.into()
}

fn write(reader: &mut dyn Read, partial: &Path) -> io::Result<()> {
    let file = files::open_private(partial)?;
    // What an earlier process spooled before it died.
    files::set_length(&file, 0)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let read = read_some(reader, &mut buffer)?;
        if read == 0 {
            // Under either durability: the source of a pipe is gone once it is read.
            return files::sync_all(&file);
        }
        files::write_all_at(&file, &buffer[..read], offset)?;
        offset += read as u64;
    }
}

/// Whether the reader holds what the file holds, or nothing.
fn holds(reader: &mut dyn Read, path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut expected = vec![0; COPY_BYTES];
    let mut first = true;
    loop {
        let read = read_some(reader, &mut buffer)?;
        if read == 0 {
            return Ok(first || read_some(&mut file, &mut expected)? == 0);
        }
        first = false;
        match file.read_exact(&mut expected[..read]) {
            Ok(()) if buffer[..read] == expected[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn read_some(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
