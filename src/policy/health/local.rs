//! A shard's copy of the endpoints' health: the verdicts of the main thread, plus what this shard
//! has just seen itself and need not wait a round trip to act on. Pure.

use std::time::Instant;

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
    /// Refused this shard; main will disable it for all.
    refused: bool,
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
        };
        Self {
            shard,
            endpoints: groups.into_iter().map(local).collect(),
            hints,
        }
    }

    /// Takes over a verdict of the main thread.
    pub fn apply(&mut self, endpoint: usize, view: EndpointView) {
        let local = &mut self.endpoints[endpoint];
        let mine = view.probe == Some(self.shard);
        let new = view.probe_number != local.view.probe_number;
        local.probe_held = mine && (new || local.probe_held);
        if local.view.streak > 0 && view.streak == 0 {
            // A success, perhaps of another shard, ended it.
            local.order.forget_failures();
        }
        local.view = view;
    }

    /// A response to this shard asked the endpoint's quota group to wait. Never shortens.
    pub fn note_hint(&mut self, endpoint: usize, until: Instant) {
        let hint = &mut self.hints[self.endpoints[endpoint].group];
        *hint = (*hint).max(Some(until));
    }

    /// The endpoint refused this shard's key or model: no further request from here, though the
    /// main thread's verdict is still on its way.
    pub fn note_refused(&mut self, endpoint: usize) {
        self.endpoints[endpoint].refused = true;
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

    /// Request `number` was answered in a way that proves the endpoint alive.
    pub fn answer(&mut self, endpoint: usize, number: u64) {
        let order = &mut self.endpoints[endpoint].order;
        order.end(number);
        order.forget_failures();
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

    /// Consecutive transient failures of `endpoint`, as the main thread last said.
    pub fn streak(&self, endpoint: usize) -> u32 {
        self.endpoints[endpoint].view.streak
    }

    /// Whether an endpoint of another quota group than `endpoint`'s is not disabled.
    pub fn any_enabled_outside_group(&self, endpoint: usize) -> bool {
        let group = self.endpoints[endpoint].group;
        self.endpoints
            .iter()
            .any(|local| local.group != group && !local.view.disabled && !local.refused)
    }

    /// [`note_refused`](Self::note_refused) for every endpoint of `endpoint`'s quota group.
    pub fn note_group_refused(&mut self, endpoint: usize) {
        let group = self.endpoints[endpoint].group;
        for local in &mut self.endpoints {
            local.refused |= local.group == group;
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
        let closed =
            local.view.disabled || local.refused || (local.view.needs_probe && !local.probe_held);
        (!closed).then(|| local.view.usable_from.max(self.hints[local.group]))
    }
}
