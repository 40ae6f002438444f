//! nginx, as an origin and in front of one.

use std::collections::BTreeMap;

use blaze_uring::mock::{Mock, Scripted, SeenRequest};

use crate::books::{balanced_in, batch, contents};
use crate::external::{Certificate, External, installed};
use crate::support::{Place, runtimes, scripted};

const LINES: usize = 300;
const WORKERS: usize = 64;

fn missing() -> bool {
    !installed("nginx", "nginx-light")
}

/// An origin that returns what it gets.
fn origin() -> Mock {
    scripted(|request: &SeenRequest| {
        Some(Scripted::json(
            200,
            String::from_utf8(request.body.clone()).expect("bodies are text"),
        ))
    })
}

/// Directives: pass on to `origin` over HTTP/1.1, and more.
fn in_front_of(origin: &Mock, more: &str) -> String {
    format!(
        "{more} location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}",
        origin.address()
    )
}

/// Requests by connection, from the log, which tells that all came over HTTP/2 and went well.
fn by_connection(server: &External) -> BTreeMap<u64, u64> {
    let mut requests = BTreeMap::new();
    for line in server.log("access.log").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(&fields[2..4], ["HTTP/2.0", "200"], "{line}");
        *requests
            .entry(fields[0].parse().expect("a number"))
            .or_default() += 1;
    }
    requests
}

#[test]
fn a_file_goes_through_with_prior_knowledge_and_over_tls() {
    if missing() {
        return;
    }
    let contents = contents(LINES);
    let certificate = Certificate::new();
    for runtime in runtimes() {
        for (scheme, streams) in [("http", 1), ("http", 10), ("https", 10), ("https", 128)] {
            let origin = origin();
            let settings = format!("http2_max_concurrent_streams {streams};");
            let files = (scheme == "https").then_some(&certificate);
            let server = External::nginx(files, &in_front_of(&origin, &settings));
            run(runtime, &server, scheme, &certificate, &contents);
            let requests = by_connection(&server);
            assert_eq!(
                requests.values().sum::<u64>(),
                LINES as u64,
                "each line once"
            );
            assert!(requests.len() <= WORKERS.div_ceil(streams), "{requests:?}");
            let mut bodies: Vec<_> = origin.requests().into_iter().map(|one| one.body).collect();
            bodies.sort();
            bodies.dedup();
            assert_eq!(bodies.len(), LINES, "every body arrived whole, once");
        }
    }
}

fn run(
    runtime: &'static str,
    server: &External,
    scheme: &str,
    certificate: &Certificate,
    contents: &[String],
) {
    let place = Place::new();
    place.write(
        "ca.pem",
        std::fs::read(certificate.path("ca.pem")).expect("a file"),
    );
    let batch = batch(runtime, &server.url(scheme), contents, WORKERS).with(&[
        "--ca-file",
        "ca.pem",
        "--max-attempts",
        "1",
    ]);
    balanced_in(batch, place, contents);
}

/// nginx ends a connection with a GOAWAY after so many requests; what was under way by then goes
/// elsewhere, and costs no attempt.
#[test]
fn connections_that_nginx_closes_in_full_use_cost_nothing() {
    if missing() {
        return;
    }
    const REQUESTS_MAX: u64 = 20;
    let contents = contents(LINES);
    let certificate = Certificate::new();
    for runtime in runtimes() {
        for scheme in ["http", "https"] {
            let origin = origin();
            let settings = format!("keepalive_requests {REQUESTS_MAX};");
            let files = (scheme == "https").then_some(&certificate);
            let server = External::nginx(files, &in_front_of(&origin, &settings));
            run(runtime, &server, scheme, &certificate, &contents);
            let requests = by_connection(&server);
            assert_eq!(
                requests.values().sum::<u64>(),
                LINES as u64,
                "each line once"
            );
            assert!(
                requests.values().all(|count| *count <= REQUESTS_MAX),
                "{requests:?}"
            );
            assert_eq!(origin.requests().len(), LINES);
        }
    }
}

/// A server that answers before it has read the request, and takes none of the rest of it.
#[test]
fn an_answer_that_does_not_wait_for_the_request_is_taken() {
    if missing() {
        return;
    }
    // Whatever was sent, the line gets this.
    const ANSWER: &str = r#"{"choices":[{"message":{"content":"same"}}]}"#;
    let sent = contents(200);
    for runtime in runtimes() {
        let settings =
            format!("http2_body_preread_size 0; location / {{ return 200 '{ANSWER}'; }}");
        let server = External::nginx(None, &settings);
        let batch = batch(runtime, &server.url("http"), &sent, WORKERS);
        let outcome = batch.run();
        assert_eq!(outcome.run.status, Some(0), "{:#?}", outcome.run);
        for number in 1..=sent.len() as u64 {
            assert_eq!(
                outcome.answer(number)["choices"][0]["message"]["content"],
                "same"
            );
            assert_eq!(outcome.attempts(number), 1);
        }
    }
}
