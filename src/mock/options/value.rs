//! The values of the flags and how they are written. Pure.

use std::str::FromStr;
use std::time::Duration;

use super::super::random::Dice;

/// Longer waits are typing errors, and cut a lognormal's tail.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The standard normal's 99th percentile.
const NORMAL_P99: f64 = 2.326_347_874;

/// How an injected failure without a status answers.
const DEFAULT_FAILURE: u16 = 500;

/// A distribution of waits, each at most one hour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// Always the same: `20ms`.
    Constant(Duration),
    /// Anything between two bounds, both included: `uniform:10ms..50ms`.
    Uniform {
        /// The shortest.
        from: Duration,
        /// The longest.
        to: Duration,
    },
    /// The long-tailed shape of real endpoints: `lognormal:median=300ms,p99=2s`.
    Lognormal {
        /// Half are shorter.
        median: Duration,
        /// One in a hundred is longer; at least the median.
        p99: Duration,
    },
}

impl Default for Latency {
    fn default() -> Self {
        Self::Constant(Duration::ZERO)
    }
}

impl Latency {
    pub(in super::super) fn varies(self) -> bool {
        !matches!(self, Self::Constant(_))
    }

    pub(in super::super) fn sample(self, dice: &mut Dice) -> Duration {
        let wait = match self {
            Self::Constant(wait) => wait,
            Self::Uniform { from, to } => from + to.saturating_sub(from).mul_f64(dice.unit()),
            Self::Lognormal { median, p99 } => {
                let sigma = (p99.as_secs_f64() / median.as_secs_f64()).ln() / NORMAL_P99;
                let seconds = median.as_secs_f64() * (sigma * dice.normal()).exp();
                Duration::from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64()))
            }
        };
        wait.min(WAIT_MAX)
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(range) = text.strip_prefix("uniform:") {
            let (from, to) = parse_range(range)?;
            return Ok(Self::Uniform { from, to });
        }
        let Some(parameters) = text.strip_prefix("lognormal:") else {
            return parse_duration(text).map(Self::Constant);
        };
        let written = || format!("{text:?} is not lognormal:median=DURATION,p99=DURATION");
        let (median, p99) = parameters.split_once(',').ok_or_else(written)?;
        let median = parse_duration(median.trim().strip_prefix("median=").ok_or_else(written)?)?;
        let p99 = parse_duration(p99.trim().strip_prefix("p99=").ok_or_else(written)?)?;
        if median.is_zero() || p99 < median {
            return Err(format!(
                "{text:?}: the median must be above 0 and not above the p99"
            ));
        }
        Ok(Self::Lognormal { median, p99 })
    }
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Probability(f64);

impl Probability {
    /// Never.
    pub const ZERO: Self = Self(0.0);

    /// `None` unless `value` is between 0 and 1.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Probability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = text.parse().ok().and_then(Self::new);
        value.ok_or_else(|| format!("{text:?} is not a number between 0 and 1"))
    }
}

/// One entry of `--error-rate`: `429=0.05`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatusRate {
    /// 300 to 599.
    pub status: u16,
    /// Its share of all requests.
    pub probability: Probability,
}

impl FromStr for StatusRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (status, rate) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not STATUS=PROBABILITY"))?;
        Ok(Self {
            status: parse_status(status)?,
            probability: rate.parse()?,
        })
    }
}

/// `--fail-first 3=503,429`: the first `count` requests fail, with these statuses in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct FailFirst {
    /// How many.
    pub count: u64,
    /// Used in turn; 500 when empty.
    pub statuses: Vec<u16>,
}

impl FailFirst {
    /// The status for request number `ordinal`, from 0, if it is to fail.
    pub(in super::super) fn status(&self, ordinal: u64) -> Option<u16> {
        let turn = self.statuses.len().max(1) as u64;
        (ordinal < self.count).then(|| {
            self.statuses
                .get((ordinal % turn) as usize)
                .copied()
                .unwrap_or(DEFAULT_FAILURE)
        })
    }
}

impl FromStr for FailFirst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, statuses) = text.split_once('=').unwrap_or((text, ""));
        let count = count
            .parse()
            .map_err(|_| format!("{text:?} is not N or N=STATUS,STATUS"))?;
        let statuses = statuses
            .split(',')
            .filter(|status| !status.is_empty())
            .map(parse_status);
        Ok(Self {
            count,
            statuses: statuses.collect::<Result<_, _>>()?,
        })
    }
}

/// `--fail-first-attempts 2=503`: the first `attempts` attempts of every body fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailAttempts {
    /// How many.
    pub attempts: u32,
    /// How they are answered.
    pub status: u16,
}

impl FromStr for FailAttempts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (attempts, status) = text
            .split_once('=')
            .map_or((text, None), |(k, status)| (k, Some(status)));
        let attempts = attempts
            .parse()
            .map_err(|_| format!("{text:?} is not K or K=STATUS"))?;
        Ok(Self {
            attempts,
            status: status.map_or(Ok(DEFAULT_FAILURE), parse_status)?,
        })
    }
}

