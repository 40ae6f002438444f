//! What is written ahead: safe from the flush on, in order where that can be had, counted once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::batch::folder::fixture::{cut, flip, manifest};
use crate::batch::folder::{Opened, Resume};
use crate::journal::ahead::HALF_BYTES;
use crate::runtime::simulated::World;
use crate::runtime::simulated::disk::DiskTrouble;
use crate::runtime::simulated::world::Manners;

/// What an attempt that ends no line costs here, and what a record does ([`entry`]).
const ATTEMPT_COST: u64 = 1000;
const RECORD_COST: u64 = 7;

fn ahead_log(folder: &RunFolder, order: Order) -> ShardLog {
    log(folder, 0).writing_ahead(folder, order)
}

fn attempt(line_number: u64) -> NewAttempt {
    NewAttempt {
        line_offset: line_number * 100,
        line_number,
        completed_us: 5,
        attempts: 0,
        tokens: Tokens::default(),
        cost_nano_usd: ATTEMPT_COST,
    }
}

fn begin(log: &mut ShardLog, lines: impl IntoIterator<Item = u64>) {
    lines.into_iter().for_each(|line| log.begin(line));
}

fn succeed(log: &mut ShardLog, lines: impl IntoIterator<Item = u64>) {
    for line in lines {
        log.append(entry(line, Success), record(line, Success).as_bytes());
    }
}

fn journalled(place: &Place) -> Vec<u64> {
    on_disk(place).into_iter().map(|(line, _)| line).collect()
}

fn done(resume: &Resume) -> BTreeSet<u64> {
    (0..2000)
        .filter(|line| resume.done.contains(*line))
        .collect()
}

/// What a process finds that resumes a copy of the run as it is now: finished lines and what was paid.
fn copy_resumed(place: &Place) -> (BTreeSet<u64>, u64) {
    let copy = Place::new();
    fs::create_dir(copy.run()).expect("a folder");
    for file in fs::read_dir(place.run()).expect("a folder") {
        let file = file.expect("a file");
        fs::copy(file.path(), copy.run().join(file.file_name())).expect("copied");
    }
    let Opened { folder, resume, .. } = copy.open();
    let resume = resume.expect("an unfinished run");
    assert!(
        !copy.shard_file(FileKind::Ahead, 1, 0).exists(),
        "it is drained"
    );
    let mut paid = 0;
    folder
        .each_entry(&mut |entry| paid += entry.cost_nano_usd)
        .expect("intact");
    let lines = done(&resume);
    assert_eq!(resume.succeeded + resume.failed, lines.len() as u64);
    on_disk(&copy);
    (lines, paid)
}

#[test]
fn a_flush_makes_records_safe_and_their_order_waits() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, 1..=4);
    log.append(entry(3, Failure), record(3, Failure).as_bytes());
    log.note_attempt(attempt(1));
    succeed(&mut log, [2]);
    assert_eq!((log.committed(), log.buffered(), log.safe()), (3, 3, 0));
    assert!(log.buffered_bytes() > record(3, Failure).len());
    log.flush().expect("space");
    let counts = (log.buffered(), log.safe(), log.buffered_bytes());
    assert_eq!(counts, (0, 3, 0));
    assert_eq!(journalled(&place), [0; 0]);
    let paid = ATTEMPT_COST + 2 * RECORD_COST;
    assert_eq!(copy_resumed(&place), (BTreeSet::from([2, 3]), paid));
    // What need not wait does not stay for ever.
    log.sync_in_background().expect("space");
    assert_eq!(journalled(&place), [1], "the attempt");
    assert_eq!(copy_resumed(&place), (BTreeSet::from([2, 3]), paid));
    succeed(&mut log, [4, 1]);
    log.finish().expect("space");
    assert_eq!(journalled(&place), [1, 1, 2, 3, 4]);
    assert!(!place.shard_file(FileKind::Ahead, 1, 0).exists());
    assert_eq!(copy_resumed(&place).1, ATTEMPT_COST + 4 * RECORD_COST);
}

#[test]
fn by_completion_nothing_is_put_in_order() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Completion);
    begin(&mut log, 1..=3);
    succeed(&mut log, [3, 1]);
    log.flush().expect("space");
    assert_eq!(copy_resumed(&place).0, BTreeSet::from([1, 3]));
    succeed(&mut log, [2]);
    log.finish().expect("space");
    assert_eq!(journalled(&place), [3, 1, 2]);
}

