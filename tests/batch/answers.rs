//! Answers that are no successes: what is retried, what is kept of them, and how they are named.

use blaze_uring::mock::{Mock, Scripted};
use serde_json::json;

use crate::support::{Place, batch_args, mock, run, runtimes, scripted};

const LINE: &str = r#"{"input":"q","id":9}"#;

/// A line that is answered well: an endpoint that answers nothing well is judged as a whole.
const FIRST: &str = r#"{"input": "a first one"}"#;

/// Answers [`FIRST`] well, and everything else so.
fn good_first(answer: impl Fn() -> Scripted + Send + Sync + 'static) -> Mock {
    scripted(move |request| {
        let first = memchr::memmem::find(&request.body, b"a first one").is_some();
        let good = r#"{"choices":[{"message":{"content":"ok"}}]}"#;
        Some(if first {
            Scripted::json(200, good)
        } else {
            answer()
        })
    })
}

#[test]
fn client_errors_are_not_retried_and_keep_the_servers_body() {
    for (status, kind) in [
        (400, "bad_request"),
        (404, "not_found"),
        (413, "bad_request"),
        (422, "bad_request"),
    ] {
        for runtime in runtimes() {
            let place = Place::new();
            let body = r#"{"error": {"message": "look here", "code": 12345678901234567890}}"#;
            let mock = good_first(move || Scripted::json(status, body));
            place.input(&[FIRST, LINE]);
            run(&place, &batch_args(&mock, runtime, &["-w", "1"])).expect(3);
            assert_eq!(mock.stats().requests, 2, "{status} on {runtime}");
            let record = &place.records("errors.jsonl")[0];
            assert_eq!(record["error_kind"], kind, "{record}");
            assert_eq!(record["status_code"], status);
            assert_eq!(record["attempts"], 1);
            assert_eq!(record["line_number"], 2);
            assert_eq!((&record["input"], &record["id"]), (&json!("q"), &json!(9)));
            let error = record["error"].as_str().expect("a text");
            assert!(error.contains(&format!("HTTP {status}")), "{error}");
            assert!(error.contains("look here"), "{error}");
            let text = String::from_utf8(place.read("errors.jsonl")).expect("UTF-8");
            let kept =
                r#""response":{"error":{"message":"look here","code":12345678901234567890}}"#;
            assert!(text.contains(kept), "{text}");
        }
    }
}

#[test]
fn a_success_that_is_not_json_is_retried_and_then_a_failure() {
    for body in ["<html>sorry</html>", "", "{\"a\":1", "{\"a\":1}{}"] {
        for runtime in runtimes() {
            let place = Place::new();
            let mock = scripted(move |_| Some(Scripted::json(200, body)));
            place.input(&[LINE]);
            run(&place, &batch_args(&mock, runtime, &["-a", "2"])).expect(3);
            assert_eq!(mock.stats().requests, 2, "{body:?} on {runtime}");
            let record = &place.records("errors.jsonl")[0];
            assert_eq!(record["error_kind"], "not_json", "{record}");
            assert_eq!(record["status_code"], 200);
            assert_eq!(record["attempts"], 2);
            match body {
                "" => assert!(record["response_text"].is_null(), "{record}"),
                _ => assert_eq!(record["response_text"], body),
            }
        }
    }
}

#[test]
fn a_long_text_is_cut_between_characters() {
    // 3 bytes each: 16 KiB falls into the middle of one.
    let text = "€".repeat(10_000);
    for runtime in runtimes() {
        let place = Place::new();
        let body = text.clone();
        let mock = scripted(move |_| Some(Scripted::json(400, &body)));
        place.input(&[LINE]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(3);
        let record = &place.records("errors.jsonl")[0];
        let kept = record["response_text"].as_str().expect("a text");
        assert_eq!(kept.len(), 16 * 1024 / 3 * 3);
        assert!(text.starts_with(kept));
    }
}

#[test]
fn a_retry_that_succeeds_is_a_success() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = crate::support::mock_with(|options| {
            options.fail_first_attempts = Some("2=500".parse().expect("valid"));
        });
        place.input(&[r#"{"input":"a"}"#, r#"{"input":"b"}"#]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(mock.stats().requests, 6);
        for record in place.records("out.jsonl") {
            assert_eq!(record["metadata"]["attempts"], 3, "{record}");
        }
    }
}

#[test]
fn an_answer_above_its_limit_is_a_failure() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|request| {
            let long = String::from_utf8_lossy(&request.body).contains("long");
            Some(Scripted::json(
                200,
                format!(
                    r#"{{"choices":[{{"text":"{}"}}]}}"#,
                    "x".repeat(if long { 9_000 } else { 900 })
                ),
            ))
        });
        place.input(&[r#"{"input":"long"}"#, r#"{"input":"short"}"#]);
        run(
            &place,
            &batch_args(&mock, runtime, &["--max-response-bytes", "4096"]),
        )
        .expect(3);
        assert_eq!(place.records("out.jsonl")[0]["input"], "short");
        let record = &place.records("errors.jsonl")[0];
        assert_eq!(
            (&record["input"], &record["error_kind"]),
            (&json!("long"), &json!("too_large"))
        );
        assert!(
            record["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty())
        );
    }
}

#[test]
fn a_redirect_is_a_failure_that_names_the_target() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = good_first(|| {
            Scripted::json(307, "{}").header("location", "https://elsewhere.example/v1")
        });
        place.input(&[FIRST, LINE]);
        run(&place, &batch_args(&mock, runtime, &["-a", "1", "-w", "1"])).expect(3);
        let record = &place.records("errors.jsonl")[0];
        assert_eq!(record["error_kind"], "redirect", "{record}");
        let error = record["error"].as_str().expect("a text");
        assert!(error.contains("https://elsewhere.example/v1"), "{error}");
    }
}

#[test]
fn an_attempt_that_takes_too_long_is_a_timeout() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
        place.input(&[LINE]);
        run(
            &place,
            &batch_args(&mock, runtime, &["-a", "1", "-t", "0.2"]),
        )
        .expect(3);
        let record = &place.records("errors.jsonl")[0];
        assert_eq!(record["error_kind"], "timeout", "{record}");
        assert!(record["status_code"].is_null());
    }
}

#[test]
fn ordinary_answers_are_successes() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&[LINE; 20]);
        run(&place, &batch_args(&mock, runtime, &[])).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 20);
    }
}
