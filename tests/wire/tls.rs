//! TLS, good and bad, by a certificate authority of the test's own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use blaze_uring::mock::{Mock, Scripted};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::authority::Authority;
use crate::batch::{Batch, Outcome, answer_to, content};
use crate::servers::{Server, read_request, reply};
use crate::support::{Place, mock_with, runtimes, scripted};

fn mock_over(config: Arc<ServerConfig>) -> Mock {
    mock_with(|options| options.tls = Some(config))
}

fn contents(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("line {number}")).collect()
}

fn url(port: u16) -> String {
    format!("https://localhost:{port}/v1/chat/completions")
}

/// Runs with `--ca-file`.
fn trusting(authority: &Authority, batch: Batch, change: impl FnOnce(&mut Command)) -> Outcome {
    let place = Place::new();
    place.write("ca.pem", &authority.pem);
    batch.with(&["--ca-file", "ca.pem"]).attempt(place, change)
}

#[test]
fn an_authority_is_trusted_by_flag_or_variable() {
    let authority = Authority::new("known");
    let server = authority.server("localhost", false, rustls::ALL_VERSIONS);
    for runtime in runtimes() {
        let mock = mock_over(Arc::clone(&server));
        let batch = || Batch::chat(runtime, &url(mock.address().port()), contents(20));
        let outcome = trusting(&authority, batch().with(&["--workers", "2"]), |_| {});
        assert_eq!(outcome.answers.len(), 20, "{runtime}: {:?}", outcome.run);
        outcome.run.expect(0);
        assert!(
            mock.stats().connections <= 2,
            "{runtime}: connections are kept"
        );

        let place = Place::new();
        let path = place.write("ca.pem", &authority.pem);
        let outcome = batch().attempt(place, |command| {
            command.env("SSL_CERT_FILE", &path);
        });
        assert_eq!(outcome.answers.len(), 20, "{runtime}: {:?}", outcome.run);
        outcome.run.expect(0);
    }
}

#[test]
fn a_server_may_speak_tls_1_2_only() {
    let authority = Authority::new("known");
    let server = authority.server("localhost", false, &[&rustls::version::TLS12]);
    for runtime in runtimes() {
        let mock = mock_over(Arc::clone(&server));
        let batch = Batch::chat(runtime, &url(mock.address().port()), contents(5));
        let outcome = trusting(&authority, batch, |_| {});
        assert_eq!(outcome.answers.len(), 5, "{runtime}: {:?}", outcome.run);
        outcome.run.expect(0);
    }
}

#[test]
fn a_certificate_that_does_not_hold_is_a_tls_failure_with_its_reason() {
    let known = Authority::new("known");
    let unknown = Authority::new("unknown");
    let servers = [
        (
            known.server("localhost", true, rustls::ALL_VERSIONS),
            "expired",
        ),
        (
            known.server("elsewhere.example", false, rustls::ALL_VERSIONS),
            "elsewhere.example",
        ),
        (
            unknown.server("localhost", false, rustls::ALL_VERSIONS),
            "--ca-file",
        ),
    ];
    for runtime in runtimes() {
        for (server, reason) in &servers {
            let mock = mock_over(Arc::clone(server));
            let batch = Batch::chat(runtime, &url(mock.address().port()), contents(1));
            let outcome = trusting(&known, batch, |_| {});
            let (kind, message) = outcome.failure(1);
            assert!(
                kind == "tls" && message.contains(reason),
                "{runtime}, {reason}: {kind}, {message}"
            );
            assert_eq!(mock.stats().requests, 0, "{runtime}: nothing is sent");
            outcome.run.expect(3);

            // Many lines: the run stops instead of burning them.
            let batch = Batch::chat(runtime, &url(mock.address().port()), contents(200));
            let args = ["--max-attempts", "3", "--max-outage", "1"];
            let outcome = trusting(&known, batch.with(&args), |_| {});
            assert!(
                outcome.run.stderr.contains(reason),
                "{runtime}: {:?}",
                outcome.run
            );
            outcome.run.expect(4);
        }
    }
}

/// Neither waits for an outage to end, nor burns a line.
fn check_wrong_scheme(runtime: &'static str, what: &str, url: &str, told: &str) {
    for lines in [1, 200] {
        let batch = Batch::chat(runtime, url, contents(lines));
        let args = ["--max-attempts", "3", "--max-outage", "3600"];
        let outcome = batch.with(&args).attempt(Place::new(), |_| {});
        let told = outcome.run.stderr.contains(told);
        assert!(told, "{runtime}, {what}: {:?}", outcome.run);
        assert!(
            outcome.failures.is_empty(),
            "{runtime}, {what}: a line was burned"
        );
        outcome.run.expect(4);
    }
}

