//! `kill -9`, anywhere. Each test counts the processes that it really killed, by what they were doing,
//! and fails below its floor; the floors add up to what a run of the suite promises.

use crate::job::{Follow, Job, Phase};
use crate::points::{Tally, all_undisturbed, each, of};
use crate::scene::{Final, Kept, Lines, Scene, WORKERS, undisturbed};
use crate::supervise::{self, Verdict};
use crate::support::runtimes;

const LINES: Lines = Lines {
    sent: 90,
    invalid: 5,
};

/// Kills in each run of the suite, over both runtimes.
const KILLS_MIN: u32 = 200;
/// Kills by each test on each runtime.
const BY_REQUESTS_MIN: u32 = 40;
const DURING_RESUMES_MIN: u32 = 12;
const AT_CHANGES_MIN: u32 = 100;
const _: () = assert!(2 * (BY_REQUESTS_MIN + DURING_RESUMES_MIN + AT_CHANGES_MIN) >= KILLS_MIN);

/// Kill points by requests for each job: 8 in the fast suite, as many as `BLAZE_CRASH_POINTS` says
/// otherwise.
fn points() -> u64 {
    std::env::var("BLAZE_CRASH_POINTS").ok().map_or(8, |text| {
        text.parse().expect("BLAZE_CRASH_POINTS is a number")
    })
}

/// Goes on, to the end that an undisturbed run comes to.
fn check_rest(scene: &Scene, undisturbed: &Final, kept: &[Kept], cores: &str) {
    if !scene.is_final() {
        scene.finish(&["--cores", cores]);
    }
    scene.check(undisturbed, kept, u64::from(WORKERS) * kept.len() as u64);
}

/// Once, after a share of the requests, each job.
#[test]
fn killed_after_any_request() {
    for runtime in runtimes() {
        let undisturbed = all_undisturbed(runtime, LINES);
        let tally = Tally::default();
        let points: Vec<(Job, u64)> = Job::ALL
            .into_iter()
            .flat_map(|job| (0..points()).map(move |point| (job, point)))
            .collect();
        each(&points, |index, &(job, point)| {
            let scene = Scene::of_job(runtime, LINES, job);
            // --retry-errors sends the ten that were refused.
            let requests = if job == Job::RetryErrors {
                10
            } else {
                LINES.sent as u64
            };
            let at = 1 + point * (requests - 1) / self::points();
            let cores = ["1", "2"][index % 2];
            if scene.kill_at(at, &["--cores", cores]) {
                tally.note(Phase::Send);
            }
            let kept = scene.kept();
            check_rest(&scene, of(&undisturbed, job), &[kept], cores);
        });
        tally.check(runtime, "processes killed", BY_REQUESTS_MIN);
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
        let tally = Tally::default();
        let rounds: Vec<u64> = (0..points() / 2).collect();
        each(&rounds, |_, round| {
            let scene = Scene::new(runtime, LINES);
            let mut kept: Vec<Kept> = Vec::new();
            for (kill, settings) in SETTINGS.iter().enumerate() {
                let at = 1 + (round * 5 + kill as u64 * 3) % 20;
                if scene.kill_at(at, settings) {
                    tally.note(Phase::Send);
                    kept.push(scene.kept());
                }
            }
            assert!(kept.len() >= 3, "{runtime}: {} kills", kept.len());
            check_rest(&scene, &undisturbed, &kept, "2");
        });
        tally.check(runtime, "processes killed", DURING_RESUMES_MIN);
    }
}

/// One kill at a change of the disk: the `nth` (from 1) of a phase.
#[derive(Clone, Copy, Debug)]
struct Point {
    job: Job,
    /// In a process that goes on with a run whose first process was killed, too.
    resumes: bool,
    phase: Phase,
    nth: u32,
}

