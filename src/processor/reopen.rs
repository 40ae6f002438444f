//! How a run begins with `--retry-errors`: from its run folder if there is one, else from the final
//! files of the finished run, else anew.

use std::path::Path;

use super::RunError;
use crate::batch::finished::Finished;
use crate::batch::folder::{Claim, Manifest, Mended, Merged, Opened, RunFolder, Salvage};
use crate::batch::input::Input;
use crate::batch::segment::ShardLog;
use crate::config::{Config, Job, OutputTarget};

/// What there is to do.
pub(super) enum Begun {
    /// Lines to send, perhaps.
    Run(Box<Opened>),
    /// The finished run has no failures, and nothing was touched; the run folder may go.
    NothingFailed(Merged, Claim),
}

/// Opens a claimed run folder for `job`.
pub(super) fn open(
    claim: Claim,
    folder: &Path,
    manifest: Manifest,
    job: &Job,
    config: &Config,
    input: &Input,
) -> Result<Begun, RunError> {
    let salvage = Salvage {
        input,
        format: config.format,
    };
    let salvage = job.salvage.then_some(&salvage);
    if !job.retry_errors || RunFolder::exists(folder) {
        return Ok(Begun::Run(Box::new(claim.open(manifest, salvage)?)));
    }
    let output = match &job.output {
        Some(OutputTarget::File(path)) => Some(path.as_path()),
        Some(OutputTarget::Stdout) | None => None,
    };
    let Some(finished) = Finished::find(output, &job.errors)? else {
        return Ok(Begun::Run(Box::new(claim.open(manifest, salvage)?)));
    };
    if !finished.has_failures() {
        let merged = match finished.read(input, config.format, &mut |_| Ok(())) {
            Ok(merged) => merged,
            Err(error) => {
                // The error tells more than that a folder is left.
                let _ = claim.abandon();
                return Err(error.into());
            }
        };
        tracing::info!(
            "nothing to send again: {} has no records",
            job.errors.display()
        );
        return Ok(Begun::NothingFailed(merged, claim));
    }
    let began_us = manifest.created_us;
    // The final files stay until the new ones replace them.
    let manifest = Manifest {
        overwrite: true,
        ..manifest
    };
    let fill = |folder: &RunFolder| -> Result<(), RunError> {
        let keep_output = finished.has_output();
        let generation = folder.generation();
        let mut log = ShardLog::create(folder, generation, 0, keep_output, config.durability)?;
        finished.read_into(&mut log, input, config.format, began_us)?;
        // Whatever the durability: with a manifest and without these records, a power loss would have
        // lines paid for again that the final files have.
        folder.sync_earlier()?;
        Ok(())
    };
    Ok(Begun::Run(Box::new(claim.open_filled(manifest, fill)?)))
}

/// Says how many lines have their record, and what became of the others.
pub(super) fn tell_resumed(kept: u64, lines: u64, job: &Job, mended: &Mended) {
    let left = lines.saturating_sub(kept);
    if job.salvage && *mended != Mended::default() {
        tracing::warn!(
            "salvaged: {kept} records are whole and kept ({} of them had lost their journal entry), {left} of {lines} lines are sent again or were never finished; {} of them had a record that is lost",
            mended.found,
            mended.lines_lost
        );
    } else if job.salvage {
        tracing::info!("nothing is damaged; resuming: {kept} of {lines} lines have their record");
    } else {
        tracing::info!("resuming: {kept} of {lines} lines have their record");
    }
}
