//! The end of a run: the last line of `--json-logs`, and the same figures for people. Pure.

mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use super::counts::KindCounts;
use super::failures::FailureTally;
use super::latency::Latency;
use super::snapshot::{GroupFound, Snapshot};
use super::tokens::Tokens;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every line succeeded.
    Completed,
    /// Every line has its record, some of them failures.
    CompletedWithFailures,
    /// Stopped by the user; can be resumed.
    Interrupted,
    /// Stopped by a full disk, unusable endpoints or spent money; can be resumed.
    Stopped,
}

/// Where every line of the input went, counted from the records rather than the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Lines of the input, blank ones left out.
    pub lines: u64,
    /// Success records.
    pub succeeded: u64,
    /// Failure records.
    pub failed: u64,
    /// Lines without a record.
    pub not_finished: u64,
}

impl Books {
    /// Whether every line is in exactly one column.
    pub fn balance(&self) -> bool {
        self.succeeded
            .checked_add(self.failed)
            .and_then(|sum| sum.checked_add(self.not_finished))
            == Some(self.lines)
    }
}

/// What the counters cannot tell about the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub status: Status,
    /// Why it stopped, if it did.
    pub reason: Option<String>,
    /// Where the lines went.
    pub books: Books,
    /// The output file, if successes are kept.
    pub output: Option<String>,
    /// The error file, if anything failed.
    pub errors: Option<String>,
    /// Where the records are if the run is not complete.
    pub folder: Option<String>,
    /// The most frequent failure, and what would help.
    pub failure: Option<(FailureTally, &'static str)>,
}

/// The figures of a run over all its processes; its JSON form is the last line of `--json-logs`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How it ended.
    pub status: Status,
    /// Why it stopped, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Lines of the input.
    pub lines: u64,
    /// Lines that have a record.
    pub total_processed: u64,
    /// Lines with a success record.
    pub success_count: u64,
    /// Lines with a failure record.
    pub failure_count: u64,
    /// Lines without a record.
    pub not_finished: u64,
    /// Successes among the lines with a record, in percent to three decimals; 0 if there are none,
    /// 100 only if nothing failed.
    pub success_rate: f64,
    /// Seconds this process took.
    pub elapsed_seconds: f64,
    /// Mean latency of the successful attempts.
    pub avg_latency_ms: f64,
    /// Lines this process finished, per second.
    pub throughput_rps: f64,
    /// Quantiles of the latency of the successful attempts.
    pub latency_ms: Quantiles,
    /// Quantiles of the time to the first token, if any answer was streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<Quantiles>,
    /// Attempts sent.
    pub attempts: u64,
    /// Lines put off to be sent again.
    pub retries: u64,
    /// Attempts answered with a 429 that a wait can cure.
    pub rate_limited: u64,
    /// Requests sent again because a reused connection was closed.
    pub stale_resends: u64,
    /// Tokens billed, failed attempts included.
    pub tokens: TokenCounts,
    /// Tokens billed per second.
    pub tokens_per_second: f64,
    /// US dollars by the configured prices.
    pub cost_usd: f64,
    /// Bytes written to connections, before encryption.
    pub bytes_sent: u64,
    /// Bytes read from connections, after decryption.
    pub bytes_received: u64,
    /// Failure records written by this process, by kind.
    pub failures_by_kind: BTreeMap<&'static str, u64>,
    /// In the order of the configuration.
    pub endpoints: Vec<EndpointSummary>,
    /// What `--rate auto` and `--workers auto` found, by quota group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<FoundSummary>,
    /// The output file, if successes are kept.
    pub output: Option<String>,
    /// The error file, if anything failed.
    pub errors: Option<String>,
    /// The run folder, which holds the records, if the run is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_folder: Option<String>,
    /// The most frequent failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_failure: Option<FailureSummary>,
}

/// Failures alike, with an example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureSummary {
    /// As in records.
    pub error_kind: String,
    /// HTTP status, if there was an answer.
    pub status_code: Option<u16>,
    /// Lines that ended like this.
    pub lines: u64,
    /// Attempts that failed like this, those that were made again included.
    pub attempts: u64,
    /// The text of the example.
    pub message: String,
    /// Where its request went; `None` if none was sent.
    pub url: Option<String>,
    /// The endpoint's name.
    pub endpoint: Option<String>,
    /// Physical line number of the example, from 1.
    pub line_number: u64,
    /// The line's own `custom_id` or `id`.
    pub id: Option<String>,
    /// What would help.
    pub help: &'static str,
}

/// Quantiles of a latency, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum.
    pub max: f64,
}

/// Tokens in the summary's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenCounts {
    /// Prompt tokens, cached ones included.
    pub prompt: u64,
    /// Completion tokens.
    pub completion: u64,
    /// Prompt tokens read from the provider's cache.
    pub cached: u64,
}

