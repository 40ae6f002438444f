//! What a shard may send now: the next line, a free place in flight, a usable endpoint and a send
//! slot, all or nothing. Pure: `now` is an argument, and what the coordinator should hear goes out
//! through [`Admission::reports`].

mod answers;
mod barren;
mod held;
mod models;
mod placement;
mod source;
mod ticket;

use std::cell::Cell;
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
use crate::policy::health::{LocalHealth, REFUSED_TO_DISABLE, Sending};
use crate::policy::load::{Cause, Pushback};
use crate::policy::pacer::Taken;
use crate::policy::refusals::{self, History, LineRefusals};
use crate::policy::retry::{Parked, RetryQueue};
use crate::policy::slowdown::Remainders;
use crate::policy::wait_hint::WaitHint;

pub use barren::{Barren, SAME_FAILURES_MAX};
pub use models::UnknownModels;
pub use ticket::Ticket;

use answers::Seen;
use held::Permits;
use placement::Place;
use source::{Filled, Source};

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

/// Where a request may go, every permit it needs being free.
struct Leave {
    /// The parked line that is due is sent, else the next one.
    is_retry: bool,
    endpoint: usize,
    /// What it is taken for.
    tokens: u64,
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

    /// Takes the permits that [`Self::admit`] has found free, and the line.
    #[inline]
    fn issue(&mut self, input: &Input, leave: Leave, now: Instant) -> Ticket {
        let endpoint = leave.endpoint;
        assert!(self.workers.lease.try_acquire(), "a worker permit was free");
        assert!(
            self.endpoints[endpoint].lease.try_acquire(),
            "an endpoint permit was free"
        );
        let group = self.groups[endpoint];
        self.sends[group] += 1;
        let window = &mut self.windows[group];
        assert!(window.lease.try_acquire(), "a permit of the group was free");
        let is_last_place = window.lease.available() == 0;
        self.in_flight += 1;
        self.idle_since = None;
        let tokens = self.gates[group].spend(leave.tokens, now);
        let sending = self.health.send(endpoint);
        if leave.is_retry {
            return self.issue_again(input, endpoint, tokens, sending, is_last_place, now);
        }
        let (line, parsed) = self.source.take();
        Ticket {
            line,
            parsed,
            attempts: 0,
            refusals: LineRefusals::default(),
            unreadable: 0,
            is_first: true,
            is_last_place,
            marks: self.source.marks(line.number),
            endpoint,
            tokens,
            sending,
            token: Cell::new(0),
            released: Cell::new(false),
            settled: Cell::new(false),
        }
    }

    /// The ticket of the parked line that is due.
    #[inline(never)]
    fn issue_again(
        &mut self,
        input: &Input,
        endpoint: usize,
        tokens: u64,
        sending: Sending,
        is_last_place: bool,
        now: Instant,
    ) -> Ticket {
        let parked = self.parked.pop_due(now).expect("a retry was due");
        let text = input.line(parked.line_offset);
        Ticket {
            line: LineRef {
                offset: parked.line_offset,
                number: parked.line_number,
                len: text.len() as u64,
            },
            parsed: self.source.parse_again(text),
            attempts: u32::from(parked.attempts),
            refusals: parked.refusals,
            unreadable: parked.unreadable,
            is_first: false,
            is_last_place,
            marks: parked.marks,
            endpoint,
            tokens,
            sending,
            token: Cell::new(0),
            released: Cell::new(false),
            settled: Cell::new(false),
        }
    }

