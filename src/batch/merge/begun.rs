//! The output in the making while the run goes on, so that little is left to do at its end: records are written
//! to it in their final order as soon as their turn comes, sent on to the disk, and read back from there.
//!
//! The one shard of a run writes what will be the output itself: that is only read back. Nothing depends on any
//! of this. What was begun and does not end well is thrown away, and the merge makes the output from the
//! segments, as it does for a run that was interrupted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crc32fast::Hasher;

use super::publish::places;
use super::sum::{self, Checked};
use crate::batch::delivery::{Delivery, DeliveryPlan};
use crate::batch::folder::{FileKind, RunFolder, ShardFiles, remove_if_there};
use crate::config::Order;
use crate::journal::Outcome;
use crate::runtime::files::{self, Block};

/// The end of a run over less input than this takes a moment.
const INPUT_BYTES_MIN: u64 = if cfg!(test) { 1 } else { 32 << 20 };
/// The file goes to the disk, and is read back, by as much at a time: whole blocks of [`sum`].
const STEP_BYTES: u64 = if cfg!(test) {
    2 * sum::BLOCK_BYTES as u64
} else {
    16 << 20
};
/// Memory for reading back, which takes its time.
const READ_BYTES: usize = if cfg!(test) { 4 << 10 } else { 128 << 10 };
/// So many steps are on their way to the disk before the oldest is read back.
const STEPS_ON_THEIR_WAY: usize = 2;

/// How the making goes on.
const RUNNING: u8 = 0;
/// The run is over, and somebody waits: nothing is read back any more, which several threads do sooner.
const ENDING: u8 = 1;
const ABANDONED: u8 = 2;

/// An output in the making, on a thread of its own.
pub struct InTheMaking {
    delivery: Delivery<Making>,
    course: Course,
}

/// An output that is made, but for its last sync and what was not read back.
#[derive(Debug)]
pub struct Begun {
    pub(super) successes: u64,
    pub(super) bytes: u64,
    pub(super) sum: Hasher,
    pub(super) checked: Checked,
    /// The shard's own segment is it.
    pub(super) is_segment: bool,
    /// Goes with this, if nobody has taken it.
    copy: Option<PathBuf>,
}

/// Tells the thread how it goes on. Dropped: not at all.
struct Course(Arc<AtomicU8>);

/// The file, as the stream that records are delivered to.
#[derive(Debug)]
struct Making {
    path: PathBuf,
    /// `None`: somebody else writes it.
    copy: Option<File>,
    course: Arc<AtomicU8>,
    length: u64,
    sum: Hasher,
    /// Of what has come since the last whole step.
    step: Hasher,
    /// Whole steps that are on their way to the disk.
    under_way: VecDeque<Hasher>,
    checked: Checked,
    memory: Block,
}

impl InTheMaking {
    /// Whether a run by so many shards gains by it.
    pub fn is_worth_it(plan: &DeliveryPlan, shards: usize) -> bool {
        // By completion the records of several shards have no order before all are there.
        plan.input.size() >= INPUT_BYTES_MIN && (plan.order == Order::Input || shards == 1)
    }

    /// Begins to make the output that goes to `target`; every shard's files are there already. `None`: it is
    /// not worth it, or cannot be.
    pub fn start(
        folder: &RunFolder,
        plan: DeliveryPlan,
        target: &Path,
        shards: usize,
    ) -> Option<Self> {
        if !Self::is_worth_it(&plan, shards) {
            return None;
        }
        let places = places(folder.path(), target, Outcome::Success).ok()?;
        // A device or pipe is written to at the end; a file in its place would do harm.
        let is_file = places
            .target
            .metadata()
            .map_or(true, |there| there.is_file());
        if !places.beside || !is_file {
            return None;
        }
        let course = Arc::new(AtomicU8::new(RUNNING));
        let making = match shards {
            1 => {
                let files = ShardFiles {
                    generation: folder.generation(),
                    shard: 0,
                };
                let segment = files.path(folder.path(), FileKind::Output);
                Ok(Making::new(segment, None, &course))
            }
            _ => Making::copy(places.temporary, &course),
        };
        let delivery = making
            .map_err(|error| error.to_string())
            .and_then(|making| {
                let told = |error: &_| tracing::debug!("the output is made at the end: {error}");
                Delivery::start(folder, plan, making, told).map_err(|error| error.to_string())
            });
        match delivery {
            Ok(delivery) => Some(Self {
                delivery,
                course: Course(course),
            }),
            Err(error) => {
                tracing::debug!("the output is made at the end: {error}");
                None
            }
        }
    }

    /// Every record is there: the rest is made. `None`: the merge has to make it.
    pub fn finish(self) -> Option<Begun> {
        self.course.0.store(ENDING, Ordering::Relaxed);
        let (successes, making) = self.delivery.finish(false).ok()??;
        Some(making.end(successes))
    }

    /// The run stopped: what was made goes.
    pub fn abandon(self) {
        drop(self.course);
        // Whatever it says, nobody waits for the file.
        let _ = self.delivery.finish(true);
    }
}

impl Begun {
    /// Whoever finishes the file removes it, too, if that fails.
    pub(super) fn take(mut self) -> (Hasher, Checked) {
        self.copy = None;
        (
            std::mem::take(&mut self.sum),
            std::mem::take(&mut self.checked),
        )
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            let _ = remove_if_there(copy);
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        // What has ended well reads this no more.
        self.0.store(ABANDONED, Ordering::Relaxed);
    }
}

