//! Exchanges that fail: how, how soon, and what the next one sees.

use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};

use socket2::{Domain, SockRef, Socket, Type};

use super::server::{Server, await_close, read_request, reply, send};
use super::*;
use crate::error::ErrorKind;

fn plain(port: u16) -> Target {
    target(Scheme::Http, "127.0.0.1", port)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger can be set");
}

/// What one exchange with a server that runs `script` fails with; `HOST` stands for its address.
fn check<R: Runtime>(
    script: impl Fn(usize, TcpStream) + Send + Sync + 'static,
    body: &[u8],
    patience: Duration,
    kind: ErrorKind,
    message: &str,
) {
    let server = Server::start(script);
    let host = server.address.to_string();
    with_pool::<R, _>(settings(), plain(server.address.port()), async |pool| {
        let exchange = post(&pool, body, patience).await;
        assert_eq!(exchange.failure(), (kind, message.replace("HOST", &host)));
        assert!(!exchange.resent, "a fresh connection is not stale");
        assert_eq!(pool.stats().open, 0, "the connection is gone");
    });
}

fn timeouts_say_what_was_waited_for<R: Runtime>() {
    check::<R>(
        |_, mut stream| await_close(&mut stream),
        b"x",
        BRIEF,
        ErrorKind::Timeout,
        "timed out after 80ms waiting for HOST to answer",
    );
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            send(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            );
            await_close(&mut stream);
        },
        b"x",
        BRIEF,
        ErrorKind::Timeout,
        "timed out after 80ms within the response of HOST",
    );
    // A body that only a close ends: the abort's close must not pass for it.
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            send(&mut stream, "HTTP/1.1 200 OK\r\n\r\nhalf");
            await_close(&mut stream);
        },
        b"x",
        BRIEF,
        ErrorKind::Timeout,
        "timed out after 80ms within the response of HOST",
    );
    let (over, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    check::<R>(
        move |_, stream| {
            let _ = wait.lock().expect("nobody panics").recv();
            drop(stream);
        },
        &vec![b'x'; 32 << 20],
        BRIEF,
        ErrorKind::Timeout,
        "timed out after 80ms: HOST had not taken the whole request",
    );
    drop(over);
}

fn a_connection_that_never_opens_times_out<R: Runtime>() {
    // A full accept queue: Linux drops further connection attempts without an answer.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let loopback: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    listener.bind(&loopback.into()).expect("loopback is there");
    listener.listen(0).expect("listening");
    let address = listener
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("an IP address");
    let mut queued = Vec::new();
    let error = loop {
        match TcpStream::connect_timeout(&address, BRIEF) {
            Ok(stream) => queued.push(stream),
            Err(error) => break error,
        }
    };
    if error.kind() != io::ErrorKind::TimedOut {
        return; // A system that refuses instead offers no way to build this case.
    }
    let target = Target {
        connect_timeout: BRIEF,
        ..plain(address.port())
    };
    with_pool::<R, _>(settings(), target, async |pool| {
        let start = runtime::now();
        let exchange = post(&pool, b"x", AMPLE).await;
        let expect = format!("connecting to {address} timed out after 80ms");
        assert_eq!(exchange.failure(), (ErrorKind::Timeout, expect));
        assert!(
            start.elapsed() < AMPLE / 4,
            "the connect timeout is its own"
        );
        // The exchange's deadline bounds connecting as well.
        let exchange = post(&pool, b"x", BRIEF / 2).await;
        let expect = format!("connecting to {address} timed out after 40ms");
        assert_eq!(exchange.failure(), (ErrorKind::Timeout, expect));
    });
}

fn failed_connections_say_why<R: Runtime>() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        listener.local_addr().expect("a bound address").port()
    };
    with_pool::<R, _>(settings(), plain(port), async |pool| {
        let exchange = post(&pool, b"x", AMPLE).await;
        let expect = format!("127.0.0.1:{port} refused the connection");
        assert_eq!(exchange.failure(), (ErrorKind::Connect, expect));
    });
    with_pool::<R, _>(
        settings(),
        target(Scheme::Http, "no.invalid", 80),
        async |pool| {
            let (kind, message) = post(&pool, b"x", AMPLE).await.failure();
            assert_eq!(kind, ErrorKind::Connect);
            let reason = message.strip_prefix("cannot resolve no.invalid: ");
            assert!(reason.is_some_and(|reason| !reason.is_empty()), "{message}");
        },
    );
}

