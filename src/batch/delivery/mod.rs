//! Records leave the folder while the run goes on, in the order of the input or of completion: through
//! standard output (`-o -`), or into the output in the making.
//!
//! A thread of its own reads what shards have written to the run folder, up to their journals' marks: so
//! what has left is in the folder, too, a reader that is slow costs no memory, and no shard waits for it.
//! The folder keeps everything until the end. A process that resumes writes all records again, for its
//! stream is another one.

#![expect(clippy::disallowed_methods, reason = "reads files of the run folder")]

mod source;
mod turns;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::folder::RunFolder;
use super::input::{Input, Scan};
use super::storage_error::StorageError;
use crate::config::Order;
use crate::journal::Outcome;
use source::Source;
use turns::{Turn, Turns};

/// How often the journals are looked at. Shards put their records there every tenth of a second.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Records are gathered into writes of this size, within one look.
const WRITE_BYTES: usize = if cfg!(test) { 64 } else { 64 << 10 };
/// A run that stops leaves behind a reader that takes nothing for this long.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// What is delivered, and how.
pub struct DeliveryPlan {
    /// Order of the records.
    pub order: Order,
    /// The lines' turns come from here.
    pub input: Arc<Input>,
    /// Lines of the input, blank ones included.
    pub physical_lines: u64,
    /// Failures of earlier processes are sent again: the turn of such a line has not come.
    pub failures_again: bool,
}

impl DeliveryPlan {
    /// Of a run over `input`.
    pub fn new(order: Order, input: Arc<Input>, scan: &Scan, failures_again: bool) -> Self {
        Self {
            order,
            input,
            physical_lines: scan.physical_lines,
            failures_again,
        }
    }
}

/// A delivery under way, on its thread, to a stream that it gives back.
pub struct Delivery<S> {
    thread: JoinHandle<Result<(u64, S), DeliveryError>>,
    /// Dropped: the run is over, and what is there leaves.
    run: Sender<()>,
    ended: Receiver<()>,
    written: Arc<AtomicU64>,
}

/// Why records could not leave. All of them are in the run folder.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The other end of the stream is closed.
    #[error("whoever read the records has closed the pipe")]
    ReaderGone,
    /// The stream refused, or the folder could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl<S: Write + Send + 'static> Delivery<S> {
    /// Begins to deliver what is in `folder` and what will be; every shard's files are there already.
    /// `complain` hears at once that nothing more can leave.
    ///
    /// # Errors
    /// There is no space for the index, or a file of the folder cannot be read.
    pub fn start(
        folder: &RunFolder,
        plan: DeliveryPlan,
        stream: S,
        complain: impl FnOnce(&DeliveryError) + Send + 'static,
    ) -> Result<Self, StorageError> {
        let written = Arc::new(AtomicU64::new(0));
        let mut deliverer = Deliverer::new(folder, plan, Arc::clone(&written))?;
        let (run, over) = bounded(0);
        let (ending, ended) = bounded(0);
        let deliver = move || {
            let _ending: Sender<()> = ending;
            let result = deliverer.deliver(stream, &over);
            if let Err(error) = &result {
                complain(error);
            }
            result
        };
        let thread = thread::Builder::new()
            .name("delivery".to_owned())
            .spawn(deliver)
            .map_err(StorageError::io(folder.path(), "start a thread for"))?;
        Ok(Self {
            thread,
            run,
            ended,
            written,
        })
    }

    /// The run is over: what is left leaves. Tells how many successes have had their turn, and gives the stream
    /// back; `None` if the run stopped and the reader takes nothing more, which is then left behind.
    ///
    /// # Errors
    /// Something could not leave.
    pub fn finish(self, stopped: bool) -> Result<Option<(u64, S)>, DeliveryError> {
        drop(self.run);
        let mut before = self.written.load(Ordering::Relaxed);
        while stopped && self.ended.recv_timeout(STALLED_AFTER) == Err(RecvTimeoutError::Timeout) {
            let written = self.written.load(Ordering::Relaxed);
            if written == before {
                return Ok(None);
            }
            before = written;
        }
        let result = self.thread.join();
        // A panic there is a bug here; it goes on, rather than being taken for a result.
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.map(Some)
    }
}

