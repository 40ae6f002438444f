//! Servers that break HTTP/2, flood it or fall silent: a typed failure in time, and the next request
//! gets its own answer on a connection of its own.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use super::frames::*;
use super::*;
use crate::client::tests::http2_server::{Act, Seen, serve};
use crate::client::tests::server::await_close;
use crate::error::ErrorKind;

/// What the first connection's server does once the first request's head, on stream `u32`, is there.
type Play = fn(&mut TcpStream, u32);

/// Sends this, again and again, until the client is gone.
fn flood(stream: &mut TcpStream, piece: &[u8]) {
    let burst = piece.repeat(64);
    while stream.write_all(&burst).is_ok() {}
}

fn send(stream: &mut TcpStream, frames: &[Vec<u8>]) {
    let _ = stream.write_all(&frames.concat());
}

fn head(stream: u32) -> Vec<u8> {
    flagged(HEADERS, END_HEADERS, stream, STATUS_200)
}

/// The first connection's server plays; the others serve. The first exchange must fail so, and
/// those after it be answered.
fn check<R: Runtime>(what: &str, play: Play, patience: Duration, expect: (ErrorKind, &str)) {
    let seen = Arc::new(Seen::default());
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return serve(stream, &builder(100), None, &seen, |_| Act::Echo);
        }
        send(&mut stream, &[frame(SETTINGS, 0, &[])]);
        let id = await_heads(&mut stream, 1);
        play(&mut stream, id);
        await_close(&mut stream);
    });
    let (kind, text) = expect;
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let exchange = post(&pool, b"first", patience).await;
        let failure = exchange.failure();
        assert!(
            failure.0 == kind && failure.1.contains(text),
            "{what}: {failure:?}"
        );
        for body in ["second", "third"] {
            let exchange = post(&pool, body.as_bytes(), AMPLE).await;
            assert_eq!(exchange.body(), body, "after {what}");
            assert!(!exchange.resent, "after {what}");
        }
        assert_eq!(server.accepted(), 2, "after {what}");
        // The broken one does not stay behind.
        until::<R>(|| pool.stats().open == 1).await;
    });
}

fn broken_rules_end_the_connection<R: Runtime>() {
    let plays: [(&str, Play); 13] = [
        ("a frame larger than allowed", |stream, id| {
            send(stream, &[head(id), frame(DATA, id, &[b'x'; 16 * 1024 + 1])]);
        }),
        ("a body without a head", |stream, id| {
            send(stream, &[flagged(DATA, END_STREAM, id, b"{}")]);
        }),
        ("DATA on no stream", |stream, _| {
            send(stream, &[frame(DATA, 0, b"{}")]);
        }),
        ("an answer nobody asked for", |stream, id| {
            send(stream, &[head(id + 10)]);
        }),
        ("a push", |stream, id| {
            let promise = [&2_u32.to_be_bytes()[..], &[0x82, 0x84, 0x86, 0x41, 1, b'h']].concat();
            send(stream, &[flagged(PUSH_PROMISE, END_HEADERS, id, &promise)]);
        }),
        ("a window that overflows", |stream, _| {
            let most = 0x7fff_ffff_u32.to_be_bytes();
            send(
                stream,
                &[
                    frame(WINDOW_UPDATE, 0, &most),
                    frame(WINDOW_UPDATE, 0, &most),
                ],
            );
        }),
        ("a window update of nothing", |stream, _| {
            send(stream, &[frame(WINDOW_UPDATE, 0, &[0; 4])]);
        }),
        ("a window beyond its range", |stream, _| {
            send(
                stream,
                &[frame(SETTINGS, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])],
            );
        }),
        ("settings of half a size", |stream, _| {
            send(stream, &[frame(SETTINGS, 0, &[0; 5])]);
        }),
        ("a ping of half a size", |stream, _| {
            send(stream, &[frame(PING, 0, &[0; 4])]);
        }),
        ("headers that cannot be decompressed", |stream, id| {
            send(
                stream,
                &[flagged(
                    HEADERS,
                    END_HEADERS,
                    id,
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                )],
            );
        }),
        ("headers that another frame interrupts", |stream, id| {
            send(
                stream,
                &[frame(HEADERS, id, STATUS_200), frame(PING, 0, &[0; 8])],
            );
        }),
        ("a reset of no stream", |stream, _| {
            send(stream, &[frame(RST_STREAM, 0, &[0, 0, 0, 8])]);
        }),
    ];
    for (what, play) in plays {
        let expect = "the response breaks HTTP/2, or its head is too large";
        check::<R>(what, play, AMPLE, (ErrorKind::Protocol, expect));
    }
}

