//! Group fsync off the shard's thread: a disk takes milliseconds, in which the shard can send and
//! receive hundreds of requests.
//!
//! One thread per shard, one job at a time. What was written meanwhile is in the next job.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::StorageError;
use crate::runtime::{files, simulated};

/// Files that have grown since they were last synced, in the order in which they must be synced, and
/// how many entries are safe then.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) files: Vec<(PathBuf, Arc<File>)>,
    pub(super) entries: u64,
}

impl Job {
    /// Takes as long as the disk takes. The entries that are safe now.
    pub(super) fn run(self) -> Result<u64, StorageError> {
        for (path, file) in &self.files {
            files::sync_data(file).map_err(StorageError::io(path, "sync"))?;
        }
        Ok(self.entries)
    }
}

/// The thread, and what it is busy with. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Syncer {
    /// `None` in a simulated world, in which all happens in one thread.
    thread: Option<Thread>,
    /// In that world, the result of the last job until it is asked for.
    done: Option<Result<u64, StorageError>>,
    busy: bool,
}

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    results: Receiver<Result<u64, StorageError>>,
}

impl Syncer {
    pub(super) fn start(shard: u32) -> std::io::Result<Self> {
        let thread = match simulated::current() {
            Some(_) => None,
            None => Some(Thread::start(shard)?),
        };
        Ok(Self {
            thread,
            done: None,
            busy: false,
        })
    }

    /// A job is under way, or its result was not taken yet.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Only if it is not busy.
    pub(super) fn hand_over(&mut self, job: Job) {
        debug_assert!(!self.busy, "one job at a time");
        match &self.thread {
            // The thread ends only with this struct.
            Some(thread) => self.busy = thread.jobs.send(job).is_ok(),
            None => {
                self.done = Some(job.run());
                self.busy = true;
            }
        }
    }

    /// The result of the last job, if there is one by now.
    pub(super) fn poll(&mut self) -> Option<Result<u64, StorageError>> {
        let result = match &self.thread {
            Some(thread) => thread.results.try_recv().ok(),
            None => self.done.take(),
        }?;
        self.busy = false;
        Some(result)
    }

    /// Waits for the job under way. The kernel tells an error of writing back only once for each
    /// file, so whoever syncs after it must have heard this result.
    pub(super) fn wait(&mut self) -> Option<Result<u64, StorageError>> {
        let result = match &self.thread {
            Some(thread) if self.busy => thread.results.recv().ok(),
            Some(_) => None,
            None => self.done.take(),
        };
        self.busy = false;
        result
    }
}

impl Thread {
    fn start(shard: u32) -> std::io::Result<Self> {
        let (jobs, inbox) = bounded::<Job>(1);
        let (outbox, results) = bounded(1);
        thread::Builder::new()
            .name(format!("sync-{shard}"))
            .spawn(move || {
                for job in inbox {
                    // Nobody waits for the result any more: the shard is gone.
                    if outbox.send(job.run()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { jobs, results })
    }
}
