//! A server on the `h2` crate that fails on purpose, stream by stream: what it costs a whole file.

use std::time::Duration;

use ::h2::Reason;
use ::h2::server::Builder;

use crate::books::{answered_in, balanced, batch, contents, summary};
use crate::http2_server::{Act, start};
use crate::server::Server;
use crate::support::{Place, runtimes};
use crate::tap::{Tap, Then};

const LINES: usize = 300;
const WORKERS: usize = 64;
/// Long enough for answers to be the same whatever else the machine does: then twice as many in flight bring
/// twice as many answers, and there will be more of them, from 50 on.
const LATENCY: Duration = Duration::from_millis(500);
/// More attempts than any line needs here.
const PATIENT: [&str; 2] = ["--max-attempts", "50"];

fn builder(streams_max: u32) -> Builder {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(streams_max);
    builder
}

fn url(server: &Server) -> String {
    server.url("/v1/chat/completions")
}

#[test]
fn refused_streams_cost_no_attempt() {
    // Until as many are in flight as may be.
    const BEFORE: usize = 200;
    const REFUSED_END: usize = BEFORE + WORKERS;
    let contents = contents(BEFORE + LINES);
    for runtime in runtimes() {
        let mut roomy = builder(100);
        // What is not answered yet is not read: it must not stand in the way of the others.
        roomy.initial_connection_window_size(16 << 20);
        // All that come then are refused, when they have all come: what is sent again comes later.
        let (server, seen) = start(roomy, None, |_, stream| match stream {
            0..BEFORE => Act::EchoAfter(LATENCY),
            BEFORE..REFUSED_END => Act::Reset(Reason::REFUSED_STREAM, REFUSED_END),
            _ => Act::Echo,
        });
        balanced(batch(runtime, &url(&server), &contents, WORKERS), &contents);
        let heads = seen.heads.lock().expect("nobody panics").len();
        assert_eq!((heads, server.accepted()), (BEFORE + LINES + WORKERS, 1));
    }
}

#[test]
fn each_fault_costs_its_own_line_an_attempt_and_no_other() {
    let contents = contents(LINES);
    for runtime in runtimes() {
        let (server, seen) = start(builder(100), None, |_, stream| match stream {
            10 | 20 => Act::Reset(Reason::INTERNAL_ERROR, 1),
            30 => Act::Break(Reason::INTERNAL_ERROR),
            40 => Act::Reset(Reason::ENHANCE_YOUR_CALM, 1),
            50 => Act::Reset(Reason::CANCEL, 1),
            _ => Act::Echo,
        });
        let batch = batch(runtime, &url(&server), &contents, WORKERS).with(&PATIENT);
        let outcome = answered_in(batch, Place::new(), &contents);
        let attempts: Vec<u64> = (1..=LINES as u64)
            .map(|line| outcome.attempts(line))
            .collect();
        assert_eq!(
            attempts.iter().sum::<u64>(),
            LINES as u64 + 5,
            "{attempts:?}"
        );
        assert_eq!(summary(&outcome)["retries"], 5);
        let heads = seen.heads.lock().expect("nobody panics").len();
        assert_eq!((heads, server.accepted()), (LINES + 5, 1), "one connection");
    }
}

#[test]
fn a_lost_connection_costs_only_what_was_in_flight() {
    let contents = contents(LINES);
    for runtime in runtimes() {
        // Never five failures in a row: the endpoint stays in use.
        let (server, seen) = start(builder(4), None, |connection, stream| {
            match (connection, stream) {
                (0, 9) => Act::Close,
                _ => Act::Echo,
            }
        });
        let batch = batch(runtime, &url(&server), &contents, 4).with(&PATIENT);
        let outcome = answered_in(batch, Place::new(), &contents);
        let attempts: u64 = (1..=LINES as u64).map(|line| outcome.attempts(line)).sum();
        let again = attempts - LINES as u64;
        assert!(again <= 4, "{again} attempts too many");
        let heads = seen.heads.lock().expect("nobody panics").len();
        assert!((LINES + 1..=LINES + 4).contains(&heads), "{heads}");
        assert_eq!(server.accepted(), 2);
    }
}

#[test]
fn connections_are_opened_up_to_the_cap_and_no_further() {
    // Of one shard to one target.
    const CONNECTIONS_MAX: usize = 256;
    // In flight are 50, 100, 200 and then 400: as many connections were there before the last step.
    const BEFORE: usize = 200;
    let contents = contents(1200);
    for runtime in runtimes() {
        // The last connections answer nothing before there are as many as the cap allows.
        let (server, seen) = start(builder(1), None, |connection, stream| {
            match (connection, stream) {
                (BEFORE.., 0) => Act::EchoConnected(CONNECTIONS_MAX),
                (BEFORE.., _) => Act::Echo,
                _ => Act::EchoAfter(LATENCY),
            }
        });
        balanced(batch(runtime, &url(&server), &contents, 400), &contents);
        assert_eq!(
            (server.accepted(), seen.together_max()),
            (CONNECTIONS_MAX, 1)
        );
    }
}

#[test]
fn windows_of_a_byte_starve_nobody() {
    // Bodies of some hundred bytes, each byte in a frame of its own.
    let contents: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
    for runtime in runtimes() {
        let mut small = builder(16);
        small.initial_window_size(1);
        let (server, _) = start(small, None, |_, _| Act::Echo);
        balanced(batch(runtime, &url(&server), &contents, WORKERS), &contents);
    }
}

/// The peer goes on accepting bytes and says nothing more: only an unanswered ping can tell.
#[test]
fn a_dead_connection_is_left_for_another() {
    const WORKERS: usize = 4;
    let contents: Vec<String> = (0..40).map(|number| format!("line {number}")).collect();
    for runtime in runtimes() {
        let (server, _) = start(builder(100), None, |_, _| Act::Echo);
        let tap = Tap::start(server.address, |connection, answers| {
            match (connection, answers) {
                (0, 10) => Then::Silence,
                _ => Then::Nothing,
            }
        });
        let batch = batch(runtime, &tap.url(), &contents, WORKERS)
            .with(&PATIENT)
            .with(&["--timeout", "1"]);
        let outcome = answered_in(batch, Place::new(), &contents);
        assert_eq!(tap.each(|one| one.answered)[0], 10, "{:#?}", outcome.run);
        assert_eq!(server.accepted(), 2, "{:#?}", outcome.run);
    }
}
