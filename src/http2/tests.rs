mod room;

use std::ops::Range;
use std::rc::Rc;

use super::connection::{CONNECTION_WINDOW, STREAM_WINDOW};
use super::frame::{Head, flag, kind};
use super::*;
use crate::http::{Limits, ProtocolError, Scheme};

const LIMITS: Limits = Limits {
    head_bytes: 1 << 16,
    body_bytes: 4 << 20,
};
const STATUS_200: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::frame::write(kind, flags, stream, payload, &mut out);
    out
}

/// Frames of `bytes`: type, flags, stream and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(head) = Head::read(bytes) {
        let payload = &bytes[9..9 + head.length];
        found.push((head.kind, head.flags, head.stream, payload.to_vec()));
        bytes = &bytes[9 + head.length..];
    }
    assert!(bytes.is_empty(), "whole frames only");
    found
}

/// A connection whose server has sent `settings`.
fn settled(settings: &[u8]) -> Connection {
    let mut connection = Connection::new(LIMITS, Backlog::default());
    let opening = connection.take_output().expect("a preface");
    assert!(opening.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    assert_eq!(connection.streams_max(), 0);
    assert_eq!(
        feed(&mut connection, &frame(kind::SETTINGS, 0, 0, settings)),
        None
    );
    let answer = connection.take_output().expect("an acknowledgement");
    assert_eq!(answer, frame(kind::SETTINGS, flag::ACK, 0, &[]));
    connection
}

/// Feeds all of `bytes`; what the connection ends with, if it does.
fn feed(connection: &mut Connection, bytes: &[u8]) -> Option<Reason> {
    let taken = connection.receive(bytes);
    assert!(connection.over().is_some() || taken == bytes.len());
    connection.over()
}

fn open(connection: &mut Connection, body: &[u8]) -> Option<Key> {
    let head = b"POST /v1 HTTP/1.1\r\nhost: api.test\r\n\r\n";
    let head = Rc::new(RequestHead::parse(head, Scheme::Https).expect("a head"));
    let request = [b"12345", body].concat();
    let (length, body): (Range<usize>, _) = (0..5, 5..request.len());
    connection.open(&head, true, Some(length), request, body)
}

#[test]
fn a_body_goes_out_as_the_windows_allow() {
    // Windows of 10 bytes for a stream.
    let mut connection = settled(&[0, 4, 0, 0, 0, 10]);
    let key = open(&mut connection, b"0123456789abcdef").expect("a stream");
    let other = open(&mut connection, b"short").expect("a stream");
    let out = frames(&connection.take_output().expect("two heads and some bodies"));
    let kinds: Vec<_> = out.iter().map(|one| (one.0, one.1, one.2)).collect();
    let heads = flag::END_HEADERS;
    assert_eq!(
        kinds,
        [
            (kind::HEADERS, heads, 1),
            (kind::DATA, 0, 1),
            (kind::HEADERS, heads, 3),
            (kind::DATA, flag::END_STREAM, 3)
        ]
    );
    assert_eq!(
        (&*out[1].3, &*out[3].3),
        (&b"0123456789"[..], &b"short"[..])
    );
    assert!(!connection.stream(key).is_sent() && connection.stream(other).is_sent());
    assert_eq!(connection.take_output(), None);

    let more = |count: u32| frame(kind::WINDOW_UPDATE, 0, 1, &count.to_be_bytes());
    assert_eq!(feed(&mut connection, &more(2)), None);
    assert_eq!(
        connection.take_output(),
        Some(frame(kind::DATA, 0, 1, b"ab"))
    );
    // The window shrinks below zero, and has to be filled up again first.
    let small = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 7]);
    assert_eq!(feed(&mut connection, &small), None);
    assert_eq!(feed(&mut connection, &more(3)), None);
    let acknowledgement = frame(kind::SETTINGS, flag::ACK, 0, &[]);
    assert_eq!(connection.take_output(), Some(acknowledgement.clone()));
    let large = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]);
    assert_eq!(feed(&mut connection, &large), None);
    let last = frame(kind::DATA, flag::END_STREAM, 1, b"cdef");
    assert_eq!(
        connection.take_output(),
        Some([last, acknowledgement].concat())
    );
    assert!(connection.stream(key).is_sent());
}

