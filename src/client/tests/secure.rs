//! TLS, good and bad, and proxies.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use socket2::SockRef;

use super::authority::Authority;
use super::server::{Server, await_close, echo, read_request, reply, send};
use super::*;
use crate::config::Secret;
use crate::error::ErrorKind;

/// A client's settings that trust `authority`, through a file as a user would name it.
pub(super) fn trusting(authority: &Authority) -> PoolSettings {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(authority.pem.as_bytes())
        .expect("the file takes a certificate");
    let path = file.path().display().to_string();
    let tls = load_tls(None, |name| (name == "SSL_CERT_FILE").then(|| path.clone()));
    PoolSettings {
        tls: Some(tls.expect("the file holds a certificate")),
        ..settings()
    }
}

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

fn tls_server(
    config: Arc<ServerConfig>,
    script: impl Fn(usize, &mut TlsStream) + Send + Sync + 'static,
) -> Server {
    Server::start(move |number, stream| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("a valid configuration");
        script(number, &mut StreamOwned::new(session, stream));
    })
}

fn secure(server: &Server) -> Target {
    target(Scheme::Https, "localhost", server.address.port())
}

fn both_versions_work_reuse_connections_and_carry_large_bodies<R: Runtime>() {
    let authority = Authority::new("known");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = authority.server("localhost", false, &[version]);
        let server = tls_server(config, |_, stream| echo(stream));
        with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
            let large = "0123456789abcdef".repeat(128 << 10);
            for body in ["one", &large, "three"] {
                let exchange = post(&pool, body.as_bytes(), AMPLE).await;
                assert!(exchange.body() == body, "{version:?}");
            }
            assert_eq!(server.accepted(), 1, "{version:?}");
        });
    }
}

fn a_stale_tls_connection_is_replaced<R: Runtime>() {
    let authority = Authority::new("known");
    let (closed, on_close) = mpsc::channel();
    let closed = Mutex::new(closed);
    let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
    let server = tls_server(config, move |number, stream| {
        if number > 0 {
            return echo(stream);
        }
        let _ = read_request(stream);
        reply(stream, "first");
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let _ = closed.lock().expect("nobody panics").send(());
    });
    with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
        assert_eq!(post(&pool, b"first", AMPLE).await.body(), "first");
        on_close.recv().expect("the server closes");
        let exchange = post(&pool, b"second", AMPLE).await;
        assert_eq!((exchange.body(), exchange.resent), ("second", true));
    });
}

fn bad_certificates_are_refused_with_the_reason<R: Runtime>() {
    let known = Authority::new("known");
    let unknown = Authority::new("unknown");
    let cases = [
        (
            known.server("other.test", false, rustls::ALL_VERSIONS),
            "is for another host",
        ),
        (
            known.server("localhost", true, rustls::ALL_VERSIONS),
            "has expired",
        ),
        (
            unknown.server("localhost", false, rustls::ALL_VERSIONS),
            "has an unknown issuer",
        ),
    ];
    for (config, reason) in cases {
        let server = tls_server(config, |_, stream| echo(stream));
        with_pool::<R, _>(trusting(&known), secure(&server), async |pool| {
            let (kind, message) = post(&pool, b"x", AMPLE).await.failure();
            assert_eq!(kind, ErrorKind::Tls, "{message}");
            let start = format!(
                "localhost:{}: the server's certificate {reason}",
                server.address.port()
            );
            assert!(message.starts_with(&start), "{message}");
            assert_eq!(pool.stats().open, 0);
        });
    }
}

