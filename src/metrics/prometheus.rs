//! A snapshot as Prometheus scrapes it (OpenMetrics 1.0 text). Pure.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::latency::{LATENCY_BOUNDS_SECONDS, Latency};
use super::snapshot::{Availability, Snapshot};

/// The `content-type` of what [`render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer to a scrape.
pub fn render(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("blaze");
    registry.register_collector(Box::new(Exposition(snapshot.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing into a string cannot fail");
    text
}

/// The crate's collectors must own what they expose.
#[derive(Debug)]
struct Exposition(Snapshot);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.lines(&mut encoder)?;
        self.endpoints(&mut encoder)?;
        self.traffic(&mut encoder)
    }
}

impl Exposition {
    fn lines(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        let mut lines = counter(encoder, "lines", "Input lines that have their record", None)?;
        count(
            &mut lines,
            &[("outcome", "succeeded")],
            snapshot.succeeded(),
        )?;
        count(&mut lines, &[("outcome", "failed")], snapshot.failed())?;
        let mut lines = gauge(encoder, "input_lines", "Lines of the input")?;
        lines.encode_gauge(&snapshot.gauges.lines)?;
        let mut kinds = counter(
            encoder,
            "failed_lines",
            "Input lines that ended in a failure record",
            None,
        )?;
        for (kind, number) in snapshot.counts.lines_failed.iter() {
            count(&mut kinds, &[("kind", kind.as_str())], number)?;
        }
        Ok(())
    }

    fn endpoints(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        let endpoints = || {
            snapshot
                .endpoints
                .iter()
                .map(|e| e.name.as_str())
                .zip(&snapshot.counts.endpoints)
        };
        let mut attempts = counter(encoder, "attempts", "Attempts sent", None)?;
        for (name, counts) in endpoints() {
            count(&mut attempts, &[("endpoint", name)], counts.attempts)?;
        }
        let mut failed = counter(encoder, "failed_attempts", "Attempts that failed", None)?;
        for (name, counts) in endpoints() {
            for (kind, number) in counts.failures.iter() {
                count(
                    &mut failed,
                    &[("endpoint", name), ("kind", kind.as_str())],
                    number,
                )?;
            }
        }
        let help = "Tokens billed by the endpoint; cached ones are prompt tokens too";
        let mut tokens = counter(encoder, "endpoint_tokens", help, None)?;
        for (name, counts) in endpoints() {
            let billed = counts.tokens;
            for (kind, number) in [
                ("prompt", billed.prompt),
                ("completion", billed.completion),
                ("cached", billed.cached),
            ] {
                count(&mut tokens, &[("endpoint", name), ("kind", kind)], number)?;
            }
        }
        let mut in_flight = gauge(encoder, "in_flight", "Attempts sent and not ended")?;
        for (name, counts) in endpoints() {
            measure(&mut in_flight, &[("endpoint", name)], counts.in_flight)?;
        }
        let mut up = gauge(encoder, "endpoint_up", "Whether the endpoint takes traffic")?;
        for endpoint in &snapshot.endpoints {
            let is_up = i64::from(endpoint.state == Availability::Healthy);
            measure(&mut up, &[("endpoint", &endpoint.name)], is_up)?;
        }
        Ok(())
    }

    /// What `auto` has found, by quota group.
    fn found(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        let groups = || snapshot.groups.iter();
        if groups().any(|group| group.rate.is_some()) {
            let help = "Requests per second that --rate auto has found";
            let mut rates = gauge(encoder, "rate_found", help)?;
            for group in groups() {
                if let Some(rate) = group.rate {
                    measure(&mut rates, &[("quota_group", &group.name)], rate)?;
                }
            }
        }
        if groups().any(|group| group.workers.is_some()) {
            let help = "Requests in flight that --workers auto has found";
            let mut workers = gauge(encoder, "workers_found", help)?;
            for group in groups() {
                if let Some(found) = group.workers {
                    let labels = [("quota_group", &group.name)];
                    measure(&mut workers, &labels, u64::from(found))?;
                }
            }
        }
        Ok(())
    }

    fn traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(snapshot) = self;
        histogram(
            encoder,
            "latency",
            "Successful attempts, to the last byte",
            &snapshot.latency,
        )?;
        histogram(
            encoder,
            "time_to_first_token",
            "Streamed successful attempts, to the first token",
            &snapshot.ttft,
        )?;
        let tokens = snapshot.tokens();
        let mut kinds = counter(
            encoder,
            "tokens",
            "Tokens billed; cached ones are prompt tokens too",
            None,
        )?;
        count(&mut kinds, &[("kind", "prompt")], tokens.prompt)?;
        count(&mut kinds, &[("kind", "completion")], tokens.completion)?;
        count(&mut kinds, &[("kind", "cached")], tokens.cached)?;
        self.found(encoder)?;
        let counts = &snapshot.counts;
        let mut cost = counter(
            encoder,
            "cost_usd",
            "US dollars by the configured prices",
            None,
        )?;
        single(&mut cost, counts.cost_usd)?;
        let mut retries = counter(encoder, "retries", "Lines put off to be sent again", None)?;
        single(&mut retries, counts.retries)?;
        let help = "Requests sent again because a reused connection was closed";
        single(
            &mut counter(encoder, "stale_resends", help, None)?,
            counts.stale_resends,
        )?;
        let help = "Bytes written to connections, before encryption";
        single(
            &mut counter(encoder, "sent", help, Some(&Unit::Bytes))?,
            counts.bytes_sent,
        )?;
        let help = "Bytes read from connections, after decryption";
        single(
            &mut counter(encoder, "received", help, Some(&Unit::Bytes))?,
            counts.bytes_received,
        )
    }
}

fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    unit: Option<&'e Unit>,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    latency: &Latency,
) -> fmt::Result {
    let mut metric =
        encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    let bounds = LATENCY_BOUNDS_SECONDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(latency.buckets).collect();
    metric.encode_histogram::<NoLabelSet>(latency.seconds_sum, latency.count, &buckets, None)
}

fn count(metric: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    single(&mut metric.encode_family(labels)?, value)
}

fn single(metric: &mut MetricEncoder<'_>, value: impl EncodeCounterValue) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn measure(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    metric.encode_family(labels)?.encode_gauge(&value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;
    use crate::metrics::{EndpointState, Gauges, GroupFound, ShardMetrics, Totals, tokens::Tokens};

    fn snapshot() -> Snapshot {
        let mut shard = ShardMetrics::new(2);
        let tokens = Tokens {
            prompt: 10,
            completion: 5,
            cached: 2,
        };
        shard.attempt(0);
        shard.success(0, Duration::from_millis(200), tokens, None);
        shard.attempt(0);
        shard.attempt(1);
        shard.failed_attempt(1, ErrorKind::Timeout, Tokens::default());
        shard.line_failed(ErrorKind::Timeout);
        shard.retry();
        shard.stale_resends(1);
        shard.transferred(300, 4000);
        shard.cost(0.5);
        let mut totals = Totals::new(2);
        totals.absorb(&shard.take_delta());
        let state = |name: &str, state| EndpointState {
            name: name.to_owned(),
            state,
            reason: None,
            cooldown: None,
        };
        let states = vec![
            state("primary", Availability::Healthy),
            state("a\"b\\c\nd", Availability::Cooling),
        ];
        let gauges = Gauges {
            lines: 9,
            succeeded_before: 4,
            failed_before: 0,
        };
        let found = |name: &str, rate, workers| GroupFound {
            name: name.to_owned(),
            rate,
            workers,
        };
        Snapshot {
            groups: vec![
                found("org", Some(12.5), Some(40)),
                found("b", Some(3.0), None),
            ],
            ..totals.snapshot(&gauges, Duration::from_secs(1), states)
        }
    }

    #[test]
    fn every_figure_has_its_sample() {
        let text = render(&snapshot());
        for sample in [
            "blaze_lines_total{outcome=\"succeeded\"} 5",
            "blaze_lines_total{outcome=\"failed\"} 1",
            "blaze_input_lines 9",
            "blaze_failed_lines_total{kind=\"timeout\"} 1",
            "blaze_attempts_total{endpoint=\"primary\"} 2",
            "blaze_attempts_total{endpoint=\"a\\\"b\\\\c\\nd\"} 1",
            "blaze_failed_attempts_total{endpoint=\"a\\\"b\\\\c\\nd\",kind=\"timeout\"} 1",
            "blaze_endpoint_tokens_total{endpoint=\"primary\",kind=\"prompt\"} 10",
            "blaze_endpoint_tokens_total{endpoint=\"primary\",kind=\"cached\"} 2",
            "blaze_in_flight{endpoint=\"primary\"} 1",
            "blaze_endpoint_up{endpoint=\"primary\"} 1",
            "blaze_endpoint_up{endpoint=\"a\\\"b\\\\c\\nd\"} 0",
            "blaze_latency_seconds_count 1",
            "blaze_latency_seconds_bucket{le=\"0.1\"} 0",
            "blaze_latency_seconds_bucket{le=\"0.25\"} 1",
            "blaze_latency_seconds_bucket{le=\"+Inf\"} 1",
            "blaze_time_to_first_token_seconds_count 0",
            "blaze_tokens_total{kind=\"prompt\"} 10",
            "blaze_tokens_total{kind=\"completion\"} 5",
            "blaze_tokens_total{kind=\"cached\"} 2",
            "blaze_rate_found{quota_group=\"org\"} 12.5",
            "blaze_rate_found{quota_group=\"b\"} 3.0",
            "blaze_workers_found{quota_group=\"org\"} 40",
            "blaze_cost_usd_total 0.5",
            "blaze_retries_total 1",
            "blaze_stale_resends_total 1",
            "blaze_sent_bytes_total 300",
            "blaze_received_bytes_total 4000",
        ] {
            assert!(
                text.lines().any(|line| line == sample),
                "{sample} is not in\n{text}"
            );
        }
        assert!(text.contains("# TYPE blaze_latency_seconds histogram\n"));
        assert!(text.ends_with("# EOF\n"));
    }
}
