//! Weights: each healthy endpoint gets its share, over all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, mock_with, on_each_runtime, run, runtimes, scripted};
use crate::{args, assert_complete, config, endpoint, numbered, requests};

#[test]
fn ten_thousand_requests_follow_the_weights() {
    const LINES: usize = 10_000;
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.record_requests = false);
        let weights = [("a", 5), ("b", 3), ("c", 2)];
        let endpoints =
            weights.map(|(name, weight)| endpoint(&mock, name, json!({"weight": weight})));
        config(&place, &endpoints, json!({}));
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--workers", "30"])).expect(0);
        assert_complete(&place, LINES);
        for (name, weight) in weights {
            let expect = LINES as u64 / 10 * weight;
            let seen = requests(&mock, name);
            assert!(
                seen.abs_diff(expect) <= LINES as u64 / 100,
                "{runtime}: {name} got {seen}, not {expect}"
            );
        }
    }
}

#[test]
fn a_slow_endpoint_at_its_cap_leaves_its_lines_to_the_others() {
    for runtime in runtimes() {
        let place = Place::new();
        let slow = mock_with(|options| options.latency = "300ms".parse().expect("a latency"));
        let fast = mock_with(|_| {});
        config(
            &place,
            &[
                endpoint(&slow, "slow", json!({"max_concurrent": 2})),
                endpoint(&fast, "fast", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(400));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, 400);
        let (slow, fast) = (requests(&slow, "slow"), requests(&fast, "fast"));
        assert_eq!(slow + fast, 400, "{runtime}: no line is sent twice");
        assert!(fast > 300, "{runtime}: {fast} went to the fast one");
    }
}

/// The part of `targets` that each of `names` got, in the order of `names`.
fn shares(targets: &[char], names: &str) -> Vec<f64> {
    let share = |name| targets.iter().filter(|&&target| target == name).count() as f64;
    let share = |name| share(name) / targets.len() as f64;
    names.chars().map(share).collect()
}

/// Of 10 000 requests to endpoints of weight 5, 3 and 2 the last one cools after some hundreds and
/// comes back a second later.
#[test]
fn shares_hold_while_an_endpoint_is_out_and_after_its_return() {
    const LINES: usize = 10_000;
    const WORKERS: usize = 30;
    /// A hundredth, and what was on its way when the endpoints in the ring changed.
    fn check(label: &str, targets: &[char], names: &str, weights: &[f64]) {
        let sum: f64 = weights.iter().sum();
        let slack = 0.01 + WORKERS as f64 / targets.len() as f64;
        for (share, weight) in shares(targets, names).into_iter().zip(weights) {
            let expect = weight / sum;
            assert!(
                (share - expect).abs() <= slack,
                "{label}: {share:.4}, not {expect:.4}, of {} requests",
                targets.len()
            );
        }
    }
    on_each_runtime(|runtime| {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |request| {
            let limited =
                request.target.starts_with("/c") && seen.fetch_add(1, Ordering::Relaxed) == 300;
            limited.then(|| Scripted::json(429, "{}").header("retry-after", "1"))
        });
        let endpoints = [("a", 5), ("b", 3), ("c", 2)]
            .map(|(name, weight)| endpoint(&mock, name, json!({"weight": weight})));
        config(&place, &endpoints, json!({}));
        place.input(&numbered(LINES));
        let workers = WORKERS.to_string();
        run(
            &place,
            &args(runtime, &["--workers", &workers, "--rate", "3000"]),
        )
        .expect(0);
        assert_complete(&place, LINES);
        let targets: Vec<char> = mock
            .requests()
            .iter()
            .map(|request| request.target.chars().nth(1).expect("a name"))
            .collect();
        assert_eq!(
            targets.len(),
            LINES + 1,
            "{runtime}: one line was sent twice"
        );
        let of_c: Vec<usize> = (0..targets.len())
            .filter(|&at| targets[at] == 'c')
            .collect();
        // The longest stretch without it. What was on its way when it was limited comes before.
        let (out, back) = of_c
            .windows(2)
            .map(|pair| (pair[0], pair[1]))
            .max_by_key(|(out, back)| back - out)
            .expect("c was used");
        assert!(
            (of_c[300]..=of_c[300] + 3 * WORKERS).contains(&out),
            "{runtime}: limited at {}, out from {out}",
            of_c[300]
        );
        check(
            &format!("{runtime}, before"),
            &targets[..of_c[300]],
            "abc",
            &[5.0, 3.0, 2.0],
        );
        check(
            &format!("{runtime}, out"),
            &targets[out + 1..back],
            "ab",
            &[5.0, 3.0],
        );
        check(
            &format!("{runtime}, after"),
            &targets[back..],
            "abc",
            &[5.0, 3.0, 2.0],
        );
    });
}
