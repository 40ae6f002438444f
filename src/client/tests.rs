//! The client against scripted servers, on both runtimes.

#[path = "../../tests/support/authority.rs"]
mod authority;
mod exchange;
mod http2;
mod http2_server;
mod secure;
mod server;
mod trouble;

use std::future::Future;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::http::{Limits, MAX_HEAD_BYTES, Scheme};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime, buffers};

/// Longer than any of these tests takes; a hang fails instead of blocking the suite.
const PATIENCE: Duration = Duration::from_secs(30);
/// For exchanges that are to succeed.
const AMPLE: Duration = Duration::from_secs(20);
/// For exchanges that are to time out.
const BRIEF: Duration = Duration::from_millis(80);

/// Runs `test` on a thread of its own and fails if it panics or hangs.
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, outcome) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match outcome.recv_timeout(PATIENCE) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            runner.join().expect("the test's own panic is above");
        }
    }
}

/// One test per runtime and behaviour. Where the kernel refuses io_uring its half is skipped, as
/// the program itself would fall back.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod on_tokio { $(#[test] fn $test() {
            crate::client::tests::bounded(super::$test::<crate::runtime::tokio::Tokio>);
        })* }
        mod on_uring { $(#[test] fn $test() {
            if crate::runtime::uring_available().is_ok() {
                crate::client::tests::bounded(super::$test::<crate::runtime::uring::Uring>);
            }
        })* }
    };
}
use on_both;

fn target(scheme: Scheme, host: &str, port: u16) -> Target {
    let origin = Origin {
        scheme,
        host: host.to_owned(),
        port,
    };
    Target {
        origin,
        connect_timeout: AMPLE,
        proxy: None,
        http2: None,
    }
}

fn settings() -> PoolSettings {
    PoolSettings {
        limits: Limits {
            head_bytes: MAX_HEAD_BYTES,
            body_bytes: 16 << 20,
        },
        idle_timeout: Duration::from_secs(60),
        tls: None,
    }
}

/// Runs `main` with a pool that is swept every few milliseconds.
fn with_pool<R: Runtime, F: Future<Output = ()>>(
    settings: PoolSettings,
    target: Target,
    main: impl FnOnce(Rc<Pool<R>>) -> F,
) {
    R::run(async {
        let resolver = Resolver::start().expect("resolver threads start");
        let pool = Pool::<R>::new(settings, vec![target], resolver);
        let swept = Rc::downgrade(&pool);
        R::spawn(async move {
            while let Some(pool) = swept.upgrade() {
                pool.sweep(runtime::now());
                drop(pool);
                R::sleep_until(runtime::now() + Duration::from_millis(5)).await;
            }
        });
        main(pool).await;
    })
    .expect("the runtime starts");
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1 HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// One exchange.
async fn post<R: Runtime>(pool: &Pool<R>, body: &[u8], patience: Duration) -> Exchange {
    exchange(pool, &request(body), patience, |_| {}).await
}

/// One exchange of a whole request. The answer's buffer goes back with old contents, so that the
/// next one shows if they are not dropped.
async fn exchange<R: Runtime>(
    pool: &Pool<R>,
    sent: &[u8],
    patience: Duration,
    mut on_body: impl FnMut(&[u8]),
) -> Exchange {
    let on_body = move |bytes: &[u8]| {
        on_body(bytes);
        Wanted::More
    };
    let start = runtime::now();
    let write = |out: &mut Vec<u8>| {
        assert!(out.is_empty(), "the request gets an empty buffer");
        out.extend_from_slice(sent);
    };
    let exchange = pool
        .exchange(0, start, start + patience, write, on_body)
        .await;
    buffers::give_back(b"old contents".to_vec());
    exchange
}

impl Exchange {
    fn body(&self) -> &str {
        let response = self.result.as_ref().expect("a response");
        std::str::from_utf8(&self.reply[response.body.clone()]).expect("test bodies are UTF-8")
    }

    fn status(&self) -> u16 {
        self.result.as_ref().expect("a response").status
    }

    fn failure(&self) -> (crate::error::ErrorKind, String) {
        let failure = self.result.as_ref().expect_err("a failure");
        (failure.kind(), failure.to_string())
    }
}
