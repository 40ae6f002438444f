//! The trial endpoint over real sockets, seen by a small blocking client.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blaze_uring::mock::{
    FailAttempts, FailFirst, Latency, Mock, MockOptions, Outage, PathStats, Probability,
    RateChange, Scripted, Stats, WaitHint, identity,
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

fn start(options: MockOptions) -> Mock {
    Mock::start(options).unwrap()
}

fn always() -> Probability {
    Probability::new(1.0).unwrap()
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A response, and how far its body came.
#[derive(Debug, PartialEq)]
struct Response {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// How the connection ended in the middle of the body, if it did.
    broken: Option<ErrorKind>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A keep-alive connection.
struct Client<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: mock\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
    }

    fn post(&mut self, target: &str, body: &str) -> Response {
        self.send("POST", target, "", body);
        self.receive().unwrap()
    }

    fn get(&mut self, target: &str) -> Response {
        self.send("GET", target, "", "");
        self.receive().unwrap()
    }

    /// The end of the stream is an error, `UnexpectedEof`.
    fn read_more(&mut self) -> Result<(), ErrorKind> {
        let mut bytes = [0; 65536];
        let count = self.stream.read(&mut bytes).map_err(|error| error.kind())?;
        self.buffer.extend_from_slice(&bytes[..count]);
        if count > 0 {
            Ok(())
        } else {
            Err(ErrorKind::UnexpectedEof)
        }
    }

    /// Errors are those before the end of the head.
    fn receive(&mut self) -> Result<Response, ErrorKind> {
        self.receive_to("POST")
    }

    fn receive_to(&mut self, method: &str) -> Result<Response, ErrorKind> {
        let head_end = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.read_more()?;
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
            broken: None,
        };
        if method == "HEAD" || status == 100 {
            return Ok(response);
        }
        if response.header("transfer-encoding") == "chunked" {
            response.broken = self.receive_chunks(&mut response.body).err();
        } else {
            // Without a length the body goes on to the end of the connection.
            let length: Option<usize> = response.header("content-length").parse().ok();
            while self.buffer.len() < length.unwrap_or(usize::MAX) && response.broken.is_none() {
                response.broken = self.read_more().err();
            }
            response.broken = response
                .broken
                .filter(|&kind| length.is_some() || kind != ErrorKind::UnexpectedEof);
            response.body = self
                .buffer
                .drain(..length.unwrap_or(usize::MAX).min(self.buffer.len()))
                .collect();
        }
        Ok(response)
    }

    fn receive_chunks(&mut self, body: &mut Vec<u8>) -> Result<(), ErrorKind> {
        loop {
            let Some(line) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") else {
                self.read_more()?;
                continue;
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&self.buffer[..line]).unwrap(), 16)
                    .unwrap();
            while self.buffer.len() < line + 2 + size + 2 {
                self.read_more()?;
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + size + 4);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// What the next read says: the end, an error, or bytes.
    fn next_read(&mut self) -> Result<usize, ErrorKind> {
        let mut bytes = [0; 16];
        self.stream.read(&mut bytes).map_err(|error| error.kind())
    }
}

/// One request on a connection of its own.
fn once(mock: &Mock, target: &str, body: &str) -> Response {
    Client::connect(mock.address()).post(target, body)
}

/// Waits for something the serving thread does on its own.
fn await_stats(mock: &Mock, what: &str, holds: impl Fn(&Stats) -> bool) -> Stats {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let stats = mock.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "{what} never came: {stats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn answers_repeat_on_every_connection_thread_and_run() {
    let first = once(&start(MockOptions::default()), CHAT, HELLO);
    assert_eq!(first.status, 200);
    let mock = start(MockOptions {
        threads: 3,
        ..MockOptions::default()
    });
    for prefix in ["", "/a/b", "/openai"] {
        let mut client = Client::connect(mock.address());
        for _ in 0..3 {
            assert_eq!(client.post(&format!("{prefix}{CHAT}"), HELLO), first);
        }
    }
    let id = format!("chatcmpl-{:016x}", identity(0, HELLO.as_bytes()));
    assert_eq!(first.json()["id"], id);
    let other = once(
        &start(MockOptions {
            seed: 1,
            ..MockOptions::default()
        }),
        CHAT,
        HELLO,
    );
    assert_ne!(other.json()["choices"], first.json()["choices"]);
}

