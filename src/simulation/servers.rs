//! The endpoints of a simulated run: they answer every line as its fate wants, in every way that HTTP
//! allows, or by chance in one that it does not.

mod http2;

use std::rc::Rc;
use std::time::Duration;

use super::lines::{Fate, Line, marked};
use super::outside::Outside;
use super::streams::PREFACE;
use crate::runtime::Runtime;
use crate::runtime::simulated::Simulated;
use crate::runtime::simulated::network::Peer;

/// How long a server thinks, at most, before it answers.
const THINKS_MAX: Duration = Duration::from_millis(150);
/// An idle connection that its server closes lives this long at most.
const IDLES_MAX: Duration = Duration::from_millis(60);
/// Longer than any time-out.
const FOR_EVER: Duration = Duration::from_secs(600);

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A status that asks to try again.
    Status(u16),
    /// 429 with one of the ways to say how long to wait.
    Limited,
    /// No HTTP.
    Garbage,
    /// Two lengths.
    Conflict,
    /// 200 with what is not JSON.
    NotJson,
    /// The connection ends before the body does.
    Truncated,
    /// … with a reset.
    ResetWithin,
    /// … before the head does.
    CutHead,
    /// The connection ends before any byte of an answer.
    Silent,
    /// … with a reset.
    ResetBefore,
    /// Nothing ever comes.
    Hangs,
    /// The body never comes to its end.
    HangsWithin,
}

const FAULTS: &[Fault] = &[
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(529),
    Fault::Status(408),
    Fault::Status(409),
    Fault::Limited,
    Fault::Limited,
    Fault::Garbage,
    Fault::Conflict,
    Fault::NotJson,
    Fault::Truncated,
    Fault::ResetWithin,
    Fault::CutHead,
    Fault::Silent,
    Fault::ResetBefore,
    Fault::Hangs,
    Fault::HangsWithin,
];

/// Ways to say how long to wait: a header, what the body says, and how many milliseconds that means.
const HINTS: &[(&str, &str, u64)] = &[
    ("", "slow down", 0),
    ("retry-after: 1\r\n", "", 1000),
    ("retry-after: 0.25\r\n", "", 250),
    ("retry-after-ms: 700\r\n", "", 700),
    (
        "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1s\r\n",
        "",
        1000,
    ),
    (
        "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 12ms\r\n",
        "",
        12,
    ),
    ("x-rate-limit-reset-tokens: 1\r\n", "", 1000),
    ("retry-after: -1\r\n", "Please try again in 120ms.", 120),
    ("", "Please retry after 1 seconds", 1000),
];

/// Serves one connection.
pub async fn serve(outside: Rc<Outside>, endpoint: usize, peer: Peer) {
    let world = outside.world();
    let mut buffer = Vec::new();
    let mut served = 0_u32;
    while buffer.len() < PREFACE.len() {
        if peer.read(&mut buffer).await == 0 {
            return;
        }
    }
    if buffer.starts_with(PREFACE) {
        return http2::serve(outside, endpoint, peer, buffer).await;
    }
    loop {
        let length = loop {
            if let Some(length) = request_length(&buffer) {
                break length;
            }
            if peer.read(&mut buffer).await == 0 {
                return;
            }
        };
        let Some(id) = marked(&buffer[..length]) else {
            outside.violation("a request of no line".to_owned());
            return;
        };
        buffer.drain(..length);
        let line = outside.receives(id, endpoint);
        world.event("serves", id as u64, || {
            format!("on connection {}", peer.number())
        });
        pause(&outside, THINKS_MAX).await;
        if outside.is_dead(endpoint) {
            outside.excuse_refused(id);
            let body = error(&line, "invalid api key");
            let head = format!(
                "HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            peer.send([head, body].concat().into_bytes(), true);
            continue;
        }
        if outside.is_out(endpoint) {
            if served > 0 {
                outside.excuse_stale(id);
            }
            return;
        }
        let fault = outside
            .may_fault(id)
            .then(|| FAULTS[world.random(|random| random.usize(0..FAULTS.len()))]);
        let goes_on = match fault {
            Some(fault) => {
                world.event("fault", id as u64, || format!("{fault:?}"));
                let may_be_stale = matches!(
                    fault,
                    Fault::Silent | Fault::ResetBefore | Fault::ResetWithin
                );
                if may_be_stale && served > 0 {
                    // If the client has not read a byte, it sends again at once, without an attempt.
                    outside.excuse_stale(id);
                }
                misbehave(&outside, endpoint, &peer, &line, fault).await
            }
            None => {
                outside.answers(id);
                answer(&outside, &peer, &line).await
            }
        };
        if !goes_on {
            return;
        }
        served += 1;
        if world.chance(outside.trouble().stale) {
            pause(&outside, IDLES_MAX).await;
            return;
        }
    }
}

async fn pause(outside: &Outside, max: Duration) {
    let world = outside.world();
    Simulated::sleep_until(world.now() + world.duration(max)).await;
}

/// Bytes of the request at the buffer's start, once it is complete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let length = head + length.unwrap_or(0);
    (buffer.len() >= length).then_some(length)
}

/// How the end of a body is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
    Close,
}

/// What the line's fate wants: status, content type and body.
fn content(outside: &Outside, line: &Line) -> (u16, &'static str, String) {
    match line.fate {
        Fate::Answered if line.streams => (200, "text/event-stream", line.stream()),
        Fate::Answered => {
            let answer = line.answer();
            let text = match outside.world().chance(0.2) {
                true => serde_json::to_string_pretty(&answer).expect("a value is JSON"),
                false => answer.to_string(),
            };
            (200, "application/json", text)
        }
        Fate::Refused => (400, "application/json", error(line, "no such thing")),
        Fate::Fails => (500, "application/json", error(line, "always fails")),
        Fate::NotJson | Fate::Invalid => (200, "text/html", format!("<p>{}</p>", line.mark())),
    }
}

