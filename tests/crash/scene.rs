//! One run to be disturbed: its input, an endpoint that counts every line, what is on disk after a
//! kill, and the comparison with an undisturbed run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use blaze_uring::journal::{Entry, Outcome, ahead, replay};
use blaze_uring::mock::{Mock, MockOptions, Scripted};
use serde_json::Value;

use crate::job::Job;
use crate::supervise::{Change, Verdict, supervise};
use crate::support::{
    Place, Run, Running, WATCHDOG, batch_args, mock_with, parse_records, records, replaced,
    skip_outside_ci, spawn_with,
};

/// Requests in flight in every run, unless a test says otherwise.
pub const WORKERS: u32 = 8;

/// What is in the input.
#[derive(Clone, Copy)]
pub struct Lines {
    /// Lines that are sent; every ninth is answered with HTTP 400.
    pub sent: usize,
    /// Lines that are no request, after the others.
    pub invalid: usize,
}

impl Lines {
    /// Whether this line is answered with HTTP 400.
    fn is_refused(number: u64) -> bool {
        number.is_multiple_of(9)
    }

    /// The input's lines.
    pub fn text(self) -> Vec<String> {
        (1..=self.sent as u64)
            .map(|number| match Self::is_refused(number) {
                true => format!(r#"{{"input": "line {number}: refuse me", "id": {number}}}"#),
                false => format!(r#"{{"input": "line {number}", "id": {number}}}"#),
            })
            .chain((1..=self.invalid).map(|number| format!("no request {number}")))
            .collect()
    }
}

/// Which lines have arrived how often, and a way to wait for more.
#[derive(Default)]
pub struct Arrivals {
    by_line: Mutex<BTreeMap<u64, u32>>,
    more: Condvar,
}

impl Arrivals {
    fn note(&self, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).expect("a body is JSON");
        let content = body["messages"][0]["content"].as_str().expect("a text");
        let digits = content.trim_start_matches("line ").split(':').next();
        let number = digits.and_then(|digits| digits.parse().ok());
        let mut by_line = self.by_line.lock().expect("no holder panics");
        *by_line.entry(number.expect("a number")).or_default() += 1;
        self.more.notify_all();
    }

    /// How often the endpoint has seen each line, by physical number.
    pub fn seen(&self) -> BTreeMap<u64, u32> {
        self.by_line.lock().expect("no holder panics").clone()
    }

    /// All requests so far.
    pub fn count(&self) -> u64 {
        count(&self.seen())
    }

    /// Whether so many arrived before `patience` ended.
    pub fn wait_for(&self, wanted: u64, patience: Duration) -> bool {
        let seen = self.by_line.lock().expect("no holder panics");
        let (seen, _) = self
            .more
            .wait_timeout_while(seen, patience, |seen| count(seen) < wanted)
            .expect("no holder panics");
        count(&seen) >= wanted
    }
}

fn count(seen: &BTreeMap<u64, u32>) -> u64 {
    seen.values().map(|times| u64::from(*times)).sum()
}

/// The final files without what may differ between two runs.
#[derive(Debug, PartialEq)]
pub struct Final {
    output: Vec<Value>,
    errors: Vec<Value>,
}

pub struct Scene {
    pub place: Place,
    pub mock: Mock,
    pub arrivals: Arc<Arrivals>,
    pub lines: Lines,
    pub job: Job,
    runtime: &'static str,
    /// The endpoint answers every line well.
    relents: Arc<AtomicBool>,
    /// What processes wrote to standard output, whole or cut.
    printed: Mutex<Vec<String>>,
}

impl Scene {
    pub fn new(runtime: &'static str, lines: Lines) -> Self {
        Self::with(runtime, lines, |options| {
            options.latency = "2ms".parse().expect("a latency");
        })
    }

    /// One whose command does `job`, with what that finds in place.
    pub fn of_job(runtime: &'static str, lines: Lines, job: Job) -> Self {
        let mut scene = Self::new(runtime, lines);
        scene.prepare(job);
        scene
    }

    /// Puts in place what the command of `job` finds, and makes it this scene's.
    pub fn prepare(&mut self, job: Job) {
        match job {
            Job::RetryErrors => {
                self.finish(&[]);
                self.relents.store(true, Ordering::SeqCst);
            }
            Job::Overwrite => {
                self.place.write("out.jsonl", OLD_OUTPUT);
            }
            _ => {}
        }
        self.job = job;
    }

