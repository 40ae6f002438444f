//! One simulated machine: clock, scheduler and chance, with its network and its disk.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::executor::{Executor, Thread};
use super::network::Network;
use super::trace::Trace;

/// What a turn of a task costs at most.
const TURN_US_MAX: u64 = 20;
/// How late a timer may be (see [`Runtime::sleep_until`](crate::runtime::Runtime::sleep_until)).
const TIMER_LATE_US_MAX: u64 = 2_000;
/// Where wall clocks stand when a world begins: 2026, in microseconds since 1970.
const WALL_START_US: u64 = 1_790_000_000_000_000;
/// The thread of everything outside the simulated process.
pub(super) const OUTSIDE: Thread = usize::MAX;
/// A process that takes more turns than this will never end: a usual one takes some ten thousand.
const TURNS_MAX: u64 = 1_000_000;

/// How this world treats its inhabitants.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Chance that the next task is any that could run, and not the one that waits longest.
    pub shuffles: f64,
    /// Chance, per turn, that the main thread is let in when it has something to do.
    pub main_eager: f64,
    /// Chance, per turn, that the thread whose turn it is stalls, for up to `stall_max`.
    pub stalls: f64,
    /// See `stalls`.
    pub stall_max: Duration,
    /// Processors.
    pub cores: usize,
}

/// See the module.
pub struct World {
    base: Instant,
    elapsed: Cell<Duration>,
    wall_us: Cell<i64>,
    random: RefCell<fastrand::Rng>,
    manners: RefCell<Manners>,
    executor: Executor,
    stalled: RefCell<Vec<(Thread, Instant)>>,
    turns: Cell<u64>,
    killed: Cell<bool>,
    trace: Trace,
    /// Connections and who listens.
    pub network: Network,
    /// What becomes of files.
    pub disk: Disk,
}

impl World {
    /// A world in which `seed` decides. `is_shown`: it tells on standard output what happens.
    pub fn new(seed: u64, manners: Manners, is_shown: bool) -> Rc<Self> {
        static BASE: OnceLock<Instant> = OnceLock::new();
        Rc::new(Self {
            // `Instant` has no other constructor; only differences are ever looked at.
            base: *BASE.get_or_init(Instant::now),
            elapsed: Cell::new(Duration::ZERO),
            wall_us: Cell::new(0),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            manners: RefCell::new(manners),
            executor: Executor::default(),
            stalled: RefCell::default(),
            turns: Cell::new(0),
            killed: Cell::new(false),
            trace: Trace::new(is_shown),
            network: Network::default(),
            disk: Disk::default(),
        })
    }

    /// The simulated clock.
    pub fn now(&self) -> Instant {
        self.base + self.elapsed.get()
    }

    /// Since the world began.
    pub fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    /// The simulated wall clock.
    pub fn unix_micros(&self) -> u64 {
        (WALL_START_US + self.elapsed.get().as_micros() as u64)
            .saturating_add_signed(self.wall_us.get())
    }

    /// Sets the wall clock forward, or back.
    pub fn jump_wall_clock(&self, microseconds: i64) {
        self.event("wall clock jumps", 0, || format!("by {microseconds} us"));
        self.wall_us.set(self.wall_us.get() + microseconds);
    }

    /// The simulated machine's processors.
    pub fn cores(&self) -> usize {
        self.manners.borrow().cores
    }

    /// From now on it treats them like this.
    pub fn set_manners(&self, manners: Manners) {
        *self.manners.borrow_mut() = manners;
    }

