//! What can go wrong between a finished record and its place in the final files.

use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::files;

/// A failure of storage. Nothing that was journalled is lost by it; the run can be resumed unless
/// the files are [`StorageError::Damaged`].
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk, a quota or the file size limit is exhausted.
    #[error("no space for {}: {source}; at least {needed_bytes} bytes are needed there{}; make room, then run the same command again", path.display(), free_clause(*free_bytes))]
    NoSpace {
        /// The file that could not grow.
        path: PathBuf,
        /// By how much it had to.
        needed_bytes: u64,
        /// What was free on its disk just afterwards, where that is known.
        free_bytes: Option<u64>,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A final file was written, and the disk does not hold it. It was not put in place.
    #[error("{} cannot be made: the disk does not hold what was written ({what}); nothing was replaced and {} keeps every record: look after the disk, then run the same command again", path.display(), folder.display())]
    NotOnDisk {
        /// The final file, under its temporary name.
        path: PathBuf,
        /// The run folder.
        folder: PathBuf,
        /// How that showed.
        what: String,
    },
    /// A file of the run folder was cut or altered behind the program's back.
    #[error("{} is damaged at byte {offset}: {what}; the run cannot simply be resumed; --salvage keeps every record that is whole and sends the other lines again, --fresh throws the run away", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where the damage shows.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A defect of ours: a line has no record, or a record no line. Nothing was published.
    #[error("the books do not balance: {lines} lines, but {succeeded} succeeded and {failed} failed; {} is kept, please report this", path.display())]
    Books {
        /// The run folder.
        path: PathBuf,
        /// Lines of the input.
        lines: u64,
        /// Success records.
        succeeded: u64,
        /// Failure records.
        failed: u64,
    },
    /// A final file came into being while the run was under way.
    #[error("{} already exists; --overwrite replaces it", path.display())]
    TargetExists {
        /// The final file.
        path: PathBuf,
    },
}

impl StorageError {
    /// Sorts the system's error: is it space, or something else? `needed_bytes` is what was asked for.
    pub(super) fn new(
        path: &Path,
        operation: &'static str,
        needed_bytes: u64,
        source: io::Error,
    ) -> Self {
        let free_bytes = || path.parent().and_then(files::free_bytes);
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace {
                path: path.to_path_buf(),
                needed_bytes,
                free_bytes: free_bytes(),
                source,
            },
            _ => Self::Io {
                path: path.to_path_buf(),
                operation,
                source,
            },
        }
    }

    /// For operations that need no space to speak of.
    pub(super) fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(path, operation, 0, source)
    }

    /// What is wrong where, without a way out.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Damaged { path, offset, what } => {
                format!("{} is damaged at byte {offset}: {what}", path.display())
            }
            other => other.to_string(),
        }
    }

    /// The same command can go on once the cause is gone.
    pub fn is_resumable(&self) -> bool {
        !matches!(self, Self::Damaged { .. } | Self::Books { .. })
    }
}

fn free_clause(free_bytes: Option<u64>) -> String {
    free_bytes.map_or_else(String::new, |free| format!(", {free} bytes are free"))
}
