//! Whether a shard's thread still turns its loop. A shard reports ten times a second, whatever it does, and
//! a thread that is stuck in a loop computes. One that sleeps, that waits for a disk, or that the machine
//! has no time for does not: its silence proves nothing.

use std::mem;
use std::time::Duration;

use crate::config::Config;
use crate::runtime::cpu_clock::CpuClock;

/// Processor time that a thread may use between two reports, beyond [`LONGEST`].
const PATIENCE: Duration = Duration::from_secs(5);
/// What a byte of the longest line and the longest answer may cost besides. A build without optimisation takes
/// a tenth of it, and to give up a thread that works is worse than to see late that one is stuck: the same
/// line would stop every further process, too.
const LONGEST: Duration = Duration::from_micros(1);

/// Processor time after which a silent thread is stuck.
pub(super) fn patience(config: &Config) -> Duration {
    let bytes = config
        .max_line_bytes
        .saturating_add(config.max_response_bytes);
    PATIENCE + LONGEST.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// See the module.
pub(super) struct Watch {
    clock: CpuClock,
    heard: bool,
    /// The thread's processor time when it was heard of last.
    used: Duration,
}

impl Watch {
    /// Of a thread that has just begun.
    pub(super) fn new(clock: CpuClock) -> Self {
        let used = clock.read().unwrap_or_default();
        Self {
            clock,
            heard: false,
            used,
        }
    }

    /// The thread has reported something.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// How much the thread has used in silence, if that is more than `patience`. Ask ten times a second.
    pub(super) fn is_stuck(&mut self, patience: Duration) -> Option<Duration> {
        let used = self.clock.read()?;
        if mem::take(&mut self.heard) {
            self.used = used;
        }
        let silent = used.saturating_sub(self.used);
        (silent > patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_line_and_answer_may_take_their_time() {
        // Two lines of 60 MB, without optimisation, on a loaded machine.
        assert!(patience(&Config::default()) > Duration::from_secs(100));
    }

    #[test]
    fn a_thread_that_computes_in_silence_is_stuck() {
        const LITTLE: Duration = Duration::from_millis(20);
        let Some(clock) = CpuClock::of_this_thread() else {
            return;
        };
        let mut watch = Watch::new(clock);
        let compute = |watch: &Watch| {
            let begun = watch.clock.read().expect("this thread runs");
            while watch.clock.read() < Some(begun + 2 * LITTLE) {}
        };
        compute(&watch);
        watch.hear();
        assert_eq!(watch.is_stuck(LITTLE), None, "it has just been heard of");
        compute(&watch);
        let used = watch.is_stuck(LITTLE).expect("it was not heard of again");
        assert!(used > LITTLE);
        assert_eq!(watch.is_stuck(100 * used), None, "that is not much");
    }
}
