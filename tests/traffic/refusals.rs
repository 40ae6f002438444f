//! One line's answer decides about that line: what becomes of lines and endpoints when a server refuses a
//! key, a path, a model, a single line, or has no money; and that no command can be repeated for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blaze_uring::mock::{Mock, Scripted};
use serde_json::{Value, json};

use crate::support::{Place, Run, mock_with, on_each_runtime, run, runtimes, scripted};
use crate::{args, arrivals, assert_complete, config, endpoint, numbered, requests};

const GOOD: &str = r#"{"choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
const REFUSED: &str = r#"{"error":{"code":403,"message":"this text is not allowed here"}}"#;

/// Makes an answer.
type Answer = fn() -> Scripted;

/// One request at a time, on one core: the requests' order is the lines'.
const ONE: [&str; 4] = ["--workers", "1", "--cores", "1"];

/// Lines whose content is their number, short; those in `marked` begin with `word` instead.
fn lines(count: usize, word: &str, marked: &[usize]) -> Vec<String> {
    (0..count)
        .map(|number| {
            let text = match marked.contains(&number) {
                true => format!("{word} {number}"),
                false => format!("line {number}"),
            };
            json!({"input": text, "id": number}).to_string()
        })
        .collect()
}

fn says(body: &[u8], word: &str) -> bool {
    memchr::memmem::find(body, word.as_bytes()).is_some()
}

/// Answers well, but to what says `word`.
fn refusing(word: &'static str, answer: Answer) -> Mock {
    scripted(move |request| {
        Some(match says(&request.body, word) {
            true => answer(),
            false => Scripted::json(200, GOOD),
        })
    })
}

/// Refuses every request.
fn closed(answer: Answer) -> Mock {
    scripted(move |_| Some(answer()))
}

fn ids(place: &Place, file: &str) -> Vec<u64> {
    match place.path(file).exists() {
        true => (place.records(file).iter())
            .map(|record| record["id"].as_u64().expect("an id"))
            .collect(),
        false => Vec::new(),
    }
}

/// Repeats the command until it ends in something else than 4; how often that was, and the last.
fn repeat(place: &Place, args: &[&str], most: usize) -> (usize, Run) {
    for stops in 0..most {
        let ended = run(place, args);
        if ended.status != Some(4) {
            return (stops, ended);
        }
    }
    panic!("it has stopped {most} times");
}

#[test]
fn one_refused_line_among_a_thousand_is_one_failure_record() {
    const LINES: usize = 1000;
    for runtime in runtimes() {
        for flagged in [0, 500, 999] {
            let place = Place::new();
            let mock = refusing("flagged", || Scripted::json(403, REFUSED));
            let endpoints = ["a", "b"].map(|name| endpoint(&mock, name, json!({})));
            config(&place, &endpoints, json!({}));
            place.input(&lines(LINES, "flagged", &[flagged]));
            run(&place, &args(runtime, &[])).expect(3);
            let label = format!("{runtime}: {flagged}");
            let errors = place.records("errors.jsonl");
            let [error] = &errors[..] else {
                panic!("{label}: {errors:?}");
            };
            assert_eq!(error["id"], flagged, "{label}");
            assert_eq!(error["error_kind"], "auth", "{label}");
            assert_eq!(error["status_code"], 403, "{label}");
            assert_eq!(error["response"]["error"]["code"], 403, "{label}");
            assert_eq!(place.records("out.jsonl").len(), LINES - 1, "{label}");
            // Asked elsewhere, too, if its endpoint had not answered anything yet.
            let spent = mock.stats().requests as usize;
            assert!((LINES..=LINES + 1).contains(&spent), "{label}: {spent}");
        }
    }
}

#[test]
fn many_refused_lines_among_others_are_failure_records() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = refusing("flagged", || {
            Scripted::json(403, "<html>").header("content-type", "text/html")
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        // Four in a row at the start, in the middle and at the end; the others are answered later.
        let flagged = [0, 1, 2, 3, 40, 41, 42, 43, 96, 97, 98, 99];
        place.input(&lines(100, "flagged", &flagged));
        run(&place, &args(runtime, &ONE)).expect(3);
        let expect: Vec<u64> = flagged.iter().map(|&id| id as u64).collect();
        assert_eq!(ids(&place, "errors.jsonl"), expect, "{runtime}");
        assert_eq!(mock.stats().requests, 100, "{runtime}");
    }
}

