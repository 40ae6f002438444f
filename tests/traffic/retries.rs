//! Which failures are sent again, how often, and where: the rules of the contract, one line each.

use std::collections::HashMap;
use std::time::Duration;

use blaze_uring::mock::{Mock, Scripted};
use serde_json::{Value, json};

use crate::support::{Place, mock_with, on_each_runtime, run, runtimes, scripted};
use crate::{args, config, endpoint};

const GOOD: &str = r#"{"choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

/// What a line meets at every attempt: a name, and what becomes of it.
type Rule = (&'static str, fn() -> Scripted, u64, &'static str);

/// Attempts of three, and the kind of the failure. What is refused for load has `refused.rs`.
const RULES: [Rule; 23] = [
    ("400", || Scripted::json(400, "{}"), 1, "bad_request"),
    ("404", || Scripted::json(404, "{}"), 1, "not_found"),
    ("405", || Scripted::json(405, "{}"), 1, "bad_request"),
    ("408", || Scripted::json(408, "{}"), 3, "timeout"),
    ("409", || Scripted::json(409, "{}"), 3, "bad_request"),
    ("413", || Scripted::json(413, "{}"), 1, "bad_request"),
    ("422", || Scripted::json(422, "{}"), 1, "bad_request"),
    ("425", || Scripted::json(425, "{}"), 3, "bad_request"),
    ("498", || Scripted::json(498, "{}"), 3, "server_error"),
    ("499", || Scripted::json(499, "{}"), 3, "server_error"),
    ("500", || Scripted::json(500, "{}"), 3, "server_error"),
    ("502", || Scripted::json(502, "<html>"), 3, "server_error"),
    ("504", || Scripted::json(504, "{}"), 3, "server_error"),
    (
        "302",
        || Scripted::json(302, "").header("location", "/x"),
        1,
        "redirect",
    ),
    (
        "200 without JSON",
        || Scripted::json(200, "<html>"),
        // The same bytes twice are not paid for a third time.
        2,
        "not_json",
    ),
    (
        "500 not to be retried",
        || Scripted::json(500, "{}").header("x-should-retry", "false"),
        1,
        "server_error",
    ),
    (
        "429 not to be retried",
        || Scripted::json(429, "{}").header("x-should-retry", "false"),
        1,
        "rate_limited",
    ),
    (
        "400 to be retried",
        || Scripted::json(400, "{}").header("x-should-retry", "true"),
        3,
        "bad_request",
    ),
    (
        "reset before the head",
        || Scripted::raw("").then_reset(),
        3,
        "connect",
    ),
    (
        "closed in the head",
        || Scripted::raw("HTTP/1.1 200 OK\r\ncont").then_close(),
        3,
        "protocol",
    ),
    (
        "reset in the body",
        || Scripted::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\"").then_reset(),
        3,
        "protocol",
    ),
    (
        "no HTTP at all",
        || Scripted::raw("SSH-2.0-x\r\n").then_close(),
        3,
        "protocol",
    ),
    ("never", || Scripted::raw("").then_hang(), 3, "timeout"),
];

/// Where each line was sent, in order, by its name.
fn sent_to(mock: &Mock) -> HashMap<String, Vec<String>> {
    let mut sent: HashMap<String, Vec<String>> = HashMap::new();
    for request in mock.requests() {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let name = body["messages"][0]["content"].as_str().expect("a prompt");
        let endpoint = request.target[1..2].to_owned();
        sent.entry(name.to_owned()).or_default().push(endpoint);
    }
    sent
}

