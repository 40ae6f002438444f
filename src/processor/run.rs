//! One run: checks, input, run folder, shards, coordinator, merge, books.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::reopen::{self, Begun};
use super::tally::{conclude, earlier, gauges, still};
use super::{ProcessingResult, Processor, RunError, one_thread};
use crate::batch::coordinator::{Coordinator, Finished, Observer, Stopped};
use crate::batch::delivery::{self, Delivery, DeliveryError, DeliveryPlan};
use crate::batch::folder::{
    Claim, DoneSet, InputIdentity, Keeper, Manifest, Merged, Opened, Publication, RunFolder,
    Salvage, StoppedBy, run_folder_path,
};
use crate::batch::input::{Input, InputError, Scan};
use crate::batch::merge::{self, MergePlan, Target};
use crate::batch::message::{Event, Order, Report};
use crate::batch::open_files;
use crate::batch::plan::Plan;
use crate::batch::segment::{ShardLog, StorageError};
use crate::batch::shard::{Shard, ShardStart};
use crate::batch::slices::Slices;
use crate::config::{self, Config, Durability, InputSource, Job, OutputTarget};
use crate::entra::{self, BearerTokens, News, Token, TokenService};
use crate::metrics::Before;
use crate::provider::Authorization;
use crate::runtime::backend::{self, Backend, ShardMain};
use crate::runtime::dns::Resolver;
use crate::runtime::kernel_time::KernelTime;
use crate::runtime::{self, Runtime, files, mailbox, simulated};

