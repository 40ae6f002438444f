//! The main thread of a run: owns the global halves of the traffic policy, hands out input, listens
//! to the shards and decides when the run is over. It sees messages only; no shard waits for it.

mod ending;
mod refusing;
mod sharing;
mod stopped;
mod telling;
mod watch;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::batch::admission::{Barren, FirstPermits};
use crate::batch::folder::{Keeper, StoppedBy};
use crate::batch::input::Input;
use crate::batch::last_lines::LastLines;
use crate::batch::message::{Event, Order, Pool, Report};
use crate::batch::plan::Plan;
use crate::batch::quotas::{Quotas, TokenLease};
use crate::batch::slices::Slices;
use crate::config::Rate;
use crate::metrics::{Before, Gauges, Snapshot, Totals};
use crate::policy::health::{Health, Probe, State};
use crate::policy::pacer::Pacer;
use crate::policy::permits::{Action, Permits};
use crate::policy::refusals::RefusedInARow;
use crate::runtime::mailbox::Sender;
use crate::runtime::{self, pause};
use watch::Watch;

pub use stopped::{Finished, Stopped};

/// How often the display, the outage clock and the input's identity are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Events handled between two looks at the clock.
const EVENTS_PER_TURN: usize = 1024;
/// How long an idle shard may take to leave once it has been told to.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Sees the run as it goes.
pub trait Observer {
    /// Called about ten times a second.
    fn tick(&mut self, snapshot: &Snapshot);
}

/// A shard as the coordinator sees it.
struct Worker {
    orders: Sender<Order>,
    /// It has something to send.
    working: bool,
    /// It has nothing more to send: at most records that are held back.
    done: bool,
    ended: bool,
    /// Once its thread runs, where the system lets it be seen.
    watch: Option<Watch>,
}

/// The run's centre.
pub struct Coordinator {
    plan: Arc<Plan>,
    input: Arc<Input>,
    events: Receiver<Event>,
    shards: Vec<Worker>,
    slices: Slices,
    workers: Permits,
    /// By quota group: what the search in flight has found.
    windows: Vec<Permits>,
    endpoints: Vec<Permits>,
    pacer: Option<Pacer>,
    quotas: Quotas,
    health: Health,
    last_failure: Vec<Option<String>>,
    /// By endpoint: refusals since it served a request.
    refused: Vec<RefusedInARow>,
    last_lines: LastLines,
    /// As long as no line of the run has succeeded.
    barren: Option<Barren>,
    /// Lines for which there was no money.
    unpaid: BTreeSet<u64>,
    totals: Totals,
    gauges: Gauges,
    /// What earlier processes of this run spent, in US dollars.
    spent_before: f64,
    keeper: Option<Keeper>,
    started: Instant,
    /// When the display, the outage clock and the input's identity are looked at next.
    tick_at: Instant,
    stopped: Option<Stopped>,
    /// Shards that were given up.
    stuck: Vec<usize>,
    /// When shards that still have requests in flight are told to leave.
    leave_at: Option<Instant>,
    actions: Vec<Action>,
    token_leases: Vec<TokenLease>,
    /// Returned slots go round.
    next_taker: usize,
    messages: Messages,
}

/// How many messages have crossed threads. Their number follows the time a run takes and its ranges of
/// input, not its requests (docs/SCALING.md); `-v` tells it at the end.
#[derive(Default)]
struct Messages {
    reports: u64,
    orders: Cell<u64>,
}

