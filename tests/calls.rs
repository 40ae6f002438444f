//! `Client` against the trial endpoint, on both runtimes by the same table: what arrives there,
//! what comes back, and that every call ends.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use blaze_uring::calls::{CallError, CallOptions, Completion};
use blaze_uring::config::{Price, RequestConfig, RetryConfig, RuntimeChoice};
use blaze_uring::error::ErrorKind;
use blaze_uring::metrics::Availability;
use blaze_uring::mock::{Mock, MockOptions, Scripted, SeenRequest};
use blaze_uring::runtime::uring_available;
use blaze_uring::{Client, Config, EndpointConfig};
use serde_json::{Map, Value, json};

/// Far above what any call here takes on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// Runs `check` on every runtime there is, and fails if it hangs.
fn on_both(check: fn(RuntimeChoice)) {
    let mut runtimes = vec![RuntimeChoice::Tokio];
    if uring_available().is_ok() {
        runtimes.push(RuntimeChoice::Uring);
    }
    for runtime in runtimes {
        let (done, over) = mpsc::channel();
        let thread = thread::spawn(move || {
            check(runtime);
            done.send(()).ok();
        });
        match over.recv_timeout(LONG * 2) {
            Ok(()) => thread.join().expect("it has ended well"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let panic = thread.join().expect_err("it has not ended well");
                std::panic::resume_unwind(panic);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{runtime:?}: it hangs"),
        }
    }
}

fn mock(options: MockOptions) -> Mock {
    Mock::start(MockOptions {
        record_requests: true,
        ..options
    })
    .expect("the trial endpoint starts")
}

/// A trial endpoint that answers the `n`th request (from 0) by `answer`.
fn scripted(
    answer: impl Fn(u64, &SeenRequest) -> Option<Scripted> + Send + Sync + 'static,
) -> Mock {
    let count = AtomicU64::new(0);
    mock(MockOptions {
        script: Some(Arc::new(move |request: &SeenRequest| {
            answer(count.fetch_add(1, Ordering::Relaxed), request)
        })),
        ..MockOptions::default()
    })
}

fn endpoint(mock: &Mock) -> EndpointConfig {
    EndpointConfig {
        url: mock.url("/v1"),
        model: Some("trial".to_owned()),
        ..EndpointConfig::default()
    }
}

fn config(runtime: RuntimeChoice, endpoints: Vec<EndpointConfig>) -> Config {
    Config {
        endpoints,
        runtime,
        retry: RetryConfig {
            initial_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(5),
            ..RetryConfig::default()
        },
        ..Config::default()
    }
}

fn client(runtime: RuntimeChoice, mocks: &[&Mock]) -> Client {
    let endpoints = mocks.iter().map(|mock| endpoint(mock)).collect();
    Client::new(config(runtime, endpoints)).expect("a client")
}

fn body(request: &SeenRequest) -> Value {
    serde_json::from_slice(&request.body).expect("the body is JSON")
}

fn answer(text: &str) -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    })
    .to_string()
}

/// Waits for any future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_call_blocks_is_waited_for_or_awaited() {
    on_both(|runtime| {
        let mock = mock(MockOptions::default());
        let client = client(runtime, &[&mock]);
        let blocking = client.chat_completion("one").expect("an answer");
        assert!(blocking.text().is_some_and(|text| !text.is_empty()));
        assert_eq!((blocking.status, blocking.attempts), (200, 1));
        assert!(blocking.tokens.prompt > 0 && blocking.tokens.completion > 0);
        let handle = client.submit_chat_completion([("system", "short"), ("user", "two")]);
        let waited = handle.wait(LONG).expect("in time").expect("an answer");
        assert_eq!(handle.wait(Duration::ZERO), Some(Ok(waited)));
        block_on(client.submit_chat_completion(json!("three"))).expect("an answer");

        let bodies: Vec<Value> = mock.requests().iter().map(body).collect();
        let user = |text: &str| json!({"role": "user", "content": text});
        assert_eq!(
            bodies[0],
            json!({"messages": [user("one")], "model": "trial"})
        );
        assert_eq!(bodies[1]["messages"][0]["role"], "system");
        assert_eq!(bodies[2]["messages"], json!([user("three")]));
        let targets: Vec<String> = mock
            .requests()
            .into_iter()
            .map(|seen| seen.target)
            .collect();
        assert_eq!(targets, ["/v1/chat/completions"; 3]);
        assert_eq!(mock.stats().connections, 1, "the connection is kept alive");
    });
}

