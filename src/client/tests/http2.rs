//! HTTP/2: exchanges that share connections, and what goes wrong on one stream or on all.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};

use ::h2::Reason;
use ::h2::server::Builder;
use ::http::Response;
use bytes::Bytes;

use super::http2_server::{Act, Seen, serve, start};
use super::server::{Server, await_close, echo, read_request};
use super::*;
use crate::error::ErrorKind;
use crate::http::Headers;

fn known(server: &Server) -> Target {
    Target {
        http2: Some(true),
        ..target(Scheme::Http, "127.0.0.1", server.address.port())
    }
}

fn builder(streams_max: u32) -> Builder {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(streams_max);
    builder
}

/// Runs `count` exchanges at once, each with a body of its own, and hands them to `check`.
async fn post_all<R: Runtime>(
    pool: &Rc<Pool<R>>,
    count: usize,
    patience: Duration,
    check: impl Fn(usize, &str, Exchange) + Clone + 'static,
) {
    let (done, finished) = runtime::mailbox::channel();
    for number in 0..count {
        let (pool, done, check) = (Rc::clone(pool), done.clone(), check.clone());
        R::spawn(async move {
            let text = format!("{number}/{}", "x".repeat(number * 50));
            let exchange = post(&pool, text.as_bytes(), patience).await;
            check(number, &text, exchange);
            let _ = done.send(());
        });
    }
    drop(done);
    for _ in 0..count {
        finished
            .recv()
            .await
            .expect("every exchange passes its check");
    }
}

/// Yields until `condition` holds; the test's own patience bounds it.
async fn until<R: Runtime>(condition: impl Fn() -> bool) {
    while !condition() {
        R::sleep_until(runtime::now() + Duration::from_millis(2)).await;
    }
}

fn exchanges_share_a_connection_and_keep_their_answers_apart<R: Runtime>() {
    // No stream is answered before all hundred are open: they can only be there together.
    let (server, seen) = start(builder(100), None, |_, _| Act::EchoTogether(100));
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        post_all(&pool, 100, AMPLE, |_, text, exchange| {
            assert_eq!((exchange.status(), exchange.body()), (200, text));
            assert!(exchange.first_byte_at.is_some() && !exchange.resent);
        })
        .await;
        assert_eq!((server.accepted(), seen.together_max()), (1, 100));
        let stats = pool.stats();
        assert_eq!((stats.open, stats.idle, stats.opened), (1, 1, 1));
        assert!(stats.bytes_in > 100 * 50 && stats.bytes_out > 100 * 50);

        pool.close_idle();
        until::<R>(|| pool.stats().open == 0 && seen.ended() == 1).await;
    });
}

fn requests_and_answers_keep_their_fields<R: Runtime>() {
    let (server, seen) = start(builder(100), None, |_, _| {
        let head = Response::builder()
            .status(429)
            .header("Retry-After", "7")
            .header("x-request-id", "req_7")
            .header("x-twice", "one")
            .header("x-twice", "two");
        Act::Answer(
            head.body(()).expect("a head"),
            vec![Bytes::from_static(b"slow down")],
        )
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let sent = b"POST /v1/a?b=c HTTP/1.1\r\nhost: api.test:8080\r\nX-Team: search\r\n\
            Authorization: Bearer k\r\ncontent-length: 2\r\n\r\n{}";
        let deadline = runtime::now() + AMPLE;
        let exchange = pool
            .exchange(0, sent.to_vec(), b"old".to_vec(), deadline, |_| {})
            .await;
        assert_eq!(exchange.request, sent);
        assert_eq!((exchange.status(), exchange.body()), (429, "slow down"));
        let response = exchange.result.as_ref().expect("a response");
        assert!(response.signals.has_wait_hint() && response.signals.has_request_id());
        assert!(response.reusable && !response.signals.event_stream());
        let head = &exchange.reply[response.head.clone()];
        assert!(head.starts_with(b"HTTP/1.1 429\r\n") && head.ends_with(b"\r\n\r\n"));
        let headers = Headers::new(head);
        assert_eq!(headers.get("retry-after"), Some(&b"7"[..]));
        let twice: Vec<_> = headers
            .iter()
            .filter(|(name, _)| *name == "x-twice")
            .collect();
        assert_eq!(twice, [("x-twice", &b"one"[..]), ("x-twice", &b"two"[..])]);
    });
    assert_eq!(
        *seen.heads.lock().expect("nobody panics"),
        [
            "POST http://api.test:8080/v1/a?b=c\nx-team: search\nauthorization: Bearer k\n\
          content-length: 2\n"
        ]
    );
}

