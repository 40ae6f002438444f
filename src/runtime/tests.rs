//! What every backend must do, checked on each of them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::*;
use crate::runtime::tokio::Tokio;
use crate::runtime::uring::Uring;

/// Longer than any of these tests takes; a hang fails instead of blocking the suite.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` on a thread of its own and fails if it panics or hangs.
pub(super) fn bounded(test: impl FnOnce() + Send + 'static) {
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

fn run<R: Runtime>(main: impl Future<Output = ()>) {
    R::run(main).expect("the runtime starts");
}

fn with_capacity(bytes: usize) -> Vec<u8> {
    Vec::with_capacity(bytes)
}

fn reads_append_and_writes_return_the_buffer<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        let mut seen = [0; 4];
        stream.read_exact(&mut seen).expect("four bytes");
        stream.write_all(b"pong").expect("the client reads");
        seen
    });
    run::<R>(async {
        let mut socket = R::connect(address).await.expect("loopback connects");
        let (outcome, request) = socket.writer.write_all(b"ping".to_vec()).await;
        outcome.expect("the server reads");
        assert_eq!(request, b"ping");
        let mut reply = with_capacity(64);
        reply.extend_from_slice(b"before ");
        while reply.len() < 11 {
            let (outcome, buffer) = socket.reader.read(reply).await;
            assert!(outcome.expect("the server answers") > 0);
            reply = buffer;
        }
        assert_eq!(reply, b"before pong");
        let (outcome, reply) = socket.reader.read(reply).await;
        assert_eq!(
            (outcome.expect("a clean close"), &reply[..]),
            (0, &b"before pong"[..])
        );
    });
    assert_eq!(&server.join().expect("the server passes"), b"ping");
}

fn a_reader_is_ready_when_there_is_something_to_read<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    run::<R>(async {
        let mut socket = R::connect(address).await.expect("loopback connects");
        let (mut peer, _) = listener.accept().expect("the connection is queued");
        let told = Rc::new(Cell::new(false));
        let flag = Rc::clone(&told);
        R::spawn(async move {
            R::sleep_until(now() + Duration::from_millis(20)).await;
            flag.set(true);
            peer.write_all(b"!").expect("loopback takes a byte");
        });
        socket.reader.ready().await;
        assert!(told.get(), "nothing had come before");
        let (outcome, buffer) = socket.reader.read(with_capacity(16)).await;
        assert_eq!((outcome.expect("one byte"), &buffer[..]), (1, &b"!"[..]));
        // The peer's end has been dropped by now: the end of the stream makes ready, too.
        socket.reader.ready().await;
        let (outcome, _) = socket.reader.read(with_capacity(16)).await;
        assert_eq!(outcome.expect("a clean close"), 0);
    });
}

fn a_send_is_over_when_the_answer_comes_and_wakes_only_if_it_fails<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let server = thread::spawn(move || {
        for length in [1000, 16 << 20] {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let mut request = vec![0; length];
            stream.read_exact(&mut request).expect("all of it");
            assert!(request == pattern(length), "every byte in its place");
            stream.write_all(b"!").expect("the client reads");
        }
        // What nobody has read makes the close a reset.
        let (mut stream, _) = listener.accept().expect("a client comes");
        stream.read_exact(&mut [0]).expect("its first byte");
    });
    run::<R>(async {
        let (done, finished) = mailbox::channel();
        for length in [1000, 16 << 20] {
            let mut socket = R::connect(address).await.expect("loopback connects");
            let done = done.clone();
            R::spawn(async move {
                let mut send = pin!(socket.writer.send(pattern(length)));
                let mut read = pin!(socket.reader.read(with_capacity(1)));
                let (mut polls, mut sent) = (0, None);
                let (outcome, answer) = poll_fn(|context| {
                    polls += 1;
                    if sent.is_none()
                        && let Poll::Ready(outcome) = send.as_mut().poll(context)
                    {
                        sent = Some(outcome.is_ok());
                    }
                    read.as_mut().poll(context)
                })
                .await;
                assert_eq!((outcome.expect("a byte"), &answer[..]), (1, &b"!"[..]));
                done.send((sent, polls)).expect("the test waits");
            });
            let (sent, polls) = finished.recv().await.expect("it reports");
            assert_eq!(sent, Some(true));
            if R::NAME != Tokio::NAME {
                assert_eq!(polls, 2, "woken by the answer alone");
            }
        }
        let mut socket = R::connect(address).await.expect("loopback connects");
        let outcome = socket.writer.send(pattern(16 << 20)).await;
        outcome.expect_err("the server closes");
    });
    server.join().expect("the server passes");
}

