//! What the system does to the whole process: signals that files raise, and how many files it may
//! have open.

#[cfg(unix)]
#[path = "unix.rs"]
mod platform;
#[cfg(not(unix))]
#[path = "portable.rs"]
mod platform;

/// Exit status of a run that stopped before its end and can be resumed (docs/CONFIGURATION.md).
pub const EXIT_STOPPED: i32 = 4;

/// If another program cuts a mapped file short, the next look behind its new end is a signal, not an
/// error. From now on it ends the process with one line that says so, and [`EXIT_STOPPED`]: what is
/// on disk can be resumed as after any kill. Without effect where the system has no such signal.
pub fn explain_cut_mappings() {
    platform::explain_cut_mappings();
}

/// The same as a JSON line, where everything on standard error is one.
pub fn explain_in_json(wanted: bool) {
    platform::explain_in_json(wanted);
}

/// Raises the number of files this process may have open to `wanted`, or as far as it goes, and
/// returns what it is now. `u64::MAX` where there is no limit.
pub fn raise_open_files(wanted: u64) -> u64 {
    platform::raise_open_files(wanted)
}

/// Whether a terminal that hangs up was meant to leave this process alone (`nohup`). Ask before
/// installing a handler, and undo that with [`ignore_hangup`].
pub fn hangup_is_ignored() -> bool {
    platform::hangup_is_ignored()
}

/// A terminal that hangs up leaves this process alone.
pub fn ignore_hangup() {
    platform::ignore_hangup();
}
