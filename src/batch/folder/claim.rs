//! Taking a run folder: created, locked, and either emptied or read.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, Phase, Stored};
use super::{FileKind, FolderError, Opened, RunFolder, Salvage, name, remove, resume};
use crate::batch::storage_error::StorageError;
use crate::runtime::files;

/// How often a folder may vanish between opening its lock and locking it: each time another
/// process finished its run in that instant.
const LOCK_TRIES_MAX: usize = 10;

/// A locked run folder of which only the place is known.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    lock: File,
}

impl Claim {
    pub(super) fn take(path: &Path, fresh: bool) -> Result<Self, FolderError> {
        // A folder of somebody else's is not even touched. One with our manifest may have gained a
        // stray file, which is in the way only of deleting.
        if path.is_dir()
            && (fresh || !RunFolder::exists(path))
            && let Some(name) = name::foreign(path).map_err(StorageError::io(path, "list"))?
        {
            return Err(FolderError::Foreign {
                path: path.to_path_buf(),
                name,
            });
        }
        let lock = lock(path)?;
        if fresh {
            name::clear(path).map_err(StorageError::io(path, "empty"))?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            lock,
        })
    }

    /// Where standard input is spooled.
    pub fn spool_path(&self) -> PathBuf {
        self.path.join(name::SPOOL)
    }

    /// The second half of [`RunFolder::open_or_create`]. With `salvage`, damage does not keep it from what
    /// is whole.
    pub fn open(
        self,
        manifest: Manifest,
        salvage: Option<&Salvage<'_>>,
    ) -> Result<Opened, FolderError> {
        let mut is_proven = true;
        let stored = match Stored::read(&self.path) {
            Ok(Some(stored)) if stored.phase == Phase::Running => {
                match stored.check_same_run(&manifest, &self.path) {
                    // What was never begun is nobody's.
                    Err(_) if !resume::holds_records(&self.path, stored.run_id)? => None,
                    _ => Some(stored),
                }
            }
            Err(FolderError::UnreadableManifest { .. }) if !self.may_hold_records()? => None,
            Err(error @ FolderError::UnreadableManifest { .. }) if salvage.is_some() => {
                let stored = Stored::rebuilt(&self.path, manifest.clone())?.ok_or(error)?;
                is_proven = false;
                Some(stored)
            }
            stored => stored?,
        };
        match stored {
            None => self.begin(manifest),
            Some(stored) => match stored.publication {
                Some(publication) if stored.phase != Phase::Running => {
                    let folder = RunFolder {
                        path: self.path,
                        stored,
                        generation: 0,
                        lock: self.lock,
                    };
                    Ok(Opened {
                        folder,
                        resume: None,
                        publication: Some(publication),
                    })
                }
                _ => self.resume(stored, manifest, salvage, is_proven),
            },
        }
    }

    /// Whether a line of the run in this folder, if there is one, has ended.
    pub fn holds_records(&self) -> Result<bool, FolderError> {
        match Stored::read(&self.path) {
            Ok(None) => Ok(false),
            Ok(Some(stored)) if stored.phase == Phase::Running => {
                Ok(resume::holds_records(&self.path, stored.run_id)?)
            }
            Err(FolderError::UnreadableManifest { .. }) => self.may_hold_records(),
            _ => Ok(true),
        }
    }

    /// Whether there is a byte of a record, as far as that can be seen without knowing the run.
    fn may_hold_records(&self) -> Result<bool, FolderError> {
        let shards = name::shards(&self.path).map_err(StorageError::io(&self.path, "list"))?;
        let has_bytes = |files: &name::ShardFiles| {
            [FileKind::Output, FileKind::Errors, FileKind::Ahead]
                .into_iter()
                .map(|kind| std::fs::metadata(files.path(&self.path, kind)))
                .any(|metadata| metadata.is_ok_and(|metadata| metadata.len() > 0))
        };
        Ok(shards.iter().any(has_bytes))
    }

    /// Begins a run of which a part was finished before: `fill` writes those records as generation 1.
    /// The manifest comes after them, so a process that is killed before leaves no run behind, and the
    /// next one begins anew. If `fill` fails, the folder goes.
    pub fn open_filled<E: From<FolderError>>(
        self,
        manifest: Manifest,
        fill: impl FnOnce(&RunFolder) -> Result<(), E>,
    ) -> Result<Opened, E> {
        let folder = self.unbegun(manifest)?;
        if let Err(error) = fill(&folder) {
            // The error tells more than that its traces could not be removed.
            let _ = folder.remove();
            return Err(error);
        }
        let RunFolder {
            path, stored, lock, ..
        } = folder;
        stored.write(&path).map_err(FolderError::from)?;
        let manifest = stored.manifest.clone();
        Ok(Self { path, lock }.resume(stored, manifest, None, true)?)
    }

    /// Gives the folder back as if it had never been taken: deletes it, unless it holds a run.
    pub fn abandon(self) -> Result<(), FolderError> {
        if RunFolder::exists(&self.path) {
            return Ok(());
        }
        Ok(remove(&self.path)?)
    }

    /// The folder of a run whose manifest is not written yet.
    fn unbegun(self, manifest: Manifest) -> Result<RunFolder, FolderError> {
        // Shards write only after the manifest; their files without one were left by a deletion
        // that was cut short, and the run they belonged to is over.
        for files in name::shards(&self.path).map_err(StorageError::io(&self.path, "list"))? {
            resume::remove_files(&self.path, files)?;
        }
        let stored = Stored::new(manifest, &self.path);
        Ok(RunFolder {
            path: self.path,
            stored,
            generation: 1,
            lock: self.lock,
        })
    }

    fn begin(self, manifest: Manifest) -> Result<Opened, FolderError> {
        let folder = self.unbegun(manifest)?;
        folder.stored.write(&folder.path)?;
        Ok(Opened {
            folder,
            resume: None,
            publication: None,
        })
    }

    fn resume(
        self,
        mut stored: Stored,
        manifest: Manifest,
        salvage: Option<&Salvage<'_>>,
        is_proven: bool,
    ) -> Result<Opened, FolderError> {
        stored.check_same_run(&manifest, &self.path)?;
        let resume = resume::resume(&self.path, stored.run_id, salvage, is_proven)?;
        if stored.is_copy || manifest.overwrite && !stored.manifest.overwrite {
            stored.manifest.overwrite |= manifest.overwrite;
            stored.is_copy = false;
            stored.write(&self.path)?;
        }
        let generation = resume.generation;
        let folder = RunFolder {
            path: self.path,
            stored,
            generation,
            lock: self.lock,
        };
        Ok(Opened {
            folder,
            resume: Some(resume),
            publication: None,
        })
    }
}

