//! Pauses of the process: a thread that was stopped (SIGSTOP, a debugger, a machine that is out of memory or
//! under load) finds a timer late by as much. What has come meanwhile is waiting in the sockets, so whoever
//! judges by the clock gives back the time that was lost. Pure.

use std::time::{Duration, Instant};

/// A timer that is less late is on time: threads wait for a core now and then.
const LATENESS_MAX: Duration = Duration::from_millis(250);

/// How long the thread did not run, if a timer that was `due` went off only `now` because of that.
pub fn lasted(due: Instant, now: Instant) -> Option<Duration> {
    let late = now.saturating_duration_since(due);
    (late > LATENESS_MAX).then_some(late)
}