#[test]
fn the_window_of_all_streams_is_kept() {
    let mut connection = settled(&[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(open(&mut connection, &vec![b'x'; 40_000]).expect("a stream"));
    }
    let sent = |connection: &mut Connection| {
        let mut count = 0;
        while let Some(out) = connection.take_output() {
            assert!(out.len() < 2 * (64 << 10), "{} at once", out.len());
            let bodies = frames(&out).into_iter().filter(|one| one.0 == kind::DATA);
            count += bodies.map(|one| one.3.len()).sum::<usize>();
        }
        count
    };
    assert_eq!(sent(&mut connection), 65_535);
    let more = frame(kind::WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes());
    assert_eq!(feed(&mut connection, &more), None);
    assert_eq!(sent(&mut connection), 120_000 - 65_535);
    assert!(keys.into_iter().all(|key| connection.stream(key).is_sent()));
}

#[test]
fn room_is_given_back_half_a_window_at_a_time() {
    let mut connection = settled(&[]);
    let key = open(&mut connection, b"x").expect("a stream");
    connection.take_output();
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, STATUS_200);
    assert_eq!(feed(&mut connection, &head), None);
    let piece = frame(kind::DATA, 0, 1, &[b'x'; 16 << 10]);
    let mut given = Vec::new();
    for _ in 0..(3 << 20) / (16 << 10) {
        assert_eq!(feed(&mut connection, &piece), None);
        given.extend(
            connection
                .take_output()
                .map_or_else(Vec::new, |out| frames(&out)),
        );
    }
    let half = (STREAM_WINDOW / 2).to_be_bytes().to_vec();
    assert_eq!(given, vec![(kind::WINDOW_UPDATE, 0, 1, half); 6]);
    assert_eq!(connection.stream(key).reply().len(), (3 << 20) + 16);
    // Padding counts, and so does what nobody wants any more.
    connection.leave(key);
    connection.take_output();
    let padded = frame(
        kind::DATA,
        flag::PADDED,
        1,
        &[&[255][..], &[0; 16_000]].concat(),
    );
    let mut given = 0;
    for _ in 0..CONNECTION_WINDOW as usize / 2 / 16_001 {
        assert_eq!(feed(&mut connection, &padded), None);
        given += connection.take_output().map_or(0, |out| frames(&out).len());
    }
    assert_eq!(given, 1, "of the connection, and none of the stream");
}

/// The answer to one request, which the server gives in these frames.
fn answer(frames: &[Vec<u8>]) -> (State, Option<Reason>, String) {
    let all = frames.concat();
    let mut result: Option<(State, Option<Reason>, String)> = None;
    // All at once, byte by byte, and frame by frame.
    let cuts: [Vec<&[u8]>; 3] = [
        vec![&all],
        all.chunks(1).collect(),
        frames.iter().map(Vec::as_slice).collect(),
    ];
    for pieces in cuts {
        let mut connection = settled(&[]);
        let key = open(&mut connection, b"x").expect("a stream");
        let mut left = Vec::new();
        for piece in pieces {
            left.extend_from_slice(piece);
            let taken = connection.receive(&left);
            left.drain(..taken);
        }
        assert!(connection.over().is_some() || left.is_empty());
        let over = connection.over();
        let stream = connection.stream(key);
        let state = std::mem::replace(&mut stream.state, State::Waiting);
        let text = String::from_utf8_lossy(stream.reply()).into_owned();
        let found = (state, over, text);
        if let Some(before) = &result {
            assert_eq!(found, *before, "the same however it is cut");
        }
        result = Some(found);
    }
    result.expect("three rounds")
}

#[test]
fn answers_are_read_however_they_are_framed() {
    let expect = "HTTP/1.1 200\r\nserver: x\r\n\r\nhello";
    let fields = [&[0x88, 0x0f, 0x27, 1][..], b"x"].concat();
    let (whole, end) = (flag::END_HEADERS, flag::END_STREAM);
    let body = frame(kind::DATA, end, 1, b"hello");
    let prioritised = [&[0, 0, 0, 0, 9][..], &fields].concat();
    let padded = [&[3][..], &prioritised, &[0; 3]].concat();
    for frames in [
        vec![frame(kind::HEADERS, whole, 1, &fields), body.clone()],
        // Interim answers, extensions, pings and empty pieces between.
        vec![
            frame(kind::HEADERS, whole, 1, &[0x08, 3, b'1', b'0', b'3']),
            frame(0xfa, 0xff, 77, b"whatever"),
            frame(kind::HEADERS, whole, 1, &fields),
            frame(kind::PING, 0, 0, &[1; 8]),
            frame(kind::DATA, 0, 1, b""),
            frame(kind::DATA, 0, 1, b"hel"),
            frame(kind::DATA, 0, 1, b"lo"),
            frame(kind::DATA, end, 1, b""),
        ],
        // In pieces, padded, with a priority, with trailers.
        vec![
            frame(kind::HEADERS, 0, 1, &fields[..2]),
            frame(kind::CONTINUATION, 0, 1, b""),
            frame(kind::CONTINUATION, whole, 1, &fields[2..]),
            frame(kind::DATA, flag::PADDED, 1, b"\x02hello\0\0"),
            frame(kind::HEADERS, whole | end, 1, &[0x00, 1, b'a', 1, b'b']),
        ],
        vec![
            frame(
                kind::HEADERS,
                whole | flag::PADDED | flag::PRIORITY,
                1,
                &padded,
            ),
            frame(kind::DATA, flag::PADDED, 1, b"\0hello"),
            frame(kind::DATA, flag::PADDED | end, 1, b"\x01\0"),
        ],
    ] {
        let (state, over, text) = answer(&frames);
        assert_eq!((state, over, text.as_str()), (State::Done, None, expect));
    }
}

