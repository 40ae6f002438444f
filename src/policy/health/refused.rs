//! Endpoints that refuse: a key (401), a path (404, 405, a redirect), a line (403). Pure.
//!
//! A single 403 says nothing: it may be one flagged prompt or a key that has lost its rights. So the line's
//! record is held back until the endpoint answers another line ([`Fate::Recorded`]), or until it is out
//! after [`REFUSED_TO_DISABLE`] of them in a row ([`Fate::SentElsewhere`]: such lines stay unfinished where
//! there is no other endpoint). Each held line gets one fate, in the order in which its shard has reported it.

use std::time::Instant;

use super::{Cause, Circuit, Failures, Health, KEY_PAUSE, REFUSED_TO_DISABLE};

/// What becomes of a line whose failure record is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The refusal was the line's own: it has its record.
    Recorded,
    /// It was the endpoint's: the line is sent to another one, if there is any.
    SentElsewhere,
}

/// The oldest line of `shard` that `endpoint` has refused and that has no fate yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub shard: usize,
    /// Who refused it.
    pub endpoint: usize,
    /// What becomes of it.
    pub fate: Fate,
}

/// Lines that one endpoint has refused since it last answered one.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// With the shard that holds the line's record back; `None`: nobody does.
    lines: Vec<(u64, Option<usize>)>,
    reason: String,
}

impl Health {
    /// The endpoint refused its key in the answer to `line`. `is_probe`: the request was to decide whether
    /// it may be used again.
    pub fn handle_key_refused(
        &mut self,
        endpoint: usize,
        line: u64,
        is_probe: bool,
        reason: &str,
        now: Instant,
    ) {
        let state = &mut self.endpoints[endpoint];
        let decides = is_probe && state.cause == Cause::Key;
        match state.circuit {
            Circuit::Disabled { .. } => {}
            _ if !state.is_well || decides => self.blame(endpoint, &[line], reason),
            Circuit::HalfOpen { .. } if !is_probe => {}
            // Sent before the key was refused first: it says nothing new.
            Circuit::Open { .. } if state.cause == Cause::Key => {}
            Circuit::Open { .. } | Circuit::HalfOpen { .. } | Circuit::Closed => {
                state.cause = Cause::Key;
                state.circuit = Circuit::Open {
                    until: now + KEY_PAUSE,
                };
                self.stop_shunning();
            }
        }
        self.note_outage(now);
    }

    /// The endpoint refused the path of `line`. Where it has answered any line well, that is the line's own.
    pub fn handle_path_refused(&mut self, endpoint: usize, line: u64, reason: &str, now: Instant) {
        if !self.endpoints[endpoint].is_well {
            self.blame(endpoint, &[line], reason);
        }
        self.note_outage(now);
    }

    /// The endpoint refused `line`, whose record `shard` holds back, unless nobody does. `failures` is what
    /// [`LocalHealth::complain`](super::LocalHealth::complain) said of it.
    pub fn handle_line_refused(
        &mut self,
        endpoint: usize,
        line: u64,
        shard: Option<usize>,
        failures: Failures,
        reason: &str,
        now: Instant,
    ) {
        let state = &mut self.endpoints[endpoint];
        state.refused.lines.push((line, shard));
        reason.clone_into(&mut state.refused.reason);
        if let Circuit::Disabled { .. } = state.circuit {
            return self.release_refused(endpoint, Fate::SentElsewhere);
        }
        self.handle_alive(endpoint, now);
        self.note_unwell(endpoint, failures, now);
        let state = &self.endpoints[endpoint];
        let in_a_row = state.is_cooling() || state.unwell as usize >= REFUSED_TO_DISABLE;
        if in_a_row && state.refused.lines.len() >= REFUSED_TO_DISABLE {
            self.blame_refused(endpoint);
        }
        self.note_outage(now);
    }

    /// Nothing is left to send but lines whose records are held back: no further answer will decide
    /// about them. An endpoint that has answered others refused these for their own sake; one that has
    /// answered none is out.
    pub fn handle_nothing_left(&mut self, now: Instant) {
        for endpoint in 0..self.endpoints.len() {
            let state = &self.endpoints[endpoint];
            if state.refused.lines.is_empty() {
                continue;
            }
            match state.has_answered {
                true => self.record_refused(endpoint),
                false => self.blame_refused(endpoint),
            }
        }
        self.note_outage(now);
    }

    /// The run is being stopped: lines that were refused for their own sake have their records, others
    /// stay unfinished.
    pub fn handle_stop(&mut self) {
        for endpoint in 0..self.endpoints.len() {
            let fate = match self.endpoints[endpoint].has_answered {
                true => Fate::Recorded,
                false => Fate::SentElsewhere,
            };
            self.release_refused(endpoint, fate);
        }
    }

    /// Whether any record is held back.
    pub fn holds_any(&self) -> bool {
        let is_held = |(_, shard): &(u64, Option<usize>)| shard.is_some();
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| endpoint.refused.lines.iter().any(is_held))
    }

    /// What has been decided about held records since the last call.
    pub fn take_fates(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.fates)
    }

    /// Lines for whose answers endpoints were disabled. Few: five for each endpoint at most.
    pub fn blamed(&self) -> &[u64] {
        &self.blamed
    }

    /// The endpoint has answered a line: what it refused before was refused for its own sake.
    pub(super) fn record_refused(&mut self, endpoint: usize) {
        self.release_refused(endpoint, Fate::Recorded);
    }

    pub(super) fn release_refused(&mut self, endpoint: usize, fate: Fate) {
        let lines = std::mem::take(&mut self.endpoints[endpoint].refused.lines);
        let held = lines.into_iter().filter_map(|(_, shard)| shard);
        self.fates.extend(held.map(|shard| Held {
            shard,
            endpoint,
            fate,
        }));
    }

    fn blame_refused(&mut self, endpoint: usize) {
        let row = &self.endpoints[endpoint].refused;
        let lines: Vec<u64> = row.lines.iter().map(|(line, _)| *line).collect();
        let reason = row.reason.clone();
        self.blame(endpoint, &lines, &reason);
    }

    fn blame(&mut self, endpoint: usize, lines: &[u64], reason: &str) {
        if !matches!(self.endpoints[endpoint].circuit, Circuit::Disabled { .. }) {
            self.blamed.extend_from_slice(lines);
        }
        self.handle_disable(endpoint, reason.to_owned());
    }
}

#[cfg(test)]
mod tests;
