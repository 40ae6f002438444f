//! A summary for people: what happened, why, and what would help. Figures fit into 80 columns; texts and paths stay
//! in one row, to be found and copied. Pure.

use std::fmt;

use super::{EndpointSummary, FailureSummary, FoundSummary, Quantiles, Status, Summary};
use crate::metrics::Availability;

/// Longest name shown in full of several: beside it, eight-digit counts fit into 80 columns.
const NAME_COLUMNS_MAX: usize = 20;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = match self.status {
            Status::Completed => "Completed",
            Status::CompletedWithFailures => "Completed, some lines failed",
            Status::Interrupted => "Interrupted, the same command resumes",
            Status::Stopped => {
                "Stopped before the end; once the cause is mended, the same command resumes"
            }
        };
        writeln!(f, "{title}")?;
        if let Some(reason) = &self.reason {
            row(f, "reason", printable(reason))?;
        }
        self.write_books(f)?;
        self.write_figures(f)?;
        for (index, (kind, count)) in self.failures_by_kind.iter().enumerate() {
            let name = if index == 0 { "failures" } else { "" };
            row(f, name, format_args!("{} {kind}", grouped(*count)))?;
        }
        if let Some(failure) = &self.top_failure {
            failure.write(f)?;
        }
        self.write_endpoints(f)?;
        for (index, found) in self.found.iter().enumerate() {
            let name = if index == 0 { "found" } else { "" };
            row(f, name, found)?;
        }
        if let Some(folder) = &self.run_folder {
            let records = grouped(self.total_processed);
            let folder = printable(folder);
            row(f, "records", format_args!("{records} so far, in {folder}"))?;
        }
        if let Some(output) = &self.output {
            row(f, "output", printable(output))?;
        }
        if let Some(errors) = &self.errors {
            row(f, "errors", printable(errors))?;
        }
        Ok(())
    }
}

impl Summary {
    fn write_books(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(
            f,
            "lines",
            format_args!(
                "{} = {} succeeded + {} failed + {} not finished",
                grouped(self.lines),
                grouped(self.success_count),
                grouped(self.failure_count),
                grouped(self.not_finished)
            ),
        )?;
        row(f, "success", format_args!("{:.3} %", self.success_rate))
    }

    fn write_figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(
            f,
            "time",
            format_args!(
                "{}, {:.1} lines/s, {} tokens/s",
                time(self.elapsed_seconds),
                self.throughput_rps,
                grouped(self.tokens_per_second.round() as u64)
            ),
        )?;
        row(
            f,
            "latency",
            format_args!("{}, mean {:.0} ms", self.latency_ms, self.avg_latency_ms),
        )?;
        if let Some(ttft_ms) = &self.ttft_ms {
            row(f, "ttft", ttft_ms)?;
        }
        row(
            f,
            "attempts",
            format_args!(
                "{}, {} retries, {} answered 429",
                grouped(self.attempts),
                grouped(self.retries),
                grouped(self.rate_limited)
            ),
        )?;
        row(
            f,
            "tokens",
            format_args!(
                "{} prompt ({} cached), {} completion",
                grouped(self.tokens.prompt),
                grouped(self.tokens.cached),
                grouped(self.tokens.completion)
            ),
        )?;
        if self.cost_usd > 0.0 {
            row(f, "cost", format_args!("${:.4}", self.cost_usd))?;
        }
        Ok(())
    }

    /// Those in trouble first.
    fn write_endpoints(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut endpoints: Vec<&EndpointSummary> = self.endpoints.iter().collect();
        let is_well =
            |endpoint: &&EndpointSummary| endpoint.state == Availability::Healthy.as_str();
        endpoints.sort_by_key(is_well);
        let names: Vec<String> = match &endpoints[..] {
            [lone] => vec![printable(&lone.name)],
            several => several.iter().map(|one| shortened(&one.name)).collect(),
        };
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or(0);
        for (index, (endpoint, name)) in endpoints.iter().zip(&names).enumerate() {
            let title = match (index, names.len()) {
                (0, 1) => "endpoint",
                (0, _) => "endpoints",
                _ => "",
            };
            let (succeeded, failed) = (grouped(endpoint.successes), grouped(endpoint.failures));
            let state = endpoint.state;
            row(
                f,
                title,
                format_args!("{name:width$}  {state:9}  {succeeded} ok, {failed} failed"),
            )?;
            if let Some(reason) = &endpoint.reason {
                row(f, "", format_args!("  {}", printable(reason)))?;
            }
        }
        Ok(())
    }
}

impl FailureSummary {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            error_kind: kind, ..
        } = self;
        let (count, unit) = match self.lines {
            0 => (self.attempts, "attempts"),
            lines => (lines, "lines"),
        };
        // Most texts begin with it.
        let status = (self.status_code)
            .map(|status| format!("HTTP {status}"))
            .filter(|status| !self.message.starts_with(status))
            .map_or_else(String::new, |status| format!(", {status}"));
        let most = format!(
            "{} {unit} with {kind}{status}: {}",
            grouped(count),
            self.message
        );
        row(f, "mostly", printable(&most))?;
        let id =
            (self.id.as_deref()).map_or_else(String::new, |id| format!(" ({})", printable(id)));
        row(
            f,
            "",
            format_args!("for example line {}{id}", self.line_number),
        )?;
        if let Some(url) = &self.url {
            row(f, "", format_args!("sent to {}", printable(url)))?;
        }
        row(f, "what helps", self.help)
    }
}

impl fmt::Display for FoundSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortened(&self.quota_group))?;
        if let Some(rate) = self.rate {
            write!(f, "  {rate:.1} requests/s")?;
        }
        if let Some(workers) = self.workers {
            write!(f, "  {} in flight", grouped(workers.into()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, max } = self;
        write!(
            f,
            "p50 {p50:.0}, p90 {p90:.0}, p99 {p99:.0}, max {max:.0} ms"
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:10} {value}")
}

/// Seconds, from two minutes on with hours and minutes.
fn time(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds as u64;
    match whole / 3600 {
        0 => format!("{}m{:02}s", whole / 60, whole % 60),
        hours => format!("{hours}h{:02}m{:02}s", whole / 60 % 60, whole % 60),
    }
}

/// With a comma every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Names of URLs are long; their ends differ.
fn shortened(name: &str) -> String {
    let name = printable(name);
    let surplus = name.chars().count().saturating_sub(NAME_COLUMNS_MAX);
    if surplus == 0 {
        return name;
    }
    let end: String = name.chars().skip(surplus + 1).collect();
    format!("…{end}")
}

/// Texts may quote a server: nothing in them may move the cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}
