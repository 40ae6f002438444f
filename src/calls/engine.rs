//! The driver of a client: one thread, one loop over messages. Every attempt is a task that sends
//! its result back as a message, so the loop alone owns the machines.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{CLOSED, OpenCalls};
use super::outcome::{CallError, Delta};
use super::report::ClientReport;
use super::request::Call;
use super::traffic::{Admitted, Rather, Traffic};
use crate::batch::content::Content;
use crate::batch::encode::{Outgoing, RouteCache};
use crate::batch::plan::Plan;
use crate::batch::stream::StreamReply;
use crate::client::{self, Pool, Wanted};
use crate::entra::{BearerTokens, News};
use crate::error::ErrorKind;
use crate::http::Response;
use crate::policy::health::Sending;
use crate::provider::{ApiPath, Authorization, EntraSource};
use crate::runtime::backend::{self, Backend, ShardMain};
use crate::runtime::dns::Resolver;
use crate::runtime::mailbox::{Mailbox, Sender};
use crate::runtime::{self, Panicked, Runtime, catch_panic, pause};

mod books;
mod settle;

use books::Ledger;

/// How often deadlines are looked at; a timeout fires at most this late.
const TICK: Duration = Duration::from_millis(20);
/// The same while no call is open: idle connections still have to be closed some time.
const TICK_IDLE: Duration = Duration::from_millis(100);
/// A call that may only go to an endpoint that has no place for it now is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long requests that are cut off at the end may take to notice.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// What the engine's thread is told.
pub(super) enum Order {
    /// Send this.
    Start(Box<Call>),
    /// Give a call up.
    Cancel(u64),
    /// Say how things stand.
    Report(crossbeam_channel::Sender<ClientReport>),
    /// Take no further calls, and leave when those in flight are over or `grace` is.
    Close {
        /// How long calls in flight may take.
        grace: Duration,
    },
    /// An attempt is over (from its task).
    Finished(Box<Finished>),
    /// Something that was waited for may have come (from a timer).
    Wake(Instant),
    /// Look at the deadlines (from a timer).
    Tick {
        /// How long the thread did not run, if it was stopped since the last one.
        paused: Option<Duration>,
    },
    /// What the thread that fetches tokens says.
    News(News),
    /// Break, to see what becomes of those who wait.
    #[cfg(test)]
    Panic,
}

/// What the engine's thread starts with.
pub(super) struct Start {
    pub plan: Plan,
    pub resolver: Resolver,
    pub open: Arc<OpenCalls>,
    pub orders: Sender<Order>,
    pub inbox: Mailbox<Order>,
    /// Fetched tokens, if any endpoint wants them.
    pub tokens: Option<BearerTokens>,
}

/// An attempt in flight.
pub(super) struct Attempt {
    call: Box<Call>,
    endpoint: usize,
    sending: Sending,
    /// Of the fetched token; 0: none.
    token_generation: u32,
    /// The API that it goes to.
    path: ApiPath,
    sent: Instant,
}

/// An attempt's result.
pub(super) struct Finished {
    attempt: Attempt,
    result: Result<Received, Panicked>,
}

/// What came over the connection.
struct Received {
    result: Result<Response, client::Failure>,
    reply: Vec<u8>,
    stream: Option<Box<StreamReply>>,
    /// The caller has seen a part of the answer.
    delta_seen: bool,
}

/// Runs the engine on this thread until it is closed. However it ends, no call stays open.
pub(super) fn run(backend: Backend, start: Start) {
    let open = Arc::clone(&start.open);
    let ended = AtEnd(Arc::clone(&open));
    let choice = start.plan.config.runtime;
    let why = match backend::run(backend, choice, RunEngine(start)) {
        Ok(()) => CLOSED.to_owned(),
        Err(error) => format!("the client's engine cannot run: {error}"),
    };
    open.end(&CallError::new(ErrorKind::Cancelled, why));
    drop(ended);
}

/// Fails what is open when the thread ends by a panic.
struct AtEnd(Arc<OpenCalls>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.end(&CallError::new(
            ErrorKind::Cancelled,
            "the client's engine panicked; please report this",
        ));
    }
}

struct RunEngine(Start);

impl ShardMain for RunEngine {
    async fn run<R: Runtime>(self) {
        let open = Arc::clone(&self.0.open);
        // A panic must not reach the runtime, and its message should reach those who wait.
        if let Err(panic) = catch_panic(Engine::<R>::run(self.0)).await {
            tracing::error!("the client's engine failed by a defect of blaze-uring: {panic}");
            open.end(&CallError::new(ErrorKind::Cancelled, panic.to_string()));
        }
    }
}

