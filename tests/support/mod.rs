//! What the integration tests share: a folder of one's own, the real binary under a watchdog, and
//! the trial endpoint.

#![allow(dead_code, reason = "each test crate uses a part")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blaze_uring::mock::{Mock, MockOptions, Scripted, SeenRequest};
use serde_json::Value;
use tempfile::TempDir;

/// No run of a test takes this long, even on a loaded machine.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs `test` on every runtime at the same time: for one that waits most of its time.
pub fn on_each_runtime(test: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for runtime in runtimes() {
            let test = &test;
            scope.spawn(move || test(runtime));
        }
    });
}

/// Every runtime that works here, as `--runtime` names it.
pub fn runtimes() -> Vec<&'static str> {
    match blaze_uring::runtime::uring_available() {
        Ok(()) => vec!["uring", "tokio"],
        Err(reason) => {
            eprintln!("only tokio is tested: {reason}");
            vec!["tokio"]
        }
    }
}

/// Says that a test, or a part of one, cannot run on this machine for want of a privilege. Not by a
/// macro: what those print is not seen of a test that passes.
pub fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// [`skip`] for want of something that CI must have: with `BLAZE_TEST_SKIPS=forbidden`, as there, it is
/// a failure.
pub fn skip_outside_ci(reason: &str) {
    let forbidden = std::env::var("BLAZE_TEST_SKIPS").is_ok_and(|value| value == "forbidden");
    assert!(!forbidden, "skipped, which is forbidden here: {reason}");
    skip(reason);
}

/// A temporary folder, which is also the child's current directory.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// An empty one; it goes when dropped.
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// A name inside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `in.jsonl`, each line ended by a newline.
    pub fn input<L: AsRef<str>>(&self, lines: &[L]) -> PathBuf {
        let text: String = lines
            .iter()
            .map(|line| format!("{}\n", line.as_ref()))
            .collect();
        self.write("in.jsonl", text)
    }

    /// Writes a file of any bytes.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// The bytes of a file that must exist.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The records of a file, see [`records`].
    pub fn records(&self, name: &str) -> Vec<Value> {
        records(&self.path(name))
    }

    /// What is in it, sorted, folders with a `/` at the end and their content after them.
    pub fn listing(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(self.directory.path(), "", &mut names);
        names.sort();
        names
    }
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let entry = entry.expect("the folder can be listed");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            list(&entry.path(), &format!("{name}/"), names);
            names.push(format!("{name}/"));
        } else {
            names.push(name);
        }
    }
}

/// Every line of a record file as JSON; panics where a line is none, or the last has no newline.
pub fn records(path: &Path) -> Vec<Value> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse_records(&path.display().to_string(), &bytes)
}

/// [`records`] of bytes that came from somewhere else, such as standard output.
pub fn parse_records(name: &str, bytes: &[u8]) -> Vec<Value> {
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        assert!(bytes.is_empty(), "{name}: the last line has no newline");
        return Vec::new();
    };
    lines
        .split(|&byte| byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line).unwrap_or_else(|error| {
                let text = String::from_utf8_lossy(line);
                panic!("{name}:{}: not JSON: {error}: {text}", index + 1)
            })
        })
        .collect()
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Run {
    /// The exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Everything on standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Everything on standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Run {
    /// Fails with both outputs unless the exit status is this one.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert!(self.status == Some(status), "expected {status}: {self:#?}");
        self
    }
}

/// Runs the binary in `place` to its end.
pub fn run<S: AsRef<OsStr>>(place: &Place, args: &[S]) -> Run {
    spawn(place, args).wait()
}

/// [`run`] with changes to the command: variables, standard input from a file.
pub fn run_with<S: AsRef<OsStr>>(
    place: &Place,
    args: &[S],
    change: impl FnOnce(&mut Command),
) -> Run {
    spawn_with(place, args, change).wait()
}

/// [`run`] with these bytes as standard input.
pub fn run_stdin<S: AsRef<OsStr>>(place: &Place, args: &[S], input: &[u8]) -> Run {
    let mut running = spawn_with(place, args, |command| {
        command.stdin(Stdio::piped());
    });
    let mut stdin = running.take_stdin();
    let input = input.to_vec();
    // A child that does not read must not hold up the test; it may also close early.
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let run = running.wait();
    writer.join().expect("the writer does not panic");
    run
}

