//! Many points at which a run is disturbed, on a few threads, and the count of what really happened.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::job::{Job, Phase};
use crate::scene::{Final, Lines, undisturbed_job};

/// Threads that each disturb a run of their own: most of the time goes in waiting.
const THREADS: usize = 4;

/// What really happened, by what the process was doing.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<Phase, u32>>);

impl Tally {
    pub fn note(&self, phase: Phase) {
        *self
            .0
            .lock()
            .expect("no holder panics")
            .entry(phase)
            .or_default() += 1;
    }

    /// Says how many `what` there were, and fails if there were fewer than `min`.
    #[track_caller]
    pub fn check(&self, runtime: &str, what: &str, min: u32) {
        let tally = self.0.lock().expect("no holder panics");
        let all: u32 = tally.values().sum();
        // Not by a macro: what those print is not seen of a test that passes.
        let _ = writeln!(io::stderr(), "{runtime}: {all} {what}: {tally:?}");
        assert!(all >= min, "{runtime}: {all} of {min} {what}");
    }

    /// Fails if nothing happened in one of the phases.
    #[track_caller]
    pub fn check_phases(&self, phases: &[Phase]) {
        let tally = self.0.lock().expect("no holder panics");
        for phase in phases {
            assert!(tally.contains_key(phase), "nothing in {phase:?}: {tally:?}");
        }
    }
}

/// Says at which point a check failed.
struct Named<'a, P: Debug>(&'a P);

impl<P: Debug> Drop for Named<'_, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at {:?}", self.0);
        }
    }
}

/// Does every point on one of a few threads. A panic in one ends the test.
pub fn each<P: Debug + Sync>(points: &[P], disturb: impl Fn(usize, &P) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(point) = points.get(index)
                {
                    let _named = Named(point);
                    disturb(index, point);
                }
            });
        }
    });
}

/// The undisturbed files of every job.
pub fn all_undisturbed(runtime: &'static str, lines: Lines) -> Vec<(Job, Final)> {
    let results = Mutex::new(Vec::new());
    each(&Job::ALL, |_, job| {
        let files = undisturbed_job(runtime, lines, *job);
        results
            .lock()
            .expect("no holder panics")
            .push((*job, files));
    });
    results.into_inner().expect("no holder panics")
}

/// Those of one job.
pub fn of(undisturbed: &[(Job, Final)], job: Job) -> &Final {
    let found = undisturbed.iter().find(|(other, _)| *other == job);
    &found.expect("every job").1
}
