//! Exchanges that succeed, and what becomes of their connections.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Barrier, Mutex, mpsc};

use super::server::{Server, await_close, echo, read_request, reply, send};
use super::*;
use crate::runtime::awaited;

fn plain(server: &Server) -> Target {
    target(Scheme::Http, "127.0.0.1", server.address.port())
}

fn exchanges_share_a_connection<R: Runtime>() {
    let server = Server::start(|_, mut stream| echo(&mut stream));
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let mut bytes_out = 0;
        for text in ["one", "two", "three"] {
            let exchange = post(&pool, text.as_bytes(), AMPLE).await;
            assert_eq!((exchange.status(), exchange.body()), (200, text));
            assert!(exchange.answered && !exchange.resent);
            bytes_out += request(text.as_bytes()).len() as u64;
        }
        assert_eq!(server.accepted(), 1);
        let stats = pool.stats();
        let expect = PoolStats {
            open: 1,
            idle: 1,
            opened: 1,
            stale_resends: 0,
            ..stats
        };
        assert_eq!(
            stats,
            PoolStats {
                bytes_out,
                ..expect
            }
        );
        assert!(stats.bytes_in > 3 * 40);

        pool.close_idle();
        assert_eq!((pool.stats().open, pool.stats().idle), (0, 0));
    });
}

fn connections_that_idle_too_long_are_closed<R: Runtime>() {
    let (closed, on_close) = mpsc::channel();
    let closed = Mutex::new(closed);
    let server = Server::start(move |_, mut stream| {
        echo(&mut stream);
        let _ = closed.lock().expect("nobody panics").send(());
    });
    let settings = PoolSettings {
        idle_timeout: BRIEF,
        ..settings()
    };
    with_pool::<R, _>(settings, plain(&server), async |pool| {
        post(&pool, b"x", AMPLE).await;
        assert_eq!(pool.stats().idle, 1);
        while pool.stats().open > 0 {
            R::sleep_until(runtime::now() + Duration::from_millis(5)).await;
        }
    });
    on_close
        .recv_timeout(AMPLE)
        .expect("the server sees the close");
}

fn a_stale_connection_costs_one_second_sending<R: Runtime>() {
    // The close is not there to be seen before the second request is under way.
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return echo(&mut stream);
        }
        let (_, body) = read_request(&mut stream).expect("a first request");
        reply(&mut stream, std::str::from_utf8(&body).expect("UTF-8"));
        read_request(&mut stream).expect("a second request");
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        assert_eq!(post(&pool, b"first", AMPLE).await.body(), "first");
        let exchange = post(&pool, b"second", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("second", true));
        assert_eq!((pool.stats().stale_resends, server.accepted()), (1, 2));
    });
}

fn a_connection_closed_while_idle_costs_nothing<R: Runtime>() {
    let (closed, on_close) = mpsc::channel();
    let closed = Mutex::new(closed);
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return echo(&mut stream);
        }
        let (_, body) = read_request(&mut stream).expect("a first request");
        reply(&mut stream, std::str::from_utf8(&body).expect("UTF-8"));
        drop(stream);
        let _ = closed.lock().expect("nobody panics").send(());
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        assert_eq!(post(&pool, b"first", AMPLE).await.body(), "first");
        on_close.recv().expect("the server closes");
        let exchange = post(&pool, b"second", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("second", false));
        assert_eq!((pool.stats().stale_resends, server.accepted()), (0, 2));
    });
}

fn bytes_nobody_asked_for_never_become_the_next_answer<R: Runtime>() {
    let (received, on_received) = mpsc::channel::<()>();
    let (strayed, on_strayed) = mpsc::channel();
    let script = Mutex::new((on_received, strayed));
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return echo(&mut stream);
        }
        let script = script.lock().expect("nobody panics");
        let _ = read_request(&mut stream).expect("a first request");
        reply(&mut stream, "first");
        let _ = script.0.recv();
        // On loopback they are with the client when the call is over.
        reply(&mut stream, "stray");
        let _ = script.1.send(());
        await_close(&mut stream);
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        assert_eq!(post(&pool, b"first", AMPLE).await.body(), "first");
        received.send(()).expect("the server waits");
        on_strayed.recv().expect("the server has sent");
        // At once: that the connection was used a moment ago is no excuse.
        let exchange = post(&pool, b"second", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("second", false));
        assert_eq!(server.accepted(), 2);
    });
}