struct Engine<R: Runtime> {
    plan: Rc<Plan>,
    pool: Rc<Pool<R>>,
    open: Arc<OpenCalls>,
    orders: Sender<Order>,
    traffic: Traffic,
    routes: RouteCache,
    tokens: Option<BearerTokens>,
    ledger: Ledger,
    /// Not sent yet, in the order of their submission.
    waiting: VecDeque<Box<Call>>,
    /// Between two attempts, by when the next one is due.
    parked: BTreeMap<(Instant, u64), Box<Call>>,
    in_flight: usize,
    /// The longest that an attempt has been given so far.
    timeout_max: Duration,
    wake_armed: Option<Instant>,
    /// Set by [`Order::Close`]: when to leave at the latest.
    leave_at: Option<Instant>,
    /// Ends the ticker; shared with its task.
    left: Rc<Cell<bool>>,
    /// Whether any call is open; shared with the ticker.
    busy: Rc<Cell<bool>>,
}

impl<R: Runtime> Engine<R> {
    async fn run(start: Start) {
        let now = runtime::now();
        let plan = Rc::new(start.plan);
        let mut engine = Self {
            pool: Pool::new(plan.pool_settings(), plan.targets.clone(), start.resolver),
            open: start.open,
            orders: start.orders,
            traffic: Traffic::new(&plan, now),
            routes: RouteCache::new(plan.endpoints.len()),
            tokens: start.tokens,
            ledger: Ledger::new(plan.endpoints.len(), now),
            waiting: VecDeque::new(),
            parked: BTreeMap::new(),
            in_flight: 0,
            timeout_max: Duration::ZERO,
            wake_armed: None,
            leave_at: None,
            left: Rc::default(),
            busy: Rc::default(),
            plan,
        };
        R::spawn(tick::<R>(
            engine.orders.clone(),
            Rc::clone(&engine.left),
            Rc::clone(&engine.busy),
        ));
        while let Some(order) = start.inbox.recv().await {
            engine.handle(order);
            while let Some(order) = start.inbox.try_recv() {
                engine.handle(order);
            }
            engine.pump();
            if engine.may_leave(runtime::now()) {
                break;
            }
        }
        engine.leave(&start.inbox).await;
    }

    fn handle(&mut self, order: Order) {
        match order {
            Order::Start(call) => match self.leave_at {
                None => self.waiting.push_back(call),
                Some(_) => self.fail(*call, CallError::new(ErrorKind::Cancelled, CLOSED)),
            },
            Order::Cancel(id) => self.cancel(id),
            Order::Report(sender) => {
                // Whoever asked may have stopped listening.
                let _ = sender.send(self.report(runtime::now()));
            }
            Order::Close { grace } => self.close(grace),
            Order::Finished(finished) => self.settle(*finished),
            Order::Wake(at) => {
                if self.wake_armed == Some(at) {
                    self.wake_armed = None;
                }
            }
            Order::Tick { paused } => self.tick(paused),
            Order::News(News::Token(token)) => {
                if let Some(tokens) = &mut self.tokens {
                    tokens.update(token);
                }
            }
            Order::News(News::Failed(source, reason)) => self.disable(source, &reason),
            #[cfg(test)]
            Order::Panic => panic!("broken on purpose"),
        }
    }

    /// Sends every call that may be sent now.
    fn pump(&mut self) {
        loop {
            let now = runtime::now();
            while let Some(due) = self.parked.first_entry()
                && due.key().0 <= now
            {
                // It has waited longest.
                self.waiting.push_front(due.remove());
            }
            self.traffic.set_working(!self.waiting.is_empty(), now);
            self.busy.set(self.open.len() > 0);
            let next_due = self.parked.first_key_value().map(|((due, _), _)| *due);
            let Some(call) = self.waiting.front() else {
                self.arm(next_due);
                return;
            };
            if let Some(spent) = self.ledger.spent(self.plan.config.max_cost) {
                let call = self.waiting.pop_front().expect("a call waits");
                let message = format!("max_cost is reached: {spent:.4} USD are spent");
                self.fail(*call, CallError::new(ErrorKind::QuotaExhausted, message));
                continue;
            }
            let tokens = call.tokens_estimated;
            // Nobody asks for more slots than `u32` at once.
            let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
            let model = call.parsed.model(&call.line);
            let rather = Rather {
                avoid: call.avoid,
                model: model.as_deref(),
            };
            match self.traffic.admit(rather, tokens, waiting, now) {
                Admitted::Go { endpoint, sending } => {
                    let call = self.waiting.pop_front().expect("a call waits");
                    self.send(call, endpoint, sending, now);
                }
                Admitted::NotYet => {
                    let call = self.waiting.pop_front().expect("a call waits");
                    self.parked.insert((now + LOOK_AGAIN, call.id), call);
                }
                Admitted::Wait(at) => {
                    let wake = [at, next_due].into_iter().flatten().min();
                    self.arm(wake);
                    return;
                }
            }
        }
    }

