//! Standard input kept in the run folder, so that it can be mapped and read again on resuming.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::InputError;
use crate::runtime::files;

const COPY_BYTES: usize = 1 << 20;

/// Leaves the reader's bytes in `path`. They appear under that name only when they are complete.
///
/// A spool that is there is kept if the reader holds the same, or nothing. Another one is refused, or, with
/// `replace`, gives way.
pub(super) fn spool(reader: &mut dyn Read, path: &Path, replace: bool) -> Result<(), InputError> {
    let fail = |operation| {
        move |source| InputError::Io {
            path: path.to_path_buf(),
            operation,
            source,
        }
    };
    if path.exists() {
        let difference = difference(reader, path);
        let Some(read) = difference.map_err(fail("compare standard input with"))? else {
            return Ok(());
        };
        if !replace {
            return Err(InputError::OtherSpool {
                path: path.to_path_buf(),
            });
        }
        // What was read of it until then is in the old one, or at hand.
        let again = || -> io::Result<()> {
            let same = File::open(path)?.take(read.same);
            let mut all = same.chain(&read.other[..]).chain(reader);
            write(&mut all, &partial_path(path))
        };
        again().map_err(fail("spool"))?;
        return files::rename(&partial_path(path), path).map_err(fail("spool"));
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

/// What was read of a reader that holds something else than a file.
struct Difference {
    /// So many bytes are the same,
    same: u64,
    /// ... and these followed.
    other: Vec<u8>,
}

/// `None`: the reader holds what the file holds, or nothing.
fn difference(reader: &mut dyn Read, path: &Path) -> io::Result<Option<Difference>> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut expected = vec![0; COPY_BYTES];
    let mut same = 0;
    loop {
        let read = read_some(reader, &mut buffer)?;
        let is_other = match read {
            0 => same > 0 && read_some(&mut file, &mut expected)? > 0,
            _ => match file.read_exact(&mut expected[..read]) {
                Ok(()) => buffer[..read] != expected[..read],
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
                Err(error) => return Err(error),
            },
        };
        if is_other {
            let other = buffer[..read].to_vec();
            return Ok(Some(Difference { same, other }));
        }
        if read == 0 {
            return Ok(None);
        }
        same += read as u64;
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
