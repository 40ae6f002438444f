//! What a run counted: what was there before this process, and the line that is drawn under it all.

use std::path::Path;

use super::{ProcessingResult, RunError};
use crate::batch::advice;
use crate::batch::coordinator::Stopped;
use crate::batch::folder::{Merged, Resume, RunFolder};
use crate::batch::input::{Input, Scan};
use crate::batch::plan::Plan;
use crate::batch::spend;
use crate::config::{Job, OutputTarget};
use crate::metrics::summary::{Books, End, Status, Summary};
use crate::metrics::tokens::Tokens;
use crate::metrics::{Before, Gauges, Snapshot, Totals};

/// What earlier processes of the run in `folder` counted and spent.
pub(super) fn earlier(
    plan: &Plan,
    folder: &RunFolder,
    input: &Input,
    resume: Option<&Resume>,
    sends_failures_again: bool,
) -> Result<Before, RunError> {
    let names: Vec<&str> = (plan.endpoints.iter())
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    let before = Before::new(&folder.earlier_figures(), &names, sends_failures_again);
    let Some(resume) = resume else {
        return Ok(before);
    };
    let usd = match plan.config.prices.is_empty() {
        true => spend::usd(resume.cost_nano_usd),
        // What was bought without a price has one now.
        false => {
            let mut spent = spend::Earlier::new(plan, input);
            folder.each_entry(&mut |entry| spent.add(entry))?;
            spent.usd()
        }
    };
    let tokens = Tokens {
        prompt: resume.tokens.prompt,
        completion: resume.tokens.completion,
        cached: resume.tokens.cached,
    };
    Ok(before.journalled(resume.attempts, tokens, usd))
}

pub(super) fn gauges(scan: &Scan, before: Merged) -> Gauges {
    Gauges {
        lines: scan.lines,
        succeeded_before: before.succeeded,
        failed_before: before.failed,
    }
}

/// A run in which this process sent nothing.
pub(super) fn still(plan: &Plan, scan: &Scan, before: Merged, counted: Before) -> Snapshot {
    let totals = Totals::after(counted);
    totals.snapshot(
        &gauges(scan, before),
        std::time::Duration::ZERO,
        plan.idle_endpoints(),
    )
}

/// Draws the line: status, books, places.
pub(super) fn conclude(
    job: &Job,
    folder: &Path,
    scan: &Scan,
    stopped: Option<Stopped>,
    snapshot: &Snapshot,
    recorded: Merged,
) -> ProcessingResult {
    let finished = recorded.succeeded + recorded.failed;
    let books = Books {
        lines: scan.lines,
        succeeded: recorded.succeeded,
        failed: recorded.failed,
        not_finished: scan.lines.saturating_sub(finished),
    };
    let status = match &stopped {
        Some(Stopped::Interrupted | Stopped::ReaderGone) => Status::Interrupted,
        Some(_) => Status::Stopped,
        None if recorded.failed > 0 => Status::CompletedWithFailures,
        None => Status::Completed,
    };
    let shown = |path: &Path| path.display().to_string();
    let complete = stopped.is_none();
    let end = End {
        status,
        reason: stopped.as_ref().map(ToString::to_string),
        books,
        output: match &job.output {
            Some(OutputTarget::File(path)) if complete => Some(shown(path)),
            _ => None,
        },
        errors: (complete && recorded.failed > 0).then(|| shown(&job.errors)),
        folder: (!complete && folder.is_dir()).then(|| shown(folder)),
        failure: (snapshot.failure.clone())
            .filter(|failure| failure.lines > 0 || books.not_finished > 0)
            .map(|failure| {
                let help = advice::what_helps(&failure);
                (failure, help)
            }),
    };
    ProcessingResult {
        summary: Summary::new(snapshot, end),
        stopped,
    }
}
