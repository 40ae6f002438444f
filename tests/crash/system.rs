//! The system under the run: an input cut short, few descriptors, readers that go, no io_uring.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use blaze_uring::runtime::uring_available;

use crate::scene::{Lines, Scene, WORKERS, behind, strace_works, undisturbed};
use crate::space::limit;
use crate::support::{
    Run, WATCHDOG, parse_records, run, run_with, runtimes, skip, spawn, spawn_with,
};

const LINES: Lines = Lines {
    sent: 60,
    invalid: 2,
};

fn scene(runtime: &'static str, lines: Lines, latency: &str) -> Scene {
    Scene::with(runtime, lines, |options| {
        options.latency = latency.parse().expect("a latency");
    })
}

#[test]
fn an_input_cut_short_ends_the_run_with_a_message() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, LINES, "300ms");
        let input = scene.place.read("in.jsonl");
        let running = spawn(&scene.place, &scene.args(&[]));
        // Two more than fit in flight: some have their record, without which the folder holds nothing.
        assert!(scene.arrivals.wait_for(u64::from(WORKERS) + 2, WATCHDOG));
        // The file itself, under the mapping: not a new one in its place.
        let file = OpenOptions::new()
            .write(true)
            .open(scene.place.path("in.jsonl"));
        file.and_then(|file| file.set_len(0)).expect("cut");
        let ended = running.wait().expect(4);
        assert!(ended.stderr.contains("cut short"), "{ended:#?}");
        let kept = scene.kept();
        let refused = run(&scene.place, &scene.args(&[])).expect(1);
        assert!(refused.stderr.contains("another input"), "{refused:#?}");
        scene.place.write("in.jsonl", &input);
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], WORKERS.into());
    }
}

#[test]
fn an_input_that_grows_stops_the_run() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, LINES, "300ms");
        let input = scene.place.read("in.jsonl");
        let running = spawn(&scene.place, &scene.args(&[]));
        assert!(scene.arrivals.wait_for(u64::from(WORKERS), WATCHDOG));
        let file = OpenOptions::new()
            .append(true)
            .open(scene.place.path("in.jsonl"));
        file.and_then(|mut file| file.write_all(b"{\"input\": \"line 999\"}\n"))
            .expect("one more line");
        let stopped = running.wait().expect(4);
        assert!(
            stopped.stderr.contains("the input file changed"),
            "{stopped:#?}"
        );
        let kept = scene.kept();
        assert!(kept.seen.keys().all(|line| kept.finished.contains(line)));
        scene.place.write("in.jsonl", &input);
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], 0);
    }
}

/// Bytes are changed in place: as many, so only the time of change tells.
#[test]
fn an_input_that_is_written_over_stops_the_run() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, LINES, "300ms");
        let input = scene.place.read("in.jsonl");
        let running = spawn(&scene.place, &scene.args(&[]));
        assert!(scene.arrivals.wait_for(u64::from(WORKERS), WATCHDOG));
        // The last line, which is far from being sent.
        let changed = input.len() as u64 - 3;
        let file = OpenOptions::new()
            .write(true)
            .open(scene.place.path("in.jsonl"));
        file.and_then(|file| file.write_all_at(b"?", changed))
            .expect("written over");
        let stopped = running.wait().expect(4);
        let said = "the input file changed";
        assert!(stopped.stderr.contains(said), "{stopped:#?}");
        let kept = scene.kept();
        let refused = run(&scene.place, &scene.args(&[])).expect(1);
        assert!(refused.stderr.contains("another input"), "{refused:#?}");
        scene.place.write("in.jsonl", &input);
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], 0);
    }
}

/// Another file takes its name, as editors do it: the run keeps the one it has, to its end.
#[test]
fn an_input_replaced_by_name_is_read_to_its_end() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, LINES, "100ms");
        let running = spawn(&scene.place, &scene.args(&[]));
        assert!(scene.arrivals.wait_for(u64::from(WORKERS), WATCHDOG));
        scene.place.write("new", "{\"input\": \"line 999\"}\n");
        std::fs::rename(scene.place.path("new"), scene.place.path("in.jsonl")).expect("replaced");
        running.wait().expect(scene.end_status());
        scene.check(&undisturbed, &[], 0);
    }
}

