//! One final file in the making: runs of neighbouring records, copied in large writes; or a whole
//! segment that needs no copy at all.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::source::Source;
use super::{StorageError, Target};
use crate::batch::folder::{
    ERRORS_MERGED, OUTPUT_MERGED, PERMISSIONS_PROBE, Step, remove_if_there,
};
use crate::journal::{Entry, Outcome};
use crate::runtime::files;

const WRITE_BYTES: usize = 1 << 20;
/// Neighbours are written at the latest when there is this much: what was just verified is still in
/// the cache.
const RUN_BYTES_MAX: u64 = 8 << 20;

/// Takes the records of one outcome in their final order.
pub(super) struct Sink {
    outcome: Outcome,
    destination: Destination,
    run: Option<Run>,
}

/// Neighbouring records of one segment.
#[derive(Clone, Copy)]
struct Run {
    source: usize,
    start: u64,
    end: u64,
}

enum Destination {
    /// Records are counted, not kept.
    Nowhere,
    Stream(BufWriter<Box<dyn Write>>),
    File(FileDestination),
}

struct FileDestination {
    temporary: PathBuf,
    target: PathBuf,
    folder: PathBuf,
    bytes: u64,
    /// The one source with records of this outcome, if its segment may itself become the final file.
    sole_source: Option<usize>,
    /// Opened by the first write.
    writer: Option<BufWriter<File>>,
    finished: bool,
}

impl Sink {
    pub(super) fn nowhere(outcome: Outcome) -> Self {
        Self {
            outcome,
            destination: Destination::Nowhere,
            run: None,
        }
    }

    /// `bytes` is what will be pushed in all.
    pub(super) fn new(
        folder: &Path,
        target: Target,
        outcome: Outcome,
        bytes: u64,
        sources: &[Source],
    ) -> Result<Self, StorageError> {
        let destination = match target {
            Target::Stdout(stream) => {
                Destination::Stream(BufWriter::with_capacity(WRITE_BYTES, stream))
            }
            // A device or pipe (`-e /dev/null`) is written to; a file in its place would do harm.
            Target::File(path) if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) => {
                let device = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(StorageError::io(&path, "write to"))?;
                Destination::Stream(BufWriter::with_capacity(WRITE_BYTES, Box::new(device)))
            }
            Target::File(path) => {
                Destination::File(FileDestination::new(folder, path, outcome, bytes, sources)?)
            }
        };
        Ok(Self {
            outcome,
            destination,
            run: None,
        })
    }

    /// Appends a record that was verified.
    pub(super) fn push(
        &mut self,
        sources: &[Source],
        source: usize,
        entry: &Entry,
    ) -> Result<(), StorageError> {
        let end = entry.position + entry.length;
        match &mut self.run {
            Some(run) if run.source == source && run.end == entry.position => run.end = end,
            _ => {
                self.write_run(sources)?;
                self.run = Some(Run {
                    source,
                    start: entry.position,
                    end,
                });
            }
        }
        match self.run {
            Some(run) if run.end - run.start >= RUN_BYTES_MAX && !self.may_be_whole(run) => {
                self.write_run(sources)
            }
            _ => Ok(()),
        }
    }

    /// The run began with the segment's first byte and may reach its last.
    fn may_be_whole(&self, run: Run) -> bool {
        match &self.destination {
            Destination::File(file) => {
                run.start == 0 && file.writer.is_none() && file.sole_source == Some(run.source)
            }
            _ => false,
        }
    }

    fn write_run(&mut self, sources: &[Source]) -> Result<(), StorageError> {
        let Some(run) = self.run.take() else {
            return Ok(());
        };
        // Every record of the run was found within the segment.
        let bytes =
            &sources[run.source].segment(self.outcome)[run.start as usize..run.end as usize];
        match &mut self.destination {
            Destination::Nowhere => Ok(()),
            Destination::Stream(stream) => stream.write_all(bytes).map_err(stream_error),
            Destination::File(file) => {
                // In pieces, so that a long run passes through memory instead of filling it.
                for piece in bytes.chunks(RUN_BYTES_MAX as usize) {
                    file.write(piece)?;
                    if bytes.len() > piece.len() {
                        sources[run.source].release();
                    }
                }
                Ok(())
            }
        }
    }

    /// Completes the file and tells which step puts it in place; `None` if there is nothing to place.
    pub(super) fn finish(
        mut self,
        sources: &[Source],
        sync: bool,
    ) -> Result<Option<Step>, StorageError> {
        let whole = match (self.run, &self.destination) {
            (Some(run), Destination::File(file))
                if self.may_be_whole(run) && run.end == file.bytes =>
            {
                let source = &sources[run.source];
                (run.end == source.segment(self.outcome).len() as u64)
                    .then(|| source.segment_path(self.outcome))
            }
            _ => None,
        };
        if whole.is_none() {
            self.write_run(sources)?;
        }
        match self.destination {
            Destination::Nowhere => Ok(None),
            Destination::Stream(mut stream) => stream.flush().map(|()| None).map_err(stream_error),
            Destination::File(file) => file.finish(whole, sync).map(Some),
        }
    }
}