#[test]
fn every_api_answers_plain_and_streamed() {
    let mock = start(MockOptions::default());
    let mut client = Client::connect(mock.address());
    for (target, fields, object, last_event) in [
        (
            CHAT,
            r#""messages":[{"role":"user","content":"a"}]"#,
            "chat.completion",
            "data: [DONE]",
        ),
        (
            "/openai/deployments/d/chat/completions?api-version=2025-01-01-preview",
            r#""messages":[{"role":"user","content":"a"}]"#,
            "chat.completion",
            "data: [DONE]",
        ),
        (
            "/v1/completions",
            r#""prompt":"a""#,
            "text_completion",
            "data: [DONE]",
        ),
        (
            "/v1/responses",
            r#""input":"a""#,
            "response",
            "event: response.completed",
        ),
        (
            "/v1/messages",
            r#""messages":[1],"max_tokens":100"#,
            "message",
            "event: message_stop",
        ),
        (
            "/v1/embeddings",
            r#""input":"a","dimensions":8"#,
            "list",
            "",
        ),
    ] {
        let plain = client.post(target, &format!("{{{fields}}}"));
        assert_eq!(
            (plain.status, plain.header("content-type")),
            (200, "application/json"),
            "{target}"
        );
        let document = plain.json();
        let kind = document.get("object").or(document.get("type"));
        assert_eq!(kind, Some(&json!(object)), "{target}");
        if last_event.is_empty() {
            continue;
        }
        let streamed = client.post(target, &format!("{{{fields},\"stream\":true}}"));
        assert_eq!(streamed.broken, None, "{target}");
        assert_eq!(
            streamed.header("content-type"),
            "text/event-stream; charset=utf-8"
        );
        let text = String::from_utf8(streamed.body).unwrap();
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with(last_event), "{target}: {last}");
    }
    let azure = client.post(
        "/openai/deployments/d/chat/completions?api-version=1",
        r#"{"messages":[1]}"#,
    );
    assert_eq!(azure.json()["model"], "d");
}