fn lost_connections_say_when<R: Runtime>() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
        },
        b"x",
        AMPLE,
        ErrorKind::Connect,
        "HOST closed the connection before it answered",
    );
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            reset(stream);
        },
        b"x",
        AMPLE,
        ErrorKind::Connect,
        "HOST reset the connection before it answered",
    );
    check::<R>(
        move |_, mut stream| {
            let _ = read_request(&mut stream);
            send(&mut stream, &format!("{head}half"));
        },
        b"x",
        AMPLE,
        ErrorKind::Protocol,
        "HOST: connection closed after 4 of 9 body bytes",
    );
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            send(&mut stream, "HTTP/1.1 2");
        },
        b"x",
        AMPLE,
        ErrorKind::Protocol,
        "HOST: connection closed within the response head",
    );
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            send(&mut stream, "SSH-2.0-x\r\n");
            await_close(&mut stream);
        },
        b"x",
        AMPLE,
        ErrorKind::Protocol,
        "HOST: the answer is not HTTP/1.1, it starts with \"SSH-2.0-x\\r\\n\"",
    );
    check::<R>(
        |_, mut stream| {
            let _ = read_request(&mut stream);
            send(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            );
            await_close(&mut stream);
        },
        b"x",
        AMPLE,
        ErrorKind::TooLarge,
        "HOST: response body larger than 16777216 bytes",
    );
}

fn a_reset_within_the_body_is_a_protocol_failure<R: Runtime>() {
    let (seen, on_seen) = mpsc::channel::<()>();
    let on_seen = Mutex::new(on_seen);
    let server = Server::start(move |_, mut stream| {
        let _ = read_request(&mut stream);
        send(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        );
        let _ = on_seen.lock().expect("nobody panics").recv();
        reset(stream);
    });
    with_pool::<R, _>(settings(), plain(server.address.port()), async |pool| {
        let exchange = exchange(&pool, &request(b"x"), AMPLE, |_| {
            let _ = seen.send(());
        })
        .await;
        let expect = format!(
            "{} reset the connection within the response",
            server.address
        );
        assert_eq!(exchange.failure(), (ErrorKind::Protocol, expect));
        assert!(exchange.answered);
    });
}

fn the_second_sending_is_the_last<R: Runtime>() {
    let server = Server::start(|number, mut stream| {
        let _ = read_request(&mut stream);
        if number == 0 {
            reply(&mut stream, "ok");
            // A close before the second request would be seen in time.
            let _ = read_request(&mut stream);
        }
    });
    with_pool::<R, _>(settings(), plain(server.address.port()), async |pool| {
        assert_eq!(post(&pool, b"first", AMPLE).await.body(), "ok");
        let exchange = post(&pool, b"second", AMPLE).await;
        let expect = format!(
            "{} closed the connection before it answered",
            server.address
        );
        assert_eq!(exchange.failure(), (ErrorKind::Connect, expect));
        assert!(exchange.resent);
        assert_eq!(server.accepted(), 2);
    });
}

fn after_a_timeout_the_next_request_gets_its_own_answer<R: Runtime>() {
    let (over, late) = mpsc::channel::<()>();
    let late = Mutex::new(late);
    let server = Server::start(move |number, mut stream| {
        while let Some((_, body)) = read_request(&mut stream) {
            if number == 0 {
                // Answers only after the client has given up.
                let _ = late.lock().expect("nobody panics").recv();
            }
            reply(&mut stream, std::str::from_utf8(&body).expect("UTF-8"));
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    with_pool::<R, _>(settings(), plain(server.address.port()), async |pool| {
        let exchange = post(&pool, b"first", BRIEF).await;
        assert_eq!(exchange.failure().0, ErrorKind::Timeout);
        over.send(()).expect("the server waits");
        let exchange = post(&pool, b"second", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("second", false));
        assert_eq!(server.accepted(), 2);
    });
}

fn a_dropped_exchange_takes_its_connection_along<R: Runtime>() {
    let server = Server::start(|number, mut stream| {
        if number == 0 {
            return await_close(&mut stream);
        }
        super::server::echo(&mut stream);
    });
    with_pool::<R, _>(settings(), plain(server.address.port()), async |pool| {
        {
            let mut exchange = std::pin::pin!(post(&pool, b"first", AMPLE));
            let mut timer = std::pin::pin!(R::sleep_until(runtime::now() + BRIEF));
            std::future::poll_fn(|context| {
                assert!(
                    exchange.as_mut().poll(context).is_pending(),
                    "nobody answers"
                );
                timer.as_mut().poll(context)
            })
            .await;
        }
        assert_eq!(pool.stats().open, 0);
        assert_eq!(post(&pool, b"second", AMPLE).await.body(), "second");
    });
}

on_both!(
    timeouts_say_what_was_waited_for,
    a_connection_that_never_opens_times_out,
    failed_connections_say_why,
    lost_connections_say_when,
    a_reset_within_the_body_is_a_protocol_failure,
    the_second_sending_is_the_last,
    after_a_timeout_the_next_request_gets_its_own_answer,
    a_dropped_exchange_takes_its_connection_along,
);