    /// Starts an attempt.
    fn send(&mut self, call: Box<Call>, endpoint: usize, sending: Sending, now: Instant) {
        let (mut body, mut request) = (Vec::new(), Vec::new());
        let resolved = &self.plan.endpoints[endpoint];
        let token = self.tokens.as_ref().and_then(|tokens| tokens.of(resolved));
        let token_generation = token.map_or(0, |token| token.generation);
        let outgoing = Outgoing {
            index: endpoint,
            endpoint: resolved,
            token: token.map(|token| &token.secret),
            parsed: &call.parsed,
            line: &call.line,
            max_tokens: call.max_tokens,
        };
        let path = self.routes.encode(&outgoing, &mut body, &mut request);
        let bytes_max = self.plan.config.max_response_bytes;
        let stream = (call.streams).then(|| Box::new(StreamReply::new(path, bytes_max)));
        let timeout = call.timeout.unwrap_or(self.plan.config.request.timeout);
        let deadline = now + timeout;
        self.timeout_max = self.timeout_max.max(timeout);
        let deadline = call.give_up_at.map_or(deadline, |at| at.min(deadline));
        self.ledger.metrics.attempt(endpoint);
        self.in_flight += 1;
        let (pool, open) = (Rc::clone(&self.pool), Arc::clone(&self.open));
        let orders = self.orders.clone();
        let attempt = Attempt {
            call,
            endpoint,
            sending,
            token_generation,
            path,
            sent: now,
        };
        R::spawn(async move {
            let id = attempt.call.id;
            let reading = Reading {
                deadline,
                path: attempt.path,
                bytes_max,
                stream,
            };
            let exchange = exchange(&pool, &open, endpoint, id, request, reading);
            let result = catch_panic(exchange).await;
            let finished = Box::new(Finished { attempt, result });
            // An engine that is gone has failed the call.
            let _ = orders.send(Order::Finished(finished));
        });
    }

    /// Deadlines of exchanges and of whole calls, and the end of all hope.
    fn tick(&mut self, paused: Option<Duration>) {
        let now = runtime::now();
        if let Some(lasted) = paused {
            self.pool.postpone(now, lasted, self.timeout_max);
            self.traffic.postpone(lasted, now);
        }
        self.pool.sweep(now);
        let overdue = |call: &Call| call.give_up_at.is_some_and(|at| at <= now);
        for call in self.take_unsent(overdue) {
            let error = call.last_error.clone().unwrap_or_else(|| {
                CallError::new(ErrorKind::Timeout, "given up before it could be sent")
            });
            self.fail(call, error);
        }
        if !(self.waiting.is_empty() && self.parked.is_empty()) {
            // What can go, goes first: it may be the probe that ends the outage.
            self.pump();
            if let Some((kind, message)) = self.traffic.outage(now) {
                for call in self.take_unsent(|_| true) {
                    let mut error = call
                        .last_error
                        .clone()
                        .unwrap_or_else(|| CallError::new(kind, ""));
                    error.message.clone_from(&message);
                    self.fail(call, error);
                }
            }
        }
    }

    /// Takes out calls that are not in flight.
    fn take_unsent(&mut self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let mut taken = Vec::new();
        if self.waiting.iter().any(|call| wanted(call)) {
            for call in std::mem::take(&mut self.waiting) {
                match wanted(&call) {
                    true => taken.push(*call),
                    false => self.waiting.push_back(call),
                }
            }
        }
        let keys: Vec<_> = (self.parked.iter().filter(|(_, call)| wanted(call)))
            .map(|(key, _)| *key)
            .collect();
        let parked = keys.iter().filter_map(|key| self.parked.remove(key));
        taken.extend(parked.map(|call| *call));
        taken
    }

    fn cancel(&mut self, id: u64) {
        self.take_unsent(|call| call.id == id);
        if self.open.is_open(id) {
            // If it is in flight, its answer will find nobody.
            self.ledger.failed(ErrorKind::Cancelled);
            let error = CallError::new(ErrorKind::Cancelled, "the call was cancelled");
            self.open.finish(id, Err(error));
        }
    }

