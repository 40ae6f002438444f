//! Which connections and streams exchanges take.

use std::sync::{Mutex, mpsc};

use bytes::Bytes;

use super::*;
use crate::client::tests::authority::Authority;
use crate::client::tests::http2_server::{Act, Seen, serve, start};
use crate::client::tests::secure::trusting;
use crate::client::tests::server::echo;
use crate::http::Headers;

fn exchanges_share_a_connection_and_keep_their_answers_apart<R: Runtime>() {
    // No stream is answered before all hundred are open: they can only be there together.
    let (server, seen) = start(builder(100), None, |_, _| Act::EchoTogether(100));
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        post_all(&pool, 100, AMPLE, |_, text, exchange| {
            assert_eq!((exchange.status(), exchange.body()), (200, text));
            assert!(exchange.answered && !exchange.resent);
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
        buffers::give_back(b"old contents".to_vec());
        let exchange = exchange(&pool, sent, AMPLE, |_| {}).await;
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
        crate::client::tests::server::send(&mut stream, "HTTP/1.1 200 OK\r\n\r\n");
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
    let authority = Authority::new("known");
    let offering = |names: &[&[u8]]| {
        let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
        let mut config = (*config).clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        std::sync::Arc::new(config)
    };
    let secure = |server: &Server| target(Scheme::Https, "localhost", server.address.port());

    let both = offering(&[b"h2", b"http/1.1"]);
    let (server, seen) = start(builder(100), Some(both), |_, _| Act::EchoTogether(100));
    with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
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
        with_pool::<R, _>(trusting(&authority), target, async |pool| {
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
    connections_that_idle_too_long_are_closed,
    a_tunnel_leads_to_a_server_known_to_speak_it,
    over_tls_the_server_chooses,
    plain_http_1_is_unmoved_by_the_wish_not_to,
);
