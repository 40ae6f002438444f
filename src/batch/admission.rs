//! What a shard may send now: the next line, a free place in flight, a usable endpoint and a send
//! slot, all or nothing. Pure: `now` is an argument, and what the coordinator should hear goes out
//! through [`Admission::reports`].

mod answers;
mod barren;
mod held;
mod models;
mod placement;
mod pushback;
mod source;
mod surplus;
mod ticket;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::folder::DoneSet;
use crate::batch::gates::{GroupGate, SlotGate};
use crate::batch::input::{Input, LineRef};
use crate::batch::line::Parsed;
use crate::batch::message::{Order, Pool, Report, Schedule};
use crate::batch::quotas::GroupLimits;
use crate::error::ErrorKind;
use crate::policy::balance::Ring;
use crate::policy::health::{LocalHealth, REFUSED_TO_DISABLE};
use crate::policy::pacer::Taken;
use crate::policy::refusals::{History, LineRefusals};
use crate::policy::retry::{Parked, RetryQueue};

pub use barren::{Barren, SAME_FAILURES_MAX};
pub use models::UnknownModels;
pub use ticket::Ticket;

use answers::Seen;
use held::Permits;
use placement::Place;
use source::{Filled, Source};
use ticket::Leave;

/// The answer of [`Admission::admit`].
#[derive(Debug)]
pub enum Admitted {
    /// Send this.
    Go(Ticket),
    /// A line that is no request: it becomes a failure record, nothing is sent.
    Refused {
        /// Which line.
        line: LineRef,
        /// `invalid_input` or `too_large`.
        kind: ErrorKind,
        /// Why.
        message: String,
    },
    /// Nothing can be sent before something changes, or before this moment.
    Wait(Option<Instant>),
    /// All of the shard's work is done.
    Drained,
    /// Stopped as ordered, and nothing is in flight any more.
    Stopped,
}

/// What [`Admission::next_request`] has found.
enum Next {
    /// This may be sent.
    Free(Leave),
    /// Nothing may be sent.
    Not(Admitted),
    /// The line was put off: ask again.
    PutOff,
}

/// One shard's half of the traffic policy and its place in the input.
pub struct Admission {
    source: Source,
    parked: RetryQueue,
    slots: Option<SlotGate>,
    /// By quota group.
    gates: Vec<GroupGate>,
    /// Quota group of each endpoint.
    groups: Vec<usize>,
    /// By endpoint: the next request may go there now. Filled anew for every request.
    open: Vec<bool>,
    workers: Permits,
    /// By quota group: its part of what the search in flight has found.
    windows: Vec<Permits>,
    /// By quota group: requests sent from here.
    sends: Vec<u64>,
    /// By quota group: refusals since the last answer while nothing else was in flight.
    refused_in_a_row: Vec<u32>,
    /// By quota group: those that were refused for load.
    refusals: Vec<u64>,
    /// By quota group: its latest outcomes here.
    histories: Vec<History>,
    /// What the servers have answered this shard so far.
    answers: u64,
    endpoints: Vec<Permits>,
    health: LocalHealth,
    /// By endpoint: what this shard has seen of it.
    seen: Vec<Seen>,
    /// One of them may be bad.
    is_wary: bool,
    models: UnknownModels,
    /// A line that was due waits for a better place until then, at least.
    put_off_until: Option<Instant>,
    /// Since when lines wait like this for another endpoint while nothing is in flight.
    idle_since: Option<Instant>,
    /// How long a line waits for an endpoint that is out, if only that one may have its model.
    patience: Duration,
    /// As long as no line of the run has succeeded.
    barren: Option<Barren>,
    ring: Ring,
    in_flight: usize,
    /// Lines whose failure records are held back.
    records_held: usize,
    /// The coordinator knows that there is nothing else left.
    only_held: bool,
    /// Some permits' recall waits for [`Self::hand_over`].
    asked_back: bool,
    /// The coordinator knows that this shard has something to send.
    working: bool,
    /// The coordinator knows that every line was sent at least once.
    all_tried: bool,
    stopping: bool,
    /// What the coordinator should hear; the driver sends it after each call.
    pub reports: Vec<Report>,
}

/// What an [`Admission`] starts with.
pub struct Opening {
    /// The shard's number.
    pub shard: usize,
    /// The run's start: due times count from it.
    pub started: Instant,
    /// Weight of each endpoint.
    pub weights: Vec<u32>,
    /// Quota group of each endpoint.
    pub groups: Vec<usize>,
    /// What each quota group may do.
    pub limits: Vec<GroupLimits>,
    /// The shard's first permits.
    pub permits: FirstPermits,
    /// Whether every request needs a send slot of the run (`--rate N`).
    pub paced: bool,
    /// Lines that an earlier process of this run has finished.
    pub done: Option<Arc<DoneSet>>,
    /// Longer lines are failure records.
    pub max_line_bytes: usize,
    /// How long all endpoints may be out.
    pub max_outage: Duration,
    /// A line of the run has succeeded in an earlier process.
    pub has_succeeded: bool,
}

