//! One run of a seed, from its first process to its final files.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use super::check;
use super::kept;
use super::lines::Fate;
use super::outside::Outside;
use super::scenario::{Process, Scenario, input};
use crate::batch::coordinator::{Observer, Stopped};
use crate::batch::finished::FinishedError;
use crate::batch::folder::FolderError;
use crate::batch::storage_error::StorageError;
use crate::config::{Durability, InputSource, Job, OutputTarget, Rate};
use crate::metrics::Snapshot;
use crate::processor::{Interrupt, ProcessingResult, Processor, RunError};
use crate::runtime::Runtime;
use crate::runtime::simulated::Simulated;
use crate::runtime::simulated::world::{Manners, World};

/// Processes after which a run that has not ended never will.
const PROCESSES_MAX: usize = 40;
/// A process that runs for longer makes no progress.
const PROCESS_LASTS_MAX: Duration = Duration::from_secs(4 * 3600);
/// A grace in which every request that is answered at all has its answer.
const GRACE_ENOUGH: Duration = Duration::from_secs(3);
/// How much later than its slot a request may begin to go out: a late timer and a shard that stalls.
const SLOT_LATE: Duration = Duration::from_millis(60);

/// The output that is replaced.
const OLD_OUTPUT: &str = "{\"old\": true}\n";

/// What a seed's history was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// A number that any difference changes.
    pub hash: u64,
    pub events: u64,
    pub processes: usize,
    pub lines: usize,
    pub requests: usize,
    pub virtual_time: Duration,
}

/// Lives through everything that `seed` stands for; `Err`: what went wrong.
pub fn live(seed: u64, is_shown: bool) -> Result<History, String> {
    // On a thread of its own: what a thread keeps for later, such as buffers of some length, would pass from
    // one seed to the next.
    let life = || Life::new(seed, is_shown).live();
    let lived = thread::scope(|scope| scope.spawn(life).join());
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a message")))
    })
}

struct Life {
    seed: u64,
    is_shown: bool,
    random: fastrand::Rng,
    scenario: Scenario,
    folder: tempfile::TempDir,
    history: History,
    /// The failures are being sent again.
    retries: bool,
    /// Power was lost under `--durability process` in mid-run.
    has_lost: bool,
    /// After that something was refused, and `--salvage` is given.
    salvages: bool,
}

/// Shows figures to nobody, and ends a run that never would.
struct Watchdog {
    until: std::time::Instant,
}

impl Observer for Watchdog {
    fn tick(&mut self, snapshot: &Snapshot) {
        assert!(
            crate::runtime::now() < self.until,
            "no end after {PROCESS_LASTS_MAX:?}: {:?}",
            snapshot.gauges
        );
    }
}

/// Files in memory where the system has a place for them.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a temporary folder")
}

