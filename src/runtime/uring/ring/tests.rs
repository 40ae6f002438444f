use std::os::unix::net::UnixStream as Pair;
use std::task::Context;

use super::*;
use crate::runtime::tests::bounded;
use crate::runtime::uring::connection::Told;
use crate::runtime::uring::{RING, Uring};
use crate::runtime::{Read as _, Runtime as _, Write as _, uring_available};

/// Operations that were put into the ring so far (proc_pid_fdinfo(5)).
fn operations(ring: &Ring) -> u32 {
    let descriptor = ring.io.borrow().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
    let info = info.expect("the kernel describes its rings");
    let tail = info.lines().find_map(|line| line.strip_prefix("SqTail:"));
    let tail = tail.and_then(|count| count.trim().parse().ok());
    tail.expect("the number of operations is among it")
}

/// Where the kernel refuses io_uring, there is nothing to test.
fn on_uring(test: impl FnOnce() + Send + 'static) {
    if uring_available().is_ok() {
        bounded(test);
    }
}

#[test]
fn no_receive_is_refused_however_many_want_one_at_once() {
    on_uring(many_receives_at_once);
}

#[test]
fn a_kernel_that_takes_nothing_from_a_full_ring_fails_the_operation() {
    on_uring(a_full_ring);
}

#[test]
fn a_turn_that_waits_for_more_answers_takes_what_there_is() {
    on_uring(a_lonely_answer);
}

#[test]
fn a_ring_that_the_kernel_does_nothing_for_ends_what_runs_on_it() {
    on_uring(a_dead_ring);
}

fn many_receives_at_once() {
    const CONNECTIONS: usize = 400;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let done = Uring::run(async {
        let mut sockets = Vec::new();
        for number in 0..CONNECTIONS {
            sockets.push(Uring::connect(address).await.expect("loopback connects"));
            let (mut peer, _) = listener.accept().expect("the connection is queued");
            let answer = [number as u8; 100];
            std::io::Write::write_all(&mut peer, &answer).expect("loopback takes it");
        }
        let ring = RING.with_borrow(|ring| ring.clone()).expect("it runs");
        let before = operations(&ring);
        let (done, finished) = crate::runtime::mailbox::channel();
        let open = Rc::new(RefCell::new(Vec::new()));
        // All of them ask in one turn, and each has something to take a buffer for.
        for (number, mut socket) in sockets.into_iter().enumerate() {
            let (done, open) = (done.clone(), Rc::clone(&open));
            Uring::spawn(async move {
                let (outcome, answer) = socket.reader.read(Vec::with_capacity(200)).await;
                assert_eq!(outcome.expect("an answer"), 100);
                assert_eq!(answer, [number as u8; 100]);
                // Not closed before all are counted.
                open.borrow_mut().push(socket);
                done.send(()).expect("the test waits");
            });
        }
        for _ in 0..CONNECTIONS {
            finished.recv().await.expect("each reports");
        }
        assert_eq!(operations(&ring) - before, CONNECTIONS as u32);
    });
    done.expect("the runtime starts");
}

fn a_full_ring() {
    // One that is not enabled yet: it can be filled, and is never emptied.
    let io = IoUring::builder().setup_r_disabled().build(1);
    let ring = Ring::new(io.expect("a small ring")).expect("it takes buffers");
    let (ours, _theirs) = Pair::pair().expect("a pair of sockets");
    let place = |ours: &Pair| {
        let descriptor = ours.try_clone().expect("a second descriptor").into();
        ring.enrol(|place| Rc::new(Connection::new(descriptor, place)))
    };
    let context = Context::from_waker(Waker::noop());
    let first = place(&ours);
    first.start_sending(&ring, b"fills the ring".to_vec(), Told::Always);
    let sends = place(&ours);
    sends.start_sending(&ring, b"finds it full".to_vec(), Told::Always);
    let receives = place(&ours);
    assert!(receives.poll_ready(&ring, &context).is_pending());
    ring.turn(false);
    assert!(first.poll_sent(&context).is_pending());
    let Poll::Ready((Err(error), buffer)) = sends.poll_sent(&context) else {
        panic!("it cannot have been sent");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
    assert_eq!(buffer, b"finds it full");
    assert!(receives.poll_ready(&ring, &context).is_ready());
    let outcome = receives.take(&mut Vec::with_capacity(10));
    let error = outcome.expect("an end").expect_err("not a proper one");
    assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
}

fn a_lonely_answer() {
    let io = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(64);
    // A kernel before 6.1 has no such rings, and nothing is waited for there.
    let Ok(io) = io else { return };
    let ring = Ring::new(io).expect("it takes buffers");
    let context = Context::from_waker(Waker::noop());
    let pairs: Vec<_> = (0..48)
        .map(|_| Pair::pair().expect("a pair of sockets"))
        .collect();
    let connections: Vec<_> = pairs
        .iter()
        .map(|(ours, _)| {
            let descriptor = ours.try_clone().expect("a second descriptor").into();
            ring.enrol(|place| Rc::new(Connection::new(descriptor, place)))
        })
        .collect();
    for one in &connections {
        assert!(one.poll_ready(&ring, &context).is_pending());
    }
    let _awaited: Vec<_> = pairs.iter().map(|_| awaited::Exchange::begin()).collect();
    ring.turn(false);
    assert!(ring.patience(true).is_some(), "it waits for more answers");
    std::io::Write::write_all(&mut &pairs[7].1, b"alone").expect("it has room");
    assert!(ring.holds_back(), "it has not been taken");
    // There will be no second one.
    assert!(ring.turn(true), "somebody is woken");
    let mut answer = Vec::with_capacity(10);
    let outcome = connections[7].take(&mut answer);
    assert_eq!(outcome.expect("it has come").expect("five bytes"), 5);
    assert_eq!(answer, b"alone");
    ring.end();
}

fn a_dead_ring() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("a bound address");
    let ended = Uring::run(async {
        let mut socket = Uring::connect(address).await.expect("loopback connects");
        let ring = RING.with_borrow(|ring| ring.clone()).expect("it runs");
        let null = std::fs::File::open("/dev/null").expect("it can be opened");
        let number = ring.io.borrow().as_raw_fd();
        // No ring: every call into it fails from here on.
        // SAFETY: system calls on descriptors that are open.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
        socket.abort.abort();
        let _ = socket.writer.write_all(b"never goes out".to_vec()).await;
        unreachable!("nobody tells");
    });
    let error = ended.map(|()| "it ended").expect_err("it was given up");
    assert!(
        error.to_string().contains("every io_uring_enter"),
        "{error}"
    );
}
