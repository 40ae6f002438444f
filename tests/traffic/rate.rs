//! `--rate`: no window beyond it, the first one and retries included, and little of it wasted.

use std::time::Duration;

use serde_json::json;

use crate::support::{Place, mock_with, run, runtimes};
use crate::{args, arrivals, assert_complete, config, endpoint, most_within, numbered};

/// Runs are repeated while the machine, which stalls the endpoint too, spoils the picture.
const TRIES: usize = 4;

/// Of the rate. A stalled thread loses the slots of its stall, and machines that test are busy.
const MEAN_MIN: f64 = 0.6;

/// Sends `lines` at `rate`; returns the most arrivals in a second and the mean rate.
fn measure(runtime: &str, rate: usize, lines: usize, errors: bool) -> (usize, f64) {
    let place = Place::new();
    let mock = mock_with(|options| {
        if errors {
            options.error_rate = vec!["500=0.1".parse().expect("a rate")];
        }
    });
    config(
        &place,
        &[
            endpoint(&mock, "a", json!({})),
            endpoint(&mock, "b", json!({})),
        ],
        json!({"retry": {"initial_backoff": "5ms"}}),
    );
    place.input(&numbered(lines));
    let rate = rate.to_string();
    run(
        &place,
        &args(
            runtime,
            &["--rate", &rate, "--workers", "100", "--max-attempts", "20"],
        ),
    )
    .expect(0);
    assert_complete(&place, lines);
    let arrivals = arrivals(&mock, "");
    assert_eq!(errors, arrivals.len() > lines, "retries arrive as well");
    let most = most_within(&arrivals, Duration::from_secs(1));
    let lasted = arrivals[arrivals.len() - 1] - arrivals[0];
    (most, (arrivals.len() - 1) as f64 / lasted.as_secs_f64())
}

fn check(rate: usize, lines: usize, errors: bool) {
    let most_allowed = rate + rate / 50 + 1;
    for runtime in runtimes() {
        let mut seen = Vec::new();
        let within = (0..TRIES).any(|_| {
            let (most, mean) = measure(runtime, rate, lines, errors);
            seen.push((most, mean));
            most <= most_allowed && mean >= rate as f64 * MEAN_MIN
        });
        assert!(
            within,
            "{runtime}: {rate}/s allows {most_allowed} in a second; (most, mean): {seen:?}"
        );
    }
}

#[test]
fn a_thousand_a_second() {
    check(1000, 3000, false);
}

#[test]
fn fifty_a_second_retries_included() {
    check(50, 150, true);
}

#[test]
fn seven_a_second_use_both_cores() {
    check(7, 22, false);
}

#[test]
fn one_worker_for_two_cores_does_not_lose_slots() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|_| {});
        config(
            &place,
            &[endpoint(&mock, "a", json!({"max_concurrent": 1}))],
            json!({}),
        );
        place.input(&numbered(40));
        run(&place, &args(runtime, &["--rate", "20", "--workers", "1"])).expect(0);
        assert_complete(&place, 40);
        let arrivals = arrivals(&mock, "");
        let lasted = arrivals[39] - arrivals[0];
        assert!(lasted < Duration::from_secs(12), "{runtime}: {lasted:?}");
    }
}
