//! `rpm_limit`, `tpm_limit` and `--rate auto`.

use std::time::Duration;

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, mock_with, run, runtimes, scripted};
use crate::{args, arrivals, assert_complete, config, endpoint, most_within, numbered};

/// 1200 a minute are 20 a second, for both endpoints of the group together and on both cores.
#[test]
fn a_request_limit_holds_for_its_quota_group() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|_| {});
        let limited = json!({"quota_group": "org", "rpm_limit": 1200});
        config(
            &place,
            &[
                endpoint(&mock, "a", limited.clone()),
                endpoint(&mock, "b", limited),
            ],
            json!({}),
        );
        place.input(&numbered(50));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, 50);
        let seen = arrivals(&mock, "");
        let most = most_within(&seen, Duration::from_secs(1));
        assert!(most <= 22, "{runtime}: {most} in a second");
        let lasted = seen[49] - seen[0];
        assert!(
            lasted > Duration::from_millis(2300) && lasted < Duration::from_secs(6),
            "{runtime}: {lasted:?}"
        );
        assert!(!arrivals(&mock, "a").is_empty() && !arrivals(&mock, "b").is_empty());
    }
}

#[test]
fn an_endpoint_at_its_request_limit_leaves_lines_to_the_others() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|_| {});
        config(
            &place,
            &[
                endpoint(&mock, "a", json!({"rpm_limit": 60})),
                endpoint(&mock, "b", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(300));
        run(&place, &args(runtime, &["--rate", "200"])).expect(0);
        assert_complete(&place, 300);
        let limited = arrivals(&mock, "a").len();
        assert!((1..=4).contains(&limited), "{runtime}: {limited}");
    }
}

/// Each request uses 100 tokens, which the estimate (a quarter of the bytes and 1000 for the answer)
/// misses by far: usage corrects it, so that 60 seconds' worth of 6000 a minute is 60 requests.
#[test]
fn a_token_limit_is_kept_by_what_answers_used() {
    for runtime in runtimes() {
        let place = Place::new();
        let body = r#"{"choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":60,"completion_tokens":40}}"#;
        let mock = scripted(move |_| Some(Scripted::json(200, body)));
        config(
            &place,
            &[endpoint(&mock, "a", json!({"tpm_limit": 60_000}))],
            json!({}),
        );
        let line = |number| {
            let padding = "x".repeat(900);
            json!({"body": {"max_tokens": 200, "messages": [{"role": "user", "content": padding}]}, "id": number})
                .to_string()
        };
        let lines: Vec<String> = (0..40).map(line).collect();
        place.input(&lines);
        run(&place, &args(runtime, &["--workers", "4"])).expect(0);
        assert_complete(&place, 40);
        let seen = arrivals(&mock, "");
        let lasted = seen[39] - seen[0];
        // 4000 tokens at 1000 a second, the first second's worth at once. By the estimates alone
        // (about 440 each) it would last 16 s.
        assert!(
            lasted > Duration::from_millis(2400) && lasted < Duration::from_secs(9),
            "{runtime}: {lasted:?}"
        );
    }
}

/// A single request may need more than a second's worth, even more than the whole limit.
#[test]
fn a_request_beyond_the_token_limit_is_sent_in_the_end() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|_| {});
        config(
            &place,
            &[endpoint(&mock, "a", json!({"tpm_limit": 100_000}))],
            json!({}),
        );
        place.input(&[
            r#"{"body":{"max_tokens":3000,"messages":[{"role":"user","content":"a"}]}}"#,
            r#"{"body":{"max_tokens":4000,"messages":[{"role":"user","content":"b"}]}}"#,
        ]);
        run(&place, &args(runtime, &[])).expect(0);
        assert_eq!(mock.stats().requests, 2, "{runtime}");
    }
}

/// The search starts at 10/s and doubles every second; a limit of 20/s is met within seconds.
#[test]
fn the_rate_is_found() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.rate_limit = Some(40.0));
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&numbered(300));
        run(
            &place,
            &args(runtime, &["--rate", "auto", "--max-attempts", "20"]),
        )
        .expect(0);
        assert_complete(&place, 300);
        let stats = mock.stats();
        let refused = stats.statuses.get(&429).copied().unwrap_or(0);
        assert!(refused <= 15, "{runtime}: {refused} of {}", stats.requests);
        let seen = arrivals(&mock, "");
        let late: Vec<Duration> = seen
            .iter()
            .copied()
            .filter(|&at| at > seen[0] + Duration::from_secs(4))
            .collect();
        let lasted = late[late.len() - 1] - late[0];
        let mean = late.len() as f64 / lasted.as_secs_f64();
        assert!(mean > 20.0 && mean < 60.0, "{runtime}: {mean} of 40");
    }
}

/// Limits as the server has them: nothing is refused, over all cores, in a quota group or not.
#[test]
fn configured_limits_are_never_refused() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.rate_limit = Some(50.0));
        let limited = json!({"quota_group": "org", "rpm_limit": 3000});
        config(
            &place,
            &[
                endpoint(&mock, "a", limited.clone()),
                endpoint(&mock, "b", limited),
            ],
            json!({}),
        );
        place.input(&numbered(200));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, 200);
        let stats = mock.stats();
        assert_eq!(stats.statuses.get(&429), None, "{runtime}: {stats:?}");
    }
}

/// Nobody told the limit, but every answer says what is left of it: less than a tenth is spread until
/// the reset, and nothing is refused.
#[test]
fn remainders_slow_a_group_down_before_the_first_refusal() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| {
            options.rate_limit = Some(300.0);
            options.latency = "10ms".parse().expect("a latency");
        });
        let group = json!({"quota_group": "org"});
        config(
            &place,
            &[
                endpoint(&mock, "a", group.clone()),
                endpoint(&mock, "b", group),
            ],
            json!({}),
        );
        place.input(&numbered(1200));
        // Fewer in flight than are left when it slows down.
        run(&place, &args(runtime, &["--workers", "6"])).expect(0);
        assert_complete(&place, 1200);
        let stats = mock.stats();
        let refused = stats.statuses.get(&429).copied().unwrap_or(0);
        assert!(refused <= 2, "{runtime}: {refused} of {}", stats.requests);
        let seen = arrivals(&mock, "");
        let lasted = seen[seen.len() - 1] - seen[0];
        // Three hundred at once and nine hundred at 300 a second.
        assert!(
            lasted < Duration::from_secs(12),
            "{runtime}: {lasted:?} for what the limit allows in 3 s"
        );
    }
}