    /// With an endpoint of one's own; its script is the scene's.
    pub fn with(
        runtime: &'static str,
        lines: Lines,
        change: impl FnOnce(&mut MockOptions),
    ) -> Self {
        let place = Place::new();
        place.input(&lines.text());
        let arrivals = Arc::new(Arrivals::default());
        let counted = Arc::clone(&arrivals);
        let relents = Arc::new(AtomicBool::new(false));
        let is_mild = Arc::clone(&relents);
        let mock = mock_with(|options| {
            options.record_requests = false;
            options.script = Some(Arc::new(move |request| {
                if request.body.is_empty() {
                    return None; // Scene::take_in
                }
                counted.note(&request.body);
                let asked = memchr::memmem::find(&request.body, b"refuse me").is_some();
                (asked && !is_mild.load(Ordering::SeqCst)).then(|| {
                    Scripted::json(400, r#"{"error": {"message": "refused", "code": "no"}}"#)
                })
            }));
            change(options);
        });
        Self {
            place,
            mock,
            arrivals,
            lines,
            job: Job::File,
            runtime,
            relents,
            printed: Mutex::default(),
        }
    }

    /// The command, with the usual number of workers.
    pub fn args(&self, more: &[&str]) -> Vec<String> {
        let workers = WORKERS.to_string();
        let mut args = batch_args(&self.mock, self.runtime, &["--rate", "0"]);
        if !more.contains(&"--workers") {
            args.extend(["--workers".to_owned(), workers]);
        }
        // The last of two equal flags would be refused.
        if let Some(at) = args.iter().position(|arg| arg == "--cores")
            && more.contains(&"--cores")
        {
            args.drain(at..at + 2);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        match self.job {
            Job::File => {}
            Job::Power => args.extend(["--durability", "power"].map(str::to_owned)),
            Job::Overwrite => args.push("--overwrite".to_owned()),
            Job::RetryErrors => args.push("--retry-errors".to_owned()),
            Job::Stdin => args = replaced(args, "-i", "-"),
            Job::Stdout => args = replaced(args, "-o", "-"),
        }
        args
    }

    /// Its standard input, for the job that reads it.
    fn give_input(&self, command: &mut Command) {
        if self.job == Job::Stdin {
            let input = fs::File::open(self.place.path("in.jsonl"));
            command.stdin(Stdio::from(input.expect("the input")));
        }
    }

    /// Starts the command.
    pub fn start(&self, more: &[&str]) -> Running {
        spawn_with(&self.place, &self.args(more), |command| {
            self.give_input(command);
        })
    }

    /// Runs the command and asks before each of its changes to the disk.
    pub fn supervised(
        &self,
        more: &[&str],
        decide: impl FnMut(&Change, &Running) -> Verdict,
    ) -> Run {
        let args = self.args(more);
        let run = supervise(
            &self.place,
            &args,
            |command| self.give_input(command),
            decide,
        );
        self.note_printed(&run);
        run
    }

    fn note_printed(&self, run: &Run) {
        if self.job == Job::Stdout && !run.stdout.is_empty() {
            let mut printed = self.printed.lock().expect("no holder panics");
            printed.push(run.stdout.clone());
        }
    }

    /// The status of a run that came to its end.
    pub fn end_status(&self) -> i32 {
        match self.lines.sent >= 9 || self.lines.invalid > 0 {
            true => 3,
            false => 0,
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.place.path(match self.job {
            Job::Stdout => "errors.jsonl.blaze",
            _ => "out.jsonl.blaze",
        })
    }

    /// Runs to the end.
    #[track_caller]
    pub fn finish(&self, more: &[&str]) -> Run {
        let run = self.start(more).wait().expect(self.end_status());
        self.note_printed(&run);
        run
    }

    /// Starts a run and kills it at the `count`-th request that arrives from now on; `false` if it
    /// came to its end before.
    pub fn kill_at(&self, count: u64, more: &[&str]) -> bool {
        let wanted = self.arrivals.count() + count;
        let mut running = self.start(more);
        let patience = Instant::now() + WATCHDOG / 2;
        while !self.arrivals.wait_for(wanted, Duration::from_millis(20)) {
            if running.has_ended() || Instant::now() > patience {
                break;
            }
        }
        let run = running.kill();
        self.note_printed(&run);
        self.take_in();
        run.status.is_none()
    }

    /// Has the endpoint read what a killed process left in its sockets: one thread serves them all, and
    /// what is ready goes before a connection that comes later.
    fn take_in(&self) {
        for _ in 0..2 {
            let mut late = TcpStream::connect(self.mock.address()).expect("it listens");
            late.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .expect("it reads");
            late.read_to_end(&mut Vec::new()).expect("it answers");
        }
    }

    /// The final files are there and the folder holds no run.
    pub fn is_final(&self) -> bool {
        let in_place = match self.job {
            Job::Stdout => self.place.path("errors.jsonl").exists(),
            Job::Overwrite => self.place.read("out.jsonl") != OLD_OUTPUT,
            Job::RetryErrors => self.place.records("out.jsonl").len() == self.lines.sent,
            Job::File | Job::Stdin | Job::Power => self.place.path("out.jsonl").exists(),
        };
        in_place && !self.folder().join("manifest.json").exists()
    }

    /// Lines whose record is on disk, by physical number. Each must have it whole.
    pub fn finished(&self) -> BTreeSet<u64> {
        if self.phase() != Some("running".to_owned()) {
            // Every line is: the segments may be gone already, or be the final files.
            let merged = self.phase().is_some() || self.is_final();
            let sent = 1..=self.lines.sent as u64;
            return match self.job {
                _ if merged => sent.collect(),
                // Nothing has begun: the successes of the finished run stand.
                Job::RetryErrors => sent.filter(|line| !Lines::is_refused(*line)).collect(),
                _ => BTreeSet::new(),
            };
        }
        let mut finished = BTreeSet::new();
        for entry in fs::read_dir(self.folder()).expect("the run folder") {
            let name = entry.expect("the run folder").file_name();
            let name = name.to_str().expect("a name");
            if let Some(which) = name.strip_prefix("journal-") {
                self.read_journal(which.trim_end_matches(".log"), &mut finished);
            }
        }
        finished
    }

    fn read_journal(&self, which: &str, finished: &mut BTreeSet<u64>) {
        let file = |name: String| fs::read(self.folder().join(name)).unwrap_or_default();
        let segment = |kind: &str| file(format!("{kind}-{which}.seg"));
        let (output, errors) = (segment("output"), segment("errors"));
        let journal = file(format!("journal-{which}.log"));
        let replay = replay(&journal).expect("a kill damages nothing");
        let mut note = |entry: Entry, record: Option<&[u8]>| {
            assert_eq!(
                record.map(crc32fast::hash),
                Some(entry.record_checksum),
                "{which}"
            );
            // What failed is to be sent again.
            if self.job != Job::RetryErrors || entry.outcome == Some(Outcome::Success) {
                finished.insert(entry.line_number);
            }
        };
        for entry in replay.entries() {
            let segment = match entry.outcome {
                Some(Outcome::Success) => &output,
                Some(Outcome::Failure) => &errors,
                // An attempt that was paid for and is not the line's end.
                None => continue,
            };
            let end = entry.end().expect("an end") as usize;
            note(entry, segment.get(entry.position as usize..end));
        }
        let Some(header) = replay.header() else {
            return;
        };
        let written_ahead = file(format!("ahead-{which}.wal"));
        for frame in ahead::read(&written_ahead, &header).expect("a kill damages nothing") {
            if frame.entry.outcome.is_some() {
                note(frame.entry, Some(frame.record));
            }
        }
    }

    /// How far the manifest says the run has come.
    pub fn phase(&self) -> Option<String> {
        let text = fs::read(self.folder().join("manifest.json")).ok()?;
        let manifest: Value = serde_json::from_slice(&text).expect("a manifest is never torn");
        Some(manifest["phase"].as_str().expect("a phase").to_owned())
    }

    /// The final files, normalised. Checks that every line has exactly one record.
    #[track_caller]
    pub fn files(&self) -> Final {
        let read = |name: &str| match self.place.path(name) {
            path if path.exists() => records(&path),
            _ => Vec::new(),
        };
        let output = match self.job {
            // A process that died in the middle of it was followed by one that wrote all again.
            Job::Stdout => {
                let printed = self.printed.lock().expect("no holder panics");
                parse_records("stdout", printed.last().expect("records").as_bytes())
            }
            _ => read("out.jsonl"),
        };
        let errors = read("errors.jsonl");
        let mut numbers: Vec<u64> = output
            .iter()
            .map(|record| &record["metadata"]["line_number"])
            .chain(errors.iter().map(|record| &record["line_number"]))
            .map(|number| number.as_u64().expect("a line number"))
            .collect();
        numbers.sort_unstable();
        let all: Vec<u64> = (1..=(self.lines.sent + self.lines.invalid) as u64).collect();
        assert_eq!(numbers, all, "every line has exactly one record");
        let normal = |records: Vec<Value>| records.into_iter().map(normalised).collect();
        Final {
            output: normal(output),
            errors: normal(errors),
        }
    }

    /// The promise: final files as undisturbed, finished lines never sent again, no more repeated
    /// than `repeats_max`, nothing left behind.
    #[track_caller]
    pub fn check(&self, undisturbed: &Final, kept: &[Kept], repeats_max: u64) {
        assert_eq!(&self.files(), undisturbed);
        let seen = self.arrivals.seen();
        assert_eq!(seen.len(), self.lines.sent, "every line was sent");
        for (kill, kept) in kept.iter().enumerate() {
            for line in &kept.finished {
                let before = kept.seen.get(line).copied();
                let after = seen.get(line).copied();
                assert_eq!(before, after, "line {line} was finished at kill {kill}");
            }
        }
        let needed = |line: &u64| match self.job {
            Job::RetryErrors if Lines::is_refused(*line) => 2,
            _ => 1,
        };
        let repeats: u64 = (seen.iter())
            .map(|(line, count)| u64::from(count.checked_sub(needed(line)).expect("sent")))
            .sum();
        assert!(repeats <= repeats_max, "{repeats} repeats: {seen:?}");
        // A kill in the last instant may leave the folder with nothing but its lock.
        let left = |name: &String| name.contains(".blaze/") && !name.ends_with('/');
        let mut left = self.place.listing().into_iter().filter(left);
        assert!(
            left.all(|name| name.ends_with("/lock")),
            "{:?}",
            self.place.listing()
        );
    }

    /// What is on disk now, and how often those lines had been sent.
    pub fn kept(&self) -> Kept {
        Kept {
            finished: self.finished(),
            seen: self.arrivals.seen(),
        }
    }
}

/// The state of a run at a kill.
pub struct Kept {
    pub finished: BTreeSet<u64>,
    pub seen: BTreeMap<u64, u32>,
}

/// What is replaced by a job that overwrites.
pub const OLD_OUTPUT: &[u8] = b"{\"old\": true}\n";

/// The final files of these lines when nothing happens.
pub fn undisturbed(runtime: &'static str, lines: Lines) -> Final {
    undisturbed_job(runtime, lines, Job::File)
}

/// [`undisturbed`] of one job.
pub fn undisturbed_job(runtime: &'static str, lines: Lines, job: Job) -> Final {
    let scene = Scene::of_job(runtime, lines, job);
    scene.finish(&[]);
    let files = scene.files();
    scene.check(&files, &[], 0);
    files
}

fn normalised(mut record: Value) -> Value {
    for (place, names) in [
        ("", &["id", "attempts"][..]),
        ("/response", &["id", "created"]),
        ("/metadata", &["latency_ms", "attempts", "endpoint"]),
    ] {
        let is_input_id = place.is_empty();
        if let Some(Value::Object(fields)) = record.pointer_mut(place) {
            for name in names {
                // A number is the user's own field.
                if !(is_input_id && *name == "id") {
                    fields.remove(*name);
                }
            }
        }
    }
    record
}

/// Whether `strace` is there and may do this to a process.
pub fn strace_works(args: &[String]) -> bool {
    let works = Command::new("strace")
        .args(args)
        .arg("true")
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        skip_outside_ci("strace is not there or may not trace");
    }
    works
}

/// Puts a program in front of a command, such as `strace`.
pub fn behind(command: &mut Command, program: &str, args: &[String]) {
    let mut outer = Command::new(program);
    outer
        .args(args)
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Killed, it must not leave the command running: see `Running`.
        .process_group(0);
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    *command = outer;
}
