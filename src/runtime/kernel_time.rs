//! How much time a thread has spent inside the kernel, for other threads to see.

use std::fs;
use std::time::Duration;

/// System time of one thread (proc_pid_stat(5)).
#[derive(Debug)]
pub struct KernelTime {
    path: String,
    ticks_per_second: u64,
}

impl KernelTime {
    /// The calling thread's. `None` if the system does not tell.
    pub fn of_this_thread() -> Option<Self> {
        // SAFETY: system calls without pointers.
        let (thread, ticks) = unsafe { (libc::gettid(), libc::sysconf(libc::_SC_CLK_TCK)) };
        let time = Self {
            path: format!("/proc/self/task/{thread}/stat"),
            ticks_per_second: u64::try_from(ticks).ok().filter(|&ticks| ticks > 0)?,
        };
        time.read().is_some().then_some(time)
    }

    /// Since the thread began, to some milliseconds; `None` once it is over.
    pub fn read(&self) -> Option<Duration> {
        /// Field 15, `stime`; the first behind the name is field 3.
        const SYSTEM_TIME: usize = 15 - 3;
        let line = fs::read_to_string(&self.path).ok()?;
        // The name, in parentheses, may contain anything.
        let (_, fields) = line.rsplit_once(')')?;
        let ticks = fields.split_ascii_whitespace().nth(SYSTEM_TIME)?;
        let ticks: u64 = ticks.parse().ok()?;
        Some(Duration::from_millis(ticks * 1000 / self.ticks_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn only_what_that_thread_does_inside_the_kernel_counts() {
        const WORK: Duration = Duration::from_millis(100);
        const FORGOTTEN: Duration = Duration::from_secs(20);
        let own = KernelTime::of_this_thread().expect("Linux tells");
        let (ready, started) = crossbeam_channel::bounded(0);
        let (go, released) = crossbeam_channel::bounded::<()>(0);
        let other = thread::spawn(move || {
            ready.send(KernelTime::of_this_thread()).expect("asked for");
            // Ends when its other end is dropped.
            let _ = released.recv();
        });
        let others = started.recv().expect("the thread runs");
        let others = others.expect("Linux tells");
        let before = own.read().expect("this thread runs");
        while own.read().expect("this thread runs") < before + WORK {
            // A system call that fails.
            assert!(fs::read("/proc/self/task/none").is_err());
        }
        assert!(others.read().expect("it waits") < WORK);
        drop(go);
        other.join().expect("it ends");
        // `join` returns when the thread is done, a moment before the system has forgotten it.
        let begun = Instant::now();
        while others.read().is_some() {
            assert!(begun.elapsed() < FORGOTTEN, "the thread is still known");
            thread::yield_now();
        }
    }
}