#[test]
fn options_of_a_call_reach_the_server() {
    on_both(|runtime| {
        let mock = mock(MockOptions::default());
        let configured = EndpointConfig {
            temperature: Some(1.0),
            max_completion_tokens: Some(9),
            headers: BTreeMap::from([("x-team".to_owned(), "all".into())]),
            ..endpoint(&mock)
        };
        let client = Client::new(config(runtime, vec![configured])).expect("a client");
        let options = CallOptions {
            model: Some("other".to_owned()),
            temperature: Some(0.25),
            max_completion_tokens: Some(3),
            headers: BTreeMap::from([("x-team".to_owned(), "mine".to_owned())]),
            body: Map::from_iter([("seed".to_owned(), json!(7))]),
            ..CallOptions::default()
        };
        client
            .chat_completion_with("hi", &options)
            .expect("an answer");
        client.chat_completion("hi").expect("an answer");
        let seen = mock.requests();
        let messages = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(
            body(&seen[0]),
            json!({"messages": messages, "model": "other", "temperature": 0.25, "max_completion_tokens": 3, "seed": 7})
        );
        assert_eq!(seen[0].header("x-team"), Some("mine"));
        assert_eq!(
            body(&seen[1]),
            json!({"messages": messages, "model": "trial", "temperature": 1, "max_completion_tokens": 9})
        );
        assert_eq!(seen[1].header("x-team"), Some("all"));
    });
}