fn a_refused_connection_is_an_error<R: Runtime>() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        listener.local_addr().expect("a bound address")
    };
    run::<R>(async {
        let error = R::connect(address).await.err().expect("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

fn abort_ends_operations_in_flight_and_never_outlives_the_socket<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    run::<R>(async {
        let mut socket = R::connect(address).await.expect("loopback connects");
        let (_held, _) = listener.accept().expect("the connection is queued");
        let abort = socket.abort.clone();
        let ended = Rc::new(Cell::new(false));
        let flag = Rc::clone(&ended);
        R::spawn(async move {
            R::yield_now().await;
            assert!(!flag.get(), "the read waits");
            abort.abort();
        });
        let (outcome, _) = socket.reader.read(with_capacity(16)).await;
        assert!(matches!(outcome, Ok(0) | Err(_)), "{outcome:?}");
        ended.set(true);

        // More than the socket buffers take, and nobody reads.
        let mut socket = R::connect(address).await.expect("loopback connects");
        let (_held, _) = listener.accept().expect("the connection is queued");
        let abort = socket.abort.clone();
        R::spawn(async move {
            R::sleep_until(now() + Duration::from_millis(20)).await;
            abort.abort();
        });
        let (outcome, buffer) = socket.writer.write_all(vec![b'x'; 64 << 20]).await;
        outcome.expect_err("the write was aborted");
        assert_eq!(buffer.len(), 64 << 20);

        // The next connection may get the same descriptor; the old handle must not touch it.
        let stale = socket.abort.clone();
        drop(socket);
        R::yield_now().await;
        let mut fresh = R::connect(address).await.expect("loopback connects");
        let (mut peer, _) = listener.accept().expect("the connection is queued");
        stale.abort();
        fresh
            .writer
            .write_all(b"ok".to_vec())
            .await
            .0
            .expect("the new socket is open");
        let mut seen = [0; 2];
        peer.read_exact(&mut seen).expect("two bytes");
        assert_eq!(&seen, b"ok");
    });
}

/// Bytes that tell their place, for 16 MB and more.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(4) as u32)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes());
    words.take(length).collect()
}

fn what_comes_while_nobody_reads_is_kept_in_order<R: Runtime>() {
    a_peer_waits_while_nobody_reads::<R>(10);
}

fn a_peer_waits_also_after_a_part_was_read<R: Runtime>() {
    a_peer_waits_while_nobody_reads::<R>(11);
}

/// The peer sends `first` bytes, of which ten are read, and then as much as it can before anybody reads on.
fn a_peer_waits_while_nobody_reads<R: Runtime>(first: usize) {
    /// More than sockets' buffers take.
    const LENGTH: usize = 24 << 20;
    /// A peer that cannot send anything for so long is held back.
    const STUCK: Duration = Duration::from_millis(200);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let (held, is_held) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        let bytes = pattern(LENGTH);
        stream.write_all(&bytes[..first]).expect("the client reads");
        stream
            .set_write_timeout(Some(STUCK))
            .expect("a time to give up after");
        let mut sent = first;
        while sent < LENGTH {
            match stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = held.send(sent);
                    stream.set_write_timeout(None).expect("a socket");
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    run::<R>(async {
        let mut socket = R::connect(address).await.expect("loopback connects");
        // From here on the ring may receive without being asked.
        let (outcome, mut received) = socket.reader.read(with_capacity(10)).await;
        outcome.expect("ten bytes");
        while is_held.try_recv().is_err() {
            R::yield_now().await;
        }
        while received.len() < LENGTH {
            received.reserve(1 + received.len() % 5000);
            let (outcome, buffer) = socket.reader.read(received).await;
            assert_ne!(outcome.expect("the rest comes"), 0);
            received = buffer;
        }
        assert!(received == pattern(LENGTH), "every byte in its place");
    });
    server.join().expect("the server passes");
}

fn more_answers_at_once_than_a_ring_has_buffers<R: Runtime>() {
    const CONNECTIONS: usize = 400;
    const ANSWER: usize = 9000;
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let server = thread::spawn(move || {
        let accepted = (0..CONNECTIONS).map(|_| listener.accept().expect("a client comes").0);
        let mut streams: Vec<_> = accepted.collect();
        for stream in &mut streams {
            stream.read_exact(&mut [0]).expect("each asks");
        }
        // Nobody is answered before everybody waits.
        for (number, stream) in streams.iter_mut().enumerate() {
            let answer = &pattern(CONNECTIONS + ANSWER)[number..][..ANSWER];
            stream.write_all(answer).expect("the client reads");
        }
    });
    run::<R>(async {
        let (done, finished) = mailbox::channel();
        let expected = Rc::new(pattern(CONNECTIONS + ANSWER));
        for number in 0..CONNECTIONS {
            let mut socket = R::connect(address).await.expect("loopback connects");
            let (done, expected) = (done.clone(), Rc::clone(&expected));
            R::spawn(async move {
                socket
                    .writer
                    .write_all(vec![b'?'])
                    .await
                    .0
                    .expect("a question");
                let mut answer = with_capacity(ANSWER);
                while answer.len() < ANSWER {
                    let (outcome, buffer) = socket.reader.read(answer).await;
                    assert_ne!(outcome.expect("an answer"), 0);
                    answer = buffer;
                }
                assert!(
                    answer == expected[number..][..ANSWER],
                    "its own answer: {number}"
                );
                done.send(()).expect("the test waits");
            });
        }
        for _ in 0..CONNECTIONS {
            finished.recv().await.expect("each reports");
        }
    });
    server.join().expect("the server passes");
}

/// Bytes, and right behind them the end: the shard looks when all of that has happened.
fn an_end_right_behind_bytes_is_told<R: Runtime>() {
    const CONNECTIONS: usize = 50;
    for reset in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("a bound address");
        let (ask, asked) = mpsc::channel::<()>();
        let (ended, all_ended) = mpsc::channel::<()>();
        let server = thread::spawn(move || {
            let accepted = (0..CONNECTIONS).map(|_| listener.accept().expect("a client comes").0);
            let mut streams: Vec<_> = accepted.collect();
            asked.recv().expect("everybody reads");
            for stream in &mut streams {
                stream.write_all(b"half").expect("the client reads");
                if reset {
                    let linger = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
                    linger.expect("a socket takes it");
                }
            }
            drop(streams);
            ended.send(()).expect("the test waits");
        });
        run::<R>(async {
            let (done, finished) = mailbox::channel();
            for _ in 0..CONNECTIONS {
                let mut socket = R::connect(address).await.expect("loopback connects");
                let done = done.clone();
                R::spawn(async move {
                    let mut answer = with_capacity(64);
                    let end = loop {
                        let (outcome, buffer) = socket.reader.read(answer).await;
                        answer = buffer;
                        match outcome {
                            Ok(0) => break None,
                            Ok(_) => {}
                            Err(error) => break Some(error.kind()),
                        }
                    };
                    done.send((answer, end)).expect("the test waits");
                });
            }
            R::yield_now().await;
            R::sleep_until(now() + Duration::from_millis(1)).await;
            ask.send(()).expect("the server waits");
            all_ended.recv().expect("the server ends them");
            let end = reset.then_some(std::io::ErrorKind::ConnectionReset);
            for number in 0..CONNECTIONS {
                let told = finished.recv().await.expect("each reports");
                assert_eq!(told, (b"half".to_vec(), end), "{number}, reset: {reset}");
            }
        });
        server.join().expect("the server passes");
    }
}

fn sockets_that_never_rest_starve_nobody<R: Runtime>() {
    // So many that there is always something to read.
    const FLOODS: usize = 32;
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let server = thread::spawn(move || {
        let accepted = (0..FLOODS).map(|_| listener.accept().expect("a client comes").0);
        let streams: Vec<_> = accepted.collect();
        let floods = streams.into_iter().map(|mut stream| {
            thread::spawn(move || while stream.write_all(&[b'x'; 1 << 16]).is_ok() {})
        });
        floods
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|flood| flood.join().expect("no panic"));
    });
    let (sender, messages) = mailbox::channel();
    run::<R>(async {
        let over = Rc::new(Cell::new(false));
        for _ in 0..FLOODS {
            let mut socket = R::connect(address).await.expect("loopback connects");
            let over = Rc::clone(&over);
            R::spawn(async move {
                let mut buffer = with_capacity(1024);
                while !over.get() {
                    let (outcome, read) = socket.reader.read(buffer).await;
                    // The end of the run ends whoever waits just then.
                    assert!(outcome.is_ok() || over.get(), "bytes without end");
                    buffer = read;
                    buffer.clear();
                }
            });
        }
        R::sleep_until(now() + Duration::from_millis(50)).await;
        let messenger = thread::spawn(move || sender.send(7));
        assert_eq!(messages.recv().await, Some(7));
        over.set(true);
        messenger
            .join()
            .expect("no panic")
            .expect("the test listens");
    });
    server.join().expect("the server passes");
}