impl Coordinator {
    /// A coordinator of shards that are about to start.
    pub fn new(
        plan: Arc<Plan>,
        input: Arc<Input>,
        slices: Slices,
        orders: Vec<Sender<Order>>,
        events: Receiver<Event>,
        gauges: Gauges,
        now: Instant,
    ) -> Self {
        let shards = orders.len();
        let pacer = match plan.config.request.rate_limit {
            // A rate that is searched for is the quota groups'.
            Rate::Unlimited | Rate::Auto => None,
            Rate::PerSecond(rate) => Some(Pacer::new(rate, now)),
        };
        let quotas = Quotas::new(&plan.limits, shards, now);
        let mut health = Health::new(plan.groups.clone(), shards);
        if gauges.succeeded_before > 0 {
            health.note_earlier_success();
        }
        Self {
            workers: Permits::new(plan.config.request.workers as u32, shards, 0),
            windows: (0..plan.limits.len())
                .map(|group| Permits::new(quotas.window(group), shards, group))
                .collect(),
            endpoints: plan
                .endpoints
                .iter()
                .enumerate()
                .map(|(index, endpoint)| {
                    // Remainders go to different shards, so that none is left without any.
                    Permits::new(endpoint.max_concurrent as u32, shards, index)
                })
                .collect(),
            quotas,
            health,
            last_failure: vec![None; plan.endpoints.len()],
            refused: vec![RefusedInARow::default(); plan.endpoints.len()],
            last_lines: LastLines::new(shards, plan.endpoints.len()),
            barren: (gauges.succeeded_before == 0).then(Barren::default),
            unpaid: BTreeSet::new(),
            totals: Totals::new(plan.endpoints.len()),
            shards: orders
                .into_iter()
                .map(|orders| Worker {
                    orders,
                    working: true,
                    done: false,
                    ended: false,
                    watch: None,
                })
                .collect(),
            plan,
            input,
            events,
            slices,
            pacer,
            gauges,
            spent_before: 0.0,
            keeper: None,
            started: now,
            tick_at: now,
            stopped: None,
            stuck: Vec::new(),
            leave_at: None,
            actions: Vec::new(),
            token_leases: Vec::new(),
            next_taker: 0,
            messages: Messages::default(),
        }
    }

    /// The same, of a run that other processes began.
    #[must_use]
    pub fn continuing(mut self, before: Before) -> Self {
        self.spent_before = before.cost_usd();
        self.totals = Totals::after(before);
        self
    }

    /// The same; its figures are kept for processes that resume.
    #[must_use]
    pub fn keeping(mut self, keeper: Option<Keeper>) -> Self {
        self.keeper = keeper;
        self
    }

    /// The permits `shard` starts with.
    pub fn first_permits(&self, shard: usize) -> FirstPermits {
        let of = |permits: &Permits| permits.initial(shard);
        FirstPermits {
            workers: of(&self.workers),
            groups: self.windows.iter().map(of).collect(),
            endpoints: self.endpoints.iter().map(of).collect(),
        }
    }

    /// Runs until every shard has left.
    pub fn run(mut self, observer: &mut dyn Observer, interrupts: &Receiver<()>) -> Finished {
        let never = crossbeam_channel::never();
        let mut interrupts = interrupts;
        while let Some(wake_at) = self.turn(observer) {
            let wait = wake_at.saturating_duration_since(runtime::now());
            select! {
                recv(self.events) -> event => match event {
                    Ok(Event { shard, report }) => self.handle(shard, report, runtime::now()),
                    Err(_) => break,
                },
                recv(interrupts) -> asked => match asked {
                    Ok(()) => self.interrupt(),
                    // Nobody can interrupt any more.
                    Err(_) => interrupts = &never,
                },
                default(wait) => {}
            }
        }
        self.finish()
    }

