//! What leaves the shards' files while they still write them: records on their way to standard output, or into
//! the output in the making.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::RunError;
use crate::batch::coordinator::Stopped;
use crate::batch::delivery::{self, Delivery, DeliveryError, DeliveryPlan};
use crate::batch::folder::RunFolder;
use crate::batch::input::{Input, Scan};
use crate::batch::merge::{Begun, InTheMaking};
use crate::batch::message::{Event, Report};
use crate::batch::segment::StorageError;
use crate::config::{self, Job, OutputTarget};
use crate::runtime::simulated;

/// A stream that records go to.
type Stream = Box<dyn Write + Send>;

/// What is to leave, and what is under way.
pub(super) struct Leaving {
    planned: Option<(DeliveryPlan, To)>,
    under_way: Option<UnderWay>,
}

enum To {
    Stdout,
    Output(PathBuf),
}

enum UnderWay {
    Stdout(Delivery<Stream>),
    Output(InTheMaking),
}

/// What has left when a run is over.
#[derive(Default)]
pub(super) struct Left {
    /// Successes that went to standard output, if that is where they go and nothing stood in the way.
    pub(super) to_stdout: Option<u64>,
    /// The output, if it was made while the run went on.
    pub(super) begun: Option<Begun>,
}

impl Leaving {
    /// Of a run over `input`; `is_new`: nothing of it is recorded yet.
    pub(super) fn new(
        job: &Job,
        order: config::Order,
        input: &Arc<Input>,
        scan: &Scan,
        is_new: bool,
    ) -> Self {
        let plan = DeliveryPlan::new(order, Arc::clone(input), scan, job.retry_errors);
        let to = match &job.output {
            Some(OutputTarget::Stdout) => Some(To::Stdout),
            // A simulated process has one thread.
            Some(OutputTarget::File(path)) if is_new && simulated::current().is_none() => {
                Some(To::Output(path.clone()))
            }
            Some(OutputTarget::File(_)) | None => None,
        };
        Self {
            planned: to.map(|to| (plan, to)),
            under_way: None,
        }
    }

    /// Whether what comes first in the input is wanted first.
    pub(super) fn wants_input_order(&self, shards: usize) -> bool {
        self.planned.as_ref().is_some_and(|(plan, to)| match to {
            To::Stdout => plan.order == config::Order::Input,
            To::Output(_) => shards > 1 && InTheMaking::is_worth_it(plan, shards),
        })
    }

    /// Begins; every shard's files are there. `events` hears that standard output takes nothing more.
    pub(super) fn begin(
        &mut self,
        folder: &RunFolder,
        shards: usize,
        events: &Sender<Event>,
    ) -> Result<(), StorageError> {
        self.under_way = match self.planned.take() {
            None => None,
            Some((plan, To::Output(target))) => {
                InTheMaking::start(folder, plan, &target, shards).map(UnderWay::Output)
            }
            Some((plan, To::Stdout)) => {
                let complain = events.clone();
                let complain = move |_: &DeliveryError| {
                    let report = Report::Undelivered;
                    // The run may be over.
                    let _ = complain.send(Event { shard: 0, report });
                };
                let delivery = Delivery::start(folder, plan, stdout(), complain)?;
                Some(UnderWay::Stdout(delivery))
            }
        };
        Ok(())
    }

    /// The run is over: what is left leaves, unless it stopped.
    pub(super) fn finish(
        self,
        folder: &RunFolder,
        has_stopped: bool,
    ) -> Result<Left, DeliveryError> {
        let (mut to_stdout, mut begun) = (None, None);
        match (self.under_way, self.planned) {
            (Some(UnderWay::Stdout(delivery)), _) => {
                to_stdout = delivery
                    .finish(has_stopped)?
                    .map(|(successes, _)| successes);
            }
            (Some(UnderWay::Output(output)), _) if has_stopped => output.abandon(),
            (Some(UnderWay::Output(output)), _) => begun = output.finish(),
            // Nothing was sent.
            (None, Some((plan, To::Stdout))) => {
                to_stdout = Some(delivery::deliver_all(folder, plan, stdout())?);
            }
            (None, Some((_, To::Output(_))) | None) => {}
        }
        Ok(Left { to_stdout, begun })
    }
}

/// Delivers once more what an earlier process has delivered to a reader of its own, if records go to standard output.
pub(super) fn deliver_again(
    job: &Job,
    order: config::Order,
    folder: &RunFolder,
    input: &Arc<Input>,
    scan: &Scan,
    successes: u64,
) -> Result<(), DeliveryError> {
    match job.output {
        Some(OutputTarget::Stdout) => {
            let plan = DeliveryPlan::new(order, Arc::clone(input), scan, false);
            delivery::deliver_again(folder, plan, successes, stdout())
        }
        Some(OutputTarget::File(_)) | None => Ok(()),
    }
}

/// Why a run stops whose records cannot leave.
pub(super) fn undelivered(error: DeliveryError) -> Result<Stopped, RunError> {
    match error {
        DeliveryError::ReaderGone => Ok(Stopped::ReaderGone),
        DeliveryError::Storage(error) if error.is_resumable() => Ok(Stopped::Storage(error)),
        DeliveryError::Storage(error) => Err(error.into()),
    }
}

fn stdout() -> Stream {
    Box::new(io::stdout())
}