fn a_server_with_one_stream_gets_more_connections<R: Runtime>() {
    let (server, seen) = start(builder(1), None, |_, _| Act::Echo);
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        for _ in 0..2 {
            post_all(&pool, 20, AMPLE, |_, text, exchange| {
                assert_eq!(exchange.body(), text);
                assert!(!exchange.resent, "nothing needs to be refused");
            })
            .await;
        }
        assert_eq!(seen.together_max(), 1, "the server's limit is kept");
        assert!(
            (1..=20).contains(&server.accepted()),
            "{}",
            server.accepted()
        );
    });
}

fn connections_are_opened_as_streams_run_out<R: Runtime>() {
    let (server, seen) = start(builder(40), None, |_, _| Act::EchoTogether(120));
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        post_all(&pool, 120, AMPLE, |_, text, exchange| {
            assert_eq!(exchange.body(), text);
        })
        .await;
        assert_eq!((server.accepted(), seen.together_max()), (3, 40));
    });
}

fn a_refused_stream_goes_out_again_once<R: Runtime>() {
    let refused = Act::Reset(Reason::REFUSED_STREAM);
    let (server, _) = start(builder(100), None, move |_, stream| match stream {
        0 | 2 | 3 => refused.clone(),
        _ => Act::Echo,
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let exchange = post(&pool, b"one", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("one", true));
        let exchange = post(&pool, b"two", AMPLE).await;
        let expect = format!("{} refused the stream twice", server.address);
        assert_eq!(exchange.failure(), (ErrorKind::Connect, expect));
        assert_eq!(post(&pool, b"three", AMPLE).await.body(), "three");
        assert_eq!((pool.stats().stale_resends, server.accepted()), (2, 1));
    });
}

/// A frame, by hand.
fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, 0]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Reads the preface and then frames up to the `count`th HEADERS; its stream's number.
fn await_heads(stream: &mut TcpStream, count: usize) -> u32 {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).expect("a preface");
    let mut last = 0;
    for _ in 0..count {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream
                .read_exact(&mut vec![0; length])
                .expect("its payload");
            if head[3] == HEADERS {
                last = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                break;
            }
        }
    }
    last
}

fn what_a_goaway_leaves_undone_goes_out_again<R: Runtime>() {
    let seen = std::sync::Arc::new(Seen::default());
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return serve(stream, &builder(100), None, &seen, |_| Act::Echo);
        }
        stream
            .write_all(&frame(SETTINGS, 0, &[]))
            .expect("settings go out");
        assert_eq!(await_heads(&mut stream, 5), 9);
        // Of streams 1, 3, 5, 7, 9 it took the first two, and dies before it has answered them.
        let taken = [3u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
        stream
            .write_all(&frame(GOAWAY, 0, &taken))
            .expect("it goes out");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        await_close(&mut stream);
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let failed = Rc::new(RefCell::new(Vec::new()));
        let note = Rc::clone(&failed);
        post_all(&pool, 5, AMPLE, move |_, text, exchange| {
            if exchange.resent {
                assert_eq!(exchange.body(), text);
            } else {
                note.borrow_mut().push(exchange.failure());
            }
        })
        .await;
        let expect = format!("{host} closed the connection before it answered");
        let expect = (ErrorKind::Connect, expect);
        assert_eq!(*failed.borrow(), [expect.clone(), expect]);
        assert_eq!((server.accepted(), pool.stats().stale_resends), (2, 3));
    });
}

fn a_reset_fails_one_stream_only<R: Runtime>() {
    let (server, _) = start(builder(100), None, |_, stream| match stream {
        0 => Act::Reset(Reason::INTERNAL_ERROR),
        1 => Act::Break(Reason::INTERNAL_ERROR),
        2 => Act::Reset(Reason::CANCEL),
        _ => Act::Echo,
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let failures = [
            (
                ErrorKind::Connect,
                "reset the stream before it answered (INTERNAL_ERROR)",
            ),
            (
                ErrorKind::Protocol,
                "reset the stream within the response (INTERNAL_ERROR)",
            ),
            (
                ErrorKind::Connect,
                "reset the stream before it answered (CANCEL)",
            ),
        ];
        for (kind, what) in failures {
            let exchange = post(&pool, b"x", AMPLE).await;
            assert_eq!(exchange.failure(), (kind, format!("{host} {what}")));
            assert!(!exchange.resent);
        }
        assert_eq!(post(&pool, b"y", AMPLE).await.body(), "y");
        assert_eq!((server.accepted(), pool.stats().stale_resends), (1, 0));
    });
}

