//! What [`super::Client::report`] shows. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::metrics::{Availability, EndpointCounts, Snapshot, prometheus};

/// Failures kept per endpoint: enough to see a pattern.
pub(super) const SAMPLES_MAX: usize = 8;

/// A client at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientReport {
    /// In the order of the configuration.
    pub endpoints: Vec<EndpointReport>,
    /// Calls without an outcome: waiting, in flight, between attempts.
    pub open_calls: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Calls answered.
    pub succeeded: u64,
    /// Calls failed.
    pub failed: u64,
    /// Attempts that were put off to be made again.
    pub retries: u64,
    /// US dollars, by the configured prices.
    pub cost_usd: f64,
    /// The same figures as a run has them; `None` before the engine's first report.
    pub snapshot: Option<Snapshot>,
}

impl ClientReport {
    /// The figures in the Prometheus text format.
    pub fn prometheus(&self) -> String {
        self.snapshot
            .as_ref()
            .map(prometheus::render)
            .unwrap_or_default()
    }
}

/// One endpoint at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    /// Its name, else its URL without credentials or query.
    pub name: String,
    /// Whether it may be used.
    pub state: Availability,
    /// Why it may not, or what failed there last.
    pub reason: Option<String>,
    /// Until it may be used again, or probed.
    pub cooldown: Option<Duration>,
    /// Consecutive transient failures.
    pub failure_streak: u32,
    /// Attempts, successes, failures by kind, in flight, tokens, latency.
    pub counts: EndpointCounts,
    /// The last failures, the oldest first.
    pub samples: VecDeque<Sample>,
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What happened; holds no secrets.
    pub message: String,
    /// Microseconds since 1970.
    pub at_unix_us: u64,
}
