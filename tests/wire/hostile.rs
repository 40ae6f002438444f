//! Servers that mean harm: to the terminal, to secrets that pass by them, to memory.

use std::io::Write;

use blaze_uring::mock::Scripted;
use serde_json::json;

use crate::batch::{Batch, answer_to, content};
use crate::servers::{Server, read_request, reply};
use crate::support::{Place, runtimes, scripted};

/// Colours, a title, a cleared screen, 8-bit controls, a carriage return that hides what came before
/// it, and letters that run backwards.
const HOSTILE: &str =
    "a\u{1b}[31mb\u{1b}]0;title\u{7}c\u{1b}[2Jd\u{9b}31me\rf\u{8}\u{8}g\u{202e}h\0i";

fn is_harmless(letter: char) -> bool {
    letter == '\n' || !(letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter))
}

/// In messages, unknown bodies, reasons, header values, protocol errors, redirects, streams.
#[test]
fn nothing_a_server_says_moves_the_cursor() {
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let error = json!({"error": {"message": HOSTILE, "code": HOSTILE}}).to_string();
            let length = HOSTILE.len();
            Some(match content(&request.body).as_str() {
                "message" => Scripted::json(400, error),
                "disabled" => Scripted::json(401, error),
                "text" => Scripted::raw(format!(
                    "HTTP/1.1 400 {}\r\ncontent-length: {length}\r\n\r\n{HOSTILE}",
                    "\u{9b}31m"
                )),
                "not HTTP" => Scripted::raw(format!("{HOSTILE}\r\n\r\n")),
                "a length" => Scripted::raw("HTTP/1.1 200 OK\r\ncontent-length: \u{9b}2J\r\n\r\n"),
                "chunks" => Scripted::raw(format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}\r\n",
                    HOSTILE.replace('\r', "")
                )),
                "location" => Scripted::json(307, "{}").header("location", "/\u{9b}31m/\u{202e}"),
                "request id" => {
                    Scripted::json(500, "{}").header("x-request-id", "\u{9b}31m\u{202e}")
                }
                "stream" => Scripted::raw(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {error}\n\n"
                ))
                .then_close(),
                other => Scripted::json(200, answer_to(other)),
            })
        });
        let names = [
            "message",
            "good",
            "text",
            "not HTTP",
            "a length",
            "chunks",
            "location",
            "request id",
            "good",
            "disabled",
        ];
        for form in [&["-v"][..], &["--json-logs", "-v"]] {
            let url = mock.url("/v1/chat/completions");
            let batch = Batch::chat(runtime, &url, names.map(str::to_owned));
            let mut batch = batch
                .with(&["--workers", "1", "--max-outage", "1"])
                .with(form);
            // The progress lines are wanted, too.
            let messages = json!([{"role": "user", "content": "stream"}]);
            let streamed = json!({"body": {"stream": true, "model": "m", "messages": messages}});
            batch.lines.insert(0, streamed.to_string());
            let outcome = batch.attempt(Place::new(), |_| {});
            let said = outcome.run.stdout + &outcome.run.stderr;
            assert!(said.contains("31m"), "{runtime}: it is told: {said}");
            let harm = said.chars().find(|&letter| !is_harmless(letter));
            assert_eq!(harm, None, "{runtime}: {said:?}");
        }
    }
}

/// Keys that a line brings along itself, in any way a server can repeat them.
#[test]
fn an_echoed_key_of_a_line_is_struck_out() {
    const KEY: &str = "sk-of-this/line+0123456789";
    for runtime in runtimes() {
        let mock = scripted(|request| {
            let sent = request.headers.iter().any(|(_, value)| value.contains(KEY));
            let escaped = KEY.replace('/', "\\/").replace('+', "\\u002b");
            Some(match content(&request.body).as_str() {
                _ if !sent => Scripted::json(500, "{}"),
                "json" => Scripted::json(
                    400,
                    json!({"error": {"message": format!("bad key {KEY}")}}).to_string(),
                ),
                "escaped" => Scripted::json(
                    400,
                    format!(r#"{{"error":{{"message":"bad key {escaped}"}}}}"#),
                ),
                // Deep enough for the key to be cut in the middle.
                "cut" => Scripted::json(400, format!("{}{KEY}", "x".repeat(180))),
                _ => Scripted::raw(format!("{KEY}\r\n\r\n")),
            })
        });
        let mut batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), []);
        batch.lines = ["json", "escaped", "cut", "not HTTP"]
            .map(|content| {
                let messages = json!([{"role": "user", "content": content}]);
                json!({
                    "headers": {"x-api-key": KEY, "x-team": "search"},
                    "body": {"model": "m", "messages": messages},
                })
                .to_string()
            })
            .to_vec();
        let outcome = batch.with(&["--json-logs", "-v"]).run();
        let records = String::from_utf8(outcome.place.read("errors.jsonl")).expect("UTF-8");
        let all = records + &outcome.run.stdout + &outcome.run.stderr;
        assert_eq!(all.matches("bad key ***").count() % 2, 0, "{all}");
        assert!(all.contains("bad key ***"), "{runtime}: {all}");
        for part in [KEY, "sk-of-this", "of-this\\/line"] {
            assert!(!all.contains(part), "{runtime}: {part} in {all}");
        }
        outcome.run.expect(3);
    }
}

