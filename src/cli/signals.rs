//! Ctrl-C, SIGTERM and SIGHUP: the first stops the run with grace, the second ends the process at
//! once, and so does the first while nothing is sent. All leave a run that can be resumed. A process
//! started by `nohup` stays deaf to SIGHUP.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::processor::Interrupt;
use crate::runtime::process;

/// A run that sends hears of a signal in a few milliseconds, on a loaded machine a few hundred.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Exit status of an interrupted run (SPEC section 2).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Connects the process's signals to `interrupt`.
///
/// # Errors
/// The system refuses a handler, or one is installed already.
pub fn connect(interrupt: Interrupt) -> Result<(), ctrlc::Error> {
    let asked = AtomicBool::new(false);
    let hangup_is_ignored = process::hangup_is_ignored();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Records are in the kernel's hands already; what is in flight will be sent again.
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
        interrupt.interrupt();
        if !interrupt.is_heard_within(HEARD_WITHIN) {
            // Nothing is in flight: standard input is being read, or the final files are being made.
            let _ = writeln!(
                io::stderr(),
                "interrupted; the same command goes on from here"
            );
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
    })?;
    if hangup_is_ignored {
        process::ignore_hangup();
    }
    Ok(())
}