/// Bounds of the pieces in which input is handed to shards: small enough that cores finish
/// together, large enough that handing out costs nothing.
const RANGE_BYTES_MIN: usize = 64 << 10;
const RANGE_BYTES_MAX: usize = 4 << 20;
/// Pieces per shard aimed at within those bounds.
const RANGES_PER_SHARD: usize = 16;

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
                let plan = stdout_plan(job, config.order, &input, &scan, false);
                if let Some(plan) = plan {
                    // Its reader may have seen a part only, and this one nothing.
                    match delivery::deliver_again(&folder, plan, merged.succeeded, stdout()) {
                        Ok(()) => {}
                        Err(error) => {
                            let stopped = undelivered(error)?;
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
    let to_deliver = stdout_plan(job, config.order, &input, &scan, job.retry_errors);
    let mut under_way = None;
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
            to_deliver,
            &mut under_way,
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
    let delivered = match under_way {
        Some(delivery) => delivery.finish(stopped.is_some()),
        None => match stdout_plan(job, config.order, &input, &scan, job.retry_errors) {
            Some(plan) => delivery::deliver_all(&folder, plan, stdout()).map(Some),
            None => Ok(None),
        },
    };
    // As above.
    drop(input);
    let stopped = match delivered {
        Ok(Some(delivered)) if stopped.is_none() && delivered != recorded.succeeded => {
            return Err(StorageError::Books {
                path: folder.path().to_path_buf(),
                lines: scan.lines,
                succeeded: delivered,
                failed: recorded.failed,
            }
            .into());
        }
        Ok(_) => stopped,
        // The cause, and not what it led to.
        Err(error) => Some(undelivered(error)?),
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

/// The checks of [`run`], and the input; nothing is created.
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
struct Setup {
    plan: Arc<Plan>,
    backend: Backend,
    cores: Vec<usize>,
    folder: PathBuf,
}

impl Setup {
    fn new(processor: &Processor, job: &Job) -> Result<Self, RunError> {
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
    fn open_input(&self, job: &Job) -> Result<(Input, Option<Claim>), RunError> {
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
    fn refuse_foreign(&self, input: &Input, job: &Job) -> Result<(), InputError> {
        let Some(kind) = input.foreign_kind(self.plan.config.max_line_bytes) else {
            return Ok(());
        };
        let path = match &job.input {
            InputSource::File(path) => Some(path.clone()),
            InputSource::Stdin => None,
        };
        Err(InputError::Foreign { path, kind })
    }

    fn scan(&self, input: &Input) -> Scan {
        let pieces = (self.cores.len() * RANGES_PER_SHARD) as u64;
        let range_bytes = usize::try_from(input.size() / pieces)
            .unwrap_or(RANGE_BYTES_MAX)
            .clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX);
        input.scan(self.cores.len(), range_bytes)
    }

    /// Starts the shards and coordinates them until all have left.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a run meet here, once"
    )]
    fn drive(
        &self,
        folder: &RunFolder,
        sends_failures_again: bool,
        input: Arc<Input>,
        done: Option<Arc<DoneSet>>,
        scan: &Scan,
        before: Merged,
        counted: Before,
        to_deliver: Option<DeliveryPlan>,
        under_way: &mut Option<Delivery>,
        observer: &mut dyn Observer,
        interrupts: &Receiver<()>,
    ) -> Result<Finished, RunError> {
        let shards = self
            .cores
            .len()
            .min(scan.ranges.len())
            .min(in_flight_max(&self.plan.config))
            .max(1);
        let resolver = Resolver::start()
            .map_err(|error| RunError::Setup(format!("cannot start name resolution: {error}")))?;
        let (events, inbox) = unbounded();
        let (orders, mailboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| mailbox::channel()).unzip();
        let tokens = self.tokens(orders.clone(), events.clone())?;
        // A simulated process has nobody to tell.
        let keeper = simulated::current()
            .is_none()
            .then(|| Keeper::new(folder, sends_failures_again, runtime::now()));
        let coordinator = Coordinator::new(
            Arc::clone(&self.plan),
            Arc::clone(&input),
            match &to_deliver {
                // What comes first is wanted first.
                Some(plan) if plan.order == config::Order::Input => {
                    Slices::in_order(scan.ranges.clone(), shards)
                }
                _ => Slices::new(scan.ranges.clone(), shards),
            },
            orders,
            inbox,
            gauges(scan, before),
            runtime::now(),
        )
        .continuing(counted)
        .keeping(keeper);
        let keep_output = folder.manifest().has_output;
        if done.is_some() && self.plan.config.durability == Durability::Power {
            folder.sync_earlier()?;
        }
        let mut starts = Vec::with_capacity(shards);
        for (id, mailbox) in mailboxes.into_iter().enumerate() {
            let Config {
                durability, order, ..
            } = self.plan.config;
            let mut log =
                ShardLog::create(folder, folder.generation(), id, keep_output, durability)?;
            // What several shards wrote is copied at the end: to have it on the disk twice would be for nothing.
            if shards == 1 {
                log = log.writing_out();
            }
            starts.push(ShardStart {
                id,
                plan: Arc::clone(&self.plan),
                input: Arc::clone(&input),
                done: done.clone(),
                has_succeeded: before.succeeded > 0,
                permits: coordinator.first_permits(id),
                log: log.writing_ahead(folder, order),
                events: events.clone(),
                mailbox,
                resolver: resolver.clone(),
                tokens: (tokens.as_ref())
                    .map(|(service, first)| BearerTokens::new(first.clone(), service.refusals())),
            });
        }
        if let Some(plan) = to_deliver {
            let complain = events.clone();
            let complain = move |_: &DeliveryError| {
                let report = Report::Undelivered;
                // The run may be over.
                let _ = complain.send(Event { shard: 0, report });
            };
            *under_way = Some(Delivery::start(folder, plan, stdout(), complain)?);
        }
        drop(events);
        if let Some(world) = simulated::current() {
            return one_thread::drive(&world, coordinator, starts, observer, interrupts)
                .ok_or_else(|| RunError::Setup("the simulated process was killed".to_owned()));
        }
        let threads = starts
            .into_iter()
            .map(|start| self.spawn(start))
            .collect::<Result<Vec<_>, _>>()?;
        let finished = coordinator.run(observer, interrupts);
        for (id, thread) in threads.into_iter().enumerate() {
            if finished.stuck.contains(&id) {
                // It has its files open and may come back to life.
                folder.stay_locked();
            } else {
                // A panic has been reported by the thread's last message.
                let _ = thread.join();
            }
        }
        Ok(finished)
    }

    /// Fetches the first tokens of the endpoints that want some. Newer ones go to every shard; an
    /// endpoint for which there are none any more is out.
    fn tokens(
        &self,
        orders: Vec<mailbox::Sender<Order>>,
        events: Sender<Event>,
    ) -> Result<Option<(TokenService, Vec<Token>)>, RunError> {
        let plan = Arc::clone(&self.plan);
        let announce = move |news| match news {
            News::Token(token) => {
                for shard in &orders {
                    // A shard that has left needs no token.
                    let _ = shard.send(Order::Token(token.clone()));
                }
            }
            News::Failed(source, reason) => {
                for (endpoint, resolved) in plan.endpoints.iter().enumerate() {
                    if resolved.authorization == Authorization::Entra(source) {
                        let report = Report::Disable {
                            endpoint,
                            reason: reason.clone(),
                            unpaid: None,
                        };
                        // The run may be over.
                        let _ = events.send(Event { shard: 0, report });
                    }
                }
            }
        };
        let settings = self.plan.pool_settings();
        let runtime = (self.backend, self.plan.config.runtime);
        entra::serve(runtime, settings, &self.plan.endpoints, announce).map_err(RunError::Setup)
    }

    fn spawn(&self, start: ShardStart) -> Result<JoinHandle<()>, RunError> {
        let core = self.cores[start.id];
        let pin = self.cores.len() > 1 || self.plan.config.cores.is_some();
        let backend = self.backend;
        let choice = self.plan.config.runtime;
        thread::Builder::new()
            .name(format!("shard-{}", start.id))
            .spawn(move || {
                if pin {
                    runtime::pin_current_thread(core);
                }
                let ended = Ended::new(start.id, start.events.clone());
                if let Some(time) = KernelTime::of_this_thread() {
                    ended.report(Report::Begun(time));
                }
                let result = backend::run(backend, choice, RunShard(start));
                ended.tell(result.map_err(|error| {
                    let name = backend.name();
                    format!(
                        "{name} cannot be used by a core: {error}; raise the limit it meets, use \
                         fewer --cores, or --runtime tokio"
                    )
                }));
            })
            .map_err(|error| RunError::Setup(format!("cannot start a shard's thread: {error}")))
    }
}

struct RunShard(ShardStart);

impl ShardMain for RunShard {
    async fn run<R: Runtime>(self) {
        Shard::<R>::run(self.0).await;
    }
}

/// Tells the coordinator that a shard's thread is over, also when it panics.
pub(super) struct Ended {
    id: usize,
    events: Sender<Event>,
    told: bool,
}

impl Ended {
    pub(super) fn new(id: usize, events: Sender<Event>) -> Self {
        Self {
            id,
            events,
            told: false,
        }
    }

    pub(super) fn tell(mut self, result: Result<(), String>) {
        self.send(result);
        self.told = true;
    }

    fn send(&self, result: Result<(), String>) {
        self.report(Report::Ended(result));
    }

    fn report(&self, report: Report) {
        let shard = self.id;
        // Nobody listens any more only if the run has failed already.
        let _ = self.events.send(Event { shard, report });
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.told {
            self.send(Err(format!(
                "shard {} panicked; please report this",
                self.id
            )));
        }
    }
}

fn choose_backend(config: &Config) -> Result<Backend, RunError> {
    let (backend, refused) = Backend::choose(config.runtime).map_err(RunError::Setup)?;
    if let Some(reason) = refused {
        tracing::warn!("io_uring cannot be used here ({reason}); running on tokio");
    }
    Ok(backend)
}

/// Requests that can ever be in flight. More shards than this would only hand the permits to and fro.
fn in_flight_max(config: &Config) -> usize {
    let endpoints = config.endpoints.iter();
    let room = endpoints.fold(0_usize, |room, endpoint| {
        room.saturating_add(endpoint.max_concurrent)
    });
    config.request.workers.min(room)
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
fn output_file(job: &Job) -> Option<&Path> {
    match &job.output {
        Some(OutputTarget::File(path)) => Some(path),
        Some(OutputTarget::Stdout) | None => None,
    }
}

/// What is merged: records that go to standard output have left before.
fn target(output: &OutputTarget) -> Option<Target> {
    match output {
        OutputTarget::File(path) => Some(Target::File(path.clone())),
        OutputTarget::Stdout => None,
    }
}

/// What goes to standard output, if records do.
fn stdout_plan(
    job: &Job,
    order: config::Order,
    input: &Arc<Input>,
    scan: &Scan,
    failures_again: bool,
) -> Option<DeliveryPlan> {
    let is_wanted = job.output == Some(OutputTarget::Stdout);
    is_wanted.then(|| DeliveryPlan::new(order, Arc::clone(input), scan, failures_again))
}

fn stdout() -> Box<dyn io::Write + Send> {
    Box::new(io::stdout())
}

/// Why a run stops whose records cannot leave.
fn undelivered(error: DeliveryError) -> Result<Stopped, RunError> {
    match error {
        DeliveryError::ReaderGone => Ok(Stopped::ReaderGone),
        DeliveryError::Storage(error) if error.is_resumable() => Ok(Stopped::Storage(error)),
        DeliveryError::Storage(error) => Err(error.into()),
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