/// The permits a shard starts with.
#[derive(Clone, Debug)]
pub struct FirstPermits {
    /// Of `--workers`.
    pub workers: u32,
    /// Of each quota group.
    pub groups: Vec<u32>,
    /// Of each endpoint.
    pub endpoints: Vec<u32>,
}

impl Admission {
    /// A shard's admission with nothing to do yet; it asks for its first range at once.
    pub fn new(opening: Opening) -> Self {
        Self {
            source: Source::new(opening.done, opening.max_line_bytes),
            parked: RetryQueue::new(opening.started),
            slots: opening.paced.then(|| SlotGate::new(Schedule::Run)),
            gates: opening
                .limits
                .iter()
                .enumerate()
                .map(|(group, limits)| GroupGate::new(group, limits))
                .collect(),
            groups: opening.groups.clone(),
            open: vec![false; opening.weights.len()],
            workers: Permits::new(opening.permits.workers),
            windows: (opening.permits.groups.into_iter())
                .map(Permits::new)
                .collect(),
            sends: vec![0; opening.limits.len()],
            refused_in_a_row: vec![0; opening.limits.len()],
            refusals: vec![0; opening.limits.len()],
            histories: vec![History::new(); opening.limits.len()],
            answers: 0,
            endpoints: (opening.permits.endpoints.into_iter())
                .map(Permits::new)
                .collect(),
            health: LocalHealth::new(opening.groups, opening.shard),
            seen: vec![Seen::default(); opening.weights.len()],
            is_wary: false,
            models: UnknownModels::default(),
            put_off_until: None,
            idle_since: None,
            patience: opening.max_outage,
            barren: (!opening.has_succeeded).then(Barren::default),
            ring: Ring::new(&opening.weights),
            in_flight: 0,
            records_held: 0,
            only_held: false,
            asked_back: false,
            working: true,
            all_tried: false,
            stopping: false,
            reports: Vec::new(),
        }
    }

    /// The next request that may be sent now.
    pub fn admit(&mut self, input: &Input, now: Instant) -> Admitted {
        let mut may_retry = true;
        let admitted = loop {
            match self.next_request(input, may_retry, now) {
                Next::Free(leave) => break Admitted::Go(self.issue(input, leave, now)),
                Next::Not(why) => break why,
                // It waits for a better place; those behind it need not.
                Next::PutOff => may_retry = false,
            }
        };
        if self.asked_back {
            self.hand_over(now);
        }
        admitted
    }

    /// What the next line meets. With `may_retry` that may be a parked one.
    fn next_request(&mut self, input: &Input, may_retry: bool, now: Instant) -> Next {
        if self.stopping {
            return Next::Not(match self.in_flight + self.records_held {
                0 => Admitted::Stopped,
                _ => Admitted::Wait(None),
            });
        }
        let mut retry_due = may_retry && self.parked.next_due().is_some_and(|due| due <= now);
        // Also when a retry goes first: whether any line is untried yet must be known.
        match self.source.fill(input, &mut self.reports) {
            // A probe may well fail: better a line that has all its attempts left.
            Filled::Ready => retry_due &= !self.health.holds_probe(),
            Filled::Refused(line, kind, message) => {
                return Next::Not(Admitted::Refused {
                    line,
                    kind,
                    message,
                });
            }
            // What was put off holds on to what it waits with.
            Filled::Empty if !may_retry => {
                return Next::Not(Admitted::Wait(self.parked.next_due()));
            }
            Filled::Empty => {
                if self.source.exhausted && !self.all_tried {
                    self.all_tried = true;
                    self.reports.push(Report::AllTried);
                    self.park_tried_before(now);
                    retry_due = self.parked.next_due().is_some_and(|due| due <= now);
                }
                if !retry_due && self.has_put_off(now) {
                    return Next::Not(Admitted::Wait(self.parked.next_due()));
                }
                if !retry_due {
                    return Next::Not(self.nothing_to_send());
                }
            }
        }
        if !self.working {
            self.working = true;
            self.reports.push(Report::Working(true));
        }
        let has_worker = self.workers.lease.available() > 0;
        if let Some(slots) = &mut self.slots
            && let Taken::At(at) = slots.look(now)
        {
            // Permits would only idle until then: shards that hold none would take them from each
            // other over and over.
            if has_worker {
                slots.ask(now, &mut self.reports);
            }
            return Next::Not(Admitted::Wait(Some(at)));
        }
        if !has_worker {
            self.workers.want(Pool::Workers, &mut self.reports);
            return Next::Not(Admitted::Wait(None));
        }
        if self.is_barren() {
            return Next::Not(Admitted::Wait(None));
        }
        let tokens = self.estimate(input, retry_due);
        if let Err(opens) = self.find_open(tokens, now) {
            return Next::Not(Admitted::Wait(opens));
        }
        if let Some(slots) = &mut self.slots {
            slots.ask(now, &mut self.reports);
            match slots.look(now) {
                Taken::Go => {}
                Taken::At(at) => return Next::Not(Admitted::Wait(Some(at))),
                Taken::Empty => return Next::Not(Admitted::Wait(None)),
            }
        }
        let retry = retry_due.then(|| self.parked.next().expect("a retry is due"));
        let endpoint = match self.place(input, retry, now) {
            Place::At(endpoint) => endpoint,
            Place::NotYet if retry_due => {
                self.put_off(now);
                return Next::PutOff;
            }
            Place::NotYet if self.let_pass(now) => return Next::PutOff,
            Place::NotYet => return Next::Not(Admitted::Wait(self.parked.next_due())),
        };
        if let Some(slots) = &mut self.slots {
            slots.spend(now);
        }
        Next::Free(Leave {
            is_retry: retry_due,
            endpoint,
            tokens,
        })
    }

