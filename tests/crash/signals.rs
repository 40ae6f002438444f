//! Ctrl-C and its kin: stop sending, finish what is in flight, leave a run that goes on.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::job::{Follow, Phase};
use crate::points::each;
use crate::scene::{Lines, Scene, WORKERS, undisturbed};
use crate::supervise::{self, Verdict};
use crate::support::{Running, WATCHDOG, runtimes, spawn, spawn_with};

const LINES: Lines = Lines {
    sent: 60,
    invalid: 2,
};

/// A run with `WORKERS` requests in flight whose answers take `latency`.
fn in_flight(scene: &Scene, more: &[&str]) -> Running {
    let wanted = scene.arrivals.count() + u64::from(WORKERS);
    let running = spawn(&scene.place, &scene.args(more));
    assert!(scene.arrivals.wait_for(wanted, WATCHDOG), "requests arrive");
    running
}

fn scene(runtime: &'static str, latency: &str) -> Scene {
    Scene::with(runtime, LINES, |options| {
        options.latency = latency.parse().expect("a latency");
    })
}

#[test]
fn each_signal_lets_requests_in_flight_finish_and_resuming_repeats_none() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        for (signal, cores) in [
            (libc::SIGINT, "1"),
            (libc::SIGTERM, "2"),
            (libc::SIGHUP, "1"),
        ] {
            let scene = scene(runtime, "150ms");
            let running = in_flight(&scene, &["--cores", cores, "--grace", "20"]);
            running.signal(signal);
            let run = running.wait().expect(130);
            assert!(run.stderr.contains("interrupted"), "{run:#?}");
            let kept = scene.kept();
            // Whatever had arrived was answered and has its record.
            let sent = kept.seen.len();
            let with_record = kept.seen.keys().filter(|line| kept.finished.contains(line));
            assert_eq!(with_record.count(), sent, "signal {signal}");
            assert!(sent < LINES.sent, "the run stopped early");
            scene.finish(&["--cores", "2"]);
            scene.check(&undisturbed, &[kept], 0);
        }
    }
}

/// An endpoint that never answers does not hold the process beyond the grace.
#[test]
fn the_grace_ends() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        for grace in ["0", "0.2"] {
            let scene = scene(runtime, "25s");
            let running = in_flight(&scene, &["--grace", grace]);
            running.signal(libc::SIGINT);
            // Long before an answer: the watchdog of `wait` is the bound.
            let asked = Instant::now();
            running.wait().expect(130);
            assert!(asked.elapsed() < Duration::from_secs(15), "grace {grace}");
            let kept = scene.kept();
            let finished = kept
                .finished
                .iter()
                .filter(|line| **line <= LINES.sent as u64);
            assert_eq!(finished.count(), 0);
            assert_eq!(kept.seen.len(), WORKERS as usize, "nothing more was sent");
            // Another endpoint takes over.
            let url = "--endpoint-url";
            let quick = Scene::new(runtime, LINES);
            let mut args = scene.args(&[]);
            let at = args.iter().position(|arg| arg == url).expect("the flag");
            args[at + 1] = quick.mock.url("/v1/chat/completions");
            crate::support::run(&scene.place, &args).expect(scene.end_status());
            assert_eq!(scene.files(), undisturbed);
            assert_eq!(quick.arrivals.seen().len(), LINES.sent);
        }
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, "1s");
        let mut running = in_flight(&scene, &["--grace", "60"]);
        let sent = scene.arrivals.count();
        running.signal(libc::SIGINT);
        // Two signals that wait together are one.
        let process = running.id();
        running.until("the first signal is taken", || {
            pending_signals(process) == 0
        });
        running.signal(libc::SIGINT);
        running.wait().expect(130);
        let kept = scene.kept();
        assert_eq!(scene.arrivals.count(), sent, "nothing more was sent");
        scene.finish(&["--workers", "50"]);
        scene.check(&undisturbed, &[kept], WORKERS.into());
    }
}

/// While standard input is read nothing is in flight: one signal is enough.
#[test]
fn a_signal_while_reading_standard_input() {
    for runtime in runtimes() {
        let scene = scene(runtime, "1ms");
        let mut args = scene.args(&[]);
        args[1] = "-".to_owned();
        let mut running = spawn_with(&scene.place, &args, |command| {
            command.stdin(Stdio::piped());
        });
        let stdin = running.take_stdin();
        let spool = scene.folder().join("input.jsonl.partial");
        running.until("standard input is spooled", || spool.exists());
        running.signal(libc::SIGINT);
        let run = running.wait().expect(130);
        assert!(run.stderr.contains("interrupted"), "{run:#?}");
        assert_eq!(scene.arrivals.count(), 0);
        drop(stdin);
    }
}