#[test]
fn successes_that_nobody_keeps_wait_too() {
    let place = Place::new();
    let opened = place.open();
    let log = ShardLog::create(&opened.folder, 1, 0, false, Durability::Process);
    let mut log = log
        .expect("a log")
        .writing_ahead(&opened.folder, Order::Input);
    begin(&mut log, 1..=3);
    succeed(&mut log, [3, 2]);
    log.flush().expect("space");
    assert_eq!(copy_resumed(&place).0, BTreeSet::from([2, 3]));
    log.append(entry(1, Failure), record(1, Failure).as_bytes());
    log.finish().expect("space");
    assert_eq!(journalled(&place), [1, 2, 3]);
}

#[test]
fn a_line_that_never_ends_holds_up_no_more_than_a_half() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, [1]);
    let mut safe = BTreeSet::new();
    for line in 2..=200 {
        begin(&mut log, [line]);
        succeed(&mut log, [line]);
        log.flush().expect("space");
        safe.insert(line);
        assert_eq!(log.safe(), line - 1);
        if line % 20 == 0 {
            assert_eq!(
                copy_resumed(&place),
                (safe.clone(), safe.len() as u64 * RECORD_COST)
            );
        }
    }
    assert!(
        journalled(&place).len() > 100,
        "what is spilled is in the journal"
    );
    let (output, _, _) = log.ahead.as_ref().expect("in use").waiting();
    assert!(output <= 2 * HALF_BYTES as u64);
    succeed(&mut log, [1]);
    log.finish().expect("space");
    let mut lines = journalled(&place);
    lines.sort_unstable();
    assert!(lines.into_iter().eq(1..=200));
}

#[test]
fn many_records_stay_in_order_through_many_halves() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    // Each turn of the loop finishes six lines, backwards; one is always behind by a turn.
    for turn in 0..100 {
        begin(&mut log, turn * 6 + 1..=turn * 6 + 6);
        let late = (turn > 0).then(|| turn * 6 - 2);
        succeed(
            &mut log,
            (turn * 6 + 1..=turn * 6 + 6)
                .rev()
                .filter(|line| line % 6 != 4),
        );
        succeed(&mut log, late);
        log.flush().expect("space");
    }
    succeed(&mut log, [598]);
    log.finish().expect("space");
    assert!(journalled(&place).into_iter().eq(1..=600), "in order");
}

#[test]
fn lines_that_wait_for_nothing_use_the_beginnings_of_the_halves() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    let mut safe = BTreeSet::new();
    for line in 1..=200 {
        begin(&mut log, [line]);
        succeed(&mut log, [line]);
        log.flush().expect("space");
        safe.insert(line);
        if line % 10 == 0 {
            assert_eq!(copy_resumed(&place).0, safe);
        }
    }
    let file = fs::read(place.shard_file(FileKind::Ahead, 1, 0)).expect("a file");
    for half in file.chunks(HALF_BYTES) {
        let used = half.len() - half.iter().rev().take_while(|&&byte| byte == 0).count();
        assert!((1..HALF_BYTES / 2).contains(&used), "{used} bytes");
    }
    log.finish().expect("space");
    assert_eq!(journalled(&place), (1..=200).collect::<Vec<u64>>());
}

#[test]
fn a_record_larger_than_a_half_goes_straight_to_its_segment() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, 1..=5);
    succeed(&mut log, [2]);
    log.flush().expect("space");
    let large = format!("{}\n", "x".repeat(2 * HALF_BYTES));
    succeed(&mut log, [3]);
    log.append(entry(4, Success), large.as_bytes());
    log.flush().expect("space");
    assert_eq!((log.buffered(), log.safe()), (0, 3));
    assert_eq!(journalled(&place), [2, 3, 4]);
    assert_eq!(copy_resumed(&place).0, BTreeSet::from([2, 3, 4]));
    succeed(&mut log, [5]);
    log.flush().expect("space");
    assert_eq!(copy_resumed(&place).0, BTreeSet::from([2, 3, 4, 5]));
    succeed(&mut log, [1]);
    log.finish().expect("space");
    assert_eq!(journalled(&place), [2, 3, 4, 5, 1]);
}