/// Five in a row are the endpoint's refusal: they stay unfinished, and get their records in the next
/// process, which meets the next five.
#[test]
fn a_key_without_rights_burns_nothing_and_ends_when_the_command_is_repeated() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = closed(|| Scripted::json(403, REFUSED));
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&lines(12, "", &[]));
        let args = args(runtime, &ONE);
        let stopped = run(&place, &args).expect(4);
        assert!(stopped.stderr.contains("not allowed here"), "{stopped:?}");
        assert!(stopped.stderr.contains("0 failed"), "{stopped:?}");
        assert_eq!(mock.stats().requests, 5, "{runtime}");
        let (stops, ended) = repeat(&place, &args, 9);
        ended.expect(3);
        // 5 records and 5 more lines, 5 records and the last 2, which are fewer than five; then theirs.
        assert_eq!(stops, 2, "{runtime}");
        assert_eq!(mock.stats().requests, 5 + 10 + 7 + 2, "{runtime}");
        assert_eq!(place.records("errors.jsonl").len(), 12, "{runtime}");
        assert!(!place.path("out.jsonl.blaze").exists(), "{runtime}");
    }
}

#[test]
fn a_key_that_loses_its_rights_stops_the_run_with_five_lines_unfinished() {
    for runtime in runtimes() {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |_| {
            Some(match seen.fetch_add(1, Ordering::SeqCst) {
                0..10 => Scripted::json(200, GOOD),
                _ => Scripted::json(403, REFUSED),
            })
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&lines(40, "", &[]));
        let stopped = run(&place, &args(runtime, &ONE)).expect(4);
        assert!(
            stopped
                .stderr
                .contains("40 = 10 succeeded + 0 failed + 30 not finished"),
            "{stopped:?}"
        );
        assert_eq!(mock.stats().requests, 15, "{runtime}");
        // The rights are back: nothing was burned.
        let good = mock_with(|_| {});
        config(&place, &[endpoint(&good, "a", json!({}))], json!({}));
        run(&place, &args(runtime, &ONE)).expect(0);
        assert_complete(&place, 40);
        assert_eq!(good.stats().requests, 30, "{runtime}");
    }
}