/// What a held process gets: signals one after the other, each taken before the next is sent.
fn signals(running: &Running, count: u32) {
    for _ in 0..count {
        running.signal(libc::SIGINT);
        let sent = Instant::now();
        while pending_signals(running.id()) != 0 && sent.elapsed() < WATCHDOG {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The disk answers no more, in the middle of any phase: where nothing is in flight one signal is enough,
/// else the second one, and neither waits for the disk or for the grace.
#[test]
fn signals_while_the_disk_hangs() {
    if !supervise::works() {
        return;
    }
    const POINTS: [(Phase, u32, u32); 12] = [
        (Phase::Begin, 3, 1),
        (Phase::Begin, 7, 2),
        (Phase::Roll, 2, 1),
        (Phase::Reserve, 2, 2),
        (Phase::Write, 1, 2),
        (Phase::Write, 9, 2),
        (Phase::Merge, 3, 1),
        (Phase::Merge, 8, 2),
        (Phase::Publish, 2, 1),
        (Phase::Publish, 7, 1),
        (Phase::Publish, 10, 2),
        (Phase::CleanUp, 3, 1),
    ];
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        each(&POINTS, |_, &(phase, nth, signals)| {
            let scene = Scene::new(runtime, LINES);
            let mut follow = Follow::new(&scene.folder());
            let (mut left, mut asked) = (nth, None);
            let run = scene.supervised(&["--grace", "60"], |change, running| {
                left -= u32::from(left > 0 && follow.phase(change) == phase);
                if left > 0 {
                    return Verdict::GoOn;
                }
                // A call that a signal interrupts is made again.
                if asked.is_none() {
                    asked = Some(Instant::now());
                    self::signals(running, signals);
                }
                Verdict::Hold
            });
            let run = run.expect(130);
            let lasted = asked.expect("the phase was reached").elapsed();
            assert!(lasted < Duration::from_secs(20), "{lasted:?}: {run:#?}");
            if signals == 1 {
                assert!(run.stderr.contains("the same command goes on"), "{run:#?}");
            }
            let kept = scene.kept();
            if !scene.is_final() {
                scene.finish(&[]);
            }
            scene.check(&undisturbed, &[kept], WORKERS.into());
        });
    }
}

#[test]
fn nohup_keeps_its_promise() {
    for runtime in runtimes() {
        let scene = scene(runtime, "20ms");
        let running = spawn_with(&scene.place, &scene.args(&[]), |command| {
            // SAFETY: only a system call between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    libc::signal(libc::SIGHUP, libc::SIG_IGN);
                    Ok(())
                });
            }
        });
        assert!(scene.arrivals.wait_for(u64::from(WORKERS), WATCHDOG));
        running.signal(libc::SIGHUP);
        running.wait().expect(scene.end_status());
    }
}

/// The window is closed: the terminal goes, and the kernel says SIGHUP to what ran in it.
#[test]
fn a_terminal_that_closes_is_a_signal_like_others() {
    for runtime in runtimes() {
        let undisturbed = undisturbed(runtime, LINES);
        let scene = scene(runtime, "150ms");
        let mut args = scene.args(&["--grace", "20"]);
        args.retain(|arg| arg != "--no-progress");
        let (screen, terminal) = open_terminal();
        let running = spawn_with(&scene.place, &args, |command| {
            // SAFETY: only system calls between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    libc::setsid();
                    libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0);
                    for stream in 0..3 {
                        libc::dup2(terminal.as_raw_fd(), stream);
                    }
                    Ok(())
                });
            }
        });
        let mut screen = std::fs::File::from(screen);
        let mut shown = Vec::new();
        let started = Instant::now();
        // Somebody watches, until requests are in flight.
        while scene.arrivals.count() < u64::from(WORKERS) || shown.is_empty() {
            let mut bytes = [0; 4096];
            let read = screen.read(&mut bytes).expect("the display is drawn");
            shown.extend_from_slice(&bytes[..read]);
            assert!(started.elapsed() < WATCHDOG, "{runtime}: nothing arrives");
        }
        drop(screen);
        running.wait().expect(130);
        let kept = scene.kept();
        let lost = kept
            .seen
            .keys()
            .filter(|line| !kept.finished.contains(line));
        assert_eq!(lost.count(), 0, "what had arrived has its record");
        assert!(kept.seen.len() < LINES.sent, "the run stopped early");
        scene.finish(&[]);
        scene.check(&undisturbed, &[kept], 0);
    }
}

/// Both ends of a pseudo terminal: what is shown, and what a process has for its terminal.
fn open_terminal() -> (OwnedFd, OwnedFd) {
    let (mut screen, mut terminal) = (-1, -1);
    // SAFETY: the descriptors are written before they are owned; no name, settings or size are asked.
    unsafe {
        let none = std::ptr::null_mut();
        let opened = libc::openpty(
            &raw mut screen,
            &raw mut terminal,
            none,
            std::ptr::null(),
            std::ptr::null(),
        );
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        for descriptor in [screen, terminal] {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (OwnedFd::from_raw_fd(screen), OwnedFd::from_raw_fd(terminal))
    }
}

/// Signals sent to the process that no thread has taken yet.
fn pending_signals(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    mask.map_or(0, |mask| {
        u64::from_str_radix(mask.trim(), 16).expect("hexadecimal")
    })
}