impl Making {
    fn new(path: PathBuf, copy: Option<File>, course: &Arc<AtomicU8>) -> Self {
        Self {
            path,
            copy,
            course: Arc::clone(course),
            length: 0,
            sum: Hasher::new(),
            step: Hasher::new(),
            under_way: VecDeque::new(),
            checked: Checked::default(),
            memory: Block::new(READ_BYTES),
        }
    }

    fn copy(path: PathBuf, course: &Arc<AtomicU8>) -> io::Result<Self> {
        remove_if_there(&path)?;
        let file = files::create_private(&path)?;
        Ok(Self::new(path, Some(file), course))
    }

    fn end(mut self, successes: u64) -> Begun {
        self.sum.combine(&self.step);
        tracing::debug!(
            "the output was made while the run went on: {} of {} bytes were read back",
            self.checked.bytes,
            self.length
        );
        Begun {
            successes,
            bytes: self.length,
            sum: std::mem::take(&mut self.sum),
            checked: std::mem::take(&mut self.checked),
            is_segment: self.copy.is_none(),
            copy: self.copy.take().map(|_| std::mem::take(&mut self.path)),
        }
    }

    /// A step is whole: it goes to the disk, and an earlier one is looked for there.
    fn step(&mut self) -> io::Result<()> {
        if let Some(file) = &self.copy {
            files::begin_writing_out(file, self.length - STEP_BYTES..self.length);
            // The shards come first: they must never find the disk full for this.
            let folder = self.path.parent().unwrap_or(&self.path);
            if files::free_bytes(folder).is_some_and(|free| free < self.length) {
                return Err(io::Error::other(
                    "there is no more space for it than it takes",
                ));
            }
        }
        let step = std::mem::take(&mut self.step);
        self.sum.combine(&step);
        self.under_way.push_back(step);
        while self.under_way.len() > STEPS_ON_THEIR_WAY
            && self.course.load(Ordering::Relaxed) == RUNNING
            && let Some(oldest) = self.under_way.pop_front()
        {
            self.checked
                .extend(&self.path, STEP_BYTES, &oldest, &mut self.memory)?;
        }
        Ok(())
    }
}

impl Write for Making {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.course.load(Ordering::Relaxed) == ABANDONED {
            return Err(io::Error::other("the run has stopped"));
        }
        let room = STEP_BYTES - self.length % STEP_BYTES;
        let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if let Some(file) = &self.copy {
            files::write_all_at(file, bytes, self.length)?;
        }
        self.step.update(bytes);
        self.length += bytes.len() as u64;
        if self.length.is_multiple_of(STEP_BYTES) {
            self.step()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.copy.take().is_some() {
            let _ = remove_if_there(&self.path);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test makes its own files")]
mod tests {
    use super::*;
    use crate::runtime::files::FromDisk;

    /// The file as whoever begins one finds it, and what is written to it.
    fn making(folder: &Path, is_copy: bool, course: &Arc<AtomicU8>) -> (Making, Vec<u8>) {
        let bytes: Vec<u8> = (0..5 * STEP_BYTES + 77)
            .map(|at| (at * 7 / 3) as u8)
            .collect();
        let path = folder.join("file");
        let making = match is_copy {
            true => Making::copy(path, course).expect("a file"),
            false => {
                std::fs::write(&path, &bytes).expect("a file");
                Making::new(path, None, course)
            }
        };
        (making, bytes)
    }

    #[test]
    fn it_is_read_back_while_it_grows_and_not_when_somebody_waits() {
        // On a disk: memory knows no reads past the cache.
        let folder = tempfile::tempdir_in(".").expect("a temporary folder");
        for is_copy in [true, false] {
            for course in [RUNNING, ENDING] {
                let course = Arc::new(AtomicU8::new(course));
                let (mut making, bytes) = making(folder.path(), is_copy, &course);
                making.write_all(&bytes).expect("space");
                let is_direct = FromDisk::open(&making.path)
                    .expect("a file")
                    .passes_cache_by();
                let begun = making.end(9);
                let expected = match course.load(Ordering::Relaxed) {
                    RUNNING if is_direct => 3 * STEP_BYTES,
                    _ => 0,
                };
                assert_eq!(begun.checked.bytes, expected, "copy: {is_copy}");
                assert_eq!(begun.sum.clone().finalize(), crc32fast::hash(&bytes));
                assert_eq!((begun.bytes, begun.successes), (bytes.len() as u64, 9));
                let path = folder.path().join("file");
                assert_eq!(std::fs::read(&path).expect("a file"), bytes);
                drop(begun);
                assert_eq!(
                    path.exists(),
                    !is_copy,
                    "a copy goes with what speaks of it"
                );
            }
        }
    }

    #[test]
    fn a_segment_that_is_not_what_was_delivered_is_given_up() {
        let folder = tempfile::tempdir_in(".").expect("a temporary folder");
        let course = Arc::new(AtomicU8::new(RUNNING));
        let (mut making, mut bytes) = making(folder.path(), false, &course);
        if FromDisk::open(&making.path)
            .expect("a file")
            .passes_cache_by()
        {
            bytes[0] ^= 1;
            making
                .write_all(&bytes)
                .expect_err("the segment has other bytes");
        }
    }

    #[test]
    fn a_run_that_has_stopped_writes_no_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let course = Arc::new(AtomicU8::new(RUNNING));
        let (mut making, bytes) = making(folder.path(), true, &course);
        making.write_all(&bytes[..100]).expect("space");
        drop(Course(Arc::clone(&course)));
        making.write_all(&bytes[100..]).expect_err("it has stopped");
        drop(making);
        assert!(!folder.path().join("file").exists());
    }
}