/// Starts the binary in `place` for tests that interact with it.
pub fn spawn<S: AsRef<OsStr>>(place: &Place, args: &[S]) -> Running {
    spawn_with(place, args, |_| {})
}

/// [`spawn`] with changes to the command.
pub fn spawn_with<S: AsRef<OsStr>>(
    place: &Place,
    args: &[S],
    change: impl FnOnce(&mut Command),
) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blaze-uring"));
    command
        .args(args)
        .current_dir(place.directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    clean_environment(&mut command);
    heed_hangups(&mut command);
    change(&mut command);
    let mut child = command.spawn().expect("the binary starts");
    // Unless the change leads it elsewhere.
    let stdout = match child.stdout.take() {
        Some(stdout) => Collected::from(stdout),
        None => Collected::from(std::io::empty()),
    };
    let stderr = match child.stderr.take() {
        Some(stderr) => Collected::from(stderr),
        None => Collected::from(std::io::empty()),
    };
    Running {
        started: Instant::now(),
        child,
        stdout,
        stderr,
        watchdog: WATCHDOG,
    }
}

/// Whoever runs the tests under `nohup` does not make the child deaf, too.
fn heed_hangups(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: only a system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            });
        }
    }
    #[cfg(not(unix))]
    let _ = command;
}

/// Nothing of the machine's own settings reaches the child.
fn clean_environment(command: &mut Command) {
    const FOREIGN: [&str; 6] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "RUST_LOG",
    ];
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        if upper.starts_with("BLAZE_") || FOREIGN.contains(&upper.as_str()) {
            command.env_remove(name);
        }
    }
}

/// A started process; dropping it kills it, with its process group if it leads one.
pub struct Running {
    started: Instant,
    child: Child,
    stdout: Collected,
    stderr: Collected,
    watchdog: Duration,
}

impl Running {
    /// For a process that has to compute for long: on a loaded machine that takes a multiple of it.
    #[must_use]
    pub fn within(mut self, watchdog: Duration) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `libc::SIGINT`.
    #[cfg(unix)]
    pub fn signal(&self, signal: i32) {
        // SAFETY: a system call without pointers; the child is not reaped yet, so the id is its own.
        let result = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        assert_eq!(result, 0, "the signal is sent");
    }

    /// Whether it has ended. Ends it, and the test, after [`WATCHDOG`].
    pub fn has_ended(&mut self) -> bool {
        if self.started.elapsed() > self.watchdog {
            self.give_up("the watchdog ended the process");
        }
        let ended = self.child.try_wait().expect("its state can be asked");
        ended.is_some()
    }

    /// `kill -9`, and its end.
    pub fn kill(mut self) -> Run {
        self.child.kill().expect("the process can be killed");
        self.wait()
    }

