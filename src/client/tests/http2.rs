//! HTTP/2: exchanges that share connections, and what goes wrong on one stream or on all.

mod faults;
mod flow;
mod frames;
mod sharing;
mod trouble;

use ::h2::server::Builder;
use ::http::Response;

use super::server::{Server, read_request};
use super::*;

fn known(server: &Server) -> Target {
    Target {
        http2: Some(true),
        ..target(Scheme::Http, "127.0.0.1", server.address.port())
    }
}

fn builder(streams_max: u32) -> Builder {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(streams_max);
    builder
}

/// Runs `count` exchanges at once, each with a body of its own, and hands them to `check`.
async fn post_all<R: Runtime>(
    pool: &Rc<Pool<R>>,
    count: usize,
    patience: Duration,
    check: impl Fn(usize, &str, Exchange) + Clone + 'static,
) {
    let (done, finished) = runtime::mailbox::channel();
    for number in 0..count {
        let (pool, done, check) = (Rc::clone(pool), done.clone(), check.clone());
        R::spawn(async move {
            let text = format!("{number}/{}", "x".repeat(number * 50));
            let exchange = post(&pool, text.as_bytes(), patience).await;
            check(number, &text, exchange);
            let _ = done.send(());
        });
    }
    drop(done);
    for _ in 0..count {
        finished
            .recv()
            .await
            .expect("every exchange passes its check");
    }
}

/// Yields until `condition` holds; the test's own patience bounds it.
async fn until<R: Runtime>(condition: impl Fn() -> bool) {
    while !condition() {
        R::sleep_until(runtime::now() + Duration::from_millis(2)).await;
    }
}
