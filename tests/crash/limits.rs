//! Limits of the process: locked memory, memory; and a wall clock that jumps.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blaze_uring::runtime::uring_available;
use serde_json::{Value, json};

use crate::scene::{Lines, Scene, WORKERS, undisturbed};
use crate::space::limit;
use crate::storage::without;
use crate::support::{
    Place, Run, WATCHDOG, batch_args, mock_with, run_with, runtimes, skip, skip_outside_ci,
    spawn_with,
};

/// Enough text for two ranges of input, hence for two shards.
const TWO_SHARDS: Lines = Lines {
    sent: 2400,
    invalid: 0,
};

/// The capability of locking any amount of memory.
const CAP_IPC_LOCK: libc::c_ulong = 14;

/// A core's rings of 64 and 256 entries lock 40 KiB, those of 1024 and 256 about 136 KiB.
#[test]
fn little_locked_memory_means_small_rings_then_tokio() {
    if let Err(reason) = uring_available() {
        skip(&reason);
        return;
    }
    if available_cores() < 2 {
        skip("some cores on tokio: there is only one core");
        return;
    }
    let undisturbed = undisturbed("tokio", TWO_SHARDS);
    let run = |runtime, kib: u64| {
        let scene = Scene::with(runtime, TWO_SHARDS, |_| {});
        let args = scene.args(&["--cores", "2", "--workers", "16"]);
        let run = run_with(&scene.place, &args, |command| {
            without(command, &[CAP_IPC_LOCK]);
            limit(command, libc::RLIMIT_MEMLOCK, kib << 10);
        });
        (scene, run)
    };
    let check = |runtime, kib, whole: usize, cores: usize| {
        let (scene, run) = run(runtime, kib);
        let run = run.expect(scene.end_status());
        let said = |what: &str| run.stderr.matches(what).count();
        assert_eq!(
            said("io_uring cannot be used here"),
            whole,
            "{kib}: {run:#?}"
        );
        assert_eq!(
            said("io_uring cannot be used by this core"),
            cores,
            "{kib}: {run:#?}"
        );
        scene.check(&undisturbed, &[], 0);
    };
    // No rings of 1024 entries; two pairs of small ones.
    check("uring", 96, 0, 0);
    check("auto", 96, 0, 0);
    // One pair.
    check("auto", 64, 0, 1);
    // None.
    check("auto", 16, 1, 0);
    let (_, refused) = run("uring", 16);
    let refused = refused.expect(1);
    assert!(
        refused.stderr.contains("Cannot allocate memory"),
        "{refused:#?}"
    );
    // One core cannot, and may not be helped by tokio.
    let (scene, stopped) = run("uring", 64);
    let stopped = stopped.expect(4);
    for part in ["io_uring cannot be used by a core", "--runtime tokio"] {
        assert!(stopped.stderr.contains(part), "{part}: {stopped:#?}");
    }
    let kept = scene.kept();
    scene.finish(&["--cores", "1"]);
    scene.check(&undisturbed, &[kept], 0);
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// 1000 requests in flight and an input larger than the memory that the process may have, its share of
/// the page cache included. Half of the 256 MB that are promised.
#[test]
fn a_thousand_in_flight_fit_into_little_memory() {
    const LIMIT_BYTES: u64 = 128 << 20;
    const LINES: usize = 9000;
    const IN_FLIGHT: usize = 1000;
    let padding = "x".repeat(16 << 10);
    for runtime in runtimes() {
        let place = Place::new();
        let input: String = (0..LINES)
            .map(|id| format!("{{\"id\": {id}, \"input\": \"{padding}\"}}\n"))
            .collect();
        assert!(input.len() as u64 > LIMIT_BYTES);
        place.write("in.jsonl", input);
        let mock = mock_with(|options| {
            options.record_requests = false;
            options.latency = "700ms".parse().expect("a latency");
        });
        let more = ["--rate", "0", "--workers", "1000", "--timeout", "50"];
        let endpoint =
            json!({"url": mock.url("/v1/chat/completions"), "max_concurrent": IN_FLIGHT});
        place.write("config.json", json!({"endpoints": [endpoint]}).to_string());
        let mut args = batch_args(&mock, runtime, &more);
        let at = args.iter().position(|arg| arg == "--endpoint-url");
        let at = at.expect("the endpoint");
        args.splice(at..at + 2, ["-c", "config.json"].map(str::to_owned));
        let Some(group) = MemoryGroup::new(LIMIT_BYTES) else {
            skip(
                "a memory cgroup cannot be made here: the peak of anonymous memory is asserted instead",
            );
            let (run, peak) = run_and_measure(&place, &args);
            run.expect(0);
            assert!(peak < LIMIT_BYTES, "{runtime}: {peak} bytes");
            continue;
        };
        // On a loaded machine a process with so little memory waits for the disk most of the time.
        let running = spawn_with(&place, &args, |command| group.join(command));
        running.within(5 * WATCHDOG).wait().expect(0);
        assert_eq!(place.records("out.jsonl").len(), LINES);
        let at_once = mock.stats().in_flight_max as usize;
        assert!(
            at_once > IN_FLIGHT * 9 / 10,
            "{runtime}: {at_once} in flight"
        );
        let peak = group.peak();
        let _ = io::Write::write_fmt(
            &mut io::stderr(),
            format_args!("{runtime}: {at_once} in flight, {peak} bytes at most of {LIMIT_BYTES}\n"),
        );
        assert!(peak <= LIMIT_BYTES, "the limit held: {peak}");
    }
}

/// A memory cgroup of either version, removed when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit_bytes: u64) -> Option<Self> {
        let name = format!("blaze-test-{}", std::process::id());
        let group = |root: &str| Self(Path::new(root).join(&name));
        for (root, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = group(root);
            let limited = fs::create_dir(&group.0)
                .and_then(|()| fs::write(group.0.join(limit), limit_bytes.to_string()));
            if limited.is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// Has the command enter the group before it becomes the binary.
    fn join(&self, command: &mut Command) {
        let members = fs::OpenOptions::new()
            .write(true)
            .open(self.0.join("cgroup.procs"))
            .expect("the group");
        // SAFETY: only a write between fork and exec, to a file that the closure owns.
        unsafe {
            command.pre_exec(move || io::Write::write_all(&mut &members, b"0"));
        }
    }

    /// The most it held, in bytes.
    fn peak(&self) -> u64 {
        let read = |name| fs::read_to_string(self.0.join(name)).ok();
        let text = read("memory.max_usage_in_bytes").or_else(|| read("memory.peak"));
        text.and_then(|text| text.trim().parse().ok())
            .unwrap_or_default()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process may be on its way out.
        let since = Instant::now();
        while fs::remove_dir(&self.0).is_err() && since.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Also the most anonymous memory that was seen, in bytes.
fn run_and_measure(place: &Place, args: &[String]) -> (Run, u64) {
    let mut running = spawn_with(place, args, |_| {});
    let status = format!("/proc/{}/status", running.id());
    let mut peak_kib = 0;
    while !running.has_ended() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let field = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
        peak_kib = peak_kib.max(kib.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(5));
    }
    (running.wait(), peak_kib << 10)
}

/// A wall clock that is off by what a file says, now. The monotonic clock is the kernel's.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long *seconds_off(void) {
    static volatile long *mapped;
    if (!mapped) {
        int file = open(getenv("CLOCK_OFF"), O_RDONLY);
        mapped = mmap(0, sizeof *mapped, PROT_READ, MAP_SHARED, file, 0);
    }
    return mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += *seconds_off();
    return result;
}
"#;

/// The preloaded clock, and the file that sets it.
struct Clock {
    library: PathBuf,
    off: PathBuf,
}

impl Clock {
    fn build(place: &Place) -> Option<Self> {
        let source = place.write("clock.c", CLOCK);
        let library = place.path("clock.so");
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status();
        if !built.is_ok_and(|status| status.success()) {
            skip_outside_ci("gcc is not there");
            return None;
        }
        let clock = Self {
            library,
            off: place.path("off"),
        };
        clock.set(0);
        Some(clock)
    }

    fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.off);
        // In place: the process has it mapped.
        file.and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0))
            .expect("the clock is set");
    }

    fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("CLOCK_OFF", &self.off);
    }
}

