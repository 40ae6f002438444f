//! Runs a batch from input to final files: plan, run folder, shards, coordinator, merge, books.

mod drive;
mod leaving;
mod on_thread;
mod one_thread;
mod reopen;
mod run;
mod setup;
mod tally;

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::batch::coordinator::{Observer, Stopped};
use crate::batch::finished::FinishedError;
use crate::batch::folder::FolderError;
use crate::batch::input::{Input, InputError, Scan};
use crate::batch::merge::TargetError;
use crate::batch::progress::PlainLines;
use crate::batch::segment::StorageError;
use crate::config::{Config, ConfigError, InputSource, Job, OutputTarget};
use crate::metrics::Snapshot;
use crate::metrics::summary::Summary;
use crate::provider::{Endpoint, EndpointError};
use on_thread::OnThread;

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
    /// The failures of a finished run cannot be sent again.
    #[error(transparent)]
    Finished(#[from] FinishedError),
    /// An endpoint cannot be used as configured.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A final file is in the way, or cannot be made.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Files could not be written before anything was sent, or at the end.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The machine refused something the run needs.
    #[error("{0}")]
    Setup(String),
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
        // A reader that has gone must not turn a finished run into a failed one.
        let _ = writeln!(io::stderr(), "{}", self.summary);
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

    /// After [`Self::interrupt`]: whether the run takes notice within `patience`. It does while it
    /// sends; not while it reads standard input or makes the final files.
    pub fn is_heard_within(&self, patience: Duration) -> bool {
        // There is room for a second request once the first has been taken.
        self.0.send_timeout((), patience).is_ok()
    }
}

impl Processor {
    /// Checks `config` as the command line does.
    ///
    /// # Errors
    /// The first thing in it that cannot be used.
    pub fn new(config: Config) -> Result<Self, RunError> {
        let mut config = config;
        crate::config::normalise(&mut config);
        crate::config::validate(&config)?;
        let endpoints = Endpoint::resolve_all(&config.endpoints)?;
        config.forget_keys();
        Ok(Self { config, endpoints })
    }

    /// The configuration in use, without the keys.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The endpoints, resolved, in the order of the configuration.
    #[doc(hidden)]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
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
            salvage: false,
            retry_errors: false,
            dry_run: false,
        };
        let mut observer: Box<dyn Observer> = if show_progress {
            Box::new(PlainLines::default())
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
        run::run(self, job, observer, interrupts)
    }

    /// Makes every check of a run that needs no line to be parsed, and reads the input; creates and
    /// touches nothing but a copy of standard input in the temporary folder.
    ///
    /// # Errors
    /// The run could not start.
    pub fn inspect(&self, job: &Job) -> Result<(Input, Scan), RunError> {
        setup::inspect(self, job)
    }
}

struct Silent;

impl Observer for Silent {
    fn tick(&mut self, _snapshot: &Snapshot) {}
}