impl Life {
    fn new(seed: u64, is_shown: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let scenario = Scenario::new(&mut random);
        Self {
            seed,
            is_shown,
            random,
            scenario,
            folder: scratch(),
            history: History::default(),
            retries: false,
            has_lost: false,
            salvages: false,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn live(mut self) -> Result<History, String> {
        if self.is_shown {
            println!("seed {}: {:#?}", self.seed, self.scenario);
        }
        std::fs::write(self.path("in.jsonl"), input(&self.scenario.lines)).expect("a file");
        // The jitter of retries comes from the thread's own generator.
        fastrand::seed(self.seed);
        let first = self.scenario.process(0, &mut self.random);
        let world = World::new(self.random.u64(..), first.manners.clone(), self.is_shown);
        let _here = world.enter();
        if self.scenario.overwrites {
            std::fs::write(self.path("out.jsonl"), OLD_OUTPUT).expect("a file");
        }
        world.disk.remember();
        if self.scenario.overwrites {
            world.disk.adopt(&self.path("out.jsonl"));
        }
        let outside = Outside::new(&world, self.scenario.clone(), first.clone());
        self.until_finished(&world, &outside, first)?;
        self.check_end(false)?;
        if self.scenario.retries_errors {
            // What failed for no fault of its own is sent again, and now succeeds.
            outside.mend();
            self.retries = true;
            let next = self.next_process();
            self.until_finished(&world, &outside, next)?;
            self.check_end(true)?;
        }
        self.check_repeated(&outside)?;
        (self.history.hash, self.history.events) = world.history();
        self.history.lines = self.scenario.lines.len();
        self.history.virtual_time = world.elapsed();
        world.network.close();
        Ok(self.history)
    }

    /// Processes, one after the other, until one ends the run.
    fn until_finished(
        &mut self,
        world: &Rc<World>,
        outside: &Rc<Outside>,
        first: Process,
    ) -> Result<(), String> {
        let mut process = first;
        for _ in 0..PROCESSES_MAX {
            let number = self.history.processes;
            self.history.processes += 1;
            if self.is_shown {
                println!("process {number}: {process:#?}");
            }
            let kept = kept::finished(&self.run_folder(), !self.retries).unwrap_or_default();
            outside.begin(number, process.clone());
            let ended = self.run(world, &process);
            if let Some(line) = outside.has_sent_any_of(&kept) {
                return Err(format!("{line} had its record and was sent again"));
            }
            self.history.requests += outside.sendings().len();
            if let Some(violation) = outside.violations().first() {
                return Err(violation.clone());
            }
            self.check_rate(&process, outside)?;
            let is_over = self.judge(ended, world, &process)?;
            self.note_repeats(outside, world, number, &process);
            if is_over {
                // Said to have succeeded, whatever the durability: it is on the disk.
                if process.loses_power {
                    self.lose_power(world);
                }
                if process.loses_power && world.disk.faults() > 0 {
                    // A folder whose removal could not be synced may come back.
                    let _ = std::fs::remove_dir_all(self.run_folder());
                }
                return Ok(());
            }
            let manifest = self.run_folder().join("manifest.json");
            let has_finished = world.disk.has_removed(&manifest);
            self.check_old_output()?;
            let survives_power = self.survives_power(world);
            if world.is_killed() && process.loses_power && survives_power {
                outside.lose_power();
                self.lose_power(world);
                self.check_old_output()?;
                // What earlier processes left is made durable before anything is sent.
                let has_sent = !outside.sendings().is_empty();
                let left = kept::finished(&self.run_folder(), !self.retries);
                if let Some(left) = left.filter(|_| has_sent)
                    && let Some(number) = kept.difference(&left).next()
                {
                    return Err(format!(
                        "the record of line number {number} was not durable"
                    ));
                }
            }
            if world.is_killed() && process.loses_power && !survives_power {
                // What was written last may be gone from any file; what is left whole still counts.
                outside.lose_everything();
                self.lose_power(world);
                self.check_old_output()?;
                self.has_lost = true;
            }
            // Told to send failures again it may have removed what an earlier run left, and it can always be
            // told once more.
            if has_finished && !manifest.exists() && !self.retries {
                // Killed in its last instants, or failed to clean up: all that is left is rubbish.
                let _ = std::fs::remove_dir_all(self.run_folder());
                return Ok(());
            }
            process = self.next_process();
        }
        Err(format!("not finished by {PROCESSES_MAX} processes"))
    }

    /// A loss of power now is one that the run promises to survive: always, or since its final files are
    /// published.
    fn survives_power(&self, world: &World) -> bool {
        let manifest = self.run_folder().join("manifest.json");
        let is_published = || {
            let text = std::fs::read_to_string(&manifest).unwrap_or_default();
            let manifest: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            manifest.is_some_and(|manifest| manifest["phase"] == "publishing")
        };
        self.scenario.durability == Durability::Power
            || is_published() && !world.disk.is_unsettled(&manifest)
    }

    fn lose_power(&self, world: &World) {
        let keep = self.path("in.jsonl");
        world.disk.lose_power(world, self.folder.path(), &keep);
    }

    /// The output that is to be replaced is there whole, until the new one is.
    fn check_old_output(&self) -> Result<(), String> {
        if !self.scenario.overwrites {
            return Ok(());
        }
        let output = self.path("out.jsonl");
        let is_whole = |text: &str| {
            let mut records = text.lines().map(serde_json::from_str::<serde_json::Value>);
            records.all(|record| record.is_ok()) && (text.is_empty() || text.ends_with('\n'))
        };
        match std::fs::read_to_string(&output) {
            Ok(text) if text == OLD_OUTPUT || is_whole(&text) => Ok(()),
            Ok(_) => Err("the output was replaced by a part of the new one".to_owned()),
            Err(error) => Err(format!("the output to be replaced is gone: {error}")),
        }
    }

    fn next_process(&mut self) -> Process {
        let number = self.history.processes;
        self.scenario.process(number, &mut self.random)
    }

    /// One process.
    fn run(&self, world: &Rc<World>, process: &Process) -> Result<ProcessingResult, RunError> {
        world.revive();
        world.set_manners(Manners::clone(&process.manners));
        world.disk.begin(process.disk.clone());
        let (interrupt, interrupts) = Interrupt::channel();
        if let Some(after) = process.interrupt_after {
            let at = world.now() + after;
            world.start_outside(async move {
                Simulated::sleep_until(at).await;
                interrupt.interrupt();
            });
        }
        if let Some(after) = process.kill_after {
            let (at, killed) = (world.now() + after, Rc::clone(world));
            world.start_outside(async move {
                Simulated::sleep_until(at).await;
                killed.kill();
            });
        }
        if let Some((after, microseconds)) = process.clock_jumps {
            let (at, jumping) = (world.now() + after, Rc::clone(world));
            world.start_outside(async move {
                Simulated::sleep_until(at).await;
                jumping.jump_wall_clock(microseconds);
            });
        }
        let job = self.job();
        let mut watchdog = Watchdog {
            until: world.now() + PROCESS_LASTS_MAX,
        };
        let processor = Processor::new(process.config.clone())?;
        let result = processor.run(&job, &mut watchdog, &interrupts);
        world.end_tasks();
        result
    }

    fn run_folder(&self) -> PathBuf {
        match self.scenario.has_output {
            true => self.path("out.jsonl.blaze"),
            false => self.path("errors.jsonl.blaze"),
        }
    }

    fn job(&self) -> Job {
        Job {
            input: InputSource::File(self.path("in.jsonl")),
            output: (self.scenario.has_output).then(|| OutputTarget::File(self.path("out.jsonl"))),
            errors: self.path("errors.jsonl"),
            overwrite: self.scenario.overwrites,
            fresh: false,
            salvage: self.salvages,
            retry_errors: self.retries,
            dry_run: false,
        }
    }

    /// Whether the process ended as it should, and the run with it.
    fn judge(
        &mut self,
        ended: Result<ProcessingResult, RunError>,
        world: &World,
        process: &Process,
    ) -> Result<bool, String> {
        if self.is_shown {
            let ended = ended.as_ref();
            match ended.map(|result| (&result.stopped, &result.summary.status)) {
                Ok(ended) => println!("ended: {ended:?}"),
                Err(error) => println!("failed: {error}"),
            }
        }
        let storage = match &ended {
            Err(
                RunError::Storage(error)
                | RunError::Folder(FolderError::Storage(error))
                | RunError::Finished(FinishedError::Storage(error)),
            ) => Some(error),
            Ok(result) => match &result.stopped {
                Some(Stopped::Storage(error)) => Some(error),
                _ => None,
            },
            Err(_) => None,
        };
        if let Some(error) = storage
            && !error.is_resumable()
        {
            let is_damaged = matches!(error, StorageError::Damaged { .. });
            if is_damaged && self.has_lost && !self.salvages {
                self.salvages = true;
                return Ok(false);
            }
            return Err(format!("the run is lost: {error}"));
        }
        if world.is_killed() {
            return Ok(false);
        }
        if storage.is_some() && world.disk.faults() > 0 {
            return Ok(false);
        }
        let result = ended.map_err(|error| format!("the process failed: {error}"))?;
        let books = &result.summary;
        if books.lines != self.scenario.lines.len() as u64
            || books.lines != books.success_count + books.failure_count + books.not_finished
        {
            return Err(format!("the books do not balance: {books:?}"));
        }
        match &result.stopped {
            None if books.not_finished == 0 => Ok(true),
            None => Err(format!("finished with {books:?}")),
            Some(Stopped::Interrupted) if process.interrupt_after.is_some() => Ok(false),
            // So many failures in a row that every endpoint seemed out.
            Some(Stopped::NoEndpoint(_)) if self.fails(process) => Ok(false),
            Some(stopped) => Err(format!("the process stopped: {stopped}")),
        }
    }

    /// Notes how many of the lines that this process has the answers of may be sent again: those in
    /// flight if it was killed, none if it could end as it wanted.
    fn note_repeats(&self, outside: &Outside, world: &World, number: usize, process: &Process) {
        let ends_well = !world.is_killed()
            && process.config.grace >= GRACE_ENOUGH
            && process.disk.fails_at.is_none()
            && !(process.disk.cannot_reserve && process.disk.full.is_some());
        let most = match ends_well {
            true => 0,
            false => process.config.request.workers,
        };
        let syncs = process.disk.fails_at.is_none() && process.disk.full.is_none();
        outside.may_repeat(number, most, syncs);
    }

    /// No process cost more repeated lines than it was allowed to.
    fn check_repeated(&self, outside: &Outside) -> Result<(), String> {
        if let Some((process, count, most)) = outside.repeated_too_often() {
            return Err(format!(
                "{count} lines that process {process} was answered or had in flight were sent again, at most {most} may be"
            ));
        }
        if let Some((line, count, most)) = outside.doomed_too_often() {
            return Err(format!(
                "{line} failed {count} times over all processes, at most {most} attempts may be made"
            ));
        }
        Ok(())
    }

    /// Whether attempts of this process may fail.
    fn fails(&self, process: &Process) -> bool {
        let trouble = &process.trouble;
        let fates = self.scenario.lines.iter().map(|line| line.fate);
        let mut dooms = fates.filter(|fate| matches!(fate, Fate::Fails | Fate::NotJson));
        trouble.connects > 0.0
            || trouble.answers > 0.0
            || process.dead.is_some()
            || process.outage.is_some()
            || dooms.next().is_some()
    }

    /// No second of the process saw more requests than `--rate` and each quota group's `rpm_limit` allow.
    fn check_rate(&self, process: &Process, outside: &Outside) -> Result<(), String> {
        // What is sent again for a stale connection needs no slot.
        if outside.excused() > 0 || process.trouble.stale > 0.0 {
            return Ok(());
        }
        let late = (SLOT_LATE + process.manners.stall_max).as_secs_f64();
        let mut sendings = outside.sendings().clone();
        let endpoints = &process.config.endpoints;
        // Over HTTP/2, requests may wait for one connection, and then go out together.
        sendings.retain(|(_, endpoint)| endpoints[*endpoint].http2 != Some(true));
        sendings.sort_unstable();
        if let Rate::PerSecond(rate) = process.config.request.rate_limit {
            let all = sendings.iter().map(|(at, _)| *at).collect();
            check_seconds(all, rate, late).map_err(|error| format!("{error} at --rate {rate}"))?;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let Some(rpm) = endpoint.rpm_limit else {
                continue;
            };
            let group = endpoint.quota_group.as_ref();
            let shares = |other: usize| {
                other == index || group.is_some() && endpoints[other].quota_group.as_ref() == group
            };
            let of_group = sendings.iter().filter(|(_, endpoint)| shares(*endpoint));
            check_seconds(
                of_group.map(|(at, _)| *at).collect(),
                rpm as f64 / 60.0,
                late,
            )
            .map_err(|error| format!("{error} to endpoint {index} with an rpm_limit of {rpm}"))?;
        }
        Ok(())
    }

    /// The final files, and that the run folder is gone.
    fn check_end(&self, is_mended: bool) -> Result<(), String> {
        let output = self.scenario.has_output.then(|| self.path("out.jsonl"));
        let errors = self.path("errors.jsonl");
        check::final_files(&self.scenario, is_mended, output.as_deref(), &errors)?;
        let expected = ["errors.jsonl", "in.jsonl", "out.jsonl"];
        for entry in std::fs::read_dir(self.folder.path()).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            if !expected.contains(&&*name) {
                return Err(format!("{name} is left behind"));
            }
        }
        Ok(())
    }
}

/// No second has more of these moments, in their order, than `rate`. `late`: by how many seconds one may be late.
fn check_seconds(sendings: Vec<Instant>, rate: f64, late: f64) -> Result<(), String> {
    let most = (rate * (1.0 + late)).ceil() as usize + 2;
    for (first, at) in sendings.iter().enumerate() {
        let count =
            sendings[first..].partition_point(|later| *later < *at + Duration::from_secs(1));
        if count > most {
            return Err(format!("{count} requests within a second"));
        }
    }
    Ok(())
}
