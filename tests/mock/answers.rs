//! What is answered to whom: APIs, pages, framing, TLS.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use blaze_uring::mock::{MockOptions, Stats, identity};
use serde_json::{Value, json};

use super::client::{CHAT, Client, HELLO, once, start};

#[test]
fn answers_repeat_on_every_connection_thread_and_run() {
    let first = once(&start(MockOptions::default()), CHAT, HELLO);
    assert_eq!(first.status, 200);
    let mock = start(MockOptions {
        threads: 3,
        ..MockOptions::default()
    });
    for prefix in ["", "/a/b", "/openai"] {
        let mut client = Client::connect(mock.address());
        for _ in 0..3 {
            assert_eq!(client.post(&format!("{prefix}{CHAT}"), HELLO), first);
        }
    }
    let id = format!("chatcmpl-{:016x}", identity(0, HELLO.as_bytes()));
    assert_eq!(first.json()["id"], id);
    let other = once(
        &start(MockOptions {
            seed: 1,
            ..MockOptions::default()
        }),
        CHAT,
        HELLO,
    );
    assert_ne!(other.json()["choices"], first.json()["choices"]);
}

#[test]
fn every_api_answers_plain_and_streamed() {
    let mock = start(MockOptions::default());
    let mut client = Client::connect(mock.address());
    for (target, fields, object, last_event) in [
        (
            CHAT,
            r#""messages":[{"role":"user","content":"a"}]"#,
            "chat.completion",
            "data: [DONE]",
        ),
        (
            "/openai/deployments/d/chat/completions?api-version=2025-01-01-preview",
            r#""messages":[{"role":"user","content":"a"}]"#,
            "chat.completion",
            "data: [DONE]",
        ),
        (
            "/v1/completions",
            r#""prompt":"a""#,
            "text_completion",
            "data: [DONE]",
        ),
        (
            "/v1/responses",
            r#""input":"a""#,
            "response",
            "event: response.completed",
        ),
        (
            "/v1/messages",
            r#""messages":[1],"max_tokens":100"#,
            "message",
            "event: message_stop",
        ),
        (
            "/v1/embeddings",
            r#""input":"a","dimensions":8"#,
            "list",
            "",
        ),
    ] {
        let plain = client.post(target, &format!("{{{fields}}}"));
        assert_eq!(
            (plain.status, plain.header("content-type")),
            (200, "application/json"),
            "{target}"
        );
        let document = plain.json();
        let kind = document.get("object").or(document.get("type"));
        assert_eq!(kind, Some(&json!(object)), "{target}");
        if last_event.is_empty() {
            continue;
        }
        let streamed = client.post(target, &format!("{{{fields},\"stream\":true}}"));
        assert_eq!(streamed.broken, None, "{target}");
        assert_eq!(
            streamed.header("content-type"),
            "text/event-stream; charset=utf-8"
        );
        let text = String::from_utf8(streamed.body).unwrap();
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with(last_event), "{target}: {last}");
    }
    let azure = client.post(
        "/openai/deployments/d/chat/completions?api-version=1",
        r#"{"messages":[1]}"#,
    );
    assert_eq!(azure.json()["model"], "d");
}

#[test]
fn answers_can_be_made_long() {
    let mock = start(MockOptions {
        response_bytes: Some(100_000),
        ..MockOptions::default()
    });
    let response = once(&mock, CHAT, HELLO);
    assert!(
        (100_000..101_000).contains(&response.body.len()),
        "{}",
        response.body.len()
    );
}

