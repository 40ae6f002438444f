//! A shard's copy of the endpoints' health: the verdicts of the main thread, plus what this shard
//! has just seen itself and need not wait a round trip to act on. Pure.

use std::time::{Duration, Instant};

use super::EndpointView;
use super::order::{Failures, SendOrder};

/// A request as the health of its endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Counts this shard's requests to the endpoint.
    pub number: u64,
    /// It decides whether a cooled endpoint is usable again.
    pub probe: bool,
}

/// Shard-owned: which endpoints this shard may use.
#[derive(Debug)]
pub struct LocalHealth {
    shard: usize,
    endpoints: Vec<Local>,
    /// By quota group: wait hints this shard received itself.
    hints: Vec<Option<Instant>>,
}

#[derive(Debug)]
struct Local {
    group: usize,
    view: EndpointView,
    order: SendOrder,
    /// The probe was given to this shard and has not been sent.
    probe_held: bool,
    /// Refused this shard; main will disable it for all, or say that it is well.
    refused: bool,
    /// There is no money for it.
    is_exhausted: bool,
    /// It has refused so many lines of this shard in a row that main will rule on it.
    is_suspended: bool,
    /// It has answered a line well, of whichever shard.
    is_well: bool,
    /// Not before then, whatever main has said so far.
    paused_until: Option<Instant>,
    /// Since when this shard knows it to be cooled by a streak.
    out_since: Option<Instant>,
}

impl LocalHealth {
    /// All endpoints usable; `groups` as for [`Health::new`](super::Health::new), `shard` this
    /// shard's number.
    pub fn new(groups: Vec<usize>, shard: usize) -> Self {
        let hints = vec![None; groups.iter().max().map_or(0, |&last| last + 1)];
        let local = |group| Local {
            group,
            view: EndpointView::default(),
            order: SendOrder::new(),
            probe_held: false,
            refused: false,
            is_exhausted: false,
            is_suspended: false,
            is_well: false,
            paused_until: None,
            out_since: None,
        };
        Self {
            shard,
            endpoints: groups.into_iter().map(local).collect(),
            hints,
        }
    }

    /// Takes over a verdict of the main thread.
    pub fn apply(&mut self, endpoint: usize, view: EndpointView, now: Instant) {
        let local = &mut self.endpoints[endpoint];
        let mine = view.probe == Some(self.shard);
        let new = view.probe_number != local.view.probe_number;
        local.probe_held = mine && (new || local.probe_held);
        if local.view.streak > 0 && view.streak == 0 {
            // A success, perhaps of another shard, ended it.
            local.order.forget_failures();
        }
        local.is_well |= view.is_well;
        local.refused &= !view.is_well || view.disabled;
        local.out_since = match view.needs_probe {
            true => local.out_since.or(Some(now)),
            false => None,
        };
        local.view = view;
    }

    /// A response to this shard asked the endpoint's quota group to wait. Never shortens.
    pub fn note_hint(&mut self, endpoint: usize, until: Instant) {
        let hint = &mut self.hints[self.endpoints[endpoint].group];
        *hint = (*hint).max(Some(until));
    }

    /// The endpoint refused this shard's path: no further request from here, though the main thread's
    /// verdict is still on its way.
    pub fn note_refused(&mut self, endpoint: usize) {
        self.endpoints[endpoint].refused = true;
    }

    /// The endpoint refused its key: no further request from here before `until`; what the main thread
    /// says meanwhile counts besides.
    pub fn note_pause(&mut self, endpoint: usize, until: Instant) {
        let paused = &mut self.endpoints[endpoint].paused_until;
        *paused = (*paused).max(Some(until));
    }

    /// Whether nothing goes to the endpoint from here until the main thread has ruled on what it refused.
    pub fn suspend(&mut self, endpoint: usize, is_suspended: bool) {
        self.endpoints[endpoint].is_suspended = is_suspended;
    }

