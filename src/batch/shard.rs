//! One shard: a pinned thread that turns lines into records. The hot loop is `Shard::work`:
//! admit → encode → exchange → settle, one task per request in flight, nothing shared with other
//! threads. What may be sent is decided in `admission`, what an answer means in `settle`.

mod bell;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::iter;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::batch::admission::{Admission, Admitted, FirstPermits, Opening, Ticket};
use crate::batch::encode::RouteCache;
use crate::batch::folder::DoneSet;
use crate::batch::input::Input;
use crate::batch::message::{Event, Order, Report};
use crate::batch::plan::Plan;
use crate::batch::segment::ShardLog;
use crate::batch::settle::HeldRecord;
use crate::batch::stream::StreamReply;
use crate::client::{Pool, PoolStats, Wanted};
use crate::entra::BearerTokens;
use crate::metrics::ShardMetrics;
use crate::provider::ApiPath;
use crate::runtime::dns::Resolver;
use crate::runtime::mailbox::Mailbox;
use crate::runtime::{self, Runtime, buffers, catch_panic, pause};

use bell::Bell;

/// How often deadlines are swept and idle connections dropped; a timeout fires at most this late.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// How often counters go to the coordinator, in sweeps.
const SWEEPS_PER_REPORT: u32 = 5;
/// Records buffered at most while many lines in a row are refused without being sent.
const REFUSED_PER_FLUSH: usize = 1024;
/// Records that are written at once instead of at the end of the loop's turn: thousands of answers may
/// come in one turn.
const FLUSH_BYTES: usize = 256 << 10;
/// What a record is taken for before the first one is written, in bytes.
const RECORD_BYTES_FIRST: u64 = 4 << 10;
/// Space is reserved for records this many times as long as usual.
const RECORDS_VARY: u64 = 4;

/// What a shard's thread is started with.
pub struct ShardStart {
    /// Index of the shard.
    pub id: usize,
    /// The run.
    pub plan: Arc<Plan>,
    /// The mapped input.
    pub input: Arc<Input>,
    /// Lines finished by an earlier process of this run.
    pub done: Option<Arc<DoneSet>>,
    /// One of them has succeeded.
    pub has_succeeded: bool,
    /// Its first permits.
    pub permits: FirstPermits,
    /// Where its records go.
    pub log: ShardLog,
    /// To the coordinator.
    pub events: Sender<Event>,
    /// From the coordinator.
    pub mailbox: Mailbox<Order>,
    /// Name resolution off the shard.
    pub resolver: Resolver,
    /// Fetched tokens, if any endpoint wants them.
    pub tokens: Option<BearerTokens>,
}

/// One shard; lives on its own thread.
pub struct Shard<R: Runtime> {
    pub(super) id: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) input: Arc<Input>,
    pub(super) admission: RefCell<Admission>,
    pub(super) log: RefCell<ShardLog>,
    /// By endpoint: failure records that are held back, oldest first.
    pub(super) held: RefCell<Vec<VecDeque<HeldRecord>>>,
    pub(super) metrics: RefCell<ShardMetrics>,
    pub(super) routes: RefCell<RouteCache>,
    pub(super) tokens: Option<RefCell<BearerTokens>>,
    pool: Rc<Pool<R>>,
    events: Sender<Event>,
    flush_scheduled: Cell<bool>,
    /// Calls [`Self::write_records`].
    flush_due: Bell,
    /// Calls [`Self::pump_after_flush`].
    flushed: Bell,
    /// Tasks that have made a record and wait until it is written.
    unwritten: RefCell<Vec<Waker>>,
    wake_armed: Cell<Option<Instant>>,
    drained: Cell<bool>,
    left: Cell<bool>,
    released: Cell<u64>,
    /// Moving average of the records' lengths, and the longest.
    record_bytes_usual: Cell<u64>,
    record_bytes_max: Cell<u64>,
    /// US dollars spent since the last report.
    pub(super) unreported_usd: Cell<f64>,
    /// The pool's figures at the last report.
    reported: Cell<PoolStats>,
}

