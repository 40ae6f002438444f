//! Runs a batch from input to final files: plan, run folder, shards, coordinator, merge, books.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::batch::coordinator::{Coordinator, Finished, Observer, Stopped};
use crate::batch::folder::{FolderError, Manifest, Opened, RunFolder};
use crate::batch::input::{Input, InputError, Scan};
use crate::batch::merge::{self, MergePlan, Target};
use crate::batch::message::{Event, Report};
use crate::batch::plan::Plan;
use crate::batch::segment::{ShardLog, StorageError};
use crate::batch::shard::{Shard, ShardStart};
use crate::batch::slices::Slices;
use crate::client::{Resolver, proxy};
use crate::config::{Config, ConfigError, InputSource, Job, OutputTarget};
use crate::metrics::Gauges;
use crate::metrics::summary::Summary;
use crate::provider::Endpoint;
use crate::runtime::{self, Backend, Runtime, mailbox};
use crate::tls;

/// Bounds of the pieces in which input is handed to shards: small enough that cores finish
/// together, large enough that handing out costs nothing.
const RANGE_BYTES_MIN: usize = 64 << 10;
const RANGE_BYTES_MAX: usize = 4 << 20;
/// Pieces per shard aimed at within those bounds.
const RANGES_PER_SHARD: usize = 16;

/// Sends the lines of a file to the configured endpoints.
pub struct Processor {
    config: Config,
    endpoints: Vec<Endpoint>,
}

/// A run that could not start, or could not keep its promise.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The run folder or a target file is in the way.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Files could not be written before anything was sent, or at the end.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The machine refused something the run needs.
    #[error("{0}")]
    Setup(String),
    /// A defect of ours: the books do not balance.
    #[error(
        "the books do not balance: {lines} lines, but {succeeded} succeeded + {failed} failed + {not_finished} not finished; \
         the run folder {} is kept, please report this",
        folder.display()
    )]
    Books {
        /// Lines of the input.
        lines: u64,
        /// Success records.
        succeeded: u64,
        /// Failure records.
        failed: u64,
        /// Lines without a record.
        not_finished: u64,
        /// Where everything is.
        folder: PathBuf,
    },
}

/// What a run did.
#[derive(Debug)]
pub struct ProcessingResult {
    /// The figures, as `--json-logs` prints them.
    pub summary: Summary,
    /// Why the run ended before its last line; `None`: every line has its record.
    pub stopped: Option<Stopped>,
}

impl ProcessingResult {
    /// Prints the summary for people to standard error.
    pub fn print_summary(&self) {
        eprintln!("{}", self.summary);
    }
}

impl std::ops::Deref for ProcessingResult {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

/// Interrupts a run from another thread: what is in flight may finish, the run can be resumed.
#[derive(Clone)]
pub struct Interrupt(Sender<()>);

impl Interrupt {
    /// A handle and the end that [`Processor::run`] takes.
    pub fn channel() -> (Self, Receiver<()>) {
        let (sender, receiver) = bounded(1);
        (Self(sender), receiver)
    }

    /// Asks the run to stop; asking again changes nothing.
    pub fn interrupt(&self) {
        // Full: it has been asked already. Disconnected: the run is over.
        let _ = self.0.try_send(());
    }
}

impl Processor {
    /// Checks `config` as the command line does.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        crate::config::validate(&config)?;
        let endpoints = config
            .endpoints
            .iter()
            .map(|endpoint| Endpoint::resolve(endpoint).map_err(ConfigError::from))
            .collect::<Result<_, _>>()?;
        Ok(Self { config, endpoints })
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sends every line of `input`; successes go to `output` (or are only counted), failures to
    /// `errors`. Await it on any executor: the engine owns its threads. With `show_progress` a
    /// plain line goes to standard error every 10 s. An unfinished earlier run is resumed.
    pub fn process_file(
        &self,
        input: PathBuf,
        output: Option<PathBuf>,
        errors: PathBuf,
        show_progress: bool,
    ) -> impl Future<Output = Result<ProcessingResult, RunError>> + Send + 'static {
        let processor = Self {
            config: self.config.clone(),
            endpoints: self.endpoints.clone(),
        };
        OnThread::start(move || {
            processor.process_file_blocking(input, output, errors, show_progress)
        })
    }

    /// [`Self::process_file`] on the calling thread.
    pub fn process_file_blocking(
        &self,
        input: PathBuf,
        output: Option<PathBuf>,
        errors: PathBuf,
        show_progress: bool,
    ) -> Result<ProcessingResult, RunError> {
        let job = Job {
            input: InputSource::File(input),
            output: output.map(OutputTarget::File),
            errors,
            overwrite: false,
            fresh: false,
            retry_errors: false,
            dry_run: false,
        };
        let mut observer: Box<dyn Observer> = if show_progress {
            Box::new(crate::metrics::progress::PlainLines::default())
        } else {
            Box::new(Silent)
        };
        self.run(&job, observer.as_mut(), &crossbeam_channel::never())
    }

    /// Runs `job`; `interrupts` stops it early.
    pub fn run(
        &self,
        job: &Job,
        observer: &mut dyn Observer,
        interrupts: &Receiver<()>,
    ) -> Result<ProcessingResult, RunError> {
        let run = Prepared::new(self, job)?;
        run.go(observer, interrupts)
    }
}

/// A run whose checks have passed; nothing has been sent.
struct Prepared {
    job: Job,
    plan: Arc<Plan>,
    backend: Backend,
    cores: Vec<usize>,
    input: Arc<Input>,
    scan: Scan,
    opened: Opened,
}

impl Prepared {
    /// Everything that can refuse a run, before anything is sent.
    fn new(processor: &Processor, job: &Job) -> Result<Self, RunError> {
        let config = &processor.config;
        let plan = Arc::new(plan(processor)?);
        let backend = Backend::choose(config.runtime).map_err(RunError::Setup)?;
        let cores = cores_for(config);
        let folder = merge::folder_path(job);
        merge::check_targets(job, &folder)?;
        let (input, mut opened) = open_input(job, &folder)?;
        if input.looks_binary() {
            return Err(InputError::Binary(input.path().to_owned()).into());
        }
        let range_bytes = (input.len() as usize / (cores.len() * RANGES_PER_SHARD))
            .clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX);
        let scan = input.scan(cores.len(), range_bytes);
        let opened = match opened.take() {
            Some(opened) => opened,
            None => RunFolder::open_or_create(&folder, manifest(config, job, &input, &scan), job.fresh)?,
        };
        Ok(Self {
            job: job.clone(),
            plan,
            backend,
            cores,
            input: Arc::new(input),
            scan,
            opened,
        })
    }
}