/// Delivers everything that is in the folder of a run that is over.
///
/// # Errors
/// As [`Delivery::finish`].
pub fn deliver_all(
    folder: &RunFolder,
    plan: DeliveryPlan,
    stream: Box<dyn Write + Send>,
) -> Result<u64, DeliveryError> {
    let mut deliverer = Deliverer::new(folder, plan, Arc::default())?;
    let mut out = Gathered::new(stream, Arc::clone(&deliverer.written));
    deliverer.look(&mut out)?;
    out.flush()?;
    Ok(deliverer.successes)
}

/// The same of a run that an earlier process finished, but for deleting its folder: it has delivered
/// everything to a reader of its own. Where files are missing by now, nothing is delivered.
///
/// # Errors
/// As [`Delivery::finish`].
pub fn deliver_again(
    folder: &RunFolder,
    plan: DeliveryPlan,
    successes: u64,
    stream: Box<dyn Write + Send>,
) -> Result<(), DeliveryError> {
    let mut deliverer = Deliverer::new(folder, plan, Arc::default())?;
    if deliverer.has_whole(successes)? {
        let mut out = Gathered::new(stream, Arc::clone(&deliverer.written));
        deliverer.look(&mut out)?;
        out.flush()?;
    }
    Ok(())
}

/// What is left to deliver.
struct Deliverer {
    sources: Vec<Source>,
    generation: u32,
    failures_again: bool,
    /// In the order of the input.
    turns: Option<Turns>,
    successes: u64,
    written: Arc<AtomicU64>,
}

impl Deliverer {
    fn new(
        folder: &RunFolder,
        plan: DeliveryPlan,
        written: Arc<AtomicU64>,
    ) -> Result<Self, StorageError> {
        let DeliveryPlan {
            order,
            input,
            physical_lines,
            failures_again,
        } = plan;
        let mut sources = Vec::new();
        for files in folder.shards()? {
            sources.extend(Source::open(folder.path(), files, folder.generation())?);
        }
        let turns = match order {
            Order::Input => Some(Turns::new(folder.path(), input, physical_lines)?),
            Order::Completion => None,
        };
        Ok(Self {
            sources,
            generation: folder.generation(),
            failures_again,
            turns,
            successes: 0,
            written,
        })
    }

    /// Whether so many successes are there, with their records.
    fn has_whole(&mut self, successes: u64) -> Result<bool, StorageError> {
        let mut there = 0;
        for source in &mut self.sources {
            for index in 0..source.limit {
                let entry = source.entry(index)?;
                if entry.outcome == Some(Outcome::Success) {
                    if !source.has_record(&entry)? {
                        return Ok(false);
                    }
                    there += 1;
                }
            }
        }
        Ok(there == successes)
    }

