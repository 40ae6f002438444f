//! What a run folder refuses, and how it says so; what is torn, dropped; what is damaged, named and salvaged.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use blaze_uring::journal::{ENTRY_BYTES, HEADER_BYTES, MARK_OFFSET, ahead, entry_offset, replay};

use crate::scene::{Final, Kept, Lines, Scene, WORKERS, undisturbed};
use crate::support::{Run, WATCHDOG, run, runtimes, spawn};

const LINES: Lines = Lines {
    sent: 60,
    invalid: 2,
};

/// A run that was killed with records of both kinds on disk.
fn killed(runtime: &'static str) -> (Scene, Kept) {
    let scene = Scene::new(runtime, LINES);
    assert!(scene.kill_at(40, &[]), "the run was still sending");
    let kept = scene.kept();
    assert!(kept.finished.len() > 10, "{:?}", kept.finished);
    (scene, kept)
}

/// A run that was stopped by a signal, so that everything is in segments and journal.
fn stopped(runtime: &'static str) -> (Scene, Kept) {
    let scene = Scene::new(runtime, LINES);
    let running = scene.start(&[]);
    assert!(scene.arrivals.wait_for(40, WATCHDOG));
    running.signal(libc::SIGINT);
    running.wait().expect(130);
    let kept = scene.kept();
    assert!(kept.finished.len() >= 40, "{:?}", kept.finished);
    (scene, kept)
}

#[test]
fn a_second_process_is_refused() {
    for runtime in runtimes() {
        let scene = Scene::with(runtime, LINES, |options| {
            options.latency = "300ms".parse().expect("a latency");
        });
        let running = spawn(&scene.place, &scene.args(&[]));
        assert!(scene.arrivals.wait_for(u64::from(WORKERS), WATCHDOG));
        for more in [&[][..], &["--fresh"]] {
            let second = run(&scene.place, &scene.args(more)).expect(1);
            let pid = format!("in use by another process (pid {})", running.id());
            assert!(second.stderr.contains(&pid), "{second:#?}");
            assert!(second.stderr.contains("out.jsonl.blaze"), "{second:#?}");
        }
        running.wait().expect(scene.end_status());
        assert_eq!(scene.arrivals.count(), LINES.sent as u64);
        scene.files();
    }
}

#[test]
fn another_run_is_refused_and_fresh_starts_again() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let (scene, kept) = killed(runtime);
        let input = scene.place.read("in.jsonl");
        let refused = |more: &[&str], what: &str| {
            let before = scene.place.listing();
            let sent = scene.arrivals.count();
            let refused = run(&scene.place, &scene.args(more)).expect(1);
            for part in [what, "--fresh", "out.jsonl.blaze"] {
                assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
            }
            assert_eq!(scene.place.listing(), before, "nothing was touched");
            assert_eq!(scene.arrivals.count(), sent, "nothing was sent");
        };
        refused(&["--format", "openai"], "another --format");
        // As long as before, at the same time of change: only the content tells.
        let mut other = input.clone();
        let at = other.len() / 2;
        other[at] ^= 1;
        let modified = fs::metadata(scene.place.path("in.jsonl"))
            .and_then(|metadata| metadata.modified())
            .expect("a time");
        scene.place.write("in.jsonl", &other);
        let file = OpenOptions::new()
            .write(true)
            .open(scene.place.path("in.jsonl"));
        file.and_then(|file| file.set_modified(modified))
            .expect("the time is set");
        refused(&[], "another input");
        scene.place.write(
            "in.jsonl",
            [&input[..], b"{\"input\": \"line 1\"}\n"].concat(),
        );
        refused(&[], "another input");
        // The first input again, with another time of change: the run goes on.
        scene.place.write("in.jsonl", &input);
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], WORKERS.into());

        let (scene, kept) = killed(runtime);
        scene.finish(&["--fresh"]);
        assert_eq!(scene.files(), undisturbed);
        let seen = scene.arrivals.seen();
        assert!(
            kept.finished
                .iter()
                .all(|line| { *line > LINES.sent as u64 || seen[line] == kept.seen[line] + 1 }),
            "everything was sent again"
        );
    }
}