#[test]
fn answers_that_break_the_rules_fail_their_stream_only() {
    let literal = |name: &str, value: &str| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        [
            &[0, name.len() as u8][..],
            name,
            &[value.len() as u8],
            value,
        ]
        .concat()
    };
    let heads = |block: Vec<u8>| vec![frame(kind::HEADERS, flag::END_HEADERS, 1, &block)];
    let good = |more: Vec<u8>| heads([STATUS_200, &more].concat());
    let with = |frames: Vec<Vec<u8>>, more: Vec<u8>| [frames, vec![more]].concat();
    let end = flag::END_HEADERS | flag::END_STREAM;
    let length = |text| good(literal("content-length", text));
    for frames in [
        heads(literal("a", "b")),
        heads([literal("a", "b"), STATUS_200.to_vec()].concat()),
        heads([STATUS_200, STATUS_200].concat()),
        heads(literal(":status", "20")),
        heads(literal(":status", "099")),
        heads(literal(":status", "101")),
        vec![frame(kind::HEADERS, end, 1, &literal(":status", "103"))],
        good(literal(":path", "/")),
        good(literal("", "x")),
        good(literal("A", "x")),
        good(literal("a b", "x")),
        good(literal("a:", "x")),
        good(literal("a", "b\r\nc: d")),
        good(literal("a", "b\0")),
        good(literal("connection", "close")),
        good(literal("transfer-encoding", "chunked")),
        length("x"),
        length("-1"),
        length("99999999999999999999"),
        good(
            [
                literal("content-length", "1"),
                literal("content-length", "2"),
            ]
            .concat(),
        ),
        with(length("3"), frame(kind::DATA, flag::END_STREAM, 1, b"ab")),
        with(length("1"), frame(kind::DATA, flag::END_STREAM, 1, b"ab")),
        with(
            good(vec![]),
            frame(kind::HEADERS, flag::END_HEADERS, 1, &literal("a", "b")),
        ),
        with(good(vec![]), frame(kind::HEADERS, end, 1, STATUS_200)),
        with(good(vec![]), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])),
        vec![frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
        // An entry of the table, six hundred times.
        good([&[0x40, 1, b'a', 100][..], &[b'x'; 100], &[0xbe; 600]].concat()),
    ] {
        let (state, over, text) = answer(&frames);
        let is_broken = matches!(
            state,
            State::Failed(Fault::Broken(
                Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR
            ))
        );
        assert!(
            is_broken && over.is_none(),
            "{frames:x?}: {state:?} {over:?} {text}"
        );
        assert!(!text.contains("c: d"), "nothing is smuggled in");
    }
    let (state, ..) = answer(&length("4194305"));
    let limit = LIMITS.body_bytes;
    let large = State::Failed(Fault::Protocol(ProtocolError::BodyTooLarge { limit }));
    assert_eq!(state, large);
}

#[test]
fn what_breaks_the_connection_ends_it() {
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, STATUS_200);
    let calm = Reason::ENHANCE_YOUR_CALM;
    let check = |expect: Reason, frames: Vec<Vec<u8>>| {
        let (state, over, _) = answer(&frames);
        assert_eq!(over, Some(expect), "{frames:x?}");
        assert_eq!(state, State::Failed(Fault::Broken(expect)));
    };
    check(Reason::PROTOCOL_ERROR, vec![frame(kind::DATA, 0, 3, b"x")]);
    check(Reason::PROTOCOL_ERROR, vec![frame(kind::DATA, 0, 2, b"x")]);
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::CONTINUATION, 4, 1, &[])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::SETTINGS, 0, 1, &[])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::PING, 0, 1, &[0; 8])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::GOAWAY, 0, 1, &[0; 8])],
    );
    check(
        Reason::PROTOCOL_ERROR,
        vec![frame(kind::PRIORITY, 0, 0, &[0; 5])],
    );
    check(
        Reason::FRAME_SIZE_ERROR,
        vec![frame(kind::SETTINGS, 1, 0, &[0; 6])],
    );
    check(
        Reason::FRAME_SIZE_ERROR,
        vec![frame(kind::GOAWAY, 0, 0, &[0; 7])],
    );
    check(
        Reason::FRAME_SIZE_ERROR,
        vec![frame(kind::RST_STREAM, 0, 1, &[0; 5])],
    );
    check(
        Reason::COMPRESSION_ERROR,
        vec![frame(kind::HEADERS, 4, 1, &[0xff])],
    );
    let padding = frame(kind::DATA, flag::PADDED, 1, &[9, b'x']);
    check(Reason::PROTOCOL_ERROR, vec![head.clone(), padding]);
    let empty = frame(kind::DATA, 0, 1, &[]);
    check(calm, [vec![head], vec![empty; 1001]].concat());
    let piece = frame(kind::CONTINUATION, 0, 1, &[]);
    check(
        calm,
        [vec![frame(kind::HEADERS, 0, 1, &[])], vec![piece; 64]].concat(),
    );
}

