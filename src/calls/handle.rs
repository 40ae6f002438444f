//! Open calls and those who wait for them. The engine puts outcomes in; whoever ends the engine,
//! a panic included, fails what is still open, so nobody waits for an engine that is gone.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::engine::Order;
use super::outcome::{CallError, Completion, Delta};
use super::report::ClientReport;
use crate::error::ErrorKind;
use crate::runtime::mailbox::Sender;

/// Calls that may be open at once. Each holds its messages, a few KiB usually; a program that submits
/// more than this without waiting for any has lost count.
const OPEN_CALLS_MAX: usize = 100_000;

/// Why calls to a closed client fail.
pub(super) const CLOSED: &str = "the client is closed";

/// A call that was submitted. It is a future too, for any executor; dropping it lets the call go on.
pub struct Handle {
    id: u64,
    slot: Arc<Slot>,
    /// `None`: the call never reached the engine.
    orders: Option<Sender<Order>>,
}

/// Where a call's outcome is put.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Not handed out yet; bounded by the cap of a response.
    deltas: VecDeque<Delta>,
    outcome: Option<Result<Completion, CallError>>,
    waker: Option<Waker>,
}

impl Handle {
    /// Waits at most `timeout` for the outcome; `None`: the call is still open, and can be waited
    /// for again. Later calls give the same outcome.
    pub fn wait(&self, timeout: Duration) -> Option<Result<Completion, CallError>> {
        let open = |state: &mut State| state.outcome.is_none();
        let (state, _) = self
            .slot
            .changed
            .wait_timeout_while(self.slot.lock(), timeout, open)
            .unwrap_or_else(PoisonError::into_inner);
        state.outcome.clone()
    }

    /// Whether the outcome is there.
    pub fn is_finished(&self) -> bool {
        self.slot.lock().outcome.is_some()
    }

    /// Gives the call up: it ends as [`ErrorKind::Cancelled`], unless it is over already. A request
    /// that is on its way may still reach the server, and cost something.
    pub fn cancel(&self) {
        if let Some(orders) = &self.orders {
            // An engine that is gone has failed the call.
            let _ = orders.send(Order::Cancel(self.id));
        }
    }

    /// Waits for the outcome.
    pub(super) fn wait_until_over(&self) -> Result<Completion, CallError> {
        self.wait_streaming(|_| {})
    }

    /// Waits for the outcome and hands out each delta before it, with nothing locked.
    pub(super) fn wait_streaming(
        &self,
        mut on_delta: impl FnMut(&Delta),
    ) -> Result<Completion, CallError> {
        loop {
            let quiet = |state: &mut State| state.outcome.is_none() && state.deltas.is_empty();
            let mut state = self
                .slot
                .changed
                .wait_while(self.slot.lock(), quiet)
                .unwrap_or_else(PoisonError::into_inner);
            if state.deltas.is_empty()
                && let Some(outcome) = &state.outcome
            {
                return outcome.clone();
            }
            let deltas = std::mem::take(&mut state.deltas);
            drop(state);
            deltas.iter().for_each(&mut on_delta);
        }
    }
}

impl Future for Handle {
    type Output = Result<Completion, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id)
            .field("finished", &self.is_finished())
            .finish()
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: a panic cannot leave it half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: Result<Completion, CallError>) {
        let waker = {
            let mut state = self.lock();
            state.outcome.get_or_insert(outcome);
            state.waker.take()
        };
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Every call that has no outcome yet.
#[derive(Default)]
pub(super) struct OpenCalls(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    /// Why no call can start any more.
    ended: Option<CallError>,
    next_id: u64,
    slots: HashMap<u64, Arc<Slot>>,
    last_report: ClientReport,
}

impl OpenCalls {
    /// Opens a call; the error is a handle that has failed already.
    pub fn open(&self, orders: Sender<Order>) -> Result<(u64, Handle), Handle> {
        let mut registry = self.lock();
        let id = registry.next_id;
        registry.next_id += 1;
        let slot = Arc::<Slot>::default();
        let refused = match &registry.ended {
            Some(ended) => Some(ended.clone()),
            None if registry.slots.len() >= OPEN_CALLS_MAX => Some(CallError::new(
                ErrorKind::Cancelled,
                format!("{OPEN_CALLS_MAX} calls are open; wait for some of them first"),
            )),
            None => None,
        };
        if let Some(error) = refused {
            slot.finish(Err(error));
            return Err(Handle {
                id,
                slot,
                orders: None,
            });
        }
        registry.slots.insert(id, Arc::clone(&slot));
        let orders = Some(orders);
        Ok((id, Handle { id, slot, orders }))
    }

    /// Ends a call, unless it is over already.
    pub fn finish(&self, id: u64, outcome: Result<Completion, CallError>) {
        let slot = self.lock().slots.remove(&id);
        if let Some(slot) = slot {
            slot.finish(outcome);
        }
    }

    /// Whether the call has no outcome yet.
    pub fn is_open(&self, id: u64) -> bool {
        self.lock().slots.contains_key(&id)
    }

    /// Calls without an outcome.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Hands an event of a call's stream to whoever waits for it.
    pub fn push_delta(&self, id: u64, delta: Delta) {
        let slot = self.lock().slots.get(&id).cloned();
        if let Some(slot) = slot {
            slot.lock().deltas.push_back(delta);
            slot.changed.notify_all();
        }
    }

    /// No call can start from now on, and those that are open fail with `error`; returns how many.
    pub fn end(&self, error: &CallError) -> usize {
        let slots = {
            let mut registry = self.lock();
            registry.ended.get_or_insert_with(|| error.clone());
            std::mem::take(&mut registry.slots)
        };
        let count = slots.len();
        for slot in slots.into_values() {
            slot.finish(Err(error.clone()));
        }
        count
    }

    /// Whether the engine is gone.
    pub fn ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// What [`super::Client::report`] gives when the engine is gone.
    pub fn keep_report(&self, report: ClientReport) {
        self.lock().last_report = report;
    }

    /// The report that was kept last.
    pub fn last_report(&self) -> ClientReport {
        self.lock().last_report.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // As for a slot: nothing is ever half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