impl<R: Runtime> Shard<R> {
    /// Runs a shard on this thread until the coordinator lets it go.
    pub async fn run(start: ShardStart) {
        let (shard, mailbox) = Self::new(start);
        shard.clone().spawn(shard.clone().sweep());
        shard.clone().spawn(shard.clone().write_records());
        shard.clone().spawn(shard.clone().pump_after_flush());
        shard.pump();
        while let Some(order) = mailbox.recv().await {
            let mut exit = false;
            // The order to leave may be any of those that came together.
            for order in iter::once(order).chain(iter::from_fn(|| mailbox.try_recv())) {
                exit |= matches!(order, Order::Exit);
                shard.handle(order);
            }
            if exit {
                break;
            }
            shard.pump();
        }
        shard.leave();
    }

    fn new(start: ShardStart) -> (Rc<Self>, Mailbox<Order>) {
        let plan = start.plan;
        let shard = Rc::new(Self {
            id: start.id,
            admission: RefCell::new(Admission::new(Opening {
                shard: start.id,
                started: runtime::now(),
                weights: plan
                    .endpoints
                    .iter()
                    .map(|endpoint| endpoint.weight)
                    .collect(),
                groups: plan.groups.clone(),
                limits: plan.limits.clone(),
                permits: start.permits,
                paced: plan.paced,
                done: start.done,
                max_line_bytes: plan.config.max_line_bytes,
                max_outage: plan.config.max_outage,
                has_succeeded: start.has_succeeded,
            })),
            held: RefCell::new(plan.endpoints.iter().map(|_| VecDeque::new()).collect()),
            log: RefCell::new(start.log),
            metrics: RefCell::new(ShardMetrics::new(plan.endpoints.len())),
            routes: RefCell::new(RouteCache::new(plan.endpoints.len())),
            tokens: start.tokens.map(RefCell::new),
            pool: Pool::new(plan.pool_settings(), plan.targets.clone(), start.resolver),
            input: start.input,
            plan,
            events: start.events,
            flush_scheduled: Cell::new(false),
            flush_due: Bell::default(),
            flushed: Bell::default(),
            unwritten: RefCell::default(),
            wake_armed: Cell::new(None),
            drained: Cell::new(false),
            left: Cell::new(false),
            released: Cell::new(0),
            record_bytes_usual: Cell::new(RECORD_BYTES_FIRST),
            record_bytes_max: Cell::new(RECORD_BYTES_FIRST),
            unreported_usd: Cell::default(),
            reported: Cell::default(),
        });
        (shard, start.mailbox)
    }

    /// Starts a task of this shard. A panic in one is a defect that no line can be blamed for: the run
    /// stops, what is finished is kept. (Left to the runtimes, it would end the thread on one and go
    /// unnoticed, with the shard waiting for ever, on the other.)
    fn spawn(self: Rc<Self>, task: impl Future<Output = ()> + 'static) {
        R::spawn(catch_panic(task).or_else(move |panic| {
            let message = format!("shard {}: {panic}; please report this", self.id);
            self.report(Report::Broken(message));
        }));
    }

    fn handle(&self, order: Order) {
        match (order, &self.tokens) {
            (Order::Token(token), Some(tokens)) => tokens.borrow_mut().update(token),
            (Order::Held(endpoint, fate), _) => self.handle_held(endpoint, fate),
            (order, _) => self.admission.borrow_mut().handle(order, runtime::now()),
        }
    }

    /// Starts every request that may be sent now.
    fn pump(self: &Rc<Self>) {
        while let Some((ticket, _)) = self.next() {
            self.clone().spawn(self.clone().work(ticket));
        }
    }

    /// THE hot loop: one request after the other for as long as the policy lets them go.
    ///
    /// Not an `async fn`: that would keep the ticket twice for as long as the request is in flight.
    #[expect(clippy::manual_async_fn, reason = "the sentence above")]
    fn work(self: Rc<Self>, mut ticket: Ticket) -> impl Future<Output = ()> {
        async move {
            let mut sent = runtime::now();
            loop {
                if let Err(panic) = catch_panic(self.serve(&ticket, sent)).await {
                    self.settle_panic(&ticket, &panic.to_string());
                }
                self.schedule_flush();
                self.written().await;
                self.admission.borrow_mut().reuse(ticket.parsed);
                match self.next() {
                    Some(next) => (ticket, sent) = next,
                    None => break,
                }
            }
        }
    }

