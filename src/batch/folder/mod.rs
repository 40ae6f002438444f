//! The run folder: everything of an unfinished run, held by one process at a time.
//!
//! `<output>.blaze/` (or `<errors>.blaze/`) holds the manifest, the lock, each shard's segments and
//! journal, and at the end the merged files until they are renamed. `docs/RUN_FOLDER.md` has the
//! format byte by byte.

#![expect(clippy::disallowed_methods, reason = "the run folder is made of files")]

mod claim;
mod drain;
mod examine;
mod figures;
mod manifest;
mod mend;
mod name;
mod resume;
mod salvage;
mod stopped_by;

pub use claim::Claim;
pub use figures::Keeper;
pub use manifest::{InputIdentity, Manifest, Merged, Publication, Sum};
pub use name::{FileKind, run_folder_path};
pub use resume::{DoneSet, LineSet, Mended, Resume, TokenTotals};
pub use salvage::Salvage;
pub use stopped_by::StoppedBy;

pub(super) use name::{
    DELIVERY_INDEX, ERRORS_MERGED, MERGE_INDEX, OUTPUT_MERGED, PERMISSIONS_PROBE, ShardFiles,
    remove_if_there,
};
pub(super) use resume::{damaged, map, record, record_text};

use std::fs::File;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use super::storage_error::StorageError;
use crate::journal::Entry;
use crate::runtime::files;
use manifest::{Phase, Stored};

/// The folder of this process's run. While it lives, no other process can open the run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    stored: Stored,
    generation: u32,
    /// Held: the lock goes with it.
    lock: File,
}

/// A run folder, and what was found in it.
#[derive(Debug)]
pub struct Opened {
    /// Ready for this process's shards.
    pub folder: RunFolder,
    /// What earlier processes finished; `None` for a new run.
    pub resume: Option<Resume>,
    /// An earlier process finished the whole run and died while it put the final files in place:
    /// [`complete`](crate::batch::merge::complete) ends that, or [`RunFolder::resume`] goes back to the
    /// records.
    pub publication: Option<Publication>,
}

