//! The power goes, at the instant of exit, later, or anywhere from the merge on; or the disk takes nothing
//! more, and only a sync would tell. On real file systems: a cut is a copy of the image below one, made while
//! it is mounted, and the power comes back when the copy is mounted.

use std::collections::BTreeMap;
use std::fs::{self, File};

use crate::image::{BTRFS, Cut, EXT4, Image, Kind, SmallDisk, XFS, tool};
use crate::job::{Follow, Job, Phase};
use crate::read_only::copy_into;
use crate::scene::{Lines, OLD_OUTPUT, Scene, undisturbed_job};
use crate::supervise::{self, Verdict};
use crate::support::{Place, run, runtimes, skip};

const LINES: Lines = Lines {
    sent: 90,
    invalid: 5,
};

const JOBS: [Job; 3] = [Job::File, Job::Overwrite, Job::RetryErrors];

/// A scene in an image, about to do its job; what it finds there has long been on the disk.
fn scene_in(kind: &'static Kind, runtime: &'static str, job: Job) -> Option<(Scene, Image)> {
    let mut scene = Scene::new(runtime, LINES);
    let image = Image::mount(&scene.place.path(""), kind)?;
    scene.place.input(&LINES.text());
    scene.prepare(job);
    for name in ["in.jsonl", "out.jsonl", "errors.jsonl"] {
        if let Ok(file) = File::open(scene.place.path(name)) {
            file.sync_all().expect("synced");
        }
    }
    settle(&scene);
    Some((scene, image))
}

/// Has the file system write out what it has to say about names and lengths, and no other file's content:
/// as it does by itself within seconds, when it writes out content only after half a minute.
fn settle(scene: &Scene) {
    let path = scene.place.path("probe");
    let probe = File::create(&path).expect("a file");
    probe.sync_all().expect("synced");
    drop(probe);
    fs::remove_file(path).expect("it goes");
    let folder = File::open(scene.place.path("")).expect("a folder");
    folder.sync_all().expect("synced");
}

/// The final files, byte for byte.
fn bytes(scene: &Scene) -> BTreeMap<&'static str, Option<Vec<u8>>> {
    ["out.jsonl", "errors.jsonl"]
        .map(|name| (name, fs::read(scene.place.path(name)).ok()))
        .into()
}

#[test]
fn final_files_survive_a_power_cut_at_the_instant_of_exit_and_later() {
    for kind in [&EXT4, &XFS, &BTRFS] {
        for (at, job) in JOBS.into_iter().enumerate() {
            let runtimes = runtimes();
            let runtime = runtimes[at % runtimes.len()];
            let Some((scene, image)) = scene_in(kind, runtime, job) else {
                return;
            };
            scene.finish(&[]);
            let at_exit = image.cut();
            settle(&scene);
            let later = image.cut();
            let files = bytes(&scene);
            assert!(image.unmount(), "nobody uses it any more");
            for (cut, when) in [(at_exit, "at exit"), (later, "later")] {
                let _image = cut.mount(&scene.place.path(""));
                let left = bytes(&scene);
                assert!(left == files, "{kind:?} {job:?} {when}: {left:?}");
                assert!(scene.is_final(), "{kind:?} {job:?} {when}");
            }
        }
    }
}

/// One cut, and what it met.
struct Met {
    cut: Cut,
    phase: Phase,
}

/// From the first change of the merge to the last of the folder. The next process never takes for success
/// what is not there, and from the publication on it has everything.
#[test]
fn a_power_cut_anywhere_from_the_merge_on_costs_no_final_file() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        for job in JOBS {
            let undisturbed = undisturbed_job(runtime, LINES, job);
            let Some((scene, image)) = scene_in(&EXT4, runtime, job) else {
                return;
            };
            let before = bytes(&scene);
            let mut follow = Follow::new(&scene.folder());
            let mut met = Vec::new();
            let run = scene.supervised(&["--cores", "1"], |change, _| {
                let phase = follow.phase(change);
                if matches!(phase, Phase::Merge | Phase::Publish | Phase::CleanUp) {
                    if met.len() % 2 == 1 {
                        settle(&scene);
                    }
                    let cut = image.cut();
                    met.push(Met { cut, phase });
                }
                Verdict::GoOn
            });
            run.expect(scene.end_status());
            assert!(image.unmount(), "nobody uses it any more");
            let mut published = 0;
            for (nth, met) in met.into_iter().enumerate() {
                let what = format!("{job:?} {:?} {nth}", met.phase);
                let sent = scene.arrivals.count();
                let _image = met.cut.mount(&scene.place.path(""));
                let is_published = scene.phase() == Some("publishing".to_owned());
                published += usize::from(is_published);
                if !scene.is_final() {
                    let left = bytes(&scene);
                    let output = &left["out.jsonl"];
                    assert!(
                        *output == before["out.jsonl"] || is_published,
                        "{what}: {left:?}"
                    );
                    let again = run_again(&scene);
                    if again != Some(scene.end_status()) {
                        // What was not safe yet may be lost with the power; but it is never passed over.
                        assert!(!is_published, "{what}: {again:?}");
                        assert_eq!(bytes(&scene), before, "{what}");
                        continue;
                    }
                }
                assert_eq!(scene.files(), undisturbed, "{what}");
                let is_sent = scene.arrivals.count() > sent;
                assert!(!(is_sent && is_published), "{what}: sent again");
            }
            assert!(published >= 5, "{job:?}: {published} cuts while publishing");
        }
    }
}