    /// The world's only source of chance.
    pub fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// True with this probability.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random(|random| random.f64() < probability)
    }

    /// Up to `max`.
    pub fn duration(&self, max: Duration) -> Duration {
        let us = max.as_micros() as u64;
        Duration::from_micros(self.random(|random| random.u64(0..=us)))
    }

    /// Notes what happened.
    pub fn event(&self, what: &'static str, number: u64, detail: impl FnOnce() -> String) {
        let thread = self.executor.current();
        self.trace
            .event(self.elapsed.get(), thread, what, number, detail);
    }

    /// A number that any difference in what happened changes, and how many things that were.
    pub fn history(&self) -> (u64, u64) {
        (self.trace.hash(), self.trace.events())
    }

    /// Starts the main task of a simulated thread of the process.
    pub fn start(&self, thread: usize, main: impl Future<Output = ()> + 'static) {
        self.executor.spawn(thread, Box::pin(main));
    }

    /// Starts a task outside the simulated process: a server, a user.
    pub fn start_outside(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(OUTSIDE, Box::pin(task));
    }

    /// A task of the thread that is running.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(self.executor.current(), Box::pin(task));
    }

    pub(super) fn wake_at(&self, at: Instant, waker: &Waker) {
        self.executor.wake_at(at, waker);
    }

    /// A timer for `at` fires then, or a little later.
    pub(super) fn late(&self, at: Instant) -> Instant {
        match self.executor.current() {
            OUTSIDE => at,
            _ => at + self.duration(Duration::from_micros(TIMER_LATE_US_MAX)),
        }
    }

    /// The simulated process was killed.
    pub fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// The simulated process is killed: what it does from now on has no effect.
    pub fn kill(&self) {
        if !self.killed.replace(true) {
            self.event("killed", 0, String::new);
        }
    }

    /// Another process begins.
    pub fn revive(&self) {
        self.end_tasks();
        self.killed.set(false);
        self.turns.set(0);
    }

    /// Whether the main thread gets its turn now.
    pub fn schedules_main(&self) -> bool {
        let eager = self.manners.borrow().main_eager;
        let scheduled = eager >= 1.0 || self.chance(eager);
        if scheduled {
            self.executor.set_current(OUTSIDE - 1);
            self.pass_turn();
        }
        scheduled
    }

    /// Lets a task run, or time pass up to `until`.
    pub fn step(&self, until: Instant) {
        if self.run_one() {
            return;
        }
        let next = self.executor.next_timer().into_iter();
        let stalls = self.stalled.borrow();
        let next = next.chain(stalls.iter().map(|(_, end)| *end)).min();
        drop(stalls);
        let at = next.map_or(until, |next| next.min(until));
        let elapsed = at.saturating_duration_since(self.base);
        self.elapsed.set(elapsed.max(self.elapsed.get()));
        self.after_passing();
    }

    fn after_passing(&self) {
        let now = self.now();
        self.stalled.borrow_mut().retain(|(_, end)| *end > now);
        self.executor.fire(now);
    }

    /// A turn takes time.
    fn pass_turn(&self) {
        let turns = self.turns.get() + 1;
        self.turns.set(turns);
        assert!(turns < TURNS_MAX, "the process makes no progress");
        let took = self.duration(Duration::from_micros(TURN_US_MAX));
        self.elapsed.set(self.elapsed.get() + took);
        self.after_passing();
    }

    /// Runs one of the tasks that could run; `false`: there is none.
    fn run_one(&self) -> bool {
        let mut ready = self.executor.ready();
        let (shuffles, stalls, stall_max) = {
            let manners = self.manners.borrow();
            (manners.shuffles, manners.stalls, manners.stall_max)
        };
        let mut held = Vec::new();
        let mut ran = false;
        while ready > 0 {
            let place = match ready > 1 && self.chance(shuffles) {
                true => self.random(|random| random.usize(0..ready)),
                false => 0,
            };
            let thread = self.executor.thread_of(place);
            let number = self.executor.take(place);
            ready -= 1;
            let Some(thread) = thread else { continue };
            if self.is_stalled(thread) {
                held.push(number);
                continue;
            }
            if thread != OUTSIDE && self.chance(stalls) {
                let until = self.now() + self.duration(stall_max);
                self.stalled.borrow_mut().push((thread, until));
                held.push(number);
                continue;
            }
            self.executor.run(number);
            self.trace.event(
                self.elapsed.get(),
                thread,
                "ran",
                number as u64,
                String::new,
            );
            self.pass_turn();
            ran = true;
            break;
        }
        for number in held {
            self.executor.put_back(number);
        }
        ran
    }

    fn is_stalled(&self, thread: Thread) -> bool {
        let stalled = self.stalled.borrow();
        stalled.iter().any(|(stalling, _)| *stalling == thread)
    }

    /// Runs tasks until `main` is done.
    pub(super) fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        struct Ignored;
        impl Wake for Ignored {
            fn wake(self: Arc<Self>) {}
        }
        let waker = Waker::from(Arc::new(Ignored));
        let mut main = pin!(main);
        loop {
            if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            let next = self.executor.next_timer();
            self.step(next.unwrap_or_else(|| self.now() + Duration::from_millis(1)));
        }
    }

    /// Ends every task, and with them every connection.
    pub fn end_tasks(&self) {
        self.stalled.borrow_mut().clear();
        self.executor.clear();
    }
}