/// By ten years ahead and back behind the start, again and again, and a kill in between.
#[test]
fn a_wall_clock_that_jumps_disturbs_nothing() {
    const YEARS: i64 = 10 * 365 * 86_400;
    const LINES: Lines = Lines {
        sent: 90,
        invalid: 5,
    };
    let tools = Place::new();
    let Some(clock) = Clock::build(&tools) else {
        return;
    };
    for runtime in runtimes() {
        for order in ["input", "completion"] {
            clock.set(0);
            let more = ["--order", order, "--cores", "2"];
            let calm = Scene::new(runtime, LINES);
            calm.finish(&more);
            let scene = Scene::with(runtime, LINES, |options| {
                options.latency = "20ms".parse().expect("a latency");
            });
            let mut kept = Vec::new();
            let mut off = YEARS;
            for part in [30, 60] {
                let mut running = spawn_with(&scene.place, &scene.args(&more), |command| {
                    clock.preload(command);
                });
                while scene.arrivals.count() < part && !running.has_ended() {
                    clock.set(off);
                    off = -off;
                    // With each request that arrives, and if none does.
                    let next = scene.arrivals.count() + 1;
                    scene.arrivals.wait_for(next, Duration::from_millis(5));
                }
                running.kill();
                kept.push(scene.kept());
            }
            clock.set(-YEARS);
            let finished = run_with(&scene.place, &scene.args(&more), |command| {
                clock.preload(command);
            });
            finished.expect(scene.end_status());
            match order {
                "input" => scene.check(&calm.files(), &kept, 2 * u64::from(WORKERS)),
                _ => drop(scene.files()),
            }
        }
    }
}

