//! What a run says of itself while it goes: the figures, their layout on a terminal, and the plain lines for
//! anything else.

mod plain;

pub use plain::{PlainLines, PlainTimes, plain_line, stopping};

use std::collections::VecDeque;
use std::time::Duration;

use crate::metrics::{Availability, EndpointCounts, EndpointState, Snapshot};

/// The current rate is that of the last so many seconds.
const CURRENT_RATE_WINDOW: Duration = Duration::from_secs(2);
/// Endpoints shown by row; more are summed up.
const ENDPOINT_ROWS_MAX: usize = 8;
/// Columns of the bar.
const BAR_COLUMNS: usize = 20;
/// Columns of an endpoint's name, of several.
const NAME_COLUMNS: usize = 24;
/// Below this many columns of the block, names have half of that.
const NARROW_COLUMNS: usize = 60;

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

/// The live block: rows of at most `columns` columns, but for an endpoint's, which are cut; at most `rows_max` of them.
pub fn block(
    snapshot: &Snapshot,
    current_rate: f64,
    columns: usize,
    rows_max: usize,
) -> Vec<String> {
    let lines = snapshot.gauges.lines;
    let done = snapshot.done();
    let latency = &snapshot.latency;
    let mut rows = Vec::new();
    flow(
        &mut rows,
        columns,
        [
            format!("{} / {} lines", count(done), count(lines)),
            format!("{:.1} %", percent(done, lines)),
            bar(done, lines),
            format!("ETA {}", eta(snapshot, current_rate)),
            format!("elapsed {}", span(snapshot.elapsed.as_secs())),
        ],
    );
    let of = snapshot.workers_found();
    let of = of.map_or_else(String::new, |workers| format!(" of {}", count(workers)));
    let auto = snapshot.rate_found;
    flow(
        &mut rows,
        columns,
        [
            format!("now {}/s", count(current_rate as u64)),
            format!("mean {}/s", count(snapshot.lines_per_second() as u64)),
            format!("ok {}", count(snapshot.succeeded())),
            format!("failed {}", count(snapshot.failed())),
            format!("in flight {}{of}", count(snapshot.in_flight())),
            auto.map_or_else(String::new, |rate| format!("auto {rate:.0}/s")),
        ],
    );
    let cost = snapshot.counts.cost_usd;
    flow(
        &mut rows,
        columns,
        [
            format!("p50 {}", short(latency.ms_p50)),
            format!("p99 {}", short(latency.ms_p99)),
            format!("retries {}", count(snapshot.counts.retries)),
            format!("429s {}", count(snapshot.rate_limited())),
            format!("tokens {}/s", count(snapshot.tokens_per_second() as u64)),
            if cost > 0.0 {
                format!("cost ${cost:.4}")
            } else {
                String::new()
            },
        ],
    );
    let mut last = Vec::new();
    if let Some(text) = stopping(snapshot) {
        let words = text.split(' ').map(str::to_owned);
        flow_with(&mut last, columns, " ", words);
    }
    let room = rows_max.saturating_sub(rows.len() + last.len());
    endpoint_rows(snapshot, columns, room.min(ENDPOINT_ROWS_MAX), &mut rows);
    rows.extend(last);
    // Of a terminal with a few rows, what a user must know now.
    let surplus = rows.len().saturating_sub(rows_max);
    rows.drain(..surplus);
    rows
}