    /// Works off what has come in and what is due, and tells when it wants to be called again at the
    /// latest; `None` when every shard has left.
    pub fn turn(&mut self, observer: &mut dyn Observer) -> Option<Instant> {
        for _ in 0..EVENTS_PER_TURN {
            let Ok(Event { shard, report }) = self.events.try_recv() else {
                break;
            };
            self.handle(shard, report, runtime::now());
        }
        let now = runtime::now();
        if let Some(lasted) = pause::lasted(self.tick_at, now) {
            self.health.postpone(lasted, now);
            self.leave_at = self.leave_at.map(|at| at + lasted);
        }
        self.poll_health(now);
        self.poll_quotas(now);
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.tick(now);
            observer.tick(&self.snapshot(now));
            self.keep_figures(now, false);
        }
        if self.shards.iter().all(|shard| shard.ended) {
            return None;
        }
        let wakes = [self.health.next_wake(), self.quotas.next_wake()];
        Some(wakes.into_iter().flatten().fold(self.tick_at, Instant::min))
    }

    /// Whether reports wait for the next turn.
    pub fn has_mail(&self) -> bool {
        !self.events.is_empty()
    }

    /// The user wants the run to stop.
    pub fn interrupt(&mut self) {
        self.stop(Stopped::Interrupted, runtime::now());
    }

    /// What the run leaves behind once every shard has left.
    pub fn finish(mut self) -> Finished {
        tracing::debug!(
            "{} messages from shards, {} to them",
            self.messages.reports,
            self.messages.orders.get()
        );
        let now = runtime::now();
        self.keep_figures(now, true);
        let snapshot = Snapshot {
            stopping: None,
            ..self.snapshot(now)
        };
        Finished {
            stopped: self.stopped,
            snapshot,
            stuck: self.stuck,
            stopped_by: StoppedBy {
                refused: self.health.blamed().iter().copied().collect(),
                unpaid: self.unpaid,
            },
        }
    }

    fn handle(&mut self, shard: usize, report: Report, now: Instant) {
        self.messages.reports += 1;
        if let Some(watch) = &mut self.shards[shard].watch {
            watch.hear();
        }
        match report {
            Report::Begun(time) => self.shards[shard].watch = Some(Watch::new(time)),
            Report::WantRange => {
                let order = match self.slices.next(shard) {
                    Some(range) => Order::Range(range),
                    None => Order::NoMoreInput,
                };
                self.order(shard, order);
            }
            Report::WantSlots(schedule, want) => {
                if let Some(pacer) = self.pacer(schedule) {
                    let slots = pacer.lease(want, now);
                    self.order(shard, Order::Slots(schedule, slots));
                }
            }
            Report::GiveBackSlots(schedule, slots) => {
                self.take_back(shard, schedule, slots, now);
            }
            Report::WantTokens { group, amount } => {
                self.quotas.handle_want(shard, group, amount);
            }
            Report::SettleTokens { group, more } => self.quotas.handle_settled(group, more),
            Report::Pushback { endpoint, pushback } => {
                let group = self.plan.groups[endpoint];
                self.quotas.handle_pushback(group, shard, &pushback, now);
                self.resize(group, now);
                self.pass_on_paces();
            }
            Report::Remaining {
                endpoint,
                said,
                used,
            } => {
                let group = self.plan.groups[endpoint];
                self.quotas.handle_used(group, used);
                self.quotas.handle_remainders(group, &said, now);
                self.pass_on_paces();
            }
            Report::WantPermit(pool) => self.permits(pool, |permits, actions| {
                permits.handle_want(shard, actions);
            }),
            Report::ReturnPermits(pool, count) => {
                self.permits(pool, |permits, actions| {
                    permits.handle_return(shard, count, actions);
                });
                if let Pool::Group(group) = pool {
                    self.note_kept(group, now);
                }
            }
            Report::Transient {
                endpoint,
                failures,
                message,
                may_be_the_line,
                refused,
            } => {
                self.last_failure[endpoint] = Some(message);
                let failures = match refused {
                    false => failures,
                    true => match self.refused[endpoint].again(now) {
                        // Else requests of other shards are being served.
                        Some(failures) if self.totals.in_flight(endpoint) == 0 => failures,
                        _ => return,
                    },
                };
                if self.last_lines.handle_failure(endpoint, may_be_the_line) {
                    self.health.handle_transient(endpoint, failures, now);
                    self.poll_health(now);
                }
            }
            Report::AllTried => self.last_lines.handle_all_tried(shard),
            Report::Probed { endpoint, shown } => {
                let was_out = self.group_is_out(endpoint, now);
                self.health.handle_probe_result(endpoint, shown, now);
                if shown != Probe::Failed && was_out {
                    let group = self.plan.groups[endpoint];
                    self.quotas.handle_back(group, now);
                    self.resize(group, now);
                    self.pass_on_paces();
                }
            }
            Report::ProbeDeclined(endpoint) => {
                self.health.handle_probe_declined(endpoint, shard, now);
            }
            Report::Working(working) => self.handle_working(shard, working),
            Report::Success(endpoint) => {
                self.barren = None;
                self.refused[endpoint] = RefusedInARow::default();
                self.health.handle_success(endpoint, now);
            }
            Report::Alive(endpoint) => {
                self.refused[endpoint] = RefusedInARow::default();
                self.health.handle_alive(endpoint, now);
            }
            Report::Complaint { endpoint, failures } => {
                self.refused[endpoint] = RefusedInARow::default();
                self.health.handle_complaint(endpoint, failures, now);
                self.poll_health(now);
            }
            Report::Refused(refused) => self.handle_refused(shard, *refused, now),
            Report::FailedForGood {
                kind,
                status,
                message,
            } => self.note_failed_for_good(kind, status, message, now),
            Report::OnlyHeld => self.handle_done(shard, now),
            Report::Hint { endpoint, wait } => {
                self.health.handle_hint(endpoint, wait, now);
                // Not after the events that are waiting: other shards are still sending.
                self.poll_health(now);
                let group = self.plan.groups[endpoint];
                self.quotas.handle_wait(group, now + wait, now);
                self.resize(group, now);
            }
            Report::WrongScheme { endpoint, reason } => {
                self.handle_wrong_scheme(shard, endpoint, &reason, now);
            }
            Report::Disable {
                endpoint,
                reason,
                unpaid,
            } => {
                self.unpaid.extend(unpaid);
                self.disable(endpoint, &reason, unpaid.is_some(), now);
            }
            Report::Metrics(delta) => {
                for (endpoint, (count, latency)) in delta.successes().enumerate() {
                    if count > 0 {
                        self.refused[endpoint].note_served(now);
                    }
                    let group = self.plan.groups[endpoint];
                    self.quotas.handle_successes(group, count, latency, now);
                    self.resize(group, now);
                }
                self.pass_on_paces();
                self.totals.absorb(&delta);
                self.check_cost(now);
            }
            Report::Drained | Report::Stopped => {
                self.order(shard, Order::Exit);
                self.handle_done(shard, now);
            }
            Report::Storage(error) => self.stop(Stopped::Storage(error), now),
            Report::Undelivered => self.stop(Stopped::ReaderGone, now),
            Report::Broken(message) => self.stop(Stopped::Shard(message), now),
            Report::Ended(result) => {
                self.shards[shard].ended = true;
                if let Err(message) = result {
                    self.stop(Stopped::Shard(message), now);
                }
            }
        }
    }

    /// No endpoint of this one's quota group can be used now.
    fn group_is_out(&self, endpoint: usize, now: Instant) -> bool {
        let groups = &self.plan.groups;
        let usable = |index: usize| matches!(self.health.state(index, now), State::Usable);
        !(0..groups.len()).any(|other| groups[other] == groups[endpoint] && usable(other))
    }

    /// Tells every shard what has changed about the endpoints.
    fn poll_health(&mut self, now: Instant) {
        self.pass_on_fates();
        for transition in self.health.poll(now) {
            let endpoint = transition.endpoint;
            let view = self.health.view(endpoint);
            for shard in 0..self.shards.len() {
                self.order(shard, Order::Endpoint(endpoint, view));
            }
        }
    }

    fn order(&self, shard: usize, order: Order) {
        let orders = &self.messages.orders;
        orders.set(orders.get() + 1);
        // A shard that has left needs no orders.
        let _ = self.shards[shard].orders.send(order);
    }
}

#[cfg(test)]
mod tests;