/// Every way in which lines end, and a look at what a kill would leave after each flush.
#[test]
fn whenever_it_is_killed_what_was_flushed_is_there_once() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let place = Place::new();
        let opened = place.open();
        let mut log = ahead_log(&opened.folder, Order::Input);
        let (mut open, mut next) = (Vec::new(), 1);
        let (mut lines, mut paid) = (BTreeSet::new(), 0);
        for turn in 0..60 {
            for _ in 0..random.usize(0..8) {
                begin(&mut log, [next]);
                open.push(next);
                // Now and then the shard goes on elsewhere in the input.
                next = match random.u8(0..60) {
                    0 if next > 1000 => next - 997,
                    0 => next + 1000,
                    _ => next + 1,
                };
            }
            for _ in 0..random.usize(0..8).min(open.len()) {
                let line = open.swap_remove(random.usize(0..open.len().min(9)));
                if random.u8(0..4) == 0 {
                    log.note_attempt(attempt(line));
                    paid += ATTEMPT_COST;
                    open.push(line);
                } else {
                    let outcome = [Success, Failure][usize::from(random.u8(0..5) == 0)];
                    log.append(entry(line, outcome), record(line, outcome).as_bytes());
                    lines.insert(line);
                    paid += RECORD_COST;
                }
            }
            log.reserve(5000).expect("space");
            log.flush().expect("space");
            assert_eq!(log.buffered(), 0);
            if random.u8(0..5) == 0 {
                log.sync_in_background().expect("space");
            }
            if turn % 6 == 5 {
                assert_eq!(copy_resumed(&place), (lines.clone(), paid), "seed {seed}");
            }
        }
        log.finish().expect("space");
        assert_eq!(copy_resumed(&place), (lines, paid), "seed {seed}");
    }
}

#[test]
fn a_drain_that_was_killed_is_done_again() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, 1..=5);
    log.note_attempt(attempt(1));
    succeed(&mut log, [3, 2, 5]);
    log.append(entry(4, Failure), record(4, Failure).as_bytes());
    log.flush().expect("space");
    drop((log, opened));
    let path = place.shard_file(FileKind::Ahead, 1, 0);
    let written = fs::read(&path).expect("a file");
    let journal = place.shard_file(FileKind::Journal, 1, 0);
    let once = copy_resumed(&place);
    assert_eq!(
        once,
        (BTreeSet::from([2, 3, 4, 5]), ATTEMPT_COST + 4 * RECORD_COST)
    );
    drop(place.open());
    let whole = fs::read(&journal).expect("a journal");
    let mark = Header::new(place.open().folder.run_id(), 1, 0).mark(0);
    for entries in (0..=5).rev() {
        // Killed when so many entries were written, and the mark was not, or was.
        fs::write(&path, &written).expect("put back");
        cut(
            &journal,
            entry_offset(entries) + u64::from(entries < 5) * 11,
        );
        let mut bytes = fs::read(&journal).expect("a journal");
        bytes[MARK_OFFSET..HEADER_BYTES].copy_from_slice(&mark);
        fs::write(&journal, bytes).expect("a journal");
        assert_eq!(copy_resumed(&place), once, "{entries} entries");
        drop(place.open());
        assert_eq!(fs::read(&journal).expect("a journal"), whole);
    }
    fs::write(&path, &written).expect("put back");
    assert_eq!(copy_resumed(&place), once, "killed before it was removed");
}

#[test]
fn damage_to_what_was_written_ahead_is_refused() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, 1..=4);
    succeed(&mut log, 2..=4);
    log.flush().expect("space");
    drop((log, opened));
    let path = place.shard_file(FileKind::Ahead, 1, 0);
    let whole = fs::read(&path).expect("a file");
    let refusal = || {
        let error = RunFolder::open_or_create(&place.run(), manifest(), false);
        error.expect_err("damage").to_string()
    };
    for at in [2, 10, 40, 100 + ENTRY_BYTES] {
        flip(&path, at);
        let said = refusal();
        assert!(
            said.contains("ahead-0001-000.wal is damaged at byte "),
            "{said}"
        );
        assert!(said.contains("--salvage"), "{said}");
        fs::write(&path, &whole).expect("restored");
    }
    let journal = place.shard_file(FileKind::Journal, 1, 0);
    let header = fs::read(&journal).expect("a journal");
    fs::remove_file(&journal).expect("removed");
    assert!(refusal().contains("the journal is missing"));
    fs::write(&journal, header).expect("restored");
    // An end that is cut off is torn: its lines are sent again.
    let used = whole.iter().rposition(|byte| *byte != 0).expect("frames");
    cut(&path, used as u64);
    let resume = place.open().resume.expect("a run");
    let lines: Vec<_> = (1..=4).filter(|line| resume.done.contains(*line)).collect();
    assert_eq!((lines, resume.mended.lines_lost), (vec![2, 3], 1));
}