fn failed_handshakes_say_why<R: Runtime>() {
    let authority = Authority::new("known");
    let check = |script: fn(TcpStream), timeout: Duration, kind: ErrorKind, message: &str| {
        let server = Server::start(move |_, stream| script(stream));
        let peer = format!("localhost:{}", server.address.port());
        let target = Target {
            connect_timeout: timeout,
            ..secure(&server)
        };
        with_pool::<R, _>(trusting(&authority), target, async |pool| {
            let failure = post(&pool, b"x", AMPLE).await.failure();
            assert_eq!(failure, (kind, message.replace("HOST", &peer)));
            assert_eq!(pool.stats().open, 0);
        });
    };
    check(
        |mut stream| {
            send(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n");
            await_close(&mut stream);
        },
        AMPLE,
        ErrorKind::Tls,
        "HOST does not speak TLS but plain HTTP, it seems: write http:// instead of https://",
    );
    check(
        |mut stream| {
            let mut byte = [0];
            let _ = stream.read(&mut byte);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            await_close(&mut stream);
        },
        AMPLE,
        ErrorKind::Connect,
        "HOST closed the connection during the handshake",
    );
    check(
        |mut stream| await_close(&mut stream),
        BRIEF,
        ErrorKind::Timeout,
        "connecting to HOST timed out after 80ms",
    );
}

fn a_body_that_only_a_close_ends_needs_tls_to_end_too<R: Runtime>() {
    let authority = Authority::new("known");
    for (polite, framed) in [(true, false), (false, false), (false, true)] {
        let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
        let server = tls_server(config, move |_, stream| {
            let _ = read_request(stream);
            let length = if framed { "content-length: 4\r\n" } else { "" };
            send(stream, &format!("HTTP/1.1 200 OK\r\n{length}\r\nbody"));
            if polite {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
            let exchange = post(&pool, b"x", AMPLE).await;
            if polite || framed {
                assert_eq!(exchange.body(), "body");
            } else {
                let peer = format!("localhost:{}", server.address.port());
                let expect =
                    format!("{peer} closed the connection without ending TLS within the response");
                assert_eq!(exchange.failure(), (ErrorKind::Protocol, expect));
            }
        });
    }
}

/// A socket that takes so many bytes and then is no more.
struct Cut {
    stream: Option<TcpStream>,
    left: usize,
    resets: bool,
    /// Bytes written.
    written: Arc<AtomicUsize>,
}

impl Read for Cut {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.read(buffer),
            None => Ok(0),
        }
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let taken = stream.write(&bytes[..bytes.len().min(self.left)])?;
        self.written.fetch_add(taken, Ordering::SeqCst);
        self.left -= taken;
        if self.left == 0 {
            if self.resets {
                let linger = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                linger.expect("linger can be set");
            }
            self.stream = None;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection for each of `cuts`, closed or reset when the server has written so many bytes;
/// further ones echo.
fn cut_server(
    config: &Arc<ServerConfig>,
    cuts: Vec<usize>,
    resets: bool,
) -> (Server, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let (config, counter) = (Arc::clone(config), Arc::clone(&written));
    let server = Server::start(move |number, stream| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("a valid configuration");
        let cut = Cut {
            stream: Some(stream),
            left: cuts.get(number).copied().unwrap_or(usize::MAX),
            resets,
            written: Arc::clone(&counter),
        };
        echo(&mut StreamOwned::new(session, cut));
    });
    (server, written)
}

/// Within each flight of either version's handshake, between them, and within the answer's records.
fn a_cut_anywhere_in_tls_fails_its_exchange_alone<R: Runtime>() {
    /// Flights hold about 1000 bytes; a prime walks through them out of step.
    const STEP: usize = 67;
    let authority = Authority::new("known");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = authority.server("localhost", false, &[version]);
        for resets in [false, true] {
            let (server, written) = cut_server(&config, Vec::new(), resets);
            // Anew for each, or sessions would be resumed, whose flights are shorter.
            with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
                assert_eq!(post(&pool, b"whole", AMPLE).await.body(), "whole");
            });
            let whole = written.load(Ordering::SeqCst);
            assert!(whole > 500, "{whole} bytes are a handshake and an answer");
            // Signatures differ in length, by a few bytes.
            let whole = whole - 8;
            for cut in [1, 5].into_iter().chain((STEP..whole).step_by(STEP)) {
                let (server, _) = cut_server(&config, vec![cut], resets);
                with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
                    let exchange = post(&pool, b"whole", AMPLE).await;
                    let (kind, message) = exchange.failure();
                    let late = message.contains("within the response");
                    let expect = match late {
                        true => ErrorKind::Protocol,
                        false => ErrorKind::Connect,
                    };
                    assert_eq!(kind, expect, "{version:?}, {cut} of {whole}: {message}");
                    assert!(!exchange.resent && exchange.answered == late);
                    assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
                    assert_eq!((server.accepted(), pool.stats().open), (2, 1));
                });
            }
        }
    }
}

/// A record of application data that nobody encrypted.
fn forged() -> Vec<u8> {
    [23, 3, 3, 0, 20].into_iter().chain([7; 20]).collect()
}

/// What a server says that has been sent a forged record.
fn alert(stream: &mut TlsStream) -> Vec<u8> {
    let session = &mut stream.conn;
    let mut alert = Vec::new();
    session
        .read_tls(&mut &forged()[..])
        .expect("bytes are taken");
    session.process_new_packets().expect_err("a forged record");
    while session.wants_write() {
        session.write_tls(&mut alert).expect("a vector takes it");
    }
    alert
}

/// What follows the answer on the wire.
type LastBytes = fn(&mut TlsStream) -> Vec<u8>;

/// In the middle of an answer, and in the same breath as its end.
fn an_alert_or_a_forged_record_ends_the_connection<R: Runtime>() {
    let authority = Authority::new("known");
    let cases: [(LastBytes, &str); 2] = [
        (alert, "the server refused: alert BadRecordMac"),
        (|_| forged(), "cannot decrypt peer's message"),
    ];
    for (last, expect) in cases {
        for length in [4, 9] {
            let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
            let server = tls_server(config, move |number, stream| {
                if number > 0 {
                    return echo(stream);
                }
                let _ = read_request(stream);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhalf");
                let session = &mut stream.conn;
                session.writer().write_all(head.as_bytes()).expect("room");
                let mut bytes = Vec::new();
                while session.wants_write() {
                    session.write_tls(&mut bytes).expect("a vector takes it");
                }
                bytes.extend(last(stream));
                let _ = stream.sock.write_all(&bytes);
                await_close(&mut stream.sock);
            });
            with_pool::<R, _>(trusting(&authority), secure(&server), async |pool| {
                let exchange = post(&pool, b"x", AMPLE).await;
                if length == 4 {
                    assert_eq!(exchange.body(), "half", "it was all there");
                } else {
                    let (kind, message) = exchange.failure();
                    assert_eq!(kind, ErrorKind::Protocol, "{message}");
                    assert!(message.ends_with(expect), "{message}");
                }
                assert_eq!(post(&pool, b"next", AMPLE).await.body(), "next");
                assert_eq!(server.accepted(), 2);
            });
        }
    }
}

