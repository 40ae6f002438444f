//! Why a run ended, and what it leaves behind.

use std::fmt;

use crate::batch::folder::StoppedBy;
use crate::batch::segment::StorageError;
use crate::metrics::Snapshot;

/// What a run leaves behind.
pub struct Finished {
    /// `None`: every line has its record.
    pub stopped: Option<Stopped>,
    /// The last figures.
    pub snapshot: Snapshot,
    /// Shards that have not left and never will: nobody may wait for their threads.
    pub stuck: Vec<usize>,
    /// Lines for whose answers endpoints were taken out.
    pub stopped_by: StoppedBy,
}

/// Why a run ended before its last line.
#[derive(Debug)]
pub enum Stopped {
    /// Ctrl-C, SIGTERM, SIGHUP or a cancel handle.
    Interrupted,
    /// Whoever read the records from standard output has closed it.
    ReaderGone,
    /// No endpoint can be used any more; the reasons.
    NoEndpoint(String),
    /// Nothing succeeds, and so many lines have ended in this same failure.
    NothingSucceeds {
        /// How many.
        lines: usize,
        /// The last one's text.
        message: String,
    },
    /// Records could not be written.
    Storage(StorageError),
    /// `--max-cost` is reached: US dollars spent.
    Cost(f64),
    /// The input changed under the run.
    InputChanged,
    /// A shard could not go on.
    Shard(String),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::ReaderGone => {
                f.write_str("whoever read the records from standard output has closed it")
            }
            Self::NoEndpoint(reasons) => f.write_str(reasons),
            Self::NothingSucceeds { lines, message } => write!(
                f,
                "nothing has succeeded, and {lines} lines ended in the same failure ({message})"
            ),
            Self::Storage(error) => error.fmt(f),
            Self::Cost(usd) => write!(f, "--max-cost is reached: {usd:.4} USD are spent"),
            Self::InputChanged => f.write_str("the input file changed during the run"),
            Self::Shard(reason) => f.write_str(reason),
        }
    }
}