#[test]
fn a_wrong_scheme_is_told_and_ends_the_run_at_once() {
    const HTTP: &str = "write http:// instead of https://";
    const HTTPS: &str = "write https:// instead of http://";
    let authority = Authority::new("known");
    let secured = authority.server("localhost", false, rustls::ALL_VERSIONS);
    for runtime in runtimes() {
        let plain = mock_with(|_| {});
        check_wrong_scheme(
            runtime,
            "the trial endpoint",
            &url(plain.address().port()),
            HTTP,
        );
        assert_eq!(plain.stats().requests, 0);
        let garbled = Server::start(|_, mut stream| {
            let _ = stream.read(&mut [0; 5]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        check_wrong_scheme(runtime, "HTTP", &url(garbled.address.port()), HTTP);

        let secure = mock_over(Arc::clone(&secured));
        let address = format!("http://{}/v1", secure.address());
        check_wrong_scheme(runtime, "an alert", &address, HTTPS);
        for (what, page) in [
            (
                "nginx",
                "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n\
                 <body>\r\n<center><h1>400 Bad Request</h1></center>\r\n</body>\r\n</html>\r\n",
            ),
            ("Go", "Client sent an HTTP request to an HTTPS server.\n"),
            (
                "Apache",
                "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>400 Bad Request</title>\n\
                 </head><body>\n<h1>Bad Request</h1>\n<p>Your browser sent a request that this server could not \
                 understand.<br />\nReason: You're speaking plain HTTP to an SSL-enabled server port.<br />\n",
            ),
        ] {
            let server = Server::start(move |_, mut stream| {
                while read_request(&mut stream).is_some() {
                    let length = page.len();
                    let head = format!(
                        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n"
                    );
                    let _ = stream.write_all((head + page).as_bytes());
                }
            });
            check_wrong_scheme(runtime, what, &server.url("/v1"), HTTPS);
        }
        // Who quotes a prompt with such words means something else.
        let quoting = scripted(|_| {
            let text = "messages.0: Client sent an HTTP request to an HTTPS server. is too long";
            Some(Scripted::json(
                400,
                json!({"error": {"message": text}}).to_string(),
            ))
        });
        let batch = Batch::chat(runtime, &quoting.url("/v1"), contents(2));
        let outcome = batch.run();
        assert_eq!(outcome.failure(1).0, "bad_request");
        outcome.run.expect(3);
    }
}

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

fn tls_server(
    config: Arc<ServerConfig>,
    script: impl Fn(&mut TlsStream) + Send + Sync + 'static,
) -> Server {
    Server::start(move |_, stream| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("a valid configuration");
        script(&mut StreamOwned::new(session, stream));
    })
}

/// A close without TLS's own end may be an attack that shortens a body: only a body whose length is
/// known is whole.
#[test]
fn a_close_without_close_notify_ends_no_body() {
    let authority = Authority::new("known");
    let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
    for runtime in runtimes() {
        let server = tls_server(Arc::clone(&config), |stream| {
            let Some((_, body)) = read_request(stream) else {
                return;
            };
            let content = content(&body);
            let answer = answer_to(&content);
            match content.as_str() {
                "length" => reply(stream, 200, &answer),
                "close" => {
                    let head = "HTTP/1.1 200 OK\r\n\r\n";
                    let _ = std::io::Write::write_all(stream, format!("{head}{answer}").as_bytes());
                }
                "close_notify" => {
                    let head = "HTTP/1.1 200 OK\r\n\r\n";
                    let _ = std::io::Write::write_all(stream, format!("{head}{answer}").as_bytes());
                    stream.conn.send_close_notify();
                }
                _ => return,
            }
            let _ = std::io::Write::flush(stream);
        });
        let lines = ["length", "close", "length", "close_notify", "length"].map(str::to_owned);
        let batch = Batch::chat(runtime, &url(server.address.port()), lines);
        let outcome = trusting(&authority, batch.with(&["--workers", "1"]), |_| {});
        for number in [1, 3, 5] {
            assert_eq!(outcome.answer(number)["id"], "length", "{runtime}");
            assert_eq!(outcome.attempts(number), 1, "{runtime}");
        }
        assert_eq!(outcome.answer(4)["id"], "close_notify", "{runtime}");
        assert_eq!(outcome.failure(2).0, "protocol", "{runtime}");
        outcome.run.expect(3);
    }
}

/// Plain HTTP where TLS is expected.
#[test]
fn a_plain_server_is_no_tls_server() {
    let authority = Authority::new("known");
    for runtime in runtimes() {
        let mock = mock_with(|_| {});
        let batch = Batch::chat(runtime, &url(mock.address().port()), contents(1));
        let outcome = trusting(&authority, batch, |_| {});
        // No line is burned, although it has only one attempt.
        assert!(outcome.failures.is_empty(), "{runtime}");
        let run = outcome.run.expect(4);
        assert!(
            run.stderr.contains("write http://"),
            "{runtime}: {}",
            run.stderr
        );
    }
}

#[test]
fn a_ca_file_that_is_none_keeps_anything_from_running() {
    for runtime in runtimes() {
        let mut batch = Batch::chat(runtime, &url(1), contents(1)).with(&["--ca-file", "ca.pem"]);
        batch.settings = json!({});
        let place = Place::new();
        place.write("ca.pem", "no PEM");
        let outcome = batch.attempt(place, |_| {});
        assert!(
            outcome.run.stderr.contains("ca.pem"),
            "{runtime}: {:?}",
            outcome.run
        );
        outcome.run.expect(1);
    }
}