#[test]
fn without_space_for_it_records_go_straight_to_their_segments() {
    for when in ["at once", "later", "in the segments"] {
        let place = Place::new();
        let opened = place.open();
        let mut log = ahead_log(&opened.folder, Order::Input);
        begin(&mut log, 1..=4);
        succeed(&mut log, [3]);
        let path = place.shard_file(FileKind::Ahead, 1, 0);
        match when {
            // Something is in its place.
            "at once" => fs::write(&path, "").expect("a file"),
            _ => log.flush().expect("space"),
        }
        if when == "later" {
            let read_only = fs::File::open(&path).expect("a file");
            log.ahead.as_mut().expect("in use").swap(read_only);
        }
        succeed(&mut log, [2]);
        if when == "in the segments" {
            let error = log.reserve(1 << 60).expect_err("no disk is that large");
            assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        }
        log.flush().expect("survived");
        assert_eq!((log.buffered(), log.safe()), (0, 2), "{when}");
        assert_eq!(journalled(&place), [2, 3], "{when}");
        succeed(&mut log, [4, 1]);
        log.flush().expect("space");
        assert_eq!(journalled(&place), [2, 3, 4, 1], "{when}");
        log.finish().expect("space");
        if when != "at once" {
            assert!(!path.exists(), "{when}");
        }
        drop((log, opened));
        assert_eq!(done(&place.open().resume.expect("a run")).len(), 4);
    }
}

#[test]
fn what_fails_to_leave_the_write_ahead_file_is_tried_again() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    begin(&mut log, 1..=2);
    succeed(&mut log, [1]);
    log.flush().expect("space");
    let read_only = fs::File::open(place.shard_file(FileKind::Errors, 1, 0)).expect("a file");
    let real = log.journal.swap(read_only);
    log.sync_in_background().expect_err("it cannot be written");
    assert_eq!(log.buffered(), 1, "not drained before it is in the journal");
    log.flush().expect_err("still not");
    assert_eq!(
        copy_resumed(&place).0,
        BTreeSet::from([1]),
        "safe all the time"
    );
    log.journal.swap(real);
    succeed(&mut log, [2]);
    log.flush().expect("written");
    assert_eq!((log.buffered(), copy_resumed(&place).0.len()), (0, 2));
    log.finish().expect("space");
    assert_eq!(journalled(&place), [1, 2]);
}

#[test]
fn what_leaves_the_write_ahead_file_at_once_goes_in_pieces() {
    let place = Place::new();
    let opened = place.open();
    let mut log = ahead_log(&opened.folder, Order::Input);
    fn output(log: &mut ShardLog) -> &mut AppendFile {
        match &mut log.output {
            Output::Kept(file) => file,
            Output::Counted(_) => panic!("it is kept"),
        }
    }
    // Lines that wait for the first one, and then may go.
    let gather = |log: &mut ShardLog, first: u64| {
        let finish = |log: &mut ShardLog, line: u64| {
            let text = format!("\"{line}{}\"\n", "x".repeat(200));
            log.append(entry(line, Success), text.as_bytes());
        };
        begin(log, first..first + 12);
        (first + 1..first + 12).for_each(|line| finish(log, line));
        log.flush().expect("space");
        assert_eq!(output(log).buffer().len(), 0);
        finish(log, first);
        let ready = log.ahead.as_ref().expect("in use").ready_bytes();
        assert!(ready > 2 * PUT_AWAY_BYTES, "{ready} bytes");
    };
    gather(&mut log, 1);
    log.flush().expect("space");
    assert!(journalled(&place).into_iter().eq(1..=12));
    let kept = output(&mut log).buffer().capacity();
    assert!(kept <= PUT_AWAY_BYTES, "{kept} bytes");

    // A piece that fails is tried again with the rest.
    gather(&mut log, 13);
    let read_only = fs::File::open(place.shard_file(FileKind::Output, 1, 0)).expect("a file");
    let real = output(&mut log).swap(read_only);
    log.flush().expect_err("it cannot be written");
    assert_eq!(log.buffered(), 12);
    assert_eq!(copy_resumed(&place).0.len(), 24, "safe all the time");
    output(&mut log).swap(real);
    log.flush().expect("written");
    assert!(journalled(&place).into_iter().eq(1..=24));
    log.finish().expect("space");
}

