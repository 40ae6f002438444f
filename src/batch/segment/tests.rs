//! What a shard writes, byte for byte.

mod ahead;

use std::fs;

use super::*;
use crate::batch::folder::fixture::{Place, entry, log, record};
use crate::journal::Outcome::{Failure, Success};
use crate::journal::{ENTRY_BYTES, Replay, replay};

/// Every journalled record as the files hold it.
fn on_disk(place: &Place) -> Vec<(u64, String)> {
    let read = |kind| fs::read(place.shard_file(kind, 1, 0)).unwrap_or_default();
    let (output, errors, journal) = (
        read(FileKind::Output),
        read(FileKind::Errors),
        read(FileKind::Journal),
    );
    let replay: Replay<'_> = replay(&journal).expect("no damage");
    let text = |entry: Entry| {
        let segment = match entry.outcome {
            Some(Success) => &output,
            Some(Failure) => &errors,
            None => return (entry.line_number, String::new()),
        };
        let record = &segment[entry.position as usize..entry.end().expect("a position") as usize];
        assert_eq!(crc32fast::hash(record), entry.record_checksum);
        (
            entry.line_number,
            String::from_utf8(record.to_vec()).expect("text"),
        )
    };
    replay.entries().map(text).collect()
}

fn expected(lines: &[(u64, Outcome)]) -> Vec<(u64, String)> {
    lines
        .iter()
        .map(|&(number, outcome)| (number, record(number, outcome)))
        .collect()
}

fn append(log: &mut ShardLog, lines: &[(u64, Outcome)]) {
    for &(number, outcome) in lines {
        log.append(entry(number, outcome), record(number, outcome).as_bytes());
    }
}

#[test]
fn records_reach_the_files_at_a_flush_and_not_before() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    let lines = [(3, Success), (1, Failure), (2, Success), (9, Failure)];
    append(&mut log, &lines[..3]);
    assert_eq!((log.committed(), log.buffered(), log.safe()), (3, 3, 0));
    let bytes: usize = expected(&lines[..3])
        .iter()
        .map(|(_, record)| record.len() + ENTRY_BYTES)
        .sum();
    assert_eq!(log.buffered_bytes(), bytes);
    assert_eq!(on_disk(&place), []);
    log.flush().expect("space");
    assert_eq!(
        (
            log.committed(),
            log.buffered(),
            log.safe(),
            log.buffered_bytes()
        ),
        (3, 0, 3, 0)
    );
    assert_eq!(on_disk(&place), expected(&lines[..3]));
    append(&mut log, &lines[3..]);
    log.flush().expect("space");
    assert_eq!(on_disk(&place), expected(&lines));
}

#[test]
fn a_record_is_written_straight_into_its_segment() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    append(&mut log, &[(1, Success)]);
    let buffer = log.record_buffer(Success);
    let start = buffer.len();
    buffer.extend_from_slice(record(2, Success).as_bytes());
    log.commit(entry(2, Success), start);
    log.flush().expect("space");
    assert_eq!(on_disk(&place), expected(&[(1, Success), (2, Success)]));
}

#[test]
#[should_panic(expected = "a record ends with its newline")]
fn a_record_without_its_newline_is_a_bug() {
    let place = Place::new();
    log(&place.open().folder, 0).append(entry(1, Success), b"{}");
}

#[test]
fn successes_that_nobody_keeps_are_counted() {
    let place = Place::new();
    let opened = place.open();
    let mut log =
        ShardLog::create(&opened.folder, 1, 0, false, Durability::Process).expect("a shard log");
    append(&mut log, &[(1, Success), (2, Failure), (3, Success)]);
    log.finish().expect("space");
    let nothing = |number| (number, String::new());
    assert_eq!(
        on_disk(&place),
        [nothing(1), (2, record(2, Failure)), nothing(3)]
    );
    assert!(!place.shard_file(FileKind::Output, 1, 0).exists());
}

#[test]
fn nothing_is_safe_from_power_loss_before_it_is_synced() {
    let place = Place::new();
    let opened = place.open();
    let mut log =
        ShardLog::create(&opened.folder, 1, 0, true, Durability::Power).expect("a shard log");
    append(&mut log, &[(1, Success), (2, Failure)]);
    log.flush().expect("space");
    assert_eq!((log.buffered(), log.safe()), (0, 0));
    log.sync().expect("synced");
    assert_eq!(log.safe(), 2);
    let journal = fs::read(place.shard_file(FileKind::Journal, 1, 0)).expect("a journal");
    assert_eq!(replay(&journal).expect("no damage").settled(), 2);
}