fn through(proxy: &Server, target: Target) -> Target {
    let origin = Origin {
        scheme: Scheme::Http,
        host: "127.0.0.1".to_owned(),
        port: proxy.address.port(),
    };
    let authorization = Some(Secret::from("Basic dTpw"));
    Target {
        proxy: Some(Proxy {
            origin,
            authorization,
        }),
        ..target
    }
}

fn a_tunnel_leads_to_an_https_target<R: Runtime>() {
    let authority = Authority::new("known");
    let config = authority.server("api.test", false, rustls::ALL_VERSIONS);
    let (connects, seen) = mpsc::channel();
    let connects = Mutex::new(connects);
    // Proxy and target in one: after the tunnel is granted the same stream speaks TLS.
    let proxy = Server::start(move |_, mut stream| {
        let (head, _) = read_request(&mut stream).expect("a CONNECT");
        let _ = connects.lock().expect("nobody panics").send(head);
        send(&mut stream, "HTTP/1.1 200 Connection established\r\n\r\n");
        let session = ServerConnection::new(Arc::clone(&config)).expect("a valid configuration");
        echo(&mut StreamOwned::new(session, stream));
    });
    // The name needs no address: the proxy resolves it.
    let target = through(&proxy, target(Scheme::Https, "api.test", 443));
    with_pool::<R, _>(trusting(&authority), target, async |pool| {
        for text in ["one", "two"] {
            assert_eq!(post(&pool, text.as_bytes(), AMPLE).await.body(), text);
        }
    });
    let heads: Vec<String> = seen.try_iter().collect();
    assert_eq!(
        heads,
        ["CONNECT api.test:443 HTTP/1.1\r\nhost: api.test:443\r\n\
          proxy-authorization: Basic dTpw\r\n\r\n"]
    );
}

fn a_refused_tunnel_names_the_proxy_and_the_status<R: Runtime>() {
    let check = |answer: &'static str, kind: ErrorKind, message: &str| {
        let proxy = Server::start(move |_, mut stream| {
            let _ = read_request(&mut stream);
            send(&mut stream, answer);
            await_close(&mut stream);
        });
        let target = through(&proxy, target(Scheme::Https, "api.test", 443));
        with_pool::<R, _>(trusting(&Authority::new("known")), target, async |pool| {
            let failure = post(&pool, b"x", AMPLE).await.failure();
            let expect = message.replace("PROXY", &format!("proxy {}", proxy.address));
            assert_eq!(failure, (kind, expect));
        });
    };
    check(
        "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 999\r\n\r\n",
        ErrorKind::Connect,
        "PROXY refused a tunnel to api.test:443: HTTP 407",
    );
    check(
        "HTTP/1.1 200 OK\r\n\r\nextra",
        ErrorKind::Protocol,
        "PROXY: unexpected bytes after its answer",
    );
}

fn plain_requests_go_through_a_proxy_in_absolute_form<R: Runtime>() {
    let proxy = Server::start(|_, mut stream| {
        while let Some((head, _)) = read_request(&mut stream) {
            reply(&mut stream, &head);
        }
    });
    let target = through(&proxy, target(Scheme::Http, "api.test", 8080));
    with_pool::<R, _>(settings(), target, async |pool| {
        let exchange = post(&pool, b"x", AMPLE).await;
        assert_eq!(
            exchange.body(),
            "POST http://api.test:8080/v1 HTTP/1.1\r\nproxy-authorization: Basic dTpw\r\n\
             host: test\r\ncontent-length: 1\r\n\r\n"
        );
        assert_eq!(post(&pool, b"y", AMPLE).await.status(), 200);
        assert_eq!(proxy.accepted(), 1);
    });
}

#[test]
fn trust_that_cannot_be_loaded_names_the_file() {
    let missing = std::path::Path::new("/nonexistent/ca.pem");
    let error = load_tls(Some(missing), |_| None)
        .expect_err("no such file")
        .to_string();
    assert!(error.starts_with("/nonexistent/ca.pem: "), "{error}");
    load_tls(None, |_| Some(String::new())).expect("an empty variable is no file");
}

on_both!(
    both_versions_work_reuse_connections_and_carry_large_bodies,
    a_stale_tls_connection_is_replaced,
    bad_certificates_are_refused_with_the_reason,
    failed_handshakes_say_why,
    a_body_that_only_a_close_ends_needs_tls_to_end_too,
    a_cut_anywhere_in_tls_fails_its_exchange_alone,
    an_alert_or_a_forged_record_ends_the_connection,
    a_tunnel_leads_to_an_https_target,
    a_refused_tunnel_names_the_proxy_and_the_status,
    plain_requests_go_through_a_proxy_in_absolute_form,
);