/// Why a run folder cannot be used. Nothing was sent and nothing in the folder was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process works on this run.
    #[error("{} is in use by another process{}; wait for it to end", path.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Busy {
        /// The run folder.
        path: PathBuf,
        /// The other process, if known.
        pid: Option<u32>,
    },
    /// The unfinished run was started with something else.
    #[error("{} holds an unfinished run with another {what} ({then}; now {now}); repeat that command to resume it, or throw it away with --fresh", path.display())]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// As the run was started.
        then: String,
        /// As it is now.
        now: String,
    },
    /// Another version of this program wrote it.
    #[error("{} was written by another version of blaze-uring (format {version}, this one has {}); use that version, or throw the run away with --fresh", path.display(), manifest::VERSION)]
    OtherVersion {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
    /// Neither the manifest nor its copy is what this program writes.
    #[error("cannot understand {}: {reason}, nor its copy beside it; --salvage keeps every record that is whole and is of a line of this input, and sends the other lines again, --fresh throws the run away", path.display())]
    UnreadableManifest {
        /// The manifest.
        path: PathBuf,
        /// Where it is wrong.
        reason: String,
    },
    /// Something else lives there.
    #[error("{} is not a run folder of blaze-uring (it holds {name}); move it away", path.display())]
    Foreign {
        /// The folder, or the file in its place.
        path: PathBuf,
        /// What does not belong.
        name: String,
    },
    /// The run had finished, its final files are gone or are others, and so are records in its folder.
    #[error("the run in {} had finished, but its final files are missing or altered, and of its {lines} records only {left} are left in the folder; put the final files back, or keep those and send the other lines again with --salvage, or send every line anew with --fresh", path.display())]
    FinalFilesLost {
        /// The run folder.
        path: PathBuf,
        /// Records of the run.
        lines: u64,
        /// Those that the folder still has.
        left: u64,
    },
    /// Damage, or the system refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RunFolder {
    /// Takes the folder, creating it if need be, and reads what an earlier process left.
    ///
    /// With `fresh` an unfinished run in it is thrown away first. Without, the run must be the one
    /// that `manifest` describes; its torn tails are cut, every record is verified, and what was written
    /// ahead goes on to segments and journals.
    pub fn open_or_create(
        path: &Path,
        manifest: Manifest,
        fresh: bool,
    ) -> Result<Opened, FolderError> {
        Self::claim(path, fresh)?.open(manifest, None)
    }

    /// The first half of [`RunFolder::open_or_create`]: takes the folder before the manifest is
    /// known, so that standard input can be spooled into it ([`Claim::spool_path`]).
    pub fn claim(path: &Path, fresh: bool) -> Result<Claim, FolderError> {
        Claim::take(path, fresh)
    }

    /// Keeps the folder from every run of this process and others until this process ends.
    pub fn stay_locked(&self) {
        // Only without descriptors left is there no second one; then the lock goes with the first.
        mem::forget(self.lock.try_clone());
    }

    /// Whether an unfinished run may be there.
    pub fn exists(path: &Path) -> bool {
        [name::MANIFEST, name::MANIFEST_COPY]
            .iter()
            .any(|name| path.join(name).exists())
    }

    /// As given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run this folder holds. `overwrite` is set if any of its processes was told so.
    pub fn manifest(&self) -> &Manifest {
        &self.stored.manifest
    }

    /// Which process of the run this is: 1 for the first. Names the files it writes.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Random enough to tell runs apart; in every journal's header.
    pub fn run_id(&self) -> [u8; 16] {
        self.stored.run_id
    }

    /// Where a shard's file of this kind lies.
    pub fn shard_path(&self, kind: FileKind, generation: u32, shard: u32) -> PathBuf {
        ShardFiles { generation, shard }.path(&self.path, kind)
    }

    /// Every shard that wrote here, in order of generation and shard.
    pub(super) fn shards(&self) -> Result<Vec<ShardFiles>, StorageError> {
        name::shards(&self.path).map_err(StorageError::io(&self.path, "list"))
    }

    /// Every entry of every process of this run, in the order of the journals; a line whose error was
    /// sent again comes twice.
    pub fn each_entry(&self, on_entry: &mut dyn FnMut(&Entry)) -> Result<(), StorageError> {
        resume::each_entry(&self.path, &self.shards()?, on_entry)
    }

    /// Makes the names of files created in the folder, and the folder's own, survive power loss.
    pub fn sync_names(&self) -> Result<(), StorageError> {
        let absolute = std::path::absolute(&self.path);
        let absolute = absolute.map_err(StorageError::io(&self.path, "find"))?;
        for folder in [Some(absolute.as_path()), absolute.parent()] {
            let Some(folder) = folder else { continue };
            files::sync_directory(folder).map_err(StorageError::io(folder, "sync"))?;
        }
        Ok(())
    }

    /// Makes what earlier processes finished survive power loss, whatever durability they had.
    pub fn sync_earlier(&self) -> Result<(), StorageError> {
        for shard in self.shards()? {
            // As when they were written: an entry that is on the disk has its record there.
            for kind in [FileKind::Output, FileKind::Errors, FileKind::Journal] {
                let path = shard.path(&self.path, kind);
                match File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| files::sync_all(&file))
                {
                    // Without `-o` there is no output segment.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result.map_err(StorageError::io(&path, "sync"))?,
                }
            }
        }
        self.sync_names()
    }

    /// Remembers the lines for whose answers the run stops now, with those of earlier processes.
    pub fn note_stopped_by(&self, lines: &StoppedBy) -> Result<(), StorageError> {
        let mut known = StoppedBy::read(&self.path);
        known.add(lines);
        known.write(&self.path)
    }

    /// What an earlier process has come to, if it came so far.
    pub(super) fn publication(&self) -> Option<Publication> {
        self.stored.publication
    }

    /// Records that the final files are on the disk.
    pub(super) fn publish(&self, publication: &Publication) -> Result<(), StorageError> {
        let stored = Stored {
            phase: Phase::Publishing,
            publication: Some(*publication),
            ..self.stored.clone()
        };
        stored.write(&self.path)
    }

    /// Goes back to the records of a run whose final files an earlier process had made, and which are not
    /// what it made: they are merged again.
    ///
    /// # Errors
    /// As [`RunFolder::open_or_create`]; and, without `salvage`, the records are not all there any more.
    pub fn resume(
        &mut self,
        manifest: &Manifest,
        salvage: Option<&Salvage<'_>>,
    ) -> Result<Resume, FolderError> {
        self.stored.check_same_run(manifest, &self.path)?;
        let resume = resume::resume(&self.path, self.stored.run_id, salvage, true)?;
        let merged = self.stored.publication.unwrap_or_default().merged;
        let (lines, left) = (
            merged.succeeded + merged.failed,
            resume.succeeded + resume.failed,
        );
        if lines != left && salvage.is_none() {
            let path = self.path.clone();
            return Err(FolderError::FinalFilesLost { path, lines, left });
        }
        if lines != left {
            // It goes on as one that has not come so far.
            self.stored.phase = Phase::Running;
            self.stored.publication = None;
            self.stored.write(&self.path)?;
        }
        self.generation = resume.generation;
        Ok(resume)
    }

    /// Deletes the folder with everything of ours in it. An unknown file stays, and the folder with
    /// it. [`merge`](crate::batch::merge::merge) does it when the final files are in place.
    pub fn remove(&self) -> Result<(), StorageError> {
        remove(&self.path)
    }
}

/// Deletes what is ours in the folder, and the folder if nothing else is in it.
fn remove(folder: &Path) -> Result<(), StorageError> {
    remove_all(folder)?;
    // A folder that came back with the power would be looked at by the next command, which finds the final
    // files as they are then, and not as this run left them. There is nobody left who could try again.
    if let Ok(folder) = std::path::absolute(folder)
        && let Some(parent) = folder.parent()
    {
        let _ = files::sync_directory(parent);
    }
    Ok(())
}

fn remove_all(folder: &Path) -> Result<(), StorageError> {
    name::clear(folder).map_err(StorageError::io(folder, "empty"))?;
    let lock = folder.join(name::LOCK);
    match files::remove_open(&lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result.map_err(StorageError::io(&lock, "remove"))?,
    }
    match files::remove_folder(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        result => result.map_err(StorageError::io(folder, "remove")),
    }
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