#[test]
fn what_another_thread_has_synced_is_safe() {
    let place = Place::new();
    let opened = place.open();
    let mut log =
        ShardLog::create(&opened.folder, 1, 0, true, Durability::Power).expect("a shard log");
    append(&mut log, &[(1, Success), (2, Failure)]);
    log.sync_in_background().expect("handed over");
    append(&mut log, &[(3, Success)]);
    assert_eq!(log.safe(), 0, "nobody has looked yet");
    while log.safe() < 3 {
        let before = log.safe();
        log.sync_in_background().expect("handed over");
        assert!(log.safe() == before || [2, 3].contains(&log.safe()));
        std::thread::yield_now();
    }
    append(&mut log, &[(4, Success)]);
    log.sync_in_background().expect("handed over");
    append(&mut log, &[(5, Success)]);
    log.finish().expect("waits for both");
    assert_eq!((log.safe(), on_disk(&place).len()), (5, 5));
}

#[test]
#[cfg(target_os = "linux")]
fn a_sync_that_failed_is_final_whoever_hears_of_it() {
    for in_background in [false, true] {
        let place = Place::new();
        let opened = place.open();
        let mut log =
            ShardLog::create(&opened.folder, 1, 0, true, Durability::Power).expect("a shard log");
        append(&mut log, &[(1, Success), (2, Failure)]);
        // Takes every write, and cannot be synced.
        let null = fs::File::options().write(true).open("/dev/null");
        let real = log.errors.swap(null.expect("a device"));
        if in_background {
            log.sync_in_background().expect("handed over");
        }
        let error = log.sync().expect_err("no such operation").to_string();
        assert!(
            error.contains("cannot sync") && error.contains("errors-0001-000.seg"),
            "{error}"
        );
        log.errors.swap(real);
        for _ in 0..2 {
            let error = log
                .sync()
                .expect_err("unknown what the disk holds")
                .to_string();
            assert!(error.contains("an earlier sync failed"), "{error}");
            log.sync_in_background().expect_err("the same");
        }
        assert_eq!(log.safe(), 0);
        let journal = fs::read(place.shard_file(FileKind::Journal, 1, 0)).expect("a journal");
        assert_eq!(replay(&journal).expect("no damage").settled(), 0);
    }
}

#[test]
fn files_of_an_earlier_process_are_never_touched() {
    let place = Place::new();
    let opened = place.open();
    log(&opened.folder, 0);
    let again = ShardLog::create(&opened.folder, 1, 0, true, Durability::Process);
    assert!(
        matches!(
            again,
            Err(StorageError::Io {
                operation: "create",
                ..
            })
        ),
        "{again:?}"
    );
}

#[test]
fn reserved_space_grows_in_steps_and_is_given_back() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    log.reserve(1000).expect("space");
    append(&mut log, &[(1, Success)]);
    log.reserve(1000).expect("space");
    log.reserve(1 << 20).expect("space");
    let size = |kind| {
        fs::metadata(place.shard_file(kind, 1, 0))
            .expect("a file")
            .len()
    };
    log.flush().expect("space");
    assert_eq!(
        size(FileKind::Output),
        record(1, Success).len() as u64,
        "reserving shows in no size"
    );
    log.finish().expect("space");
    append(&mut log, &[(2, Success)]);
    log.reserve(1000).expect("space");
    log.finish().expect("space");
    assert_eq!(on_disk(&place), expected(&[(1, Success), (2, Success)]));
}

#[test]
#[cfg(target_os = "linux")]
fn no_entry_is_written_before_its_record() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    let lines = [(1, Success), (2, Failure)];
    append(&mut log, &lines);
    let full = || {
        fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("a device")
    };
    let real = log.errors.swap(full());
    for _ in 0..2 {
        assert!(matches!(log.flush(), Err(StorageError::NoSpace { .. })));
        assert_eq!((log.buffered(), log.safe()), (2, 0));
        assert_eq!(on_disk(&place), []);
    }
    log.errors.swap(real);
    let real = log.journal.swap(full());
    assert!(matches!(log.flush(), Err(StorageError::NoSpace { .. })));
    assert_eq!((log.buffered(), log.safe()), (2, 0));
    log.journal.swap(real);
    log.flush().expect("room was made");
    assert_eq!(on_disk(&place), expected(&lines));
}

#[test]
#[cfg(target_os = "linux")]
fn a_reservation_that_cannot_be_met_names_path_and_need() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    append(&mut log, &[(1, Success)]);
    let impossible = 1 << 60;
    match log.reserve(impossible) {
        Err(StorageError::NoSpace {
            path, needed_bytes, ..
        }) => {
            assert_eq!(path, place.shard_file(FileKind::Output, 1, 0));
            assert_eq!(needed_bytes, impossible + record(1, Success).len() as u64);
        }
        other => panic!("{other:?}"),
    }
    log.flush().expect("what was received is kept");
    assert_eq!(on_disk(&place), expected(&[(1, Success)]));
}
