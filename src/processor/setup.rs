//! What is decided before a run begins: the plan, the cores, where the run folder is, and the input.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Processor, RunError};
use crate::batch::folder::{Claim, RunFolder, run_folder_path};
use crate::batch::input::{Input, InputError, Scan};
use crate::batch::merge;
use crate::batch::open_files;
use crate::batch::plan::Plan;
use crate::config::{Config, InputSource, Job, OutputTarget};
use crate::runtime::backend::Backend;
use crate::runtime::{self, files};

/// Bounds of the pieces in which input is handed to shards: small enough that cores finish
/// together, large enough that handing out costs nothing.
const RANGE_BYTES_MIN: usize = 64 << 10;
const RANGE_BYTES_MAX: usize = 4 << 20;
/// Pieces per shard aimed at within those bounds.
const RANGES_PER_SHARD: usize = 16;

/// The checks of [`run`](super::run::run), and the input; nothing is created.
pub(super) fn inspect(processor: &Processor, job: &Job) -> Result<(Input, Scan), RunError> {
    let setup = Setup::new(processor, job)?;
    let input = match &job.input {
        InputSource::File(path) => Input::open(path)?,
        InputSource::Stdin => {
            let copy = tempfile_path();
            let input = Input::spool(&mut io::stdin().lock(), &copy);
            match input {
                Ok(input) => input.temporary(),
                Err(error) => {
                    remove_quietly(&copy);
                    return Err(error.into());
                }
            }
        }
    };
    setup.refuse_foreign(&input, job)?;
    let scan = setup.scan(&input);
    Ok((input, scan))
}

/// Everything that is decided before the input is read.
pub(super) struct Setup {
    pub(super) plan: Arc<Plan>,
    pub(super) backend: Backend,
    pub(super) cores: Vec<usize>,
    pub(super) folder: PathBuf,
}

impl Setup {
    pub(super) fn new(processor: &Processor, job: &Job) -> Result<Self, RunError> {
        let output = output_file(job);
        let folder = run_folder_path(output, &job.errors);
        let input = match &job.input {
            InputSource::File(path) => Some(path.as_path()),
            InputSource::Stdin => None,
        };
        let resumes = RunFolder::exists(&folder) && !job.fresh;
        // What --retry-errors finds there it reads, and replaces only when that is complete.
        let replaces = job.overwrite || job.retry_errors;
        merge::check_targets(input, output, &job.errors, replaces, resumes)?;
        let cores = cores(&processor.config);
        let config = open_files::fit(&processor.config, cores.len());
        Ok(Self {
            plan: Arc::new(
                Plan::prepare(config, processor.endpoints.clone()).map_err(RunError::Setup)?,
            ),
            backend: choose_backend(&processor.config)?,
            cores,
            folder,
        })
    }

    /// Standard input is spooled into the run folder first, which is claimed for it.
    pub(super) fn open_input(&self, job: &Job) -> Result<(Input, Option<Claim>), RunError> {
        match &job.input {
            InputSource::File(path) => Ok((Input::open(path)?, None)),
            InputSource::Stdin => {
                let claim = RunFolder::claim(&self.folder, job.fresh)?;
                let (mut stdin, path) = (io::stdin().lock(), claim.spool_path());
                let input = match claim.holds_records()? {
                    true => Input::spool(&mut stdin, &path)?,
                    false => Input::spool_anew(&mut stdin, &path)?,
                };
                Ok((input, Some(claim)))
            }
        }
    }

    /// A file of another kind would end as a failure record a line.
    pub(super) fn refuse_foreign(&self, input: &Input, job: &Job) -> Result<(), InputError> {
        let Some(kind) = input.foreign_kind(self.plan.config.max_line_bytes) else {
            return Ok(());
        };
        let path = match &job.input {
            InputSource::File(path) => Some(path.clone()),
            InputSource::Stdin => None,
        };
        Err(InputError::Foreign { path, kind })
    }

    pub(super) fn scan(&self, input: &Input) -> Scan {
        let pieces = (self.cores.len() * RANGES_PER_SHARD) as u64;
        let range_bytes = usize::try_from(input.size() / pieces)
            .unwrap_or(RANGE_BYTES_MAX)
            .clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX);
        input.scan(self.cores.len(), range_bytes)
    }
}

fn choose_backend(config: &Config) -> Result<Backend, RunError> {
    let (backend, refused) = Backend::choose(config.runtime).map_err(RunError::Setup)?;
    if let Some(reason) = refused {
        tracing::warn!("io_uring cannot be used here ({reason}); running on tokio");
    }
    Ok(backend)
}

/// The cores of the shards: as many as asked for, no more than there are.
fn cores(config: &Config) -> Vec<usize> {
    let mut available = runtime::available_cores();
    match config.cores {
        Some(asked) if asked > available.len() => tracing::warn!(
            "--cores {asked}: only {} available here, using those",
            available.len()
        ),
        Some(asked) => available.truncate(asked),
        None => {}
    }
    available
}

/// The output, if it is a file.
pub(super) fn output_file(job: &Job) -> Option<&Path> {
    match &job.output {
        Some(OutputTarget::File(path)) => Some(path),
        Some(OutputTarget::Stdout) | None => None,
    }
}

/// A name in the temporary folder that no other process uses.
fn tempfile_path() -> PathBuf {
    std::env::temp_dir().join(format!(
        "blaze-uring-stdin-{}-{}",
        std::process::id(),
        runtime::unix_micros()
    ))
}

fn remove_quietly(path: &Path) {
    // A leftover in the temporary folder is not worth failing for.
    let _ = files::remove(path);
}
