//! `kill -9`, anywhere.

use crate::scene::{Kept, Lines, Scene, WORKERS, behind, strace_works, undisturbed};
use crate::support::{run_with, runtimes};

const LINES: Lines = Lines {
    sent: 90,
    invalid: 5,
};

/// Kill points of each of the tests by requests: 16 in the fast suite, as many as
/// `BLAZE_CRASH_POINTS` says otherwise.
fn points() -> u64 {
    std::env::var("BLAZE_CRASH_POINTS").ok().map_or(16, |text| {
        text.parse().expect("BLAZE_CRASH_POINTS is a number")
    })
}

/// Once, after a share of the requests.
#[test]
fn killed_after_any_request() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let mut killed = 0;
        for point in 0..points() {
            let scene = Scene::new(runtime, LINES);
            let at = 1 + point * (LINES.sent as u64 - 1) / points();
            let cores = ["1", "2"][(point % 2) as usize];
            killed += u64::from(scene.kill_at(at, &["--cores", cores]));
            let kept = scene.kept();
            if !scene.is_final() {
                scene.finish(&["--cores", cores]);
            }
            scene.check(&undisturbed, &[kept], WORKERS.into());
        }
        assert!(killed * 10 >= points() * 9, "{runtime}: {killed} kills");
    }
}

/// Again and again, each process with other cores, workers and rate than the one before.
#[test]
fn killed_during_earlier_resumes_with_other_settings() {
    const SETTINGS: [[&str; 6]; 4] = [
        ["--cores", "1", "--workers", "8", "--timeout", "20"],
        ["--cores", "2", "--workers", "3", "--timeout", "30"],
        ["--cores", "2", "--workers", "8", "--max-attempts", "2"],
        ["--cores", "1", "--workers", "5", "--order", "input"],
    ];
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        for round in 0..points() / 4 {
            let scene = Scene::new(runtime, LINES);
            let mut kept: Vec<Kept> = Vec::new();
            for (kill, settings) in SETTINGS.iter().enumerate() {
                let at = 1 + (round * 5 + kill as u64 * 3) % 20;
                if scene.kill_at(at, settings) {
                    kept.push(scene.kept());
                }
            }
            assert!(kept.len() >= 3, "{runtime}: {} kills", kept.len());
            if !scene.is_final() {
                scene.finish(&["--cores", "2"]);
            }
            let repeats_max = u64::from(WORKERS) * kept.len() as u64;
            scene.check(&undisturbed, &kept, repeats_max);
        }
    }
}

/// At the entrance of a system call: between any two changes of the disk, in every phase of a run.
#[test]
fn killed_between_any_two_changes_of_the_disk() {
    // Counted by thread: the main one takes the manifest's steps, a shard's the records.
    const CALLS: [(&str, u32); 8] = [
        ("pwrite64", 12),       // segments, journal, mark
        ("fallocate", 3),       // space for them, for the merge
        ("rename", 5),          // manifest, its phases, the final files
        ("unlink,unlinkat", 6), // the run folder's end
        ("rmdir", 1),
        ("ftruncate", 2), // torn tails, space given back, the index
        ("fsync,fdatasync", 2),
        ("flock", 1),
    ];
    if !strace_works(&strace("rmdir", 1)) {
        return;
    }
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let mut killed = 0;
        for (calls, times) in CALLS {
            for time in 1..=times {
                let scene = Scene::new(runtime, LINES);
                let first = kill_at_call(&scene, calls, time, &["--cores", "2"]);
                let mut kept = vec![scene.kept()];
                killed += u32::from(first);
                // The process that resumes dies at the same kind of call.
                if first && !scene.is_final() && time % 2 == 0 {
                    killed += u32::from(kill_at_call(&scene, calls, time / 2, &["--cores", "1"]));
                    kept.push(scene.kept());
                }
                if !scene.is_final() {
                    scene.finish(&["--cores", "2"]);
                }
                let repeats_max = u64::from(WORKERS) * kept.len() as u64;
                scene.check(&undisturbed, &kept, repeats_max);
            }
        }
        assert!(killed >= 30, "{runtime}: {killed} kills");
    }
}

/// A merge of many records, killed while it writes.
#[test]
fn killed_while_merging() {
    let lines = Lines {
        sent: 40,
        invalid: 30_000,
    };
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, lines);
        for appears in ["merge-index", "errors.merged", "output.merged"] {
            let scene = Scene::new(runtime, lines);
            let mut running = crate::support::spawn(&scene.place, &scene.args(&["--cores", "2"]));
            let path = scene.folder().join(appears);
            let output = scene.place.path("out.jsonl");
            running.until(appears, || path.exists() || output.exists());
            running.kill();
            let kept = scene.kept();
            if !scene.is_final() {
                scene.finish(&["--cores", "1"]);
            }
            scene.check(&undisturbed, &[kept], WORKERS.into());
        }
    }
}

/// `true` if the process died of it.
fn kill_at_call(scene: &Scene, calls: &str, time: u32, more: &[&str]) -> bool {
    let run = run_with(&scene.place, &scene.args(more), |command| {
        behind(command, "strace", &strace(calls, time));
    });
    if let Some(status) = run.status {
        assert_eq!(status, scene.end_status(), "{run:#?}");
    }
    run.status.is_none()
}

fn strace(calls: &str, time: u32) -> Vec<String> {
    [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:signal=KILL:when={time}"),
    ]
    .map(str::to_owned)
    .to_vec()
}