fn a_lost_connection_fails_what_was_in_flight<R: Runtime>() {
    let (server, _) = start(builder(100), None, |number, stream| {
        match (number, stream) {
            (0, 0..9) => Act::Hold,
            (0, _) => Act::Close,
            (1, 0) => Act::Echo,
            (1, _) => Act::Close,
            _ => Act::Echo,
        }
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let expect = format!("{host} closed the connection before it answered");
        let reset = format!("{host} reset the connection before it answered");
        post_all(&pool, 10, AMPLE, move |_, _, exchange| {
            let (kind, message) = exchange.failure();
            assert_eq!(kind, ErrorKind::Connect);
            assert!(message == expect || message == reset, "{message}");
        })
        .await;
        assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
        // A connection that has served may have gone stale: that costs nothing, once.
        let exchange = post(&pool, b"stale", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("stale", true));
        assert_eq!((server.accepted(), pool.stats().stale_resends), (3, 1));
    });
}

fn a_deadline_ends_one_stream_only<R: Runtime>() {
    let (server, seen) = start(builder(100), None, |_, stream| match stream {
        0..10 => Act::Hold,
        _ => Act::Echo,
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        post_all(&pool, 10, BRIEF, move |_, _, exchange| {
            let (kind, message) = exchange.failure();
            assert_eq!(kind, ErrorKind::Timeout);
            // On a machine under load the deadline may come before the connection does.
            assert!(message.contains(&host), "{message}");
        })
        .await;
        until::<R>(|| seen.resets(Reason::CANCEL) == 10).await;
        assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
        assert_eq!((server.accepted(), pool.stats().open), (1, 1));
    });
}

fn a_dropped_exchange_ends_its_stream_only<R: Runtime>() {
    let (server, seen) = start(builder(1), None, |_, stream| match stream {
        0 => Act::Hold,
        _ => Act::Echo,
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        {
            let mut exchange = std::pin::pin!(post(&pool, b"first", AMPLE));
            let mut sent = std::pin::pin!(until::<R>(|| seen.together_max() == 1));
            std::future::poll_fn(|context| {
                assert!(
                    exchange.as_mut().poll(context).is_pending(),
                    "nobody answers"
                );
                sent.as_mut().poll(context)
            })
            .await;
        }
        // There is only one stream: it must have been given back.
        assert_eq!(post(&pool, b"second", AMPLE).await.body(), "second");
        assert_eq!((server.accepted(), seen.resets(Reason::CANCEL)), (1, 1));
    });
}

fn bodies_flow_through_small_windows<R: Runtime>() {
    let mut small = builder(100);
    small
        .initial_window_size(1000)
        .initial_connection_window_size(70_000);
    let (server, _) = start(small, None, |_, _| Act::Echo);
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        // More than all windows together, in both directions and on several streams.
        let (done, finished) = runtime::mailbox::channel();
        for number in 0..4 {
            let (pool, done) = (Rc::clone(&pool), done.clone());
            R::spawn(async move {
                let body = format!("{number}23456789abcdef").repeat(64 << 10);
                let exchange = post(&pool, body.as_bytes(), AMPLE).await;
                assert!(exchange.body() == body, "stream {number}");
                let _ = done.send(());
            });
        }
        drop(done);
        for _ in 0..4 {
            finished.recv().await.expect("every body comes back");
        }
        assert_eq!(server.accepted(), 1);
    });
}

fn an_answer_longer_than_every_window_is_read_as_it_comes<R: Runtime>() {
    let (server, _) = start(builder(100), None, |_, stream| match stream {
        0 => {
            let piece = Bytes::from(vec![b'x'; 1 << 20]);
            Act::Answer(Response::new(()), vec![piece; 40])
        }
        _ => Act::Answer(
            Response::new(()),
            ["one,", "two,", "three"].map(Bytes::from).to_vec(),
        ),
    });
    let settings = PoolSettings {
        limits: Limits {
            body_bytes: 64 << 20,
            ..settings().limits
        },
        ..settings()
    };
    with_pool::<R, _>(settings, known(&server), async |pool| {
        for length in [40 << 20, 13] {
            let mut seen = Vec::new();
            let exchange = pool
                .exchange(
                    0,
                    request(b"x"),
                    Vec::new(),
                    runtime::now() + AMPLE,
                    |piece| {
                        seen.extend_from_slice(piece);
                    },
                )
                .await;
            assert_eq!(exchange.body().len(), length);
            assert!(
                exchange.body().as_bytes() == seen,
                "each byte once, in order"
            );
        }
    });
}