#[test]
fn what_is_no_request_is_told_so() {
    let mock = start(MockOptions::default());
    let mut client = Client::connect(mock.address());
    for (method, target, body, status, code) in [
        ("POST", CHAT, "{\"messages\":", 400, Value::Null),
        ("POST", CHAT, r#"{"messages":[]}"#, 400, Value::Null),
        ("POST", "/v1/nothing", "{}", 404, json!("not_found")),
        (
            "POST",
            "/openai/deployments/d/chat/completions",
            HELLO,
            404,
            json!("not_found"),
        ),
        ("GET", CHAT, "", 405, Value::Null),
        ("POST", "/v1/models", "", 405, Value::Null),
    ] {
        client.send(method, target, "", body);
        let response = client.receive().unwrap();
        assert_eq!(response.status, status, "{method} {target} {body}");
        let error = &response.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &code),
            "{method} {target}"
        );
    }
    let anthropic = client.post("/v1/messages", r#"{"messages":[]}"#).json();
    assert_eq!(
        (&anthropic["type"], &anthropic["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
}

#[test]
fn pages_answer_get_and_head() {
    let mock = start(MockOptions {
        auth: Some("k".to_owned()),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    assert_eq!(client.get("/health").json(), json!({"status": "ok"}));
    client.send("GET", "/v1/models", "x-api-key: k\r\n", "");
    assert_eq!(client.receive().unwrap().json()["data"][0]["id"], "mock-1");
    client.send("HEAD", "/health", "", "");
    let head = client.receive_to("HEAD").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, "15"));
    let stats: Stats = serde_json::from_value(client.get("/stats").json()).unwrap();
    assert_eq!(stats, mock.stats());
    assert_eq!((stats.requests, stats.connections), (3, 1));
}

#[test]
fn requests_may_be_chunked_pipelined_and_announced() {
    let mock = start(MockOptions {
        record_requests: true,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let expect = client.post(CHAT, HELLO);
    let (left, right) = HELLO.split_at(10);
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{left}\r\n{:x};x=y\r\n{right}\r\n0\r\nt: u\r\n\r\n",
        left.len(),
        right.len()
    );
    client
        .stream
        .write_all(format!("{chunked}{chunked}").as_bytes())
        .unwrap();
    assert_eq!(client.receive().unwrap(), expect);
    assert_eq!(client.receive().unwrap(), expect);

    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        HELLO.len()
    );
    client.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap().status, 100);
    client.stream.write_all(HELLO.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap(), expect);

    let requests = mock.requests();
    assert_eq!(requests.len(), 4);
    assert!(
        requests
            .iter()
            .all(|request| request.body == HELLO.as_bytes() && request.connection == 0)
    );
    assert_eq!(
        (requests[0].method.as_str(), requests[0].target.as_str()),
        ("POST", CHAT)
    );
    assert_eq!(
        requests[0].header("Content-Length"),
        Some(HELLO.len().to_string().as_str())
    );
    assert!(requests.is_sorted_by_key(|request| request.arrived));
}

#[test]
fn a_connection_ends_when_the_client_says_so() {
    let mock = start(MockOptions::default());
    for request in [
        format!(
            "POST {CHAT} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        ),
        format!(
            "POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        ),
    ] {
        let mut client = Client::connect(mock.address());
        client.stream.write_all(request.as_bytes()).unwrap();
        let response = client.receive().unwrap();
        assert_eq!(
            (response.status, response.header("connection")),
            (200, "close")
        );
        assert_eq!(client.next_read(), Ok(0));
    }
    // HTTP/1.0 knows no chunks.
    let streamed = HELLO.replace("{\"model\"", "{\"stream\":true,\"model\"");
    let mut client = Client::connect(mock.address());
    let head = format!(
        "POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n",
        streamed.len()
    );
    client
        .stream
        .write_all(format!("{head}{streamed}").as_bytes())
        .unwrap();
    let response = client.receive().unwrap();
    assert_eq!(response.header("transfer-encoding"), "");
    assert!(response.body.ends_with(b"data: [DONE]\n\n"));
}

#[test]
fn a_broken_request_is_answered_and_closed() {
    let mock = start(MockOptions::default());
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 999999999\r\n\r\n".to_owned(),
            413,
        ),
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(70_000)),
            431,
        ),
    ] {
        let mut client = Client::connect(mock.address());
        client.stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(client.receive().unwrap().status, status);
        assert_eq!(client.next_read(), Ok(0));
    }
}