fn a_runtime_ends_with_operations_in_flight<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    run::<R>(async {
        for _ in 0..8 {
            let socket = R::connect(address).await.expect("loopback connects");
            let Socket {
                mut reader,
                mut writer,
                ..
            } = socket;
            R::spawn(async move {
                let _ = reader.read(with_capacity(16)).await;
            });
            R::spawn(async move {
                let _ = writer.write_all(vec![b'x'; 16 << 20]).await;
            });
        }
        R::yield_now().await;
    });
    // The peer sees every connection end, so nothing is left of them.
    for _ in 0..8 {
        let (mut peer, _) = listener.accept().expect("the connection is queued");
        let _ = peer.read_to_end(&mut Vec::new());
    }
}

fn timers_fire_in_order<R: Runtime>() {
    run::<R>(async {
        let start = now();
        let order = Rc::new(RefCell::new(Vec::new()));
        for milliseconds in [30, 10, 20] {
            let order = Rc::clone(&order);
            R::spawn(async move {
                R::sleep_until(start + Duration::from_millis(milliseconds)).await;
                order.borrow_mut().push(milliseconds);
            });
        }
        R::sleep_until(start + Duration::from_millis(60)).await;
        assert_eq!(*order.borrow(), [10, 20, 30]);
        assert!(now() >= start + Duration::from_millis(60));
        R::sleep_until(start).await;
    });
}