#[test]
fn every_failure_has_its_rule() {
    on_each_runtime(|runtime| {
        for (name, answer, attempts, kind) in RULES {
            let label = format!("{runtime}: {name}");
            let place = Place::new();
            let mock = scripted(move |request| {
                let quoted = format!("\"{name}\"");
                let fails = memchr::memmem::find(&request.body, quoted.as_bytes()).is_some();
                Some(if fails {
                    answer()
                } else {
                    Scripted::json(200, GOOD)
                })
            });
            config(
                &place,
                &[
                    endpoint(&mock, "a", json!({})),
                    endpoint(&mock, "b", json!({})),
                ],
                json!({
                    "request": {"timeout": "700ms"},
                    "retry": {"initial_backoff": "1ms", "max_backoff": "1ms"},
                }),
            );
            // One line that fails, in a run of its own: the failures of several could follow each other
            // at one endpoint, which then cools and leaves the last attempt to the other one again.
            place.input(
                // Each endpoint has answered a line well before.
                &["good", "good", name, "good"].map(|name| json!({"input": name}).to_string()),
            );
            run(&place, &args(runtime, &["--workers", "1", "--cores", "1"])).expect(3);
            let errors = place.records("errors.jsonl");
            let [error] = &errors[..] else {
                panic!("{label}: {errors:?}");
            };
            assert_eq!(error["input"], name, "{label}");
            assert_eq!(error["error_kind"], kind, "{label}: {error}");
            assert_eq!(error["attempts"], attempts, "{label}");
            assert_eq!(place.records("out.jsonl").len(), 3, "{label}");
            let sent = &sent_to(&mock)[name];
            if name == "reset before the head" {
                // On a connection used before it goes out once more, without counting.
                let range = attempts as usize..=2 * attempts as usize;
                assert!(range.contains(&sent.len()), "{label}: {sent:?}");
                continue;
            }
            assert_eq!(sent.len() as u64, attempts, "{label}: {sent:?}");
            // Another endpoint first: never twice in a row to the same one.
            assert!(
                sent.windows(2).all(|pair| pair[0] != pair[1]),
                "{label}: {sent:?}"
            );
        }
    });
}

/// A connection that the server closed after its last answer costs no attempt.
#[test]
fn stale_connections_cost_no_attempt() {
    const LINES: usize = 60;
    for runtime in runtimes() {
        let place = Place::new();
        // The close comes after the answer, when the next request may be on its way already.
        let mock = mock_with(|options| options.close_rate = "1".parse().expect("a share"));
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&crate::numbered(LINES));
        let more = ["--workers", "2", "--max-attempts", "1"];
        run(&place, &args(runtime, &more)).expect(0);
        crate::assert_complete(&place, LINES);
        for record in place.records("out.jsonl") {
            assert_eq!(record["metadata"]["attempts"], 1, "{runtime}: {record}");
        }
        assert_eq!(mock.stats().requests, LINES as u64, "{runtime}: each once");
    }
}

/// The waits between attempts stay below their bound, which doubles up to the maximum.
#[test]
fn the_backoff_has_full_jitter_within_its_bounds() {
    const LINES: usize = 40;
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::json(409, "{}")));
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "200ms", "max_backoff": "400ms", "max_attempts": 4}}),
        );
        place.input(&crate::numbered(LINES));
        run(&place, &args(runtime, &["--workers", "40"])).expect(3);
        let mut arrivals: HashMap<Vec<u8>, Vec<Duration>> = HashMap::new();
        for request in mock.requests() {
            arrivals
                .entry(request.body)
                .or_default()
                .push(request.arrived);
        }
        assert_eq!(arrivals.len(), LINES, "{runtime}");
        // The shortest of forty waits shows that the jitter begins at 0: it is below a half of its
        // bound unless all forty are above, once in 10^12. Longest waits are a busy machine's.
        for attempt in 1..4 {
            let shortest = arrivals
                .values()
                .map(|at| at[attempt] - at[attempt - 1])
                .min()
                .expect("forty");
            let bound = Duration::from_millis(if attempt == 1 { 200 } else { 400 });
            assert!(
                shortest < bound / 2,
                "{runtime}: attempt {attempt}: {shortest:?}"
            );
        }
        // Without any wait they would come in one go: twelve waits of 100 to 200 ms on average.
        let mean = arrivals.values().map(|at| at[3] - at[0]).sum::<Duration>() / LINES as u32;
        assert!(mean > Duration::from_millis(250), "{runtime}: {mean:?}");
    }
}
