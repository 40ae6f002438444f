//! Endpoint health: what cools, what disables, what comes back, and when a run stops instead of
//! burning its lines.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::support::{Place, mock_with, on_each_runtime, run, runtimes, scripted};
use crate::{args, arrivals, assert_complete, config, endpoint, numbered, requests};

const LINES: usize = 400;

const GOOD_ANSWER: &str = r#"{"choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

#[test]
fn an_outage_costs_few_requests_and_no_line() {
    const LINES: usize = 150;
    on_each_runtime(|runtime| {
        for how in ["1s..2500ms", "1s..2500ms=refuse"] {
            let place = Place::new();
            let mock = mock_with(|options| options.outage = vec![how.parse().expect("a window")]);
            // Jitter may be next to nothing: with less backoff now and then a line spends all its attempts
            // before the endpoint cools.
            let retry = json!({"retry": {"initial_backoff": "1s"}});
            config(&place, &[endpoint(&mock, "a", json!({}))], retry);
            place.input(&numbered(LINES));
            // Slow: a busy machine may take its time until everybody knows that the endpoint is out.
            run(&place, &args(runtime, &["--rate", "50", "--workers", "4"])).expect(0);
            assert_complete(&place, LINES);
            let arrivals = arrivals(&mock, "");
            // Five in a row, what was in flight with them, and the probes at 1 s and 3 s.
            let failed_attempts = arrivals.len() - LINES;
            assert!(failed_attempts <= 12, "{runtime}, {how}: {failed_attempts}");
            // On a busy machine the run may begin when the outage is over.
            if mock.stats().faults.contains_key("outage") {
                let pause = arrivals.windows(2).map(|pair| pair[1] - pair[0]).max();
                assert!(
                    pause > Some(Duration::from_millis(700)),
                    "{runtime}, {how}: {pause:?}"
                );
            }
        }
    });
}

/// Two in three requests fail, but never five in a row: nothing cools.
#[test]
fn failures_between_successes_do_not_cool() {
    for runtime in runtimes() {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |_| match seen.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Some(Scripted::json(200, GOOD_ANSWER)),
            _ => Some(Scripted::json(500, "{}")),
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "1ms", "max_backoff": "1ms", "max_attempts": 1000}}),
        );
        place.input(&numbered(100));
        // One request at a time: the answers are reported in their order.
        run(&place, &args(runtime, &["--workers", "1"])).expect(0);
        assert_complete(&place, 100);
        let arrivals = arrivals(&mock, "");
        let pause = arrivals.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(
            pause < Some(Duration::from_millis(800)),
            "{runtime}: {pause:?}"
        );
    }
}

/// Lines that make the server fail, last in the file, end as failures: what remains to be sent fails
/// throughout, as in an outage, but the server answers.
#[test]
fn lines_that_always_fail_end_when_their_attempts_are_spent() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|request| {
            let poison = request.body.windows(6).any(|bytes| bytes == b"poison");
            poison.then(|| Scripted::json(500, "{}"))
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "1ms"}}),
        );
        let mut lines = vec![r#"{"input":"good"}"#; 50];
        lines.extend([r#"{"input":"poison"}"#; 2]);
        place.input(&lines);
        run(&place, &args(runtime, &["--max-outage", "30"])).expect(3);
        let errors = place.records("errors.jsonl");
        assert_eq!(errors.len(), 2, "{runtime}");
        for error in errors {
            assert_eq!(error["error_kind"], "server_error", "{runtime}");
            assert_eq!(error["attempts"], 3, "{runtime}");
        }
        assert_eq!(place.records("out.jsonl").len(), 50, "{runtime}");
        assert_eq!(mock.stats().requests, 50 + 2 * 3, "{runtime}");
    }
}

/// The callers' own mistakes say nothing about an endpoint that has answered one line well.
#[test]
fn bad_requests_do_not_cool() {
    for runtime in runtimes() {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |_| {
            let is_first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            Some(match is_first {
                true => Scripted::json(200, GOOD_ANSWER),
                false => Scripted::json(400, r#"{"error":{"message":"bad"}}"#),
            })
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &[])).expect(3);
        let errors = place.records("errors.jsonl");
        assert_eq!(errors.len(), LINES - 1);
        assert!(
            errors
                .iter()
                .all(|error| error["error_kind"] == "bad_request" && error["attempts"] == 1)
        );
        assert_eq!(mock.stats().requests, LINES as u64, "{runtime}");
    }
}

/// Every fourth line fails at once, the others are answered after two seconds: the first dozen
/// answers are failures, and nothing cools.
#[test]
fn instant_errors_before_the_first_slow_answer_do_not_cool() {
    const SLOW: Duration = Duration::from_secs(2);
    const WORKERS: usize = 48;
    for runtime in runtimes() {
        let place = Place::new();
        let failed = std::sync::Mutex::new(std::collections::HashSet::new());
        let mock = scripted(move |request| {
            let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
            let text = body["messages"][0]["content"].as_str().expect("a prompt");
            let number: usize = text.split(' ').next()?.parse().expect("a number");
            let first = failed.lock().expect("no test panics here").insert(number);
            Some(match number % 4 == 3 && first {
                true => Scripted::json(500, "{}"),
                false => Scripted::json(200, GOOD_ANSWER).after(SLOW),
            })
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "1ms", "max_backoff": "1ms"}}),
        );
        place.input(&numbered(WORKERS));
        let workers = WORKERS.to_string();
        run(&place, &args(runtime, &["--workers", &workers])).expect(0);
        assert_complete(&place, WORKERS);
        let arrivals = arrivals(&mock, "");
        assert_eq!(arrivals.len(), WORKERS + WORKERS / 4, "{runtime}");
        // A cooled endpoint would get the twelve lines that failed only when it has recovered.
        let lasted = arrivals[arrivals.len() - 1] - arrivals[0];
        assert!(lasted < SLOW, "{runtime}: {lasted:?}");
    }
}

