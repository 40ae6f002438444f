//! What one shard counts, and the differences it sends. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::counts::{Counts, EndpointCounts};
use super::failures::Failures;
use super::latency::{as_us, recorder};
use super::tokens::Tokens;
use crate::error::ErrorKind;

/// The counters of one shard: plain numbers, one thread, memory fixed by the number of endpoints
/// (about 100 KB for each of the two histograms).
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    /// Since the last difference was taken.
    counts: Counts,
    latency: Recent,
    ttft: Recent,
    failures: Failures,
}

/// What one shard counted since its last difference. Latencies are sparse: as many entries as
/// there were distinguishable values, not as the histogram has room for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    pub(super) counts: Counts,
    /// Latency in µs, how often.
    pub(super) latency: Vec<(u64, u32)>,
    /// Time to first token in µs, how often.
    pub(super) ttft: Vec<(u64, u32)>,
    /// What failed.
    pub(super) failures: Failures,
}

impl Delta {
    /// Attempts that ended in a success record and their latencies added up, by endpoint.
    pub fn successes(&self) -> impl Iterator<Item = (u64, Duration)> {
        let endpoints = self.counts.endpoints.iter();
        endpoints.map(|endpoint| {
            let latency = Duration::from_micros(endpoint.latency_us_sum);
            (endpoint.successes, latency)
        })
    }
}

impl ShardMetrics {
    /// All zero.
    pub fn new(endpoints: usize) -> Self {
        Self {
            counts: Counts::new(endpoints),
            latency: Recent::new(),
            ttft: Recent::new(),
            failures: Failures::default(),
        }
    }

    /// An attempt was sent.
    pub fn attempt(&mut self, endpoint: usize) {
        let counts = self.endpoint(endpoint);
        counts.attempts += 1;
        counts.in_flight += 1;
    }

    /// An attempt ended in a success record. `latency` is from sending to the last byte, `ttft`
    /// to the first token of a stream.
    pub fn success(
        &mut self,
        endpoint: usize,
        latency: Duration,
        tokens: Tokens,
        ttft: Option<Duration>,
    ) {
        let latency_us = as_us(latency);
        let counts = self.endpoint(endpoint);
        counts.successes += 1;
        counts.in_flight -= 1;
        counts.tokens += tokens;
        counts.latency_us_sum += latency_us;
        self.latency.record(latency_us);
        if let Some(ttft) = ttft {
            self.ttft.record(as_us(ttft));
        }
    }

    /// An attempt failed, whether it will be made again or not; `tokens` were billed for it.
    pub fn failed_attempt(&mut self, endpoint: usize, kind: ErrorKind, tokens: Tokens) {
        let counts = self.endpoint(endpoint);
        counts.failures.add(kind);
        counts.in_flight -= 1;
        counts.tokens += tokens;
    }

    /// A line ended in a failure record.
    pub fn line_failed(&mut self, kind: ErrorKind) {
        self.counts.lines_failed.add(kind);
    }

    /// What failed, and how often.
    pub fn failures(&mut self) -> &mut Failures {
        &mut self.failures
    }

    /// A line was put off to be sent again.
    pub fn retry(&mut self) {
        self.counts.retries += 1;
    }

    /// Requests went out again because their reused connections were closed.
    pub fn stale_resends(&mut self, count: u64) {
        self.counts.stale_resends += count;
    }

    /// Bytes went over a connection.
    pub fn transferred(&mut self, sent: u64, received: u64) {
        self.counts.bytes_sent += sent;
        self.counts.bytes_received += received;
    }

    /// A response cost that many US dollars.
    pub fn cost(&mut self, usd: f64) {
        self.counts.cost_usd += usd;
    }

    /// What was counted since the last call.
    pub fn take_delta(&mut self) -> Box<Delta> {
        let endpoints = self.counts.endpoints.len();
        Box::new(Delta {
            counts: std::mem::replace(&mut self.counts, Counts::new(endpoints)),
            latency: self.latency.take(),
            ttft: self.ttft.take(),
            failures: std::mem::take(&mut self.failures),
        })
    }

    fn endpoint(&mut self, endpoint: usize) -> &mut EndpointCounts {
        &mut self.counts.endpoints[endpoint]
    }
}

/// Latencies since the last difference.
#[derive(Clone, Debug)]
struct Recent(Histogram<u32>);

impl Recent {
    fn new() -> Self {
        Self(recorder())
    }

    fn record(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    fn take(&mut self) -> Vec<(u64, u32)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let recorded = self.0.iter_recorded();
        let taken = recorded
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        self.0.reset();
        taken
    }
}
