//! TLS, good and bad, and proxies.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::server::{Server, await_close, echo, read_request, reply, send};
use super::*;
use crate::config::Secret;
use crate::error::ErrorKind;

/// A certificate authority of the test's own.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a root is made").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A server's side of TLS with a certificate for `name`.
    pub(super) fn server(
        &self,
        name: &str,
        expired: bool,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a valid name");
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate is made");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring speaks these versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS #8 key"),
            );
        Arc::new(config.expect("key and certificate match"))
    }

    /// A client's settings that trust this authority, through a file as a user would name it.
    pub(super) fn settings(&self) -> PoolSettings {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(self.pem.as_bytes())
            .expect("the file takes a certificate");
        let path = file.path().display().to_string();
        let tls = load_tls(None, |name| (name == "SSL_CERT_FILE").then(|| path.clone()));
        PoolSettings {
            tls: Some(tls.expect("the file holds a certificate")),
            ..settings()
        }
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
        with_pool::<R, _>(authority.settings(), secure(&server), async |pool| {
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
    with_pool::<R, _>(authority.settings(), secure(&server), async |pool| {
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
        with_pool::<R, _>(known.settings(), secure(&server), async |pool| {
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
        with_pool::<R, _>(authority.settings(), target, async |pool| {
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
        "HOST: the answer is not TLS",
    );
    check(
        |mut stream| {
            let mut byte = [0];
            let _ = std::io::Read::read(&mut stream, &mut byte);
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
        with_pool::<R, _>(authority.settings(), secure(&server), async |pool| {
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
    with_pool::<R, _>(authority.settings(), target, async |pool| {
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
        with_pool::<R, _>(Authority::new("known").settings(), target, async |pool| {
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
    a_tunnel_leads_to_an_https_target,
    a_refused_tunnel_names_the_proxy_and_the_status,
    plain_requests_go_through_a_proxy_in_absolute_form,
);
