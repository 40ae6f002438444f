//! What a run says of itself while it goes: the figures, their layout, and the plain lines for
//! anything that is not a terminal.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::coordinator::Observer;
use crate::metrics::{Availability, Snapshot};

/// The current rate is that of the last so many seconds.
const CURRENT_RATE_WINDOW: Duration = Duration::from_secs(2);
/// Not on a terminal: one line this often.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);
/// Endpoints shown by row; more are summed up.
const ENDPOINT_ROWS_MAX: usize = 8;
/// Columns of the bar.
const BAR_COLUMNS: usize = 20;
/// Columns of an endpoint's name.
const NAME_COLUMNS: usize = 24;

/// Remembers the recent past, for the current rate.
#[derive(Debug, Default)]
pub struct Pace {
    /// (elapsed, lines done), oldest first; one per tick of the window.
    points: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Lines per second over the last seconds, this snapshot included.
    pub fn current(&mut self, snapshot: &Snapshot) -> f64 {
        let now = (snapshot.elapsed, snapshot.done());
        self.points.push_back(now);
        while self.points.len() > 2 && now.0.saturating_sub(self.points[1].0) >= CURRENT_RATE_WINDOW
        {
            self.points.pop_front();
        }
        let (since, done) = self.points[0];
        let seconds = now.0.saturating_sub(since).as_secs_f64();
        if seconds == 0.0 {
            return snapshot.lines_per_second();
        }
        now.1.saturating_sub(done) as f64 / seconds
    }
}

/// The live block: three rows and one per endpoint, each within 80 columns.
pub fn block(snapshot: &Snapshot, current_rate: f64) -> Vec<String> {
    let lines = snapshot.gauges.lines;
    let done = snapshot.done();
    let latency = &snapshot.latency;
    let mut rows = vec![
        format!(
            "{} / {} lines  {:>5.1} %  [{}]  ETA {}",
            count(done),
            count(lines),
            percent(done, lines),
            bar(done, lines),
            eta(snapshot, current_rate),
        ),
        format!(
            "now {}/s  mean {}/s  ok {}  failed {}  in flight {}{}{}",
            count(current_rate as u64),
            count(snapshot.lines_per_second() as u64),
            count(snapshot.succeeded()),
            count(snapshot.failed()),
            count(snapshot.in_flight()),
            snapshot
                .workers_found()
                .map_or_else(String::new, |workers| format!(" of {}", count(workers))),
            snapshot
                .rate_found
                .map_or_else(String::new, |rate| format!("  auto {rate:.0}/s")),
        ),
        format!(
            "p50 {}  p99 {}  retries {}  429s {}  tokens {}/s",
            short(latency.ms_p50),
            short(latency.ms_p99),
            count(snapshot.counts.retries),
            count(snapshot.rate_limited()),
            count(snapshot.tokens_per_second() as u64),
        ),
    ];
    for (endpoint, counts) in snapshot
        .endpoints
        .iter()
        .zip(&snapshot.counts.endpoints)
        .take(ENDPOINT_ROWS_MAX)
    {
        let reason = match (&endpoint.reason, endpoint.state) {
            (Some(reason), state) if state != Availability::Healthy => format!("  {reason}"),
            _ => String::new(),
        };
        rows.push(format!(
            "  {:<NAME_COLUMNS$} {:<9} {} sent  {} ok{reason}",
            cut(&endpoint.name, NAME_COLUMNS),
            endpoint.state.as_str(),
            count(counts.attempts),
            count(counts.successes),
        ));
    }
    let hidden = snapshot.endpoints.len().saturating_sub(ENDPOINT_ROWS_MAX);
    if hidden > 0 {
        rows.push(format!("  and {hidden} more endpoints"));
    }
    rows
}

/// One line with the same figures.
pub fn plain_line(snapshot: &Snapshot, current_rate: f64) -> String {
    let lines = snapshot.gauges.lines;
    let done = snapshot.done();
    let mut line = format!(
        "{done}/{lines} lines ({:.1} %), {:.0}/s now, {:.0}/s mean, {} ok, {} failed, {} in flight, \
         p50 {}, p99 {}, {} retries, {} 429s, {:.0} tokens/s, ETA {}",
        percent(done, lines),
        current_rate,
        snapshot.lines_per_second(),
        snapshot.succeeded(),
        snapshot.failed(),
        snapshot.in_flight(),
        short(snapshot.latency.ms_p50),
        short(snapshot.latency.ms_p99),
        snapshot.counts.retries,
        snapshot.rate_limited(),
        snapshot.tokens_per_second(),
        eta(snapshot, current_rate),
    );
    if let Some(rate) = snapshot.rate_found {
        line.push_str(&format!(", auto rate {rate:.1}/s"));
    }
    if let Some(workers) = snapshot.workers_found() {
        line.push_str(&format!(", auto workers {workers}"));
    }
    for endpoint in &snapshot.endpoints {
        if endpoint.state != Availability::Healthy {
            line.push_str(&format!("; {} {}", endpoint.name, endpoint.state.as_str()));
        }
    }
    line
}

/// A log line every 10 s: for pipes, files and services.
#[derive(Debug, Default)]
pub struct PlainLines {
    pace: Pace,
    next: Option<Duration>,
}

impl Observer for PlainLines {
    fn tick(&mut self, snapshot: &Snapshot) {
        let current = self.pace.current(snapshot);
        let next = *self.next.get_or_insert(PLAIN_LINE_EVERY);
        if snapshot.elapsed >= next {
            self.next = Some(snapshot.elapsed + PLAIN_LINE_EVERY);
            let line = plain_line(snapshot, current);
            // A program that uses the library and listens to no logs has asked for these all the same.
            if tracing::dispatcher::has_been_set() {
                tracing::info!("{line}");
            } else {
                eprintln!("{line}");
            }
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 100.0,
        _ => part as f64 * 100.0 / whole as f64,
    }
}

fn bar(done: u64, lines: u64) -> String {
    let filled = (percent(done, lines) / 100.0 * BAR_COLUMNS as f64) as usize;
    let filled = filled.min(BAR_COLUMNS);
    format!("{}{}", "=".repeat(filled), " ".repeat(BAR_COLUMNS - filled))
}

/// By the current rate; a run that stands still has none.
fn eta(snapshot: &Snapshot, current_rate: f64) -> String {
    let left = snapshot.gauges.lines.saturating_sub(snapshot.done());
    if left == 0 {
        return "0s".to_owned();
    }
    if current_rate <= 0.0 {
        return "-".to_owned();
    }
    let seconds = (left as f64 / current_rate).ceil() as u64;
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

/// A latency in three digits; 0 if nothing was measured yet.
fn short(ms: f64) -> String {
    match ms {
        0.0 => "-".to_owned(),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// A number with commas between thousands.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// At most `columns` characters.
fn cut(name: &str, columns: usize) -> String {
    if name.chars().count() <= columns {
        return name.to_owned();
    }
    let mut cut: String = name.chars().take(columns - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_commas() {
        for (number, expect) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), expect);
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(cut("short", 8), "short");
        assert_eq!(cut("exactly8", 8), "exactly8");
        assert_eq!(cut("ünïcödé-long", 8), "ünïcödé…");
    }
}