    /// Whether the endpoint is cooled by a streak, as the main thread last said.
    pub fn is_cooled(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].view.needs_probe
    }

    /// Whether the endpoint has answered any line well.
    pub fn is_well(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].is_well
    }

    /// Whether the endpoint is out for the rest of the run.
    pub fn is_disabled(&self, endpoint: usize) -> bool {
        let local = &self.endpoints[endpoint];
        local.view.disabled || local.refused || local.is_exhausted
    }

    /// Whether a line may wait for the endpoint: it is usable, or has not been out for `patience` yet. For
    /// one that answers, but has never answered anything well, nobody waits.
    pub fn may_come_back(&self, endpoint: usize, patience: Duration, now: Instant) -> bool {
        let local = &self.endpoints[endpoint];
        let since = local.out_since;
        let gone = since.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        let is_useless = local.view.is_shunned && !local.is_well;
        !self.is_disabled(endpoint) && !gone && !is_useless
    }

    /// Whether a request may go to `endpoint` now. If one does, [`send`](Self::send) must be called
    /// for it.
    pub fn usable(&self, endpoint: usize, now: Instant) -> bool {
        self.usable_from(endpoint)
            .is_some_and(|from| from.is_none_or(|from| from <= now))
    }

    /// When the first endpoint is usable, `now` at the earliest. `None`: not before the main
    /// thread says so.
    pub fn next_usable(&self, now: Instant) -> Option<Instant> {
        (0..self.endpoints.len())
            .filter_map(|endpoint| self.usable_from(endpoint))
            .map(|from| from.map_or(now, |from| from.max(now)))
            .min()
    }

    /// When the next endpoint that is closed now opens by itself.
    pub fn next_opening(&self, now: Instant) -> Option<Instant> {
        (0..self.endpoints.len())
            .filter_map(|endpoint| self.usable_from(endpoint).flatten())
            .filter(|&from| from > now)
            .min()
    }

    /// A request goes to `endpoint`. One request is the probe: from then on the endpoint is closed
    /// until the main thread hears its result. What becomes of the request goes to one of
    /// [`answer`](Self::answer), [`fail`](Self::fail) and [`end`](Self::end).
    pub fn send(&mut self, endpoint: usize) -> Sending {
        let local = &mut self.endpoints[endpoint];
        Sending {
            number: local.order.send(),
            probe: std::mem::take(&mut local.probe_held),
        }
    }

    /// Request `number` was answered well.
    pub fn answer(&mut self, endpoint: usize, number: u64) {
        let local = &mut self.endpoints[endpoint];
        local.is_well = true;
        local.order.end(number);
        local.order.forget_failures();
    }

    /// Request `number` was answered in a way that proves the endpoint alive, and says no more.
    pub fn note_alive(&mut self, endpoint: usize, number: u64) {
        let order = &mut self.endpoints[endpoint].order;
        order.end(number);
        order.note_alive();
    }

    /// Request `number` was answered, but not well; for
    /// [`Health::handle_complaint`](super::Health::handle_complaint).
    pub fn complain(&mut self, endpoint: usize, number: u64) -> Failures {
        self.endpoints[endpoint].order.complain(number)
    }

    /// Request `number` failed in a way that speaks against the endpoint; for
    /// [`Health::handle_transient`](super::Health::handle_transient).
    pub fn fail(&mut self, endpoint: usize, number: u64) -> Failures {
        self.endpoints[endpoint].order.fail(number)
    }

    /// Request `number` is over and says nothing about the endpoint.
    pub fn end(&mut self, endpoint: usize, number: u64) {
        self.endpoints[endpoint].order.end(number);
    }

    /// Whether this shard is to send a probe.
    pub fn holds_probe(&self) -> bool {
        self.endpoints.iter().any(|local| local.probe_held)
    }

    /// Consecutive requests to `endpoint` that were not answered well, as the main thread last said.
    pub fn streak(&self, endpoint: usize) -> u32 {
        self.endpoints[endpoint].view.streak
    }

    /// There is no money for `endpoint`'s quota group: the same for each of its endpoints, for good.
    pub fn note_exhausted(&mut self, endpoint: usize) {
        let group = self.endpoints[endpoint].group;
        for local in &mut self.endpoints {
            local.is_exhausted |= local.group == group;
        }
    }

    /// Gives up the probes this shard holds because it has nothing to send; each goes to
    /// [`Health::handle_probe_declined`](super::Health::handle_probe_declined).
    pub fn surrender_probes(&mut self) -> Vec<usize> {
        (0..self.endpoints.len())
            .filter(|&endpoint| std::mem::take(&mut self.endpoints[endpoint].probe_held))
            .collect()
    }

    /// Outer `None`: closed until the main thread opens it. Inner `None`: usable at once.
    fn usable_from(&self, endpoint: usize) -> Option<Option<Instant>> {
        let local = &self.endpoints[endpoint];
        let needs_probe = local.view.needs_probe && !local.probe_held;
        let closed = needs_probe || local.is_suspended || self.is_disabled(endpoint);
        let hint = self.hints[local.group].max(local.paused_until);
        (!closed).then(|| local.view.usable_from.max(hint))
    }
}
