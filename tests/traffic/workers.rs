//! How many requests are in flight: `--workers` is a ceiling, and below it the servers decide.

use blaze_uring::mock::Stats;
use serde_json::{Value, json};

use crate::support::{Place, mock_with, run, runtimes, spawn};
use crate::{args, assert_complete, config, endpoint, numbered};

/// Long enough for the search to end, at a thousand a second.
const LINES: usize = 4000;

fn answered(stats: &Stats) -> u64 {
    stats.statuses.get(&200).copied().unwrap_or(0)
}

fn refused(stats: &Stats) -> u64 {
    stats.statuses.get(&429).copied().unwrap_or(0)
}

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
        place.input(&numbered(LINES * 3 / 2));
        let more = ["--workers", "auto", "--max-attempts", "20", "--json-logs"];
        let mut running = spawn(&place, &args(runtime, &more));
        // Fifty at once are far too many for three places: what finding that costs is one matter, ...
        running.until("both limits are found", || {
            answered(&wide.stats()) >= LINES as u64 / 2
        });
        let searched = [wide.stats(), narrow.stats()];
        let ran = running.wait().expect(0);
        assert_complete(&place, LINES * 3 / 2);
        let summary: Value = serde_json::from_str(ran.stdout.lines().last().expect("a summary"))
            .expect("the summary is JSON");
        let found = summary["found"].as_array().expect("what was found");
        for ((found, before), (name, mock, most)) in
            (found.iter().zip(&searched)).zip([("wide", &wide, 28), ("narrow", &narrow, 6)])
        {
            assert_eq!(found["quota_group"], name, "{runtime}: {summary}");
            let workers = found["workers"].as_u64().expect("a number");
            // A loaded machine may leave the window unused, and then it grows later; or its answers come so
            // unevenly that a pace brings more of them, which then holds requests back instead.
            let is_paced = found["rate"].is_f64();
            assert!(
                (2..=most).contains(&workers) || is_paced,
                "{runtime}, {name}: {workers}"
            );
            let stats = mock.stats();
            let since = refused(&stats) - refused(before);
            let requests = stats.requests - before.requests;
            // ... and what keeping to it, and trying for more, costs another.
            assert!(
                since * 2 < requests,
                "{runtime}, {name}: {since} of {requests} refused once it was found"
            );
            assert!(
                refused(&stats) * 2 < stats.requests,
                "{runtime}, {name}: {} of {} refused",
                refused(&stats),
                stats.requests
            );
        }
        // Fifty at once were too many, and all places are used: permits follow the search.
        let most = wide.stats().in_flight_max;
        assert!(most >= 20, "{runtime}: {most} in flight");
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