fn floods_are_cut_off_or_outwaited<R: Runtime>() {
    let plays: [(&str, (ErrorKind, &str), Play); 7] = [
        // 16 KiB a frame, and no end of the head.
        (
            "endless continuation",
            (ErrorKind::Protocol, "(ENHANCE_YOUR_CALM)"),
            |stream, id| {
                send(stream, &[frame(HEADERS, id, STATUS_200)]);
                // A literal field that is never indexed: name "x", value of 100 bytes.
                let field = [&[0x10, 1, b'x', 100][..], &[b'y'; 100]].concat();
                flood(stream, &frame(CONTINUATION, id, &field.repeat(100)));
            },
        ),
        (
            "continuation without content",
            (ErrorKind::Protocol, "(ENHANCE_YOUR_CALM)"),
            |stream, id| {
                send(stream, &[frame(HEADERS, id, STATUS_200)]);
                flood(stream, &frame(CONTINUATION, id, &[]));
            },
        ),
        (
            "data without content",
            (ErrorKind::Protocol, ""),
            |stream, id| {
                send(stream, &[head(id)]);
                flood(stream, &frame(DATA, id, &[]));
            },
        ),
        ("pings", (ErrorKind::Timeout, ""), |stream, _| {
            flood(stream, &frame(PING, 0, &[7; 8]));
        }),
        ("settings", (ErrorKind::Timeout, ""), |stream, _| {
            flood(stream, &frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 100]));
        }),
        (
            "frames of an unknown type",
            (ErrorKind::Timeout, ""),
            |stream, _| {
                flood(stream, &frame(0xfa, 0, &[0; 100]));
            },
        ),
        ("window updates", (ErrorKind::Timeout, ""), |stream, id| {
            let (up, back) = (
                frame(WINDOW_UPDATE, id, &[0, 0, 0, 1]),
                frame(PING, 0, &[7; 8]),
            );
            flood(stream, &[up, back].concat());
        }),
    ];
    for (what, expect, play) in plays {
        let patience = match expect.0 {
            ErrorKind::Timeout => BRIEF,
            _ => AMPLE,
        };
        check::<R>(what, play, patience, expect);
    }
}

fn data_beyond_every_window_is_not_kept<R: Runtime>() {
    let play: Play = |stream, id| {
        send(stream, &[head(id)]);
        flood(stream, &frame(DATA, id, &[b' '; 16 * 1024]));
    };
    let seen = Arc::new(Seen::default());
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return serve(stream, &builder(100), None, &seen, |_| Act::Echo);
        }
        send(&mut stream, &[frame(SETTINGS, 0, &[])]);
        let id = await_heads(&mut stream, 1);
        play(&mut stream, id);
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        let exchange = post(&pool, b"first", AMPLE).await;
        let (kind, message) = exchange.failure();
        // Either the windows were overrun before they were widened again, or the cap came first.
        assert!(
            kind == ErrorKind::Protocol && message.contains("FLOW_CONTROL_ERROR")
                || kind == ErrorKind::TooLarge,
            "{message}"
        );
        assert!(
            exchange.reply.capacity() <= 64 << 20,
            "at most what the cap allows"
        );
        // The flood may go on behind the reset stream, and keep that connection from answering.
        let answered = async |body: &[u8]| {
            let exchange = post(&pool, body, BRIEF * 5).await;
            exchange.result.is_ok().then(|| exchange.body().to_owned())
        };
        let second = match answered(b"second").await {
            Some(body) => body,
            None => post(&pool, b"second", AMPLE).await.body().to_owned(),
        };
        assert_eq!(second, "second");
        assert_eq!(post(&pool, b"third", AMPLE).await.body(), "third");
    });
}

