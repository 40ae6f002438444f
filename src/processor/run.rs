//! One run: checks, input, run folder, shards, coordinator, merge, books.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::leaving::{self, Leaving, Left};
use super::reopen::{self, Begun};
use super::setup::{Setup, output_file};
use super::tally::{conclude, earlier, still};
use super::{ProcessingResult, Processor, RunError};
use crate::batch::coordinator::{Finished, Observer, Stopped};
use crate::batch::folder::{
    InputIdentity, Manifest, Merged, Opened, Publication, RunFolder, Salvage, StoppedBy,
};
use crate::batch::merge::{self, MergePlan, Target};
use crate::batch::segment::StorageError;
use crate::config::{InputSource, Job, OutputTarget};
use crate::metrics::Before;
use crate::runtime;

/// Runs `job` to its end or to a stop.
pub(super) fn run(
    processor: &Processor,
    job: &Job,
    observer: &mut dyn Observer,
    interrupts: &Receiver<()>,
) -> Result<ProcessingResult, RunError> {
    let setup = Setup::new(processor, job)?;
    let (input, claim) = setup.open_input(job)?;
    if let Err(refused) = setup.refuse_foreign(&input, job) {
        // What is mapped cannot go on Windows.
        drop(input);
        if let Some(claim) = claim {
            claim.abandon()?;
        }
        return Err(refused.into());
    }
    let scan = setup.scan(&input);
    let claim = match claim {
        Some(claim) => claim,
        None => RunFolder::claim(&setup.folder, job.fresh)?,
    };
    let config = &processor.config;
    let manifest = Manifest {
        input: InputIdentity::new(&input, &scan),
        format: config.format,
        max_line_bytes: config.max_line_bytes as u64,
        has_output: job.output.is_some(),
        overwrite: job.overwrite,
        created_us: runtime::unix_micros(),
    };
    let begun = reopen::open(claim, &setup.folder, manifest.clone(), job, config, &input)?;
    let input = Arc::new(input);
    let Opened {
        mut folder,
        mut resume,
        publication,
    } = match begun {
        Begun::Run(opened) => *opened,
        Begun::NothingFailed(merged, claim) => {
            drop(input);
            claim.abandon()?;
            let snapshot = still(
                &setup.plan,
                &scan,
                merged,
                Before::nothing(setup.plan.endpoints.len()),
            );
            return Ok(conclude(job, &setup.folder, &scan, None, &snapshot, merged));
        }
    };
    if let Some(publication) = publication {
        let counted = earlier(&setup.plan, &folder, &input, None, false)?;
        let Publication { merged, .. } = publication;
        if merge::complete(&folder, &publication, output_file(job), &job.errors)? {
            if merged.succeeded + merged.failed == scan.lines {
                // Its reader may have seen a part only, and this one nothing.
                let again = leaving::deliver_again(
                    job,
                    config.order,
                    &folder,
                    &input,
                    &scan,
                    merged.succeeded,
                );
                if let Err(error) = again {
                    let stopped = leaving::undelivered(error)?;
                    let still = still(&setup.plan, &scan, merged, counted);
                    return Ok(conclude(
                        job,
                        &setup.folder,
                        &scan,
                        Some(stopped),
                        &still,
                        merged,
                    ));
                }
            }
            // Spooled, the input lies in the run folder; what is mapped cannot go on Windows.
            drop(input);
            folder.remove()?;
            tracing::info!("the run had finished before; its final files are in place");
            if merged.succeeded + merged.failed != scan.lines {
                // That was a run of another input. This one begins by looking at the files again.
                return run(processor, job, observer, interrupts);
            }
            // Standard input cannot be read twice; the next command finds a finished run.
            if job.retry_errors && merged.failed > 0 && job.input != InputSource::Stdin {
                return run(processor, job, observer, interrupts);
            }
            let snapshot = still(&setup.plan, &scan, merged, counted);
            return Ok(conclude(job, &setup.folder, &scan, None, &snapshot, merged));
        }
        tracing::warn!(
            "the run had finished before, but the final files are not what it put there; \
             making them from its records again"
        );
        let salvage = Salvage {
            input: &input,
            format: config.format,
        };
        resume = Some(folder.resume(&manifest, job.salvage.then_some(&salvage))?);
    }
    let counted = earlier(
        &setup.plan,
        &folder,
        &input,
        resume.as_ref(),
        job.retry_errors,
    )?;
    if let Some(resume) = resume.as_mut().filter(|_| job.retry_errors) {
        let lines = resume.send_failures_again();
        tracing::info!("sending {lines} failed lines again");
    }
    let before = resume.as_ref().map_or(Merged::default(), |resume| Merged {
        succeeded: resume.succeeded,
        failed: resume.failed,
    });
    if let Some(resume) = &resume {
        let kept = before.succeeded + before.failed;
        super::reopen::tell_resumed(kept, scan.lines, job, &resume.mended);
    }
    let spent_before = counted.cost_usd();
    let done = resume.map(|resume| Arc::new(resume.done));
    let mut leaving = Leaving::new(job, config.order, &input, &scan, done.is_none());
    let Finished {
        stopped,
        snapshot,
        stopped_by,
        ..
    } = if before.succeeded + before.failed == scan.lines {
        // Nothing is left to send: no thread, no connection, straight to the merge.
        Finished {
            stopped: None,
            snapshot: still(&setup.plan, &scan, before, counted),
            stuck: Vec::new(),
            stopped_by: StoppedBy::default(),
        }
    } else if config
        .max_cost
        .is_some_and(|max_cost| spent_before >= max_cost)
    {
        Finished {
            stopped: Some(Stopped::Cost(spent_before)),
            snapshot: still(&setup.plan, &scan, before, counted),
            stuck: Vec::new(),
            stopped_by: StoppedBy::default(),
        }
    } else {
        let driven = setup.drive(
            &folder,
            job.retry_errors,
            Arc::clone(&input),
            done,
            &scan,
            before,
            counted.clone(),
            &mut leaving,
            observer,
            interrupts,
        );
        match driven {
            // The disk was full, or failed, before the first segment: the run itself is there.
            Err(RunError::Storage(error)) if error.is_resumable() => Finished {
                stopped: Some(Stopped::Storage(error)),
                snapshot: still(&setup.plan, &scan, before, counted),
                stuck: Vec::new(),
                stopped_by: StoppedBy::default(),
            },
            driven => driven?,
        }
    };
    let recorded = Merged {
        succeeded: snapshot.succeeded(),
        failed: snapshot.failed(),
    };
    let is_finished = recorded.succeeded + recorded.failed == scan.lines;
    // The budget that the last lines used up, or the endpoint that went away after them, keeps
    // nothing from being finished.
    let stopped = stopped.filter(|stopped| {
        use Stopped::{Cost, NoEndpoint, NothingSucceeds};
        let is_over = matches!(stopped, Cost(_) | NoEndpoint(_) | NothingSucceeds { .. });
        !(is_finished && is_over)
    });
    if let Some(Stopped::NoEndpoint(_)) = stopped
        && !stopped_by.is_empty()
        && let Err(error) = folder.note_stopped_by(&stopped_by)
    {
        // Then the next process may stop for the same lines once more.
        tracing::warn!("{error}");
    }
    let left = leaving.finish(&folder, stopped.is_some());
    // As above.
    drop(input);
    let (stopped, begun) = match left {
        Ok(Left { to_stdout, begun }) => {
            let delivered = to_stdout.filter(|_| stopped.is_none());
            if let Some(delivered) = delivered.filter(|delivered| *delivered != recorded.succeeded)
            {
                return Err(StorageError::Books {
                    path: folder.path().to_path_buf(),
                    lines: scan.lines,
                    succeeded: delivered,
                    failed: recorded.failed,
                }
                .into());
            }
            (stopped, begun)
        }
        // The cause, and not what it led to.
        Err(error) => (Some(leaving::undelivered(error)?), None),
    };
    if stopped.is_some() {
        return Ok(conclude(
            job,
            &setup.folder,
            &scan,
            stopped,
            &snapshot,
            recorded,
        ));
    }
    let plan = MergePlan {
        order: config.order,
        output: job.output.as_ref().and_then(target),
        errors: Target::File(job.errors.clone()),
        overwrite: folder.manifest().overwrite,
        begun,
    };
    match merge::merge(&folder, plan, scan.lines, &mut |_, _| {}) {
        Ok(merged) => Ok(conclude(job, &setup.folder, &scan, None, &snapshot, merged)),
        // Every record is in the run folder: the same command ends the run when the cause is gone.
        Err(error) if error.is_resumable() => {
            let stopped = Some(Stopped::Storage(error));
            Ok(conclude(
                job,
                &setup.folder,
                &scan,
                stopped,
                &snapshot,
                recorded,
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is merged: records that go to standard output have left before.
fn target(output: &OutputTarget) -> Option<Target> {
    match output {
        OutputTarget::File(path) => Some(Target::File(path.clone())),
        OutputTarget::Stdout => None,
    }
}
