//! What becomes of those who wait when the engine breaks.

use std::time::Duration;

use super::engine::Order;
use super::*;
use crate::config::{EndpointConfig, RuntimeChoice};
use crate::mock::{Mock, MockOptions};
use crate::runtime::uring_available;

/// Far above what anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn check_panic(runtime: RuntimeChoice) {
    let mock = Mock::start(MockOptions {
        latency: "1h".parse().expect("a latency"),
        ..MockOptions::default()
    })
    .expect("a mock");
    let client = Client::new(Config {
        endpoints: vec![EndpointConfig {
            url: mock.url("/v1"),
            model: Some("trial".to_owned()),
            ..EndpointConfig::default()
        }],
        runtime,
        ..Config::default()
    })
    .expect("a client");
    let options = CallOptions {
        timeout: Some(Duration::from_secs(3600)),
        ..CallOptions::default()
    };
    let open: Vec<Handle> = (0..3)
        .map(|_| client.submit_chat_completion_with("hi", &options))
        .collect();
    assert!(client.orders.send(Order::Panic).is_ok());
    for handle in open {
        let outcome = handle.wait(LONG).expect("nobody waits for ever");
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
        assert!(error.message.contains("broken on purpose"), "{error}");
    }
    // The next ones fail at once, the report still comes, and closing does not hang.
    let late = client.submit_chat_completion("hi").wait(LONG);
    assert_eq!(
        late.map(|outcome| outcome.unwrap_err().kind),
        Some(ErrorKind::Cancelled)
    );
    client.report();
    client.close();
}

#[test]
fn an_engine_that_panics_fails_every_open_call() {
    check_panic(RuntimeChoice::Tokio);
    if uring_available().is_ok() {
        check_panic(RuntimeChoice::Uring);
    }
}
