//! A model of kills at any point of a run, however often.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What happens to a run: a shard finishes a line, flushes, or the process is killed.
#[derive(Clone, Debug)]
enum Event {
    Finish {
        shard: usize,
        success: bool,
    },
    Flush {
        shard: usize,
    },
    /// `kept` decides how much of what the last flush wrote arrived.
    Kill {
        kept: usize,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..3_usize, prop::bool::weighted(0.7)).prop_map(|(shard, success)| Event::Finish { shard, success }),
        2 => (0..3_usize).prop_map(|shard| Event::Flush { shard }),
        1 => (0..500_usize).prop_map(|kept| Event::Kill { kept }),
    ];
    prop::collection::vec(event, 0..80)
}

/// A flush that the kill interrupted: what is buffered would have gone to the files in their order,
/// and `kept` bytes of it did.
fn kill_in_flush(
    place: &Place,
    log: &mut crate::batch::segment::ShardLog,
    generation: u32,
    shard: u32,
    kept: usize,
) {
    let paths = [FileKind::Output, FileKind::Errors, FileKind::Journal]
        .map(|kind| place.shard_file(kind, generation, shard));
    let before = paths
        .each_ref()
        .map(|path| fs::metadata(path).expect("a file").len());
    let mark = fs::read(&paths[2]).expect("a journal")[..crate::journal::HEADER_BYTES].to_vec();
    log.flush().expect("space");
    let mut left = kept as u64;
    for (path, before) in paths.iter().zip(before) {
        let written = fs::metadata(path).expect("a file").len() - before;
        let kept = written.min(left);
        left -= kept;
        cut(path, before + kept);
    }
    if left == 0 {
        let mut journal = fs::read(&paths[2]).expect("a journal");
        journal[..mark.len()].copy_from_slice(&mark);
        fs::write(&paths[2], journal).expect("a journal");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However often the process is killed, every line ends in exactly one record, in its place.
    #[test]
    fn kills_at_any_point_lose_and_repeat_nothing(events in events(), lines in 1_u64..40, completion: bool) {
        let place = Place::new();
        let mut opened = place.open();
        let outcome_of = |number: u64| if number.is_multiple_of(3) { Failure } else { Success };
        let mut logs: Vec<_> = (0..3).map(|shard| log(&opened.folder, shard)).collect();
        let mut settled: BTreeMap<u64, Outcome> = BTreeMap::new();
        let mut waiting: Vec<u64> = (1..=lines).rev().collect();
        let mut buffered: [Vec<(u64, Outcome)>; 3] = Default::default();
        for event in events {
            match event {
                Event::Finish { shard, success } => {
                    // Shards take lines from either end, so that they interleave.
                    let taken = if success { waiting.pop() } else { (!waiting.is_empty()).then(|| waiting.remove(0)) };
                    let Some(number) = taken else { continue };
                    logs[shard].append(entry(number, outcome_of(number)), record(number, outcome_of(number)).as_bytes());
                    buffered[shard].push((number, outcome_of(number)));
                }
                Event::Flush { shard } => {
                    logs[shard].flush().expect("space");
                    settled.extend(buffered[shard].drain(..));
                }
                Event::Kill { kept } => {
                    let generation = opened.folder.generation();
                    kill_in_flush(&place, &mut logs[kept % 3], generation, (kept % 3) as u32, kept);
                    logs.clear();
                    drop(opened);
                    opened = place.open();
                    let resume = opened.resume.as_ref().expect("an unfinished run");
                    for (number, outcome) in &settled {
                        let set = if *outcome == Success { &resume.done.succeeded } else { &resume.done.failed };
                        prop_assert!(set.contains(*number), "line {} was safe", number);
                    }
                    let done: Vec<u64> = (1..=lines).filter(|number| resume.done.contains(*number)).collect();
                    prop_assert_eq!(resume.succeeded + resume.failed, done.len() as u64);
                    settled = done.iter().map(|number| (*number, outcome_of(*number))).collect();
                    waiting = (1..=lines).rev().filter(|number| !resume.done.contains(*number)).collect();
                    buffered = Default::default();
                    logs = (0..3).map(|shard| log(&opened.folder, shard)).collect();
                }
            }
        }
        while let Some(number) = waiting.pop() {
            logs[(number % 3) as usize].append(entry(number, outcome_of(number)), record(number, outcome_of(number)).as_bytes());
        }
        logs.iter_mut().for_each(|log| log.finish().expect("space"));
        logs.clear();
        let order = if completion { Order::Completion } else { Order::Input };
        merge(&opened.folder, plan(&place, order), lines, &mut |_, _| {}).expect("merged");
        let sorted = |name: &str| {
            let mut lines: Vec<String> = read(&place.at(name)).unwrap_or_default().split_inclusive('\n').map(str::to_owned).collect();
            if completion {
                lines.sort_by_key(|line| line[8..].split(',').next().expect("a number").parse::<u64>().expect("a number"));
            }
            lines.concat()
        };
        let expected = |wanted| records(&(1..=lines).map(|number| (number, outcome_of(number))).filter(|(_, outcome)| *outcome == wanted).collect::<Vec<_>>());
        prop_assert_eq!(sorted("out.jsonl"), expected(Success));
        prop_assert_eq!(sorted("errors.jsonl"), expected(Failure));
        prop_assert!(!place.run().exists());
    }
}