#[test]
fn a_finished_stream_is_not_spoken_on() {
    let end = flag::END_HEADERS | flag::END_STREAM;
    let head = frame(kind::HEADERS, end, 1, STATUS_200);
    for late in [frame(kind::DATA, 0, 1, b"x"), head.clone()] {
        let mut connection = settled(&[]);
        let key = open(&mut connection, b"x").expect("a stream");
        assert_eq!(feed(&mut connection, &head), None);
        assert_eq!(*connection.stream(key).state(), State::Done);
        // These may have been under way.
        let reset = frame(kind::RST_STREAM, 0, 1, &[0; 4]);
        let window = frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
        assert_eq!(feed(&mut connection, &[reset, window].concat()), None);
        connection.leave(key);
        assert_eq!(feed(&mut connection, &late), Some(Reason::STREAM_CLOSED));
    }
    // On one that we ended, they are passed over, and its place may be another's by then.
    let mut connection = settled(&[]);
    let key = open(&mut connection, b"x").expect("a stream");
    connection.take_output();
    connection.leave(key);
    let reset = frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    assert_eq!(connection.take_output(), Some(reset));
    let other = open(&mut connection, b"x").expect("a stream");
    assert_eq!(other, key, "the place is used again");
    let late = [
        frame(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &[0x88, 0x40, 1, b'a', 1, b'b'],
        ),
        frame(kind::DATA, flag::END_STREAM, 1, b"late"),
        // The table has what the late head has put there.
        frame(kind::HEADERS, end, 3, &[0x88, 0xbe]),
    ];
    assert_eq!(feed(&mut connection, &late.concat()), None);
    let stream = connection.stream(other);
    assert_eq!(*stream.state(), State::Done);
    assert_eq!(stream.reply(), b"HTTP/1.1 200\r\na: b\r\n\r\n");
}

#[test]
fn a_stream_that_ends_within_a_frame_leaves_the_rest_of_it_to_nobody() {
    let mut connection = settled(&[]);
    let key = open(&mut connection, b"x").expect("a stream");
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, STATUS_200);
    let body = frame(kind::DATA, flag::END_STREAM, 1, b"for the first");
    assert_eq!(feed(&mut connection, &[&head, &body[..12]].concat()), None);
    connection.leave(key);
    let other = open(&mut connection, b"x").expect("a stream");
    assert_eq!(other, key, "the place is used again");
    assert_eq!(feed(&mut connection, &body[12..]), None);
    let stream = connection.stream(other);
    assert_eq!(*stream.state(), State::Waiting);
    assert!(stream.reply().is_empty());
}

#[test]
fn a_farewell_tells_what_was_not_done() {
    let mut connection = settled(&[]);
    let keys: Vec<Key> = (0..3)
        .map(|_| open(&mut connection, b"x").expect("a stream"))
        .collect();
    let last = [3_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    assert_eq!(
        feed(&mut connection, &frame(kind::GOAWAY, 0, 0, &last)),
        None
    );
    assert!(connection.is_closing() && open(&mut connection, b"x").is_none());
    let undone = State::Failed(Fault::Undone(Reason::NO_ERROR));
    assert_eq!(*connection.stream(keys[2]).state(), undone);
    let end = flag::END_HEADERS | flag::END_STREAM;
    let answer = frame(kind::HEADERS, end, 3, STATUS_200);
    assert_eq!(feed(&mut connection, &answer), None);
    assert_eq!(*connection.stream(keys[1]).state(), State::Done);
    connection.cut();
    assert_eq!(
        *connection.stream(keys[0]).state(),
        State::Failed(Fault::Cut)
    );
    assert_eq!(*connection.stream(keys[1]).state(), State::Done);
}

#[test]
fn who_asks_and_does_not_listen_has_to_wait() {
    let mut connection = settled(&[]);
    let pings = frame(kind::PING, 0, 0, &[7; 8]).repeat(10_000);
    let mut taken = 0;
    let mut rounds = 0;
    while taken < pings.len() {
        let count = connection.receive(&pings[taken..]);
        let out = connection.take_output().expect("answers");
        assert!(count > 0 && out.len() <= (64 << 10) + 17);
        taken += count;
        rounds += 1;
    }
    assert_eq!(rounds, 3);
}
