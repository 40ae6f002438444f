//! The library as another program uses it: any executor, or none.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use blaze_uring::config::{RequestConfig, RetryConfig, RuntimeChoice};
use blaze_uring::mock::{Mock, Scripted};
use blaze_uring::{Config, EndpointConfig, ProcessingResult, Processor, RunError};
use support::{Place, WATCHDOG, mock, runtimes, scripted};

const LINES: [&str; 3] = [r#"{"input":"a"}"#, "broken", r#"{"input":"b"}"#];

/// Wakes the thread that waits in [`block_on`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is: no timers, no sockets, one future. Gives up after [`WATCHDOG`].
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "the future was never woken");
        thread::park_timeout(left);
    }
}

fn config(mock: &Mock, runtime: &str) -> Config {
    Config {
        endpoints: vec![EndpointConfig {
            url: mock.url("/v1/chat/completions"),
            ..Default::default()
        }],
        request: RequestConfig {
            workers: 2,
            ..Default::default()
        },
        retry: RetryConfig {
            max_attempts: 2,
            initial_backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(5),
            ..Default::default()
        },
        runtime: runtime.parse::<RuntimeChoice>().expect("a runtime"),
        ..Default::default()
    }
}

fn check(result: &ProcessingResult, place: &Place, mock: &Mock) {
    assert_eq!(result.lines, 3);
    assert_eq!(result.total_processed, 3);
    assert_eq!(result.success_count, 2);
    assert_eq!(result.failure_count, 1);
    assert_eq!(result.not_finished, 0);
    assert!(result.stopped.is_none());
    result.print_summary();
    let inputs: Vec<_> = place
        .records("out.jsonl")
        .iter()
        .map(|record| record["input"].clone())
        .collect();
    assert_eq!(inputs, ["a", "b"]);
    assert_eq!(place.records("errors.jsonl")[0]["raw"], "broken");
    assert_eq!(place.listing(), ["errors.jsonl", "in.jsonl", "out.jsonl"]);
    assert_eq!(mock.stats().requests, 2);
}

#[test]
fn a_file_is_processed_on_any_executor() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let result = block_on(async {
            Processor::new(config(&mock, runtime))?
                .process_file(
                    place.path("in.jsonl"),
                    Some(place.path("out.jsonl")),
                    place.path("errors.jsonl"),
                    true,
                )
                .await
        });
        check(&result.expect("it runs"), &place, &mock);
    }
}

#[test]
fn a_file_is_processed_without_an_executor() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let processor = Processor::new(config(&mock, runtime)).expect("a valid config");
        let result = processor.process_file_blocking(
            place.path("in.jsonl"),
            Some(place.path("out.jsonl")),
            place.path("errors.jsonl"),
            false,
        );
        check(&result.expect("it runs"), &place, &mock);
    }
}

#[test]
fn inside_a_tokio_runtime_nothing_blocks() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let processor = Processor::new(config(&mock, runtime)).expect("a valid config");
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let result = tokio.block_on(async {
            let run = processor.process_file(
                place.path("in.jsonl"),
                Some(place.path("out.jsonl")),
                place.path("errors.jsonl"),
                false,
            );
            // A future that outlives what made it.
            drop(processor);
            tokio::time::timeout(WATCHDOG, run).await.expect("in time")
        });
        check(&result.expect("it runs"), &place, &mock);
    }
}