/// Endpoints in trouble first, each with its reason.
fn endpoint_rows(snapshot: &Snapshot, columns: usize, rows_max: usize, rows: &mut Vec<String>) {
    let mut endpoints: Vec<(&EndpointState, &EndpointCounts)> =
        (snapshot.endpoints.iter().zip(&snapshot.counts.endpoints)).collect();
    endpoints.sort_by_key(|(endpoint, _)| match endpoint.state {
        Availability::Disabled => 0,
        Availability::Cooling => 1,
        Availability::HalfOpen => 2,
        Availability::Healthy => 3,
    });
    // A lone name says which server it is; of several their column is bounded.
    let name_columns = match &endpoints[..] {
        [_] => usize::MAX,
        _ if columns < NARROW_COLUMNS => NAME_COLUMNS / 2,
        _ => NAME_COLUMNS,
    };
    let hidden = match endpoints.len() > rows_max {
        true => endpoints.len() - rows_max.saturating_sub(1),
        false => 0,
    };
    let shown = endpoints.len() - hidden.min(endpoints.len());
    let names: Vec<String> = (endpoints[..shown].iter())
        .map(|(endpoint, _)| cut(&endpoint.name, name_columns))
        .collect();
    let width = names.iter().map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0);
    for ((endpoint, counts), name) in endpoints.iter().zip(&names) {
        let reason = match (&endpoint.reason, endpoint.state) {
            (Some(reason), state) if state != Availability::Healthy => {
                format!("  {}", printable(reason))
            }
            _ => String::new(),
        };
        let state = format!("{}{}", endpoint.state.as_str(), cooling(endpoint));
        rows.push(format!(
            "  {name:width$}  {state:<9}  {} sent  {} ok{reason}",
            count(counts.attempts),
            count(counts.successes),
        ));
    }
    if hidden > 0 && rows_max > 0 {
        rows.push(format!("  and {hidden} more endpoints"));
    }
}

/// How long an endpoint is left alone.
fn cooling(endpoint: &EndpointState) -> String {
    let left = endpoint.cooldown.map(|left| left.as_secs_f64().ceil());
    left.map_or_else(String::new, |left| format!(" {left:.0} s"))
}

/// Figures beside each other, in as many rows as they need.
fn flow(rows: &mut Vec<String>, columns: usize, figures: impl IntoIterator<Item = String>) {
    flow_with(rows, columns, "  ", figures);
}

fn flow_with(
    rows: &mut Vec<String>,
    columns: usize,
    between: &str,
    figures: impl IntoIterator<Item = String>,
) {
    let mut row = String::new();
    for figure in figures.into_iter().filter(|figure| !figure.is_empty()) {
        let longer = row.chars().count() + between.len() + figure.chars().count();
        if !row.is_empty() && longer > columns {
            rows.push(std::mem::take(&mut row));
        }
        if !row.is_empty() {
            row.push_str(between);
        }
        row.push_str(&figure);
    }
    if !row.is_empty() {
        rows.push(row);
    }
}

/// Reasons may quote a server: nothing in them may move the cursor.
fn printable(text: &str) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    text.chars().map(plain).collect()
}

/// How much of it; all of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 100.0,
        _ => part as f64 * 100.0 / whole as f64,
    }
}

fn bar(done: u64, lines: u64) -> String {
    let filled = (percent(done, lines) / 100.0 * BAR_COLUMNS as f64) as usize;
    let filled = filled.min(BAR_COLUMNS);
    format!(
        "[{}{}]",
        "=".repeat(filled),
        " ".repeat(BAR_COLUMNS - filled)
    )
}

/// Seconds until the last line at the current rate; a run that stands still has none.
pub fn seconds_left(snapshot: &Snapshot, current_rate: f64) -> Option<u64> {
    let left = snapshot.gauges.lines.saturating_sub(snapshot.done());
    match left {
        0 => Some(0),
        _ if current_rate <= 0.0 => None,
        _ => Some((left as f64 / current_rate).ceil() as u64),
    }
}

fn eta(snapshot: &Snapshot, current_rate: f64) -> String {
    seconds_left(snapshot, current_rate).map_or_else(|| "-".to_owned(), span)
}