    fn close(&mut self, grace: Duration) {
        let now = runtime::now();
        let leave_at = now.checked_add(grace).unwrap_or(now);
        self.leave_at = Some(
            self.leave_at
                .map_or(leave_at, |earlier| earlier.min(leave_at)),
        );
        for call in self.take_unsent(|_| true) {
            self.fail(call, CallError::new(ErrorKind::Cancelled, CLOSED));
        }
    }

    /// Endpoints for which there are no tokens any more are out.
    fn disable(&mut self, source: EntraSource, reason: &str) {
        for index in 0..self.plan.endpoints.len() {
            if self.plan.endpoints[index].authorization == Authorization::Entra(source) {
                self.traffic.disable(index, reason);
            }
        }
    }

    fn may_leave(&self, now: Instant) -> bool {
        self.leave_at
            .is_some_and(|at| self.in_flight == 0 || at <= now)
    }

    /// Fails what is still open, then cuts off what is still in flight and waits for its tasks.
    async fn leave(mut self, inbox: &Mailbox<Order>) {
        let now = runtime::now();
        let closed = CallError::new(ErrorKind::Cancelled, CLOSED);
        for _ in 0..self.open.end(&closed) {
            self.ledger.failed(ErrorKind::Cancelled);
        }
        let report = self.report(now);
        self.open.keep_report(report);
        let leave_at = now + LEAVE_WITHIN;
        while self.in_flight > 0 && runtime::now() < leave_at {
            // Every deadline lies before this moment.
            self.pool
                .sweep(now + Duration::from_secs(u64::from(u32::MAX)));
            match inbox.recv().await {
                Some(Order::Finished(_)) => self.in_flight -= 1,
                Some(_) => {}
                None => break,
            }
        }
        self.left.set(true);
        self.pool.close_idle();
    }

    /// Looks again at `at`, unless an earlier look is due already.
    fn arm(&mut self, at: Option<Instant>) {
        let Some(at) = at else { return };
        if self.wake_armed.is_some_and(|armed| armed <= at) {
            return;
        }
        self.wake_armed = Some(at);
        let orders = self.orders.clone();
        R::spawn(async move {
            R::sleep_until(at).await;
            // An engine that is gone needs no wake-up.
            let _ = orders.send(Order::Wake(at));
        });
    }
}

/// Looks at the deadlines until the engine leaves.
async fn tick<R: Runtime>(orders: Sender<Order>, left: Rc<Cell<bool>>, busy: Rc<Cell<bool>>) {
    while !left.get() {
        let interval = if busy.get() { TICK } else { TICK_IDLE };
        let due = runtime::now() + interval;
        R::sleep_until(due).await;
        let paused = pause::lasted(due, runtime::now());
        if orders.send(Order::Tick { paused }).is_err() {
            break;
        }
    }
}

/// How an answer is read.
struct Reading {
    /// When it has to be there.
    deadline: Instant,
    /// The API that it comes from.
    path: ApiPath,
    /// The cap of its body, decoded.
    bytes_max: usize,
    /// Sees it as it comes, if events of a stream are wanted.
    stream: Option<Box<StreamReply>>,
}

/// One attempt on the wire; events of a stream go to whoever waits for the call.
async fn exchange<R: Runtime>(
    pool: &Pool<R>,
    open: &OpenCalls,
    endpoint: usize,
    id: u64,
    request: Vec<u8>,
    reading: Reading,
) -> Received {
    let Reading {
        deadline,
        path,
        bytes_max,
        mut stream,
    } = reading;
    let mut delta_seen = false;
    let mut show = |data: &str| {
        if let Ok(event) = serde_json::from_str(data) {
            delta_seen = true;
            open.push_delta(id, Delta { event });
        }
    };
    let exchange = pool
        .exchange(
            endpoint,
            runtime::now(),
            deadline,
            |out| out.extend_from_slice(&request),
            |bytes| match &mut stream {
                None => Wanted::More,
                Some(stream) => {
                    stream.feed_watched(bytes, runtime::now(), &mut show);
                    stream.wanted()
                }
            },
        )
        .await;
    if let (Ok(response), Some(stream)) = (&exchange.result, &mut stream) {
        let content = Content::of(response, &exchange.reply, bytes_max);
        if let Cow::Owned(body) = &content.body {
            // What was fed to it as it came was not decoded.
            **stream = StreamReply::new(path, bytes_max);
            stream.feed_watched(body, runtime::now(), &mut show);
        }
        stream.end(runtime::now(), show);
    }
    Received {
        result: exchange.result,
        reply: exchange.reply,
        stream,
        delta_seen,
    }
}
