//! Connections: kept, stale, late, slow; answers that come early; redirects.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use blaze_uring::mock::Scripted;
use socket2::{Domain, SockRef, Socket, Type};

use crate::batch::{Batch, answer_to, content};
use crate::servers::{Server, await_close, length_of, read_head, read_request, reply};
use crate::support::{mock, mock_with, runtimes, scripted};

fn contents(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("line {number}"))
}

/// A server that closes idle connections sooner than the client asks again.
#[test]
fn a_connection_closed_while_idle_costs_no_attempt() {
    for runtime in runtimes() {
        let mock = mock_with(|options| options.idle_close = Some(Duration::from_millis(30)));
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents(12));
        // Ten a second: every connection has been closed when it is wanted again.
        let outcome = batch.with(&["--workers", "1", "--rate", "10"]).run();
        for number in 1..=12 {
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
        }
        outcome.run.expect(0);
        let stats = mock.stats();
        assert_eq!(stats.requests, 12, "{runtime}");
        // On a busy machine a request may come before the close.
        assert!(stats.connections > 4, "{runtime}: {stats:?}");
    }
}

/// The race itself: the server takes the request, and closes the reused connection instead of
/// answering.
#[test]
fn a_connection_that_turns_out_stale_costs_no_attempt() {
    for runtime in runtimes() {
        let server = Server::start(|_, mut stream| {
            let Some((_, body)) = read_request(&mut stream) else {
                return;
            };
            reply(&mut stream, 200, &answer_to(&content(&body)));
            let _ = read_request(&mut stream);
        });
        let batch = Batch::chat(runtime, &server.url("/v1/chat/completions"), contents(10));
        let outcome = batch.with(&["--workers", "1", "--json-logs"]).run();
        for number in 1..=10 {
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
            let id = format!("line {}", number - 1);
            assert_eq!(outcome.answer(number)["id"], *id, "{runtime}");
        }
        assert_eq!(server.accepted(), 10, "{runtime}");
        outcome.run.expect(0);
    }
}

