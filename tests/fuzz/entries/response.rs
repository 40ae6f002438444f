//! Bytes of a connection.

use std::ops::Range;

use blaze_uring::http::{Limits, Progress, ProtocolError, ResponseReader};

/// Caps small enough to be met.
const LIMITS: Limits = Limits {
    head_bytes: 4096,
    body_bytes: 16 << 10,
};

/// Bytes of a connection in reads of any size: the answer is the same however they are cut, and
/// whatever follows it. Byte 0: size of the reads (0: all at once); byte 1: 1 for the answer to a
/// `CONNECT`.
pub fn response(data: &[u8]) {
    let [step, kind, data @ ..] = data else {
        return;
    };
    let whole = answer(data, data.len(), *kind);
    let cut = answer(data, usize::from(*step).max(1), *kind);
    let bytes = answer(data, 1, *kind);
    for other in [cut, bytes.clone()] {
        assert_eq!(whole.is_ok(), other.is_ok(), "{whole:?} {other:?}");
        if let (Ok(whole), Ok(other)) = (&whole, &other) {
            assert_eq!(
                (whole.status, &whole.head, &whole.body),
                (other.status, &other.head, &other.body)
            );
        }
    }
    let Ok(Answer {
        taken: Some(end), ..
    }) = bytes
    else {
        return;
    };
    // Byte by byte it was complete there: nothing behind that place belongs to it.
    let (exact, whole) = (answer(&data[..end], end, *kind), whole.expect("equal"));
    let exact = exact.expect("the message is complete");
    assert_eq!((exact.status, &exact.body), (whole.status, &whole.body));
    assert!(end == data.len() || !whole.reusable, "bytes are left over");
    if *kind != 1 {
        let again = [&data[..end], b"HTTP/1.1 200 OK\r\n\r\nevil"].concat();
        let followed = answer(&again, again.len(), *kind).expect("the message is complete");
        assert_eq!((followed.body, followed.reusable), (exact.body, false));
    }
}

/// What a client has at the end.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    head: Vec<u8>,
    body: Vec<u8>,
    reusable: bool,
    /// Bytes fed until it was complete; `None` when only the close completed it.
    taken: Option<usize>,
}

fn answer(data: &[u8], step: usize, kind: u8) -> Result<Answer, ProtocolError> {
    let mut reader = match kind {
        1 => ResponseReader::for_connect(LIMITS),
        _ => ResponseReader::new(LIMITS),
    };
    let mut buffer = Vec::new();
    let mut fed = 0;
    for chunk in data.chunks(step.max(1)) {
        buffer.extend_from_slice(chunk);
        fed += chunk.len();
        match reader.advance(&mut buffer) {
            Ok(Progress::Done(done)) => {
                return Ok(Answer {
                    reusable: done.reusable,
                    taken: Some(fed),
                    ..taken(&buffer, done.status, done.head, done.body)
                });
            }
            Ok(Progress::NeedMore { .. }) => {
                let body = reader.body_so_far().unwrap_or_default();
                assert!(body.end <= buffer.len() && body.len() <= LIMITS.body_bytes);
                assert!(
                    buffer.len() <= LIMITS.head_bytes + LIMITS.body_bytes + step.max(2048),
                    "what is kept is bounded"
                );
            }
            Err(error) => {
                let again = reader.advance(&mut buffer);
                assert_eq!(again, Err(error.clone()), "an error stays");
                return Err(error);
            }
        }
    }
    match reader.finish(&mut buffer)? {
        Progress::Done(done) => {
            assert!(!done.reusable, "a closed connection is not used again");
            Ok(taken(&buffer, done.status, done.head, done.body))
        }
        Progress::NeedMore { .. } => panic!("a closed connection has no more"),
    }
}

fn taken(buffer: &[u8], status: u16, head: Range<usize>, body: Range<usize>) -> Answer {
    assert!((200..1000).contains(&status), "{status} is final");
    assert!(head.end <= body.start && body.end <= buffer.len());
    assert!(body.len() <= LIMITS.body_bytes);
    Answer {
        status,
        head: buffer[head].to_vec(),
        body: buffer[body].to_vec(),
        reusable: false,
        taken: None,
    }
}