#[test]
fn few_descriptors_mean_fewer_workers_not_failed_lines() {
    let lines = Lines {
        sent: 400,
        invalid: 0,
    };
    // What a process with one shard keeps for itself.
    const OWN: u64 = 80;
    const HARD: u64 = OWN + 30;
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, lines);
        for raised in [true, false] {
            let scene = scene(runtime, lines, "20ms");
            let args = scene.args(&["--workers", "100"]);
            let run = run_with(&scene.place, &args, |command| {
                if raised {
                    soft_limit(command, 40);
                } else {
                    limit(command, libc::RLIMIT_NOFILE, HARD);
                }
            });
            let run = run.expect(scene.end_status());
            assert_eq!(
                run.stderr.contains("--workers 100 needs"),
                !raised,
                "{run:#?}"
            );
            scene.check(&undisturbed, &[], 0);
            let at_once = scene.mock.stats().in_flight_max;
            assert_eq!(at_once > HARD - OWN, raised, "{at_once} in flight");
        }
    }
}

/// Only the soft limit, which a process may raise itself.
fn soft_limit(command: &mut Command, value: u64) {
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let mut limit = std::mem::zeroed::<libc::rlimit>();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = value;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            Ok(())
        });
    }
}

/// Makes one of the command's standard streams a pipe that nobody reads.
fn without_reader(command: &mut Command, descriptor: i32) {
    // SAFETY: only system calls between fork and exec, on descriptors of this process.
    unsafe {
        command.pre_exec(move || {
            let mut pipe = [0; 2];
            if libc::pipe(pipe.as_mut_ptr()) != 0 || libc::dup2(pipe[1], descriptor) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            libc::close(pipe[0]);
            libc::close(pipe[1]);
            Ok(())
        });
    }
}

#[test]
fn a_reader_that_goes_away_costs_nothing() {
    for runtime in runtimes() {
        let scene = scene(runtime, LINES, "1ms");
        let mut args = scene.args(&[]);
        let at = args.iter().position(|arg| arg == "out.jsonl");
        args[at.expect("the output")] = "-".to_owned();
        let stopped = run_with(&scene.place, &args, |command| without_reader(command, 1));
        let stopped = stopped.expect(130);
        assert!(stopped.stderr.contains("has closed it"), "{stopped:#?}");
        let again = run(&scene.place, &args).expect(scene.end_status());
        // As after Ctrl-C: what was in flight had its grace.
        assert_eq!(
            scene.arrivals.count(),
            LINES.sent as u64,
            "nothing is sent twice"
        );
        let records = parse_records("stdout", again.stdout.as_bytes());
        let failed = LINES.sent / 9 + LINES.invalid;
        assert_eq!(records.len(), LINES.sent + LINES.invalid - failed);
        assert_eq!(scene.place.records("errors.jsonl").len(), failed);
    }
}

#[test]
fn standard_error_without_a_reader_ends_nothing() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, LINES, "1ms");
        let args = scene.args(&["-v"]);
        let run = run_with(&scene.place, &args, |command| without_reader(command, 2));
        run.expect(scene.end_status());
        scene.check(&undisturbed, &[], 0);
    }
}

/// Arguments for strace that have a system call fail.
fn failing(call: &str, how: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}"));
    let quietly = ["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"];
    (quietly.into_iter())
        .chain(["-e", &trace, "-e", &inject])
        .map(str::to_owned)
        .collect()
}

/// Whether io_uring is there and strace can have a call of it fail; says so if not.
fn can_fail(call: &str) -> bool {
    if let Err(reason) = uring_available() {
        skip(&reason);
        return false;
    }
    strace_works(&failing(call, "error=EINTR:when=1"))
}