/// What no option, header or model name may turn into a second request or another host.
#[test]
fn nothing_in_a_line_breaks_out_of_its_request() {
    const SMUGGLED: &str = "x\r\nx-smuggled: 1\r\n\r\nPOST /evil HTTP/1.1\r\n";
    let lines = [
        json!({"body": {"messages": []}, "headers": {"x-a": SMUGGLED}}),
        json!({"body": {"messages": []}, "headers": {SMUGGLED: "a"}}),
        json!({"body": {"messages": []}, "headers": {"host": "evil.example"}}),
        json!({"body": {"messages": []}, "headers": {"content-length": "1"}}),
        json!({"body": {"messages": []}, "headers": {"Transfer-Encoding": "chunked"}}),
        json!({"custom_id": "a", "url": "//evil.example/v1", "body": {}}),
        json!({"custom_id": "a", "url": "http://evil.example/v1", "body": {}}),
        json!({"custom_id": "a", "url": format!("/v1 HTTP/1.1\r\n{SMUGGLED}"), "body": {}}),
        json!({"custom_id": "a", "url": "/\\evil.example/v1", "body": {}}),
    ];
    for runtime in runtimes() {
        let mock =
            scripted(|request| Some(Scripted::json(200, answer_to(&content(&request.body)))));
        let mut batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), []);
        batch.lines = lines.iter().map(ToString::to_string).collect();
        let (run, place) = batch
            .with(&["--format", "blaze"])
            .attempt_raw(Place::new(), |_| {});
        assert_eq!(mock.stats().requests, 0, "{runtime}: {run:?}");
        let kinds = place.records("errors.jsonl");
        assert_eq!(kinds.len(), lines.len(), "{runtime}");
        for record in kinds {
            assert_eq!(record["error_kind"], "invalid_input", "{runtime}: {record}");
        }
        run.expect(3);

        // Fit to be sent, and a part of a path on Azure: it stays there.
        let mut batch = Batch::chat(runtime, &mock.url(""), []);
        batch.endpoint["provider"] = "azure".into();
        batch.endpoint["api_key"] = "k".into();
        let models = [
            "../../evil",
            "a/b?c#d",
            "a b\r\nx-smuggled: 1",
            "%2e%2e/evil",
        ];
        let line = |model: &&str| json!({"body": {"model": model, "messages": []}}).to_string();
        batch.lines = models.iter().map(line).collect();
        batch.run();
        let seen = mock.requests();
        for request in &seen {
            let rest = request.target.strip_prefix("/openai/deployments/");
            let (deployment, rest) = rest.and_then(|rest| rest.split_once('/')).expect("a path");
            assert!(!deployment.contains(['?', '#', ' ']), "{}", request.target);
            assert!(rest.starts_with("chat/completions"), "{}", request.target);
            assert!(request.headers.iter().all(|(name, _)| name != "x-smuggled"));
        }
    }
}

/// Bodies that never end, in every framing that allows it: what is kept stays within the cap.
#[cfg(unix)]
#[test]
fn an_endless_body_costs_no_more_than_its_cap() {
    /// The largest of all children of this process so far, tests at the same time included.
    const RESIDENT_KIB_MAX: i64 = 500 << 10;
    for runtime in runtimes() {
        let server = Server::start(|_, mut stream| {
            while let Some((_, body)) = read_request(&mut stream) {
                let content = content(&body);
                let (head, piece) = match content.as_str() {
                    "chunks" => ("transfer-encoding: chunked\r\n", "10000\r\n"),
                    "close" => ("", ""),
                    _ => {
                        reply(&mut stream, 200, &answer_to(&content));
                        continue;
                    }
                };
                let tail = if piece.is_empty() { "" } else { "\r\n" };
                let piece = format!("{piece}{}{tail}", " ".repeat(0x10000));
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n");
                while stream.write_all(piece.as_bytes()).is_ok() {}
                return;
            }
        });
        let contents = ["chunks", "good", "close", "good"].map(str::to_owned);
        let batch = Batch::chat(runtime, &server.url("/v1/chat/completions"), contents);
        let args = [
            "--workers",
            "4",
            "--max-response-bytes",
            "16MiB",
            "--timeout",
            "50",
        ];
        let outcome = batch.with(&args).run();
        for number in [1, 3] {
            assert_eq!(outcome.failure(number).0, "too_large", "{runtime}");
            assert_eq!(outcome.answer(number + 1)["id"], "good", "{runtime}");
        }
        outcome.run.expect(3);
        let resident = largest_child_kib();
        assert!(resident < RESIDENT_KIB_MAX, "{runtime}: {resident} KiB");
    }
}

/// The most memory that a child of this process had, of those that have ended.
#[cfg(unix)]
fn largest_child_kib() -> i64 {
    // SAFETY: zeros are a valid value of this struct of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call only fills in the struct that is passed.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    assert_eq!(result, 0, "the system keeps count");
    usage.ru_maxrss
}