#[test]
fn an_endpoint_that_fails_fast_does_not_attract_traffic() {
    on_each_runtime(|runtime| {
        let place = Place::new();
        let failing = scripted(|_| Some(Scripted::json(500, "{}")));
        let slow = mock_with(|options| options.latency = "20ms".parse().expect("a latency"));
        config(
            &place,
            &[
                endpoint(&failing, "failing", json!({"weight": 3})),
                endpoint(&slow, "slow", json!({})),
            ],
            json!({"retry": {"initial_backoff": "1ms"}}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, LINES);
        let wasted = requests(&failing, "failing");
        assert!(wasted <= 5 + 20 + 5, "{runtime}: {wasted}");
        // A failed line went to the other endpoint, at once.
        for record in place.records("out.jsonl") {
            assert!(
                record["metadata"]["attempts"].as_u64() <= Some(2),
                "{record}"
            );
        }
    });
}

/// An address where nothing listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

#[test]
fn nothing_listening_stops_the_run_which_resumes_later() {
    on_each_runtime(|runtime| {
        let place = Place::new();
        let url = |address| format!("http://{address}/v1/chat/completions");
        let nowhere = [closed_port(), closed_port()];
        let endpoints = nowhere.map(|address| json!({"url": url(address)}));
        config(&place, &endpoints, json!({}));
        place.input(&numbered(LINES));
        let started = Instant::now();
        let stopped = run(&place, &args(runtime, &[])).expect(4);
        let lasted = started.elapsed();
        assert!(
            lasted > Duration::from_secs(4) && lasted < Duration::from_secs(20),
            "{runtime}: {lasted:?}"
        );
        for address in nowhere {
            assert!(stopped.stderr.contains(&address.to_string()), "{stopped:?}");
        }
        assert!(stopped.stderr.contains("refused"), "{stopped:?}");
        assert!(!place.path("out.jsonl").exists() && !place.path("errors.jsonl").exists());

        let mock = mock_with(|_| {});
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, LINES);
        assert_eq!(
            mock.stats().requests,
            LINES as u64,
            "{runtime}: none was burned"
        );
    });
}

#[test]
fn an_outage_beyond_max_outage_stops_the_run_which_resumes_later() {
    on_each_runtime(|runtime| {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |_| match seen.fetch_add(1, Ordering::Relaxed) {
            0..100 => Some(Scripted::json(200, GOOD_ANSWER)),
            _ => Some(Scripted::json(503, "{}")),
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"max_attempts": 30}}),
        );
        place.input(&numbered(LINES));
        let started = Instant::now();
        let stopped = run(&place, &args(runtime, &["--max-outage", "2"])).expect(4);
        let lasted = started.elapsed();
        assert!(
            lasted > Duration::from_secs(2) && lasted < Duration::from_secs(15),
            "{runtime}: {lasted:?}"
        );
        assert!(stopped.stderr.contains("503"), "{stopped:?}");

        let good = mock_with(|_| {});
        config(&place, &[endpoint(&good, "a", json!({}))], json!({}));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, LINES);
        assert_eq!(good.stats().requests, LINES as u64 - 100, "{runtime}");
    });
}

