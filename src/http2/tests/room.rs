//! How much waits to be sent: heads in pieces, room for requests, large bodies.

use super::*;

#[test]
fn a_large_head_goes_out_in_pieces() {
    let mut connection = settled(&[]);
    let long = "x".repeat(40_000);
    let head = format!("POST /v1 HTTP/1.1\r\nhost: api.test\r\nx-long: {long}\r\n\r\n");
    let head = Rc::new(RequestHead::parse(head.as_bytes(), Scheme::Http).expect("a head"));
    connection
        .open(&head, false, None, Vec::new(), 0..0)
        .expect("a stream");
    let out = frames(&connection.take_output().expect("a head"));
    let kinds: Vec<_> = out.iter().map(|one| (one.0, one.1, one.3.len())).collect();
    let size = 16 << 10;
    let last = out[2].3.len();
    assert_eq!(
        kinds,
        [
            (kind::HEADERS, flag::END_STREAM, size),
            (kind::CONTINUATION, 0, size),
            (kind::CONTINUATION, flag::END_HEADERS, last)
        ]
    );
    let block: Vec<u8> = out.into_iter().flat_map(|one| one.3).collect();
    let mut found = Vec::new();
    let decoded = hpack::Decoder::default().decode(&block, |name, value| {
        found.push((name.to_vec(), value.len()));
        true
    });
    assert!(decoded.is_ok());
    assert_eq!(found.last(), Some(&(b"x-long".to_vec(), 40_000)));
}

#[test]
fn requests_wait_to_be_written_until_there_is_room() {
    let waker = &waker_of_its_own();
    let backlog = Backlog::default();
    let mut connections: Vec<Connection> = (0..40)
        .map(|_| Connection::new(LIMITS, backlog.clone()))
        .collect();
    for connection in &mut connections {
        connection.take_output().expect("a preface");
        connection.receive(&frame(kind::SETTINGS, 0, 0, &[]));
        connection.take_output().expect("an acknowledgement");
        connection.note_sent();
    }
    let mut waits: Vec<usize> = Vec::new();
    for connection in &mut connections {
        while connection.has_room(waker) {
            open(connection, &[b'x'; 1000]).expect("a stream");
        }
        waits.push(connection.out.len());
    }
    // The first ones as much as they may, then all together have enough; but each has one.
    let full = 28 << 10..30 << 10;
    assert!(waits[..8].iter().all(|bytes| full.contains(bytes)));
    assert!(connections[0].out.capacity() <= 32 << 10);
    assert!(waits[9..].iter().all(|bytes| *bytes < 1200), "{waits:?}");
    // What was sent, or is gone, makes room for others; what was only taken does not.
    connections[0].take_output().expect("requests");
    assert!(!connections[0].has_room(waker) && !connections[39].has_room(waker));
    assert_eq!(
        connections[0].waiting.len(),
        1,
        "whoever waits is woken once"
    );
    connections[0].note_sent();
    drop(connections.remove(1));
    assert!(connections[0].has_room(waker) && connections[38].has_room(waker));
}

#[test]
fn a_crowd_that_waited_for_room_leaves_no_memory_behind() {
    let mut connection = settled(&[]);
    connection.note_sent();
    for _ in 0..2 {
        open(&mut connection, &[b'x'; 15_000]).expect("a stream");
    }
    let wakers: Vec<_> = (0..128).map(|_| waker_of_its_own()).collect();
    for waker in &wakers {
        assert!(!connection.has_room(waker));
    }
    assert_eq!(connection.waiting.len(), 128);
    connection.take_output().expect("requests");
    connection.note_sent();
    assert!(connection.waiting.is_empty() && connection.waiting.capacity() <= 16);
}

/// One that wakes nobody, and is no other's.
fn waker_of_its_own() -> std::task::Waker {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    std::sync::Arc::new(Nobody).into()
}

#[test]
fn a_large_body_keeps_no_other_request_waiting() {
    let waker = std::task::Waker::noop();
    let mut connection = settled(&[]);
    connection.note_sent();
    open(&mut connection, &[b'x'; 100_000]).expect("a stream");
    for _ in 0..20 {
        assert!(connection.has_room(waker));
        open(&mut connection, b"short").expect("a stream");
    }
    let out = frames(&connection.take_output().expect("all that fits"));
    let heads = out.iter().filter(|one| one.0 == kind::HEADERS);
    assert_eq!(heads.count(), 21, "they go out together");
    let bytes: usize = out.iter().map(|one| one.3.len() + 9).sum();
    assert!(
        bytes > 60_000,
        "and as much of the large one as may: {bytes}"
    );
}
