//! The hot path allocates nothing: once warm, a plain exchange runs on buffers that go from one
//! request to the next. Counted by an allocator that knows which thread asks.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use blaze_uring::client::{Pool, PoolSettings, Target, Wanted};
use blaze_uring::http::{Limits, MAX_HEAD_BYTES, Origin, Scheme};
use blaze_uring::runtime::dns::Resolver;
use blaze_uring::runtime::{self, Runtime, buffers, tokio::Tokio, uring::Uring};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has nothing left to count.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps this trait's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"POST /v1 HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nping";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    x-ratelimit-remaining-requests: 99\r\ncontent-length: 14\r\n\r\n{\"id\": \"pong\"}";

fn serve(listener: TcpListener) {
    let (mut stream, _) = listener.accept().expect("a client comes");
    stream.set_nodelay(true).expect("an option of TCP");
    let mut request = [0; REQUEST.len()];
    while stream.read_exact(&mut request).is_ok() {
        if stream.write_all(REPLY).is_err() {
            return;
        }
    }
}

fn check<R: Runtime>() {
    const WARM_UP: usize = 100;
    const EXCHANGES: usize = 1000;
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let port = listener.local_addr().expect("a bound address").port();
    thread::spawn(move || serve(listener));
    let settings = PoolSettings {
        limits: Limits {
            head_bytes: MAX_HEAD_BYTES,
            body_bytes: 1 << 20,
        },
        idle_timeout: Duration::from_secs(60),
        tls: None,
    };
    let target = Target {
        origin: Origin {
            scheme: Scheme::Http,
            host: "127.0.0.1".to_owned(),
            port,
        },
        connect_timeout: Duration::from_secs(10),
        proxy: None,
        http2: None,
    };
    R::run(async {
        let resolver = Resolver::start().expect("threads start");
        let pool = Pool::<R>::new(settings, vec![target], resolver);
        let mut before = 0;
        for turn in 0..WARM_UP + EXCHANGES {
            if turn == WARM_UP {
                before = ALLOCATIONS.get();
            }
            let start = runtime::now();
            let deadline = start + Duration::from_secs(10);
            let write = |request: &mut Vec<u8>| request.extend_from_slice(REQUEST);
            let exchange = pool
                .exchange(0, start, deadline, write, |_| Wanted::More)
                .await;
            let response = exchange.result.expect("the server answers");
            assert_eq!((response.status, response.reusable), (200, true));
            pool.sweep(runtime::now());
            buffers::give_back(exchange.reply);
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(allocations, 0, "{}: {EXCHANGES} exchanges", R::NAME);
        assert_eq!(pool.stats().opened, 1);
    })
    .expect("the runtime starts");
}

#[test]
fn a_warm_exchange_allocates_nothing_on_tokio() {
    check::<Tokio>();
}

#[test]
fn a_warm_exchange_allocates_nothing_on_io_uring() {
    if runtime::uring_available().is_ok() {
        check::<Uring>();
    }
}
