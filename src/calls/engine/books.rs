//! What a client counts, and its report.

use std::collections::VecDeque;
use std::time::Instant;

use super::Engine;
use crate::calls::report::{ClientReport, EndpointReport, SAMPLES_MAX, Sample};
use crate::error::ErrorKind;
use crate::metrics::{Availability, EndpointState, Gauges, ShardMetrics, Snapshot, Totals};
use crate::policy::health::State;
use crate::runtime::{self, Runtime};

/// Counters and the last failures of each endpoint.
pub(super) struct Ledger {
    pub metrics: ShardMetrics,
    totals: Totals,
    started: Instant,
    succeeded: u64,
    failed: u64,
    samples: Vec<VecDeque<Sample>>,
    cost_usd: f64,
}

impl Ledger {
    /// All zero.
    pub fn new(endpoints: usize, now: Instant) -> Self {
        Self {
            metrics: ShardMetrics::new(endpoints),
            totals: Totals::new(endpoints),
            started: now,
            succeeded: 0,
            failed: 0,
            samples: vec![VecDeque::new(); endpoints],
            cost_usd: 0.0,
        }
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        self.succeeded += 1;
    }

    /// A call failed for good.
    pub fn failed(&mut self, kind: ErrorKind) {
        self.failed += 1;
        self.metrics.line_failed(kind);
    }

    /// An answer cost that many US dollars.
    pub fn cost(&mut self, usd: f64) {
        self.cost_usd += usd;
        self.metrics.cost(usd);
    }

    /// US dollars spent, if that is at least `max`.
    pub fn spent(&self, max: Option<f64>) -> Option<f64> {
        max.filter(|max| self.cost_usd >= *max)
            .map(|_| self.cost_usd)
    }

    /// Keeps an example of what goes wrong at an endpoint.
    pub fn sample(&mut self, endpoint: usize, kind: ErrorKind, status: Option<u16>, message: &str) {
        let samples = &mut self.samples[endpoint];
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(Sample {
            kind,
            status,
            message: message.to_owned(),
            at_unix_us: runtime::unix_micros(),
        });
    }
}

impl<R: Runtime> Engine<R> {
    /// How things stand at `now`.
    pub(super) fn report(&mut self, now: Instant) -> ClientReport {
        let delta = self.ledger.metrics.take_delta();
        self.ledger.totals.absorb(&delta);
        let open_calls = self.open.len();
        let states: Vec<(EndpointState, u32)> = (self.plan.endpoints.iter().enumerate())
            .map(|(index, endpoint)| {
                let (state, streak, failure) = self.traffic.endpoint(index, now);
                let shown = EndpointState {
                    name: endpoint.name.clone(),
                    state: availability(&state),
                    reason: match &state {
                        State::Disabled { reason } => Some(reason.clone()),
                        _ => failure.map(str::to_owned),
                    },
                    cooldown: match &state {
                        State::Cooling { until } => Some(until.saturating_duration_since(now)),
                        _ => None,
                    },
                };
                (shown, streak)
            })
            .collect();
        let ledger = &self.ledger;
        let gauges = Gauges {
            lines: ledger.succeeded + ledger.failed + open_calls as u64,
            ..Gauges::default()
        };
        let shown = states.iter().map(|(shown, _)| shown.clone()).collect();
        let elapsed = now.saturating_duration_since(ledger.started);
        let snapshot = Snapshot {
            rate_found: self.traffic.rate_found(),
            groups: self.plan.found(self.traffic.quotas()),
            ..ledger.totals.snapshot(&gauges, elapsed, shown)
        };
        let endpoints = (states.into_iter().enumerate())
            .map(|(index, (shown, failure_streak))| EndpointReport {
                name: shown.name,
                state: shown.state,
                reason: shown.reason,
                cooldown: shown.cooldown,
                failure_streak,
                counts: snapshot.counts.endpoints[index],
                samples: ledger.samples[index].clone(),
            })
            .collect();
        ClientReport {
            endpoints,
            open_calls,
            in_flight: self.in_flight,
            succeeded: ledger.succeeded,
            failed: ledger.failed,
            retries: snapshot.counts.retries,
            cost_usd: ledger.cost_usd,
            snapshot: Some(snapshot),
        }
    }
}

fn availability(state: &State) -> Availability {
    match state {
        State::Usable => Availability::Healthy,
        State::Cooling { .. } => Availability::Cooling,
        State::HalfOpen { .. } => Availability::HalfOpen,
        State::Disabled { .. } => Availability::Disabled,
    }
}
