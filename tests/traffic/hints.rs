//! Wait hints: obeyed by every core and by every endpoint of the quota group.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, run, runtimes, scripted};
use crate::{args, arrivals, assert_complete, config, endpoint, numbered};

const LINES: usize = 400;

/// What was on its way when the hint was given may still arrive.
const ON_THE_WAY: Duration = Duration::from_millis(150);

/// The 30th request to `/a` is answered by this; everything else well, after a while.
fn limited_once(answer: fn() -> Scripted) -> blaze_uring::mock::Mock {
    let told = AtomicBool::new(false);
    let seen = std::sync::atomic::AtomicUsize::new(0);
    scripted(move |request| {
        if request.target.starts_with("/a") && seen.fetch_add(1, Ordering::Relaxed) == 30 {
            assert!(!told.swap(true, Ordering::Relaxed));
            return Some(answer());
        }
        let body = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        Some(Scripted::json(200, body).after(Duration::from_millis(5)))
    })
}

/// The gaps of at least half a second between arrivals.
fn pauses(arrivals: &[Duration]) -> Vec<Duration> {
    let gaps = arrivals.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.filter(|gap| *gap >= Duration::from_millis(500))
        .collect()
}

#[test]
fn a_wait_is_obeyed_on_every_core_and_in_the_whole_quota_group() {
    let answers: [fn() -> Scripted; 4] = [
        || Scripted::json(429, "{}").header("retry-after", "1"),
        || Scripted::json(503, "{}").header("retry-after-ms", "1000"),
        || Scripted::json(429, r#"{"error":{"message":"Please try again in 1s."}}"#),
        || {
            Scripted::json(200, r#"{"choices":[]}"#)
                .header("x-ratelimit-limit-requests", "100")
                .header("x-ratelimit-remaining-requests", "0")
                .header("x-ratelimit-reset-requests", "1s")
        },
    ];
    for runtime in runtimes() {
        for answer in answers {
            let place = Place::new();
            let mock = limited_once(answer);
            config(
                &place,
                &[
                    endpoint(&mock, "a", json!({"quota_group": "org"})),
                    endpoint(&mock, "b", json!({"quota_group": "org"})),
                ],
                json!({}),
            );
            place.input(&numbered(LINES));
            run(&place, &args(runtime, &["--workers", "8"])).expect(0);
            assert_complete(&place, LINES);
            let pauses = pauses(&arrivals(&mock, ""));
            assert_eq!(pauses.len(), 1, "{runtime}: one wait, {pauses:?}");
            assert!(
                pauses[0] >= Duration::from_secs(1) - ON_THE_WAY,
                "{runtime}: {pauses:?}"
            );
        }
    }
}

#[test]
fn another_quota_group_does_not_wait() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = limited_once(|| Scripted::json(429, "{}").header("retry-after", "30"));
        config(
            &place,
            &[
                endpoint(&mock, "a", json!({})),
                endpoint(&mock, "b", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(LINES));
        let started = std::time::Instant::now();
        run(&place, &args(runtime, &["--workers", "8"])).expect(0);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{runtime}: the limited line went elsewhere"
        );
        assert_complete(&place, LINES);
        assert!(arrivals(&mock, "a").len() < 60, "{runtime}");
        let retried = place
            .records("out.jsonl")
            .iter()
            .filter(|record| record["metadata"]["attempts"] == 2)
            .inspect(|record| assert_eq!(record["metadata"]["endpoint"], "b"))
            .count();
        assert_eq!(retried, 1, "{runtime}");
    }
}

#[test]
fn the_server_decides_whether_to_retry() {
    for runtime in runtimes() {
        for (status, word, attempts) in [(500, "false", 1), (400, "true", 3), (429, "false", 1)] {
            let place = Place::new();
            let mock = scripted(move |_| {
                Some(Scripted::json(status, "{}").header("x-should-retry", word))
            });
            config(
                &place,
                &[endpoint(&mock, "a", json!({}))],
                json!({"retry": {"initial_backoff": "1ms"}}),
            );
            place.input(&[r#"{"input": "x"}"#]);
            run(&place, &args(runtime, &[])).expect(3);
            assert_eq!(
                mock.stats().requests,
                attempts,
                "{runtime}: {status} and {word}"
            );
            assert_eq!(place.records("errors.jsonl")[0]["attempts"], attempts);
        }
    }
}