/// The refused endpoint's lines go to the other one.
#[test]
fn lines_that_one_endpoint_refuses_go_to_another() {
    const LINES: usize = 200;
    let refusals: [(&str, Answer); 7] = [
        ("401", || Scripted::json(401, "{}")),
        ("403", || Scripted::json(403, REFUSED)),
        ("404", || Scripted::json(404, r#"{"detail":"Not Found"}"#)),
        ("405", || Scripted::json(405, "<html>")),
        ("308", || Scripted::json(308, "").header("location", "/x/")),
        ("402", || Scripted::json(402, "{}")),
        ("400", || {
            Scripted::json(400, r#"{"error":{"message":"no database"}}"#)
        }),
    ];
    on_each_runtime(|runtime| {
        for (name, answer) in refusals {
            let place = Place::new();
            let refusing = closed(answer);
            let good = mock_with(|options| options.latency = "5ms".parse().expect("a latency"));
            config(
                &place,
                &[
                    endpoint(&refusing, "refusing", json!({})),
                    endpoint(&good, "good", json!({})),
                ],
                json!({}),
            );
            place.input(&numbered(LINES));
            run(&place, &args(runtime, &[])).expect(0);
            assert_complete(&place, LINES);
            let refused = requests(&refusing, "refusing");
            assert!((1..=30).contains(&refused), "{runtime}, {name}: {refused}");
            assert_eq!(requests(&good, "good"), LINES as u64, "{runtime}, {name}");
        }
    });
}

/// A path that is none, however the server words it: out at once where nothing ever succeeded.
#[test]
fn a_wrong_path_stops_the_run_and_burns_nothing() {
    let refusals: [(&str, Answer); 6] = [
        ("detail", || {
            Scripted::json(404, r#"{"detail":"Not Found"}"#)
        }),
        ("a page", || {
            Scripted::json(404, "<html><h1>404 Not Found</h1></html>")
        }),
        ("text", || Scripted::json(404, "404 page not found\n")),
        ("nothing", || Scripted::json(404, "")),
        ("405", || {
            Scripted::json(405, r#"{"detail":"Method Not Allowed"}"#)
        }),
        ("301", || {
            Scripted::json(301, "").header("location", "/v1/x")
        }),
    ];
    on_each_runtime(|runtime| {
        for (name, answer) in refusals {
            let label = format!("{runtime}: {name}");
            let place = Place::new();
            let mock = closed(answer);
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&lines(30, "", &[]));
            let stopped = run(&place, &args(runtime, &ONE)).expect(4);
            assert!(stopped.stderr.contains("0 failed"), "{label}: {stopped:?}");
            assert_eq!(mock.stats().requests, 1, "{label}");
            assert!(!place.path("errors.jsonl").exists(), "{label}");
            let good = mock_with(|_| {});
            config(&place, &[endpoint(&good, "a", json!({}))], json!({}));
            run(&place, &args(runtime, &ONE)).expect(0);
            assert_complete(&place, 30);

            // From an endpoint that answers others it is the line's own.
            let place = Place::new();
            let mock = scripted(move |request| {
                Some(match says(&request.body, "odd") {
                    true => answer(),
                    false => Scripted::json(200, GOOD),
                })
            });
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&lines(30, "odd", &[4, 5, 6, 7, 8, 9, 29]));
            run(&place, &args(runtime, &ONE)).expect(3);
            assert_eq!(
                ids(&place, "errors.jsonl"),
                [4, 5, 6, 7, 8, 9, 29],
                "{label}"
            );
            assert_eq!(mock.stats().requests, 30, "{label}");
        }
    });
}

/// The line that a process stopped for has its record in the next one, which gets on by one line.
#[test]
fn a_command_that_stops_for_its_first_line_gets_on_when_it_is_repeated() {
    let refusals: [(&str, Answer, &str); 3] = [
        ("401", || Scripted::json(401, "{}"), "auth"),
        ("404", || Scripted::json(404, "{}"), "not_found"),
        ("303", || Scripted::json(303, ""), "redirect"),
    ];
    for runtime in runtimes() {
        for (name, answer, kind) in refusals {
            let label = format!("{runtime}: {name}");
            let place = Place::new();
            let mock = closed(answer);
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&lines(3, "", &[]));
            let (stops, ended) = repeat(&place, &args(runtime, &ONE), 9);
            ended.expect(3);
            assert_eq!(stops, 3, "{label}");
            let errors = place.records("errors.jsonl");
            assert_eq!(errors.len(), 3, "{label}");
            for error in errors {
                assert_eq!(error["error_kind"], kind, "{label}");
                assert_eq!(error["attempts"], 1, "{label}");
            }
            assert_eq!(mock.stats().requests, 6, "{label}");
        }
    }
}

#[test]
fn a_key_that_is_refused_for_once_is_asked_again_after_a_second() {
    on_each_runtime(|runtime| {
        // Refused once, and, of a line of its own, always.
        for always in [false, true] {
            let label = format!("{runtime}: {always}");
            let place = Place::new();
            let seen = Arc::new(AtomicUsize::new(0));
            let counts = Arc::clone(&seen);
            let mock = scripted(move |request| {
                let refuses = says(&request.body, "odd")
                    && (always || counts.fetch_add(1, Ordering::SeqCst) == 0);
                Some(match refuses {
                    true => Scripted::json(401, "{}"),
                    false => Scripted::json(200, GOOD),
                })
            });
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&lines(12, "odd", &[5]));
            let status = if always { 3 } else { 0 };
            run(&place, &args(runtime, &ONE)).expect(status);
            assert_eq!(mock.stats().requests, 13, "{label}");
            let arrivals = arrivals(&mock, "");
            let pause = arrivals[6] - arrivals[5];
            assert!(pause >= Duration::from_millis(900), "{label}: {pause:?}");
            assert_eq!(place.records("out.jsonl").len(), 12 - usize::from(always));
            if always {
                let errors = place.records("errors.jsonl");
                assert_eq!(errors[0]["id"], 5, "{label}");
                assert_eq!(errors[0]["error_kind"], "auth", "{label}");
            }
        }
    });
}

#[test]
fn a_key_that_is_revoked_stops_the_run_after_it_was_asked_again() {
    for runtime in runtimes() {
        let place = Place::new();
        let seen = AtomicUsize::new(0);
        let mock = scripted(move |_| {
            Some(match seen.fetch_add(1, Ordering::SeqCst) {
                0..20 => Scripted::json(200, GOOD),
                _ => Scripted::json(401, "{}"),
            })
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&lines(60, "", &[]));
        let stopped = run(&place, &args(runtime, &["--workers", "8", "--cores", "1"])).expect(4);
        assert!(
            stopped
                .stderr
                .contains("60 = 20 succeeded + 0 failed + 40 not finished"),
            "{stopped:?}"
        );
        // Those in flight, and one more after a second.
        let requests = mock.stats().requests;
        assert!((22..=29).contains(&requests), "{runtime}: {requests}");
    }
}

const NO_MODEL: &str = r#"{"error":{"message":"The model `tpyo` does not exist","type":"invalid_request_error","code":"model_not_found"}}"#;

#[test]
fn an_unknown_model_is_out_where_it_is_unknown_and_no_other() {
    for runtime in runtimes() {
        for status in [400, 404] {
            let label = format!("{runtime}: {status}");
            let answer: Answer = match status {
                400 => || Scripted::json(400, NO_MODEL),
                _ => || Scripted::json(404, NO_MODEL),
            };
            let line = |id: usize| {
                let model = if id.is_multiple_of(3) { "tpyo" } else { "good" };
                let messages = json!([{"role": "user", "content": "x"}]);
                json!({"body": {"model": model, "messages": messages}, "id": id}).to_string()
            };
            let all: Vec<String> = (0..30).map(line).collect();
            // Nobody has it: its lines fail, the others go on.
            let place = Place::new();
            let mock = refusing("tpyo", answer);
            let endpoints = ["a", "b"].map(|name| endpoint(&mock, name, json!({})));
            config(&place, &endpoints, json!({}));
            place.input(&all);
            run(&place, &args(runtime, &ONE)).expect(3);
            let expect: Vec<u64> = (0..30).step_by(3).collect();
            assert_eq!(ids(&place, "errors.jsonl"), expect, "{label}");
            for error in place.records("errors.jsonl") {
                assert_eq!(error["error_kind"], "not_found", "{label}");
                assert_eq!(error["status_code"], status, "{label}");
            }
            // One has it: all succeed, and the other one is asked once.
            let place = Place::new();
            let lacking = refusing("tpyo", answer);
            let good = mock_with(|options| options.latency = "10ms".parse().expect("a latency"));
            config(
                &place,
                &[
                    endpoint(&lacking, "lacking", json!({})),
                    endpoint(&good, "good", json!({"max_concurrent": 1})),
                ],
                json!({}),
            );
            place.input(&all);
            run(&place, &args(runtime, &["--workers", "4", "--cores", "1"])).expect(0);
            assert_complete(&place, 30);
            let asked = lacking.requests();
            let asked = asked.iter().filter(|request| says(&request.body, "tpyo"));
            assert!(asked.count() <= 4, "{label}");
        }
    }
}

/// Answers that repeat the prompt, which speaks of money and of models.
#[test]
fn what_an_answer_quotes_from_the_prompt_stops_nothing() {
    const PROMPTS: [&str; 4] = [
        "my credit balance is too low",
        "Your credit balance is too low to access the Anthropic API.",
        "insufficient_quota",
        "The model `x` does not exist",
    ];
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|request| {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            let prompt = body["messages"][0]["content"].as_str().expect("a prompt");
            let repeats = PROMPTS.contains(&prompt);
            let error = json!({"error": {"message": prompt, "type": "invalid_request_error"}});
            Some(match (repeats, prompt.starts_with("Your")) {
                (true, true) => Scripted::json(400, error.to_string()),
                (true, false) => Scripted::json(422, error.to_string()),
                (false, _) => Scripted::json(200, GOOD),
            })
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        let prompts = ["one", "two"].iter().chain(&PROMPTS).chain(&["three"]);
        let lines: Vec<String> = prompts
            .map(|text| json!({"input": text}).to_string())
            .collect();
        place.input(&lines);
        run(&place, &args(runtime, &ONE)).expect(3);
        let errors = place.records("errors.jsonl");
        assert_eq!(errors.len(), 4, "{runtime}: {errors:?}");
        for error in errors {
            assert_eq!(error["error_kind"], "bad_request", "{runtime}: {error}");
        }
    }
}

#[test]
fn no_money_burns_no_line_in_flight() {
    const LINES: usize = 300;
    let refusals: [(&str, Answer); 4] = [
        ("402", || {
            Scripted::json(402, r#"{"error":{"message":"Insufficient Balance"}}"#)
        }),
        ("quota", || {
            Scripted::json(
                429,
                r#"{"error":{"message":"x","code":"insufficient_quota"}}"#,
            )
        }),
        ("spend limit", || {
            Scripted::json(
                429,
                r#"{"error":{"message":"x","code":"enforced_spend_limit_reached"}}"#,
            )
        }),
        ("Anthropic", || {
            Scripted::json(
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
            )
        }),
    ];
    on_each_runtime(|runtime| {
        for (name, answer) in refusals {
            let label = format!("{runtime}: {name}");
            let place = Place::new();
            let seen = AtomicUsize::new(0);
            let mock = scripted(move |_| {
                let answer = match seen.fetch_add(1, Ordering::SeqCst) {
                    0..100 => Scripted::json(200, GOOD),
                    _ => answer(),
                };
                Some(answer.after(Duration::from_millis(20)))
            });
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&numbered(LINES));
            let args = args(runtime, &["--workers", "50"]);
            let stopped = run(&place, &args).expect(4);
            let books = "300 = 100 succeeded + 0 failed + 200 not finished";
            assert!(stopped.stderr.contains(books), "{label}: {stopped:?}");
            // Still none when the command is repeated too soon.
            run(&place, &args).expect(4);
            let good = mock_with(|_| {});
            config(&place, &[endpoint(&good, "a", json!({}))], json!({}));
            run(&place, &args).expect(0);
            assert_complete(&place, LINES);
            assert_eq!(good.stats().requests, 200, "{label}");
        }
    });
}

/// A request may cost more than there is money for, while others do not: it goes last when the command is
/// repeated, and fails where others were paid for.
#[test]
fn one_line_that_there_is_no_money_for_fails_in_the_end() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = refusing("dear", || {
            Scripted::json(
                402,
                r#"{"error":{"message":"This request needs fewer max_tokens"}}"#,
            )
        });
        config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
        place.input(&lines(9, "dear", &[2]));
        run(&place, &args(runtime, &ONE)).expect(4);
        run(&place, &args(runtime, &ONE)).expect(3);
        assert_eq!(ids(&place, "errors.jsonl"), [2], "{runtime}");
        let error = &place.records("errors.jsonl")[0];
        assert_eq!(error["error_kind"], "quota_exhausted", "{runtime}");
        assert_eq!(mock.stats().requests, 10, "{runtime}");
    }
}

