//! Latency distributions of fixed size: 1 µs to one hour within 0.1 %. Pure.

use std::cell::RefCell;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

/// Longer latencies count as this long.
pub const LATENCY_MAX: Duration = Duration::from_secs(60 * 60);

/// Significant decimal digits kept of a latency.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Upper bounds of the buckets for Prometheus: an answer takes milliseconds from a cache and
/// minutes from a reasoning model.
pub const LATENCY_BOUNDS_SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// A recorder over microseconds: about 23,000 counters of type `T`, never more.
pub(super) fn recorder<T: Counter>() -> Histogram<T> {
    Histogram::new_with_bounds(1, as_us(LATENCY_MAX), SIGNIFICANT_DIGITS)
        .expect("the bounds and the precision are constants that hdrhistogram accepts")
}

/// Whole microseconds, at most [`LATENCY_MAX`].
pub(super) fn as_us(latency: Duration) -> u64 {
    latency.min(LATENCY_MAX).as_micros() as u64
}

/// A distribution, reduced to what is shown of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    /// How many were recorded.
    pub count: u64,
    /// All added up, in seconds.
    pub seconds_sum: f64,
    /// Mean in milliseconds; this and the following are 0 if nothing was recorded.
    pub ms_mean: f64,
    /// Median in milliseconds.
    pub ms_p50: f64,
    /// 90th percentile in milliseconds.
    pub ms_p90: f64,
    /// 99th percentile in milliseconds.
    pub ms_p99: f64,
    /// Maximum in milliseconds.
    pub ms_max: f64,
    /// How many fell up to each of [`LATENCY_BOUNDS_SECONDS`] and above the bound before it; the
    /// last: above all bounds.
    pub buckets: [u64; LATENCY_BOUNDS_SECONDS.len() + 1],
}

impl Latency {
    fn of(recorded: &Histogram<u64>) -> Self {
        let ms_at = |quantile| recorded.value_at_quantile(quantile) as f64 / 1e3;
        let mut buckets = [0; LATENCY_BOUNDS_SECONDS.len() + 1];
        for step in recorded.iter_recorded() {
            let seconds = recorded.lowest_equivalent(step.value_iterated_to()) as f64 / 1e6;
            let bucket = LATENCY_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
            buckets[bucket] += step.count_since_last_iteration();
        }
        Self {
            count: recorded.len(),
            seconds_sum: recorded.mean() * recorded.len() as f64 / 1e6,
            ms_mean: recorded.mean() / 1e3,
            ms_p50: ms_at(0.5),
            ms_p90: ms_at(0.9),
            ms_p99: ms_at(0.99),
            ms_max: recorded.max() as f64 / 1e3,
            buckets,
        }
    }
}

/// A distribution that grows, and what was last shown of it: to look at every counter ten times a
/// second is for nothing while nothing is recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) histogram: Histogram<u64>,
    shown: RefCell<Latency>,
}

impl Recorded {
    pub(super) fn new() -> Self {
        Self {
            histogram: recorder(),
            shown: RefCell::default(),
        }
    }

    /// `count` more of `us` microseconds.
    pub(super) fn add(&mut self, us: u64, count: u64) {
        self.histogram.saturating_record_n(us, count);
    }

    /// Everything that was added: µs and how often.
    pub(super) fn recorded(&self) -> Vec<(u64, u64)> {
        let recorded = self.histogram.iter_recorded();
        recorded
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect()
    }

    pub(super) fn latency(&self) -> Latency {
        let mut shown = self.shown.borrow_mut();
        if shown.count != self.histogram.len() {
            *shown = Latency::of(&self.histogram);
        }
        shown.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(recorded_ms: impl IntoIterator<Item = u64>) -> Latency {
        let mut histogram = recorder::<u64>();
        for ms in recorded_ms {
            histogram.saturating_record(as_us(Duration::from_millis(ms)));
        }
        Latency::of(&histogram)
    }

    #[track_caller]
    fn close(found: f64, expect: f64) {
        assert!(
            (found - expect).abs() <= expect * 0.001,
            "{found} is not {expect}"
        );
    }

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let uniform = latency(1..=1000);
        assert_eq!(uniform.count, 1000);
        close(uniform.ms_mean, 500.5);
        close(uniform.seconds_sum, 500.5);
        close(uniform.ms_p50, 500.0);
        close(uniform.ms_p90, 900.0);
        close(uniform.ms_p99, 990.0);
        close(uniform.ms_max, 1000.0);
    }

    #[test]
    fn what_is_shown_is_of_all_that_was_recorded() {
        let mut recorded = Recorded::new();
        assert_eq!(recorded.latency(), Latency::default());
        for ms in [3, 5, 4] {
            recorded.add(ms * 1000, 2);
            let expect = Latency::of(&recorded.histogram);
            assert_eq!(recorded.latency(), expect);
            assert_eq!(recorded.latency(), expect, "a second look");
        }
        assert_eq!(recorded.latency().count, 6);
    }

    #[test]
    fn buckets_hold_what_is_up_to_their_bound() {
        let mut expect = [0; LATENCY_BOUNDS_SECONDS.len() + 1];
        assert_eq!(latency([]), Latency::default());
        expect[0] = 2;
        expect[1] = 1;
        expect[16] = 1;
        assert_eq!(latency([1, 5, 6, 601_000]).buckets, expect);
    }

    #[test]
    fn a_latency_beyond_the_scale_counts_as_the_longest() {
        let day = latency([24 * 60 * 60 * 1000]);
        close(day.ms_max, 3_600_000.0);
        assert_eq!(day.count, 1);
        assert_eq!(as_us(Duration::MAX), 3_600_000_000);
    }
}
