//! What one process of a run counted, in the form in which its successors read it. Pure.
//!
//! Books, tokens and money are exact in the journals, whatever ends a process. Everything else (attempts that
//! were retried, latencies, time) is here, as of the last second before a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counts::{Counts, EndpointCounts, KindCounts};
use super::failures::Failures;
use super::tokens::Tokens;
use crate::error::ErrorKind;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// How long the process worked, in microseconds.
    pub elapsed_us: u64,
    /// It began by taking all earlier failures for unfinished lines.
    pub sends_failures_again: bool,
    /// Failure records by kind.
    pub lines_failed: BTreeMap<String, u64>,
    /// As [`Counts::retries`].
    pub retries: u64,
    /// As [`Counts::stale_resends`].
    pub stale_resends: u64,
    /// As [`Counts::bytes_sent`].
    pub bytes_sent: u64,
    /// As [`Counts::bytes_received`].
    pub bytes_received: u64,
    /// As [`Counts::cost_usd`].
    pub cost_usd: f64,
    /// By name.
    pub endpoints: BTreeMap<String, EndpointFigures>,
    /// Latencies of successes: µs and how often.
    pub latency: Vec<(u64, u64)>,
    /// Times to the first token, alike.
    pub ttft: Vec<(u64, u64)>,
    /// What failed.
    pub failures: Failures,
}

/// As [`EndpointCounts`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointFigures {
    attempts: u64,
    successes: u64,
    failures: BTreeMap<String, u64>,
    tokens: [u64; 3],
    latency_us_sum: u64,
}

impl Figures {
    /// Of these counts; `names` are those of the endpoints.
    pub fn of<'a>(counts: &Counts, names: impl Iterator<Item = &'a str>) -> Self {
        let by_name = names.zip(&counts.endpoints);
        Self {
            lines_failed: named(&counts.lines_failed),
            retries: counts.retries,
            stale_resends: counts.stale_resends,
            bytes_sent: counts.bytes_sent,
            bytes_received: counts.bytes_received,
            cost_usd: counts.cost_usd,
            endpoints: by_name
                .map(|(name, counts)| (name.to_owned(), EndpointFigures::of(counts)))
                .collect(),
            ..Self::default()
        }
    }

    /// The same as counts of endpoints with these names, and what is of others.
    pub fn counts<'a>(&self, names: impl Iterator<Item = &'a str>) -> (Counts, EndpointCounts) {
        let mut others = self.endpoints.clone();
        let endpoints = names
            .map(|name| others.remove(name).unwrap_or_default().counts())
            .collect();
        let mut unlisted = EndpointCounts::default();
        for other in others.values() {
            unlisted += &other.counts();
        }
        let counts = Counts {
            lines_failed: by_kind(&self.lines_failed),
            retries: self.retries,
            stale_resends: self.stale_resends,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            cost_usd: self.cost_usd,
            endpoints,
        };
        (counts, unlisted)
    }

    /// How long the process worked.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us)
    }
}

impl EndpointFigures {
    fn of(counts: &EndpointCounts) -> Self {
        let Tokens {
            prompt,
            completion,
            cached,
        } = counts.tokens;
        Self {
            attempts: counts.attempts,
            successes: counts.successes,
            failures: named(&counts.failures),
            tokens: [prompt, completion, cached],
            latency_us_sum: counts.latency_us_sum,
        }
    }

    fn counts(&self) -> EndpointCounts {
        let [prompt, completion, cached] = self.tokens;
        EndpointCounts {
            attempts: self.attempts,
            successes: self.successes,
            failures: by_kind(&self.failures),
            // What a process had in flight is nowhere any more.
            in_flight: 0,
            tokens: Tokens {
                prompt,
                completion,
                cached,
            },
            latency_us_sum: self.latency_us_sum,
        }
    }
}

fn named(counts: &KindCounts) -> BTreeMap<String, u64> {
    (counts.iter())
        .map(|(kind, count)| (kind.as_str().to_owned(), count))
        .collect()
}

/// Kinds of another version are nobody's.
fn by_kind(named: &BTreeMap<String, u64>) -> KindCounts {
    let mut counts = KindCounts::default();
    for kind in ErrorKind::ALL {
        counts.add_many(kind, named.get(kind.as_str()).copied().unwrap_or(0));
    }
    counts
}
