//! Drives shards and coordinator of a simulated world in the one thread it has. The same turns and
//! tasks as on real threads; the world decides whose turn it is.

use std::rc::Rc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::drive::Ended;
use crate::batch::coordinator::{Coordinator, Finished, Observer};
use crate::batch::shard::{Shard, ShardStart};
use crate::runtime::simulated::{Simulated, World};

/// How much later the main thread gets another chance if it was not let in, unless a task runs first.
const MAIN_LATE: Duration = Duration::from_micros(500);

/// Runs until every shard has left; `None` if the simulated process was killed before.
pub(super) fn drive(
    world: &Rc<World>,
    mut coordinator: Coordinator,
    starts: Vec<ShardStart>,
    observer: &mut dyn Observer,
    interrupts: &Receiver<()>,
) -> Option<Finished> {
    for start in starts {
        let ended = Ended::new(start.id, start.events.clone());
        world.start(start.id, async move {
            Shard::<Simulated>::run(start).await;
            ended.tell(Ok(()));
        });
    }
    let mut wake_at = world.now();
    while !world.is_killed() {
        if !interrupts.is_empty() || coordinator.has_mail() || world.now() >= wake_at {
            if world.schedules_main() {
                if interrupts.try_recv().is_ok() {
                    coordinator.interrupt();
                }
                match coordinator.turn(observer) {
                    Some(at) => wake_at = at,
                    None => {
                        // A thread that ends drops what it has.
                        world.end_tasks();
                        return Some(coordinator.finish());
                    }
                }
            } else if world.now() >= wake_at {
                wake_at = world.now() + MAIN_LATE;
            }
        }
        world.step(wake_at);
    }
    world.end_tasks();
    None
}