/// What a server says on an idle connection answers nothing.
#[test]
fn bytes_on_an_idle_connection_are_no_answer() {
    for runtime in runtimes() {
        let said = Arc::new(AtomicUsize::new(0));
        let says = Arc::clone(&said);
        let server = Server::start(move |_, mut stream| {
            while let Some((_, body)) = read_request(&mut stream) {
                reply(&mut stream, 200, &answer_to(&content(&body)));
                std::thread::sleep(Duration::from_millis(20));
                // On a machine so busy that the next request has come it would be an answer, indeed.
                if is_idle(&stream) {
                    reply(&mut stream, 200, r#"{"id":"evil"}"#);
                    says.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let batch = Batch::chat(runtime, &server.url("/v1/chat/completions"), contents(4));
        let outcome = batch.with(&["--workers", "1", "--rate", "2"]).run();
        for number in 1..=4 {
            let id = format!("line {}", number - 1);
            assert_eq!(outcome.answer(number)["id"], *id, "{runtime}");
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
        }
        assert_ne!(said.load(Ordering::Relaxed), 0, "{runtime}");
        outcome.run.expect(0);
    }
}

/// Whether nothing has come that was not read.
fn is_idle(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket takes it");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket takes it");
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// 16 MB of request, refused after its head: the answer is read, the rest is not sent.
#[test]
fn an_answer_may_come_before_the_request_is_out() {
    let large = "x".repeat(16 << 20);
    for runtime in runtimes() {
        for closes in [false, true] {
            let server = Server::start(move |_, mut stream| {
                while let Some(head) = read_head(&mut stream) {
                    if length_of(&head) < 1 << 20 {
                        let mut body = vec![0; length_of(&head)];
                        stream.read_exact(&mut body).expect("a body");
                        reply(&mut stream, 200, &answer_to(&content(&body)));
                        continue;
                    }
                    reply(&mut stream, 413, r#"{"error":{"message":"too long"}}"#);
                    if closes {
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                        // Unread bytes would turn the close into a reset, which may eat the answer.
                        return await_close(&mut stream);
                    }
                    let mut rest = (&mut stream).take(length_of(&head) as u64);
                    let _ = std::io::copy(&mut rest, &mut std::io::sink());
                }
            });
            let lines = ["before", &large, "after"].map(str::to_owned);
            let batch = Batch::chat(runtime, &server.url("/v1/chat/completions"), lines);
            let outcome = batch.with(&["--workers", "1"]).run();
            assert_eq!(
                outcome.failure(2),
                ("bad_request", "HTTP 413: too long"),
                "{runtime}"
            );
            assert_eq!(outcome.failures[&2]["status_code"], 413, "{runtime}");
            assert_eq!(outcome.answer(1)["id"], "before", "{runtime}");
            assert_eq!(outcome.answer(3)["id"], "after", "{runtime}");
            outcome.run.expect(3);
        }
    }
}

/// Head and body go out at once: a server that waits for the body, and a client's second segment
/// that waits for the first one's acknowledgement, would cost 40 ms a request.
#[test]
fn small_requests_do_not_wait_for_acknowledgements() {
    for runtime in runtimes() {
        let mock = mock();
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents(60));
        let outcome = batch.with(&["--workers", "1"]).run();
        let mut latencies: Vec<u64> = outcome
            .answers
            .values()
            .map(|record| record["metadata"]["latency_ms"].as_u64().expect("a number"))
            .collect();
        latencies.sort_unstable();
        assert!(latencies[30] < 30, "{runtime}: {latencies:?}");
        outcome.run.expect(0);
    }
}

#[test]
fn redirects_are_failures_that_name_the_target() {
    for runtime in runtimes() {
        let elsewhere = mock();
        let target = elsewhere.url("/v1/chat/completions?key=hidden");
        let shown = elsewhere.url("/v1/chat/completions");
        let mock = scripted(move |request| {
            let content = content(&request.body);
            let status = content.parse().ok()?;
            Some(Scripted::json(status, "{}").header("location", &target))
        });
        // One that is answered comes first: an endpoint that only redirects is judged as a whole.
        let contents = ["none", "301", "302", "303", "307", "308"].map(str::to_owned);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let outcome = batch.with(&["--max-attempts", "3", "-w", "1"]).run();
        for number in 2..=6 {
            let (kind, message) = outcome.failure(number);
            assert_eq!(kind, "redirect", "{runtime}: {message}");
            assert!(message.contains(&shown), "{runtime}: {message}");
            assert!(!message.contains("hidden"), "{runtime}: {message}");
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
        }
        assert!(outcome.answers.contains_key(&1), "{runtime}");
        assert_eq!(elsewhere.stats().connections, 0, "nothing is sent there");
        outcome.run.expect(3);
    }
}

/// Each phase of an attempt, stretched beyond `--timeout`.
#[test]
fn every_phase_is_bounded_by_the_timeout() {
    for runtime in runtimes() {
        let slowly = |head: &str, piece: &str| {
            (0..200).fold(Scripted::raw(head), |scripted, _| {
                scripted.then(Duration::from_millis(40), piece)
            })
        };
        let mock = scripted(move |request| {
            let content = content(&request.body);
            Some(match content.as_str() {
                "silence" => Scripted::raw("").then_hang(),
                "half a head" => Scripted::raw("HTTP/1.1 200 OK\r\nconte").then_hang(),
                "half a body" => {
                    Scripted::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\"").then_hang()
                }
                "body without an end" => Scripted::raw("HTTP/1.1 200 OK\r\n\r\n{}").then_hang(),
                "slow head" => slowly("HTTP/1.1 200 OK\r\n", "x: y\r\n"),
                "slow body" => slowly("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", " "),
                "slow chunks" => slowly(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                    "1\r\n \r\n",
                ),
                "slow interim answers" => {
                    slowly("HTTP/1.1 102 Wait\r\n\r\n", "HTTP/1.1 102 Wait\r\n\r\n")
                }
                _ => Scripted::json(200, answer_to(&content)),
            })
        });
        let cases = [
            ("silence", "waiting for"),
            ("half a head", "within the response"),
            ("half a body", "within the response"),
            ("body without an end", "within the response"),
            ("slow head", "within the response"),
            ("slow body", "within the response"),
            ("slow chunks", "within the response"),
            ("slow interim answers", "timed out"),
        ];
        let contents = cases
            .iter()
            .flat_map(|(name, _)| [(*name).to_owned(), "x".to_owned()]);
        let batch = Batch::chat(runtime, &mock.url("/v1/chat/completions"), contents);
        let started = Instant::now();
        let outcome = batch.with(&["--workers", "4", "--timeout", "0.6"]).run();
        for (index, (name, text)) in (0_u64..).zip(cases) {
            let (kind, message) = outcome.failure(2 * index + 1);
            assert!(
                kind == "timeout" && message.contains(text) && message.contains("600ms"),
                "{runtime}, {name}: {kind}, {message}"
            );
            assert!(
                outcome.answers.contains_key(&(2 * index + 2)),
                "{runtime}, {name}"
            );
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{runtime}");
        outcome.run.expect(3);
    }
}

/// A request that nobody takes, and a connection that nobody accepts.
#[test]
fn sending_and_connecting_are_bounded_too() {
    let large = "x".repeat(16 << 20);
    for runtime in runtimes() {
        let (over, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let server = Server::start(move |_, stream| {
            // Never reads.
            let _ = wait.lock().expect("no script panics").recv();
            drop(stream);
        });
        let url = server.url("/v1/chat/completions");
        let batch = Batch::chat(runtime, &url, [large.clone()]);
        let outcome = batch.with(&["--timeout", "0.6"]).run();
        let (kind, message) = outcome.failure(1);
        assert!(
            kind == "timeout" && message.contains("had not taken the whole request"),
            "{runtime}: {kind}, {message}"
        );
        outcome.run.expect(3);
        drop(over);

        let (_full, address) = deaf_listener();
        let url = format!("http://{address}/v1/chat/completions");
        let outcome = Batch::chat(runtime, &url, contents(2))
            .with(&["--timeout", "0.6"])
            .run();
        for number in [1, 2] {
            let (kind, message) = outcome.failure(number);
            assert!(
                kind == "timeout" && message.starts_with("connecting to"),
                "{runtime}: {kind}, {message}"
            );
        }
        outcome.run.expect(3);
    }
}

/// A listener whose queue is full, with the connections that fill it: further ones get no answer.
fn deaf_listener() -> (Vec<Socket>, std::net::SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    listener.bind(&any.into()).expect("a free port");
    listener.listen(0).expect("it listens");
    let address = listener
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("IPv4");
    let mut kept = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let _ = filler.connect_timeout(&address.into(), Duration::from_millis(100));
        kept.push(filler);
    }
    (kept, address)
}

/// Refused at once, and reset at once.
#[test]
fn refusals_are_connect_failures() {
    for runtime in runtimes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("a bound address");
        drop(listener);
        let url = format!("http://{address}/v1/chat/completions");
        let outcome = Batch::chat(runtime, &url, contents(1)).run();
        let (kind, message) = outcome.failure(1);
        assert_eq!(
            (kind, message),
            ("connect", &*format!("{address} refused the connection"))
        );
        outcome.run.expect(3);

        let arrived = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&arrived);
        let server = Server::start(move |_, stream| {
            *counter.lock().expect("no script panics") += 1;
            let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            linger.expect("linger can be set");
        });
        let url = server.url("/v1/chat/completions");
        let outcome = Batch::chat(runtime, &url, contents(1))
            .with(&["--max-attempts", "3"])
            .run();
        assert_eq!(outcome.failure(1).0, "connect", "{runtime}");
        assert_eq!(outcome.attempts(1), 3, "{runtime}");
        assert_eq!(*arrived.lock().expect("no script panics"), 3, "{runtime}");
        outcome.run.expect(3);
    }
}

/// An answer in single bytes is an answer.
#[test]
fn an_answer_in_single_bytes_is_read() {
    for runtime in runtimes() {
        let server = Server::start(|_, mut stream| {
            while let Some((_, body)) = read_request(&mut stream) {
                let body = answer_to(&content(&body));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                for byte in answer.bytes() {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            }
        });
        let outcome = Batch::chat(runtime, &server.url("/v1/chat/completions"), contents(3)).run();
        for number in 1..=3 {
            let id = format!("line {}", number - 1);
            assert_eq!(outcome.answer(number)["id"], *id, "{runtime}");
        }
        outcome.run.expect(0);
    }
}
