//! `--workers` and `max_concurrent`: exact over all cores, also below their number; at the cap
//! lines wait and none is lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, mock_with, run, runtimes, scripted};
use crate::{args, assert_complete, config, endpoint, numbered, requests};

/// Lines of each run.
const LINES: usize = 200;

#[test]
fn workers_are_exact() {
    for runtime in runtimes() {
        for workers in [1, 2, 3, 10] {
            // On a busy machine a core may begin when the other has sent its lines, but not each time.
            let mut tries = (0..3).map(|_| in_flight_max(runtime, workers));
            assert!(
                tries.any(|most| most == workers),
                "{runtime}, {workers} workers are never reached"
            );
        }
    }
}

/// How many requests were in flight at once; never more than `workers`.
fn in_flight_max(runtime: &str, workers: u64) -> u64 {
    let place = Place::new();
    // More than half a second in all.
    let latency = format!("{}ms", 3 * workers);
    let mock = mock_with(|options| options.latency = latency.parse().expect("a latency"));
    config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
    place.input(&numbered(LINES));
    run(&place, &args(runtime, &["--workers", &workers.to_string()])).expect(0);
    assert_complete(&place, LINES);
    let most = mock.stats().in_flight_max;
    assert!(most <= workers, "{runtime}, {workers} workers: {most}");
    most
}

#[test]
fn endpoint_caps_are_exact_and_lines_wait() {
    for runtime in runtimes() {
        for cap in [1, 2, 3] {
            let place = Place::new();
            let mock = mock_with(|options| options.latency = "3ms".parse().expect("a latency"));
            config(
                &place,
                &[
                    endpoint(&mock, "a", json!({"max_concurrent": cap})),
                    endpoint(&mock, "b", json!({"max_concurrent": 1})),
                ],
                json!({}),
            );
            place.input(&numbered(LINES));
            run(&place, &args(runtime, &["--max-attempts", "1"])).expect(0);
            assert_complete(&place, LINES);
            let paths = mock.stats().paths;
            assert_eq!(
                paths["/a/v1/chat/completions"].in_flight_max, cap,
                "{runtime}"
            );
            assert_eq!(
                paths["/b/v1/chat/completions"].in_flight_max, 1,
                "{runtime}"
            );
            assert_eq!(mock.stats().requests, LINES as u64, "{runtime}: each once");
        }
    }
}

/// One worker, one place at the endpoint, two cores that both have lines: neither may hold what the
/// other needs.
#[test]
fn two_cores_share_one_worker_and_one_place() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|_| {});
        config(
            &place,
            &[endpoint(&mock, "a", json!({"max_concurrent": 1}))],
            json!({}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--workers", "1"])).expect(0);
        assert_complete(&place, LINES);
        assert_eq!(mock.stats().in_flight_max, 1, "{runtime}");
    }
}

/// A line that waits seconds for its retry leaves the only worker to the others.
#[test]
fn a_parked_retry_holds_no_worker() {
    for runtime in runtimes() {
        let place = Place::new();
        let failing = |body: &[u8]| body.windows(5).any(|bytes| bytes == b"\"0 xx");
        let others = AtomicUsize::new(0);
        let mock = scripted(move |request| {
            if !failing(&request.body) {
                others.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            // Until every other line has been sent.
            let waits = others.load(Ordering::Relaxed) < LINES - 1;
            waits.then(|| Scripted::json(500, "{}"))
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "3s", "max_backoff": "3s", "max_attempts": 50}}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--workers", "1", "--cores", "1"])).expect(0);
        assert_complete(&place, LINES);
        let order: Vec<bool> = mock
            .requests()
            .iter()
            .map(|request| failing(&request.body))
            .collect();
        assert!(order[0] && order[order.len() - 1], "{runtime}: {order:?}");
        assert_eq!(order.iter().filter(|&&failing| !failing).count(), LINES - 1);
        assert!(requests(&mock, "a") < LINES as u64 + 50);
    }
}
