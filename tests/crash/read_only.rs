//! A real file system that its kernel turns read-only in mid-run, as ext4 does after an error of its own:
//! an image on a loop device, and the error that `/sys/fs/ext4/…/trigger_fs_error` makes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blaze_uring::journal::replay;

use crate::image::{EXT4, Image, tool};
use crate::job::Job;
use crate::scene::{Lines, Scene, WORKERS, undisturbed, undisturbed_job};
use crate::support::{Run, runtimes, skip};

const LINES: Lines = Lines {
    sent: 600,
    invalid: 2,
};
/// Requests after which it happens.
const SENT_BEFORE: u64 = 60;
/// An ext4 that can be told to fail.
struct Ext4(Image);

impl Ext4 {
    fn mount(at: &Path) -> Option<Self> {
        let disk = Self(Image::mount(at, &EXT4)?);
        if !disk.trigger().exists() {
            skip("this kernel has no /sys/fs/ext4/…/trigger_fs_error");
            return None;
        }
        Some(disk)
    }

    /// What makes an error of the file system.
    fn trigger(&self) -> PathBuf {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let at = self.0.at().to_str().expect("a UTF-8 path");
        let mut devices = mounts.lines().filter_map(|mount| {
            let mut fields = mount.split(' ');
            let device = fields.next()?.strip_prefix("/dev/")?;
            (fields.next() == Some(at)).then_some(device)
        });
        let device = devices.next_back().unwrap_or("none");
        Path::new("/sys/fs/ext4")
            .join(device)
            .join("trigger_fs_error")
    }

    fn turn_read_only(&self) {
        fs::write(self.trigger(), "1").expect("root may do this");
        let file = self.0.at().join("probe");
        let error = fs::write(&file, "x").expect_err("it is read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    }

    /// As after a restart of the machine: what only memory held is gone.
    fn repair(&self) {
        assert!(self.0.unmount(), "nobody uses it any more");
        // 1: errors were corrected, as they must be.
        let checked = Command::new("e2fsck")
            .args(["-f", "-y"])
            .arg(self.0.path())
            .output();
        let checked = checked.expect("e2fsck comes with mkfs.ext4");
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        assert!(self.0.mount_again(), "it mounts again");
    }
}

/// With time to turn a file system read-only before the last line.
fn slow_scene(runtime: &'static str) -> Scene {
    Scene::with(runtime, LINES, |options| {
        options.latency = "40ms".parse().expect("a latency");
    })
}

/// Runs until the file system has become read-only under it, once `is_time`.
fn run_into_it(scene: &Scene, disk: &Ext4, mut is_time: impl FnMut() -> bool) -> Run {
    let mut running = scene.start(&[]);
    running.until("enough is sent", || {
        scene.arrivals.count() >= SENT_BEFORE && is_time()
    });
    disk.turn_read_only();
    let run = running.wait().expect(4);
    // A sync that was under way is told of the error itself.
    let reasons = ["Read-only file system", "cannot sync"];
    let is_told = reasons.iter().any(|reason| run.stderr.contains(reason));
    assert!(is_told, "{run:#?}");
    assert!(run.stderr.contains("jsonl"), "no path: {run:#?}");
    assert!(
        scene.arrivals.count() < LINES.sent as u64,
        "nothing more was sent: {run:#?}"
    );
    run
}

/// What was written stays readable: copied to a disk that works, the run goes on.
#[test]
fn a_file_system_that_turns_read_only_stops_the_run_which_goes_on_in_a_copy() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = slow_scene(runtime);
        let place = scene.place.path("");
        let Some(disk) = Ext4::mount(&place) else {
            return;
        };
        scene.place.input(&LINES.text());
        run_into_it(&scene, &disk, || true);
        let kept = scene.kept();
        let copy = tempfile::tempdir().expect("a temporary folder");
        copy_into(&place, copy.path());
        drop(disk);
        copy_into(copy.path(), &place);
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], WORKERS.into());
    }
}

/// Under `--durability power` what was safe before is safe after the machine has restarted, too.
#[test]
fn what_was_safe_before_a_file_system_turned_read_only_survives_a_restart() {
    for runtime in runtimes() {
        let undisturbed = undisturbed_job(runtime, LINES, Job::Power);
        let mut scene = slow_scene(runtime);
        scene.job = Job::Power;
        let place = scene.place.path("");
        let Some(disk) = Ext4::mount(&place) else {
            return;
        };
        scene.place.input(&LINES.text());
        assert!(tool("sync", &["-f"], Some(&scene.place.path("in.jsonl"))));
        let mut safe = BTreeSet::new();
        run_into_it(&scene, &disk, || {
            safe = safe_lines(&scene);
            !safe.is_empty()
        });
        disk.repair();
        let before = scene.arrivals.seen();
        scene.finish(&[]);
        assert_eq!(scene.files(), undisturbed);
        let after = scene.arrivals.seen();
        for line in &safe {
            assert_eq!(before.get(line), after.get(line), "line {line} was safe");
        }
    }
}

/// Lines below the mark of their journal.
fn safe_lines(scene: &Scene) -> BTreeSet<u64> {
    let mut safe = BTreeSet::new();
    for entry in fs::read_dir(scene.folder()).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let journal = fs::read(&path).expect("a journal");
            // Read while it is written to: the mark may be torn.
            let Ok(replay) = replay(&journal) else {
                continue;
            };
            let settled = replay.settled() as usize;
            let entries = replay.entries().take(settled);
            safe.extend(entries.map(|entry| entry.line_number));
        }
    }
    // A refused line has a record, but was sent like the others; one that is no request never was.
    safe.retain(|line| *line <= LINES.sent as u64);
    safe
}

/// Copies a folder with what is in it.
pub fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a type").is_dir() {
            if entry.file_name() != "lost+found" {
                fs::create_dir(&copy).expect("a new folder");
                copy_into(&path, &copy);
            }
        } else {
            fs::copy(&path, &copy).expect("a copy");
        }
    }
}
