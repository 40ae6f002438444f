//! Counters of one shard, of a difference, or of the whole run: the same shape, added up. Pure.

use std::ops::AddAssign;

use super::tokens::Tokens;
use crate::error::ErrorKind;

/// How often each kind of failure happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts([u64; ErrorKind::ALL.len()]);

impl KindCounts {
    /// Counts one more.
    pub fn add(&mut self, kind: ErrorKind) {
        self.0[kind as usize] += 1;
    }

    /// Counts many.
    pub fn add_many(&mut self, kind: ErrorKind, count: u64) {
        self.0[kind as usize] += count;
    }

    /// How often `kind` happened.
    pub fn get(&self, kind: ErrorKind) -> u64 {
        self.0[kind as usize]
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that happened, in the order of the specification.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL
            .into_iter()
            .map(|kind| (kind, self.get(kind)))
            .filter(|(_, count)| *count > 0)
    }
}

impl AddAssign<&Self> for KindCounts {
    fn add_assign(&mut self, other: &Self) {
        for (own, others) in self.0.iter_mut().zip(other.0) {
            *own += others;
        }
    }
}

/// What happened at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Attempts sent.
    pub attempts: u64,
    /// Attempts that ended in a success record.
    pub successes: u64,
    /// Attempts that failed, those that were retried included.
    pub failures: KindCounts,
    /// Attempts sent and not ended; in a difference the change, which may be negative.
    pub in_flight: i64,
    /// Billed tokens, failed attempts included.
    pub tokens: Tokens,
    /// Latencies of the successes added up, in µs.
    pub latency_us_sum: u64,
}

impl EndpointCounts {
    /// Mean latency of the successes in milliseconds, 0 if there are none.
    pub fn latency_ms_mean(&self) -> f64 {
        if self.successes == 0 {
            return 0.0;
        }
        self.latency_us_sum as f64 / self.successes as f64 / 1000.0
    }
}

impl AddAssign<&Self> for EndpointCounts {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            attempts,
            successes,
            failures,
            in_flight,
            tokens,
            latency_us_sum,
        } = other;
        self.attempts += attempts;
        self.successes += successes;
        self.failures += failures;
        self.in_flight += in_flight;
        self.tokens += *tokens;
        self.latency_us_sum += latency_us_sum;
    }
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Lines that ended in a failure record. Lines that succeeded are the successes of the endpoints.
    pub lines_failed: KindCounts,
    /// Attempts that were put off to be made again.
    pub retries: u64,
    /// Requests sent again at once because a reused connection turned out closed; no attempts.
    pub stale_resends: u64,
    /// Bytes written to connections, before encryption.
    pub bytes_sent: u64,
    /// Bytes read from connections, after decryption.
    pub bytes_received: u64,
    /// US dollars, by the configured prices.
    pub cost_usd: f64,
    /// By endpoint, in the order of the configuration.
    pub endpoints: Vec<EndpointCounts>,
}

impl Counts {
    /// All zero.
    pub fn new(endpoints: usize) -> Self {
        Self {
            endpoints: vec![EndpointCounts::default(); endpoints],
            ..Self::default()
        }
    }
}

impl AddAssign<&Self> for Counts {
    /// # Panics
    /// If the two count different numbers of endpoints.
    fn add_assign(&mut self, other: &Self) {
        let Self {
            lines_failed,
            retries,
            stale_resends,
            bytes_sent,
            bytes_received,
            cost_usd,
            endpoints,
        } = other;
        assert_eq!(
            self.endpoints.len(),
            endpoints.len(),
            "one configuration, one number"
        );
        self.lines_failed += lines_failed;
        self.retries += retries;
        self.stale_resends += stale_resends;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
        self.cost_usd += cost_usd;
        for (own, others) in self.endpoints.iter_mut().zip(endpoints) {
            *own += others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place() {
        let mut counts = KindCounts::default();
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "ALL is in the order of declaration");
            for _ in 0..=index {
                counts.add(kind);
            }
        }
        let twice = {
            let mut twice = counts;
            twice += &counts;
            twice
        };
        for (index, (kind, count)) in twice.iter().enumerate() {
            assert_eq!(
                (kind, count),
                (ErrorKind::ALL[index], 2 * (index as u64 + 1))
            );
        }
        assert_eq!(
            counts.total(),
            (1..=ErrorKind::ALL.len() as u64).sum::<u64>()
        );
    }
}
