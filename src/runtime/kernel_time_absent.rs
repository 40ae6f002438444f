//! Stands where threads cannot see how much time others have spent inside the kernel.

use std::time::Duration;

/// Never made: [`KernelTime::of_this_thread`] refuses.
#[derive(Debug)]
pub struct KernelTime(());

impl KernelTime {
    /// There is none.
    pub fn of_this_thread() -> Option<Self> {
        None
    }

    /// Since the thread began.
    pub fn read(&self) -> Option<Duration> {
        None
    }
}
