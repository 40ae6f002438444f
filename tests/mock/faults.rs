//! How connections end: faults, outages, scripts, stopping.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blaze_uring::mock::{Latency, Mock, MockOptions, Outage, Scripted};
use serde_json::Value;

use super::client::{CHAT, Client, HELLO, always, await_stats, ms, once, start};

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
    // The listener is there from the start, and gone as soon as its thread runs; a connection that
    // was on its way at that moment is reset.
    loop {
        match TcpStream::connect(mock.address()).map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionRefused) => break,
            Ok(_) | Err(ErrorKind::ConnectionReset) => {
                assert!(started.elapsed() < Duration::from_secs(10), "never refused");
            }
            Err(other) => panic!("{other}"),
        }
    }
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