/// The time to wait is the difference of two dates of the server's own clock, whatever ours says.
#[test]
fn a_retry_after_date_is_read_by_the_servers_clock() {
    use blaze_uring::mock::Scripted;
    use std::sync::atomic::{AtomicBool, Ordering};
    let tools = Place::new();
    let Some(clock) = Clock::build(&tools) else {
        return;
    };
    // An hour behind: the date would seem an hour away. An hour ahead: long past.
    for seconds in [-3600, 3600] {
        let refused = AtomicBool::new(false);
        let mock = crate::support::scripted(move |_| {
            let first = !refused.swap(true, Ordering::SeqCst);
            first.then(|| {
                let now = std::time::SystemTime::now();
                Scripted::json(429, "{}")
                    .header("date", &httpdate::fmt_http_date(now))
                    .header(
                        "retry-after",
                        &httpdate::fmt_http_date(now + Duration::from_secs(2)),
                    )
            })
        });
        let place = Place::new();
        place.input(&[r#"{"input": "x"}"#]);
        clock.set(seconds);
        let started = Instant::now();
        let run = run_with(&place, &batch_args(&mock, "tokio", &[]), |command| {
            clock.preload(command);
        });
        run.expect(0);
        let lasted = started.elapsed();
        assert!(
            lasted > Duration::from_millis(1900),
            "{seconds}: {lasted:?}"
        );
        assert!(lasted < WATCHDOG, "{seconds}: {lasted:?}");
        let record: &Value = &place.records("out.jsonl")[0];
        // A refusal for load spends none.
        assert_eq!(record["metadata"]["attempts"], 1);
    }
}