/// `--rate-limit-at 10s=500`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateChange {
    /// Since the start.
    pub at: Duration,
    /// Requests per second from then on; 0: no limit.
    pub limit: f64,
}

impl FromStr for RateChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = || format!("{text:?} is not TIME=REQUESTS_PER_SECOND");
        let (at, limit) = text.split_once('=').ok_or_else(written)?;
        let limit: f64 = limit.parse().map_err(|_| written())?;
        if !limit.is_finite() || limit < 0.0 {
            return Err(written());
        }
        Ok(Self {
            at: parse_duration(at)?,
            limit,
        })
    }
}

/// `--outage 2s..5s` or `--outage 2s..5s=refuse`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// Since the start.
    pub from: Duration,
    /// Since the start, excluded.
    pub to: Duration,
    /// Refuse new connections and reset old ones, instead of answering 503.
    pub refuse: bool,
}

impl Outage {
    pub(in super::super) fn covers(&self, now: Duration) -> bool {
        (self.from..self.to).contains(&now)
    }
}

impl FromStr for Outage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (range, refuse) = match text.split_once('=') {
            None => (text, false),
            Some((range, "503")) => (range, false),
            Some((range, "refuse")) => (range, true),
            Some((_, how)) => return Err(format!("{how:?} is neither 503 nor refuse")),
        };
        let (from, to) = parse_range(range)?;
        Ok(Self { from, to, refuse })
    }
}

/// How a wait is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WaitHint {
    /// `retry-after`, whole seconds, rounded up.
    Seconds,
    /// `retry-after-ms`, rounded up.
    Milliseconds,
    /// Neither header, nor a wait in the text.
    None,
}

/// Reads `250us`, `20ms`, `1.5s`, `2m`, `1h` or a number of seconds; at most one hour.
///
/// # Errors
/// A sentence for the user.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_with_unit(text, 1.0)
}

/// Like [`parse_duration`], but a number alone is milliseconds.
pub(super) fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    parse_with_unit(text, 1e-3)
}

fn parse_with_unit(text: &str, unit_seconds_default: f64) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 20ms, 1.5s or 2m (at most 1h)");
    let text = text.trim();
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_seconds = match &text[number.len()..] {
        "" => unit_seconds_default,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds: f64 = number.parse::<f64>().map_err(|_| wrong())? * unit_seconds;
    // NaN fails the comparison too.
    if !(0.0..=WAIT_MAX.as_secs_f64()).contains(&seconds) {
        return Err(wrong());
    }
    // Rounded to what the units can express: 0.02 s is 20 ms, not 19.999999.
    Ok(Duration::from_nanos((seconds * 1e9).round() as u64))
}

fn parse_range(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| format!("{text:?} is not START..END"))?;
    let (from, to) = (parse_duration(from)?, parse_duration(to)?);
    if to < from {
        return Err(format!("{text:?} ends before it starts"));
    }
    Ok((from, to))
}

fn parse_status(text: &str) -> Result<u16, String> {
    let status = text
        .parse()
        .ok()
        .filter(|status| (300..=599).contains(status));
    status.ok_or_else(|| format!("{text:?} is not an error status (300 to 599)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("250us", Some(Duration::from_micros(250))),
            ("20ms", Some(Duration::from_millis(20))),
            ("100ms", Some(Duration::from_millis(100))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("2m", Some(Duration::from_secs(120))),
            ("0.02", Some(Duration::from_millis(20))),
            ("1h", Some(Duration::from_secs(3600))),
            ("61m", None),
            ("-1s", None),
            ("nan", None),
            ("ms", None),
            ("3 parsecs", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expect, "{text}");
        }
        assert_eq!(parse_milliseconds("5"), Ok(Duration::from_millis(5)));
    }

    #[test]
    fn a_lognormal_has_its_median_and_its_tail() {
        let latency: Latency = "lognormal:median=300ms,p99=2s".parse().unwrap();
        let mut dice = Dice::new(1, 1);
        let mut samples: Vec<_> = (0..20_000).map(|_| latency.sample(&mut dice)).collect();
        samples.sort();
        let near = |value: Duration, expect_ms: f64| {
            (value.as_secs_f64() * 1e3 / expect_ms - 1.0).abs() < 0.1
        };
        assert!(near(samples[10_000], 300.0), "{:?}", samples[10_000]);
        assert!(near(samples[19_800], 2000.0), "{:?}", samples[19_800]);
    }

    #[test]
    fn a_uniform_stays_within_its_bounds() {
        let latency: Latency = "uniform:10ms..50ms".parse().unwrap();
        let mut dice = Dice::new(1, 1);
        for _ in 0..1000 {
            let wait = latency.sample(&mut dice);
            assert!((10..=50).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn the_first_requests_fail_with_their_statuses_in_turn() {
        let first: FailFirst = "3=503,429".parse().unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|n| first.status(n)),
            [Some(503), Some(429), Some(503), None]
        );
        assert_eq!("1".parse::<FailFirst>().unwrap().status(0), Some(500));
    }
}