#[test]
fn a_finished_output_is_refused_and_overwritten_when_asked() {
    for runtime in runtimes() {
        let scene = Scene::new(runtime, LINES);
        scene.finish(&[]);
        let (output, sent) = (scene.place.read("out.jsonl"), scene.arrivals.count());
        for more in [&[][..], &["--fresh"]] {
            let refused = run(&scene.place, &scene.args(more)).expect(1);
            assert!(refused.stderr.contains("--overwrite"), "{refused:#?}");
            assert!(refused.stderr.contains("out.jsonl"), "{refused:#?}");
        }
        assert_eq!(scene.place.read("out.jsonl"), output);
        assert_eq!(scene.arrivals.count(), sent);
        // What replaces it is killed: the old output stays until the new one is complete.
        assert!(scene.kill_at(30, &["--overwrite"]));
        assert_eq!(scene.place.read("out.jsonl"), output);
        scene.finish(&[]);
        assert_eq!(scene.arrivals.seen().len(), LINES.sent);
        assert!(scene.arrivals.count() >= 2 * sent, "it was sent again");
        scene.files();
    }
}

#[test]
fn a_run_of_another_version_is_refused() {
    for runtime in runtimes() {
        let (scene, kept) = killed(runtime);
        let name = "out.jsonl.blaze/manifest.json";
        let manifest = scene.place.read(name);
        let mut newer: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let version = newer["version"].as_u64().expect("a version");
        newer["version"] = (version + 1).into();
        scene.place.write(name, newer.to_string());
        let sent = scene.arrivals.count();
        let refused = run(&scene.place, &scene.args(&[])).expect(1);
        for part in ["another version", "--fresh", "manifest.json"] {
            assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
        }
        assert_eq!(scene.arrivals.count(), sent, "nothing was sent");
        scene.place.write(name, &manifest);
        scene.finish(&[]);
        scene.check(&undisturbed(runtime, LINES), &[kept], WORKERS.into());
    }
}

#[test]
fn damage_before_the_tail_is_refused_by_file_and_offset() {
    for runtime in runtimes() {
        let journal = "out.jsonl.blaze/journal-0001-000.log";
        let output = "out.jsonl.blaze/output-0001-000.seg";
        let entry = entry_offset(3);
        // What is altered, and the offset that is named for it.
        let flips = [
            (journal, 20, 0),
            (journal, MARK_OFFSET as u64 + 1, MARK_OFFSET as u64),
            (journal, entry + 10, entry),
            (output, 30, 0),
        ];
        let (scene, kept) = stopped(runtime);
        for (name, at, named) in flips {
            let path = scene.place.path(name);
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.expect("a file of the run folder");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 0x40], at).expect("altered");
            check_refused(&scene, name, &format!("at byte {named}"));
            file.write_all_at(&byte, at).expect("restored");
        }
        let bytes = scene.place.read(journal);
        fs::remove_file(scene.place.path(journal)).expect("removed");
        check_refused(&scene, journal, "missing");
        scene.place.write(journal, &bytes);
        // Restored, the run goes on as if nothing had been.
        scene.finish(&[]);
        scene.check(&undisturbed(runtime, LINES), &[kept], WORKERS.into());
    }
}

