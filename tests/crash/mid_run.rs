//! The power goes in mid-run under `--durability process`: of each file, the disk holds what the kernel had
//! written out by then, in any combination. A real ext4; a cut is a copy of the image below it.

use std::collections::BTreeSet;
use std::fs::{self, File};

use blaze_uring::journal::{Outcome, replay};

use crate::image::{EXT4, Image};
use crate::scene::{Lines, Scene};
use crate::supervise::{self, Verdict};
use crate::support::{run, runtimes};

const LINES: Lines = Lines {
    sent: 150,
    invalid: 2,
};
/// One change of a shard's files in so many is followed by a cut.
const CHANGES_PER_CUT: usize = 5;
/// What a shard writes.
const FILES: [&str; 4] = [
    "output-0001-000.seg",
    "errors-0001-000.seg",
    "journal-0001-000.log",
    "ahead-0001-000.wal",
];

#[test]
fn a_power_cut_in_mid_run_costs_what_was_not_on_the_disk_and_never_the_run() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        let other = slow_scene(runtime);
        other.finish(&[]);
        let undisturbed = other.files();
        let scene = slow_scene(runtime);
        let Some(image) = Image::mount(&scene.place.path(""), &EXT4) else {
            return;
        };
        scene.place.input(&LINES.text());
        sync(&scene, "in.jsonl");
        let (mut cuts, mut changes) = (Vec::new(), 0);
        let ended = scene.supervised(&["--cores", "1"], |change, _| {
            if FILES.contains(&change.name()) {
                changes += 1;
                if changes % CHANGES_PER_CUT == 0 {
                    // The kernel has written out these of them, and all names, or not.
                    let which = cuts.len();
                    for (bit, name) in FILES.iter().enumerate() {
                        if which >> bit & 1 == 1 {
                            sync(&scene, &format!("out.jsonl.blaze/{name}"));
                        }
                    }
                    if which % 3 == 0 {
                        sync(&scene, "out.jsonl.blaze");
                    }
                    cuts.push(image.cut());
                }
            }
            Verdict::GoOn
        });
        ended.expect(scene.end_status());
        assert!(image.unmount(), "nobody uses it any more");
        let (mut kept_some, count) = (0, cuts.len());
        for (nth, cut) in cuts.into_iter().enumerate() {
            let _image = cut.mount(&scene.place.path(""));
            let kept = whole(&scene);
            kept_some += usize::from(!kept.is_empty());
            let before = scene.arrivals.seen();
            let again = run(&scene.place, &scene.args(&["--cores", "1"]));
            if again.status == Some(1) {
                // A gap in what was written out, with something whole behind it.
                assert!(again.stderr.contains("--salvage"), "cut {nth}: {again:#?}");
                assert_eq!(scene.arrivals.seen(), before, "nothing was sent");
                scene.finish(&["--cores", "1", "--salvage"]);
            } else {
                assert_eq!(
                    again.status,
                    Some(scene.end_status()),
                    "cut {nth}: {again:#?}"
                );
            }
            let after = scene.arrivals.seen();
            for line in &kept {
                assert_eq!(before.get(line), after.get(line), "cut {nth}, line {line}");
            }
            assert_eq!(scene.files(), undisturbed, "cut {nth}");
        }
        println!("{runtime}: {count} cuts, {kept_some} with records");
        assert!(
            count >= 10 && kept_some >= 3,
            "{count} cuts, {kept_some} with records"
        );
    }
}

/// Slow enough for several writes of each file, and with records that fill pages.
fn slow_scene(runtime: &'static str) -> Scene {
    Scene::with(runtime, LINES, |options| {
        options.latency = "25ms".parse().expect("a latency");
        options.response_bytes = Some(1_500);
    })
}

fn sync(scene: &Scene, name: &str) {
    // Not begun yet.
    if let Ok(file) = File::open(scene.place.path(name)) {
        file.sync_all().expect("synced");
    }
}

/// Lines that were sent and whose entry and record are whole.
fn whole(scene: &Scene) -> BTreeSet<u64> {
    let file = |name: &str| fs::read(scene.folder().join(name)).unwrap_or_default();
    let [output, errors, journal, _] = FILES.map(file);
    let Ok(replay) = replay(&journal) else {
        return BTreeSet::new();
    };
    let is_whole = |entry: &blaze_uring::journal::Entry| {
        let segment = match entry.outcome {
            Some(Outcome::Success) => &output,
            Some(Outcome::Failure) => &errors,
            None => return false,
        };
        let end = entry.end().expect("an end") as usize;
        let record = segment.get(entry.position as usize..end);
        record.map(crc32fast::hash) == Some(entry.record_checksum)
    };
    let lines = replay
        .entries()
        .filter(is_whole)
        .map(|entry| entry.line_number);
    lines.filter(|line| *line <= LINES.sent as u64).collect()
}
