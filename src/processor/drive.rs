//! A run under way: shards and coordinator from their start until all have left.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::leaving::Leaving;
use super::setup::Setup;
use super::tally::gauges;
use super::{RunError, one_thread};
use crate::batch::coordinator::{Coordinator, Finished, Observer};
use crate::batch::folder::{DoneSet, Keeper, Merged, RunFolder};
use crate::batch::input::{Input, Scan};
use crate::batch::message::{Event, Order, Report};
use crate::batch::segment::ShardLog;
use crate::batch::shard::{Shard, ShardStart};
use crate::batch::slices::Slices;
use crate::config::{Config, Durability};
use crate::entra::{self, BearerTokens, News, Token, TokenService};
use crate::metrics::Before;
use crate::provider::Authorization;
use crate::runtime::backend::{self, ShardMain};
use crate::runtime::dns::Resolver;
use crate::runtime::kernel_time::KernelTime;
use crate::runtime::{self, Runtime, mailbox, simulated};

impl Setup {
    /// Starts the shards and coordinates them until all have left.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a run meet here, once"
    )]
    pub(super) fn drive(
        &self,
        folder: &RunFolder,
        sends_failures_again: bool,
        input: Arc<Input>,
        done: Option<Arc<DoneSet>>,
        scan: &Scan,
        before: Merged,
        counted: Before,
        leaving: &mut Leaving,
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
            match leaving.wants_input_order(shards) {
                // What comes first is wanted first.
                true => Slices::in_order(scan.ranges.clone(), shards),
                false => Slices::new(scan.ranges.clone(), shards),
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
        leaving.begin(folder, shards, &events)?;
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

/// Requests that can ever be in flight. More shards than this would only hand the permits to and fro.
fn in_flight_max(config: &Config) -> usize {
    let endpoints = config.endpoints.iter();
    let room = endpoints.fold(0_usize, |room, endpoint| {
        room.saturating_add(endpoint.max_concurrent)
    });
    config.request.workers.min(room)
}