/// What was written ahead of its place: damage before the last record is refused, a torn record is
/// dropped and its line sent again.
#[test]
fn damage_to_what_was_written_ahead_is_refused_too() {
    let name = "out.jsonl.blaze/ahead-0001-000.wal";
    let journal = "out.jsonl.blaze/journal-0001-000.log";
    for runtime in runtimes() {
        let (scene, kept) = killed(runtime);
        let bytes = scene.place.read(name);
        assert_eq!(bytes.len(), ahead::AHEAD_BYTES);
        let first = ahead::TURN_BYTES;
        for (at, named) in [
            (3, 0),
            (first + 30, first),
            (first + ENTRY_BYTES + 9, first),
        ] {
            let mut altered = bytes.clone();
            altered[at] ^= 0x40;
            scene.place.write(name, &altered);
            check_refused(&scene, name, &format!("at byte {named}"));
        }
        scene.place.write(name, &bytes);
        let header = scene.place.read(journal);
        fs::remove_file(scene.place.path(journal)).expect("removed");
        check_refused(&scene, journal, "missing");
        scene.place.write(journal, header);
        // The last record, half written, and everything behind it lost.
        let last = bytes.iter().rposition(|byte| *byte != 0).expect("records");
        scene.place.write(name, &bytes[..last - 20]);
        let on_disk = scene.kept();
        assert_eq!(on_disk.finished.len() + 1, kept.finished.len());
        let run = scene.finish(&[]);
        assert!(
            run.stderr.contains("1 finished line has no whole record"),
            "{run:#?}"
        );
        scene.check(
            &undisturbed(runtime, LINES),
            &[on_disk],
            u64::from(WORKERS) + 1,
        );
    }
}

#[track_caller]
fn check_refused(scene: &Scene, name: &str, what: &str) {
    let (sent, before) = (scene.arrivals.count(), scene.place.listing());
    let refused = run(&scene.place, &scene.args(&[])).expect(1);
    for part in [name, what] {
        assert!(refused.stderr.contains(part), "{name} {part}: {refused:#?}");
    }
    let [salvage, fresh] = ["--salvage", "--fresh"].map(|flag| refused.stderr.find(flag));
    assert!(salvage.is_some() && salvage < fresh, "{refused:#?}");
    assert_eq!(scene.arrivals.count(), sent, "nothing was sent");
    assert_eq!(scene.place.listing(), before, "nothing was touched");
    assert!(!scene.place.path("out.jsonl").exists());
}

/// Garbage behind the end, and any cut, at random or of the last byte alone: what is left counts, and no
/// more lines are sent again than were lost, which the run says.
#[test]
fn torn_tails_are_dropped_however_long_they_are() {
    for runtime in runtimes() {
        let expected = undisturbed(runtime, LINES);
        let (scene, kept) = stopped(runtime);
        let whole = folder_bytes(&scene);
        drop(scene);
        for name in [
            "journal-0001-000.log",
            "output-0001-000.seg",
            "errors-0001-000.seg",
        ] {
            let bytes = &whole[name];
            let length = bytes.len();
            let shorter = [1, 90, length / 2, length].map(|less| bytes[..length - less].to_vec());
            // Never written, though the file is as long as it was.
            let zeros = shorter[1..3].iter().cloned().map(|mut bytes| {
                bytes.resize(length, 0);
                bytes
            });
            // What a write that was under way may leave.
            let longer = [&bytes[..], &[0xa5; 50][..]].concat();
            for damaged in shorter.iter().cloned().chain(zeros).chain([longer]) {
                let scene = Scene::new(runtime, LINES);
                put_folder(&scene, &whole);
                let is_whole = damaged.starts_with(bytes);
                fs::write(scene.folder().join(name), &damaged).expect("a file");
                let run = scene.finish(&[]);
                assert_eq!(scene.files(), expected, "{name} {}", damaged.len());
                let again: u64 = (kept.finished.iter())
                    .map(|line| u64::from(*scene.arrivals.seen().get(line).unwrap_or(&0)))
                    .sum();
                match is_whole {
                    true => assert_eq!(again, 0, "{run:#?}"),
                    false => {
                        let told = lines_told(&run);
                        // What is no request has a record, too, and is not sent.
                        let invalid = LINES.invalid as u64;
                        assert!(
                            (again.max(1)..=again + invalid).contains(&told),
                            "{name}: {again} again: {run:#?}"
                        );
                    }
                }
            }
        }
        entries_behind_the_mark(runtime, &expected);
    }
}

