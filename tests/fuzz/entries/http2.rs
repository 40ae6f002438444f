//! What an HTTP/2 server says.

use std::rc::Rc;

use blaze_uring::http::{Limits, Scheme};
use blaze_uring::http2::{Backlog, Connection, Key, Reason, RequestHead, State};

/// Caps small enough to be met.
const LIMITS: Limits = Limits {
    head_bytes: 4096,
    body_bytes: 16 << 10,
};
const REQUESTS: usize = 3;
/// What one connection may want to say to a server that does not listen: a bound on what waits, and the
/// last frames that were on their way into it.
const OUTPUT_BYTES_MAX: usize = (64 << 10) + (32 << 10);

/// A server's frames in reads of any size: three requests end in the same way however the bytes are cut,
/// no answer is larger than the caps, what is to be sent is bounded, and nothing breaks. Byte 0: size of
/// the reads (0: all at once); byte 1: whether empty settings come first, and whether output is taken.
pub fn http2(data: &[u8]) {
    let [step, kind, data @ ..] = data else {
        return;
    };
    let takes_output = kind & 2 == 0;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let data = match kind & 1 {
        0 => [&settings, data].concat(),
        _ => data.to_vec(),
    };
    let whole = Conversation::run(&data, data.len(), takes_output);
    for step in [usize::from(*step).max(1), 1] {
        let other = Conversation::run(&data, step, takes_output);
        assert_eq!(whole.over, other.over, "in pieces of {step}");
        assert_eq!(whole.answers, other.answers, "in pieces of {step}");
    }
}

/// What a connection has come to.
struct Conversation {
    over: Option<Reason>,
    answers: Vec<(String, u16, Vec<u8>)>,
}

impl Conversation {
    fn run(data: &[u8], step: usize, takes_output: bool) -> Self {
        let mut connection = Connection::new(LIMITS, Backlog::default());
        let keys: Vec<Key> = (0..REQUESTS).map(|_| open(&mut connection)).collect();
        connection.take_output().expect("what opens a connection");
        let mut pending = Vec::new();
        for piece in data.chunks(step.max(1)) {
            pending.extend_from_slice(piece);
            loop {
                let taken = connection.receive(&pending);
                pending.drain(..taken);
                if takes_output && let Some(out) = connection.take_output() {
                    assert!(out.len() <= OUTPUT_BYTES_MAX, "{} bytes at once", out.len());
                }
                if taken == 0 {
                    break;
                }
            }
        }
        assert!(
            pending.len() < 9 + (16 << 10) || connection.over().is_some() || connection.is_full(),
            "{} bytes are left",
            pending.len()
        );
        let over = connection.over();
        connection.cut();
        let answers = keys.into_iter().map(|key| {
            let stream = connection.stream(key);
            let (state, status) = (format!("{:?}", stream.state()), stream.status());
            assert!(!matches!(stream.state(), State::Waiting | State::Answering));
            let head_end = stream.head_end();
            let reply = stream.reply().clone();
            assert!(head_end <= LIMITS.head_bytes + 64, "a head of {head_end}");
            assert!(reply.len() <= LIMITS.head_bytes + 64 + LIMITS.body_bytes);
            if *stream.state() == State::Done {
                let head = std::str::from_utf8(&reply[..head_end]).ok();
                assert!(reply.starts_with(format!("HTTP/1.1 {status}\r\n").as_bytes()));
                assert!(reply[..head_end].ends_with(b"\r\n\r\n"), "{head:?}");
                let ends = reply[..head_end]
                    .windows(4)
                    .filter(|four| four == b"\r\n\r\n");
                assert_eq!(ends.count(), 1, "one head, {head:?}");
            }
            connection.leave(key);
            (state, status, reply)
        });
        let answers = answers.collect();
        let left = connection.take_output().unwrap_or_default();
        assert!(left.len() <= OUTPUT_BYTES_MAX, "{} bytes wait", left.len());
        Self { over, answers }
    }
}

fn open(connection: &mut Connection) -> Key {
    let head = b"POST /v1 HTTP/1.1\r\nhost: api.test\r\n\r\n";
    let head = Rc::new(RequestHead::parse(head, Scheme::Https).expect("a head"));
    // More than the first window: the server's updates matter.
    let request = vec![b'x'; 30_000];
    let body = 0..request.len();
    let key = connection.open(&head, false, None, request, body);
    key.expect("the connection is new")
}
