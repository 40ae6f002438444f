//! What goes wrong on one stream or on all, as a server of good will would do it.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::TcpListener;

use ::h2::Reason;

use super::frames::{GOAWAY, SETTINGS, await_heads, frame};
use super::*;
use crate::client::tests::http2_server::{Act, Seen, serve, start};
use crate::client::tests::server::await_close;
use crate::error::ErrorKind;

fn a_refused_stream_goes_out_again_once<R: Runtime>() {
    let refused = Act::Reset(Reason::REFUSED_STREAM, 1);
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
        0 => Act::Reset(Reason::INTERNAL_ERROR, 1),
        1 => Act::Break(Reason::INTERNAL_ERROR),
        2 => Act::Reset(Reason::CANCEL, 1),
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
    const HELD: usize = 10;
    let (server, seen) = start(builder(100), None, |_, stream| match stream {
        0..HELD => Act::Hold,
        _ => Act::Echo,
    });
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let (done, finished) = runtime::mailbox::channel();
        for _ in 0..HELD {
            let (pool, done, host) = (Rc::clone(&pool), done.clone(), host.clone());
            R::spawn(async move {
                let (kind, message) = post(&pool, b"held", BRIEF * 30).await.failure();
                assert_eq!(kind, ErrorKind::Timeout);
                assert!(message.contains(&host), "{message}");
                let _ = done.send(());
            });
        }
        drop(done);
        // Others are answered meanwhile: there is nothing wrong with the connection.
        until::<R>(|| seen.together_max() == HELD).await;
        assert_eq!(post(&pool, b"meanwhile", AMPLE).await.body(), "meanwhile");
        for _ in 0..HELD {
            finished.recv().await.expect("every exchange times out");
        }
        until::<R>(|| seen.resets(Reason::CANCEL) == HELD).await;
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
        crate::client::tests::server::send(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n");
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

on_both!(
    a_refused_stream_goes_out_again_once,
    what_a_goaway_leaves_undone_goes_out_again,
    a_reset_fails_one_stream_only,
    a_lost_connection_fails_what_was_in_flight,
    a_deadline_ends_one_stream_only,
    a_dropped_exchange_ends_its_stream_only,
    connections_that_cannot_be_had_fail_everybody_who_waits,
);
