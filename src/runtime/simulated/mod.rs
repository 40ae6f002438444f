//! The third backend: a whole machine in one thread, for tests only.
//!
//! A [`World`] has its own clock, wall clock, scheduler, network and disk, and one seed decides
//! everything that is left to chance in it: which task runs next, how long a packet takes, where a
//! read is cut, which operation of the disk fails. So one seed is one history, exactly. Time does not
//! pass by itself; when no task can run, the clock jumps to the next thing that is due.
//!
//! A thread lives in the real world until it enters a simulated one ([`World::enter`]).

pub mod disk;
mod executor;
pub mod network;
mod trace;
pub mod world;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::{Runtime, Socket};
pub use world::World;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world that this thread lives in; `None`: the real one.
pub fn current() -> Option<Rc<World>> {
    WORLD.with_borrow(Clone::clone)
}

/// This thread lives in a simulated world as long as it keeps this.
pub struct Entered(Rc<World>);

impl Drop for Entered {
    fn drop(&mut self) {
        // While they can still ask for the time.
        self.0.end_tasks();
        WORLD.set(None);
    }
}

impl World {
    /// From now on this thread's clock, tasks, sockets and files are this world's.
    ///
    /// # Panics
    /// If it lives in one already.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Entered {
        let before = WORLD.replace(Some(Rc::clone(self)));
        assert!(before.is_none(), "worlds do not nest");
        Entered(Rc::clone(self))
    }
}

/// Tasks, timers and sockets of the world this thread lives in.
pub struct Simulated;

fn here() -> Rc<World> {
    current().expect("only code inside a simulated world runs on this backend")
}

impl Runtime for Simulated {
    const NAME: &'static str = "simulated";
    type Reader = network::Reader;
    type Writer = network::Writer;

    fn run<T>(main: impl Future<Output = T>) -> io::Result<T> {
        Ok(here().block_on(main))
    }

    fn spawn(task: impl Future<Output = ()> + 'static) {
        here().spawn(task);
    }

    async fn sleep_until(at: Instant) {
        let world = here();
        let at = world.late(at);
        let mut armed = false;
        poll_fn(|context| {
            if world.now() >= at {
                return Poll::Ready(());
            }
            if !armed {
                armed = true;
                world.wake_at(at, context.waker());
            }
            Poll::Pending
        })
        .await;
    }

    async fn connect(address: SocketAddr) -> io::Result<Socket<Self>> {
        network::connect(&here(), address).await
    }

    async fn yield_now() {
        let mut yielded = false;
        poll_fn(|context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