/// Which changes there are, in their order, is for `Follow`; the last of a phase may be beyond its end.
fn at_changes() -> Vec<Point> {
    let mut points = Vec::new();
    let mut add = |job, resumes, phase, nths: &[u32]| {
        points.extend(nths.iter().map(|&nth| Point {
            job,
            resumes,
            phase,
            nth,
        }));
    };
    for phase in Phase::OF_DISK {
        let (first, resuming): (&[u32], &[u32]) = match phase {
            // Not of this job, or only of a process that resumes.
            Phase::Send | Phase::Spool | Phase::Reopen => (&[], &[]),
            Phase::Resume => (&[], &[1, 2, 3, 4, 5, 6, 7, 8]),
            Phase::Roll => (&[1, 2, 3], &[2, 3]),
            Phase::Reserve => (&[1, 3, 4, 6], &[2, 4]),
            Phase::Write => (&[1, 2, 3, 4, 5, 8, 13, 21], &[3, 6, 9]),
            Phase::CleanUp => (&[1, 2, 3, 4, 5, 6], &[2, 5, 8]),
            Phase::Begin => (&[1, 2, 3, 6, 8, 9], &[1, 3]),
            Phase::Merge | Phase::Publish => (&[1, 2, 4, 6, 8, 9, 10, 12], &[2, 3, 7, 9]),
        };
        add(Job::File, false, phase, first);
        add(Job::File, true, phase, resuming);
    }
    for job in [Job::Overwrite, Job::RetryErrors, Job::Stdin, Job::Stdout] {
        add(job, false, Phase::Begin, &[2, 7]);
        add(job, false, Phase::Merge, &[2, 6]);
        add(job, false, Phase::Publish, &[4, 7, 8, 9, 12]);
        add(job, false, Phase::CleanUp, &[1, 4]);
    }
    add(Job::Stdin, false, Phase::Spool, &[1, 2, 3, 4]);
    add(Job::RetryErrors, false, Phase::Reopen, &[1, 2, 4, 6, 8]);
    add(Job::RetryErrors, true, Phase::Resume, &[1, 3]);
    add(Job::Power, false, Phase::Write, &[3, 6, 7, 8, 10]);
    add(Job::Power, false, Phase::Publish, &[6, 8, 10]);
    points
}

/// Before any change of the disk: in every phase of every job, also of a process that resumes.
#[test]
fn killed_between_any_two_changes_of_the_disk() {
    if !supervise::works() {
        return;
    }
    for runtime in runtimes() {
        let undisturbed = all_undisturbed(runtime, LINES);
        let tally = Tally::default();
        each(&at_changes(), |index, point| {
            let scene = Scene::of_job(runtime, LINES, point.job);
            let mut kept = Vec::new();
            if point.resumes {
                // --retry-errors has ten lines to send.
                let first = if point.job == Job::RetryErrors { 4 } else { 40 };
                if scene.kill_at(first, &["--cores", "2"]) {
                    tally.note(Phase::Send);
                }
                kept.push(scene.kept());
            }
            let cores = ["2", "1"][index % 2];
            if kill_at_change(&scene, point, cores) {
                tally.note(point.phase);
            }
            kept.push(scene.kept());
            check_rest(&scene, of(&undisturbed, point.job), &kept, "2");
        });
        tally.check_phases(&Phase::OF_DISK);
        tally.check(runtime, "processes killed", AT_CHANGES_MIN);
    }
}

/// `true` if the process came that far.
fn kill_at_change(scene: &Scene, point: &Point, cores: &str) -> bool {
    let mut follow = Follow::new(&scene.folder());
    let mut left = point.nth;
    let run = scene.supervised(&["--cores", cores], |change, _| {
        left -= u32::from(left > 0 && follow.phase(change) == point.phase);
        match left {
            0 => Verdict::Kill,
            _ => Verdict::GoOn,
        }
    });
    if let Some(status) = run.status {
        assert_eq!(status, scene.end_status(), "{point:?}: {run:#?}");
    }
    run.status.is_none()
}

/// A merge of many records, killed at some moment between two system calls.
#[test]
fn killed_while_merging() {
    let lines = Lines {
        sent: 40,
        invalid: 10_000,
    };
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, lines);
        each(
            &["merge-index", "errors.merged", "output.merged"],
            |_, name| {
                let scene = Scene::new(runtime, lines);
                let mut running = scene.start(&["--cores", "2"]);
                let path = scene.folder().join(name);
                let output = scene.place.path("out.jsonl");
                running.until(name, || path.exists() || output.exists());
                running.kill();
                let kept = scene.kept();
                check_rest(&scene, &undisturbed, &[kept], "1");
            },
        );
    }
}
