//! Which endpoints may be used now. Pure.
//!
//! The main thread's [`Health`] hears every report and decides; [`LocalHealth`] is a shard's copy
//! of the verdicts, read on every request. These make an endpoint cool, independently:
//!
//! - *a streak*: [`STREAK_TO_COOL`] transient failures in a row, in the order of the answers and of
//!   the requests ([`Failures`]). After the cooling one probe, sent by one shard, decides; every
//!   failed probe doubles the cooling.
//! - *answers that are none*: as many requests in a row that were not answered well, whatever came
//!   (400, 409, 425, …), [`STREAK_TO_SHUN`] where the endpoint has answered some well. It is shunned
//!   like this only for the sake of another one: alone, it is all there is, and its answers are the lines'.
//! - *its key*, refused for once (401) by an endpoint that has answered lines well: one probe after
//!   [`KEY_PAUSE`] decides.
//! - *a wait hint* of the server: the whole quota group waits, and afterwards simply goes on.
//!
//! Disabled for good is an endpoint that refuses its key or its path before it has answered any line
//! well, its key in the probe, or [`REFUSED_TO_DISABLE`] lines in a row (403).

mod local;
mod order;
mod refused;

use std::time::{Duration, Instant};

pub use local::{LocalHealth, Sending};
pub use order::Failures;
pub use refused::{Fate, Held};

use refused::Row;

/// Consecutive transient failures that cool an endpoint.
pub const STREAK_TO_COOL: u32 = 5;

/// Consecutive requests that were not answered well after which an endpoint is shunned though it has
/// answered some well: where half of the lines are bad, once in a million.
pub const STREAK_TO_SHUN: u32 = 20;

/// Lines refused in a row (403), with no answer between, that disable an endpoint.
pub const REFUSED_TO_DISABLE: usize = 5;

/// How long an endpoint is left alone that has answered lines well and then refused its key.
pub const KEY_PAUSE: Duration = Duration::from_secs(1);

/// The first cooling; it doubles with every failed probe.
pub const COOLING_MIN: Duration = Duration::from_secs(1);

/// The longest cooling.
pub const COOLING_MAX: Duration = Duration::from_secs(60);

/// A probe that has not reported by then is presumed lost and another one goes out. Longer than
/// most requests take; a late report is still heard.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(60);

/// The state of one endpoint, as displays show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes requests.
    Usable,
    /// Takes none before `until`.
    Cooling {
        /// The end of the cooling; a probe may have to follow.
        until: Instant,
    },
    /// One probe, sent by `shard`, decides.
    HalfOpen {
        /// Who sends the probe.
        shard: usize,
    },
    /// Takes none for the rest of the run.
    Disabled {
        /// What the server said.
        reason: String,
    },
}

/// A change of state, or of whether there is a streak; the endpoint's [`Health::view`] goes to every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose state changed.
    pub endpoint: usize,
    /// The new state.
    pub state: State,
}

/// What shards need to know about an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// No request before then; `None`: at once.
    pub usable_from: Option<Instant>,
    /// No request ever again.
    pub disabled: bool,
    /// Cooled by a streak: `usable_from` does not open it, only the probe may go out.
    pub needs_probe: bool,
    /// The shard that may send the probe, once.
    pub probe: Option<usize>,
    /// Tells one probe from the next.
    pub probe_number: u32,
    /// Consecutive requests that were not answered well.
    pub streak: u32,
    /// It has answered a line well.
    pub is_well: bool,
    /// It is cooled because it answers nothing well, though it answers.
    pub is_shunned: bool,
}

/// Every endpoint is out because of failures, not because servers asked to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the last usable endpoint was lost.
    pub since: Instant,
    /// All are disabled: none can come back.
    pub permanent: bool,
}

/// Why the run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Every endpoint is disabled; the reasons, by endpoint.
    AllDisabled(Vec<String>),
    /// No endpoint came back for that long.
    Outage(Duration),
}

