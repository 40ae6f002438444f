//! Proxies from the environment: absolute-form for `http`, a tunnel for `https`, exceptions.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::authority::Authority;
use crate::batch::Batch;
use crate::servers::{Server, length_of, read_head};
use crate::support::{Place, mock, mock_with, runtimes};

/// A proxy that forwards and writes down the heads it was given.
fn proxy() -> (Server, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let server = Server::start(move |_, mut client| {
        while let Some(head) = read_head(&mut client) {
            seen.lock().expect("no script panics").push(head.clone());
            let target = head.split(' ').nth(1).expect("a target");
            if head.starts_with("CONNECT ") {
                let Ok(upstream) = TcpStream::connect(target) else {
                    let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
                    return;
                };
                let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
                return relay(client, upstream);
            }
            let authority = target.strip_prefix("http://").expect("absolute form");
            let (authority, _) = authority.split_once('/').expect("a path");
            let mut upstream = TcpStream::connect(authority).expect("the endpoint is there");
            let mut body = vec![0; length_of(&head)];
            client.read_exact(&mut body).expect("a body");
            let closing = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            upstream.write_all(closing.as_bytes()).expect("it is taken");
            upstream.write_all(&body).expect("it is taken");
            let answer = read_head(&mut upstream).expect("an answer");
            let mut body = vec![0; length_of(&answer)];
            upstream.read_exact(&mut body).expect("a body");
            if client
                .write_all(&[answer.as_bytes(), &body].concat())
                .is_err()
            {
                return;
            }
        }
    });
    (server, heads)
}

fn relay(client: TcpStream, upstream: TcpStream) {
    let (mut from_client, mut to_client) = (client.try_clone().expect("a socket"), client);
    let (mut from_upstream, mut to_upstream) = (upstream.try_clone().expect("a socket"), upstream);
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_upstream);
        let _ = to_upstream.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut from_upstream, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = up.join();
}

fn contents(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("line {number}")).collect()
}

#[test]
fn plain_requests_go_through_in_absolute_form() {
    for runtime in runtimes() {
        let (server, heads) = proxy();
        let mock = mock();
        let url = mock.url("/v1/chat/completions");
        for variable in ["HTTP_PROXY", "http_proxy"] {
            heads.lock().expect("no script panics").clear();
            let batch = Batch::chat(runtime, &url, contents(3)).with(&["--workers", "1"]);
            let outcome = batch.run_in(Place::new(), |command| {
                command.env(variable, format!("http://user:pass%21@{}", server.address));
            });
            let heads = heads.lock().expect("no script panics");
            assert_eq!(heads.len(), 3, "{runtime}, {variable}: {:?}", outcome.run);
            for head in heads.iter() {
                assert!(
                    head.starts_with(&format!("POST {url} HTTP/1.1\r\n")),
                    "{head}"
                );
                assert!(
                    head.contains(&format!("\r\nhost: {}\r\n", mock.address())),
                    "{head}"
                );
                // user:pass!
                let authorization = "proxy-authorization: Basic dXNlcjpwYXNzIQ==";
                assert!(
                    head.to_ascii_lowercase()
                        .contains(&authorization.to_ascii_lowercase()),
                    "{head}"
                );
            }
            outcome.run.expect(0);
        }
    }
}

#[test]
fn secure_requests_go_through_a_tunnel() {
    let authority = Authority::new("known");
    let config = authority.server("localhost", false, rustls::ALL_VERSIONS);
    for runtime in runtimes() {
        let (server, heads) = proxy();
        let mock = mock_with(|options| options.tls = Some(Arc::clone(&config)));
        let port = mock.address().port();
        let url = format!("https://localhost:{port}/v1/chat/completions");
        let place = Place::new();
        place.write("ca.pem", &authority.pem);
        let batch = Batch::chat(runtime, &url, contents(5));
        let args = ["--ca-file", "ca.pem", "--workers", "1"];
        let outcome = batch.with(&args).run_in(place, |command| {
            command.env("HTTPS_PROXY", format!("http://{}", server.address));
        });
        assert_eq!(
            outcome.answers.len(),
            5,
            "{runtime}: {:?}",
            outcome.failures
        );
        outcome.run.expect(0);
        let heads = heads.lock().expect("no script panics");
        assert_eq!(heads.len(), 1, "{runtime}: one tunnel, kept");
        let connect = format!("CONNECT localhost:{port} HTTP/1.1\r\n");
        assert!(heads[0].starts_with(&connect), "{}", heads[0]);
        assert!(!heads[0].contains("authorization"), "{}", heads[0]);
    }
}

#[test]
fn exceptions_go_straight() {
    for runtime in runtimes() {
        let (server, heads) = proxy();
        let mock = mock();
        for exception in ["127.0.0.1", "*", "example.org,127.0.0.1"] {
            let url = mock.url("/v1/chat/completions");
            let outcome = Batch::chat(runtime, &url, contents(2)).run_in(Place::new(), |command| {
                command
                    .env("HTTP_PROXY", format!("http://{}", server.address))
                    .env("NO_PROXY", exception);
            });
            assert_eq!(outcome.answers.len(), 2, "{runtime}, {exception}");
            assert_eq!(
                heads.lock().expect("no script panics").len(),
                0,
                "{runtime}, {exception}"
            );
            outcome.run.expect(0);
        }
    }
}

/// A tunnel that the proxy refuses is a failure to connect, which says so and hides the password.
#[test]
fn a_refused_tunnel_names_the_proxy() {
    for runtime in runtimes() {
        let server = Server::start(|_, mut client| {
            let _ = read_head(&mut client);
            let _ = client.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            );
        });
        let batch = Batch::chat(
            runtime,
            "https://localhost:1/v1/chat/completions",
            contents(1),
        );
        let outcome = batch.run_in(Place::new(), |command| {
            command.env(
                "HTTPS_PROXY",
                format!("http://user:hidden-word@{}", server.address),
            );
        });
        let (kind, message) = outcome.failure(1);
        assert_eq!(kind, "connect", "{runtime}: {message}");
        assert!(
            message.contains("407") && message.contains("proxy"),
            "{runtime}: {message}"
        );
        assert!(!message.contains("hidden-word") && !outcome.run.stderr.contains("hidden-word"));
        outcome.run.expect(3);
    }
}
