//! Progress for anything that is not a terminal: one line now and then.

use std::time::Duration;

use super::{Pace, cooling, count, eta, percent, short, span};
use crate::batch::coordinator::Observer;
use crate::metrics::{Availability, Snapshot};

/// One line this often.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);
/// While a run stops, as often as this.
const STOPPING_LINE_EVERY: Duration = Duration::from_secs(2);

/// When a line is due.
#[derive(Debug, Default)]
pub struct PlainTimes {
    next: Option<Duration>,
    next_stopping: Option<Duration>,
}

impl PlainTimes {
    /// Whether a line of progress is.
    pub fn is_due(&mut self, snapshot: &Snapshot) -> bool {
        let next = *self.next.get_or_insert(snapshot.elapsed + PLAIN_LINE_EVERY);
        let is_due = snapshot.elapsed >= next;
        if is_due {
            self.next = Some(snapshot.elapsed + PLAIN_LINE_EVERY);
        }
        is_due
    }

    /// What is said of a run that stops, if it is time to say it.
    pub fn stopping(&mut self, snapshot: &Snapshot) -> Option<String> {
        let text = stopping(snapshot)?;
        let is_due = (self.next_stopping).is_none_or(|next| snapshot.elapsed >= next);
        is_due.then(|| {
            self.next_stopping = Some(snapshot.elapsed + STOPPING_LINE_EVERY);
            text
        })
    }
}

/// How many requests a run that stops waits for, and what can be done about it; `None` for one that goes on
/// or waits for nothing.
pub fn stopping(snapshot: &Snapshot) -> Option<String> {
    let stopping = snapshot.stopping.as_ref()?;
    let in_flight = snapshot.in_flight();
    if in_flight == 0 {
        return None;
    }
    let requests = match in_flight {
        1 => "1 request is".to_owned(),
        more => format!("{} requests are", count(more)),
    };
    let left = stopping.left.as_secs_f64().ceil();
    let waiting = format!("{requests} in flight and may take {left:.0} s more");
    Some(match stopping.interrupted {
        true => format!(
            "interrupted: {waiting}; a second Ctrl-C exits at once: the same command goes on all the same, but what \
             is in flight is paid again"
        ),
        false => format!("stopping ({}): {waiting}", stopping.reason),
    })
}

/// One line with the same figures as the block.
pub fn plain_line(snapshot: &Snapshot, current_rate: f64) -> String {
    let lines = snapshot.gauges.lines;
    let done = snapshot.done();
    let mut line = format!(
        "{done}/{lines} lines ({:.1} %), {:.0}/s now, {:.0}/s mean, {} ok, {} failed, {} in flight, \
         p50 {}, p99 {}, {} retries, {} 429s, {:.0} tokens/s, ETA {}, elapsed {}",
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
        span(snapshot.elapsed.as_secs()),
    );
    if snapshot.counts.cost_usd > 0.0 {
        line.push_str(&format!(", cost ${:.4}", snapshot.counts.cost_usd));
    }
    if let Some(rate) = snapshot.rate_found {
        line.push_str(&format!(", auto rate {rate:.1}/s"));
    }
    if let Some(workers) = snapshot.workers_found() {
        line.push_str(&format!(", auto workers {workers}"));
    }
    for endpoint in &snapshot.endpoints {
        if endpoint.state != Availability::Healthy {
            let (name, state) = (&endpoint.name, endpoint.state.as_str());
            line.push_str(&format!("; {name} {state}{}", cooling(endpoint)));
            if let Some(reason) = &endpoint.reason {
                line.push_str(&format!(": {reason}"));
            }
        }
    }
    line
}

/// A log line every 10 s: for pipes, files and services.
#[derive(Debug, Default)]
pub struct PlainLines {
    pace: Pace,
    times: PlainTimes,
}

impl Observer for PlainLines {
    fn tick(&mut self, snapshot: &Snapshot) {
        let current = self.pace.current(snapshot);
        let progress = (self.times.is_due(snapshot)).then(|| plain_line(snapshot, current));
        for line in progress.into_iter().chain(self.times.stopping(snapshot)) {
            // A program that uses the library and listens to no logs has asked for these all the same.
            if tracing::dispatcher::has_been_set() {
                tracing::info!("{line}");
            } else {
                eprintln!("{line}");
            }
        }
    }
}