/// Main-owned: the state of every endpoint.
#[derive(Debug)]
pub struct Health {
    endpoints: Vec<Endpoint>,
    /// Wait hints by quota group: no request before then.
    hints: Vec<Option<Instant>>,
    /// By shard: does it have anything to send a probe with?
    working: Vec<bool>,
    /// Probes go round.
    next_prober: usize,
    all_out_since: Option<Instant>,
    ever_succeeded: bool,
    /// Lines for whose answers endpoints were disabled.
    blamed: Vec<u64>,
    /// What becomes of lines whose records are held back; for [`Health::take_fates`].
    fates: Vec<Held>,
}

#[derive(Debug)]
struct Endpoint {
    group: usize,
    /// Transient failures in a row.
    streak: u32,
    /// Requests in a row that were not answered well, those failures among them.
    unwell: u32,
    /// It has answered a line well.
    is_well: bool,
    /// It has answered a line, if only with a complaint about it.
    has_answered: bool,
    /// Lines that it has refused (403) since it last answered one.
    refused: Row,
    circuit: Circuit,
    /// Why it is open or half-open.
    cause: Cause,
    /// Failed probes since the endpoint was last usable; the exponent of the cooling.
    failed_probes: u32,
    probe_number: u32,
    /// The view [`Health::poll`] last reported.
    reported: EndpointView,
}

/// Why an endpoint cools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It failed.
    Failures,
    /// It answers, but nothing well.
    Answers,
    /// It refused its key for once.
    Key,
}

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It was answered well.
    Well,
    /// It was answered in a way that proves the endpoint alive, such as a 400 or a 429.
    Alive,
    /// It failed.
    Failed,
}

/// The streak's verdict; wait hints are kept apart so that neither shortens the other.
#[derive(Debug)]
enum Circuit {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        shard: usize,
        patience_until: Instant,
    },
    Disabled {
        reason: String,
    },
}

impl Health {
    /// All endpoints usable. `groups[endpoint]` is its quota group; `shards` shards, all with work.
    pub fn new(groups: Vec<usize>, shards: usize) -> Self {
        let hints = vec![None; groups.iter().max().map_or(0, |&last| last + 1)];
        let endpoints = groups
            .into_iter()
            .map(|group| Endpoint {
                group,
                streak: 0,
                unwell: 0,
                is_well: false,
                has_answered: false,
                refused: Row::default(),
                circuit: Circuit::Closed,
                cause: Cause::Failures,
                failed_probes: 0,
                probe_number: 0,
                reported: EndpointView::default(),
            })
            .collect();
        Self {
            endpoints,
            hints,
            working: vec![true; shards],
            next_prober: 0,
            all_out_since: None,
            ever_succeeded: false,
            blamed: Vec::new(),
            fates: Vec::new(),
        }
    }

    /// A request of an earlier process of the run has succeeded: the endpoints are no typing error.
    pub fn note_earlier_success(&mut self) {
        self.ever_succeeded = true;
    }

    /// `shard` ran out of work or found some. Only shards with work are asked to probe.
    pub fn set_working(&mut self, shard: usize, working: bool) {
        self.working[shard] = working;
    }

    /// A request failed in a way that speaks against the endpoint: connect, TLS, timeout,
    /// protocol, 5xx, a 429 without a wait hint. Not the caller's own 4xx, and not an answer with
    /// a wait hint, which [`handle_hint`](Self::handle_hint) serves better. `failures` is what
    /// [`LocalHealth::fail`] said of it.
    pub fn handle_transient(&mut self, endpoint: usize, failures: Failures, now: Instant) {
        let state = &mut self.endpoints[endpoint];
        // Open or half-open: the report is about a request from before the cooling began.
        if let Circuit::Closed = state.circuit {
            let longer = state.streak + u32::from(failures.follows);
            state.streak = longer.max(failures.together.min(STREAK_TO_COOL));
            state.note_unwell(failures);
            if state.streak >= STREAK_TO_COOL {
                state.cool(Cause::Failures, now);
                self.stop_shunning();
            }
        }
        self.note_outage(now);
    }

