//! A disk that fails: every kind of change, every error, for once or for good. What had its record
//! keeps it, the message names the file and the reason, and the same command ends as undisturbed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::job::{Follow, Job, Phase};
use crate::points::{Tally, all_undisturbed, each, of};
use crate::scene::{Lines, Scene, WORKERS, undisturbed};
use crate::space::Disk;
use crate::supervise::{self, Verdict};
use crate::support::{Run, run, run_with, runtimes};

const LINES: Lines = Lines {
    sent: 90,
    invalid: 5,
};

/// Faults that each runtime must have met.
const FAULTS_MIN: u32 = 50;

/// One fault: the `nth` change (from 1) of a phase fails, and every later one if it is for good.
#[derive(Clone, Copy, Debug)]
struct Fault {
    job: Job,
    phase: Phase,
    nth: u32,
    error: i32,
    for_good: bool,
}

fn faults() -> Vec<Fault> {
    const ERRORS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS];
    let mut faults = Vec::new();
    let mut add = |job, phase, nths: &[u32]| {
        for (at, &nth) in nths.iter().enumerate() {
            // Each error in turn, and each both ways.
            for for_good in [false, true] {
                let error = ERRORS[(at + usize::from(for_good)) % ERRORS.len()];
                faults.push(Fault {
                    job,
                    phase,
                    nth,
                    error,
                    for_good,
                });
            }
        }
    };
    add(Job::File, Phase::Begin, &[1, 2, 3, 7, 9, 10]);
    add(Job::File, Phase::Roll, &[1, 3]);
    add(Job::File, Phase::Reserve, &[1, 3, 4, 8]);
    add(Job::File, Phase::Write, &[1, 2, 3, 4, 5, 6, 11, 12]);
    add(Job::File, Phase::Merge, &[2, 3, 6, 8, 9, 11]);
    add(Job::File, Phase::Publish, &[2, 3, 4, 5, 7, 8, 12]);
    add(Job::File, Phase::CleanUp, &[1, 2, 4, 6]);
    add(Job::Power, Phase::Write, &[5, 6, 7, 8, 9]);
    add(Job::Power, Phase::Publish, &[4, 9]);
    add(Job::Stdin, Phase::Spool, &[1, 2, 3, 4]);
    add(Job::RetryErrors, Phase::Reopen, &[1, 4, 6]);
    faults
}

#[test]
fn a_disk_that_fails_at_any_change_costs_no_record() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        let undisturbed = all_undisturbed(runtime, LINES);
        let tally = Tally::default();
        each(&faults(), |index, fault| {
            let scene = Scene::of_job(runtime, LINES, fault.job);
            let cores = ["2", "1"][index % 2];
            let (run, failed) = meet(&scene, fault, cores);
            if failed == 0 {
                assert_eq!(run.status, Some(scene.end_status()), "{run:#?}");
                return;
            }
            tally.note(fault.phase);
            check_told(&scene, fault, &run);
            let kept = scene.kept();
            if !scene.is_final() {
                scene.finish(&["--cores", "1"]);
            }
            scene.check(of(&undisturbed, fault.job), &[kept], WORKERS.into());
        });
        tally.check(runtime, "faults met", FAULTS_MIN);
    }
}

/// Runs into the fault; also how many changes failed.
fn meet(scene: &Scene, fault: &Fault, cores: &str) -> (Run, u32) {
    let mut follow = Follow::new(&scene.folder());
    let (mut left, mut failed) = (fault.nth, 0);
    let run = scene.supervised(&["--cores", cores], |change, _| {
        let phase = follow.phase(change);
        let is_it = left == 1 && phase == fault.phase;
        left -= u32::from(left > 0 && phase == fault.phase);
        // A full disk still lets go of what it holds.
        let frees = change.call.starts_with("unlink") || change.call == "rmdir";
        let spares = frees && matches!(fault.error, libc::ENOSPC | libc::EDQUOT);
        if (is_it || (fault.for_good && left == 0)) && !spares {
            failed += 1;
            return Verdict::Fail(fault.error);
        }
        Verdict::GoOn
    });
    (run, failed)
}

/// Exit 1 if nothing had begun, else 4, with the reason; a fault for once may also be survived, and one that
/// leaves nothing to do but to sync the name of the folder that is gone.
#[track_caller]
fn check_told(scene: &Scene, fault: &Fault, run: &Run) {
    let is_over = fault.phase == Phase::CleanUp && !scene.folder().exists();
    if (!fault.for_good || is_over) && run.status == Some(scene.end_status()) {
        return;
    }
    let status = run.status.expect("it was not killed");
    let begins = matches!(fault.phase, Phase::Begin | Phase::Spool | Phase::Reopen);
    assert!(status == 4 || (status == 1 && begins), "{run:#?}");
    let reason = io::Error::from_raw_os_error(fault.error).to_string();
    let reason = reason.split(" (os").next().expect("a text");
    assert!(run.stderr.contains(reason), "{reason}: {run:#?}");
    // One of the run's files, or the folder that is synced after a rename in it.
    let folder = scene.place.path("");
    let folder = folder.to_str().expect("UTF-8").trim_end_matches('/');
    let named = ["jsonl", folder]
        .iter()
        .any(|part| run.stderr.contains(part));
    assert!(named, "no path: {run:#?}");
}

