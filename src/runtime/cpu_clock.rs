//! How much a thread has computed, for other threads to see.

use std::mem::MaybeUninit;
use std::time::Duration;

/// The processor time of one thread, in user and system mode (pthread_getcpuclockid(3)).
#[derive(Debug)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The calling thread's. `None` if the system has none.
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: writes a number into `clock`; the calling thread is there.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (error == 0).then_some(Self(clock))
    }

    /// Since the thread began; `None` once it is over.
    pub fn read(&self) -> Option<Duration> {
        let mut time = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: writes a time if it succeeds; the clock of a thread that is over is an error.
        if unsafe { libc::clock_gettime(self.0, time.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it succeeded.
        let time = unsafe { time.assume_init() };
        Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn only_what_that_thread_computes_counts() {
        const WORK: Duration = Duration::from_millis(30);
        let own = CpuClock::of_this_thread().expect("Linux has one");
        let (ready, started) = crossbeam_channel::bounded(0);
        let (go, released) = crossbeam_channel::bounded::<()>(0);
        let other = thread::spawn(move || {
            ready.send(CpuClock::of_this_thread()).expect("asked for");
            // Ends when its other end is dropped.
            let _ = released.recv();
        });
        let others = started.recv().expect("the thread runs");
        let others = others.expect("Linux has one");
        let before = own.read().expect("this thread runs");
        while own.read().expect("this thread runs") < before + WORK {}
        assert!(others.read().expect("it waits") < WORK);
        drop(go);
        other.join().expect("it ends");
        assert_eq!(others.read(), None);
    }
}
