//! What all shards counted together. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::counts::{Counts, EndpointCounts, KindCounts};
use super::failures::Failures;
use super::figures::Figures;
use super::latency::Recorded;
use super::shard::Delta;
use super::snapshot::{EndpointState, Gauges, Snapshot};
use super::tokens::Tokens;

/// The sums of a run, kept by the main thread.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Of this process, and so are the other two.
    counts: Counts,
    latency: Recorded,
    ttft: Recorded,
    /// Of the whole run.
    failures: Failures,
    /// What this process has added to them.
    failures_now: Failures,
    before: Before,
}

/// What earlier processes of the run counted.
#[derive(Clone, Debug, Default)]
pub struct Before {
    counts: Counts,
    /// Of endpoints that are not configured any more, or unknown ones.
    unlisted: EndpointCounts,
    elapsed: Duration,
    latency: Vec<(u64, u64)>,
    ttft: Vec<(u64, u64)>,
    failures: Failures,
    /// Lines that they finished.
    lines: u64,
}

impl Before {
    /// From the figures of each, in their order; `names` are those of the endpoints.
    /// `sends_failures_again`: this process begins by taking all failures for unfinished lines.
    pub fn new(figures: &[Figures], names: &[&str], sends_failures_again: bool) -> Self {
        let mut before = Self::nothing(names.len());
        for figures in figures {
            if figures.sends_failures_again {
                before.forget_failed_lines();
            }
            let (counts, unlisted) = figures.counts(names.iter().copied());
            before.lines += counts.lines_failed.total() + unlisted.successes;
            before.lines += (counts.endpoints.iter())
                .map(|endpoint| endpoint.successes)
                .sum::<u64>();
            before.counts += &counts;
            before.unlisted += &unlisted;
            before.elapsed += figures.elapsed();
            before.latency.extend(&figures.latency);
            before.ttft.extend(&figures.ttft);
            before.failures.absorb(&figures.failures);
        }
        if sends_failures_again {
            before.forget_failed_lines();
        }
        before
    }

    /// No process was there before this one.
    pub fn nothing(endpoints: usize) -> Self {
        Self {
            counts: Counts::new(endpoints),
            ..Self::default()
        }
    }

    fn forget_failed_lines(&mut self) {
        self.counts.lines_failed = KindCounts::default();
        self.failures.forget_lines();
    }

    /// What the journals say: it is exact, and where it says more it is right.
    #[must_use]
    pub fn journalled(mut self, attempts: u64, tokens: Tokens, cost_usd: f64) -> Self {
        let listed = self.counts.endpoints.iter();
        let counted: u64 = listed.clone().map(|endpoint| endpoint.attempts).sum();
        let billed = listed.fold(Tokens::default(), |sum, endpoint| sum + endpoint.tokens);
        let more = attempts.saturating_sub(counted);
        self.unlisted.attempts = self.unlisted.attempts.max(more);
        self.unlisted.tokens = Tokens {
            prompt: tokens.prompt.saturating_sub(billed.prompt),
            completion: tokens.completion.saturating_sub(billed.completion),
            cached: tokens.cached.saturating_sub(billed.cached),
        };
        self.counts.cost_usd = cost_usd;
        self
    }

    /// US dollars they spent.
    pub fn cost_usd(&self) -> f64 {
        self.counts.cost_usd
    }
}

impl Totals {
    /// All zero.
    pub fn new(endpoints: usize) -> Self {
        Self::after(Before::nothing(endpoints))
    }

    /// Of a run that others began.
    pub fn after(before: Before) -> Self {
        let (mut latency, mut ttft) = (Recorded::new(), Recorded::new());
        for &(us, count) in &before.latency {
            latency.add(us, count);
        }
        for &(us, count) in &before.ttft {
            ttft.add(us, count);
        }
        Self {
            counts: Counts::new(before.counts.endpoints.len()),
            latency,
            ttft,
            failures: before.failures.clone(),
            failures_now: Failures::default(),
            before,
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
            failures,
        } = delta;
        self.counts += counts;
        for &(us, count) in latency {
            self.latency.add(us, u64::from(count));
        }
        for &(us, count) in ttft {
            self.ttft.add(us, u64::from(count));
        }
        self.failures.absorb(failures);
        self.failures_now.absorb(failures);
    }

    /// Requests that are in flight to that endpoint, as far as the shards have said.
    pub fn in_flight(&self, endpoint: usize) -> u64 {
        u64::try_from(self.counts.endpoints[endpoint].in_flight).unwrap_or(0)
    }

    /// US dollars that this process has spent so far.
    pub fn cost_usd(&self) -> f64 {
        self.counts.cost_usd
    }