fn run_again(scene: &Scene) -> Option<i32> {
    run(&scene.place, &scene.args(&["--cores", "1"])).status
}

/// The disk below a loop device is full: what the file system has promised space for is never written, and
/// only whoever syncs hears of it. No success is said, an older output stays, and with room the run ends.
#[test]
fn writing_out_that_fails_is_no_success() {
    for runtime in runtimes() {
        for job in [Job::File, Job::Overwrite] {
            let mut scene = Scene::with(runtime, LINES, |options| {
                options.latency = "1ms".parse().expect("a latency");
                options.response_bytes = Some(12_000);
            });
            let Some(disk) = SmallDisk::mount("40m") else {
                return;
            };
            let place = scene.place.path("");
            let Some(image) = Image::make(&place, &EXT4, disk.file()) else {
                return;
            };
            scene.place.input(&LINES.text());
            scene.prepare(job);
            fs::create_dir(scene.folder()).expect("a folder");
            assert!(tool("sync", &["-f"], Some(&place)));
            // What the file system itself writes has its place already, and what it calls free has none.
            image.allocate();
            if !tool("fstrim", &[], Some(&place)) {
                skip("loop devices that discard are not to be had here");
                return;
            }
            disk.fill(256 << 10);
            let failed = run(&scene.place, &scene.args(&["--cores", "1"])).expect(4);
            // Of what a loop device says about the disk below it, the kernel makes the one or the other.
            let reasons = ["does not hold what was written", "no space for"];
            let is_told = reasons.iter().any(|reason| failed.stderr.contains(reason));
            assert!(is_told, "{failed:#?}");
            assert!(failed.stderr.contains(".merged"), "no path: {failed:#?}");
            let old = (job == Job::Overwrite).then(|| OLD_OUTPUT.to_vec());
            assert_eq!(bytes(&scene)["out.jsonl"], old);
            assert!(scene.folder().join("manifest.json").exists());
            disk.make_room();
            let sent = scene.arrivals.count();
            scene.finish(&[]);
            assert_eq!(scene.arrivals.count(), sent, "every record was kept");
            let files = scene.files();
            let cut = image.cut();
            assert!(image.unmount(), "nobody uses it any more");
            let _image = cut.mount(&place);
            assert_eq!(scene.files(), files);
        }
    }
}

/// A copy of a run folder, made at any change from the last request on, ends where it is now; the original is
/// not touched, and ends in its own place.
#[test]
fn a_copy_of_a_run_folder_goes_on_where_it_is() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        let undisturbed = undisturbed_job(runtime, LINES, Job::File);
        let mut scene = Scene::new(runtime, LINES);
        let mut follow = Follow::new(&scene.folder());
        let mut copies = Vec::new();
        let run = scene.supervised(&["--cores", "1"], |change, _| {
            let phase = follow.phase(change);
            let finished = scene.arrivals.count() == LINES.sent as u64;
            if finished && copies.len() < 60 && scene.phase().is_some() {
                let copy = Place::new();
                copy_into(&scene.place.path(""), &copy.path(""));
                copies.push((copy, phase));
            }
            Verdict::GoOn
        });
        run.expect(scene.end_status());
        let original = bytes(&scene);
        let published = |place: &Place| {
            let manifest = place.path("out.jsonl.blaze/manifest.json");
            fs::read_to_string(manifest).is_ok_and(|text| text.contains("\"publishing\""))
        };
        assert!(copies.iter().any(|(copy, _)| published(copy)));
        assert!(copies.iter().any(|(copy, _)| !published(copy)));
        for (copy, phase) in copies {
            let first = std::mem::replace(&mut scene.place, copy);
            scene.finish(&["--cores", "1"]);
            assert_eq!(scene.files(), undisturbed, "copied in {phase:?}");
            assert!(!scene.folder().exists(), "copied in {phase:?}");
            scene.place = first;
            assert_eq!(bytes(&scene), original, "copied in {phase:?}");
        }
    }
}
