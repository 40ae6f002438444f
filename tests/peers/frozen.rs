//! A process that is stopped for longer than a request may take: what came meanwhile is read, and nothing is
//! sent twice.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ::h2::server::Builder;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::batch::Batch;
use crate::http2_server::{Act, Seen, serve};
use crate::server::Server;
use crate::support::{Place, runtimes};

const LINES: usize = 12;
const TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}]}"#;

#[test]
fn what_came_while_the_process_was_stopped_is_read_and_not_paid_twice() {
    thread::scope(|scope| {
        for runtime in runtimes() {
            scope.spawn(move || over_http2(runtime));
            scope.spawn(move || over_http1(runtime));
        }
    });
}

fn over_http2(runtime: &'static str) {
    let gate = Arc::new(Semaphore::new(0));
    let seen = Arc::new(Seen::default());
    let (count, shared) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&gate));
    let opened = Arc::clone(&count);
    let server = Server::start(move |_, stream| {
        serve(stream, &Builder::new(), None, &seen, |_| {
            opened.fetch_add(1, Ordering::SeqCst);
            Act::AnswerLater(Arc::clone(&shared), ANSWER)
        });
    });
    thaws(runtime, &server, true, &count, &gate);
}

fn over_http1(runtime: &'static str) {
    let gate = Arc::new(Semaphore::new(0));
    let (count, shared) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&gate));
    let opened = Arc::clone(&count);
    let server = Server::start(move |_, stream| {
        let mut reader = BufReader::new(stream);
        while request(&mut reader).is_some() {
            opened.fetch_add(1, Ordering::SeqCst);
            while shared.try_acquire().map(|permit| permit.forget()).is_err() {
                thread::sleep(Duration::from_millis(2));
            }
            let length = ANSWER.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{ANSWER}");
            let sent = reader.get_mut().write_all(head.as_bytes());
            if sent.is_err() {
                return;
            }
        }
    });
    thaws(runtime, &server, false, &count, &gate);
}

/// The next request with a `content-length`.
fn request(reader: &mut BufReader<TcpStream>) -> Option<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            let mut body = vec![0; length];
            return reader.read_exact(&mut body).ok();
        }
    }
}

/// Every line is in flight; the process stops, the answers come, more time passes than a request may take, and
/// the process goes on.
fn thaws(
    runtime: &'static str,
    server: &Server,
    http2: bool,
    count: &AtomicUsize,
    gate: &Semaphore,
) {
    let place = Place::new();
    let contents = (0..LINES).map(|number| format!("line {number}"));
    let mut batch = Batch::chat(runtime, &server.url("/v1/chat/completions"), contents);
    batch.endpoint["http2"] = json!(http2);
    batch.settings = json!({"request": {"workers": LINES, "timeout": TIMEOUT.as_secs()}});
    let mut running = batch.with(&["--max-attempts", "3"]).start(&place, |_| {});
    running.until("every request has come", || {
        count.load(Ordering::SeqCst) == LINES
    });
    running.signal(libc::SIGSTOP);
    let state = format!("/proc/{}/stat", running.id());
    running.until("it is stopped", || {
        // The state stands behind the name in brackets (proc_pid_stat(5)).
        let stat = fs::read_to_string(&state).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    });
    gate.add_permits(LINES);
    thread::sleep(TIMEOUT + Duration::from_secs(1));
    running.signal(libc::SIGCONT);
    let run = running.wait().expect(0);
    let label = format!("{runtime}, HTTP/2: {http2}: {run:#?}");
    let records = place.records("out.jsonl");
    assert_eq!(records.len(), LINES, "{label}");
    for record in records {
        assert_eq!(record["metadata"]["attempts"], 1, "{label}");
        assert_eq!(
            record["response"]["choices"][0]["message"]["content"],
            "fine"
        );
    }
    assert_eq!(count.load(Ordering::SeqCst), LINES, "{label}");
}