    /// A request was answered well. That ends a streak, but not a cooling: the request is older than
    /// it, and only the probe opens the endpoint again.
    pub fn handle_success(&mut self, endpoint: usize, now: Instant) {
        self.ever_succeeded = true;
        let state = &mut self.endpoints[endpoint];
        state.is_well = true;
        state.has_answered = true;
        if let Circuit::Closed = state.circuit {
            state.streak = 0;
            state.unwell = 0;
        }
        self.record_refused(endpoint);
        self.note_outage(now);
    }

    /// A request was answered in a way that proves the endpoint alive, and says no more: that ends a
    /// streak of transient failures.
    pub fn handle_alive(&mut self, endpoint: usize, now: Instant) {
        let state = &mut self.endpoints[endpoint];
        if let Circuit::Closed = state.circuit {
            state.streak = 0;
        }
        self.note_outage(now);
    }

    /// A request was answered with a complaint that may be its own (400, 409, …). `failures` is what
    /// [`LocalHealth::complain`] said of it.
    pub fn handle_complaint(&mut self, endpoint: usize, failures: Failures, now: Instant) {
        self.endpoints[endpoint].has_answered = true;
        self.handle_alive(endpoint, now);
        self.record_refused(endpoint);
        self.note_unwell(endpoint, failures, now);
    }

    /// An answer that was none adds to the streak of those, which may be reason enough to prefer others.
    fn note_unwell(&mut self, endpoint: usize, failures: Failures, now: Instant) {
        let state = &mut self.endpoints[endpoint];
        if !matches!(state.circuit, Circuit::Closed) {
            return;
        }
        state.note_unwell(failures);
        let enough = match state.is_well {
            true => STREAK_TO_SHUN,
            false => STREAK_TO_COOL,
        };
        if state.unwell >= enough && self.may_be_shunned(endpoint) {
            self.endpoints[endpoint].cool(Cause::Answers, now);
        }
    }

    /// Whether there is another endpoint for whose sake this one may be left alone. Where it has never
    /// answered well, one that has failed and may come back will do.
    fn may_be_shunned(&self, endpoint: usize) -> bool {
        let is_well = self.endpoints[endpoint].is_well;
        let mut others = self.endpoints.iter().enumerate();
        others.any(|(index, other)| {
            let has_failed = other.is_cooling() && other.cause != Cause::Answers;
            index != endpoint
                && (matches!(other.circuit, Circuit::Closed) || !is_well && has_failed)
        })
    }

    /// An endpoint has gone out: those that were left alone for its sake are needed again.
    fn stop_shunning(&mut self) {
        for index in 0..self.endpoints.len() {
            let state = &self.endpoints[index];
            let is_shunned = state.is_cooling() && state.cause == Cause::Answers;
            if is_shunned && !self.may_be_shunned(index) {
                self.endpoints[index].open();
            }
        }
    }

    /// The server asked to wait: nothing goes to the endpoint's quota group before `now + wait`.
    /// Never shortens an earlier wish.
    pub fn handle_hint(&mut self, endpoint: usize, wait: Duration, now: Instant) {
        let hint = &mut self.hints[self.endpoints[endpoint].group];
        *hint = (*hint).max(Some(now + wait));
    }

    /// No request can succeed there any more. The first reason is kept.
    pub fn handle_disable(&mut self, endpoint: usize, reason: String) {
        let state = &mut self.endpoints[endpoint];
        if !matches!(state.circuit, Circuit::Disabled { .. }) {
            state.circuit = Circuit::Disabled { reason };
            self.stop_shunning();
        }
        self.release_refused(endpoint, Fate::SentElsewhere);
    }

    /// What the probe showed. Report what it was answered besides, as for any request.
    pub fn handle_probe_result(&mut self, endpoint: usize, shown: Probe, now: Instant) {
        let state = &mut self.endpoints[endpoint];
        if let Circuit::HalfOpen { .. } = state.circuit {
            let is_open = match shown {
                Probe::Well => true,
                Probe::Alive => state.cause != Cause::Answers,
                Probe::Failed => false,
            };
            if is_open {
                state.open();
            } else {
                state.failed_probes = state.failed_probes.saturating_add(1);
                state.cool(state.cause, now);
            }
        }
        self.note_outage(now);
    }