fn answers_under_way_at_once_keep_apart<R: Runtime>() {
    const TASKS: usize = 24;
    const ROUNDS: usize = 4;
    // Each answer stops half way until all have come so far: all hold a buffer then, and each round
    // gets the buffers of the one before, in another order, with other lengths.
    let half_way = Arc::new(Barrier::new(TASKS));
    let server = Server::start(move |_, mut stream| {
        while let Some((_, body)) = read_request(&mut stream) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let (first, rest) = body.split_at(body.len() / 2);
            let _ = stream.write_all(&[head.as_bytes(), first].concat());
            half_way.wait();
            let _ = stream.write_all(rest);
        }
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let (done, finished) = runtime::mailbox::channel();
        for task in 0..TASKS {
            let (pool, done) = (Rc::clone(&pool), done.clone());
            R::spawn(async move {
                for round in 0..ROUNDS {
                    let length = 2 + (task * 7919 + round * 104_729) % 20_000;
                    let text = format!("{task}-{round}.").repeat(length);
                    let sent = request(&text.as_bytes()[..length]);
                    let exchange = exchange(&pool, &sent, AMPLE, |_| {}).await;
                    assert_eq!(
                        exchange.body(),
                        &text[..length],
                        "task {task}, round {round}"
                    );
                    buffers::give_back(exchange.reply);
                }
                let _ = done.send(());
            });
        }
        for _ in 0..TASKS {
            finished.recv().await.expect("every task reports");
        }
    });
}

fn nothing_of_a_failed_answer_is_in_the_next<R: Runtime>() {
    const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"choices\":[\"of another\"";
    let server = Server::start(|number, mut stream| {
        if number % 2 == 1 {
            return echo(&mut stream);
        }
        let _ = read_request(&mut stream);
        send(&mut stream, PART);
        if number > 0 {
            // The deadline ends it.
            await_close(&mut stream);
        }
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        for patience in [AMPLE, BRIEF] {
            let failed = post(&pool, b"x", patience).await;
            assert!(failed.result.is_err());
            buffers::give_back(failed.reply);
            let exchange = post(&pool, b"next", AMPLE).await;
            assert_eq!(exchange.body(), "next");
            assert_eq!(
                exchange.reply,
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext"
            );
            buffers::give_back(exchange.reply);
            pool.close_idle();
        }
    });
}

fn connections_that_must_not_be_reused_are_not<R: Runtime>() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let server = Server::start(move |_, mut stream| {
            while read_request(&mut stream).is_some() {
                send(&mut stream, answer);
            }
        });
        with_pool::<R, _>(settings(), plain(&server), async |pool| {
            for turn in 1..=2 {
                let exchange = post(&pool, b"x", AMPLE).await;
                assert_eq!(
                    (exchange.body(), exchange.resent),
                    ("ok", false),
                    "{answer}"
                );
                assert_eq!(
                    (server.accepted(), pool.stats().open),
                    (turn, 0),
                    "{answer}"
                );
            }
        });
    }
}

