//! The run at one moment: all that displays and exports see. Pure.

use std::time::Duration;

use super::counts::Counts;
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
}

/// The run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Since this process began to send.
    pub elapsed: Duration,
    /// What the run knows about itself.
    pub gauges: Gauges,
    /// What this process counted.
    pub counts: Counts,
    /// Successful attempts, from sending to the last byte.
    pub latency: Latency,
    /// Streamed ones among them, from sending to the first token.
    pub ttft: Latency,
    /// In the order of the configuration, as [`Counts::endpoints`].
    pub endpoints: Vec<EndpointState>,
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
        self.gauges.succeeded_before + self.succeeded_now()
    }

    /// Lines with a failure record, earlier processes of the run included.
    pub fn failed(&self) -> u64 {
        self.gauges.failed_before + self.counts.lines_failed.total()
    }

    /// Lines with a record.
    pub fn done(&self) -> u64 {
        self.succeeded() + self.failed()
    }

    /// Attempts sent.
    pub fn attempts(&self) -> u64 {
        self.counts
            .endpoints
            .iter()
            .map(|endpoint| endpoint.attempts)
            .sum()
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
        let endpoints = self.counts.endpoints.iter();
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
        endpoints.fold(Tokens::default(), |sum, endpoint| sum + endpoint.tokens)
    }

    /// Lines this process finished, per second of its run so far.
    pub fn lines_per_second(&self) -> f64 {
        self.per_second(self.succeeded_now() + self.counts.lines_failed.total())
    }

    /// Prompt and completion tokens billed, per second of the run so far.
    pub fn tokens_per_second(&self) -> f64 {
        let tokens = self.tokens();
        self.per_second(tokens.prompt.saturating_add(tokens.completion))
    }

    fn succeeded_now(&self) -> u64 {
        self.counts
            .endpoints
            .iter()
            .map(|endpoint| endpoint.successes)
            .sum()
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            return 0.0;
        }
        count as f64 / self.elapsed.as_secs_f64()
    }
}