fn yielding_lets_tasks_and_the_kernel_work<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    run::<R>(async {
        let mut socket = R::connect(address).await.expect("loopback connects");
        let (mut peer, _) = listener.accept().expect("the connection is queued");
        let answered = Rc::new(Cell::new(false));
        let flag = Rc::clone(&answered);
        R::spawn(async move {
            let (outcome, buffer) = socket.reader.read(with_capacity(16)).await;
            assert_eq!((outcome.expect("one byte"), &buffer[..]), (1, &b"!"[..]));
            flag.set(true);
        });
        R::yield_now().await;
        peer.write_all(b"!").expect("loopback takes a byte");
        // Never idle: the read must complete although this task never waits for anything else.
        while !answered.get() {
            R::yield_now().await;
        }
    });
}

fn a_mailbox_wakes_a_parked_shard<R: Runtime>() {
    const PINGS: u32 = 100_000;
    const FLOOD: u32 = 100_000;
    let (sender, mailbox) = mailbox::channel();
    let turn = Arc::new(AtomicU32::new(0));
    let asked = Arc::clone(&turn);
    let senders = thread::spawn(move || {
        // Each message is sent a varying moment after the shard asks for it, so that it falls
        // before, into and behind the shard's way to sleep: one lost wake-up hangs the test.
        for number in 0..PINGS {
            while asked.load(Ordering::Acquire) <= number {
                thread::yield_now();
            }
            (0..number % 256).for_each(|_| std::hint::spin_loop());
            sender.send(number).expect("the shard listens");
        }
        // And a flood from two threads at once.
        let second = sender.clone();
        let other = thread::spawn(move || {
            (0..FLOOD / 2).for_each(|_| second.send(1).expect("the shard listens"));
        });
        (0..FLOOD / 2).for_each(|_| sender.send(1).expect("the shard listens"));
        other.join().expect("the second sender passes");
    });
    run::<R>(async {
        for number in 0..PINGS {
            turn.store(number + 1, Ordering::Release);
            assert_eq!(mailbox.recv().await, Some(number));
        }
        let mut received = 0;
        while let Some(one) = mailbox.recv().await {
            received += one;
        }
        assert_eq!(
            received, FLOOD,
            "and the end of the senders ends the mailbox"
        );
        assert_eq!(mailbox.try_recv(), None);
    });
    senders.join().expect("the senders pass");
}

