//! The run at one moment: all that displays and exports see. Pure.

use std::time::Duration;

use super::counts::{Counts, EndpointCounts};
use super::failures::FailureTally;
use super::latency::Latency;
use super::tokens::Tokens;
use crate::error::ErrorKind;

/// Figures that the run knows and no shard counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Lines of the input, blank ones left out.
    pub lines: u64,
    /// Success records left by the run that this one resumes.
    pub succeeded_before: u64,
    /// Failure records left by the run that this one resumes.
    pub failed_before: u64,
}

/// Whether an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It takes traffic.
    Healthy,
    /// It is left alone for a while.
    Cooling,
    /// One probe request decides.
    HalfOpen,
    /// It is out for the rest of the run.
    Disabled,
}

impl Availability {
    /// The name in displays and summaries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Cooling => "cooling",
            Self::HalfOpen => "half_open",
            Self::Disabled => "disabled",
        }
    }
}

/// An endpoint as its health sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// As in records: without credentials or query.
    pub name: String,
    /// Whether it may be used.
    pub state: Availability,
    /// Why it may not, or what failed there last.
    pub reason: Option<String>,
    /// How long it is still left alone, if that is known.
    pub cooldown: Option<Duration>,
}

/// A run that sends nothing more and waits for what is in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    /// Why.
    pub reason: String,
    /// The user wants it so, and may want it at once.
    pub interrupted: bool,
    /// How long it still waits for what is in flight.
    pub left: Duration,
}

/// The run at one moment. Figures are of the whole run, earlier processes included, unless they say
/// otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Since the processes of the run began to send, added up.
    pub elapsed: Duration,
    /// What the run knows about itself.
    pub gauges: Gauges,
    /// Lines that this process finished: succeeded, failed.
    pub lines_now: (u64, u64),
    /// Lines that earlier processes finished within [`Snapshot::elapsed`].
    pub lines_before: u64,
    /// What was counted.
    pub counts: Counts,
    /// What earlier processes counted of endpoints that are not configured any more.
    pub unlisted: EndpointCounts,
    /// Successful attempts, from sending to the last byte.
    pub latency: Latency,
    /// Streamed ones among them, from sending to the first token.
    pub ttft: Latency,
    /// In the order of the configuration, as [`Counts::endpoints`].
    pub endpoints: Vec<EndpointState>,
    /// The most frequent failure.
    pub failure: Option<FailureTally>,
    /// The run is about to stop.
    pub stopping: Option<Stopping>,
    /// `--rate auto`: the rate that all quota groups together are found to sustain, per second.
    pub rate_found: Option<f64>,
    /// Quota groups for which something is searched, with what was found; else none.
    pub groups: Vec<GroupFound>,
}

/// What `--rate auto` and `--workers auto` have found for a quota group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFound {
    /// The group's name; without a `quota_group` its endpoint's.
    pub name: String,
    /// Requests per second.
    pub rate: Option<f64>,
    /// Requests in flight.
    pub workers: Option<u32>,
}

impl Snapshot {
    /// Lines with a success record, earlier processes of the run included.
    pub fn succeeded(&self) -> u64 {
        self.gauges.succeeded_before + self.lines_now.0
    }

    /// Lines with a failure record, earlier processes of the run included.
    pub fn failed(&self) -> u64 {
        self.gauges.failed_before + self.lines_now.1
    }

    /// Lines with a record.
    pub fn done(&self) -> u64 {
        self.succeeded() + self.failed()
    }

    /// Attempts sent.
    pub fn attempts(&self) -> u64 {
        let listed = self.counts.endpoints.iter();
        self.unlisted.attempts + listed.map(|endpoint| endpoint.attempts).sum::<u64>()
    }

    /// Attempts sent and not ended.
    pub fn in_flight(&self) -> u64 {
        let in_flight: i64 = self
            .counts
            .endpoints
            .iter()
            .map(|endpoint| endpoint.in_flight)
            .sum();
        // Shards report at different times, but each its own attempts in order: never below zero.
        u64::try_from(in_flight).unwrap_or(0)
    }

    /// Attempts answered with a 429 that a wait can cure.
    pub fn rate_limited(&self) -> u64 {
        let endpoints = self.counts.endpoints.iter().chain([&self.unlisted]);
        endpoints
            .map(|endpoint| endpoint.failures.get(ErrorKind::RateLimited))
            .sum()
    }

    /// `--workers auto`: how many requests in flight are best, all quota groups together.
    pub fn workers_found(&self) -> Option<u64> {
        let workers = self.groups.iter().filter_map(|group| group.workers);
        workers.map(u64::from).reduce(|sum, workers| sum + workers)
    }

    /// Tokens billed by all endpoints.
    pub fn tokens(&self) -> Tokens {
        let endpoints = self.counts.endpoints.iter();
        endpoints.fold(self.unlisted.tokens, |sum, endpoint| sum + endpoint.tokens)
    }

    /// Lines finished, per second of the run so far.
    pub fn lines_per_second(&self) -> f64 {
        self.per_second(self.lines_before + self.lines_now.0 + self.lines_now.1)
    }

    /// Prompt and completion tokens billed, per second of the run so far.
    pub fn tokens_per_second(&self) -> f64 {
        let tokens = self.tokens();
        self.per_second(tokens.prompt.saturating_add(tokens.completion))
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            return 0.0;
        }
        count as f64 / self.elapsed.as_secs_f64()
    }
}
