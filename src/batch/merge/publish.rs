//! Final files that are on the disk get their names; and those that an earlier process has made are looked
//! for, and believed only if they are what it made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{StorageError, sum};
use crate::batch::folder::{
    ERRORS_MERGED, OUTPUT_MERGED, Publication, RunFolder, Sum, remove_if_there,
};
use crate::journal::Outcome;
use crate::runtime::files;

/// A final file that the disk holds.
pub(super) struct Made {
    pub(super) temporary: PathBuf,
    pub(super) target: PathBuf,
    pub(super) sum: Sum,
}

/// Where a final file is made, and where it goes.
pub(super) struct Places {
    /// Through links, so that a link stays one.
    pub(super) target: PathBuf,
    pub(super) temporary: PathBuf,
    /// The run folder is on the same file system.
    pub(super) beside: bool,
}

pub(super) fn places(
    folder: &Path,
    target: &Path,
    outcome: Outcome,
) -> Result<Places, StorageError> {
    let resolved = fs::canonicalize(target).or_else(|_| std::path::absolute(target));
    let target = resolved.map_err(StorageError::io(target, "find"))?;
    let parent = target.parent().unwrap_or(&target);
    let beside = files::same_file_system(folder, parent);
    let temporary = match outcome {
        _ if !beside => partial_path(&target),
        Outcome::Success => folder.join(OUTPUT_MERGED),
        Outcome::Failure => folder.join(ERRORS_MERGED),
    };
    Ok(Places {
        target,
        temporary,
        beside,
    })
}

/// Where a final file on another file system than the run folder is made.
fn partial_path(target: &Path) -> PathBuf {
    let mut path = target.as_os_str().to_os_string();
    path.push(".blaze.partial");
    path.into()
}

/// The last steps of a run, each of which can be repeated without harm: the error file, the output (whoever
/// waits for that finds both), and their names on the disk. `old_errors` is the error file of a run that this
/// one replaces, and which has none.
pub(super) fn put_in_place(
    made: &[Option<Made>; 2],
    old_errors: Option<&Path>,
) -> Result<(), StorageError> {
    let [output, errors] = made;
    if let Some(path) = old_errors {
        remove_if_there(path).map_err(StorageError::io(path, "remove"))?;
    }
    let placed = errors.iter().chain(output);
    for Made {
        temporary, target, ..
    } in placed.clone().filter(|made| made.temporary != made.target)
    {
        files::rename(temporary, target)
            .map_err(StorageError::io(target, "rename a finished file to"))?;
    }
    let mut parents: Vec<&Path> = placed
        .map(|made| made.target.as_path())
        .chain(old_errors)
        .map(|path| path.parent().unwrap_or(path))
        .collect();
    parents.dedup();
    for parent in parents {
        // A name without a folder before it is in the current one.
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        files::sync_directory(parent).map_err(StorageError::io(parent, "sync"))?;
    }
    Ok(())
}

/// Ends what an earlier process had come to: its final files are where `output` and `errors` say, or get
/// there now, and all that is left to do is [`RunFolder::remove`]. `false`: one of them is not what that
/// process made, and nothing was changed; the records have to be merged again ([`RunFolder::resume`]).
///
/// # Errors
/// The system refused to put a file in place.
pub fn complete(
    folder: &RunFolder,
    publication: &Publication,
    output: Option<&Path>,
    errors: &Path,
) -> Result<bool, StorageError> {
    let mut made = [None, None];
    let parts = [
        (publication.output, output, Outcome::Success),
        (publication.errors, Some(errors), Outcome::Failure),
    ];
    for ((sum, target, outcome), made) in parts.into_iter().zip(&mut made) {
        let Some(sum) = sum else { continue };
        let Some(target) = target else {
            return Ok(false);
        };
        *made = find(folder.path(), target, outcome, sum)?;
        if made.is_none() {
            return Ok(false);
        }
    }
    let overwrite = folder.manifest().overwrite;
    put_in_place(&made, old_errors(publication, errors, overwrite))?;
    Ok(true)
}

/// The error file that a run without failures replaces.
pub(super) fn old_errors<'a>(
    publication: &Publication,
    errors: &'a Path,
    overwrite: bool,
) -> Option<&'a Path> {
    let is_old = publication.merged.failed == 0 && overwrite && errors.is_file();
    is_old.then_some(errors)
}

/// The final file under its name, or under the one that it was made under.
fn find(
    folder: &Path,
    target: &Path,
    outcome: Outcome,
    sum: Sum,
) -> Result<Option<Made>, StorageError> {
    let Places {
        target, temporary, ..
    } = places(folder, target, outcome)?;
    let found = [&target, &temporary].into_iter().find(|path| is(path, sum));
    Ok(found.cloned().map(|temporary| Made {
        temporary,
        target,
        sum,
    }))
}

/// Whether the disk holds this file there. What cannot be read is not there.
fn is(path: &Path, sum: Sum) -> bool {
    let synced = || -> io::Result<bool> {
        if !fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == sum.bytes)
        {
            return Ok(false);
        }
        // It was synced before it was published. But somebody may have put a copy there since.
        files::sync_closed(path)?;
        Ok(sum::on_disk(path, &sum::Checked::default())? == sum)
    };
    synced().unwrap_or(false)
}
