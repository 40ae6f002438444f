//! The merge of a finished run, from the page cache, in turn with a plain copy of the same bytes. What is read is
//! on the disk as well.
//!
//! `cargo bench --bench merge [-- LINES [ROUNDS]]`: 300 000 lines of 1000 bytes and 5 rounds. `TMPDIR` says on
//! which file system; it needs three times the records. What is timed includes all of the merge: index,
//! checksums, final file, its sync and comparison, rename and deletion of the run folder; of the copy, reading,
//! writing and deletion of what was read, without a sync. Wall time, and the CPU time of all threads (Linux).

#![allow(
    clippy::disallowed_methods,
    reason = "a bench makes its own files, its own disorder and its own time"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use blaze_uring::batch::folder::{InputIdentity, Manifest, RunFolder};
use blaze_uring::batch::merge::{MergePlan, Target, merge};
use blaze_uring::batch::segment::{NewEntry, ShardLog};
use blaze_uring::config::{Durability, Format, Order};
use blaze_uring::journal::{Outcome, Tokens};

const LINES: u64 = 300_000;
const ROUNDS: usize = 5;
const RECORD_BYTES: usize = 1000;
/// Lines in flight: a record is at most so many places away from where its line would be.
const IN_FLIGHT: u64 = 256;
/// Records that a shard writes at once.
const RECORDS_PER_FLUSH: usize = 20;
/// As much as `cp` reads at once.
const COPY_BYTES: usize = 256 << 10;

/// What is done with the bytes of a run.
#[derive(Clone, Copy)]
enum Case {
    /// Nothing but the bytes: the yardstick.
    Copy,
    Merge {
        shards: u64,
        in_flight: u64,
    },
}

const CASES: [(&str, Case); 4] = [
    ("plain copy", Case::Copy),
    (
        "two shards, out of order",
        Case::Merge {
            shards: 2,
            in_flight: IN_FLIGHT,
        },
    ),
    (
        "two shards, each in order",
        Case::Merge {
            shards: 2,
            in_flight: 1,
        },
    ),
    (
        "one shard in order: renamed",
        Case::Merge {
            shards: 1,
            in_flight: 1,
        },
    ),
];

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let lines = numbers.next().unwrap_or(LINES);
    let rounds = numbers.next().map_or(ROUNDS, |rounds| rounds as usize);
    let mut seconds = [const { Vec::new() }; CASES.len()];
    for _ in 0..rounds {
        for (case, seconds) in CASES.iter().zip(&mut seconds) {
            seconds.push(run(case.1, lines));
        }
    }
    let gigabytes = lines as f64 * RECORD_BYTES as f64 / 1e9;
    println!(
        "{lines} records, {gigabytes:.1} GB, medians of {rounds}: GB/s by the clock, GB per second of CPU"
    );
    for (case, seconds) in CASES.iter().zip(&mut seconds) {
        let median = |which: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = seconds.iter().map(which).collect();
            all.sort_by(f64::total_cmp);
            gigabytes / all[all.len() / 2]
        };
        let (wall, cpu) = (median(|pair| pair.0), median(|pair| pair.1));
        println!("{:<30} {wall:>6.2} {cpu:>6.2}", case.0);
    }
}

/// Seconds by the clock, and of CPU.
fn run(case: Case, lines: u64) -> (f64, f64) {
    match case {
        Case::Copy => {
            let run = Run::new(lines, 1, 1);
            timed(|| copy(&run))
        }
        Case::Merge { shards, in_flight } => {
            let run = Run::new(lines, shards, in_flight);
            let opened = RunFolder::open_or_create(&run.folder, manifest(), false);
            let folder = opened.expect("a run").folder;
            let plan = MergePlan {
                order: Order::Input,
                output: Some(Target::File(run.place.path().join("out.jsonl"))),
                errors: Target::File(run.place.path().join("errors.jsonl")),
                overwrite: false,
                begun: None,
            };
            timed(|| {
                let merged = merge(&folder, plan, lines, &mut |_, _| {}).expect("merged");
                assert_eq!(merged.succeeded, lines);
            })
        }
    }
}

fn copy(run: &Run) {
    let segment = run.folder.join("output-0001-000.seg");
    let mut from = File::open(&segment).expect("a segment");
    let mut to = File::create(run.place.path().join("copy")).expect("a copy");
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer).expect("bytes");
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).expect("space");
    }
    drop(from);
    fs::remove_file(segment).expect("removed");
}

fn timed(work: impl FnOnce()) -> (f64, f64) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    work();
    (began.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    let ticks = ticks.filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// A run folder in which every line has its record.
struct Run {
    place: tempfile::TempDir,
    folder: PathBuf,
}

impl Run {
    fn new(lines: u64, shards: u64, in_flight: u64) -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = place.path().join("out.jsonl.blaze");
        let folder = RunFolder::open_or_create(&path, manifest(), false)
            .expect("a run folder")
            .folder;
        let mut random = fastrand::Rng::with_seed(7);
        let mut record = vec![b'x'; RECORD_BYTES];
        record[RECORD_BYTES - 1] = b'\n';
        for shard in 0..shards {
            let create =
                |keep| ShardLog::create(&folder, 1, shard as usize, keep, Durability::Process);
            let mut log = create(true).expect("a log");
            let (mut next, end) = (1 + shard * lines / shards, 1 + (shard + 1) * lines / shards);
            let mut open = Vec::new();
            loop {
                while next < end && (open.len() as u64) < in_flight {
                    open.push(next);
                    next += 1;
                }
                if open.is_empty() {
                    break;
                }
                let line_number = open.swap_remove(random.usize(..open.len()));
                record[..20].copy_from_slice(format!("{line_number:020}").as_bytes());
                let entry = NewEntry {
                    line_offset: line_number * 200,
                    line_number,
                    completed_us: 1_700_000_000_000_000 + line_number,
                    outcome: Outcome::Success,
                    attempts: 1,
                    tokens: Tokens::default(),
                    cost_nano_usd: 0,
                };
                log.append(entry, &record);
                if log.buffered() >= RECORDS_PER_FLUSH {
                    log.reserve(1 << 20).expect("space");
                    log.flush().expect("space");
                }
            }
            log.finish().expect("space");
        }
        // A run takes long enough for what it writes to reach the disk. Else the kernel, which lets only a
        // part of the memory be unwritten, would hold the merge back for what was written before it.
        for file in fs::read_dir(&path).expect("a run folder") {
            let file = File::open(file.expect("an entry").path()).expect("a file of ours");
            file.sync_all().expect("a disk that works");
        }
        Self {
            place,
            folder: path,
        }
    }
}

fn manifest() -> Manifest {
    Manifest {
        input: InputIdentity {
            path: "in.jsonl".to_owned(),
            size: 1000,
            mtime_ns: 5,
            fingerprint: "0a".repeat(16),
        },
        format: Format::Auto,
        max_line_bytes: 64 << 20,
        has_output: true,
        overwrite: false,
        created_us: 1_700_000_000_000_000,
    }
}
