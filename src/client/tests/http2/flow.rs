//! Bodies, windows and caps.

use ::h2::Reason;
use bytes::Bytes;

use super::*;
use crate::client::tests::http2_server::{Act, start};
use crate::error::ErrorKind;

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
            let exchange = exchange(&pool, &request(b"x"), AMPLE, |piece| {
                seen.extend_from_slice(piece);
            })
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

on_both!(
    bodies_flow_through_small_windows,
    an_answer_longer_than_every_window_is_read_as_it_comes,
    an_early_answer_to_a_large_upload_is_seen,
    answers_that_exceed_a_cap_end_their_stream,
);
