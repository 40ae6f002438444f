//! How many requests are in flight: `--workers` is a ceiling, and below it the servers decide.

use serde_json::{Value, json};

use crate::support::{Place, mock_with, run, runtimes};
use crate::{args, assert_complete, config, endpoint, numbered};

/// Long enough for the search to end, at a thousand a second.
const LINES: usize = 4000;

/// Two endpoints with a limit each, found apart, on both cores.
#[test]
fn the_number_in_flight_is_found_for_each_quota_group() {
    for runtime in runtimes() {
        let place = Place::new();
        let limited = |places: usize| {
            mock_with(move |options| {
                options.latency = "20ms".parse().expect("a latency");
                options.max_concurrent = Some(places);
                options.record_requests = false;
            })
        };
        let (wide, narrow) = (limited(20), limited(3));
        config(
            &place,
            &[
                endpoint(&wide, "wide", json!({"weight": 6})),
                endpoint(&narrow, "narrow", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(LINES));
        let more = ["--workers", "auto", "--max-attempts", "20", "--json-logs"];
        let ran = run(&place, &args(runtime, &more)).expect(0);
        assert_complete(&place, LINES);
        let summary: Value = serde_json::from_str(ran.stdout.lines().last().expect("a summary"))
            .expect("the summary is JSON");
        let found = summary["found"].as_array().expect("what was found");
        for (found, (name, mock, most)) in found
            .iter()
            .zip([("wide", &wide, 28), ("narrow", &narrow, 6)])
        {
            assert_eq!(found["quota_group"], name, "{runtime}: {summary}");
            assert!(found.get("rate").is_none(), "{runtime}: {summary}");
            let workers = found["workers"].as_u64().expect("a number");
            // A loaded machine may leave the window unused, and then it grows later.
            assert!(
                (2..=most).contains(&workers),
                "{runtime}, {name}: {workers}"
            );
            let stats = mock.stats();
            let refused = stats.statuses.get(&429).copied().unwrap_or(0);
            assert!(
                refused * 2 < stats.requests,
                "{runtime}, {name}: {refused} of {} refused",
                stats.requests
            );
        }
        assert_eq!(found.len(), 2, "{runtime}: {summary}");
    }
}

/// Nothing is refused: `max_concurrent` is where the search ends.
#[test]
fn the_search_keeps_to_max_concurrent() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.latency = "5ms".parse().expect("a latency"));
        config(
            &place,
            &[endpoint(&mock, "a", json!({"max_concurrent": 11}))],
            json!({}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--workers", "auto"])).expect(0);
        assert_complete(&place, LINES);
        let most = mock.stats().in_flight_max;
        assert!((8..=11).contains(&most), "{runtime}: {most} in flight");
    }
}

/// A number is never exceeded, and none is needed: a slow server that takes everything gets more and more.
#[test]
fn a_number_is_a_ceiling_and_the_default_has_none() {
    for runtime in runtimes() {
        for (flags, most) in [(&["--workers", "7"][..], 7), (&["--workers", "auto"], 4096)] {
            let place = Place::new();
            let mock = mock_with(|options| options.latency = "300ms".parse().expect("a latency"));
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            let lines = if most == 7 { 21 } else { 600 };
            place.input(&numbered(lines));
            run(&place, &args(runtime, flags)).expect(0);
            assert_complete(&place, lines);
            let seen = mock.stats().in_flight_max;
            match most {
                7 => assert_eq!(seen, 7, "{runtime}"),
                // 50, 100, 200: the third round is the last that needs more than 150 lines.
                _ => assert!((100..=most).contains(&seen), "{runtime}: {seen}"),
            }
        }
    }
}