#[test]
fn a_call_is_tried_again_where_that_can_help() {
    on_both(|runtime| {
        let mock = scripted(|n, _| match n {
            0 => Some(Scripted::json(500, r#"{"error":{"message":"oops"}}"#)),
            1 => Some(Scripted::json(429, "{}").header("retry-after-ms", "20")),
            2 => Some(Scripted::json(200, answer("at last"))),
            _ => Some(Scripted::json(
                400,
                r#"{"error":{"message":"no such field"}}"#,
            )),
        });
        let client = client(runtime, &[&mock]);
        let completion = client.chat_completion("hi").expect("an answer");
        assert_eq!(
            (completion.text(), completion.attempts),
            (Some("at last"), 2),
            "the refusal spends none"
        );
        let error = client.chat_completion("hi").unwrap_err();
        assert_eq!(
            (error.kind, error.status, error.attempts),
            (ErrorKind::BadRequest, Some(400), 1)
        );
        assert!(error.message.contains("no such field"), "{error}");
        assert!(
            error
                .response_text
                .is_some_and(|text| text.contains("no such field"))
        );
        assert_eq!(mock.stats().requests, 4);

        let report = client.report();
        assert_eq!((report.succeeded, report.failed, report.retries), (1, 1, 2));
        let endpoint = &report.endpoints[0];
        assert_eq!(endpoint.counts.attempts, 4);
        assert_eq!(endpoint.counts.failures.get(ErrorKind::ServerError), 1);
        assert_eq!(endpoint.counts.failures.get(ErrorKind::RateLimited), 1);
        let kinds: Vec<ErrorKind> = endpoint.samples.iter().map(|sample| sample.kind).collect();
        assert_eq!(
            kinds,
            [
                ErrorKind::ServerError,
                ErrorKind::RateLimited,
                ErrorKind::BadRequest
            ]
        );
        assert!(
            report.prometheus().contains("attempts"),
            "{}",
            report.prometheus()
        );
    });
}

#[test]
fn a_refused_key_disables_its_endpoint_and_the_call_goes_elsewhere() {
    on_both(|runtime| {
        let refusing =
            scripted(|_, _| Some(Scripted::json(401, r#"{"error":{"message":"bad key"}}"#)));
        let answering = mock(MockOptions::default());
        let client = client(runtime, &[&refusing, &answering]);
        for _ in 0..4 {
            client.chat_completion("hi").expect("an answer");
        }
        assert_eq!(refusing.stats().requests, 1);
        let report = client.report();
        assert_eq!(report.endpoints[0].state, Availability::Disabled);
        assert!(
            report.endpoints[0]
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("bad key"))
        );
        assert_eq!(report.endpoints[1].state, Availability::Healthy);
    });
}

#[test]
fn with_no_endpoint_left_calls_fail_and_do_not_wait() {
    on_both(|runtime| {
        let mock = scripted(|_, _| Some(Scripted::json(401, r#"{"error":{"message":"bad key"}}"#)));
        let client = client(runtime, &[&mock]);
        for _ in 0..2 {
            let error = client.chat_completion("hi").unwrap_err();
            assert_eq!(error.kind, ErrorKind::Auth);
            assert!(error.message.contains("bad key"), "{error}");
        }
        assert_eq!(mock.stats().requests, 1);
    });
}

#[test]
fn a_cooldown_shows_in_the_report_and_patience_ends_the_wait() {
    on_both(|runtime| {
        let mock = scripted(|_, _| Some(Scripted::json(429, "{}").header("retry-after", "3000")));
        let client = client(runtime, &[&mock]);
        let impatient = CallOptions {
            give_up_after: Some(Duration::from_millis(300)),
            ..CallOptions::default()
        };
        let error = client.chat_completion_with("hi", &impatient).unwrap_err();
        assert_eq!(
            (error.kind, error.status),
            (ErrorKind::RateLimited, Some(429))
        );
        let report = client.report();
        let endpoint = &report.endpoints[0];
        assert_eq!(endpoint.state, Availability::Cooling);
        assert!(
            endpoint
                .cooldown
                .is_some_and(|left| left > Duration::from_secs(2900))
        );
        // Never sent at all: the cooldown is obeyed.
        let error = client.chat_completion_with("hi", &impatient).unwrap_err();
        assert_eq!((error.kind, error.status), (ErrorKind::Timeout, None));
        assert_eq!(mock.stats().requests, 1);
    });
}

#[test]
fn an_attempt_that_takes_too_long_is_a_timeout() {
    on_both(|runtime| {
        let mock = mock(MockOptions {
            latency: "1h".parse().expect("a latency"),
            ..MockOptions::default()
        });
        let client = client(runtime, &[&mock]);
        let hasty = CallOptions {
            timeout: Some(Duration::from_millis(100)),
            max_attempts: Some(2),
            ..CallOptions::default()
        };
        let error = client.chat_completion_with("hi", &hasty).unwrap_err();
        assert_eq!((error.kind, error.attempts), (ErrorKind::Timeout, 2));
        assert_eq!(mock.stats().requests, 2);
    });
}

#[test]
fn caps_and_rates_hold() {
    on_both(|runtime| {
        let mock = mock(MockOptions {
            latency: "20ms".parse().expect("a latency"),
            ..MockOptions::default()
        });
        let capped = EndpointConfig {
            max_concurrent: 3,
            ..endpoint(&mock)
        };
        let client = Client::new(Config {
            request: RequestConfig {
                rate_limit: blaze_uring::config::Rate::PerSecond(100.0),
                ..RequestConfig::default()
            },
            ..config(runtime, vec![capped])
        })
        .expect("a client");
        let handles: Vec<_> = (0..40)
            .map(|n| client.submit_chat_completion(format!("{n}")))
            .collect();
        for handle in handles {
            handle.wait(LONG).expect("in time").expect("an answer");
        }
        let stats = mock.stats();
        assert_eq!((stats.requests, stats.in_flight_max), (40, 3));
        // 40 slots, 10 ms apart: the last is 390 ms after the first, less one late slot.
        let arrived: Vec<Duration> = mock.requests().iter().map(|seen| seen.arrived).collect();
        let span = *arrived.iter().max().expect("some") - *arrived.iter().min().expect("some");
        assert!(span > Duration::from_millis(350), "{span:?}");
    });
}

/// The runtime and the endpoint for [`few_descriptors_in_a_child`].
const CHILD: [&str; 2] = ["BLAZE_TEST_FEW_RUNTIME", "BLAZE_TEST_FEW_URL"];

/// Not a test of its own: what [`few_descriptors_mean_fewer_calls_at_once_not_failed_ones`] runs.
#[test]
fn few_descriptors_in_a_child() {
    let [Ok(runtime), Ok(url)] = CHILD.map(std::env::var) else {
        return;
    };
    let endpoint = EndpointConfig {
        url,
        max_concurrent: 1000,
        ..EndpointConfig::default()
    };
    let mut config = config(runtime.parse().expect("a runtime"), vec![endpoint]);
    config.request.workers = 1000;
    config.retry.max_attempts = 1;
    let client = Client::new(config).expect("a client");
    let calls: Vec<_> = (0..300)
        .map(|_| client.submit_chat_completion("hi"))
        .collect();
    for call in calls {
        call.wait(LONG).expect("in time").expect("an answer");
    }
}

#[cfg(unix)]
#[test]
fn few_descriptors_mean_fewer_calls_at_once_not_failed_ones() {
    on_both(|runtime| {
        let runtime = match runtime {
            RuntimeChoice::Uring => "uring",
            _ => "tokio",
        };
        let mock = mock(MockOptions {
            latency: "20ms".parse().expect("a latency"),
            ..MockOptions::default()
        });
        // A client keeps 80 descriptors for itself: 40 connections are left.
        let script = "ulimit -n 120; exec \"$0\" --exact few_descriptors_in_a_child --nocapture";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().expect("this test"))
            .envs(CHILD.into_iter().zip([runtime, mock.url("/v1").as_str()]))
            .output()
            .expect("the child runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{runtime}: {said}");
        let stats = mock.stats();
        assert_eq!(stats.statuses.get(&200), Some(&300), "{runtime}");
        let most = stats.in_flight_max;
        assert!((2..=40).contains(&most), "{runtime}: {most} at once");
    });
}

#[test]
fn a_minute_limit_holds_calls_back() {
    on_both(|runtime| {
        let mock = mock(MockOptions::default());
        // One at once, the next after about a second.
        let limited = EndpointConfig {
            rpm_limit: Some(60),
            ..endpoint(&mock)
        };
        let client = Client::new(config(runtime, vec![limited])).expect("a client");
        let first = client.submit_chat_completion("one");
        let second = client.submit_chat_completion("two");
        for handle in [first, second] {
            handle.wait(LONG).expect("in time").expect("an answer");
        }
        let seen = mock.requests();
        let gap = seen[1].arrived - seen[0].arrived;
        assert!(gap > Duration::from_millis(800), "{gap:?}");
    });
}

/// What a server that speaks TLS says to plain HTTP: a handshake failure.
const ALERT: &str = "\x15\x03\x01\0\x02\x02\x28";

#[test]
fn a_wrong_scheme_is_one_calls_failure_where_another_was_answered_well() {
    on_both(|runtime| {
        let mock = scripted(|nth, _| {
            Some(match nth {
                0 | 2 => Scripted::json(200, answer("fine")),
                _ => Scripted::raw(ALERT).then_close(),
            })
        });
        let client = client(runtime, &[&mock]);
        client.chat_completion("hi").expect("an answer");
        let again = client.chat_completion("hi").expect("an answer");
        assert_eq!(again.attempts, 2, "{runtime:?}");
        // However often: it costs attempts, and the endpoint stays.
        let error = client.chat_completion("hi").unwrap_err();
        assert_eq!((error.kind, error.attempts), (ErrorKind::Tls, 3));
        assert!(error.message.contains("write https://"), "{error}");
        assert_eq!(client.report().endpoints[0].state, Availability::Healthy);
        assert_eq!(mock.stats().requests, 6, "{runtime:?}");
    });
}

#[test]
fn a_wrong_scheme_ends_every_call_where_nothing_was_answered_well() {
    on_both(|runtime| {
        let mock = scripted(|_, _| Some(Scripted::raw(ALERT).then_close()));
        let client = client(runtime, &[&mock]);
        for _ in 0..2 {
            let error = client.chat_completion("hi").unwrap_err();
            assert!(error.message.contains("write https://"), "{error}");
        }
        assert_eq!(client.report().endpoints[0].state, Availability::Disabled);
        assert_eq!(mock.stats().requests, 1, "{runtime:?}");
    });
}

#[test]
fn a_stream_is_handed_out_as_it_arrives() {
    on_both(|runtime| {
        let mock = mock(MockOptions::default());
        let client = client(runtime, &[&mock]);
        let (mut text, mut events) = (String::new(), 0);
        let completion = client
            .chat_completion_stream("tell me", &CallOptions::default(), |delta| {
                events += 1;
                text.push_str(delta.text().unwrap_or_default());
            })
            .expect("an answer");
        assert!(events > 1 && !text.is_empty());
        assert_eq!(completion.text(), Some(text.as_str()));
        assert!(completion.ttft.is_some());
        assert_eq!(body(&mock.requests()[0])["stream"], true);
    });
}

#[test]
fn deltas_are_the_events_of_the_answer_and_nothing_else() {
    on_both(|runtime| {
        let chunk = |text: &str, finish: &str| {
            format!(
                r#"data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}"#
            )
        };
        let whole = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"ab"},"finish_reason":"stop"}]}"#;
        let pings =
            "event: ping\ndata: 12:00\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n: wait\n\n";
        let ended = chunk("b", "\"stop\"");
        let started = chunk("a", "null");
        // What is sent, and how many deltas that is.
        let bodies = [
            (
                format!("{started}\n\n{pings}{ended}\n\ndata: [DONE]\n\n"),
                2,
            ),
            // The last event has no line end.
            (format!("{pings}{started}\n\n{pings}{ended}"), 2),
            (format!("{started}\n{ended}\ndata: [DONE]"), 2),
            // No stream came.
            (whole.to_owned(), 1),
        ];
        for kind in ["text/event-stream", "application/json"] {
            for (body, expect) in &bodies {
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                let mock = scripted(move |_, _| Some(Scripted::raw(answer.clone())));
                let client = client(runtime, &[&mock]);
                let (mut text, mut events) = (String::new(), 0);
                let completion = client
                    .chat_completion_stream("tell me", &CallOptions::default(), |delta| {
                        events += 1;
                        text.push_str(delta.text().unwrap_or_default());
                    })
                    .expect("an answer");
                assert_eq!((text.as_str(), events), ("ab", *expect), "{kind}, {body}");
                assert_eq!(completion.text(), Some("ab"), "{kind}, {body}");
                assert_eq!(completion.ttft.is_some(), *expect == 2, "{kind}, {body}");
            }
        }
    });
}

#[test]
fn deltas_come_before_the_end_and_a_broken_stream_is_not_sent_again() {
    on_both(|runtime| {
        let event = |text: &str| {
            let chunk = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
            format!("data: {chunk}\n\n")
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let first = format!("{head}{}", event("half"));
        // Closed without `[DONE]` once the caller has seen the first delta, a long time else.
        let mock = scripted(move |_, _| {
            Some(
                Scripted::raw(first.clone())
                    .then(Duration::from_millis(200), event(" an answer"))
                    .then_close(),
            )
        });
        let client = client(runtime, &[&mock]);
        let mut text = String::new();
        let error = client
            .chat_completion_stream("tell me", &CallOptions::default(), |delta| {
                text.push_str(delta.text().unwrap_or_default());
            })
            .unwrap_err();
        assert_eq!(text, "half an answer");
        assert_eq!((error.kind, error.attempts), (ErrorKind::Protocol, 1));
        assert_eq!(mock.stats().requests, 1);
    });
}

#[test]
fn closing_finishes_what_is_in_flight_and_fails_what_waits() {
    on_both(|runtime| {
        let mock = mock(MockOptions {
            latency: "300ms".parse().expect("a latency"),
            ..MockOptions::default()
        });
        let capped = EndpointConfig {
            max_concurrent: 1,
            ..endpoint(&mock)
        };
        let client = Client::new(config(runtime, vec![capped])).expect("a client");
        let flying = client.submit_chat_completion("one");
        while mock.stats().requests == 0 {
            thread::yield_now();
        }
        let waiting = client.submit_chat_completion("two");
        client.close();
        let outcome = |handle: blaze_uring::calls::Handle| -> Result<Completion, CallError> {
            handle
                .wait(Duration::ZERO)
                .expect("no call is open after close")
        };
        outcome(flying).expect("it was in flight");
        assert_eq!(outcome(waiting).unwrap_err().kind, ErrorKind::Cancelled);
        let late = client.submit_chat_completion("three");
        assert_eq!(outcome(late).unwrap_err().kind, ErrorKind::Cancelled);
        assert_eq!(mock.stats().requests, 1);
        assert_eq!(client.report().succeeded, 1, "the last report stays");
    });
}

#[test]
fn dropping_the_client_or_cancelling_ends_calls_that_hang() {
    on_both(|runtime| {
        let mock = mock(MockOptions {
            latency: "1h".parse().expect("a latency"),
            ..MockOptions::default()
        });
        let client = client(runtime, &[&mock]);
        let patient = CallOptions {
            timeout: Some(Duration::from_secs(3600)),
            ..CallOptions::default()
        };
        let one = client.submit_chat_completion_with("one", &patient);
        let two = client.submit_chat_completion_with("two", &patient);
        while mock.stats().requests < 2 {
            thread::yield_now();
        }
        assert_eq!(one.wait(Duration::from_millis(50)), None);
        one.cancel();
        let error = one.wait(LONG).expect("it was cancelled").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
        assert!(!two.is_finished());
        drop(client);
        let error = two
            .wait(Duration::ZERO)
            .expect("the client is gone")
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
    });
}

#[test]
fn calls_stop_at_the_cost_limit() {
    on_both(|runtime| {
        let mock = scripted(|_, _| Some(Scripted::json(200, answer("paid"))));
        let client = Client::new(Config {
            // 10 prompt and 5 completion tokens cost 2 dollars.
            prices: BTreeMap::from([(
                "trial".to_owned(),
                Price {
                    input: 100_000.0,
                    cached_input: None,
                    output: 200_000.0,
                },
            )]),
            max_cost: Some(3.0),
            ..config(runtime, vec![endpoint(&mock)])
        })
        .expect("a client");
        for _ in 0..2 {
            client.chat_completion("hi").expect("an answer");
        }
        let error = client.chat_completion("hi").unwrap_err();
        assert!(error.message.contains("max_cost"), "{error}");
        assert_eq!(mock.stats().requests, 2);
        assert!((client.report().cost_usd - 4.0).abs() < 1e-9);
    });
}

#[test]
fn a_client_that_cannot_work_does_not_start() {
    let error = Client::new(Config::default()).err().expect("no endpoint");
    assert!(error.to_string().contains("endpoint"), "{error}");
}