/// A time in its two largest units.
fn span(seconds: u64) -> String {
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
    use crate::metrics::tokens::Tokens;
    use crate::metrics::{Gauges, ShardMetrics, Stopping, Totals};

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

    /// A run over 1,000 lines on these endpoints, 250 of them done.
    fn snapshot(endpoints: &[(&str, Availability, Option<&str>, Option<u64>)]) -> Snapshot {
        let mut shard = ShardMetrics::new(endpoints.len());
        for _ in 0..250 {
            shard.attempt(0);
            shard.success(0, Duration::from_millis(40), Tokens::default(), None);
        }
        shard.attempt(0);
        shard.cost(1.5);
        let mut totals = Totals::new(endpoints.len());
        totals.absorb(&shard.take_delta());
        let states = endpoints
            .iter()
            .map(|(name, state, reason, left)| EndpointState {
                name: (*name).to_owned(),
                state: *state,
                reason: reason.map(str::to_owned),
                cooldown: left.map(Duration::from_secs),
            });
        let gauges = Gauges {
            lines: 1000,
            ..Gauges::default()
        };
        totals.snapshot(&gauges, Duration::from_secs(75), states.collect())
    }

    #[test]
    fn the_block_has_every_figure_and_fits_any_terminal() {
        const LONG: &str = "https://a-lone-endpoint.example.com/v1/chat/completions";
        let lone = [(LONG, Availability::Healthy, None, None)];
        for columns in [200, 76, 40, 20] {
            let rows = block(&snapshot(&lone), 10.0, columns, 40);
            let text = rows.join("\n");
            for part in [
                "250 / 1,000 lines",
                "25.0 %",
                "ETA 1m15s",
                "elapsed 1m15s",
                "now 10/s",
                "mean 3/s",
                "ok 250",
                "failed 0",
                "in flight 1",
                "p50 40 ms",
                "p99 40 ms",
                "retries 0",
                "429s 0",
                "tokens 0/s",
                "cost $1.5000",
                LONG,
            ] {
                assert!(text.contains(part), "{columns}: {part} is not in\n{text}");
            }
            for row in rows.iter().filter(|row| !row.contains(LONG)) {
                let fits = row.chars().count() <= columns.max(BAR_COLUMNS + 2);
                assert!(fits, "{columns}: {row}");
            }
        }
    }

    #[test]
    fn endpoints_in_trouble_come_first_with_reason_and_time() {
        let mut endpoints = vec![("fine", Availability::Healthy, None, None); 9];
        endpoints.push((
            "cools",
            Availability::Cooling,
            Some("HTTP 429: \u{1b}[2Jslow"),
            Some(12),
        ));
        endpoints.push(("is-out", Availability::Disabled, Some("HTTP 401: no"), None));
        let rows = block(&snapshot(&endpoints), 10.0, 100, 40);
        let at = |text: &str| rows.iter().position(|row| row.contains(text));
        let first = at("is-out").expect("it is shown");
        assert!(rows[first].contains("disabled") && rows[first].contains("HTTP 401: no"));
        assert_eq!(at("cools"), Some(first + 1));
        assert!(
            rows[first + 1].contains("cooling 12 s"),
            "{}",
            rows[first + 1]
        );
        assert!(
            rows[first + 1].contains("HTTP 429:  [2Jslow"),
            "{}",
            rows[first + 1]
        );
        assert_eq!(
            rows.last().map(String::as_str),
            Some("  and 4 more endpoints")
        );
        assert_eq!(
            block(&snapshot(&endpoints), 10.0, 100, 5).len(),
            5,
            "of a low terminal"
        );
    }

    #[test]
    fn a_run_that_stops_says_what_it_waits_for() {
        let fine = [("a", Availability::Healthy, None, None)];
        let stopping_by = |interrupted| Snapshot {
            stopping: Some(Stopping {
                reason: "--max-cost is reached".to_owned(),
                interrupted,
                left: Duration::from_millis(7100),
            }),
            ..snapshot(&fine)
        };
        assert_eq!(stopping(&snapshot(&fine)), None);
        let text = stopping(&stopping_by(true)).expect("one is in flight");
        for part in [
            "1 request is in flight",
            "8 s",
            "second Ctrl-C exits at once",
            "paid again",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let rows = block(&stopping_by(true), 1.0, 60, 40).join(" ");
        assert!(rows.contains("second Ctrl-C"), "{rows}");
        let text = stopping(&stopping_by(false)).expect("one is in flight");
        assert!(
            text.contains("--max-cost is reached") && !text.contains("Ctrl-C"),
            "{text}"
        );
        let mut times = PlainTimes::default();
        assert!(times.stopping(&stopping_by(true)).is_some());
        assert_eq!(
            times.stopping(&stopping_by(true)),
            None,
            "not again at once"
        );
        let later = Snapshot {
            elapsed: Duration::from_secs(78),
            ..stopping_by(true)
        };
        assert!(times.stopping(&later).is_some());
        let line = plain_line(&snapshot(&fine), 10.0);
        for part in ["250/1000 lines", "elapsed 1m15s", "cost $1.5000"] {
            assert!(line.contains(part), "{line}");
        }
    }
}