/// Lines that fail wherever they are sent, at the end of a file: more in a row than an endpoint may fail,
/// but they are answered, and nothing else is left. Else no command could ever end the run.
#[test]
fn lines_that_always_fail_at_the_end_become_failure_records() {
    const POISONED: usize = 20;
    let forgiven = AtomicBool::new(false);
    // On one core, so that the other lines are through before these begin.
    on_each_runtime(|runtime| {
        for resumed in [false, true] {
            let place = Place::new();
            let is_well = Arc::new(AtomicBool::new(!resumed));
            let decides = Arc::clone(&is_well);
            let mock = scripted(move |request| {
                let poisoned = memchr::memmem::find(&request.body, b"poison").is_some();
                match poisoned {
                    true if decides.load(Ordering::SeqCst) => Some(Scripted::json(500, "{}")),
                    // Not the lines' fault, whatever is left.
                    true => Some(Scripted::json(503, "{}")),
                    false => Some(Scripted::json(200, GOOD_ANSWER)),
                }
            });
            let attempts = |max: u32| {
                let backoff =
                    json!({"initial_backoff": "1s", "multiplier": 1.0, "max_attempts": max});
                config(
                    &place,
                    &[endpoint(&mock, "a", json!({}))],
                    json!({"retry": backoff}),
                );
            };
            let mut lines = numbered(60);
            lines.extend((0..POISONED).map(|id| format!(r#"{{"input": "poison {id}"}}"#)));
            place.input(&lines);
            let args = args(
                runtime,
                &["--max-outage", "4", "--workers", "30", "--cores", "1"],
            );
            if resumed {
                attempts(1000);
                let stopped = run(&place, &args).expect(4);
                assert!(stopped.stderr.contains("503"), "{stopped:?}");
                is_well.store(true, Ordering::SeqCst);
            }
            attempts(3);
            let before = mock.stats().requests;
            let ended = run(&place, &args).expect(3);
            if ended.stderr.contains("the attempts they have left") {
                forgiven.store(true, Ordering::SeqCst);
            }
            assert_eq!(place.records("out.jsonl").len(), 60);
            let errors = place.records("errors.jsonl");
            assert_eq!(errors.len(), POISONED);
            for error in errors {
                assert_eq!(error["status_code"], 500, "{error}");
                assert_eq!(error["attempts"], 3, "{error}");
            }
            let sent = (mock.stats().requests - before) as usize;
            let good = if resumed { 0 } else { 60 };
            assert_eq!(sent, good + 3 * POISONED, "{runtime}");
        }
    });
    assert!(forgiven.into_inner(), "no run met an outage");
}

/// More such lines than `--workers`: they look like an outage while any of them is untried. Each process
/// tries others, the last one ends them all, and no attempt is paid for twice.
#[test]
fn failing_lines_that_outnumber_the_workers_end_when_the_command_is_repeated() {
    const GOOD: usize = 30;
    const POISONED: usize = 40;
    on_each_runtime(|runtime| {
        let place = Place::new();
        let mock = scripted(|request| {
            let poisoned = memchr::memmem::find(&request.body, b"poison").is_some();
            Some(match poisoned {
                // Slowly: the streak is known before many more are sent.
                true => Scripted::json(500, "{}").after(Duration::from_millis(100)),
                false => Scripted::json(200, GOOD_ANSWER),
            })
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "10s", "multiplier": 1.0, "max_attempts": 2}}),
        );
        let mut lines = numbered(GOOD);
        lines.extend((0..POISONED).map(|id| format!(r#"{{"input": "poison {id}"}}"#)));
        place.input(&lines);
        let args = args(
            runtime,
            &["--max-outage", "1", "--workers", "6", "--cores", "1"],
        );
        let mut before = 0;
        let mut stops = 0;
        let ended = loop {
            let ended = run(&place, &args);
            let requests = mock.stats().requests;
            assert!(requests > before, "it got on: {ended:?}");
            before = requests;
            if ended.status != Some(4) {
                break ended;
            }
            assert!(ended.stderr.contains("500"), "{ended:?}");
            stops += 1;
            // Each tries as many as there are workers.
            assert!(stops <= POISONED / 6 + 1, "{ended:?}");
        };
        let ended = ended.expect(3);
        assert!(stops >= 2, "{stops} stops");
        assert!(
            ended.stderr.contains("the attempts they have left"),
            "{ended:?}"
        );
        assert_eq!(place.records("out.jsonl").len(), GOOD);
        let errors = place.records("errors.jsonl");
        assert_eq!(errors.len(), POISONED);
        for error in errors {
            assert_eq!(error["attempts"], 2, "{error}");
        }
        assert_eq!(before as usize, GOOD + 2 * POISONED, "{runtime}");
    });
}

/// The same in the middle of a file is an outage, however often the command is repeated: no line is
/// tried a second time while others are untried, so none comes to its end.
#[test]
fn an_outage_that_is_answered_burns_no_line_however_often_the_command_is_repeated() {
    on_each_runtime(|runtime| {
        let place = Place::new();
        let is_well = Arc::new(AtomicBool::new(false));
        let (decides, seen) = (Arc::clone(&is_well), AtomicUsize::new(0));
        let mock = scripted(move |_| {
            let first = seen.fetch_add(1, Ordering::SeqCst) < 50;
            match first || decides.load(Ordering::SeqCst) {
                true => Some(Scripted::json(200, GOOD_ANSWER)),
                // Slowly: the streak is known before many more are sent.
                false => Some(Scripted::json(500, "{}").after(Duration::from_millis(100))),
            }
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"initial_backoff": "10s", "multiplier": 1.0, "max_attempts": 2}}),
        );
        place.input(&numbered(LINES));
        let args = args(runtime, &["--max-outage", "1", "--workers", "10"]);
        for _ in 0..4 {
            run(&place, &args).expect(4);
        }
        is_well.store(true, Ordering::SeqCst);
        run(&place, &args).expect(0);
        assert_complete(&place, LINES);
    });
}

#[test]
fn a_refused_key_disables_its_endpoint_and_the_line_goes_elsewhere() {
    for runtime in runtimes() {
        let place = Place::new();
        let refusing = mock_with(|options| options.auth = Some("right".to_owned()));
        let good = mock_with(|_| {});
        config(
            &place,
            &[
                endpoint(&refusing, "refusing", json!({"api_key": "wrong"})),
                endpoint(&good, "good", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &["--max-attempts", "1"])).expect(0);
        assert_complete(&place, LINES);
        let refused = requests(&refusing, "refusing");
        assert!((1..=20).contains(&refused), "{runtime}: {refused}");
        assert_eq!(requests(&good, "good"), LINES as u64, "{runtime}");
    }
}

#[test]
fn the_only_key_refused_stops_the_run_without_burning_a_line() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.auth = Some("right".to_owned()));
        let with_key = |key| {
            config(
                &place,
                &[endpoint(&mock, "a", json!({"api_key": key}))],
                json!({}),
            )
        };
        with_key("wrong");
        place.input(&numbered(LINES));
        let stopped = run(&place, &args(runtime, &[])).expect(4);
        assert!(stopped.stderr.contains("401"), "{stopped:?}");
        assert!(
            !stopped.stderr.contains("wrong"),
            "the key is a secret: {stopped:?}"
        );
        assert!(mock.stats().requests <= 20, "{runtime}");
        with_key("right");
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, LINES);
        assert!(!place.path("errors.jsonl").exists(), "{runtime}");
    }
}

