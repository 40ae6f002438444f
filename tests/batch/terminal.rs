//! What stands on a terminal, as a terminal shows it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use blaze_uring::mock::Scripted;

use crate::support::{Place, Running, batch_args, runtimes, scripted, spawn_with};

const CTRL_C: u8 = 3;
const ROWS: u16 = 30;

/// A pseudo-terminal, and what has been written to it.
struct Terminal {
    master: File,
    screen: Arc<Mutex<Screen>>,
    reader: Option<JoinHandle<()>>,
}

struct Screen {
    emulator: vt100::Parser,
    /// What was to be seen, from one read to the next: what is gone again before anybody looks is here.
    frames: Vec<String>,
}

fn emulator(columns: u16) -> vt100::Parser {
    let some = |size| NonZero::new(size).expect("a terminal has a size");
    vt100::Parser::new(some(ROWS), some(columns), 0)
}

impl Terminal {
    /// The terminal, and its other end for the program.
    fn open(columns: u16) -> (Self, OwnedFd) {
        let (mut master, mut slave) = (-1, -1);
        let mut size = libc::winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the call fills both numbers and reads the size; names and settings may be null. What it opens
        // is owned here from then on.
        let (master, slave) = unsafe {
            let opened = libc::openpty(
                &raw mut master,
                &raw mut slave,
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut size,
            );
            assert_eq!(opened, 0, "a pseudo-terminal");
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let screen = Screen {
            emulator: emulator(columns),
            frames: Vec::new(),
        };
        let screen = Arc::new(Mutex::new(screen));
        let mut output = master.try_clone().expect("another descriptor");
        let shown = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Linux ends a terminal that nobody has open any more with an error.
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                let mut screen = shown.lock().expect("no holder panics");
                screen.emulator.process(&buffer[..read]);
                let frame = screen.emulator.screen().contents();
                screen.frames.push(frame);
            }
        });
        let terminal = Self {
            master,
            screen,
            reader: Some(reader),
        };
        (terminal, slave)
    }

    fn shown(&self) -> String {
        let screen = self.screen.lock().expect("no holder panics");
        screen.emulator.screen().contents()
    }

    /// Whether any frame so far is like this.
    fn has_shown(&self, is_like: impl Fn(&str) -> bool) -> bool {
        let screen = self.screen.lock().expect("no holder panics");
        screen.frames.iter().any(|frame| is_like(frame))
    }

    fn press(&mut self, key: u8) {
        self.master.write_all(&[key]).expect("it takes keys");
    }

    /// Everything that was ever written is shown.
    fn read_to_end(&mut self) -> String {
        let reader = self.reader.take().expect("read once");
        reader.join().expect("the reader does not panic");
        self.shown()
    }
}

/// The command with standard error on a terminal that controls it.
fn start(place: &Place, args: &[String], slave: OwnedFd) -> Running {
    spawn_with(place, args, move |command| {
        let descriptor = slave.as_raw_fd();
        command.env("TERM", "xterm").stderr(slave);
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                match libc::ioctl(descriptor, libc::TIOCSCTTY, 0) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
    })
}

#[test]
fn an_interrupt_leaves_no_progress_behind() {
    for runtime in runtimes() {
        for columns in [100, 44] {
            for is_pressed_twice in [true, false] {
                let held = Arc::new(AtomicBool::new(true));
                let place = Place::new();
                let mock = {
                    let held = Arc::clone(&held);
                    scripted(move |_| {
                        let is_held = held.load(Ordering::Relaxed);
                        is_held.then(|| Scripted::raw("").then_hang())
                    })
                };
                place.input(&[r#"{"input":"a"}"#; 3]);
                let grace = if is_pressed_twice { "100" } else { "1" };
                let mut args = batch_args(&mock, runtime, &["--grace", grace]);
                args.retain(|argument| argument != "--no-progress");
                let (mut terminal, slave) = Terminal::open(columns);
                let mut running = start(&place, &args, slave);
                running.until("the block is there", || {
                    terminal.has_shown(|shown| shown.contains("in flight 3"))
                });
                terminal.press(CTRL_C);
                // A frame may be read while it is drawn: what is awaited is a whole one.
                running.until("the user is told, under one block", || {
                    terminal.has_shown(|shown| {
                        let words = shown.replace('\n', " ");
                        words.contains("second Ctrl-C") && shown.matches("/ 3 lines").count() == 1
                    })
                });
                if is_pressed_twice {
                    terminal.press(CTRL_C);
                }
                let run = running.wait();
                assert_eq!(run.status, Some(130));
                let shown = terminal.read_to_end();
                for stale in ["/ 3 lines", "ETA", "in flight 3", "second Ctrl-C", "mean "] {
                    let columns_of_the_summary = stale == "mean " && !is_pressed_twice;
                    assert!(
                        columns_of_the_summary || !shown.contains(stale),
                        "{runtime}, {columns} columns, {stale} is left:\n{shown}"
                    );
                }
                assert!(
                    shown.contains(if is_pressed_twice {
                        "left at once"
                    } else {
                        "Interrupted"
                    }),
                    "{shown}"
                );
            }
        }
    }
}

#[test]
fn the_block_is_complete_on_a_narrow_terminal() {
    for columns in [100, 40] {
        let runtime = runtimes()[0];
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
        place.input(&[r#"{"input":"a"}"#; 3]);
        let mut args = batch_args(&mock, runtime, &["--grace", "0"]);
        args.retain(|argument| argument != "--no-progress");
        let (terminal, slave) = Terminal::open(columns);
        let mut running = start(&place, &args, slave);
        running.until("every figure is shown", || {
            let parts = [
                "0 / 3 lines",
                "0.0 %",
                "ETA",
                "elapsed",
                "now ",
                "mean ",
                "ok 0",
                "failed 0",
                "in flight 3",
                "p50",
                "p99",
                "retries",
                "429s",
                "tokens",
                "healthy",
            ];
            terminal.has_shown(|shown| parts.iter().all(|part| shown.contains(part)))
        });
        running.signal(libc::SIGINT);
        assert_eq!(running.wait().status, Some(130));
    }
}