/// The answer that the line's fate wants; whether the connection goes on.
async fn answer(outside: &Outside, peer: &Peer, line: &Line) -> bool {
    let world = outside.world();
    let (status, content_type, body) = content(outside, line);
    let framing = match world.random(|random| random.u32(0..10)) {
        0..5 => Framing::Length,
        5..9 => Framing::Chunks,
        _ => Framing::Close,
    };
    let mut bytes = Vec::new();
    if world.chance(0.05) {
        bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let closes = framing == Framing::Close || world.chance(0.05);
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\n{}{}\r\n",
        match framing {
            Framing::Length => format!("content-length: {}\r\n", body.len()),
            Framing::Chunks => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::Close => String::new(),
        },
        if closes { "Connection: close\r\n" } else { "" },
    );
    bytes.extend_from_slice(head.as_bytes());
    match framing {
        Framing::Chunks => bytes.extend_from_slice(&chunked(outside, body.as_bytes())),
        Framing::Length | Framing::Close => bytes.extend_from_slice(body.as_bytes()),
    }
    if !closes && world.chance(0.03) {
        answer_too_much(outside, peer, &bytes).await;
        return false;
    }
    send(outside, peer, &bytes, framing != Framing::Close).await;
    !closes
}

/// Bytes that nobody asked for come with the answer's last ones, and are read with them or after them.
/// They must not reach the next request: there is none on this connection.
async fn answer_too_much(outside: &Outside, peer: &Peer, answer: &[u8]) {
    let last = outside.world().random(|random| random.usize(1..8));
    let (others, last) = answer.split_at(answer.len() - last);
    send(outside, peer, others, false).await;
    let unasked = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    peer.send_ending_at([last, unasked].concat(), Some(last.len()));
    if peer.read(&mut Vec::new()).await > 0 {
        outside.violation("a connection with bytes left over was used again".to_owned());
    }
}

/// In pieces, sometimes with pauses.
async fn send(outside: &Outside, peer: &Peer, bytes: &[u8], ends: bool) {
    let world = outside.world();
    let mut rest = bytes;
    while !rest.is_empty() && world.chance(0.3) {
        let length = world.random(|random| random.usize(0..rest.len()));
        peer.send(rest[..length].to_vec(), false);
        rest = &rest[length..];
        pause(outside, Duration::from_millis(20)).await;
    }
    peer.send(rest.to_vec(), ends);
}

fn chunked(outside: &Outside, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let most = rest.len();
        let length = outside
            .world()
            .random(|random| random.usize(most.div_ceil(8)..=most));
        out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        out.extend_from_slice(&rest[..length]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[length..];
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// No JSON, and each time for another reason: the same one twice would be the line's last.
fn unreadable(outside: &Outside) -> String {
    format!("{{\"choices\": [?{}", outside.elapsed().as_nanos())
}

fn error(line: &Line, message: &str) -> String {
    serde_json::json!({"error": {"message": format!("{message}: {}", line.mark()), "type": "x"}})
        .to_string()
}

/// What goes wrong; whether the connection goes on.
async fn misbehave(
    outside: &Outside,
    endpoint: usize,
    peer: &Peer,
    line: &Line,
    fault: Fault,
) -> bool {
    let world = outside.world();
    let body = line.answer().to_string();
    let whole = |status: u16, headers: &str, body: &str| {
        format!(
            "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let good = whole(200, "", &body);
    let head = good.len() - body.len();
    let within = world.random(|random| random.usize(head..good.len()));
    match fault {
        Fault::Status(status) => {
            if matches!(status, 503 | 529) {
                outside.excuse_refused(line.id);
            }
            send(
                outside,
                peer,
                &whole(status, "", &error(line, "not now")),
                true,
            )
            .await;
            true
        }
        Fault::Limited => {
            outside.excuse_refused(line.id);
            let (header, text, wait_ms) =
                HINTS[world.random(|random| random.usize(0..HINTS.len()))];
            send(outside, peer, &whole(429, header, &error(line, text)), true).await;
            outside.cools(endpoint, Duration::from_millis(wait_ms));
            true
        }
        Fault::NotJson => {
            let cannot_be_read = unreadable(outside);
            send(outside, peer, &whole(200, "", &cannot_be_read), true).await;
            true
        }
        Fault::Garbage => {
            peer.send(b"220 mail.example ESMTP\r\n\r\n".to_vec(), false);
            false
        }
        Fault::Conflict => {
            send(
                outside,
                peer,
                &whole(200, "Content-Length: 1\r\n", &body),
                false,
            )
            .await;
            pause(outside, THINKS_MAX).await;
            false
        }
        Fault::Truncated => {
            send(outside, peer, &good[..within], false).await;
            false
        }
        Fault::ResetWithin => {
            send(outside, peer, &good[..within], false).await;
            pause(outside, THINKS_MAX).await;
            peer.reset();
            false
        }
        Fault::CutHead => {
            let length = world.random(|random| random.usize(1..head));
            send(outside, peer, &good[..length], false).await;
            false
        }
        Fault::Silent => false,
        Fault::ResetBefore => {
            peer.reset();
            false
        }
        Fault::Hangs => {
            Simulated::sleep_until(world.now() + FOR_EVER).await;
            false
        }
        Fault::HangsWithin => {
            send(outside, peer, &good[..within], false).await;
            Simulated::sleep_until(world.now() + FOR_EVER).await;
            false
        }
    }
}