    /// Hands over the last permits that others have asked for, now that the next request has had its
    /// chance to use them. Kept are only those that wait for a permit of a later kind, in the order
    /// workers, group, endpoint: who holds an earlier one gets the later, and sends. Without an order,
    /// shards that each hold what the other lacks would pass both round for ever.
    fn hand_over(&mut self, now: Instant) {
        let holds_worker = self.workers.lease.available() > 0;
        let (mut waits, mut asked_back) = (false, false);
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            let group = self.groups[index];
            let waits_for_endpoint =
                holds_worker && endpoint.is_awaited() && self.health.usable(index, now);
            let window = &mut self.windows[group];
            let waits_for_group =
                holds_worker && window.is_awaited() && self.health.usable(index, now);
            window.is_kept |= waits_for_endpoint;
            waits |= waits_for_group | waits_for_endpoint;
            endpoint.hand_over(Pool::Endpoint(index), &mut self.reports);
        }
        for (group, window) in self.windows.iter_mut().enumerate() {
            match std::mem::take(&mut window.is_kept) {
                true => asked_back |= window.asked_back,
                false => window.hand_over(Pool::Group(group), &mut self.reports),
            }
        }
        match waits {
            true => asked_back |= self.workers.asked_back,
            false => self.workers.hand_over(Pool::Workers, &mut self.reports),
        }
        self.asked_back = asked_back;
    }

    /// No line is ready: what is not needed goes back, so that other shards can use it.
    fn nothing_to_send(&mut self) -> Admitted {
        if !self.source.exhausted {
            return Admitted::Wait(self.parked.next_due());
        }
        self.workers.surrender(0, Pool::Workers, &mut self.reports);
        // One for each endpoint while a line may still be retried: else it would go to the endpoint
        // whose permit comes back first, though that has just failed it.
        let keep = u32::from(self.in_flight + self.parked.len() > 0);
        for (index, permits) in self.endpoints.iter_mut().enumerate() {
            permits.surrender(keep, Pool::Endpoint(index), &mut self.reports);
        }
        for (group, window) in self.windows.iter_mut().enumerate() {
            window.surrender(keep, Pool::Group(group), &mut self.reports);
        }
        if let Some(slots) = &mut self.slots {
            slots.surrender(&mut self.reports);
        }
        for gate in &mut self.gates {
            gate.surrender(&mut self.reports);
        }
        let probes = self.health.surrender_probes();
        self.reports
            .extend(probes.into_iter().map(Report::ProbeDeclined));
        if self.working {
            self.working = false;
            self.reports.push(Report::Working(false));
            // The coordinator forgets what an idle shard has asked for.
            self.workers.wanted = false;
            for permits in self.endpoints.iter_mut().chain(&mut self.windows) {
                permits.wanted = false;
            }
        }
        match self.parked.next_due() {
            Some(due) => Admitted::Wait(Some(due)),
            None if self.in_flight > 0 => Admitted::Wait(None),
            None if self.records_held > 0 => {
                if !std::mem::replace(&mut self.only_held, true) {
                    self.reports.push(Report::OnlyHeld);
                }
                Admitted::Wait(None)
            }
            None => Admitted::Drained,
        }
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

    /// An attempt is over: its places in flight are free. Of a ticket, only the first time counts. What
    /// it says about the endpoint goes to one of [`Self::note_succeeded`], [`Self::note_failed`] and kin.
    pub fn release(&mut self, ticket: &Ticket) {
        if ticket.released.replace(true) {
            return;
        }
        assert!(self.in_flight > 0, "released more than was issued");
        self.in_flight -= 1;
        let endpoint = ticket.endpoint;
        self.health.end(endpoint, ticket.sending.number);
        self.workers.release(Pool::Workers, &mut self.reports);
        self.endpoints[endpoint].release(Pool::Endpoint(endpoint), &mut self.reports);
        let group = self.groups[endpoint];
        self.windows[group].release(Pool::Group(group), &mut self.reports);
    }

    /// A request that was sent at `sent` was pushed back, and is [released](Self::release). Its place goes
    /// back behind the news: used again at once, it would be refused again, over and over until the
    /// coordinator's smaller number is known here.
    pub fn note_pushback(&mut self, ticket: &Ticket, cause: Cause, sent: Instant) {
        let (endpoint, group) = (ticket.endpoint, self.groups[ticket.endpoint]);
        let pushback = Pushback {
            sent,
            cause,
            is_last_place: ticket.is_last_place,
            sends: self.sends[group],
            refusals: self.refusals[group],
        };
        self.reports.push(Report::Pushback { endpoint, pushback });
        if cause != Cause::RefusedAlone {
            self.windows[group].give_back_one(Pool::Group(group), &mut self.reports);
        }
    }

    /// A request was refused for load, and is [released](Self::release). Returns whether the wait it asked
    /// for is its line's alone.
    pub fn note_refusal(&mut self, endpoint: usize, now: Instant) -> bool {
        let group = self.groups[endpoint];
        self.refusals[group] += 1;
        if self.windows[group].lease.in_use() == 0 {
            self.refused_in_a_row[group] += 1;
            let rest = refusals::rest(self.refused_in_a_row[group], self.gates[group].is_paced());
            self.health.note_hint(endpoint, now + rest);
        }
        let history = &mut self.histories[group];
        history.note_refusal();
        history.waits_alone()
    }

    /// The latest refusal of the endpoint's quota group speaks of no limit.
    pub fn is_lone_refusal(&self, endpoint: usize) -> bool {
        self.histories[self.groups[endpoint]].is_lone()
    }

    /// No request of this shard to the endpoint is under way: none that was taken while another was refused.
    pub fn is_served_nothing(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].lease.in_use() == 0
    }

    /// What the servers have answered this shard so far.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// A server asked the endpoint's quota group to wait.
    pub fn note_hint(&mut self, endpoint: usize, until: Instant) {
        self.histories[self.groups[endpoint]].note_wait();
        self.health.note_hint(endpoint, until);
    }

    /// Takes back what a line was parsed into: the next one needs no memory of its own.
    pub fn reuse(&mut self, parsed: Parsed) {
        self.source.reuse(parsed);
    }

    /// The tokens that a request really took are known.
    pub fn settle_tokens(&mut self, ticket: &Ticket, used: u64) {
        let gate = &mut self.gates[self.groups[ticket.endpoint]];
        gate.settle(ticket.tokens, used, &mut self.reports);
    }

    /// An answer of `endpoint` said something about its quotas, to a request that took `used` tokens
    /// (0: unknown). The coordinator hears of it when that changes anything.
    pub fn note_remainders(&mut self, endpoint: usize, hint: &WaitHint, used: u64) {
        let said = Remainders::of(hint);
        let group = self.groups[endpoint];
        let gate = &mut self.gates[group];
        if gate.concerns(said.run_low()) {
            if said.slow_down(used) {
                // The coordinator will say the same; until then its slots are waited for.
                gate.pace_at_once(group);
            }
            let said = Box::new(said);
            self.reports.push(Report::Remaining {
                endpoint,
                said,
                used,
            });
        }
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