/// How many lines the warning says have lost their records.
fn lines_told(run: &Run) -> u64 {
    let (before, _) = run.stderr.split_once(" finished line").expect("a warning");
    let digits = before.rsplit(|other: char| !other.is_ascii_digit()).next();
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}

/// The files of a run folder, without its lock.
fn folder_bytes(scene: &Scene) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(scene.folder()).expect("a run folder");
    entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| {
            let name = entry.file_name().into_string().expect("a name");
            (name, fs::read(entry.path()).expect("a file"))
        })
        .collect()
}

/// Gives a scene the run folder of another one.
fn put_folder(scene: &Scene, files: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(scene.folder()).expect("a folder");
    fs::write(scene.folder().join("lock"), "").expect("a file");
    for (name, bytes) in files {
        fs::write(scene.folder().join(name), bytes).expect("a file");
    }
}

/// `--salvage` on each kind of damage: what is whole is kept, the rest is sent again, and both are counted.
#[test]
fn salvage_keeps_every_whole_record_and_sends_the_others_again() {
    let flip = |bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 0x40;
    for runtime in runtimes() {
        let expected = undisturbed(runtime, LINES);
        let (scene, kept) = stopped(runtime);
        let whole = folder_bytes(&scene);
        drop(scene);
        let entry = entry_offset(3) as usize;
        type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
        // The file, what becomes of it (`None`: it is gone), and lines sent again at most.
        let cases: [(&str, Option<Change<'_>>, u64); 8] = [
            ("journal-0001-000.log", Some(&|bytes| flip(bytes, 20)), 0),
            (
                "journal-0001-000.log",
                Some(&|bytes| bytes[..HEADER_BYTES].fill(0)),
                0,
            ),
            (
                "journal-0001-000.log",
                Some(&|bytes| flip(bytes, MARK_OFFSET)),
                0,
            ),
            (
                "journal-0001-000.log",
                Some(&|bytes| flip(bytes, entry + 9)),
                0,
            ),
            ("journal-0001-000.log", None, 0),
            ("output-0001-000.seg", Some(&|bytes| flip(bytes, 30)), 1),
            (
                "output-0001-000.seg",
                Some(&|bytes| bytes[10..90].fill(0)),
                2,
            ),
            ("errors-0001-000.seg", None, LINES.sent as u64 / 9),
        ];
        for (name, change, most) in cases {
            let scene = Scene::new(runtime, LINES);
            put_folder(&scene, &whole);
            let mut bytes = whole[name].clone();
            match change {
                Some(change) => {
                    change(&mut bytes);
                    fs::write(scene.folder().join(name), &bytes).expect("a file");
                }
                None => fs::remove_file(scene.folder().join(name)).expect("removed"),
            }
            check_refused(&scene, name, "at byte");
            let run = scene.finish(&["--salvage"]);
            assert_eq!(scene.files(), expected, "{name}: {run:#?}");
            let again: u64 = (kept.finished.iter())
                .map(|line| u64::from(*scene.arrivals.seen().get(line).unwrap_or(&0)))
                .sum();
            assert!(again <= most, "{name}: {again} again, {run:#?}");
            assert_eq!(again > 0, most > 0, "{name}: {run:#?}");
            let sent = scene.arrivals.count();
            // The lines that are no request are among the kept, unless that was their file.
            let told = format!(
                "salvaged: {} records are whole and kept",
                kept.finished.len() as u64 - again
            );
            let is_told = run.stderr.contains(&told) || name.starts_with("errors");
            assert!(is_told, "{told}: {run:#?}");
            assert_eq!(
                sent,
                LINES.sent as u64 - kept_sent(&kept) + again,
                "{run:#?}"
            );
        }
        // Nothing is damaged, or nothing is there: it simply goes on.
        let scene = Scene::new(runtime, LINES);
        put_folder(&scene, &whole);
        scene.finish(&["--salvage"]);
        assert_eq!(scene.files(), expected);
        assert_eq!(scene.arrivals.count(), LINES.sent as u64 - kept_sent(&kept));
        let scene = Scene::new(runtime, LINES);
        scene.finish(&["--salvage"]);
        assert_eq!(scene.files(), expected);
    }
}

/// Finished lines that had been sent.
fn kept_sent(kept: &Kept) -> u64 {
    let sent = kept
        .finished
        .iter()
        .filter(|line| **line <= LINES.sent as u64);
    sent.count() as u64
}

/// Generations of processes that a power cut left nothing of, and a run that never got a record.
#[test]
fn empty_generations_are_dropped_and_a_run_without_records_never_needs_fresh() {
    for runtime in runtimes() {
        let expected = undisturbed(runtime, LINES);
        let (scene, kept) = stopped(runtime);
        for (generation, fill) in [(2, 0), (3, 64), (4, 4096)] {
            for (kind, ending) in [("output", "seg"), ("errors", "seg"), ("journal", "log")] {
                let name = format!("{kind}-{generation:04}-000.{ending}");
                fs::write(scene.folder().join(name), vec![0; fill]).expect("a file");
            }
        }
        let wal = scene.folder().join("ahead-0004-000.wal");
        fs::write(wal, vec![0; ahead::AHEAD_BYTES]).expect("a file");
        scene.finish(&[]);
        scene.check(&expected, &[kept], WORKERS.into());
        // All of the only generation, and another input.
        let (scene, _) = stopped(runtime);
        for (name, bytes) in folder_bytes(&scene) {
            if !name.starts_with("manifest") {
                fs::write(scene.folder().join(name), vec![0; bytes.len()]).expect("a file");
            }
        }
        let mut lines = LINES.text();
        lines.swap(0, 1);
        scene.place.input(&lines);
        let before = scene.arrivals.count();
        scene.finish(&[]);
        assert_eq!(scene.arrivals.count() - before, LINES.sent as u64);
    }
}

#[test]
fn a_manifest_that_is_damaged_is_made_good_by_its_copy() {
    for runtime in runtimes() {
        let expected = undisturbed(runtime, LINES);
        let (scene, kept) = stopped(runtime);
        let path = scene.folder().join("manifest.json");
        let mut bytes = fs::read(&path).expect("a manifest");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("altered");
        let run = scene.finish(&[]);
        assert!(run.stderr.contains("going on with its copy"), "{run:#?}");
        scene.check(&expected, &[kept], WORKERS.into());
        // Both of them: each record shows for itself whose it is.
        let (scene, kept) = stopped(runtime);
        for name in ["manifest.json", "manifest.copy.json"] {
            fs::write(scene.folder().join(name), [0; 100]).expect("a file");
        }
        check_refused(&scene, "manifest.json", "cannot understand");
        scene.finish(&["--salvage"]);
        scene.check(&expected, &[kept], WORKERS.into());
    }
}

/// A kill between entries and mark: whole entries behind the mark count, a torn one does not.
fn entries_behind_the_mark(runtime: &'static str, expected: &Final) {
    let (scene, kept) = stopped(runtime);
    let path = scene.folder().join("journal-0001-000.log");
    let bytes = fs::read(&path).expect("a journal");
    let header = replay(&bytes).expect("intact").header().expect("a header");
    let entries = (bytes.len() - HEADER_BYTES) / ENTRY_BYTES;
    assert!(entries > 4);
    let mut torn = bytes;
    let mark = header.mark(entries as u64 - 3);
    torn[MARK_OFFSET..MARK_OFFSET + mark.len()].copy_from_slice(&mark);
    torn.truncate(entry_offset(entries as u64) as usize - 7);
    fs::write(&path, &torn).expect("a torn journal");
    let on_disk = scene.kept();
    assert_eq!(on_disk.finished.len(), entries - 1);
    assert!(on_disk.finished.is_subset(&kept.finished));
    scene.finish(&[]);
    // The line whose entry was torn is sent once more.
    scene.check(expected, &[on_disk], u64::from(WORKERS) + 1);
}
