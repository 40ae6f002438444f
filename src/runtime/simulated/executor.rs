//! Tasks and timers of a simulated world. Which of the tasks that could run does is the world's
//! choice; time is an argument.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Instant;

/// Tasks of one simulated thread: a shard, or the servers.
pub(super) type Thread = usize;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Executor {
    /// By number; numbers are never used again.
    tasks: RefCell<Vec<Option<Spawned>>>,
    woken: Arc<Woken>,
    ready: RefCell<VecDeque<usize>>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    timers_set: Cell<u64>,
    current: Cell<Thread>,
}

struct Spawned {
    thread: Thread,
    waker: Arc<TaskWaker>,
    /// Taken out while it runs.
    task: Option<Task>,
}

/// Tasks that were woken and are not in line yet. A waker has to be `Send`, hence the lock.
#[derive(Default)]
struct Woken(Mutex<Vec<usize>>);

struct TaskWaker {
    number: usize,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::Relaxed) {
            let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
            woken.push(self.number);
        }
    }
}

struct Timer {
    at: Instant,
    /// Of two for the same moment the one that was set first.
    order: u64,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Executor {
    /// A new task of `thread`; it runs when it is its turn.
    pub(super) fn spawn(&self, thread: Thread, task: Task) {
        let mut tasks = self.tasks.borrow_mut();
        let number = tasks.len();
        let waker = Arc::new(TaskWaker {
            number,
            is_woken: AtomicBool::new(true),
            woken: Arc::clone(&self.woken),
        });
        tasks.push(Some(Spawned {
            thread,
            waker,
            task: Some(task),
        }));
        self.ready.borrow_mut().push_back(number);
    }

    /// The thread of the task that is running.
    pub(super) fn current(&self) -> Thread {
        self.current.get()
    }

    pub(super) fn set_current(&self, thread: Thread) {
        self.current.set(thread);
    }

    /// How many tasks could run now.
    pub(super) fn ready(&self) -> usize {
        let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ready = self.ready.borrow_mut();
        ready.extend(woken.drain(..));
        ready.len()
    }

    /// Which thread the task at this place in line belongs to; `None` if it is over.
    pub(super) fn thread_of(&self, place: usize) -> Option<Thread> {
        let number = self.ready.borrow()[place];
        let tasks = self.tasks.borrow();
        tasks[number].as_ref().map(|task| task.thread)
    }

    /// Takes the task at this place out of line without running it.
    pub(super) fn take(&self, place: usize) -> usize {
        let number = self.ready.borrow_mut().remove(place);
        number.expect("there is one at this place")
    }

    /// Puts a task that was taken back in line.
    pub(super) fn put_back(&self, number: usize) {
        self.ready.borrow_mut().push_back(number);
    }

    /// Runs a task that was taken until it waits; its number and thread.
    pub(super) fn run(&self, number: usize) -> Option<Thread> {
        let (mut task, waker, thread) = {
            let mut tasks = self.tasks.borrow_mut();
            let spawned = tasks[number].as_mut()?;
            let task = spawned.task.take()?;
            (task, Arc::clone(&spawned.waker), spawned.thread)
        };
        waker.is_woken.store(false, Ordering::Relaxed);
        self.current.set(thread);
        let waker = Waker::from(waker);
        let is_over = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        if is_over {
            drop(task);
            self.tasks.borrow_mut()[number] = None;
        } else if let Some(spawned) = &mut self.tasks.borrow_mut()[number] {
            spawned.task = Some(task);
        }
        Some(thread)
    }

    pub(super) fn wake_at(&self, at: Instant, waker: &Waker) {
        let order = self.timers_set.get();
        self.timers_set.set(order + 1);
        self.timers.borrow_mut().push(Reverse(Timer {
            at,
            order,
            waker: waker.clone(),
        }));
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().peek().map(|Reverse(timer)| timer.at)
    }

    /// Wakes whoever waits for a moment up to `now`.
    pub(super) fn fire(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while timers.peek().is_some_and(|Reverse(timer)| timer.at <= now) {
            if let Some(Reverse(timer)) = timers.pop() {
                timer.waker.wake();
            }
        }
    }

    /// Ends every task.
    pub(super) fn clear(&self) {
        self.timers.borrow_mut().clear();
        self.ready.borrow_mut().clear();
        // One by one: what a task drops may spawn, wake or look at the time.
        let mut number = 0;
        loop {
            let task = match self.tasks.borrow_mut().get_mut(number) {
                None => break,
                Some(task) => task.take(),
            };
            drop(task);
            number += 1;
        }
        self.ready.borrow_mut().clear();
        let mut woken = self.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
        woken.clear();
        drop(woken);
        // Wakers that are still about name tasks that are over.
    }
}