impl FileDestination {
    fn new(
        folder: &Path,
        target: PathBuf,
        outcome: Outcome,
        bytes: u64,
        sources: &[Source],
    ) -> Result<Self, StorageError> {
        // Absolute, for a process that resumes elsewhere; through links, so that a link stays one.
        let absolute = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let target = absolute(&target).map_err(StorageError::io(&target, "find"))?;
        let folder = absolute(folder).map_err(StorageError::io(folder, "find"))?;
        let parent = target.parent().unwrap_or(&target);
        let beside = files::same_file_system(&folder, parent);
        let temporary = match outcome {
            _ if !beside => partial_path(&target),
            Outcome::Success => folder.join(OUTPUT_MERGED),
            Outcome::Failure => folder.join(ERRORS_MERGED),
        };
        let mut with_records =
            (0..sources.len()).filter(|source| !sources[*source].segment(outcome).is_empty());
        let sole_source = with_records
            .next()
            .filter(|_| with_records.next().is_none() && beside);
        Ok(Self {
            temporary,
            target,
            folder,
            bytes,
            sole_source,
            writer: None,
            finished: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let needed_bytes = self.bytes;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(create(&self.temporary, needed_bytes)?),
        };
        writer
            .write_all(bytes)
            .map_err(|error| StorageError::new(&self.temporary, "write", needed_bytes, error))
    }

    /// `whole` is the segment that already is the final file.
    fn finish(mut self, whole: Option<PathBuf>, sync: bool) -> Result<Step, StorageError> {
        let (from, file) = match whole {
            Some(segment) => {
                let file = File::options()
                    .write(true)
                    .open(&segment)
                    .map_err(StorageError::io(&segment, "open"))?;
                (segment, file)
            }
            None => {
                self.write(&[])?; // an empty final file is a file too
                let writer = self.writer.take().expect("`write` opened it");
                let file = writer.into_inner().map_err(|error| {
                    StorageError::new(&self.temporary, "write", self.bytes, error.into_error())
                })?;
                (self.temporary.clone(), file)
            }
        };
        let permissions = self
            .permissions()
            .map_err(StorageError::io(&self.folder, "create a file in"))?;
        file.set_permissions(permissions)
            .map_err(StorageError::io(&from, "set the permissions of"))?;
        if sync {
            file.sync_all().map_err(StorageError::io(&from, "sync"))?;
        }
        self.finished = true;
        Ok(Step::Rename {
            from,
            to: self.target.clone(),
        })
    }

    /// Those of the file that is replaced, else those that any new file gets.
    fn permissions(&self) -> io::Result<Permissions> {
        if let Ok(metadata) = fs::metadata(&self.target) {
            return Ok(metadata.permissions());
        }
        let probe = self.folder.join(PERMISSIONS_PROBE);
        let permissions = File::create(&probe)?.metadata()?.permissions();
        remove_if_there(&probe)?;
        Ok(permissions)
    }
}

impl Drop for FileDestination {
    fn drop(&mut self) {
        if !self.finished && self.writer.is_some() {
            // A merge that failed, perhaps for want of space, should not keep what it took.
            let _ = remove_if_there(&self.temporary);
        }
    }
}

fn create(path: &Path, bytes: u64) -> Result<BufWriter<File>, StorageError> {
    let create = || {
        remove_if_there(path)?;
        let file = files::create_private(path)?;
        match files::reserve(&file, 0, bytes) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                remove_if_there(path)?;
                Err(error)
            }
            _ => Ok(BufWriter::with_capacity(WRITE_BYTES, file)),
        }
    };
    create().map_err(|error| StorageError::new(path, "create", bytes, error))
}

/// Where a final file on another file system than the run folder is made.
fn partial_path(target: &Path) -> PathBuf {
    let mut path = target.as_os_str().to_os_string();
    path.push(".blaze.partial");
    path.into()
}

fn stream_error(source: io::Error) -> StorageError {
    StorageError::io(Path::new("the output stream"), "write to")(source)
}