    /// The write end of a piped standard input.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is piped")
    }

    /// Waits until standard error holds `text`, and returns all of it.
    pub fn until_stderr(&mut self, text: &str) -> String {
        let left = self.watchdog.saturating_sub(self.started.elapsed());
        match self.stderr.wait(left, |bytes| contains(bytes, text)) {
            Some(bytes) => lossy(&bytes),
            None => self.give_up(&format!("standard error never held {text:?}")),
        }
    }

    /// Waits until standard output holds `text`, and returns all of it.
    pub fn until_stdout(&mut self, text: &str) -> String {
        let left = self.watchdog.saturating_sub(self.started.elapsed());
        match self.stdout.wait(left, |bytes| contains(bytes, text)) {
            Some(bytes) => lossy(&bytes),
            None => self.give_up(&format!("standard output never held {text:?}")),
        }
    }

    /// Waits until `condition` holds: what the endpoint has seen, a file that appears.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        while !condition() {
            let ended = self.child.try_wait().expect("its state can be asked");
            if ended.is_some() && !condition() {
                self.give_up(&format!("the process ended before {what}"));
            }
            if self.started.elapsed() > self.watchdog {
                self.give_up(&format!("waited too long for {what}"));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its end. Killed, and the test failed with its output, after [`WATCHDOG`] since the start, or what
    /// [`Running::within`] says.
    pub fn wait(mut self) -> Run {
        // Both outputs close when the process ends.
        let deadline = self.started + self.watchdog;
        if !(self.stdout.wait_end(deadline) && self.stderr.wait_end(deadline)) {
            self.give_up("the watchdog ended the process");
        }
        let status = self.child.wait().expect("it can be waited for");
        Run {
            status: status.code(),
            stdout: lossy(&self.stdout.bytes()),
            stderr: lossy(&self.stderr.bytes()),
        }
    }

    fn end(&mut self) {
        #[cfg(unix)]
        if matches!(self.child.try_wait(), Ok(None)) {
            let id = self.child.id().cast_signed();
            // SAFETY: system calls without pointers; the child is not reaped yet, so the id is its own.
            unsafe {
                if libc::getpgid(id) == id {
                    libc::kill(-id, libc::SIGKILL);
                }
            }
        }
        let _ = self.child.kill();
    }

    fn give_up(&mut self, why: &str) -> ! {
        self.end();
        let stdout = lossy(&self.stdout.bytes());
        let stderr = lossy(&self.stderr.bytes());
        panic!("{why}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        let _ = self.child.wait();
    }
}

/// What a stream has delivered so far, gathered by a thread of its own.
struct Collected {
    state: Arc<(Mutex<Gathered>, Condvar)>,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collected {
    fn from(mut stream: impl Read + Send + 'static) -> Self {
        let state = Arc::new((Mutex::new(Gathered::default()), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                let mut gathered = shared.0.lock().expect("no reader panics");
                gathered.bytes.extend_from_slice(&buffer[..read]);
                gathered.ended = read == 0;
                shared.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { state }
    }

    fn bytes(&self) -> Vec<u8> {
        self.state.0.lock().expect("no reader panics").bytes.clone()
    }

    /// Until the bytes so far satisfy `enough`; `None` when time is up or the stream has ended without.
    fn wait(&self, timeout: Duration, enough: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let guard = self.state.0.lock().expect("no reader panics");
        let (guard, _) = self
            .state
            .1
            .wait_timeout_while(guard, timeout, |gathered| {
                !gathered.ended && !enough(&gathered.bytes)
            })
            .expect("no reader panics");
        enough(&guard.bytes).then(|| guard.bytes.clone())
    }

    /// Whether the stream ends by then.
    fn wait_end(&self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let guard = self.state.0.lock().expect("no reader panics");
        let (guard, _) = self
            .state
            .1
            .wait_timeout_while(guard, timeout, |gathered| !gathered.ended)
            .expect("no reader panics");
        guard.ended
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An endpoint that answers at once and keeps every request.
pub fn mock() -> Mock {
    mock_with(|_| {})
}

/// [`mock`] with other options.
pub fn mock_with(change: impl FnOnce(&mut MockOptions)) -> Mock {
    let mut options = MockOptions {
        record_requests: true,
        ..MockOptions::default()
    };
    change(&mut options);
    Mock::start(options).expect("the trial endpoint starts")
}

/// [`mock`] whose answers a function decides; `None` is the ordinary answer.
pub fn scripted(script: impl Fn(&SeenRequest) -> Option<Scripted> + Send + Sync + 'static) -> Mock {
    mock_with(|options| options.script = Some(Arc::new(script)))
}

/// The bodies that arrived, as text, in order of arrival.
pub fn bodies(mock: &Mock) -> Vec<String> {
    mock.requests()
        .iter()
        .map(|request| String::from_utf8(request.body.clone()).expect("bodies are UTF-8"))
        .collect()
}

/// The usual arguments of a batch against `mock`'s chat endpoint: `in.jsonl` to `out.jsonl` and
/// `errors.jsonl` on one core, then `more`.
pub fn batch_args(mock: &Mock, runtime: &str, more: &[&str]) -> Vec<String> {
    let url = mock.url("/v1/chat/completions");
    [
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--runtime",
        runtime,
        "--cores",
        "1",
        "--endpoint-url",
        &url,
        "--no-progress",
    ]
    .into_iter()
    .chain(more.iter().copied())
    .map(str::to_owned)
    .collect()
}

/// Arguments with the value of one `option` replaced.
pub fn replaced(mut args: Vec<String>, option: &str, value: &str) -> Vec<String> {
    let at = args
        .iter()
        .position(|argument| argument == option)
        .expect("the option is there");
    args[at + 1] = value.to_owned();
    args
}