/// Runs the scene on one core, with a call of io_uring failing like this.
fn run_failing(scene: &Scene, settings: &[&str], call: &str, how: &str) -> Run {
    let running = spawn_with(&scene.place, &scene.args(settings), |command| {
        behind(command, "strace", &failing(call, how));
    });
    // A call that fails all the time costs strace several times what it costs the process.
    running.within(5 * WATCHDOG).wait()
}

/// A kernel, sandbox or limit that refuses io_uring.
#[test]
fn without_io_uring_it_runs_on_tokio() {
    if !can_fail("io_uring_setup") {
        return;
    }
    let undisturbed = undisturbed("tokio", LINES);
    for how in ["error=EPERM", "error=ENOSYS", "error=ENOMEM"] {
        for (runtime, status) in [("auto", 3), ("uring", 1)] {
            let scene = scene(runtime, LINES, "1ms");
            let run = run_failing(&scene, &[], "io_uring_setup", how).expect(status);
            assert_eq!(
                run.stderr.matches("io_uring cannot be used").count(),
                1,
                "{run:#?}"
            );
            if runtime == "auto" {
                scene.check(&undisturbed, &[], 0);
            }
        }
    }
}

/// A signal, a lack of memory, a full completion queue: what the kernel did not take is not left behind.
#[test]
fn a_ring_whose_calls_fail_now_and_then_loses_no_request() {
    if !can_fail("io_uring_enter") {
        return;
    }
    let undisturbed = undisturbed("uring", LINES);
    for error in ["EINTR", "EAGAIN", "EBUSY"] {
        let scene = scene("uring", LINES, "1ms");
        let how = format!("error={error}:when=20+7");
        run_failing(&scene, &["--cores", "1"], "io_uring_enter", &how).expect(3);
        scene.check(&undisturbed, &[], 0);
    }
}

/// From some moment on the kernel does nothing more for a ring. Inside the runtime that is a loop without
/// end: of one kind after EBUSY, of another after ENOMEM.
#[test]
fn a_ring_whose_calls_fail_for_good_stops_the_run_which_goes_on() {
    if !can_fail("io_uring_enter") {
        return;
    }
    let undisturbed = undisturbed("uring", LINES);
    for error in ["EBUSY", "ENOMEM"] {
        let scene = scene("uring", LINES, "1ms");
        let how = format!("error={error}:when=30+");
        // The thread may be silent for less long.
        let short = ["--max-line-bytes", "65536"];
        let small = ["--max-response-bytes", "65536"];
        let settings = [&["--cores", "1"], &short[..], &small].concat();
        let stopped = run_failing(&scene, &settings, "io_uring_enter", &how).expect(4);
        assert!(stopped.stderr.contains("shard 0 is stuck"), "{stopped:#?}");
        let kept = scene.kept();
        assert!(kept.finished.len() < LINES.sent, "it failed midway");
        scene.finish(&short);
        scene.check(&undisturbed, &[kept], WORKERS.into());
    }
}

/// The harness: what stands in front of a command (strace) takes it along when it is killed.
#[test]
fn nothing_outlives_a_test_that_gives_up() {
    let scene = scene("tokio", LINES, "1h");
    let shell = ["-c".to_owned(), "\"$0\" \"$@\"; exit $?".to_owned()];
    let running = spawn_with(&scene.place, &scene.args(&[]), |command| {
        behind(command, "sh", &shell);
    });
    let outer = running.id();
    assert!(scene.arrivals.wait_for(1, WATCHDOG));
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
    let children = children.expect("the shell runs");
    let inner: i32 = children.trim().parse().expect("it has one child");
    drop(running);
    let deadline = std::time::Instant::now() + WATCHDOG;
    // SAFETY: a system call without pointers; signal 0 only asks.
    while unsafe { libc::kill(inner, 0) } == 0 {
        assert!(std::time::Instant::now() < deadline, "{inner} goes on");
        std::thread::yield_now();
    }
}