fn silence_is_outwaited_and_left<R: Runtime>() {
    let plays: [(&str, &str, Play); 4] = [
        ("silence", "to answer", |_, _| {}),
        (
            "a window of zero for ever",
            "had not taken the whole request",
            |stream, _| {
                send(stream, &[frame(SETTINGS, 0, &[0, 4, 0, 0, 0, 0])]);
            },
        ),
        ("a farewell, and then nothing", "to answer", |stream, id| {
            let last = [id.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            send(stream, &[frame(GOAWAY, 0, &last)]);
        }),
        ("half a frame", "to answer", |stream, id| {
            send(stream, &[head(id)[..9].to_vec()]);
        }),
    ];
    for (what, text, play) in plays {
        // The window of zero comes with the settings: after the first bytes went out. So a body
        // larger than the protocol's first window must wait for it.
        let large = what.starts_with("a window").then(|| vec![b'x'; 1 << 20]);
        silent::<R>(what, play, large.as_deref().unwrap_or(b"first"), text);
    }
}

fn silent<R: Runtime>(what: &str, play: Play, body: &[u8], text: &str) {
    let seen = Arc::new(Seen::default());
    let server = Server::start(move |number, mut stream| {
        if number > 0 {
            return serve(stream, &builder(100), None, &seen, |_| Act::Echo);
        }
        send(&mut stream, &[frame(SETTINGS, 0, &[])]);
        let id = await_heads(&mut stream, 1);
        play(&mut stream, id);
        await_close(&mut stream);
    });
    with_pool::<R, _>(settings(), known(&server), async |pool| {
        // The connection is there when the time begins to run.
        let (kind, message) = post(&pool, body, Duration::from_millis(500))
            .await
            .failure();
        assert!(
            kind == ErrorKind::Timeout && message.contains(text),
            "{what}: {message}"
        );
        assert_eq!(
            post(&pool, b"second", AMPLE).await.body(),
            "second",
            "{what}"
        );
        assert_eq!(
            server.accepted(),
            2,
            "nobody waits on that connection again"
        );
    });
}

fn a_head_that_breaks_the_rules_ends_its_stream_only<R: Runtime>() {
    let heads: [(&str, &[u8]); 3] = [
        // A literal field: name "X".
        ("a name with a capital", &[0x88, 0x00, 1, b'X', 1, b'y']),
        ("no status", &[0x00, 1, b'x', 1, b'y']),
        ("a status of letters", &[0x08, 3, b'a', b'b', b'c']),
    ];
    for (what, block) in heads {
        let server = Server::start(move |_, mut stream| {
            send(&mut stream, &[frame(SETTINGS, 0, &[])]);
            let id = await_heads(&mut stream, 1);
            send(
                &mut stream,
                &[flagged(HEADERS, END_HEADERS | END_STREAM, id, block)],
            );
            await_close(&mut stream);
        });
        with_pool::<R, _>(settings(), known(&server), async |pool| {
            let (kind, message) = post(&pool, b"first", AMPLE).await.failure();
            assert_eq!(kind, ErrorKind::Protocol, "{what}: {message}");
        });
    }
}

fn what_is_enough_needs_no_end<R: Runtime>() {
    let plays: [(&str, Play); 3] = [
        ("silence", |_, _| {}),
        ("a reset", |stream, id| {
            send(stream, &[frame(RST_STREAM, id, &2_u32.to_be_bytes())]);
        }),
        ("a farewell", |stream, _| {
            let last = [0_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            send(stream, &[frame(GOAWAY, 0, &last)]);
        }),
    ];
    for (what, play) in plays {
        let server = Server::start(move |_, mut stream| {
            send(&mut stream, &[frame(SETTINGS, 0, &[])]);
            let id = await_heads(&mut stream, 1);
            send(&mut stream, &[head(id), frame(DATA, id, b"all of it")]);
            play(&mut stream, id);
            await_close(&mut stream);
        });
        with_pool::<R, _>(settings(), known(&server), async |pool| {
            let start = runtime::now();
            let mut body = Vec::new();
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&request(b"first"));
            let exchange = pool.exchange(0, start, start + AMPLE, write, |bytes| {
                body.extend_from_slice(bytes);
                match body.ends_with(b"it") {
                    true => Wanted::Enough,
                    false => Wanted::More,
                }
            });
            let exchange = exchange.await;
            assert_eq!(exchange.body(), "all of it", "{what}");
            assert_eq!(exchange.status(), 200, "{what}");
        });
    }
}

on_both!(
    broken_rules_end_the_connection,
    floods_are_cut_off_or_outwaited,
    data_beyond_every_window_is_not_kept,
    silence_is_outwaited_and_left,
    a_head_that_breaks_the_rules_ends_its_stream_only,
    what_is_enough_needs_no_end,
);