    /// Until the run is over and everything has left.
    fn deliver<S: Write>(
        &mut self,
        stream: S,
        over: &Receiver<()>,
    ) -> Result<(u64, S), DeliveryError> {
        let mut out = Gathered::new(stream, Arc::clone(&self.written));
        loop {
            let is_last = over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected);
            self.look(&mut out)?;
            out.flush()?;
            if is_last {
                return Ok((self.successes, out.stream));
            }
        }
    }

    /// Delivers what has come since the last look.
    fn look<S: Write>(&mut self, out: &mut Gathered<S>) -> Result<(), DeliveryError> {
        for source in &mut self.sources {
            source.refresh()?;
        }
        match self.turns.take() {
            None => self.as_completed(out),
            Some(mut turns) => {
                let result = self.in_turn(&mut turns, out);
                self.turns = Some(turns);
                result
            }
        }
    }

    /// Processes of a run never overlap, so the generation comes before the clock, which may have been
    /// set back.
    fn as_completed<S: Write>(&mut self, out: &mut Gathered<S>) -> Result<(), DeliveryError> {
        let mut heads = BinaryHeap::new();
        for number in 0..self.sources.len() {
            heads.extend(self.head(number)?);
        }
        while let Some(Reverse((_, _, number))) = heads.pop() {
            let source = &mut self.sources[number];
            let entry = source.entry(source.next)?;
            source.next += 1;
            if entry.outcome == Some(Outcome::Success) {
                out.push(source.record(&entry)?)?;
                self.successes += 1;
            }
            heads.extend(self.head(number)?);
        }
        Ok(())
    }

    fn head(&mut self, number: usize) -> Result<Option<Head>, StorageError> {
        let source = &mut self.sources[number];
        if source.next >= source.limit {
            return Ok(None);
        }
        let completed_us = source.entry(source.next)?.completed_us;
        Ok(Some(Reverse((source.generation(), completed_us, number))))
    }

    fn in_turn<S: Write>(
        &mut self,
        turns: &mut Turns,
        out: &mut Gathered<S>,
    ) -> Result<(), DeliveryError> {
        for (number, source) in self.sources.iter_mut().enumerate() {
            let is_earlier = source.generation() < self.generation;
            while source.next < source.limit {
                let index = source.next;
                let entry = source.entry(index)?;
                source.next += 1;
                match entry.outcome {
                    Some(Outcome::Success) => turns.put(entry.line_number, Some((number, index))),
                    Some(Outcome::Failure) if is_earlier && self.failures_again => {}
                    Some(Outcome::Failure) => turns.put(entry.line_number, None),
                    None => {}
                }
            }
        }
        while let Some(turn) = turns.current() {
            match turn {
                Turn::Waits => break,
                Turn::Passed => {}
                Turn::Record { source, entry } => {
                    let source = &mut self.sources[source];
                    let entry = source.entry(entry)?;
                    out.push(source.record(&entry)?)?;
                    self.successes += 1;
                }
            }
            turns.advance();
        }
        Ok(())
    }
}

/// Generation, completion and number of a source with something to deliver: the smallest is next.
type Head = Reverse<(u32, u64, usize)>;

/// Records on their way into the stream.
struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    written: Arc<AtomicU64>,
}

impl<S: Write> Gathered<S> {
    fn new(stream: S, written: Arc<AtomicU64>) -> Self {
        Self {
            stream,
            bytes: Vec::with_capacity(WRITE_BYTES),
            written,
        }
    }

    fn push(&mut self, record: &[u8]) -> Result<(), DeliveryError> {
        if self.bytes.len() + record.len() > WRITE_BYTES {
            self.flush()?;
        }
        if record.len() < WRITE_BYTES {
            self.bytes.extend_from_slice(record);
            return Ok(());
        }
        self.write(record)
    }

    fn flush(&mut self) -> Result<(), DeliveryError> {
        let bytes = std::mem::take(&mut self.bytes);
        let result = self.write(&bytes);
        self.bytes = bytes;
        self.bytes.clear();
        result
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DeliveryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Piece by piece: a reader that is slow is told from one that takes nothing.
        for piece in bytes.chunks(WRITE_BYTES) {
            let write = self.stream.write_all(piece);
            write
                .and_then(|()| self.stream.flush())
                .map_err(|error| stream_error(piece.len(), error))?;
            self.written
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn stream_error(bytes: usize, source: io::Error) -> DeliveryError {
    match source.kind() {
        io::ErrorKind::BrokenPipe => DeliveryError::ReaderGone,
        _ => {
            let stream = Path::new("standard output");
            StorageError::new(stream, "write to", bytes as u64, source).into()
        }
    }
}

#[cfg(test)]
mod tests;