fn an_early_answer_to_a_large_upload_is_seen<R: Runtime>() {
    let (server, seen) = start(builder(100), None, |_, stream| match stream {
        0 => Act::Answer(
            Response::builder().status(413).body(()).expect("a head"),
            vec![Bytes::from_static(b"big")],
        ),
        _ => Act::Echo,
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let exchange = post(&pool, &vec![b'x'; 4 << 20], AMPLE).await;
        assert_eq!((exchange.status(), exchange.body()), (413, "big"));
        // Nobody sends the rest.
        until::<R>(|| seen.resets(Reason::CANCEL) == 1).await;
        assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
        assert_eq!(server.accepted(), 1);
    });
}

fn answers_that_exceed_a_cap_end_their_stream<R: Runtime>() {
    let (server, _) = start(builder(100), None, |_, stream| match stream {
        0 => {
            let head = Response::builder().header("content-length", 17 << 20);
            Act::Answer(head.body(()).expect("a head"), Vec::new())
        }
        1 => {
            let piece = Bytes::from(vec![b'x'; 1 << 20]);
            Act::Answer(Response::new(()), vec![piece; 17])
        }
        2 => {
            let head = Response::builder().header("x-bomb", "x".repeat(MAX_HEAD_BYTES));
            Act::Answer(head.body(()).expect("a head"), Vec::new())
        }
        3 => Act::Interim(17),
        4 => Act::Interim(3),
        _ => Act::Echo,
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let large = "response body larger than 16777216 bytes";
        let failures = [
            (ErrorKind::TooLarge, large),
            (ErrorKind::TooLarge, large),
            (
                ErrorKind::Protocol,
                "the response breaks HTTP/2, or its head is too large (PROTOCOL_ERROR)",
            ),
            (ErrorKind::Protocol, "more than 16 interim (1xx) responses"),
        ];
        for (kind, what) in failures {
            let exchange = post(&pool, b"x", AMPLE).await;
            assert_eq!(exchange.failure(), (kind, format!("{host}: {what}")));
        }
        assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
        assert_eq!(server.accepted(), 1);
    });
}

fn connections_that_cannot_be_had_fail_everybody_who_waits<R: Runtime>() {
    let check = |target: Target, kind: ErrorKind, message: &str| {
        let message = message.to_owned();
        with_pool::<R, _>(settings(), target, async move |pool| {
            post_all(&pool, 20, AMPLE, move |_, _, exchange| {
                let (found, text) = exchange.failure();
                assert_eq!(found, kind, "{text}");
                // A close with unread bytes is a reset.
                let text = text.replace(" reset the connection", " closed the connection");
                assert!(text.starts_with(&message), "{text}");
            })
            .await;
            until::<R>(|| pool.stats().open == 0).await;
        });
    };
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        listener.local_addr().expect("a bound address").port()
    };
    let refused = Target {
        http2: Some(true),
        ..target(Scheme::Http, "127.0.0.1", port)
    };
    let expect = format!("127.0.0.1:{port} refused the connection");
    check(refused, ErrorKind::Connect, &expect);

    let server = Server::start(|_, mut stream| {
        let _ = read_request(&mut stream);
        super::server::send(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n");
        await_close(&mut stream);
    });
    let expect = format!("{} does not speak HTTP/2 (", server.address);
    check(known(&server), ErrorKind::Protocol, &expect);

    let server = Server::start(|_, mut stream| {
        let _ = read_request(&mut stream);
    });
    let expect = format!(
        "{} closed the connection during the handshake",
        server.address
    );
    check(known(&server), ErrorKind::Connect, &expect);

    let server = Server::start(|_, mut stream| await_close(&mut stream));
    let silent = Target {
        connect_timeout: BRIEF,
        ..known(&server)
    };
    let expect = format!("connecting to {} timed out after 80ms", server.address);
    check(silent, ErrorKind::Timeout, &expect);
}

fn connections_that_idle_too_long_are_closed<R: Runtime>() {
    let (server, seen) = start(builder(100), None, |_, _| Act::Echo);
    let settings = PoolSettings {
        idle_timeout: BRIEF,
        ..settings()
    };
    with_pool::<R, _>(settings, known(&server), async |pool| {
        post(&pool, b"x", AMPLE).await;
        until::<R>(|| pool.stats().open == 0 && seen.ended() == 1).await;
        assert_eq!(post(&pool, b"y", AMPLE).await.body(), "y");
        assert_eq!(server.accepted(), 2);
    });
}