    /// `shard` cannot send the probe it was given ([`LocalHealth::surrender_probes`]); another
    /// shard gets it at the next [`poll`](Self::poll).
    pub fn handle_probe_declined(&mut self, endpoint: usize, shard: usize, now: Instant) {
        let state = &mut self.endpoints[endpoint];
        if matches!(state.circuit, Circuit::HalfOpen { shard: prober, .. } if prober == shard) {
            state.circuit = Circuit::Open { until: now };
        }
    }

    /// Lets time pass and reports what changed since the last call, through time or reports:
    /// each endpoint's new state, to be broadcast as [`view`](Self::view).
    pub fn poll(&mut self, now: Instant) -> Vec<Transition> {
        self.note_outage(now);
        let mut transitions = Vec::new();
        for index in 0..self.endpoints.len() {
            self.assign_probe(index, now);
            let mut view = self.view(index);
            if view.usable_from.is_some_and(|from| from <= now) && !view.needs_probe {
                view.usable_from = None;
            }
            // Shards must know that there is a streak, or their successes could not end it; how long
            // it is is not worth a message to all of them.
            let compare = EndpointView {
                streak: view.streak.min(1),
                ..view
            };
            if self.endpoints[index].reported != compare {
                self.endpoints[index].reported = compare;
                transitions.push(Transition {
                    endpoint: index,
                    state: self.state(index, now),
                });
            }
        }
        transitions
    }

    /// When [`poll`](Self::poll) has something to do though nothing is reported.
    pub fn next_wake(&self) -> Option<Instant> {
        let somebody_works = self.working.contains(&true);
        let wake = |endpoint: &Endpoint| match endpoint.circuit {
            Circuit::Closed => endpoint.reported.usable_from,
            Circuit::Open { until } if somebody_works => {
                self.hints[endpoint.group].max(Some(until))
            }
            Circuit::HalfOpen { patience_until, .. } => Some(patience_until),
            Circuit::Open { .. } | Circuit::Disabled { .. } => None,
        };
        self.endpoints.iter().filter_map(wake).min()
    }

    /// The state of `endpoint` at `now`.
    pub fn state(&self, endpoint: usize, now: Instant) -> State {
        let state = &self.endpoints[endpoint];
        let hint = self.hints[state.group].filter(|&until| until > now);
        match &state.circuit {
            Circuit::Disabled { reason } => State::Disabled {
                reason: reason.clone(),
            },
            Circuit::HalfOpen { shard, .. } => State::HalfOpen { shard: *shard },
            Circuit::Open { until } => State::Cooling {
                until: hint.map_or(*until, |hint| hint.max(*until)),
            },
            Circuit::Closed => hint.map_or(State::Usable, |until| State::Cooling { until }),
        }
    }

    /// What to tell the shards about `endpoint`.
    pub fn view(&self, endpoint: usize) -> EndpointView {
        let state = &self.endpoints[endpoint];
        let hint = self.hints[state.group];
        let view = EndpointView {
            usable_from: hint,
            probe_number: state.probe_number,
            streak: state.streak.max(state.unwell),
            is_well: state.is_well,
            is_shunned: state.is_cooling() && state.cause == Cause::Answers,
            ..EndpointView::default()
        };
        match state.circuit {
            Circuit::Closed => view,
            Circuit::Open { until } => EndpointView {
                usable_from: hint.max(Some(until)),
                needs_probe: true,
                ..view
            },
            Circuit::HalfOpen { shard, .. } => EndpointView {
                needs_probe: true,
                probe: Some(shard),
                ..view
            },
            Circuit::Disabled { .. } => EndpointView {
                usable_from: None,
                disabled: true,
                ..view
            },
        }
    }

    /// The outage at `now`, if no endpoint is usable because of failures. An endpoint that only
    /// waits because its server asked for it is not out.
    pub fn outage(&self, now: Instant) -> Option<Outage> {
        self.all_out().then(|| Outage {
            since: self.all_out_since.unwrap_or(now),
            permanent: self.reasons().len() == self.endpoints.len(),
        })
    }

    /// Whether any request of this run has succeeded.
    pub fn ever_succeeded(&self) -> bool {
        self.ever_succeeded
    }

