//! No space: nothing more is sent, what was received is kept, the same command goes on.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::scene::{Final, Lines, Scene};
use crate::support::{Run, run, run_with, runtimes, skip};

const LINES: Lines = Lines {
    sent: 240,
    invalid: 2,
};

/// Records of about 4 KiB.
fn scene(runtime: &'static str) -> Scene {
    Scene::with(runtime, LINES, |options| {
        options.latency = "1ms".parse().expect("a latency");
        options.response_bytes = Some(4000);
    })
}

fn undisturbed(runtime: &'static str) -> Final {
    let scene = scene(runtime);
    scene.finish(&[]);
    scene.files()
}

/// Stopped for want of space: every line that was sent has its record, and the message says where
/// how much is needed.
#[track_caller]
fn check_stopped(scene: &Scene, run: &Run) {
    assert_eq!(run.status, Some(4), "{run:#?}");
    for part in [
        "no space for",
        "out.jsonl",
        "bytes are needed",
        "bytes are free",
        "same command",
    ] {
        assert!(run.stderr.contains(part), "{part}: {run:#?}");
    }
    let kept = scene.kept();
    for (line, times) in &kept.seen {
        assert_eq!(*times, 1, "line {line}");
        assert!(
            kept.finished.contains(line),
            "line {line} was paid and lost"
        );
    }
    assert!(!scene.place.path("out.jsonl").exists());
}

#[test]
fn a_full_disk_stops_the_run_and_more_room_finishes_it() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime);
        for cores in ["1", "2"] {
            let scene = scene(runtime);
            let Some(disk) = Disk::mount(&scene.place.path("")) else {
                return;
            };
            scene.place.input(&LINES.text());
            let mut stops = 0;
            // In steps smaller than what sending needs, then what merging needs on top.
            for size_kib in (300..6000).step_by(350) {
                disk.resize(size_kib);
                let run = run(&scene.place, &scene.args(&["--cores", cores]));
                if run.status == Some(scene.end_status()) {
                    break;
                }
                check_stopped(&scene, &run);
                stops += 1;
            }
            assert!(stops >= 2, "{stops} stops");
            scene.check(&undisturbed, &[], 0);
        }
    }
}

/// `ulimit -f`: a limit of the process, not of the disk.
#[test]
fn a_limit_of_file_sizes_is_a_full_disk() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime);
        let scene = scene(runtime);
        let run = run_with(&scene.place, &scene.args(&[]), |command| {
            limit(command, libc::RLIMIT_FSIZE, 200 << 10);
        });
        check_stopped(&scene, &run);
        let sent = scene.arrivals.count();
        assert!(sent > 0 && sent < LINES.sent as u64, "{sent} sent");
        scene.finish(&[]);
        scene.check(&undisturbed, &[], 0);
    }
}

/// Runs the command under a limit, soft and hard.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: only a system call between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(resource, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// A file system of its own; unmounted when dropped.
pub struct Disk(std::path::PathBuf);

impl Disk {
    pub fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=300k", "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_path_buf()));
        }
        skip("mounting a small file system is not permitted here");
        None
    }

    pub fn resize(&self, size_kib: u64) {
        self.remount(&format!("size={size_kib}k"));
    }

    /// With other options, such as `ro`.
    pub fn remount(&self, options: &str) {
        let remounted = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status();
        assert!(remounted.expect("mount runs").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a child that was killed a moment ago may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