/// What was found for one quota group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundSummary {
    /// Its name; without a `quota_group` its endpoint's.
    pub quota_group: String,
    /// `--rate auto`: requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// `--workers auto`: requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
}

/// One endpoint in the summary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointSummary {
    /// Its name.
    pub name: String,
    /// `healthy`, `cooling`, `half_open` or `disabled`.
    pub state: &'static str,
    /// Why it is not healthy, or what failed there last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Attempts sent there.
    pub attempts: u64,
    /// Attempts that succeeded.
    pub successes: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// The same by kind.
    pub failures_by_kind: BTreeMap<&'static str, u64>,
    /// Attempts whose end this run did not wait for.
    pub in_flight: u64,
    /// Mean latency of its successes.
    pub avg_latency_ms: f64,
    /// Tokens it billed.
    pub tokens: TokenCounts,
}

impl Summary {
    /// Draws the line under a run.
    pub fn new(snapshot: &Snapshot, end: End) -> Self {
        let End {
            status,
            reason,
            books,
            output,
            errors,
            folder,
            failure,
        } = end;
        let processed = books.succeeded + books.failed;
        let counted = snapshot.endpoints.iter().zip(&snapshot.counts.endpoints);
        let endpoints = counted.map(|(state, counts)| EndpointSummary {
            name: state.name.clone(),
            state: state.state.as_str(),
            reason: state.reason.clone(),
            attempts: counts.attempts,
            successes: counts.successes,
            failures: counts.failures.total(),
            failures_by_kind: by_kind(&counts.failures),
            in_flight: u64::try_from(counts.in_flight).unwrap_or(0),
            avg_latency_ms: rounded(counts.latency_ms_mean()),
            tokens: counts.tokens.into(),
        });
        Self {
            status,
            reason,
            lines: books.lines,
            total_processed: processed,
            success_count: books.succeeded,
            failure_count: books.failed,
            not_finished: books.not_finished,
            success_rate: percent(books.succeeded, processed),
            elapsed_seconds: rounded(snapshot.elapsed.as_secs_f64()),
            avg_latency_ms: rounded(snapshot.latency.ms_mean),
            throughput_rps: rounded(snapshot.lines_per_second()),
            latency_ms: Quantiles::of(&snapshot.latency),
            ttft_ms: (snapshot.ttft.count > 0).then(|| Quantiles::of(&snapshot.ttft)),
            attempts: snapshot.attempts(),
            retries: snapshot.counts.retries,
            rate_limited: snapshot.rate_limited(),
            stale_resends: snapshot.counts.stale_resends,
            tokens: snapshot.tokens().into(),
            tokens_per_second: rounded(snapshot.tokens_per_second()),
            cost_usd: snapshot.counts.cost_usd,
            bytes_sent: snapshot.counts.bytes_sent,
            bytes_received: snapshot.counts.bytes_received,
            failures_by_kind: by_kind(&snapshot.counts.lines_failed),
            endpoints: endpoints.collect(),
            found: snapshot.groups.iter().map(FoundSummary::from).collect(),
            output,
            errors,
            run_folder: folder,
            top_failure: failure.map(FailureSummary::from),
        }
    }
}

impl From<(FailureTally, &'static str)> for FailureSummary {
    fn from((failure, help): (FailureTally, &'static str)) -> Self {
        let example = failure.example;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            error_kind: failure.kind,
            status_code: failure.status,
            lines: failure.lines,
            attempts: failure.attempts,
            message: example.message,
            url: some(example.url),
            endpoint: some(example.endpoint),
            line_number: example.line_number,
            id: example.id,
            help,
        }
    }
}

impl Quantiles {
    fn of(latency: &Latency) -> Self {
        Self {
            p50: rounded(latency.ms_p50),
            p90: rounded(latency.ms_p90),
            p99: rounded(latency.ms_p99),
            max: rounded(latency.ms_max),
        }
    }
}

impl From<Tokens> for TokenCounts {
    fn from(tokens: Tokens) -> Self {
        let Tokens {
            prompt,
            completion,
            cached,
        } = tokens;
        Self {
            prompt,
            completion,
            cached,
        }
    }
}

impl From<&GroupFound> for FoundSummary {
    fn from(found: &GroupFound) -> Self {
        Self {
            quota_group: found.name.clone(),
            rate: found.rate.map(rounded),
            workers: found.workers,
        }
    }
}

fn by_kind(counts: &KindCounts) -> BTreeMap<&'static str, u64> {
    counts
        .iter()
        .map(|(kind, count)| (kind.as_str(), count))
        .collect()
}

/// Rounded down, so that one failure in a million is not hidden.
fn percent(part: u64, whole: u64) -> f64 {
    let thousandths = u128::from(part) * 100_000 / u128::from(whole.max(1));
    thousandths as f64 / 1000.0
}

/// To three decimals: microseconds of a millisecond, and no tails of binary fractions in the JSON.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