fn a_panic_ends_its_task_only<R: Runtime>() {
    run::<R>(async {
        let caught = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&caught);
        R::spawn(async move {
            let outcome = catch_panic(async {
                R::yield_now().await;
                if now() > Instant::now() - Duration::from_secs(1) {
                    panic!("line {} is cursed", 7);
                }
            })
            .await;
            *slot.borrow_mut() = Some(outcome);
        });
        while caught.borrow().is_none() {
            R::yield_now().await;
        }
        assert_eq!(
            caught.borrow_mut().take(),
            Some(Err(Panicked("line 7 is cursed".to_owned()))),
        );
        assert_eq!(catch_panic(async { 5 }).await, Ok(5));
    });
}

/// One test per backend and behaviour. Where the kernel refuses io_uring its half is skipped, as
/// the program itself would fall back.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod on_tokio { $(#[test] fn $test() { super::bounded(super::$test::<super::Tokio>); })* }
        mod on_uring { $(#[test] fn $test() {
            if super::uring_available().is_ok() { super::bounded(super::$test::<super::Uring>); }
        })* }
    };
}

on_both!(
    reads_append_and_writes_return_the_buffer,
    a_reader_is_ready_when_there_is_something_to_read,
    a_send_is_over_when_the_answer_comes_and_wakes_only_if_it_fails,
    a_refused_connection_is_an_error,
    abort_ends_operations_in_flight_and_never_outlives_the_socket,
    what_comes_while_nobody_reads_is_kept_in_order,
    a_peer_waits_also_after_a_part_was_read,
    more_answers_at_once_than_a_ring_has_buffers,
    an_end_right_behind_bytes_is_told,
    sockets_that_never_rest_starve_nobody,
    a_runtime_ends_with_operations_in_flight,
    timers_fire_in_order,
    yielding_lets_tasks_and_the_kernel_work,
    a_mailbox_wakes_a_parked_shard,
    a_panic_ends_its_task_only,
);

#[test]
fn the_wall_clock_is_in_microseconds() {
    let year_2026 = 1_767_225_600_000_000;
    assert!(
        (year_2026..year_2026 * 2).contains(&unix_micros()),
        "{}",
        unix_micros()
    );
}