    /// What this process has counted in `elapsed`, for those that resume; `names` are those of the
    /// endpoints.
    pub fn figures<'a>(&self, names: impl Iterator<Item = &'a str>, elapsed: Duration) -> Figures {
        Figures {
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            latency: without(self.latency.recorded(), &self.before.latency),
            ttft: without(self.ttft.recorded(), &self.before.ttft),
            failures: self.failures_now.clone(),
            ..Figures::of(&self.counts, names)
        }
    }

    /// The run as it stands, `elapsed` after this process began to send; `endpoints` in the order of the
    /// configuration.
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
        let now = |counts: &Counts| -> (u64, u64) {
            let successes = counts.endpoints.iter().map(|endpoint| endpoint.successes);
            (successes.sum(), counts.lines_failed.total())
        };
        let mut counts = self.counts.clone();
        counts += &self.before.counts;
        Snapshot {
            elapsed: self.before.elapsed + elapsed,
            gauges: *gauges,
            lines_now: now(&self.counts),
            lines_before: self.before.lines,
            counts,
            unlisted: self.before.unlisted,
            latency: self.latency.latency(),
            ttft: self.ttft.latency(),
            endpoints,
            failure: self.failures.most_frequent().cloned(),
            stopping: None,
            rate_found: None,
            groups: Vec::new(),
        }
    }
}

/// What was recorded since: the distribution without what it began with.
fn without(recorded: Vec<(u64, u64)>, before: &[(u64, u64)]) -> Vec<(u64, u64)> {
    if before.is_empty() {
        return recorded;
    }
    let mut began = Recorded::new();
    for &(us, count) in before {
        began.add(us, count);
    }
    let began: BTreeMap<u64, u64> = began.recorded().into_iter().collect();
    recorded
        .into_iter()
        .map(|(us, count)| (us, count - began.get(&us).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect()
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
            cooldown: None,
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

    #[test]
    fn what_earlier_processes_counted_is_kept_and_added() {
        let fail = |shard: &mut ShardMetrics, lines: u64| {
            for line_number in 1..=lines {
                shard.line_failed(ErrorKind::Timeout);
                let failed = crate::metrics::Failed {
                    kind: ErrorKind::Timeout,
                    status: None,
                    message: "late",
                };
                shard
                    .failures()
                    .line(failed, || crate::metrics::FailureExample {
                        line_number,
                        ..Default::default()
                    });
            }
        };
        let process = |before: Before, ms: &[u64], failed: u64| {
            let mut totals = Totals::after(before);
            let mut shard = ShardMetrics::new(2);
            for latency in ms {
                shard.attempt(1);
                shard.success(1, Duration::from_millis(*latency), tokens(2, 3, 1), None);
                shard.retry();
                shard.cost(0.5);
            }
            fail(&mut shard, failed);
            totals.absorb(&shard.take_delta());
            totals
        };
        let names = || ["a", "b"].into_iter();
        let kept = |totals: &Totals, seconds| {
            let figures = totals.figures(names(), Duration::from_secs(seconds));
            let text = serde_json::to_string(&figures).expect("numbers and names");
            serde_json::from_str::<Figures>(&text).expect("as it was written")
        };
        let first = kept(&process(Before::nothing(2), &[10, 20], 3), 2);
        let before = Before::new(std::slice::from_ref(&first), &["a", "b"], false);
        let second = process(before, &[10], 1);
        // What the second one keeps is its own.
        let second_kept = kept(&second, 1);
        assert_eq!(
            second_kept
                .latency
                .iter()
                .map(|(_, count)| count)
                .sum::<u64>(),
            1
        );
        let seen = |before: Before| {
            let states = vec![state("b"), state("c")];
            let totals = process(before, &[30], 0);
            let snapshot = totals.snapshot(&Gauges::default(), Duration::from_secs(1), states);
            (
                snapshot.attempts(),
                snapshot.counts.retries,
                snapshot.latency.count,
                snapshot.elapsed.as_secs(),
                snapshot.tokens(),
                snapshot.counts.cost_usd,
                snapshot.lines_per_second(),
                snapshot.failure.map(|failure| failure.lines),
            )
        };
        // Endpoint `a` is gone, `c` is new; all of it counts.
        let both = [first, second_kept];
        let before = |again| Before::new(&both, &["b", "c"], again);
        let expect = (4, 4, 4, 4, tokens(8, 12, 4), 2.0, 2.0, Some(4));
        assert_eq!(seen(before(false)), expect);
        // Failures that are sent again are none any more.
        assert_eq!(seen(before(true)).7, Some(0));
        // The journals know of more: the second process was killed before it kept its last figures.
        let exact = before(false).journalled(9, tokens(100, 10, 10), 7.0);
        let (attempts, .., tokens_seen, cost, _, _) = seen(exact);
        assert_eq!((attempts, cost), (10, 7.5));
        assert_eq!(tokens_seen, tokens(102, 13, 11));
    }
}