/// The folder's lock, the folder created if it is missing.
fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join(name::LOCK);
    for _ in 0..LOCK_TRIES_MAX {
        match files::create_private_folder(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StorageError::io(folder, "create the run folder")(error).into());
            }
            _ => {}
        }
        if !folder.is_dir() {
            return Err(FolderError::Foreign {
                path: folder.to_path_buf(),
                name: "a file".to_owned(),
            });
        }
        let file = match files::open_private(&path) {
            Ok(file) => file,
            // The folder was deleted by a process that has just finished.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StorageError::io(&path, "open")(error).into()),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FolderError::Busy {
                    path: folder.to_path_buf(),
                    pid: holder(&file),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StorageError::io(&path, "lock")(error).into());
            }
        }
        if files::is_named(&file, &path) {
            // Only for the message to a second process; without it that message lacks the pid.
            let pid = std::process::id().to_string();
            let _ = files::set_length(&file, 0)
                .and_then(|()| files::write_all_at(&file, pid.as_bytes(), 0));
            return Ok(file);
        }
    }
    Err(FolderError::Busy {
        path: folder.to_path_buf(),
        pid: None,
    })
}

/// Who holds the lock, as it says itself.
fn holder(file: &File) -> Option<u32> {
    const PID_DIGITS_MAX: u64 = 10;
    let mut text = String::new();
    file.take(PID_DIGITS_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}
