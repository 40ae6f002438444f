//! Ctrl-C, SIGTERM and SIGHUP: the first stops the run with grace, the second ends the process at
//! once. Both leave a run that can be resumed.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::processor::Interrupt;

/// Exit status of an interrupted run (SPEC section 2).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Connects the process's signals to `interrupt`.
///
/// # Errors
/// The system refuses a handler, or one is installed already.
pub fn connect(interrupt: Interrupt) -> Result<(), ctrlc::Error> {
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            // Records are in the kernel's hands already; what is in flight will be sent again.
            process::exit(i32::from(EXIT_INTERRUPTED));
        }
        interrupt.interrupt();
    })
}