    /// One attempt of one line, from its bytes in the input to its record or its place among the
    /// retries.
    async fn serve(self: &Rc<Self>, ticket: &Ticket, sent: Instant) {
        self.metrics.borrow_mut().attempt(ticket.endpoint);
        let path = Cell::new(None);
        let mut stream = None;
        let exchange = self
            .pool
            .exchange(
                ticket.endpoint,
                sent,
                sent + self.plan.config.request.timeout,
                |request| path.set(Some(self.encode(ticket, request))),
                |bytes| match self.stream_reply(ticket, path.get(), &mut stream) {
                    None => Wanted::More,
                    Some(stream) => {
                        stream.feed(bytes, runtime::now());
                        stream.wanted()
                    }
                },
            )
            .await;
        if !self.left.get() {
            self.stream_reply(ticket, path.get(), &mut stream);
            let (result, reply) = (exchange.result, &exchange.reply);
            self.settle(ticket, path.get(), sent, result, reply, stream);
        }
        buffers::give_back(exchange.reply);
    }

    /// The assembly of a streamed answer, begun when the first of its bytes is there; `None` for an
    /// answer that is no stream, or a request that was never written.
    fn stream_reply<'a>(
        &self,
        ticket: &Ticket,
        path: Option<ApiPath>,
        stream: &'a mut Option<Box<StreamReply>>,
    ) -> Option<&'a mut StreamReply> {
        let path = path.filter(|_| ticket.parsed.stream())?;
        let bytes_max = self.plan.config.max_response_bytes;
        Some(stream.get_or_insert_with(|| Box::new(StreamReply::new(path, bytes_max))))
    }

    /// The next line that may be sent now, and what now is; arms a wake-up if that is only a matter of time.
    ///
    /// Nothing is sent while a record waits to be written: otherwise a kill in that moment would
    /// cost more than what is in flight. The flush pumps.
    fn next(self: &Rc<Self>) -> Option<(Ticket, Instant)> {
        if self.left.get() || self.flush_scheduled.get() {
            return None;
        }
        loop {
            let now = runtime::now();
            let admitted = {
                let mut admission = self.admission.borrow_mut();
                let admitted = admission.admit(&self.input, now);
                for report in admission.reports.drain(..) {
                    self.report(report);
                }
                admitted
            };
            match admitted {
                Admitted::Go(ticket) => {
                    if self.reserve_space() {
                        if ticket.is_first {
                            self.log.borrow_mut().begin(ticket.line.number);
                        }
                        return Some((ticket, now));
                    }
                    // Nothing was sent: the line is still unfinished, and the run is stopping.
                    let mut admission = self.admission.borrow_mut();
                    admission.release(&ticket);
                    admission.handle(Order::Stop, now);
                }
                Admitted::Refused {
                    line,
                    kind,
                    message,
                } => {
                    self.log.borrow_mut().begin(line.number);
                    self.refuse(line, kind, &message);
                    if self.log.borrow().buffered() >= REFUSED_PER_FLUSH {
                        self.flush();
                    }
                    self.schedule_flush();
                }
                Admitted::Wait(at) => {
                    self.arm(at);
                    return None;
                }
                Admitted::Drained | Admitted::Stopped => {
                    self.report_drained();
                    return None;
                }
            }
        }
    }

    /// Room for what is about to be received is taken before it is paid for.
    fn reserve_space(&self) -> bool {
        let in_flight = self.admission.borrow().in_flight() as u64;
        let bytes =
            in_flight * self.record_bytes_usual.get() * RECORDS_VARY + self.record_bytes_max.get();
        match self.log.borrow_mut().reserve(bytes) {
            Ok(()) => true,
            Err(error) => {
                self.report(Report::Storage(error));
                false
            }
        }
    }

    /// Pumps again at `at`, unless an earlier wake-up is armed already.
    fn arm(self: &Rc<Self>, at: Option<Instant>) {
        let Some(at) = at else { return };
        if self.wake_armed.get().is_some_and(|armed| armed <= at) {
            return;
        }
        self.wake_armed.set(Some(at));
        let shard = self.clone();
        self.clone().spawn(async move {
            R::sleep_until(at).await;
            if shard.wake_armed.get() == Some(at) {
                shard.wake_armed.set(None);
            }
            shard.pump();
        });
    }

    /// Has buffered records written once the tasks that are ready now have run, so that one write
    /// takes the records of a whole turn of the loop, unless that becomes large.
    pub(super) fn schedule_flush(&self) {
        if self.log.borrow().buffered_bytes() >= FLUSH_BYTES {
            self.flush();
        }
        if !self.flush_scheduled.get() && self.log.borrow().buffered() > 0 {
            self.flush_scheduled.set(true);
            self.flush_due.ring();
        }
    }

    /// The task that [`Self::schedule_flush`] calls.
    async fn write_records(self: Rc<Self>) {
        loop {
            self.flush_due.heard().await;
            self.flush();
            self.flush_scheduled.set(false);
            for waker in self.unwritten.borrow_mut().drain(..) {
                waker.wake();
            }
            self.flushed.ring();
        }
    }

    /// Its turn comes after the tasks whose records were written: what they leave may be sent by
    /// others, and when the last record of a shard is written, it may say that it is done.
    async fn pump_after_flush(self: Rc<Self>) {
        loop {
            self.flushed.heard().await;
            self.pump();
        }
    }

    /// Waits for the flush that is scheduled, if one is.
    async fn written(&self) {
        poll_fn(|context| match self.flush_scheduled.get() {
            false => Poll::Ready(()),
            true => {
                self.unwritten.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }

    fn flush(&self) {
        if let Err(error) = self.log.borrow_mut().flush() {
            // Before the coordinator says so: nothing is sent whose record has no place.
            let now = runtime::now();
            self.admission.borrow_mut().handle(Order::Stop, now);
            self.report(Report::Storage(error));
        }
    }

    fn report_drained(&self) {
        if self.drained.get() || self.log.borrow().buffered() > 0 {
            return;
        }
        self.drained.set(true);
        self.sync();
        self.report_metrics();
        self.report(Report::Drained);
    }

    fn sync(&self) {
        if let Err(error) = self.log.borrow_mut().sync() {
            self.report(Report::Storage(error));
        }
    }

    fn sync_in_background(&self) {
        if let Err(error) = self.log.borrow_mut().sync_in_background() {
            self.report(Report::Storage(error));
        }
    }

    /// Deadlines, idle connections, group fsync, counters, until the shard leaves.
    async fn sweep(self: Rc<Self>) {
        let mut turn = 0u32;
        while !self.left.get() {
            let due = runtime::now() + SWEEP_EVERY;
            R::sleep_until(due).await;
            let now = runtime::now();
            if let Some(lasted) = pause::lasted(due, now) {
                let span = self.plan.config.request.timeout;
                self.pool.postpone(now, lasted, span);
            }
            self.pool.sweep(now);
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(SWEEPS_PER_REPORT) {
                // What a full disk did not take: there may be room by now.
                if !self.flush_scheduled.get() && self.log.borrow().buffered() > 0 {
                    self.flush();
                }
                self.sync_in_background();
                self.report_metrics();
                self.release_input();
            }
            // Also the safety net of every wake-up.
            self.pump();
        }
    }

    /// Lets go of the input's pages behind the place where this shard reads.
    fn release_input(&self) {
        let Some(read) = self.admission.borrow().read() else {
            return;
        };
        let from = read.start.max(self.released.get().min(read.end));
        self.released.set(self.input.release_before(from..read.end));
    }

    pub(super) fn report_metrics(&self) {
        let stats = self.pool.stats();
        let reported = self.reported.replace(stats);
        self.unreported_usd.set(0.0);
        let mut metrics = self.metrics.borrow_mut();
        metrics.transferred(
            stats.bytes_out - reported.bytes_out,
            stats.bytes_in - reported.bytes_in,
        );
        metrics.stale_resends(stats.stale_resends - reported.stale_resends);
        let delta = metrics.take_delta();
        drop(metrics);
        self.report(Report::Metrics(delta));
    }

    /// Remembers how long records are, for the space they need.
    pub(super) fn note_record(&self, bytes: usize) {
        let (usual, bytes) = (self.record_bytes_usual.get(), bytes as u64);
        self.record_bytes_usual.set(usual - usual / 16 + bytes / 16);
        self.record_bytes_max
            .set(self.record_bytes_max.get().max(bytes));
    }

    pub(super) fn report(&self, report: Report) {
        // The coordinator outlives its shards; if it panicked, there is nobody left to tell.
        let _ = self.events.send(Event {
            shard: self.id,
            report,
        });
    }

    /// Everything finished is written; what is still in flight is abandoned and will be sent again.
    fn leave(&self) {
        self.left.set(true);
        if let Err(error) = self.log.borrow_mut().finish() {
            self.report(Report::Storage(error));
        }
        self.pool.close_idle();
        self.report_metrics();
        self.flush_due.fall_silent();
        self.flushed.fall_silent();
    }
}

#[cfg(test)]
mod tests;