#[test]
fn several_runs_share_a_processor() {
    for runtime in runtimes() {
        let mock = mock();
        let processor = Processor::new(config(&mock, runtime)).expect("a valid config");
        let places = [Place::new(), Place::new(), Place::new()];
        let runs: Vec<_> = places
            .iter()
            .map(|place| {
                place.input(&[r#"{"input":"a"}"#; 10]);
                processor.process_file(
                    place.path("in.jsonl"),
                    Some(place.path("out.jsonl")),
                    place.path("errors.jsonl"),
                    false,
                )
            })
            .collect();
        for (run, place) in runs.into_iter().zip(&places) {
            assert_eq!(block_on(run).expect("it runs").success_count, 10);
            assert_eq!(place.records("out.jsonl").len(), 10);
        }
        assert_eq!(mock.stats().requests, 30);
    }
}

#[test]
fn successes_may_only_be_counted() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::json(200, r#"{"choices":[{"text":"a"}]}"#)));
        place.input(&[r#"{"input":"a"}"#]);
        let processor = Processor::new(config(&mock, runtime)).expect("a valid config");
        let result = processor
            .process_file_blocking(
                place.path("in.jsonl"),
                None,
                place.path("errors.jsonl"),
                false,
            )
            .expect("it runs");
        assert_eq!(result.success_count, 1);
        assert_eq!(place.listing(), ["in.jsonl"]);
    }
}

/// What programs written for blaze-api say, with the crate's name changed. That crate's endpoints have these
/// five fields and no others.
async fn as_for_blaze_api(
    url: String,
    place: &Place,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = Config {
        endpoints: vec![EndpointConfig {
            url,
            weight: 1,
            api_key: Some("your-key".to_string()),
            model: Some("gpt-4".to_string()),
            max_concurrent: 100,
            ..Default::default()
        }],
        ..Default::default()
    };

    let processor = Processor::new(config)?;
    let result = processor
        .process_file(
            place.path("in.jsonl"),
            Some(place.path("out.jsonl")),
            place.path("errors.jsonl"),
            true,
        )
        .await?;

    result.print_summary();
    Ok(())
}

#[test]
fn a_program_written_for_blaze_api_runs() {
    let (place, mock) = (Place::new(), mock());
    place.input(&[r#"{"input":"What is the capital of France?"}"#]);
    block_on(as_for_blaze_api(mock.url("/v1/completions"), &place)).expect("it runs");
    let request = &mock.requests()[0];
    assert_eq!(request.target, "/v1/completions");
    assert_eq!(request.header("authorization"), Some("Bearer your-key"));
    assert_eq!(
        request.body,
        br#"{"prompt":"What is the capital of France?","model":"gpt-4"}"#
    );
    assert_eq!(place.records("out.jsonl").len(), 1);
}

#[test]
fn a_configuration_is_read_from_a_file() {
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&LINES);
        let url = mock.url("/v1");
        for (name, text) in [
            (
                "c.json",
                format!(
                    r#"{{"endpoints": [{{"url": "{url}", "api_key": "k\n"}}], "runtime": "{runtime}", "input": "x"}}"#
                ),
            ),
            (
                "c.toml",
                format!("runtime = '{runtime}'\n[[endpoints]]\nurl = '{url}'\napi_key = 'k'\n"),
            ),
            (
                "c.yaml",
                format!("runtime: {runtime}\nendpoints:\n  - {{url: '{url}', api_key: k}}\n"),
            ),
        ] {
            let path = place.write(name, text);
            let config = Config::from_file(&path).expect("a configuration");
            assert_eq!(config.endpoints[0].api_key.as_deref(), Some("k"), "{name}");
            assert_eq!(config.request, RequestConfig::default());
            let output = place.path(&format!("{name}.out"));
            let errors = place.path(&format!("{name}.errors"));
            let result = Processor::new(config)
                .expect("a valid config")
                .process_file_blocking(place.path("in.jsonl"), Some(output), errors, false)
                .expect("it runs");
            assert_eq!(
                (result.success_count, result.failure_count),
                (2, 1),
                "{name}"
            );
        }
        let path = place.write("c.json", "{\n\"endpoints\": [{\"uri\": \"x\"}]}");
        let refused = Config::from_file(&path).expect_err("refused").to_string();
        assert!(refused.contains("c.json:2: endpoints[0]"), "{refused}");
        let missing = Config::from_file(place.path("none.json")).expect_err("refused");
        assert!(missing.to_string().contains("none.json"), "{missing}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_happens() {
    let mock = mock();
    let no_endpoint = Processor::new(Config::default()).err().expect("refused");
    assert!(matches!(no_endpoint, RunError::Config(_)), "{no_endpoint}");
    assert!(no_endpoint.to_string().contains("no endpoint configured"));

    let mut weightless = config(&mock, "auto");
    weightless.endpoints[0].weight = 0;
    let refused = Processor::new(weightless).err().expect("refused");
    assert!(
        refused.to_string().contains("endpoints[0].weight"),
        "{refused}"
    );

    let place = Place::new();
    let processor = Processor::new(config(&mock, "auto")).expect("a valid config");
    let missing = processor.process_file(
        place.path("none.jsonl"),
        Some(place.path("out.jsonl")),
        place.path("errors.jsonl"),
        false,
    );
    let refused = block_on(missing).expect_err("refused");
    assert!(matches!(refused, RunError::Input(_)), "{refused}");
    place.input(&["{}"]);
    let same = processor
        .process_file_blocking(
            place.path("in.jsonl"),
            Some(place.path("in.jsonl")),
            place.path("errors.jsonl"),
            false,
        )
        .expect_err("refused");
    assert!(matches!(same, RunError::Target(_)), "{same}");
    assert_eq!(place.listing(), ["in.jsonl"]);
    assert_eq!(mock.stats().requests, 0);
}

#[test]
fn no_secret_shows_in_debug_output() {
    let mock = mock();
    let mut secretive = config(&mock, "auto");
    secretive.endpoints[0].api_key = Some("s3cr3t-8f2a".into());
    secretive.endpoints[0]
        .headers
        .insert("x-token".to_owned(), "s3cr3t-8f2a".into());
    let shown = format!("{secretive:?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
}
