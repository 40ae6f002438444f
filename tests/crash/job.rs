//! Which command is disturbed, and what it is doing at any change of the disk.

use std::path::Path;

use crate::supervise::Change;

/// What the command of a scene does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// From a file to files.
    File,
    /// The same with `--durability power`.
    Power,
    /// Over a finished output, with `--overwrite`.
    Overwrite,
    /// The failures of a finished run once more, with `--retry-errors`.
    RetryErrors,
    /// From standard input.
    Stdin,
    /// Successes to standard output.
    Stdout,
}

impl Job {
    pub const ALL: [Self; 6] = [
        Self::File,
        Self::Power,
        Self::Overwrite,
        Self::RetryErrors,
        Self::Stdin,
        Self::Stdout,
    ];
}

/// What a process was doing when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sending: between two requests.
    Send,
    /// Taking the run folder, first manifest.
    Begin,
    /// Copying standard input.
    Spool,
    /// Copying the final files of a finished run into a run folder.
    Reopen,
    /// Repairing what an earlier process left, and putting away what it had written ahead.
    Resume,
    /// Beginning its own segments and journal.
    Roll,
    /// Reserving space, and giving it back.
    Reserve,
    /// Writing or syncing records, entries and the mark.
    Write,
    /// Making the final files.
    Merge,
    /// Putting them in place.
    Publish,
    /// Deleting the run folder.
    CleanUp,
}

impl Phase {
    pub const OF_DISK: [Self; 10] = [
        Self::Begin,
        Self::Spool,
        Self::Reopen,
        Self::Resume,
        Self::Roll,
        Self::Reserve,
        Self::Write,
        Self::Merge,
        Self::Publish,
        Self::CleanUp,
    ];
}

/// What is made and deleted by a merge; `stdout` is [`Change`]'s name of standard output.
const OF_THE_MERGE: [&str; 5] = [
    "merge-index",
    "output.merged",
    "errors.merged",
    "permissions",
    "stdout",
];

/// Follows one process from change to change.
#[derive(Default)]
pub struct Follow {
    has_manifest: bool,
    has_rolled: bool,
    merges: bool,
}

impl Follow {
    /// A process that finds a run of this folder, or none.
    pub fn new(folder: &Path) -> Self {
        Self {
            has_manifest: folder.join("manifest.json").exists(),
            ..Self::default()
        }
    }

    /// The phase that this change belongs to.
    pub fn phase(&mut self, change: &Change) -> Phase {
        let (call, name) = (change.call, change.name());
        if matches!(name, "manifest.json.partial" | "manifest.copy.json.partial") {
            // The copy comes first.
            self.has_manifest |= call.starts_with("rename") && name == "manifest.json.partial";
            return if self.merges {
                Phase::Publish
            } else {
                Phase::Begin
            };
        }
        if name.starts_with("input.jsonl") && !call.starts_with("unlink") {
            return Phase::Spool;
        }
        if name.ends_with(".wal") && call.starts_with("unlink") {
            return match self.has_rolled {
                true => Phase::Write,
                false => Phase::Resume,
            };
        }
        if [".seg", ".log", ".wal"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return self.of_shard(call);
        }
        if OF_THE_MERGE.contains(&name) && !call.starts_with("rename") {
            let deletes = self.merges && call.starts_with("unlink") && name == "merge-index";
            self.merges = true;
            return if deletes {
                Phase::CleanUp
            } else {
                Phase::Merge
            };
        }
        match call {
            "rename" | "renameat" | "renameat2" => Phase::Publish,
            "unlink" | "unlinkat" | "rmdir" => Phase::CleanUp,
            _ if self.merges => Phase::Publish,
            _ => Phase::Begin,
        }
    }

    fn of_shard(&mut self, call: &str) -> Phase {
        match call {
            _ if !self.has_manifest => Phase::Reopen,
            "rename" | "renameat" | "renameat2" => Phase::Publish,
            "unlink" | "unlinkat" => Phase::CleanUp,
            "ftruncate" | "pwrite64" if !self.has_rolled => Phase::Resume,
            "openat" => {
                self.has_rolled = true;
                Phase::Roll
            }
            "fallocate" | "ftruncate" => Phase::Reserve,
            // A merge that needs no copy: the segment becomes the final file.
            "fchmod" => Phase::Merge,
            _ => Phase::Write,
        }
    }
}
