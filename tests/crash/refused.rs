//! What a run folder refuses, and how it says so; what is torn, dropped; what is damaged, named.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use blaze_uring::journal::{ENTRY_BYTES, HEADER_BYTES, MARK_OFFSET, ahead, entry_offset, replay};

use crate::scene::{Final, Kept, Lines, Scene, WORKERS, undisturbed};
use crate::support::{WATCHDOG, run, runtimes, spawn};

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
        // Cut before the mark: the bytes are gone, not torn.
        for name in [journal, output] {
            let bytes = scene.place.read(name);
            let length = if name == journal {
                entry as usize + 5
            } else {
                40
            };
            scene.place.write(name, &bytes[..length]);
            check_refused(&scene, name, "at byte");
            scene.place.write(name, &bytes);
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
        scene.place.write(name, &bytes[..bytes.len() / 2]);
        check_refused(&scene, name, "cut short");
        scene.place.write(name, &bytes);
        let header = scene.place.read(journal);
        fs::remove_file(scene.place.path(journal)).expect("removed");
        check_refused(&scene, journal, "missing");
        scene.place.write(journal, header);
        // The last record, half written.
        let last = bytes.iter().rposition(|byte| *byte != 0).expect("records");
        let mut torn = bytes.clone();
        torn[last - 20..].fill(0);
        scene.place.write(name, &torn);
        let on_disk = scene.kept();
        assert_eq!(on_disk.finished.len() + 1, kept.finished.len());
        scene.finish(&[]);
        scene.check(
            &undisturbed(runtime, LINES),
            &[on_disk],
            u64::from(WORKERS) + 1,
        );
    }
}

#[track_caller]
fn check_refused(scene: &Scene, name: &str, what: &str) {
    let sent = scene.arrivals.count();
    let refused = run(&scene.place, &scene.args(&[])).expect(1);
    for part in [name, what, "--fresh"] {
        assert!(refused.stderr.contains(part), "{name} {part}: {refused:#?}");
    }
    assert_eq!(scene.arrivals.count(), sent, "nothing was sent");
    assert!(!scene.place.path("out.jsonl").exists());
}

/// Garbage behind the end, and any cut: dropped, or refused with the file's name; in no case are the
/// final files other than undisturbed.
#[test]
fn torn_tails_are_dropped_and_deeper_cuts_refused() {
    for runtime in runtimes() {
        let expected = undisturbed(runtime, LINES);
        let mut dropped = 0;
        for round in 0..12_u64 {
            let (scene, kept) = stopped(runtime);
            let name = [
                "journal-0001-000.log",
                "output-0001-000.seg",
                "errors-0001-000.seg",
            ][(round % 3) as usize];
            let path = scene.folder().join(name);
            let bytes = fs::read(&path).expect("a file of the run folder");
            if round < 3 {
                // What a write that was under way may leave.
                fs::write(&path, [&bytes[..], &[0xa5; 50][..]].concat()).expect("a longer file");
                scene.finish(&[]);
                scene.check(&expected, &[kept], WORKERS.into());
                dropped += 1;
                continue;
            }
            // Spread over the file by a fixed rule, odd offsets among them.
            let length = bytes.len() * (round as usize * 7 % 23) / 23 + 1;
            fs::write(&path, &bytes[..length.min(bytes.len())]).expect("a shorter file");
            check_cut(&scene, name, &expected);
        }
        assert!(dropped >= 3);
        entries_behind_the_mark(runtime, &expected);
    }
}

#[track_caller]
fn check_cut(scene: &Scene, name: &str, expected: &Final) {
    let run = run(&scene.place, &scene.args(&[]));
    match run.status {
        Some(1) => {
            assert!(run.stderr.contains(name), "{run:#?}");
            assert!(run.stderr.contains("--fresh"), "{run:#?}");
            scene.finish(&["--fresh"]);
        }
        status => assert_eq!(status, Some(scene.end_status()), "{run:#?}"),
    }
    assert_eq!(&scene.files(), expected);
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
