//! A whole run allocates nothing for a request in steady state. Counted over every thread of the
//! process, in two runs of different length: what a run needs once, or ten times a second, is no part of
//! it.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use blaze_uring::config::{Rate, RequestConfig, RuntimeChoice};
use blaze_uring::{Config, EndpointConfig, Processor};
use support::{Place, WATCHDOG, runtimes};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lines of the shorter run, and by how many the other is longer.
const FEW: usize = 500;
const MORE: usize = 4000;
/// Digits that tell a line and its answer from all others.
const DIGITS: usize = 8;
/// Ten times a second a shard reports, the coordinator sums up, and the merge's lists grow: this is what
/// it comes to for each request on a machine so slow that it does 100 a second. One allocation for every
/// request, or for every turn of the loop (with one in flight each is a turn of its own), would be 1.
const SLACK: f64 = 0.5;

/// Answers every request of a connection with the digits it holds. Allocates nothing.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("an option of TCP");
    let (mut request, mut filled) = ([0; 4096], 0);
    loop {
        match stream.read(&mut request[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        // The only digits of that number in a row.
        let text = &request[..filled];
        let Some(at) = text
            .windows(DIGITS)
            .position(|run| run.iter().all(u8::is_ascii_digit))
        else {
            continue;
        };
        if !text.ends_with(b"}") {
            continue;
        }
        let mut reply = *b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 101\r\n\r\n\
            {\"choices\":[{\"text\":\"########\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9,\"total_tokens\":16}}";
        let mark = reply.iter().position(|byte| *byte == b'#').expect("a mark");
        reply[mark..mark + DIGITS].copy_from_slice(&text[at..at + DIGITS]);
        if stream.write_all(&reply).is_err() {
            return;
        }
        filled = 0;
    }
}

/// Allocations of a run over that many lines, each of whose records has its own line's answer.
fn allocations(address: SocketAddr, runtime: &str, lines: usize) -> usize {
    let place = Place::new();
    let input: Vec<String> = (0..lines)
        .map(|line| format!("{{\"input\":\"{line:0DIGITS$}\",\"mine\":{line}}}"))
        .collect();
    place.input(&input);
    let config = Config {
        endpoints: vec![EndpointConfig {
            url: format!("http://{address}/v1/chat/completions"),
            ..Default::default()
        }],
        request: RequestConfig {
            workers: 1,
            rate_limit: Rate::Unlimited,
            ..Default::default()
        },
        cores: Some(1),
        runtime: runtime.parse::<RuntimeChoice>().expect("a runtime"),
        ..Default::default()
    };
    let processor = Processor::new(config).expect("a valid config");
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let result = processor.process_file_blocking(
        place.path("in.jsonl"),
        Some(place.path("out.jsonl")),
        place.path("errors.jsonl"),
        false,
    );
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(result.expect("it runs").success_count, lines as u64);
    for (line, record) in place.records("out.jsonl").iter().enumerate() {
        assert_eq!(
            record["response"]["choices"][0]["text"],
            format!("{line:0DIGITS$}")
        );
        assert_eq!(
            (&record["input"], &record["mine"]),
            (&record["response"]["choices"][0]["text"], &line.into())
        );
    }
    allocations
}

#[test]
fn a_request_in_steady_state_allocates_nothing() {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("a bound address");
        thread::spawn(move || listener.incoming().flatten().for_each(serve));
        for runtime in runtimes() {
            // Threads, logs and whatever else a process needs once.
            allocations(address, runtime, FEW);
            let few = allocations(address, runtime, FEW);
            let many = allocations(address, runtime, FEW + MORE);
            let per_request = (many - few) as f64 / MORE as f64;
            println!("{runtime}: {per_request:.3} a request");
            assert!(
                per_request <= SLACK,
                "{runtime}: {per_request:.3} a request"
            );
        }
        let _ = done.send(());
    });
    outcome
        .recv_timeout(3 * WATCHDOG)
        .expect("it passes in time");
}
