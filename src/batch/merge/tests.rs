//! Merges of runs made by hand.

mod begun;
mod kills;
mod publish;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::*;
use crate::batch::folder::fixture::{Place, cut, entry, flip, log, record};
use crate::batch::folder::{FileKind, Manifest, Opened};
use crate::batch::segment::{NewAttempt, ShardLog};
use crate::config::Durability;
use crate::journal::Outcome::{Failure, Success};

fn plan(place: &Place, order: Order) -> MergePlan {
    MergePlan {
        order,
        output: Some(Target::File(place.at("out.jsonl"))),
        errors: Target::File(place.at("errors.jsonl")),
        overwrite: false,
        begun: None,
    }
}

fn merge_now(place: &Place, plan: MergePlan) -> Result<Merged, StorageError> {
    let opened = place.open();
    merge(&opened.folder, plan, recorded(&opened), &mut |_, _| {})
}

/// Lines that have a record.
fn recorded(opened: &Opened) -> u64 {
    let resume = opened.resume.as_ref();
    resume.map_or(0, |resume| resume.succeeded + resume.failed)
}

fn records(lines: &[(u64, Outcome)]) -> String {
    lines
        .iter()
        .map(|&(number, outcome)| record(number, outcome))
        .collect()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The final files hold these lines in this order, and nothing else is left.
fn expect_final(place: &Place, output: &[(u64, Outcome)], errors: &[(u64, Outcome)]) {
    assert_eq!(read(&place.at("out.jsonl")), Some(records(output)));
    assert_eq!(
        read(&place.at("errors.jsonl")),
        (!errors.is_empty()).then(|| records(errors))
    );
    assert!(!place.run().exists());
}

#[test]
fn attempts_that_ended_no_line_leave_no_record() {
    let place = Place::new();
    for order in [Order::Input, Order::Completion] {
        let opened = place.open();
        let mut log = log(&opened.folder, 0);
        for number in [1, 2, 9] {
            log.note_attempt(NewAttempt {
                attempts: 0,
                line_offset: number * 100,
                line_number: number,
                // Also later than the line's end, as clocks go.
                completed_us: u64::MAX,
                tokens: crate::journal::Tokens::default(),
                cost_nano_usd: 1,
            });
            if number < 9 {
                log.append(entry(number, Success), record(number, Success).as_bytes());
            }
        }
        log.finish().expect("written");
        drop((log, opened));
        let mut plan = plan(&place, order);
        plan.overwrite = true;
        let merged = merge_now(&place, plan).expect("merged");
        assert_eq!((merged.succeeded, merged.failed), (2, 0));
        expect_final(&place, &[(1, Success), (2, Success)], &[]);
    }
}

#[test]
fn lines_come_out_in_input_order_whoever_finished_them() {
    type Shards<'a> = &'a [&'a [(u64, Outcome)]];
    let check = |processes: &[Shards<'_>], output: &[(u64, Outcome)], errors: &[(u64, Outcome)]| {
        let place = Place::new();
        processes.iter().for_each(|shards| place.process(shards));
        let merged = merge_now(&place, plan(&place, Order::Input)).expect("merged");
        assert_eq!(
            merged,
            Merged {
                succeeded: output.len() as u64,
                failed: errors.len() as u64
            }
        );
        expect_final(&place, output, errors);
    };
    let good = |numbers: &[u64]| {
        numbers
            .iter()
            .map(|number| (*number, Success))
            .collect::<Vec<_>>()
    };
    let bad = |numbers: &[u64]| {
        numbers
            .iter()
            .map(|number| (*number, Failure))
            .collect::<Vec<_>>()
    };
    check(&[], &[], &[]);
    check(&[&[&[]]], &[], &[]);
    check(&[&[&good(&[1, 2, 3])]], &good(&[1, 2, 3]), &[]);
    check(&[&[&good(&[3, 1, 2])]], &good(&[1, 2, 3]), &[]);
    check(
        &[&[&good(&[4, 2]), &good(&[5, 1]), &good(&[3])]],
        &good(&[1, 2, 3, 4, 5]),
        &[],
    );
    check(&[&[&bad(&[2, 1])]], &[], &bad(&[1, 2]));
    check(&[&[&bad(&[1, 2])]], &[], &bad(&[1, 2]));
    check(
        &[&[
            &[(2, Failure), (1, Success)],
            &[(1000, Success), (7, Failure)],
        ]],
        &good(&[1, 1000]),
        &bad(&[2, 7]),
    );
    check(
        &[
            &[&good(&[1, 4])],
            &[&good(&[3]), &good(&[2])],
            &[&bad(&[5])],
        ],
        &good(&[1, 2, 3, 4]),
        &bad(&[5]),
    );
    // Errors sent again: the later record counts.
    check(
        &[&[&bad(&[1, 2, 3])], &[&[(3, Failure), (1, Success)]]],
        &good(&[1]),
        &bad(&[2, 3]),
    );
}

#[test]
fn completion_order_follows_the_clock_and_the_processes() {
    let place = Place::new();
    for (generation, shards) in [
        [vec![(5, 10), (1, 30)], vec![(2, 20), (9, 40)]],
        [vec![(3, 5)], vec![(9, 1), (4, 7)]],
    ]
    .into_iter()
    .enumerate()
    {
        let Opened { folder, .. } = place.open();
        for (shard, lines) in shards.into_iter().enumerate() {
            let mut log = log(&folder, shard);
            for (number, completed_us) in lines {
                // Line 9 fails first and succeeds in the second process.
                let outcome = if number == 9 && generation == 0 {
                    Failure
                } else {
                    Success
                };
                let entry = crate::batch::segment::NewEntry {
                    completed_us,
                    ..entry(number, outcome)
                };
                log.append(entry, record(number, outcome).as_bytes());
            }
            log.finish().expect("space");
        }
    }
    merge_now(&place, plan(&place, Order::Completion)).expect("merged");
    expect_final(
        &place,
        &[5, 2, 1, 9, 3, 4].map(|number| (number, Success)),
        &[],
    );
}

#[test]
fn a_segment_that_is_the_final_file_is_renamed() {
    #[cfg(unix)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let place = Place::new();
    place.process(&[&[(1, Success), (2, Success)], &[(3, Failure)]]);
    let metadata = |path: &Path| fs::metadata(path).expect("a file");
    let segment = metadata(&place.shard_file(FileKind::Output, 1, 0));
    assert!(segment.is_file());
    merge_now(&place, plan(&place, Order::Input)).expect("merged");
    expect_final(&place, &[(1, Success), (2, Success)], &[(3, Failure)]);
    #[cfg(unix)]
    {
        let merged = metadata(&place.at("out.jsonl"));
        assert_eq!(merged.ino(), segment.ino());
        fs::write(place.at("any"), "").expect("a file");
        let usual = metadata(&place.at("any")).permissions().mode();
        assert_eq!(
            merged.permissions().mode(),
            usual,
            "final files are not private"
        );
    }
}

/// A segment that is the final file is compared with its journal like any other.
#[test]
fn a_segment_is_read_before_it_is_renamed() {
    for resumes in [false, true] {
        let place = Place::new();
        let mut opened = place.open();
        let mut log = log(&opened.folder, 0).writing_ahead(&opened.folder, Order::Input);
        for number in [1, 2, 3] {
            log.begin(number);
        }
        for number in [3, 2, 1] {
            log.append(entry(number, Success), record(number, Success).as_bytes());
        }
        log.finish().expect("space");
        drop(log);
        if resumes {
            drop(opened);
            opened = place.open();
        }
        flip(&place.shard_file(FileKind::Output, 1, 0), 40);
        let plan = plan(&place, Order::Input);
        let merged = merge(&opened.folder, plan, 3, &mut |_, _| {});
        assert!(
            matches!(merged, Err(StorageError::Damaged { .. })),
            "{merged:?}"
        );
        assert!(!place.at("out.jsonl").exists());
    }
}

#[test]
fn successes_that_were_only_counted_make_no_file() {
    let place = Place::new();
    let manifest = Manifest {
        has_output: false,
        ..crate::batch::folder::fixture::manifest()
    };
    let folder = RunFolder::open_or_create(&place.run(), manifest, false)
        .expect("a run")
        .folder;
    let mut log = ShardLog::create(&folder, 1, 0, false, Durability::Power).expect("a log");
    for (number, outcome) in [(2, Success), (1, Failure), (3, Success)] {
        log.append(entry(number, outcome), record(number, outcome).as_bytes());
    }
    log.finish().expect("space");
    // As in a run: shards are gone before the merge, and with them what they had open.
    drop(log);
    let plan = MergePlan {
        output: None,
        ..plan(&place, Order::Input)
    };
    assert_eq!(
        merge(&folder, plan, 3, &mut |_, _| {}).expect("merged"),
        Merged {
            succeeded: 2,
            failed: 1
        }
    );
    assert_eq!(read(&place.at("errors.jsonl")), Some(record(1, Failure)));
    assert!(!place.at("out.jsonl").exists() && !place.run().exists());
}

/// A stream that remembers, or breaks.
#[derive(Clone, Default)]
struct Stream {
    written: Rc<RefCell<Vec<u8>>>,
    broken: bool,
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.written.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn standard_output_gets_the_records_and_a_broken_one_loses_nothing() {
    let place = Place::new();
    place.process(&[&[(2, Success), (3, Failure), (1, Success)]]);
    let to = |stream: &Stream| MergePlan {
        output: Some(Target::Stdout(Box::new(stream.clone()))),
        ..plan(&place, Order::Input)
    };
    let error = merge_now(
        &place,
        to(&Stream {
            broken: true,
            ..Stream::default()
        }),
    )
    .expect_err("broken");
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    assert!(place.run().exists() && !place.at("errors.jsonl").exists());
    let stream = Stream::default();
    merge_now(&place, to(&stream)).expect("merged");
    assert_eq!(
        *stream.written.borrow(),
        records(&[(1, Success), (2, Success)]).as_bytes()
    );
    assert_eq!(read(&place.at("errors.jsonl")), Some(record(3, Failure)));
}

#[test]
#[cfg(unix)]
fn a_device_is_written_to_and_a_link_stays_a_link() {
    let place = Place::new();
    place.process(&[&[(2, Success), (1, Failure), (3, Success)]]);
    fs::write(place.at("real"), "").expect("a file");
    std::os::unix::fs::symlink("real", place.at("out.jsonl")).expect("a link");
    let null = Target::File("/dev/null".into());
    let plan = MergePlan {
        errors: null,
        overwrite: true,
        begun: None,
        ..plan(&place, Order::Input)
    };
    merge_now(&place, plan).expect("merged");
    assert!(!fs::metadata("/dev/null").expect("a device").is_file());
    assert!(
        fs::symlink_metadata(place.at("out.jsonl"))
            .expect("a link")
            .is_symlink()
    );
    assert_eq!(
        read(&place.at("real")),
        Some(records(&[(2, Success), (3, Success)]))
    );
}

#[test]
fn old_final_files_are_replaced_only_if_asked() {
    for overwrite in [false, true] {
        let place = Place::new();
        place.process(&[&[(1, Success)]]);
        fs::write(place.at("out.jsonl"), "old").expect("a file");
        fs::write(place.at("errors.jsonl"), "old").expect("a file");
        let result = merge_now(
            &place,
            MergePlan {
                overwrite,
                begun: None,
                ..plan(&place, Order::Input)
            },
        );
        if overwrite {
            result.expect("merged");
            expect_final(&place, &[(1, Success)], &[]);
        } else {
            assert!(
                matches!(result, Err(StorageError::TargetExists { path }) if path == place.at("out.jsonl"))
            );
            assert_eq!(read(&place.at("out.jsonl")).as_deref(), Some("old"));
            assert!(place.run().exists(), "the records are kept");
        }
    }
}

#[test]
fn damage_found_while_merging_publishes_nothing() {
    for (kind, what) in [
        (FileKind::Output, "altered"),
        (FileKind::Errors, "altered"),
        (FileKind::Output, "cut off"),
        (FileKind::Journal, "damaged"),
    ] {
        let place = Place::new();
        place.process(&[
            &[(2, Success), (1, Success), (4, Failure), (3, Failure)],
            &[(5, Success)],
        ]);
        let opened = place.open();
        let path = place.shard_file(kind, 1, 0);
        match what {
            "cut off" => cut(&path, 7),
            _ => flip(
                &path,
                fs::metadata(&path).expect("a file").len() as usize - 9,
            ),
        }
        let error = merge(
            &opened.folder,
            plan(&place, Order::Input),
            recorded(&opened),
            &mut |_, _| {},
        )
        .expect_err("damage");
        assert!(
            !error.is_resumable() && error.to_string().contains(what),
            "{error}"
        );
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
        assert!(!place.at("out.jsonl").exists() && !place.at("errors.jsonl").exists());
        for name in ["merge-index", "output.merged", "errors.merged"] {
            assert!(!place.run().join(name).exists(), "{name}");
        }
    }
}

#[test]
fn a_merge_that_was_killed_is_done_again() {
    let place = Place::new();
    place.process(&[&[(2, Success), (1, Success), (3, Failure)]]);
    for name in [
        "merge-index",
        "output.merged",
        "errors.merged",
        "manifest.json.partial",
        "permissions",
    ] {
        fs::write(place.run().join(name), "half-written").expect("a file");
    }
    merge_now(&place, plan(&place, Order::Input)).expect("merged");
    expect_final(&place, &[(1, Success), (2, Success)], &[(3, Failure)]);
}

#[test]
fn progress_ends_with_all_lines() {
    let place = Place::new();
    place.process(&[&[(2, Success), (1, Failure)]]);
    let mut told = Vec::new();
    merge(
        &place.open().folder,
        plan(&place, Order::Input),
        2,
        &mut |done, total| told.push((done, total)),
    )
    .expect("merged");
    assert_eq!(told, [(2, 2)]);
}

#[test]
fn books_that_do_not_balance_publish_nothing() {
    let place = Place::new();
    place.process(&[&[(1, Success), (3, Failure)]]);
    let opened = place.open();
    let error = merge(
        &opened.folder,
        plan(&place, Order::Input),
        3,
        &mut |_, _| {},
    )
    .expect_err("line 2 has no record");
    assert!(
        matches!(
            error,
            StorageError::Books {
                lines: 3,
                succeeded: 1,
                failed: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(!place.at("out.jsonl").exists() && !place.at("errors.jsonl").exists());
    assert!(place.run().exists());
}