#[test]
fn a_run_in_which_nothing_succeeds_stops_after_a_hundred_lines() {
    const ANSWER: &str = r#"{"error":{"message":"no database is connected","code":"no_db"}}"#;
    on_each_runtime(|runtime| {
        for workers in ["1", "50"] {
            let label = format!("{runtime}: {workers}");
            let place = Place::new();
            let mock = closed(|| Scripted::json(400, ANSWER));
            config(&place, &[endpoint(&mock, "a", json!({}))], json!({}));
            place.input(&lines(250, "", &[]));
            let args = args(runtime, &["--workers", workers, "--cores", "1"]);
            let stopped = run(&place, &args).expect(4);
            let reason = "nothing has succeeded, and 100 lines ended in the same failure";
            assert!(stopped.stderr.contains(reason), "{label}: {stopped:?}");
            let books = "250 = 0 succeeded + 100 failed + 150 not finished";
            assert!(stopped.stderr.contains(books), "{label}: {stopped:?}");
            assert_eq!(mock.stats().requests, 100, "{label}");
            run(&place, &args).expect(4);
            run(&place, &args).expect(3);
            assert_eq!(mock.stats().requests, 250, "{label}");
            assert_eq!(place.records("errors.jsonl").len(), 250, "{label}");
        }
    });
}