fn a_tunnel_leads_to_a_server_known_to_speak_it<R: Runtime>() {
    let (connects, heads) = mpsc::channel();
    let connects = Mutex::new(connects);
    let seen = std::sync::Arc::new(Seen::default());
    let proxy = Server::start(move |_, mut stream| {
        let (head, _) = read_request(&mut stream).expect("a CONNECT");
        let _ = connects.lock().expect("nobody panics").send(head);
        super::server::send(&mut stream, "HTTP/1.1 200 OK\r\n\r\n");
        serve(stream, &builder(100), None, &seen, |_| Act::Echo);
    });
    let target = Target {
        proxy: Some(Proxy {
            origin: target(Scheme::Http, "127.0.0.1", proxy.address.port()).origin,
            authorization: None,
        }),
        http2: Some(true),
        ..target(Scheme::Http, "api.test", 8080)
    };
    with_pool::<R, _>(settings(), target, async |pool| {
        assert_eq!(post(&pool, b"x", AMPLE).await.body(), "x");
    });
    let heads: Vec<String> = heads.try_iter().collect();
    assert_eq!(
        heads,
        ["CONNECT api.test:8080 HTTP/1.1\r\nhost: api.test:8080\r\n\r\n"]
    );
}

fn over_tls_the_server_chooses<R: Runtime>() {
    let authority = super::secure::Authority::new("known");
    let offering = |names: &[&[u8]]| {
        let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
        let mut config = (*config).clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        std::sync::Arc::new(config)
    };
    let secure = |server: &Server| target(Scheme::Https, "localhost", server.address.port());

    let both = offering(&[b"h2", b"http/1.1"]);
    let (server, seen) = start(builder(100), Some(both), |_, _| Act::EchoTogether(100));
    with_pool::<R, _>(authority.settings(), secure(&server), async |pool| {
        post_all(&pool, 100, AMPLE, |_, text, exchange| {
            assert_eq!(exchange.body(), text);
        })
        .await;
        assert_eq!((server.accepted(), seen.together_max()), (1, 100));
    });

    // A server without HTTP/2, and one that has it and is not asked for it.
    for (names, wish) in [
        (vec![&b"http/1.1"[..]], None),
        (vec![&b"h2"[..], b"http/1.1"], Some(false)),
    ] {
        let config = offering(&names);
        let server = Server::start(move |_, stream| {
            let config = std::sync::Arc::clone(&config);
            let session = rustls::ServerConnection::new(config).expect("a valid configuration");
            echo(&mut rustls::StreamOwned::new(session, stream));
        });
        let target = Target {
            http2: wish,
            ..secure(&server)
        };
        with_pool::<R, _>(authority.settings(), target, async |pool| {
            for _ in 0..2 {
                post_all(&pool, 10, AMPLE, |_, text, exchange| {
                    assert_eq!((exchange.body(), exchange.resent), (text, false));
                })
                .await;
            }
            assert!(server.accepted() <= 10, "connections are kept");
        });
    }
}

fn plain_http_1_is_unmoved_by_the_wish_not_to<R: Runtime>() {
    let server = Server::start(|_, mut stream| echo(&mut stream));
    let target = Target {
        http2: Some(false),
        ..known(&server)
    };
    with_pool::<R, _>(settings(), target, async |pool| {
        assert_eq!(post(&pool, b"x", AMPLE).await.body(), "x");
    });
}

on_both!(
    exchanges_share_a_connection_and_keep_their_answers_apart,
    requests_and_answers_keep_their_fields,
    a_server_with_one_stream_gets_more_connections,
    connections_are_opened_as_streams_run_out,
    a_refused_stream_goes_out_again_once,
    what_a_goaway_leaves_undone_goes_out_again,
    a_reset_fails_one_stream_only,
    a_lost_connection_fails_what_was_in_flight,
    a_deadline_ends_one_stream_only,
    a_dropped_exchange_ends_its_stream_only,
    bodies_flow_through_small_windows,
    an_answer_longer_than_every_window_is_read_as_it_comes,
    an_early_answer_to_a_large_upload_is_seen,
    answers_that_exceed_a_cap_end_their_stream,
    connections_that_cannot_be_had_fail_everybody_who_waits,
    connections_that_idle_too_long_are_closed,
    a_tunnel_leads_to_a_server_known_to_speak_it,
    over_tls_the_server_chooses,
    plain_http_1_is_unmoved_by_the_wish_not_to,
);