#[test]
fn keys_are_checked_wherever_they_come() {
    let mock = start(MockOptions {
        auth: Some("sk-1".to_owned()),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer sk-2\r\n", 401),
        ("authorization: sk-1\r\n", 401),
        ("authorization: Bearer sk-1\r\n", 200),
        ("api-key: sk-1\r\n", 200),
        ("X-Api-Key: sk-1\r\n", 200),
    ] {
        client.send("POST", CHAT, header, HELLO);
        assert_eq!(client.receive().unwrap().status, status, "{header}");
    }
    assert_eq!(mock.stats().faults["unauthorized"], 3);
}

#[test]
fn failures_come_first_when_told() {
    let options = MockOptions {
        fail_first: Some(FailFirst {
            count: 2,
            statuses: vec![503, 429],
        }),
        retry_after: Some(ms(1500)),
        ..MockOptions::default()
    };
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    let answers = [1, 2, 3].map(|_| client.post(CHAT, HELLO));
    assert_eq!(
        answers.each_ref().map(|answer| answer.status),
        [503, 429, 200]
    );
    assert_eq!(
        answers
            .each_ref()
            .map(|answer| answer.header("retry-after")),
        ["1.5", "1.5", ""]
    );
    assert_eq!(answers[1].json()["error"]["code"], "rate_limit_exceeded");

    let first_attempts = Some(FailAttempts {
        attempts: 1,
        status: 502,
    });
    let mock = start(MockOptions {
        fail_first_attempts: first_attempts,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let other = HELLO.replace("hello", "other");
    let statuses = [HELLO, &other, HELLO, &other, HELLO].map(|body| client.post(CHAT, body).status);
    assert_eq!(statuses, [502, 502, 200, 200, 200]);
    assert_eq!(mock.stats().statuses, BTreeMap::from([(200, 3), (502, 2)]));
}

#[test]
fn error_rates_are_met_and_replay() {
    let run = || {
        let options = MockOptions {
            error_rate: vec!["500=0.3".parse().unwrap()],
            ..MockOptions::default()
        };
        let mock = start(options);
        let mut client = Client::connect(mock.address());
        (0..400)
            .map(|line| {
                client
                    .post(
                        CHAT,
                        &HELLO.replace("hello", &format!("line {}", line % 200)),
                    )
                    .status
            })
            .collect::<Vec<_>>()
    };
    let statuses = run();
    assert_eq!(statuses, run());
    let failed = statuses.iter().filter(|&&status| status == 500).count();
    assert!((80..160).contains(&failed), "{failed}");
    // A second attempt is thrown anew.
    assert_ne!(statuses[..200], statuses[200..]);
}

#[test]
fn beyond_the_rate_limit_is_429_with_the_wait() {
    for (wait_hint, header) in [
        (WaitHint::Seconds, Some(("retry-after", 1..=1))),
        (WaitHint::Milliseconds, Some(("retry-after-ms", 1..=500))),
        (WaitHint::None, None),
    ] {
        let mock = start(MockOptions {
            rate_limit: Some(2.0),
            wait_hint,
            ..MockOptions::default()
        });
        let mut client = Client::connect(mock.address());
        let answers = [1, 2, 3].map(|_| client.post(CHAT, HELLO));
        assert_eq!(
            answers.each_ref().map(|answer| answer.status),
            [200, 200, 429]
        );
        for (answer, remaining) in answers.iter().zip(["1", "0", "0"]) {
            assert_eq!(answer.header("x-ratelimit-limit-requests"), "2");
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), remaining);
            assert!(answer.header("x-ratelimit-reset-requests").ends_with('s'));
        }
        let refused = &answers[2];
        let message = refused.json()["error"]["message"].to_string();
        assert_eq!(
            message.contains("try again in"),
            header.is_some(),
            "{message}"
        );
        if let Some((name, range)) = header {
            assert!(
                range.contains(&refused.header(name).parse::<u64>().unwrap()),
                "{refused:?}"
            );
        } else {
            assert!(
                !refused
                    .headers
                    .keys()
                    .any(|name| name.starts_with("retry-after"))
            );
        }
    }
    let mock = start(MockOptions {
        rate_limit: Some(2.0),
        ..MockOptions::default()
    });
    let answer = once(&mock, "/v1/messages", r#"{"messages":[1],"max_tokens":5}"#);
    assert_eq!(answer.header("anthropic-ratelimit-requests-remaining"), "1");
    let reset = answer.header("anthropic-ratelimit-requests-reset");
    assert!(reset.parse::<jiff::Timestamp>().is_ok(), "{reset}");
}

#[test]
fn the_rate_limit_follows_its_schedule() {
    let rate_limit_at = vec![RateChange {
        at: ms(200),
        limit: 0.0,
    }];
    let mock = start(MockOptions {
        rate_limit: Some(1.0),
        rate_limit_at,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    assert_eq!(client.post(CHAT, HELLO).status, 200);
    while client.post(CHAT, HELLO).status == 429 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the limit never went"
        );
    }
    assert!(mock.stats().faults["rate_limit"] >= 1);
}

#[test]
fn concurrency_is_capped_and_counted_by_path() {
    let latency = Latency::Constant(ms(300));
    let mock = start(MockOptions {
        max_concurrent: Some(2),
        latency,
        ..MockOptions::default()
    });
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(mock.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send("POST", &format!("/p{}{CHAT}", number % 2), "", HELLO);
        if number < 2 {
            await_stats(&mock, "the request", |stats| {
                stats.in_flight == number as u64 + 1
            });
        }
    }
    assert_eq!(clients[2].receive().unwrap().status, 429);
    assert_eq!(clients[0].receive().unwrap().status, 200);
    assert_eq!(clients[1].receive().unwrap().status, 200);
    let stats = await_stats(&mock, "the end", |stats| stats.in_flight == 0);
    assert_eq!((stats.in_flight_max, stats.requests), (3, 3));
    assert_eq!(
        stats.paths[&format!("/p0{CHAT}")],
        PathStats {
            requests: 2,
            in_flight: 0,
            in_flight_max: 2
        }
    );
    assert_eq!(
        stats.paths[&format!("/p1{CHAT}")],
        PathStats {
            requests: 1,
            in_flight: 0,
            in_flight_max: 1
        }
    );
}

#[test]
fn latency_and_pace_take_their_time() {
    let options = MockOptions {
        latency: Latency::Constant(ms(50)),
        ttft: Latency::Constant(ms(100)),
        tokens_per_second: Some(100.0),
        ..MockOptions::default()
    };
    let mock = start(options);
    let body = |stream| format!(r#"{{"messages":[1],"max_tokens":11,"stream":{stream}}}"#);
    // 50 ms, 100 ms to the first token, and ten more tokens of 10 ms.
    let expect = ms(250)..ms(250) + Duration::from_secs(2);
    let started = Instant::now();
    let plain = once(&mock, CHAT, &body(false));
    let took = started.elapsed();
    assert!(expect.contains(&took), "{took:?}");
    assert_eq!(plain.json()["usage"]["completion_tokens"], 11);

    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    client.send("POST", CHAT, "", &body(true));
    client.read_more().unwrap();
    let first_bytes = started.elapsed();
    assert_eq!(client.receive().unwrap().broken, None);
    let took = started.elapsed();
    assert!(expect.contains(&took), "{took:?}");
    // The head comes after the latency, and 200 ms before the end.
    assert!(
        first_bytes >= ms(50) && took - first_bytes >= ms(100),
        "{first_bytes:?} of {took:?}"
    );
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let mock = start(MockOptions {
        latency: Latency::Constant(Duration::from_secs(600)),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    client.send("POST", CHAT, "", HELLO);
    await_stats(&mock, "the request", |stats| stats.in_flight == 1);
    drop(client);
    await_stats(&mock, "its end", |stats| stats.in_flight == 0);
}

/// An endpoint with these faults, and a client that has sent it a request.
fn faulty(options: MockOptions, body: &str) -> (Mock, Client) {
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    client.send("POST", CHAT, "", body);
    (mock, client)
}

#[test]
fn resets_come_before_the_head_and_in_the_body() {
    let mock = start(MockOptions {
        reset_rate: always(),
        ..MockOptions::default()
    });
    let (mut before, mut within) = (0, 0);
    for line in 0..20 {
        let mut client = Client::connect(mock.address());
        client.send("POST", CHAT, "", &HELLO.replace("hello", &line.to_string()));
        match client.receive() {
            Err(error) => {
                assert_eq!(error, ErrorKind::ConnectionReset);
                before += 1;
            }
            Ok(response) => {
                assert_eq!(
                    (response.status, response.broken),
                    (200, Some(ErrorKind::ConnectionReset))
                );
                assert!(!response.body.is_empty());
                within += 1;
            }
        }
    }
    let faults = mock.stats().faults;
    assert_eq!(
        (faults["reset_before_head"], faults["reset_in_body"]),
        (before, within)
    );
    assert!(before >= 4 && within >= 4, "{faults:?}");
}

#[test]
fn truncated_answers_end_in_the_body() {
    for stream in [false, true] {
        let options = MockOptions {
            truncate_rate: always(),
            ..MockOptions::default()
        };
        let (_mock, mut client) =
            faulty(options, &format!(r#"{{"messages":[1],"stream":{stream}}}"#));
        let response = client.receive().unwrap();
        assert_eq!(
            (response.status, response.broken),
            (200, Some(ErrorKind::UnexpectedEof))
        );
    }
}

#[test]
fn an_unannounced_close_follows_a_whole_answer() {
    let (_mock, mut client) = faulty(
        MockOptions {
            close_rate: always(),
            ..MockOptions::default()
        },
        HELLO,
    );
    let response = client.receive().unwrap();
    assert_eq!((response.broken, response.header("connection")), (None, ""));
    assert_eq!(client.next_read(), Ok(0));
}

#[test]
fn garbage_is_a_200_without_json() {
    let (_mock, mut client) = faulty(
        MockOptions {
            garbage_rate: always(),
            ..MockOptions::default()
        },
        HELLO,
    );
    let response = client.receive().unwrap();
    assert_eq!((response.status, response.broken), (200, None));
    assert!(serde_json::from_slice::<Value>(&response.body).is_err());
}

#[test]
fn a_slow_answer_drips() {
    let options = MockOptions {
        slow_rate: always(),
        slow_for: ms(200),
        ..MockOptions::default()
    };
    let started = Instant::now();
    let (_mock, mut client) = faulty(options, HELLO);
    let response = client.receive().unwrap();
    assert!(started.elapsed() >= ms(200), "{:?}", started.elapsed());
    assert_eq!(response, once(&start(MockOptions::default()), CHAT, HELLO));
}

#[test]
fn a_hang_says_nothing_until_the_client_leaves() {
    let (mock, mut client) = faulty(
        MockOptions {
            hang_rate: always(),
            ..MockOptions::default()
        },
        HELLO,
    );
    await_stats(&mock, "the hang", |stats| stats.faults.contains_key("hang"));
    client.stream.set_read_timeout(Some(ms(50))).unwrap();
    let silence = client.next_read();
    assert!(
        matches!(silence, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{silence:?}"
    );
    assert_eq!(mock.stats().in_flight, 1);
    drop(client);
    await_stats(&mock, "its end", |stats| stats.in_flight == 0);
}

#[test]
fn idle_connections_close() {
    let mock = start(MockOptions {
        idle_close: Some(ms(30)),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    assert_eq!(client.post(CHAT, HELLO).status, 200);
    assert_eq!(client.next_read(), Ok(0));
}

#[test]
fn outages_answer_503_or_refuse_and_end() {
    let outage = |refuse| {
        vec![Outage {
            from: Duration::ZERO,
            to: ms(300),
            refuse,
        }]
    };
    let mock = start(MockOptions {
        outage: outage(false),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    assert_eq!(client.get("/health").status, 503);
    while client.post(CHAT, HELLO).status == 503 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the outage never ended"
        );
    }

    let mock = start(MockOptions {
        outage: outage(true),
        ..MockOptions::default()
    });
    let started = Instant::now();
    // The listener is there from the start, and gone as soon as its thread runs.
    let refused = loop {
        match TcpStream::connect(mock.address()) {
            Ok(_) => assert!(started.elapsed() < Duration::from_secs(10), "never refused"),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    while TcpStream::connect(mock.address()).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the outage never ended"
        );
    }
    assert!(started.elapsed() >= ms(250), "{:?}", started.elapsed());
    assert_eq!(once(&mock, CHAT, HELLO).status, 200);
}

#[test]
fn lines_and_arrivals_are_counted() {
    let options = MockOptions {
        count_by: Some("/messages/0/content".to_owned()),
        record_arrivals: true,
        ..MockOptions::default()
    };
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    for text in ["a", "b", "a"] {
        client.post(CHAT, &HELLO.replace("hello", text));
    }
    let stats = mock.stats();
    assert_eq!(
        stats.seen,
        BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
    );
    assert_eq!(stats.arrivals_us.len(), 3);
    assert!(stats.arrivals_us.is_sorted());
    assert_eq!(stats.arrivals_per_second.iter().sum::<u64>(), 3);
}

#[test]
fn answers_can_be_made_long() {
    let mock = start(MockOptions {
        response_bytes: Some(100_000),
        ..MockOptions::default()
    });
    let response = once(&mock, CHAT, HELLO);
    assert!(
        (100_000..101_000).contains(&response.body.len()),
        "{}",
        response.body.len()
    );
}

#[test]
fn a_script_has_the_last_word() {
    let options = MockOptions {
        error_rate: vec!["500=1".parse().unwrap()],
        script: Some(Arc::new(|request| match request.target.as_str() {
            "/json" => Some(
                Scripted::json(418, r#"{"a":1}"#)
                    .header("x-a", "b")
                    .after(ms(20)),
            ),
            "/pieces" => Some(
                Scripted::raw("HTTP/1.1 200 OK\r\ncontent-le")
                    .then(ms(5), "ngth: 2\r\n\r\n{")
                    .then(ms(5), "}"),
            ),
            "/verbatim" => Some(Scripted::raw("\0 not http").then_close()),
            "/reset" => Some(Scripted::raw("").then_reset()),
            _ => None,
        })),
        ..MockOptions::default()
    };
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    let json = client.post("/json", "not json");
    assert_eq!(
        (json.status, json.header("x-a"), json.body.as_slice()),
        (418, "b", br#"{"a":1}"#.as_slice())
    );
    assert!(started.elapsed() >= ms(20));
    assert_eq!(client.post("/pieces", "").body, b"{}");
    assert_eq!(client.post(CHAT, HELLO).status, 500);
    client.send("POST", "/verbatim", "", "");
    while client.read_more().is_ok() {}
    assert_eq!(client.buffer, b"\0 not http");
    let mut client = Client::connect(mock.address());
    client.send("POST", "/reset", "", "");
    assert_eq!(client.next_read(), Err(ErrorKind::ConnectionReset));
    assert_eq!(mock.stats().faults["script"], 4);
}

#[test]
fn stopping_is_quick_and_closes_every_connection() {
    let hanging = MockOptions {
        hang_rate: always(),
        threads: 2,
        ..MockOptions::default()
    };
    let mock = start(hanging);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(mock.address())).collect();
    for client in &mut clients[..4] {
        client.send("POST", CHAT, "", HELLO);
    }
    await_stats(&mock, "the requests", |stats| {
        stats.in_flight == 4 && stats.connections == 8
    });
    let address = mock.address();
    let started = Instant::now();
    mock.stop();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    for client in &mut clients {
        assert!(matches!(
            client.next_read(),
            Ok(0) | Err(ErrorKind::ConnectionReset)
        ));
    }
    assert!(TcpStream::connect(address).is_err());
    // The port is free again at once.
    start(MockOptions {
        listen: address,
        ..MockOptions::default()
    });
}

#[test]
fn it_serves_https() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mock = start(MockOptions {
        tls: Some(Arc::new(server)),
        ..MockOptions::default()
    });
    assert!(mock.url(CHAT).starts_with("https://127.0.0.1:"));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = rustls::StreamOwned::new(session, TcpStream::connect(mock.address()).unwrap());
    let mut client = Client {
        stream,
        buffer: Vec::new(),
    };
    let response = client.post(CHAT, HELLO);
    assert_eq!(response, once(&start(MockOptions::default()), CHAT, HELLO));
}