/// Other failures than one, or a success, or lines that were never sent, do not stop it.
#[test]
fn a_run_in_which_something_succeeds_or_fails_otherwise_goes_on() {
    for runtime in runtimes() {
        let count = AtomicUsize::new(0);
        let various = scripted(move |_| {
            let status = [400, 413, 422][count.fetch_add(1, Ordering::SeqCst) % 3];
            Some(Scripted::json(status, "{}"))
        });
        let seldom = refusing("odd", || Scripted::json(400, "{}"));
        let odd: Vec<usize> = (0..250).filter(|id| *id != 60).collect();
        for (mock, lines, status) in [
            (&various, lines(250, "", &[]), 3),
            (&seldom, lines(250, "odd", &odd), 3),
            (&various, vec!["{".to_owned(); 250], 3),
        ] {
            let place = Place::new();
            config(&place, &[endpoint(mock, "a", json!({}))], json!({}));
            place.input(&lines);
            run(&place, &args(runtime, &ONE)).expect(status);
        }
    }
}

/// Where there is another endpoint, whatever the first one answers at once.
#[test]
fn an_endpoint_that_fails_fast_does_not_attract_traffic_whatever_it_answers() {
    const LINES: usize = 300;
    let answers: [(&str, Answer); 6] = [
        ("400", || Scripted::json(400, "{}")),
        ("409", || Scripted::json(409, "{}")),
        ("425", || Scripted::json(425, "{}")),
        ("403", || Scripted::json(403, "{}")),
        ("422", || Scripted::json(422, "{}")),
        ("307", || Scripted::json(307, "").header("location", "/y")),
    ];
    on_each_runtime(|runtime| {
        for (name, answer) in answers {
            let place = Place::new();
            let failing = closed(answer);
            let slow = mock_with(|options| options.latency = "20ms".parse().expect("a latency"));
            config(
                &place,
                &[
                    endpoint(&failing, "failing", json!({"weight": 3})),
                    endpoint(&slow, "slow", json!({"max_concurrent": 10})),
                ],
                json!({"retry": {"initial_backoff": "1ms"}}),
            );
            place.input(&numbered(LINES));
            run(&place, &args(runtime, &[])).expect(0);
            assert_complete(&place, LINES);
            let wasted = requests(&failing, "failing");
            assert!(wasted <= 5 + 20 + 5, "{runtime}, {name}: {wasted}");
        }
    });
}

