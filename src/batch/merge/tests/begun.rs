//! Outputs that are made while the run goes on.

use std::sync::Arc;

use super::super::begun::InTheMaking;
use super::*;
use crate::batch::delivery::DeliveryPlan;
use crate::batch::folder::{OUTPUT_MERGED, RunFolder};
use crate::batch::input::Input;

/// Enough for several steps of what is on its way to the disk and read back.
const LINES: u64 = 3000;

/// Every seventh line fails.
fn outcome(line: u64) -> Outcome {
    match line % 7 {
        0 => Failure,
        _ => Success,
    }
}

fn lines(which: Outcome) -> Vec<(u64, Outcome)> {
    (1..=LINES)
        .map(|line| (line, outcome(line)))
        .filter(|(_, outcome)| *outcome == which)
        .collect()
}

/// A run in the middle of which the output is being made.
struct Scene {
    place: Place,
    opened: Opened,
    logs: Vec<ShardLog>,
    making: Option<InTheMaking>,
}

impl Scene {
    fn new(shards: usize, order: Order) -> Self {
        let place = Place::new();
        fs::write(place.at("in.jsonl"), "{}\n".repeat(LINES as usize)).expect("a file");
        let input = Arc::new(Input::open(&place.at("in.jsonl")).expect("the input"));
        let scan = input.scan(1, 1 << 20);
        let opened = place.open();
        let logs = (0..shards)
            .map(|shard| log(&opened.folder, shard))
            .collect();
        let delivery = DeliveryPlan::new(order, input, &scan, false);
        let making = InTheMaking::start(&opened.folder, delivery, &place.at("out.jsonl"), shards);
        Self {
            place,
            opened,
            logs,
            making,
        }
    }

    /// Each line by one of the shards, whole groups by the same.
    fn append(&mut self, lines: impl Iterator<Item = u64>) {
        let shards = self.logs.len() as u64;
        for line in lines {
            let log = &mut self.logs[(line / 40 % shards) as usize];
            let outcome = outcome(line);
            log.append(entry(line, outcome), record(line, outcome).as_bytes());
        }
        for log in &mut self.logs {
            log.sync().expect("space");
        }
    }

    /// The shards have left, and what was begun is whole.
    fn finish(&mut self) -> Option<Begun> {
        for mut log in self.logs.drain(..) {
            log.finish().expect("space");
        }
        self.making.take()?.finish()
    }

    fn folder(&self) -> &RunFolder {
        &self.opened.folder
    }

    fn copy(&self) -> PathBuf {
        self.place.run().join(OUTPUT_MERGED)
    }

    fn merge(self, order: Order, begun: Option<Begun>) -> Place {
        let plan = MergePlan {
            begun,
            ..plan(&self.place, order)
        };
        let merged = merge(self.folder(), plan, LINES, &mut |_, _| {}).expect("whole");
        assert_eq!(merged.succeeded + merged.failed, LINES);
        drop(self.opened);
        self.place
    }
}

#[test]
fn what_was_made_while_the_run_went_on_is_the_output() {
    for (shards, order) in [
        (1, Order::Input),
        (1, Order::Completion),
        (2, Order::Input),
        (3, Order::Input),
    ] {
        let mut scene = Scene::new(shards, order);
        assert!(scene.making.is_some(), "{shards} shards, {order:?}");
        for from in (1..=LINES).step_by(600) {
            scene.append(from..from + 600);
        }
        let begun = scene.finish().expect("whole");
        let bytes = records(&lines(Success)).len() as u64;
        assert_eq!(
            (begun.successes, begun.bytes),
            (lines(Success).len() as u64, bytes)
        );
        assert_eq!(begun.is_segment, shards == 1);
        let made = match shards {
            1 => scene.place.shard_file(FileKind::Output, 1, 0),
            _ => scene.copy(),
        };
        let made = fs::File::open(made).expect("a file");
        let place = scene.merge(order, Some(begun));
        assert!(
            crate::runtime::files::is_named(&made, &place.at("out.jsonl")),
            "{shards} shards, {order:?}: it was made again"
        );
        expect_final(&place, &lines(Success), &lines(Failure));
    }
}

#[test]
fn by_completion_several_shards_have_no_order_before_the_end() {
    assert!(Scene::new(2, Order::Completion).making.is_none());
}

#[test]
fn what_is_abandoned_leaves_nothing() {
    let mut scene = Scene::new(2, Order::Input);
    scene.append(1..=LINES / 2);
    assert!(scene.copy().exists());
    scene.making.take().expect("under way").abandon();
    assert!(!scene.copy().exists());
    scene.append(LINES / 2 + 1..=LINES);
    assert!(scene.finish().is_none());
    let place = scene.merge(Order::Input, None);
    expect_final(&place, &lines(Success), &lines(Failure));
}

/// What may befall it before it is the output.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Byte,
    Cut,
    Gone,
    /// A record came after it was ended.
    Late,
}

#[test]
fn what_was_begun_and_is_not_right_is_made_again() {
    for harm in [Harm::Byte, Harm::Cut, Harm::Gone, Harm::Late] {
        let mut scene = Scene::new(2, Order::Input);
        let late = u64::from(matches!(harm, Harm::Late));
        scene.append(1..=LINES - late);
        let mut begun = match harm {
            Harm::Late => {
                let begun = scene.making.take().and_then(InTheMaking::finish);
                scene.append(LINES..=LINES);
                scene.finish();
                begun
            }
            _ => scene.finish(),
        }
        .expect("whole");
        // As if the run had been short: nothing was read back yet.
        begun.checked = Default::default();
        match harm {
            Harm::Byte => flip(&scene.copy(), 70),
            Harm::Cut => cut(&scene.copy(), begun.bytes - 1),
            Harm::Gone => fs::remove_file(scene.copy()).expect("a file"),
            Harm::Late => {}
        }
        let place = scene.merge(Order::Input, Some(begun));
        assert_eq!(
            read(&place.at("out.jsonl")),
            Some(records(&lines(Success))),
            "{harm:?}"
        );
    }
}
