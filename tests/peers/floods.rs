//! Servers that mean harm: what a connection may cost is bounded, and the run goes on over another.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::h2::server::Builder;

use crate::batch::Outcome;
use crate::books::{answered_in, batch, contents};
use crate::frame::{ACK, CONTINUATION, END_HEADERS, Frame, HEADERS, PING, RST_STREAM, SETTINGS};
use crate::http2_server::{Act, Seen, serve};
use crate::server::Server;
use crate::support::{Place, runtimes};

const LINES: usize = 100;
const WORKERS: usize = 4;

/// The first `bad` connections meet `act`; the rest is served well.
fn server_with(bad: usize, act: impl Fn(&mut Hostile) + Send + Sync + 'static) -> Server {
    let seen = Arc::new(Seen::default());
    Server::start(move |number, stream| {
        if number >= bad {
            return serve(stream, &Builder::new(), None, &seen, |_| Act::Echo);
        }
        let mut hostile = Hostile::open(stream);
        act(&mut hostile);
        // Until the client has had enough.
        while Frame::read(&mut hostile.from).is_some() {}
    })
}

/// A server's end of a connection, frame by frame.
struct Hostile {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Hostile {
    fn open(mut stream: TcpStream) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).expect("a preface");
        let to = stream.try_clone().expect("a second handle");
        let mut hostile = Self {
            from: BufReader::new(stream),
            to,
        };
        hostile.send(&Frame::new(SETTINGS, 0, 0, &[]));
        hostile.send(&Frame::new(SETTINGS, ACK, 0, &[]));
        hostile
    }

    /// Whether the client still takes it.
    fn send(&mut self, frame: &Frame) -> bool {
        frame.write(&mut self.to).is_ok()
    }

    /// The stream of the next request.
    fn request(&mut self) -> Option<u32> {
        loop {
            let frame = Frame::read(&mut self.from)?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }
}

/// Runs a file through `server`, whose first connections are hostile.
#[track_caller]
fn survives(runtime: &'static str, server: &Server, workers: usize) -> Outcome {
    let contents = contents(LINES);
    let url = server.url("/v1/chat/completions");
    let batch = batch(runtime, &url, &contents, workers).with(&["--max-attempts", "50"]);
    answered_in(batch, Place::new(), &contents)
}

#[test]
fn a_head_without_an_end_ends_its_connection() {
    /// A client that reads on without a bound would take any number.
    const FRAMES_MAX: usize = 4096;
    for runtime in runtimes() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let server = server_with(1, move |hostile| {
            let stream = hostile.request().expect("a request");
            // Literal fields, never indexed: "a: b".
            let fields = [0, 1, b'a', 1, b'b'].repeat(3000);
            hostile.send(&Frame::new(HEADERS, 0, stream, &[0x88]));
            while count.load(Ordering::SeqCst) < FRAMES_MAX
                && hostile.send(&Frame::new(CONTINUATION, 0, stream, &fields))
            {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        survives(runtime, &server, WORKERS);
        // What fits into the sockets' buffers comes on top of what the client has read.
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent < FRAMES_MAX, "{sent} frames of 15 KB were taken");
        assert_eq!(server.accepted(), 2);
    }
}

/// What asks for an answer, sent as fast as it is taken by a server that reads nothing: once the client's answers
/// wait to be sent, it must not take in any more.
#[test]
fn whoever_does_not_read_is_not_read_from() {
    /// A client that reads on without a bound takes all of it in less than a second.
    const FLOOD_BYTES: usize = 256 << 20;
    /// What sockets hold at both ends, and what was read before.
    const TAKEN_BYTES_MAX: usize = 64 << 20;
    let floods = [
        ("pings", Frame::new(PING, 0, 0, &[7; 8])),
        ("settings", Frame::new(SETTINGS, 0, 0, &[])),
    ];
    for runtime in runtimes() {
        for (name, frame) in &floods {
            let mut frames = Vec::new();
            while frames.len() < 64 << 10 {
                frame.write(&mut frames).expect("memory takes it");
            }
            let sent = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&sent);
            let server = server_with(1, move |hostile| {
                hostile.request().expect("a request");
                while count.load(Ordering::SeqCst) < FLOOD_BYTES
                    && hostile.to.write_all(&frames).is_ok()
                {
                    count.fetch_add(frames.len(), Ordering::SeqCst);
                }
            });
            let contents = contents(LINES);
            let url = server.url("/v1/chat/completions");
            let batch = batch(runtime, &url, &contents, WORKERS).with(&[
                "--max-attempts",
                "50",
                "--timeout",
                "2",
            ]);
            answered_in(batch, Place::new(), &contents);
            let sent = sent.load(Ordering::SeqCst);
            assert!(
                sent < TAKEN_BYTES_MAX,
                "{runtime}: {sent} bytes of {name} were taken"
            );
        }
    }
}

#[test]
fn a_head_that_unfolds_to_megabytes_costs_its_connection_only() {
    for runtime in runtimes() {
        let server = server_with(1, |hostile| {
            // ":status: 200"; "a: xxx…" of 4000 bytes into the table; 12 000 times that entry: 48 MB.
            let mut bomb = vec![0x88, 0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
            bomb.extend([b'x'; 4000]);
            bomb.extend([0xbe; 12_000]);
            let stream = hostile.request().expect("a request");
            hostile.send(&Frame::new(HEADERS, END_HEADERS, stream, &bomb));
        });
        let contents = contents(LINES);
        let url = server.url("/v1/chat/completions");
        let outcome = batch(runtime, &url, &contents, WORKERS).run();
        let failed = outcome.failures.len();
        assert!((1..=WORKERS).contains(&failed), "{:#?}", outcome.run);
        for number in outcome.failures.keys() {
            let (kind, text) = outcome.failure(*number);
            assert_eq!(kind, "protocol", "{text}");
            assert!(text.contains("its head is too large"), "{text}");
        }
        assert_eq!(outcome.answers.len(), LINES - failed);
        assert_eq!(server.accepted(), 2);
    }
}

#[test]
fn resets_as_fast_as_they_can_be_sent_cost_only_their_streams() {
    /// Fewer than take an endpoint out of use.
    const STREAMS: usize = 3;
    for runtime in runtimes() {
        let server = server_with(1, |hostile| {
            // An answer begins and is reset at once, and again for the stream that is gone.
            for _ in 0..STREAMS {
                let stream = hostile.request().expect("a request");
                hostile.send(&Frame::new(HEADERS, END_HEADERS, stream, &[0x88]));
                for _ in 0..1000 {
                    let reason = 8_u32.to_be_bytes();
                    hostile.send(&Frame::new(RST_STREAM, 0, stream, &reason));
                }
            }
            // It goes, and with it a line that has come meanwhile.
            let _ = hostile.to.shutdown(Shutdown::Both);
        });
        let outcome = survives(runtime, &server, 1);
        let attempts: usize = (1..=LINES as u64)
            .map(|line| outcome.attempts(line) as usize)
            .sum();
        let again = attempts - LINES;
        assert!((STREAMS..=STREAMS + 1).contains(&again), "{again}");
        assert_eq!(server.accepted(), 2);
    }
}
