//! What all shards counted together. Pure.

use std::time::Duration;

use super::counts::Counts;
use super::latency::Recorded;
use super::shard::Delta;
use super::snapshot::{EndpointState, Gauges, Snapshot};

/// The sums of a run, kept by the main thread.
#[derive(Clone, Debug)]
pub struct Totals {
    counts: Counts,
    latency: Recorded,
    ttft: Recorded,
}

impl Totals {
    /// All zero.
    pub fn new(endpoints: usize) -> Self {
        Self {
            counts: Counts::new(endpoints),
            latency: Recorded::new(),
            ttft: Recorded::new(),
        }
    }

    /// Adds what a shard counted.
    ///
    /// # Panics
    /// If the shard has another number of endpoints.
    pub fn absorb(&mut self, delta: &Delta) {
        let Delta {
            counts,
            latency,
            ttft,
        } = delta;
        self.counts += counts;
        for &(us, count) in latency {
            self.latency.add(us, u64::from(count));
        }
        for &(us, count) in ttft {
            self.ttft.add(us, u64::from(count));
        }
    }

    /// US dollars spent so far.
    pub fn cost_usd(&self) -> f64 {
        self.counts.cost_usd
    }

    /// The run as it stands, `elapsed` after its start; `endpoints` in the order of the configuration.
    ///
    /// # Panics
    /// If there is not one state for each endpoint.
    pub fn snapshot(
        &self,
        gauges: &Gauges,
        elapsed: Duration,
        endpoints: Vec<EndpointState>,
    ) -> Snapshot {
        assert_eq!(
            endpoints.len(),
            self.counts.endpoints.len(),
            "one state for each endpoint"
        );
        Snapshot {
            elapsed,
            gauges: *gauges,
            counts: self.counts.clone(),
            latency: self.latency.latency(),
            ttft: self.ttft.latency(),
            endpoints,
            rate_found: None,
            groups: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::metrics::latency::recorder;
    use crate::metrics::{Availability, ShardMetrics, tokens::Tokens};

    fn tokens(prompt: u64, completion: u64, cached: u64) -> Tokens {
        Tokens {
            prompt,
            completion,
            cached,
        }
    }

    fn state(name: &str) -> EndpointState {
        EndpointState {
            name: name.to_owned(),
            state: Availability::Healthy,
            reason: None,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_shards_count_adds_up_however_often_they_report() {
        let mut totals = Totals::new(2);
        let mut shards = [ShardMetrics::new(2), ShardMetrics::new(2)];
        let [one, two] = &mut shards;
        one.attempt(0);
        one.attempt(0);
        one.attempt(1);
        totals.absorb(&one.take_delta());
        one.success(0, ms(100), tokens(10, 5, 2), None);
        one.failed_attempt(0, ErrorKind::RateLimited, tokens(1, 0, 0));
        one.retry();
        totals.absorb(&one.take_delta());
        one.failed_attempt(1, ErrorKind::Timeout, Tokens::default());
        one.line_failed(ErrorKind::Timeout);
        one.transferred(200, 1000);
        two.attempt(1);
        two.success(1, ms(300), tokens(20, 7, 0), Some(ms(40)));
        two.attempt(1);
        two.stale_resends(1);
        two.transferred(1, 2);
        two.cost(0.25);
        for shard in &mut shards {
            totals.absorb(&shard.take_delta());
            // Nothing is counted twice.
            totals.absorb(&shard.take_delta());
        }

        assert_eq!(totals.cost_usd(), 0.25);
        let gauges = Gauges {
            lines: 10,
            succeeded_before: 3,
            failed_before: 1,
        };
        let snapshot = totals.snapshot(
            &gauges,
            Duration::from_secs(2),
            vec![state("a"), state("b")],
        );
        let [a, b] = &snapshot.counts.endpoints[..] else {
            panic!("two endpoints")
        };
        assert_eq!((a.attempts, a.successes, a.in_flight), (2, 1, 0));
        assert_eq!((b.attempts, b.successes, b.in_flight), (3, 1, 1));
        assert_eq!(
            a.failures.iter().collect::<Vec<_>>(),
            [(ErrorKind::RateLimited, 1)]
        );
        assert_eq!(
            b.failures.iter().collect::<Vec<_>>(),
            [(ErrorKind::Timeout, 1)]
        );
        assert_eq!((a.tokens, b.tokens), (tokens(11, 5, 2), tokens(20, 7, 0)));
        assert_eq!((a.latency_ms_mean(), b.latency_ms_mean()), (100.0, 300.0));
        assert_eq!(
            (snapshot.counts.bytes_sent, snapshot.counts.bytes_received),
            (201, 1002)
        );
        assert_eq!(
            (snapshot.counts.retries, snapshot.counts.stale_resends),
            (1, 1)
        );

        assert_eq!(
            (snapshot.succeeded(), snapshot.failed(), snapshot.done()),
            (5, 2, 7)
        );
        assert_eq!((snapshot.attempts(), snapshot.in_flight()), (5, 1));
        assert_eq!(snapshot.rate_limited(), 1);
        assert_eq!(snapshot.tokens(), tokens(31, 12, 2));
        assert_eq!(snapshot.tokens_per_second(), 21.5);
        assert_eq!(snapshot.lines_per_second(), 1.5);
        assert_eq!((snapshot.latency.count, snapshot.ttft.count), (2, 1));
        assert!(
            (snapshot.latency.ms_mean - 200.0).abs() < 0.2,
            "{:?}",
            snapshot.latency
        );
        assert!(
            (snapshot.ttft.ms_p50 - 40.0).abs() < 0.04,
            "{:?}",
            snapshot.ttft
        );
    }

    #[test]
    fn differences_lose_nothing_of_the_distribution() {
        let mut direct = recorder::<u64>();
        let (mut shard, mut totals) = (ShardMetrics::new(1), Totals::new(1));
        for step in 0..5000u64 {
            let us = (step * step * 37) % 90_000_000;
            direct.saturating_record(us);
            shard.attempt(0);
            shard.success(0, Duration::from_micros(us), Tokens::default(), None);
            if step % 100 == 0 {
                totals.absorb(&shard.take_delta());
            }
        }
        totals.absorb(&shard.take_delta());
        assert_eq!(totals.latency.histogram, direct);
    }

    #[test]
    fn a_rate_over_no_time_is_zero() {
        let gauges = Gauges::default();
        let snapshot = Totals::new(0).snapshot(&gauges, Duration::ZERO, Vec::new());
        assert_eq!(
            (snapshot.lines_per_second(), snapshot.tokens_per_second()),
            (0.0, 0.0)
        );
    }
}