/// NFS before 4.2, FAT: nothing can be reserved. A write that finds no space keeps its record in memory
/// until there is some. There is none for the write-ahead file either, which alone would stop nothing.
#[test]
fn without_reserved_space_a_full_disk_still_costs_no_record_that_fits_later() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        // How many writes fail from the twentieth on.
        for refusals in [0, 1, 4, u32::MAX] {
            let scene = Scene::new(runtime, LINES);
            let mut follow = Follow::new(&scene.folder());
            let (mut reserved, mut writes, mut refused) = (0, 0, 0);
            let run = scene.supervised(&["--cores", "1"], |change, _| {
                if change.call == "fallocate" {
                    reserved += 1;
                    return Verdict::Fail(libc::EOPNOTSUPP);
                }
                let phase = follow.phase(change);
                if change.call == "pwrite64" && change.name().ends_with(".wal") {
                    return Verdict::Fail(libc::ENOSPC);
                }
                writes += u32::from(phase == Phase::Write);
                if writes >= 20 && change.call == "pwrite64" && refused < refusals {
                    refused += 1;
                    return Verdict::Fail(libc::ENOSPC);
                }
                Verdict::GoOn
            });
            assert!(reserved > 0, "nothing asked for space");
            let kept = scene.kept();
            if refusals == 0 {
                run.expect(scene.end_status());
                scene.check(&undisturbed, &[], 0);
                continue;
            }
            let run = run.expect(4);
            assert!(run.stderr.contains("no space for"), "{run:#?}");
            let lost = kept
                .seen
                .keys()
                .filter(|line| !kept.finished.contains(line));
            let lost = lost.count() as u64;
            let lost_max = if refusals == u32::MAX {
                u64::from(WORKERS)
            } else {
                0
            };
            assert!(lost <= lost_max, "{refusals} refusals lost {lost} records");
            assert!(kept.seen.len() < LINES.sent, "nothing more was sent");
            scene.finish(&[]);
            scene.check(&undisturbed, &[kept], lost_max);
        }
    }
}

/// Capabilities by which root passes over permissions.
const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
const CAP_DAC_READ_SEARCH: libc::c_ulong = 2;

/// Runs the command as anybody would, also where the test is root.
pub fn without(command: &mut Command, capabilities: &'static [libc::c_ulong]) {
    // SAFETY: only a system call between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for &capability in capabilities {
                // Fails where there is nothing to give up.
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        });
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_before_anything_is_sent() {
    const FORBIDDEN: &[libc::c_ulong] = &[CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH];
    let mode = |scene: &Scene, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(scene.place.path(""), permissions).expect("the mode is set");
    };
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = Scene::new(runtime, LINES);
        for begun in [false, true] {
            if begun {
                assert!(scene.kill_at(20, &[]));
            }
            let (kept, before) = (scene.kept(), scene.arrivals.count());
            mode(&scene, 0o500);
            let refused = run_with(&scene.place, &scene.args(&[]), |command| {
                without(command, FORBIDDEN);
            });
            mode(&scene, 0o700);
            let refused = refused.expect(1);
            for part in ["cannot create files in", "permission denied or read-only"] {
                assert!(refused.stderr.contains(part), "{part}: {refused:#?}");
            }
            assert_eq!(scene.arrivals.count(), before, "nothing was sent");
            assert_eq!(scene.finished(), kept.finished, "nothing was touched");
        }
        scene.finish(&[]);
        assert_eq!(scene.files(), undisturbed);
    }
}

#[test]
fn a_read_only_file_system_is_refused_before_anything_is_sent() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = Scene::new(runtime, LINES);
        let Some(disk) = Disk::mount(&scene.place.path("")) else {
            return;
        };
        disk.resize(4000);
        scene.place.input(&LINES.text());
        assert!(scene.kill_at(20, &[]));
        let (kept, before) = (scene.kept(), scene.arrivals.count());
        disk.remount("ro");
        let refused = run(&scene.place, &scene.args(&[])).expect(1);
        assert!(refused.stderr.contains("read-only"), "{refused:#?}");
        assert_eq!(scene.arrivals.count(), before, "nothing was sent");
        disk.remount("rw");
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], WORKERS.into());
    }
}

#[test]
fn an_output_below_a_file_is_refused_with_the_reason() {
    let scene = Scene::new("tokio", LINES);
    scene.place.write("taken", "text");
    for (option, role) in [("-o", "output"), ("-e", "error file")] {
        let mut args = scene.args(&[]);
        args.retain(|arg| option != "-o" || (arg != "-o" && arg != "out.jsonl"));
        args.extend([option, "taken/below.jsonl"].map(str::to_owned));
        let refused = run(&scene.place, &args).expect(1);
        let said = format!("taken, which is to hold the {role}, is a file");
        assert!(refused.stderr.contains(&said), "{refused:#?}");
    }
    assert_eq!(scene.arrivals.count(), 0);
    assert_eq!(scene.place.listing(), ["in.jsonl", "taken"]);
}
