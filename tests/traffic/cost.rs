//! `--max-cost`: the run stops before it spends more, and resumes.

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, run, runtimes, scripted};
use crate::{args, assert_complete, config, endpoint, numbered};

#[test]
fn the_run_stops_at_its_cost_and_goes_on_with_more() {
    const LINES: usize = 400;
    for runtime in runtimes() {
        let place = Place::new();
        // 1000 tokens at 10 USD per million: a cent each.
        let body = r#"{"model":"m","choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":500,"completion_tokens":500}}"#;
        let mock = scripted(move |_| Some(Scripted::json(200, body)));
        config(
            &place,
            &[endpoint(&mock, "a", json!({"model": "m"}))],
            json!({"prices": {"m": {"input": 10.0, "output": 10.0}}}),
        );
        place.input(&numbered(LINES));
        let more = ["--max-cost", "1", "--workers", "4"];
        let stopped = run(&place, &args(runtime, &more)).expect(4);
        assert!(stopped.stderr.contains("--max-cost"), "{stopped:?}");
        let spent = mock.stats().requests;
        // A hundred cents, and what was in flight or not heard of when they were spent.
        assert!((100..=150).contains(&spent), "{runtime}: {spent} cents");
        run(&place, &args(runtime, &["--max-cost", "100"])).expect(0);
        assert_complete(&place, LINES);
        assert_eq!(mock.stats().requests, LINES as u64, "{runtime}");
    }
}
