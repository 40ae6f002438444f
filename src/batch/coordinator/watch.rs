//! Whether a shard's thread still turns its loop. A shard reports ten times a second, whatever it does. One
//! that is stuck makes a system call that fails, over and over: so it is silent, and spends its time inside the
//! kernel. A thread that waits for a disk or for the processor spends none, and one that works on a long line
//! little there: their silence proves nothing.

use std::mem;
use std::time::Duration;

use crate::config::Config;
use crate::runtime::kernel_time::KernelTime;

/// Time inside the kernel that a thread may spend between two reports, beyond [`LONGEST`].
const PATIENCE: Duration = Duration::from_secs(2);
/// What a byte of the longest line and the longest answer may cost besides, in page faults and copies: 200 µs
/// for each page. To give up a thread that works is worse than to see late that one is stuck: the same
/// line would stop every further process, too.
const LONGEST: Duration = Duration::from_nanos(50);

/// Time inside the kernel after which a silent thread is stuck.
pub(super) fn patience(config: &Config) -> Duration {
    let bytes = config
        .max_line_bytes
        .saturating_add(config.max_response_bytes);
    PATIENCE + LONGEST.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// See the module.
pub(super) struct Watch {
    time: KernelTime,
    heard: bool,
    /// The thread's time when its silence was noticed; `None`: it has been heard of since.
    silent_from: Option<Duration>,
}

impl Watch {
    /// Of a thread that has just begun.
    pub(super) fn new(time: KernelTime) -> Self {
        Self {
            time,
            heard: true,
            silent_from: None,
        }
    }

    /// The thread has reported something.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// How long the thread has been in the kernel in silence, if that is more than `patience`. Ask ten times
    /// a second.
    pub(super) fn is_stuck(&mut self, patience: Duration) -> Option<Duration> {
        if mem::take(&mut self.heard) {
            self.silent_from = None;
            return None;
        }
        let spent = self.time.read()?;
        let silent = spent.saturating_sub(*self.silent_from.get_or_insert(spent));
        (silent > patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    /// Lets this thread make system calls that fail until so much time has gone by inside the kernel.
    fn fail_for(time: Duration) {
        let own = KernelTime::of_this_thread().expect("it was asked before");
        let begun = own.read().expect("this thread runs");
        while own.read() < Some(begun + time) {}
    }

    #[test]
    fn a_thread_that_only_calls_the_kernel_is_stuck() {
        const LITTLE: Duration = Duration::from_millis(50);
        let Some(time) = KernelTime::of_this_thread() else {
            return;
        };
        let mut watch = Watch::new(time);
        let begins_to_be_silent = |watch: &mut Watch| {
            assert_eq!(watch.is_stuck(LITTLE), None, "it has just been heard of");
            assert_eq!(watch.is_stuck(LITTLE), None, "not for long");
        };
        begins_to_be_silent(&mut watch);
        fail_for(2 * LITTLE);
        watch.hear();
        begins_to_be_silent(&mut watch);
        fail_for(2 * LITTLE);
        let spent = watch.is_stuck(LITTLE).expect("it was not heard of again");
        assert!(spent > LITTLE);
        assert_eq!(watch.is_stuck(100 * spent), None, "that is not much");
    }

    #[test]
    fn a_thread_that_computes_is_not_stuck() {
        const LITTLE: Duration = Duration::from_millis(200);
        let Some(time) = KernelTime::of_this_thread() else {
            return;
        };
        let mut watch = Watch::new(time);
        assert_eq!(watch.is_stuck(LITTLE), None);
        assert_eq!(watch.is_stuck(LITTLE), None);
        let begun = runtime::now();
        while runtime::now() < begun + 3 * LITTLE {}
        assert_eq!(watch.is_stuck(LITTLE), None);
    }
}