    /// Whether to stop: no endpoint can come back, or none has for `max_outage`
    /// (`max_outage_at_first`, if less, while nothing has ever succeeded).
    pub fn verdict(
        &self,
        now: Instant,
        max_outage: Duration,
        max_outage_at_first: Duration,
    ) -> Option<StopReason> {
        let outage = self.outage(now)?;
        if outage.permanent {
            return Some(StopReason::AllDisabled(self.reasons()));
        }
        let limit = match self.ever_succeeded {
            true => max_outage,
            false => max_outage.min(max_outage_at_first),
        };
        let lasted = now.saturating_duration_since(outage.since);
        (lasted >= limit).then_some(StopReason::Outage(lasted))
    }

    /// Takes in that the process did not run for so long until `now`: an outage did not last longer for it, and
    /// the answer to a probe may be there already.
    pub fn postpone(&mut self, lasted: Duration, now: Instant) {
        self.all_out_since = self.all_out_since.map(|since| (since + lasted).min(now));
        for endpoint in &mut self.endpoints {
            if let Circuit::HalfOpen { patience_until, .. } = &mut endpoint.circuit {
                *patience_until = (*patience_until + lasted).min(now + PROBE_PATIENCE);
            }
        }
    }

    /// Opens every endpoint that only a streak has closed: what failed was not their fault.
    pub fn forgive(&mut self, now: Instant) {
        for endpoint in &mut self.endpoints {
            if !matches!(endpoint.circuit, Circuit::Disabled { .. }) {
                endpoint.open();
            }
        }
        self.note_outage(now);
    }

    /// Turns a finished cooling, or a probe that was lost, into a probe of the next working shard.
    fn assign_probe(&mut self, index: usize, now: Instant) {
        let endpoint = &self.endpoints[index];
        let due = match endpoint.circuit {
            Circuit::Open { until } => until <= now && self.hints[endpoint.group] <= Some(now),
            Circuit::HalfOpen { patience_until, .. } => patience_until <= now,
            Circuit::Closed | Circuit::Disabled { .. } => false,
        };
        let shards = self.working.len();
        let prober = (0..shards)
            .map(|step| (self.next_prober + step) % shards)
            .find(|&shard| due && self.working[shard]);
        if let Some(shard) = prober {
            self.next_prober = (shard + 1) % shards;
            let endpoint = &mut self.endpoints[index];
            endpoint.probe_number = endpoint.probe_number.wrapping_add(1);
            endpoint.circuit = Circuit::HalfOpen {
                shard,
                patience_until: now + PROBE_PATIENCE,
            };
        }
    }

    fn note_outage(&mut self, now: Instant) {
        self.all_out_since = match self.all_out() {
            true => self.all_out_since.or(Some(now)),
            false => None,
        };
    }

    fn all_out(&self) -> bool {
        let out = |endpoint: &Endpoint| !matches!(endpoint.circuit, Circuit::Closed);
        self.endpoints.iter().all(out)
    }

    fn reasons(&self) -> Vec<String> {
        let reason = |endpoint: &Endpoint| match &endpoint.circuit {
            Circuit::Disabled { reason } => Some(reason.clone()),
            _ => None,
        };
        self.endpoints.iter().filter_map(reason).collect()
    }
}

impl Endpoint {
    fn cool(&mut self, cause: Cause, now: Instant) {
        // 2^6 s is above the maximum already.
        let cooling = COOLING_MIN * (1 << self.failed_probes.min(6));
        self.cause = cause;
        self.circuit = Circuit::Open {
            until: now + cooling.min(COOLING_MAX),
        };
    }

    fn open(&mut self) {
        self.circuit = Circuit::Closed;
        self.streak = 0;
        self.unwell = 0;
        self.failed_probes = 0;
    }

    fn is_cooling(&self) -> bool {
        matches!(
            self.circuit,
            Circuit::Open { .. } | Circuit::HalfOpen { .. }
        )
    }

    fn note_unwell(&mut self, failures: Failures) {
        let longer = self.unwell + u32::from(failures.follows);
        self.unwell = longer.max(failures.together);
    }
}

#[cfg(test)]
mod tests;