    /// Every other line was tried: now those that an earlier process has tried.
    fn park_tried_before(&mut self, now: Instant) {
        for tried in std::mem::take(&mut self.source.tried_before) {
            self.parked.push(Parked {
                due: now,
                line_offset: tried.line_offset,
                line_number: tried.line_number,
                attempts: u16::try_from(tried.attempts).unwrap_or(u16::MAX),
                // None: which one failed it then says nothing about now.
                last_endpoint: u16::MAX,
                refusals: LineRefusals::default(),
                unreadable: 0,
                marks: self.source.marks(tried.line_number),
            });
        }
    }

    /// Tokens that the next line is taken for; 0 where nobody counts them.
    fn estimate(&mut self, input: &Input, retry_due: bool) -> u64 {
        if !self.gates.iter().any(GroupGate::counts_tokens) {
            return 0;
        }
        let parked = retry_due.then(|| self.parked.next_offset().expect("a retry is due"));
        self.source.estimate(input, parked)
    }

    /// The failure record of a line that `endpoint` has refused is held back until the coordinator says
    /// what becomes of it. `count`: so many are now.
    pub fn hold_record(&mut self, endpoint: usize, count: usize) {
        self.records_held += 1;
        // In a row, or the coordinator would have said so of the first ones.
        let in_a_row = self.seen[endpoint].unwell_in_a_row() as usize >= REFUSED_TO_DISABLE;
        if in_a_row && count >= REFUSED_TO_DISABLE {
            self.health.suspend(endpoint, true);
        }
    }

    /// It has said so of one.
    pub fn release_record(&mut self, endpoint: usize) {
        self.records_held -= 1;
        self.only_held = false;
        self.health.suspend(endpoint, false);
    }

    /// Takes back what a line was parsed into: the next one needs no memory of its own.
    pub fn reuse(&mut self, parsed: Parsed) {
        self.source.reuse(parsed);
    }

    /// A line waits here for its next attempt; it holds no place in flight.
    pub fn park(&mut self, parked: Parked) {
        self.parked.push(parked);
    }

    /// What the coordinator says.
    pub fn handle(&mut self, order: Order, now: Instant) {
        match order {
            Order::Range(range) => self.source.add(range),
            Order::NoMoreInput => self.source.end(),
            Order::Slots(Schedule::Run, slots) => {
                if let Some(gate) = &mut self.slots {
                    gate.add(slots);
                }
            }
            Order::Slots(Schedule::Group(group), slots) => self.gates[group].add_slots(slots),
            Order::Pace { group, slots } => self.gates[group].pace(group, slots),
            Order::Tokens { group, amount } => self.gates[group].add_tokens(amount),
            Order::Grant(pool, count) => self.permits(pool).grant(count),
            Order::Recall(pool) => {
                let permits = self.permits(pool);
                // The next request may be about to use the last one.
                permits.asked_back |= permits.lease.available() == 1;
                let (put_off, mut returned) = (permits.asked_back, 0);
                if !put_off {
                    returned = permits.lease.recall();
                }
                self.asked_back |= put_off;
                if returned > 0 {
                    self.reports.push(Report::ReturnPermits(pool, returned));
                }
            }
            Order::Withdraw(pool, count) => {
                let returned = self.permits(pool).lease.withdraw(count);
                if returned > 0 {
                    self.reports.push(Report::ReturnPermits(pool, returned));
                }
            }
            Order::Endpoint(index, view) => {
                if view.usable_from.is_some() {
                    self.histories[self.groups[index]].note_wait();
                }
                if view.is_well {
                    self.barren = None;
                }
                if view.streak == 0 {
                    self.seen[index].note_well_elsewhere();
                }
                self.health.apply(index, view, now);
            }
            Order::Stop | Order::Exit => self.stopping = true,
            // Not a matter of admission: the shard keeps them.
            Order::Token(_) | Order::Held(..) => {}
        }
    }

    fn permits(&mut self, pool: Pool) -> &mut Permits {
        match pool {
            Pool::Workers => &mut self.workers,
            Pool::Group(group) => &mut self.windows[group],
            Pool::Endpoint(index) => &mut self.endpoints[index],
        }
    }

    /// The shard's knowledge of its endpoints.
    pub fn health(&mut self) -> &mut LocalHealth {
        &mut self.health
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The part of the input that was read last: lines in it are in flight, parked or finished.
    pub fn read(&self) -> Option<Range<u64>> {
        let cursor = self.source.cursor.as_ref()?;
        Some(self.source.range_start..cursor.offset())
    }
}
