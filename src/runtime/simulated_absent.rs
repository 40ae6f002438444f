//! Stands where nothing is simulated: in every build but the unit tests.

use std::future::Future;
use std::rc::Rc;
use std::time::Instant;

/// The backend of a simulated world; never reached, the name exists so that callers need no `cfg`.
pub type Simulated = super::tokio::Tokio;

/// A simulated world. There is none.
pub enum World {}

/// The world that this thread lives in: none.
#[inline]
pub fn current() -> Option<Rc<World>> {
    None
}

impl World {
    /// The simulated clock.
    pub fn now(&self) -> Instant {
        match *self {}
    }

    /// The simulated wall clock.
    pub fn unix_micros(&self) -> u64 {
        match *self {}
    }

    /// The simulated machine's processors.
    pub fn cores(&self) -> usize {
        match *self {}
    }

    /// Starts the main task of a simulated thread.
    pub fn start(&self, _thread: usize, _main: impl Future<Output = ()> + 'static) {
        match *self {}
    }

    /// Lets a task run, or time pass up to `until`.
    pub fn step(&self, _until: Instant) {
        match *self {}
    }

    /// Whether the main thread gets its turn now.
    pub fn schedules_main(&self) -> bool {
        match *self {}
    }

    /// The simulated process was killed.
    pub fn is_killed(&self) -> bool {
        match *self {}
    }

    /// Ends every task.
    pub fn end_tasks(&self) {
        match *self {}
    }
}
