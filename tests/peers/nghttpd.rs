//! nghttpd, the reference server of nghttp2.

use crate::books::{balanced, balanced_in, batch, contents};
use crate::external::{Certificate, External, installed};
use crate::support::{Place, runtimes};
use crate::tap::{Tap, Then};

const LINES: usize = 300;
const WORKERS: usize = 64;

fn missing() -> bool {
    !installed("nghttpd", "nghttp2-server")
}

/// Connections that one shard needs to have `WORKERS` streams open, the settings of each awaited.
#[test]
fn a_file_goes_through_within_any_number_of_streams() {
    if missing() {
        return;
    }
    let contents = contents(LINES);
    for runtime in runtimes() {
        for streams in [1_usize, 10, 128] {
            let limit = format!("--max-concurrent-streams={streams}");
            let server = External::nghttpd(None, &[&limit]);
            let tap = Tap::start(server.address, |_, _| Then::Nothing);
            balanced(batch(runtime, &tap.url(), &contents, WORKERS), &contents);
            tap.assert_within_limits();
            let opened = tap.each(|one| one.opened);
            assert_eq!(opened.iter().sum::<usize>(), LINES, "each line once");
            assert!(
                tap.each(|one| one.together_max)
                    .iter()
                    .all(|max| *max <= streams)
            );
            // Never more than the workers need.
            let needed = WORKERS.div_ceil(streams);
            assert!(opened.len() <= needed, "{} of {needed}", opened.len());
        }
    }
}

#[test]
fn settings_may_change_midway() {
    if missing() {
        return;
    }
    let contents = contents(LINES);
    for runtime in runtimes() {
        let server = External::nghttpd(None, &["--max-concurrent-streams=100"]);
        // The fifty lines that are sent first all go over one connection, and are answered there.
        let tap = Tap::start(server.address, |connection, answers| {
            match (connection, answers) {
                (0, 5) => Then::StreamsMax(10),
                (0, 30) => Then::StreamsMax(1),
                (0, 45) => Then::StreamsMax(128),
                _ => Then::Nothing,
            }
        });
        balanced(batch(runtime, &tap.url(), &contents, WORKERS), &contents);
        tap.assert_within_limits();
        let opened: usize = tap.each(|one| one.opened).iter().sum();
        assert_eq!(opened, LINES, "each line once");
        assert_eq!(tap.each(|one| one.acknowledged)[0], 4, "all were heard");
    }
}

#[test]
fn bodies_pass_through_tiny_windows_both_ways() {
    if missing() {
        return;
    }
    let contents = contents(200);
    for runtime in runtimes() {
        // 2^4 - 1 bytes a stream: 6 700 frames for a body of 100 KB.
        let server = External::nghttpd(None, &["--window-bits=4", "--connection-window-bits=16"]);
        let tap = Tap::start(server.address, |_, _| Then::Nothing);
        balanced(batch(runtime, &tap.url(), &contents, WORKERS), &contents);
        tap.assert_within_limits();
    }
}

#[test]
fn a_goaway_sends_lines_elsewhere_and_counts_nothing() {
    if missing() {
        return;
    }
    let contents = contents(LINES);
    for runtime in runtimes() {
        // Each head of an answer is whole by itself: those that the tap holds back are missing to no later one.
        let server = External::nghttpd(None, &["--encoder-header-table-size=0"]);
        // Whatever was open on the first two connections, but for its oldest stream, was in vain.
        let tap = Tap::start(server.address, |connection, answers| {
            match (connection, answers) {
                (0 | 1, 50) => Then::GoawayButOldest,
                _ => Then::Nothing,
            }
        });
        balanced(batch(runtime, &tap.url(), &contents, WORKERS), &contents);
        let opened = tap.each(|one| one.opened);
        assert!(opened.len() >= 2, "{opened:?}");
        let again = opened.iter().sum::<usize>() - LINES;
        assert!((1..=2 * WORKERS).contains(&again), "{again} sent again");
    }
}

#[test]
fn a_file_goes_through_over_tls() {
    if missing() {
        return;
    }
    let contents = contents(LINES);
    let certificate = Certificate::new();
    for runtime in runtimes() {
        let server = External::nghttpd(Some(&certificate), &["-v", "--max-concurrent-streams=10"]);
        let place = Place::new();
        place.write(
            "ca.pem",
            std::fs::read(certificate.path("ca.pem")).expect("a file"),
        );
        let mut batch = batch(runtime, &server.url("https"), &contents, WORKERS);
        // By ALPN, without being asked.
        batch
            .endpoint
            .as_object_mut()
            .expect("an object")
            .remove("http2");
        let batch = batch.with(&["--ca-file", "ca.pem", "--max-attempts", "1"]);
        balanced_in(batch, place, &contents);
        let log = server.log("server.log");
        let connections = log.matches("The negotiated protocol: h2").count();
        assert!(
            (1..=WORKERS.div_ceil(10)).contains(&connections),
            "{connections}"
        );
        assert_eq!(log.matches(":method: POST").count(), LINES);
    }
}
