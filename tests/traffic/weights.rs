//! Weights: each healthy endpoint gets its share, over all cores.

use serde_json::json;

use crate::support::{Place, mock_with, run, runtimes};
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