/// What a process is sure of when it dies, and what it was at.
#[derive(Default)]
struct Witness {
    safe: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    /// Attempts that ended no line: flushed, and made.
    attempts: (u64, u64),
}

/// A process that finishes lines in any order until its disk ends it.
fn live(folder: &RunFolder, seed: u64, witness: &mut Witness) -> Result<(), StorageError> {
    let mut random = fastrand::Rng::with_seed(seed);
    let log = ShardLog::create(folder, 1, 0, true, Durability::Process)?;
    let mut log = log.writing_ahead(folder, Order::Input);
    let (mut open, mut next) = (Vec::new(), 1);
    for _ in 0..30 {
        while open.len() < 6 {
            log.begin(next);
            open.push(next);
            next += 1;
        }
        for _ in 0..random.usize(1..5) {
            // The first line takes long.
            let line = open.swap_remove(random.usize(usize::from(open[0] == 1)..open.len()));
            if random.u8(0..4) == 0 {
                log.note_attempt(attempt(line));
                witness.attempts.1 += 1;
                open.insert(usize::from(line != 1), line);
            } else {
                let outcome = [Success, Failure][usize::from(random.u8(0..5) == 0)];
                log.append(entry(line, outcome), record(line, outcome).as_bytes());
                witness.finished.insert(line);
            }
        }
        log.reserve(2000)?;
        log.flush()?;
        witness.safe.clone_from(&witness.finished);
        witness.attempts.0 = witness.attempts.1;
        if random.u8(0..4) == 0 {
            log.sync_in_background()?;
        }
    }
    log.finish()
}

/// Between any two changes that it makes to the disk, and the one that resumes between any two of its.
#[test]
fn killed_between_any_two_changes_it_loses_nothing_that_was_flushed() {
    let manners = Manners {
        shuffles: 0.0,
        main_eager: 1.0,
        stalls: 0.0,
        stall_max: Duration::ZERO,
        cores: 1,
    };
    let mut drains = 0;
    for kill_at in 0.. {
        let seed = kill_at % 5;
        let place = Place::new();
        let opened = place.open();
        let world = World::new(kill_at, manners.clone(), false);
        let _here = world.enter();
        let dies_at = |kill_at| DiskTrouble {
            kill_at,
            ..DiskTrouble::default()
        };
        world.disk.begin(dies_at(Some(kill_at)));
        let mut witness = Witness::default();
        let lived = live(&opened.folder, seed, &mut witness);
        drop(opened);
        if !world.is_killed() {
            lived.expect("nothing is wrong with the disk");
            assert!(kill_at > 60, "{kill_at} changes");
            break;
        }
        for resume_kill in 0.. {
            world.revive();
            world.disk.begin(dies_at(Some(resume_kill)));
            let had_ahead = place.shard_file(FileKind::Ahead, 1, 0).exists();
            let resumed = RunFolder::open_or_create(&place.run(), manifest(), false);
            if !world.is_killed() {
                resumed.expect("nothing is damaged");
                break;
            }
            drains += u32::from(had_ahead);
            drop(resumed);
            world.revive();
            world.disk.begin(dies_at(None));
            let (lines, paid) = copy_resumed(&place);
            assert!(lines.is_superset(&witness.safe), "{kill_at} {resume_kill}");
            assert!(
                lines.is_subset(&witness.finished),
                "{kill_at} {resume_kill}"
            );
            let attempts = (paid - lines.len() as u64 * RECORD_COST) / ATTEMPT_COST;
            let (least, most) = witness.attempts;
            assert!(
                (least..=most).contains(&attempts),
                "{kill_at} {resume_kill}"
            );
        }
    }
    assert!(drains > 200, "{drains} kills of a process that drains");
}
