//! Ctrl-C, SIGTERM and SIGHUP: the first stops the run with grace, the second ends the process at
//! once, and so does the first while nothing is sent. All leave a run that can be resumed. A process
//! started by `nohup` stays deaf to SIGHUP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::MultiProgress;

use crate::cli::say;
use crate::processor::Interrupt;
use crate::runtime::process;

/// A run that sends hears of a signal in a few milliseconds, on a loaded machine a few hundred.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Exit status of an interrupted run (docs/CONFIGURATION.md).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Connects the process's signals to `interrupt`; `block` goes with the process.
///
/// # Errors
/// The system refuses a handler, or one is installed already.
pub fn connect(interrupt: Interrupt, block: MultiProgress) -> Result<(), ctrlc::Error> {
    let asked = AtomicBool::new(false);
    let hangup_is_ignored = process::hangup_is_ignored();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Records are in the kernel's hands already.
            leave(
                &block,
                "interrupted again: left at once; the same command goes on from here, and sends again what was in flight",
            );
        }
        interrupt.interrupt();
        if !interrupt.is_heard_within(HEARD_WITHIN) {
            // Nothing is in flight: standard input is being read, or the final files are being made.
            leave(&block, "interrupted; the same command goes on from here");
        }
    })?;
    if hangup_is_ignored {
        process::ignore_hangup();
    }
    Ok(())
}

/// Ends the process; nothing of the live block stays behind.
fn leave(block: &MultiProgress, message: &str) -> ! {
    // A terminal that is gone needs no clearing.
    let _ = block.clear();
    say::warn(message);
    std::process::exit(i32::from(EXIT_INTERRUPTED));
}