fn interim_responses_are_passed_over<R: Runtime>() {
    let server = Server::start(|_, mut stream| {
        while let Some((_, body)) = read_request(&mut stream) {
            send(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
            reply(&mut stream, std::str::from_utf8(&body).expect("UTF-8"));
        }
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        for text in ["one", "two"] {
            let exchange = post(&pool, text.as_bytes(), AMPLE).await;
            assert_eq!((exchange.status(), exchange.body()), (200, text));
        }
        assert_eq!(server.accepted(), 1);
    });
}

fn an_early_answer_to_a_large_upload_is_seen<R: Runtime>() {
    let server = Server::start(|number, mut stream| {
        if number > 0 {
            return echo(&mut stream);
        }
        let mut some = [0; 1024];
        stream.read_exact(&mut some).expect("the upload begins");
        send(
            &mut stream,
            "HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig",
        );
        // Reads no more, and stays open until the client gives up.
        let mut peek = [0];
        while stream.peek(&mut peek).is_ok_and(|count| count > 0) {
            if stream.take_error().is_ok_and(|error| error.is_some()) {
                break;
            }
            thread::yield_now();
        }
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let exchange = post(&pool, &vec![b'x'; 32 << 20], AMPLE).await;
        assert_eq!((exchange.status(), exchange.body()), (413, "big"));
        assert_eq!(pool.stats().open, 0, "half a request is on it");
        assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
    });
}

fn the_body_is_seen_as_it_arrives_each_byte_once<R: Runtime>() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::start(move |_, mut stream| {
        let _ = read_request(&mut stream);
        send(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        for chunk in ["4\r\none,\r\n", "4\r\ntwo,", "\r\n5\r\nthree\r\n0\r\n\r\n"] {
            send(&mut stream, chunk);
            // Waits until the client has seen it.
            let _ = wait.lock().expect("nobody panics").recv();
        }
        await_close(&mut stream);
    });
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let pieces = RefCell::new(Vec::new());
        let before = awaited::count();
        let exchange = exchange(&pool, &request(b"x"), AMPLE, |piece| {
            assert_eq!(awaited::count(), before + 1, "the ring may know of it");
            pieces
                .borrow_mut()
                .push(String::from_utf8_lossy(piece).into_owned());
            let _ = go.send(());
        })
        .await;
        assert_eq!(awaited::count(), before);
        assert_eq!(*pieces.borrow(), ["one,", "two,", "three"]);
        assert_eq!(exchange.body(), "one,two,three");
    });
}

fn many_exchanges_at_once_keep_their_answers_apart<R: Runtime>() {
    const TASKS: usize = 64;
    const TURNS: usize = 20;
    let server = Server::start(|_, mut stream| echo(&mut stream));
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let (done, finished) = runtime::mailbox::channel();
        for task in 0..TASKS {
            let (pool, done) = (Rc::clone(&pool), done.clone());
            R::spawn(async move {
                for turn in 0..TURNS {
                    let text = format!("{task}/{turn}/{}", "x".repeat(task * 100));
                    assert_eq!(post(&pool, text.as_bytes(), AMPLE).await.body(), text);
                }
                let _ = done.send(());
            });
        }
        for _ in 0..TASKS {
            finished.recv().await.expect("every task reports");
        }
        assert!(server.accepted() <= TASKS);
        assert_eq!(pool.stats().idle, server.accepted());
    });
}

fn large_answers_arrive_whole<R: Runtime>() {
    let server = Server::start(|_, mut stream| echo(&mut stream));
    with_pool::<R, _>(settings(), plain(&server), async |pool| {
        let body = "0123456789abcdef".repeat(256 << 10);
        for _ in 0..2 {
            let exchange = post(&pool, body.as_bytes(), AMPLE).await;
            assert!(exchange.body() == body);
            buffers::give_back(exchange.reply);
        }
        let exchange = post(&pool, b"small", AMPLE).await;
        assert_eq!(exchange.body(), "small");
        assert!(
            exchange.reply.capacity() <= 1 << 20,
            "a large buffer is given back"
        );
    });
}

fn an_exchange_is_small<R: Runtime>() {
    with_pool::<R, _>(
        settings(),
        target(Scheme::Http, "127.0.0.1", 1),
        async |pool| {
            let exchange =
                pool.exchange(0, runtime::now(), runtime::now(), |_| {}, |_| Wanted::More);
            // Every request in flight holds one of these, and every move of one copies it.
            let size = size_of_val(&exchange);
            assert!(size <= 1280, "{size} bytes");
        },
    );
}

on_both!(
    exchanges_share_a_connection,
    connections_that_idle_too_long_are_closed,
    a_stale_connection_costs_one_second_sending,
    a_connection_closed_while_idle_costs_nothing,
    bytes_nobody_asked_for_never_become_the_next_answer,
    answers_under_way_at_once_keep_apart,
    nothing_of_a_failed_answer_is_in_the_next,
    connections_that_must_not_be_reused_are_not,
    interim_responses_are_passed_over,
    an_early_answer_to_a_large_upload_is_seen,
    the_body_is_seen_as_it_arrives_each_byte_once,
    many_exchanges_at_once_keep_their_answers_apart,
    large_answers_arrive_whole,
    an_exchange_is_small,
);