#[test]
fn an_endpoint_without_money_is_left_for_one_that_has_some() {
    const NO_MONEY: &str = r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    on_each_runtime(|runtime| {
        let place = Place::new();
        let broke = scripted(|_| Some(Scripted::json(429, NO_MONEY)));
        let good = mock_with(|_| {});
        config(
            &place,
            &[
                endpoint(&broke, "broke", json!({})),
                endpoint(&good, "good", json!({})),
            ],
            json!({}),
        );
        place.input(&numbered(LINES));
        run(&place, &args(runtime, &[])).expect(0);
        assert_complete(&place, LINES);
        assert!(requests(&broke, "broke") <= 20, "{runtime}");

        let alone = Place::new();
        config(&alone, &[endpoint(&broke, "broke", json!({}))], json!({}));
        alone.input(&numbered(LINES));
        let stopped = run(&alone, &args(runtime, &["--workers", "2"])).expect(4);
        assert!(stopped.stderr.contains("current quota"), "{stopped:?}");
        assert!(!alone.path("errors.jsonl").exists(), "{runtime}");

        // However often it is repeated: the money may come.
        let single = Place::new();
        config(&single, &[endpoint(&broke, "broke", json!({}))], json!({}));
        single.input(&[r#"{"input":"x"}"#]);
        for _ in 0..3 {
            run(&single, &args(runtime, &[])).expect(4);
        }
        config(&single, &[endpoint(&good, "good", json!({}))], json!({}));
        run(&single, &args(runtime, &[])).expect(0);
        assert_eq!(single.records("out.jsonl").len(), 1, "{runtime}");
    });
}