#[test]
fn what_is_no_request_is_told_so() {
    let mock = start(MockOptions::default());
    let mut client = Client::connect(mock.address());
    for (method, target, body, status, code) in [
        ("POST", CHAT, "{\"messages\":", 400, Value::Null),
        ("POST", CHAT, r#"{"messages":[]}"#, 400, Value::Null),
        ("POST", "/v1/nothing", "{}", 404, json!("not_found")),
        (
            "POST",
            "/openai/deployments/d/chat/completions",
            HELLO,
            404,
            json!("not_found"),
        ),
        ("GET", CHAT, "", 405, Value::Null),
        ("POST", "/v1/models", "", 405, Value::Null),
    ] {
        client.send(method, target, "", body);
        let response = client.receive().unwrap();
        assert_eq!(response.status, status, "{method} {target} {body}");
        let error = &response.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &code),
            "{method} {target}"
        );
    }
    let anthropic = client.post("/v1/messages", r#"{"messages":[]}"#).json();
    assert_eq!(
        (&anthropic["type"], &anthropic["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
}

#[test]
fn pages_answer_get_and_head() {
    let mock = start(MockOptions {
        auth: Some("k".to_owned()),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    assert_eq!(client.get("/health").json(), json!({"status": "ok"}));
    client.send("GET", "/v1/models", "x-api-key: k\r\n", "");
    assert_eq!(client.receive().unwrap().json()["data"][0]["id"], "mock-1");
    client.send("HEAD", "/health", "", "");
    let head = client.receive_to("HEAD").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, "15"));
    let stats: Stats = serde_json::from_value(client.get("/stats").json()).unwrap();
    assert_eq!(stats, mock.stats());
    assert_eq!((stats.requests, stats.connections), (3, 1));
}

#[test]
fn requests_may_be_chunked_pipelined_and_announced() {
    let mock = start(MockOptions {
        record_requests: true,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let expect = client.post(CHAT, HELLO);
    let (left, right) = HELLO.split_at(10);
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{left}\r\n{:x};x=y\r\n{right}\r\n0\r\nt: u\r\n\r\n",
        left.len(),
        right.len()
    );
    client
        .stream
        .write_all(format!("{chunked}{chunked}").as_bytes())
        .unwrap();
    assert_eq!(client.receive().unwrap(), expect);
    assert_eq!(client.receive().unwrap(), expect);

    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        HELLO.len()
    );
    client.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap().status, 100);
    client.stream.write_all(HELLO.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap(), expect);

    let requests = mock.requests();
    assert_eq!(requests.len(), 4);
    assert!(
        requests
            .iter()
            .all(|request| request.body == HELLO.as_bytes() && request.connection == 0)
    );
    assert_eq!(
        (requests[0].method.as_str(), requests[0].target.as_str()),
        ("POST", CHAT)
    );
    assert_eq!(
        requests[0].header("Content-Length"),
        Some(HELLO.len().to_string().as_str())
    );
    assert!(requests.is_sorted_by_key(|request| request.arrived));
}

#[test]
fn a_connection_ends_when_the_client_says_so() {
    let mock = start(MockOptions::default());
    for request in [
        format!(
            "POST {CHAT} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        ),
        format!(
            "POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        ),
    ] {
        let mut client = Client::connect(mock.address());
        client.stream.write_all(request.as_bytes()).unwrap();
        let response = client.receive().unwrap();
        assert_eq!(
            (response.status, response.header("connection")),
            (200, "close")
        );
        assert_eq!(client.next_read(), Ok(0));
    }
    // HTTP/1.0 knows no chunks.
    let streamed = HELLO.replace("{\"model\"", "{\"stream\":true,\"model\"");
    let mut client = Client::connect(mock.address());
    let head = format!(
        "POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n",
        streamed.len()
    );
    client
        .stream
        .write_all(format!("{head}{streamed}").as_bytes())
        .unwrap();
    let response = client.receive().unwrap();
    assert_eq!(response.header("transfer-encoding"), "");
    assert!(response.body.ends_with(b"data: [DONE]\n\n"));
}

#[test]
fn a_broken_request_is_answered_and_closed() {
    let mock = start(MockOptions::default());
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 999999999\r\n\r\n".to_owned(),
            413,
        ),
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(70_000)),
            431,
        ),
    ] {
        let mut client = Client::connect(mock.address());
        client.stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(client.receive().unwrap().status, status);
        assert_eq!(client.next_read(), Ok(0));
    }
}

#[test]
fn it_serves_https() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mock = start(MockOptions {
        tls: Some(Arc::new(server)),
        ..MockOptions::default()
    });
    assert!(mock.url(CHAT).starts_with("https://127.0.0.1:"));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = rustls::StreamOwned::new(session, TcpStream::connect(mock.address()).unwrap());
    let mut client = Client {
        stream,
        buffer: Vec::new(),
    };
    let response = client.post(CHAT, HELLO);
    assert_eq!(response, once(&start(MockOptions::default()), CHAT, HELLO));
}