/// The last lines of a file: each goes to the other endpoint when one has failed it.
#[test]
fn the_last_lines_of_a_file_are_retried_elsewhere_too() {
    for runtime in runtimes() {
        for (cores, count) in [("1", 8), ("2", 8), ("2", 3)] {
            let label = format!("{runtime}: {count} on {cores}");
            let place = Place::new();
            let failing = closed(|| Scripted::json(500, "{}"));
            let slow = mock_with(|options| options.latency = "100ms".parse().expect("a latency"));
            config(
                &place,
                &[
                    endpoint(&failing, "failing", json!({})),
                    endpoint(&slow, "slow", json!({"max_concurrent": 2})),
                ],
                json!({"retry": {"initial_backoff": "1ms", "max_attempts": 2}}),
            );
            place.input(&numbered(count));
            run(
                &place,
                &args(runtime, &["--cores", cores, "--workers", "8"]),
            )
            .expect(0);
            assert_complete(&place, count);
            for record in place.records("out.jsonl") {
                assert_eq!(record["metadata"]["endpoint"], "slow", "{label}");
            }
        }
    }
}

/// A model that loads answers 500 until it is there; the user has said how long that may take.
#[test]
fn an_explicit_max_outage_holds_before_the_first_success() {
    on_each_runtime(|runtime| {
        let place = Place::new();
        let started = std::time::Instant::now();
        let mock = scripted(move |_| {
            Some(match started.elapsed() < Duration::from_secs(7) {
                true => Scripted::json(500, "{}"),
                false => Scripted::json(200, GOOD),
            })
        });
        config(
            &place,
            &[endpoint(&mock, "a", json!({}))],
            json!({"retry": {"max_attempts": 9}, "max_outage": "60s"}),
        );
        place.input(&lines(20, "", &[]));
        run(&place, &args(runtime, &["--workers", "4"])).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 20, "{runtime}");
    });
}
