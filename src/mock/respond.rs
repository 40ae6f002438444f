//! From a complete request to everything that goes onto the wire. No I/O besides the clock and the books.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{self, Answer, Events};
use super::failure::{Failure, reason};
use super::limit::Quota;
use super::options::{MockOptions, WaitHint};
use super::plan::{self, Circumstances, Fault, Plan, Refusal};
use super::request::{ApiRequest, identity, text_at};
use super::route::{Api, Route, route};
use super::script::{End, Scripted, SeenRequest};
use super::state::{InFlight, State};
use super::wire::{Head, Rejected};

/// In how many parts a slow answer's body drips.
const DRIPS: usize = 16;

/// What a broken proxy says with a 200.
const GARBAGE: &[u8] = b"<html><body>The upstream is having a moment.</body></html>";

const JSON: &str = "application/json";

/// Decides and renders the answer to a complete request. The request is in flight until the
/// returned guard is dropped; requests to `/stats` have none.
pub(super) fn respond(
    state: &Arc<State>,
    head: &Head<'_>,
    body: &[u8],
    connection: u64,
) -> (Scripted, Option<InFlight>) {
    let route = route(head.target);
    let renderer = Renderer::new(head);
    if route == Route::Stats {
        let stats = state.books().snapshot();
        let body =
            serde_json::to_vec(&stats).unwrap_or_else(|error| error.to_string().into_bytes());
        return (renderer.message(200, JSON, "", &body), None);
    }
    let now = state.now();
    let mut in_flight = state.arrive(now, head.target);
    let (scripted, fault) = match ask_script(state, head, body, connection, now) {
        Some(scripted) => (scripted, Some("script")),
        None => ordinary(state, head, body, route, now, &renderer, &mut in_flight),
    };
    state.books().answered(scripted.status(), fault);
    (scripted, Some(in_flight))
}

/// The answer to a request that could not be read.
pub(super) fn reject(rejected: Rejected) -> Scripted {
    let failure = Failure {
        message: rejected.message.to_owned(),
        ..Failure::of_status(rejected.status)
    };
    Scripted::json(rejected.status, failure.body(false))
        .header("connection", "close")
        .then_close()
}

/// Records the request if that is wanted, and lets the script answer it.
fn ask_script(
    state: &State,
    head: &Head<'_>,
    body: &[u8],
    connection: u64,
    arrived: Duration,
) -> Option<Scripted> {
    let options = &state.options;
    if !options.record_requests && options.script.is_none() {
        return None;
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let request = SeenRequest {
        method: head.method.to_owned(),
        target: head.target.to_owned(),
        headers: head
            .headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), text(value)))
            .collect(),
        body: body.to_vec(),
        arrived,
        connection,
    };
    state.books().record(&request);
    options.script.as_ref().and_then(|script| script(&request))
}

/// The answer and the name of what was injected.
fn ordinary(
    state: &State,
    head: &Head<'_>,
    body: &[u8],
    route: Route<'_>,
    now: Duration,
    renderer: &Renderer,
    in_flight: &mut InFlight,
) -> (Scripted, Option<&'static str>) {
    let options = &state.options;
    // Health checks come without a key.
    let authorized = route == Route::Health || is_authorized(options, head);
    let (api, deployment) = match route {
        Route::Api { api, deployment } if head.method == "POST" => (api, deployment),
        _ => {
            let plan = plan::barrier(options, now, authorized);
            return match plan {
                Some(Plan::Refuse(refusal)) => {
                    (renderer.refusal(options, refusal, ""), Some(refusal.cause))
                }
                Some(_) => (Scripted::raw("").then_reset(), Some("outage")),
                None => (renderer.page(head.method, head.target, route), None),
            };
        }
    };
    let parsed = ApiRequest::parse(api, deployment, options.seed, body);
    let identity = parsed
        .as_ref()
        .map_or_else(|_| identity(options.seed, body), |request| request.identity);
    let count_key = options
        .count_by
        .as_ref()
        .and_then(|pointer| text_at(body, pointer));
    let (plan, quota) = {
        let mut books = state.books();
        let standing = books.stand(now, identity, count_key);
        let plan = plan::decide(
            options,
            &Circumstances {
                now,
                ordinal: standing.ordinal,
                identity,
                attempt: standing.attempt,
                in_service: standing.in_service,
                quota: standing.quota,
                authorized,
            },
        );
        if matches!(plan, Plan::Serve { .. }) {
            in_flight.ticket.let_in(&mut books);
        }
        (plan, standing.quota)
    };
    let mut headers = String::with_capacity(256);
    // Writing to a string does not fail.
    let _ = write!(
        headers,
        "{}: req_{identity:016x}\r\n",
        if renderer.anthropic {
            "request-id"
        } else {
            "x-request-id"
        }
    );
    if let Some(quota) = quota {
        renderer.quota_headers(&mut headers, quota);
    }
    match plan {
        Plan::Reset => (Scripted::raw("").then_reset(), Some("outage")),
        Plan::Refuse(refusal) => (
            renderer.refusal(options, refusal, &headers),
            Some(refusal.cause),
        ),
        Plan::Serve {
            latency,
            time_to_first_token,
            fault,
        } => {
            let request = match parsed {
                Ok(request) => request,
                Err(failure) => return (renderer.failure(&failure, &headers), None),
            };
            let pace = Pace {
                time_to_first_token,
                tokens_per_second: options.tokens_per_second,
            };
            let scripted = match (fault, answer::answer(api, &request, options.response_bytes)) {
                (Some(Fault::Garbage), _) => renderer.message(200, "text/html", &headers, GARBAGE),
                (_, Answer::Whole { body, tokens }) => renderer
                    .message(200, JSON, &headers, body.as_bytes())
                    .after(pace.due(tokens)),
                (_, Answer::Events(events)) => renderer.stream(&headers, &events, pace),
            };
            let scripted = scripted.after(latency);
            match fault {
                None => (scripted, None),
                Some(fault) => (
                    spoil(scripted, fault, options.slow_for),
                    Some(fault.as_str()),
                ),
            }
        }
    }
}

/// The answer with a fault in it.
fn spoil(scripted: Scripted, fault: Fault, slow_for: Duration) -> Scripted {
    let first = &scripted.pieces[0].bytes;
    let head = memchr::memmem::find(first, b"\r\n\r\n").map_or(first.len(), |at| at + 4);
    let total: usize = scripted.pieces.iter().map(|piece| piece.bytes.len()).sum();
    let middle = head + (total - head) / 2;
    match fault {
        Fault::ResetBeforeHead => scripted.cut(0).then_reset(),
        Fault::ResetInBody => scripted.cut(middle).then_reset(),
        Fault::Truncate => scripted.cut(middle).then_close(),
        Fault::Close => scripted.then_close(),
        Fault::Garbage => scripted,
        Fault::Slow => scripted.drip(head, DRIPS, slow_for),
        Fault::Hang => scripted.cut(0).then_hang(),
    }
}

fn is_authorized(options: &MockOptions, head: &Head<'_>) -> bool {
    let Some(key) = &options.auth else {
        return true;
    };
    head.headers.iter().any(|&(name, value)| {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("authorization") {
            let scheme = value.get(..7).unwrap_or_default();
            scheme.eq_ignore_ascii_case(b"bearer ") && value[7..].trim_ascii() == key.as_bytes()
        } else {
            let is_key =
                name.eq_ignore_ascii_case("api-key") || name.eq_ignore_ascii_case("x-api-key");
            is_key && value == key.as_bytes()
        }
    })
}

/// When tokens are due after the latency.
#[derive(Clone, Copy)]
struct Pace {
    time_to_first_token: Duration,
    tokens_per_second: Option<f64>,
}

impl Pace {
    /// When token number `tokens`, from 1, is out; nothing waits for token 0.
    fn due(self, tokens: u64) -> Duration {
        if tokens == 0 {
            return Duration::ZERO;
        }
        let after_first = self
            .tokens_per_second
            .map_or(0.0, |pace| (tokens - 1) as f64 / pace);
        // Absurdly slow paces are cut to a day, where nobody waits any more.
        self.time_to_first_token + Duration::from_secs_f64(after_first.min(86_400.0))
    }
}

/// Writes messages the way this request can take them.
struct Renderer {
    /// Errors and headers as Anthropic writes them.
    anthropic: bool,
    head_only: bool,
    keep_alive: bool,
    chunks_allowed: bool,
}

impl Renderer {
    fn new(head: &Head<'_>) -> Self {
        Self {
            anthropic: matches!(
                route(head.target),
                Route::Api {
                    api: Api::Messages,
                    ..
                }
            ),
            head_only: head.method == "HEAD",
            keep_alive: head.framing.keep_alive,
            chunks_allowed: head.framing.chunks_allowed,
        }
    }

    /// A complete message; `headers` are whole lines.
    fn message(&self, status: u16, content_type: &str, headers: &str, body: &[u8]) -> Scripted {
        let mut bytes = Vec::with_capacity(256 + headers.len() + body.len());
        let close = if self.keep_alive {
            ""
        } else {
            "connection: close\r\n"
        };
        let head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{headers}{close}\r\n",
            reason(status),
            body.len()
        );
        bytes.extend_from_slice(head.as_bytes());
        if !self.head_only {
            bytes.extend_from_slice(body);
        }
        Scripted::raw(bytes).ending(if self.keep_alive {
            End::Keep
        } else {
            End::Close
        })
    }

    /// An event stream: events due at the same time go out together.
    fn stream(&self, headers: &str, events: &Events, pace: Pace) -> Scripted {
        let ends_by_close = !self.chunks_allowed;
        let framing = if self.chunks_allowed {
            "transfer-encoding: chunked\r\n"
        } else {
            ""
        };
        let close = if self.keep_alive {
            ""
        } else {
            "connection: close\r\n"
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n\
             {framing}{headers}{close}\r\n"
        );
        let mut scripted = Scripted::raw(head).ending(if self.keep_alive {
            End::Keep
        } else {
            End::Close
        });
        let (mut sent, mut sent_at) = (0, Duration::ZERO);
        let mut groups = events
            .marks
            .chunk_by(|a, b| pace.due(a.1) == pace.due(b.1))
            .peekable();
        while let Some(group) = groups.next() {
            // `chunk_by` gives no empty groups.
            let (end, tokens) = group[group.len() - 1];
            let due = pace.due(tokens);
            if due > sent_at {
                scripted = scripted.then(due - sent_at, "");
            }
            let out = scripted.pieces.last_mut().map(|piece| &mut piece.bytes);
            // A script always has a piece.
            let Some(out) = out else { break };
            let text = &events.text.as_bytes()[sent..end];
            if ends_by_close {
                out.extend_from_slice(text);
            } else {
                out.extend_from_slice(format!("{:x}\r\n", text.len()).as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(if groups.peek().is_none() {
                    b"\r\n0\r\n\r\n"
                } else {
                    b"\r\n"
                });
            }
            (sent, sent_at) = (end, due);
        }
        scripted
    }

    fn failure(&self, failure: &Failure, headers: &str) -> Scripted {
        self.message(failure.status, JSON, headers, &failure.body(self.anthropic))
    }

    /// An injected failure, with its wait told as the options say.
    fn refusal(&self, options: &MockOptions, refusal: Refusal, headers: &str) -> Scripted {
        let mut failure = Failure::of_status(refusal.status);
        let mut headers = headers.to_owned();
        if let Some(wait) = refusal.wait {
            let (header, told) = match options.wait_hint {
                WaitHint::Seconds => {
                    let seconds = wait.as_secs_f64();
                    (format!("retry-after: {seconds}\r\n"), format!("{seconds}s"))
                }
                WaitHint::Milliseconds => {
                    let milliseconds = ceil_ms(wait);
                    (
                        format!("retry-after-ms: {milliseconds}\r\n"),
                        format!("{milliseconds}ms"),
                    )
                }
                WaitHint::None => (String::new(), String::new()),
            };
            headers += &header;
            if !told.is_empty() {
                let _ = write!(failure.message, " Please try again in {told}.");
            }
        }
        self.failure(&failure, &headers)
    }

    /// Everything that is not a request to an API.
    fn page(&self, method: &str, target: &str, route: Route<'_>) -> Scripted {
        let readable = matches!(method, "GET" | "HEAD");
        match route {
            Route::Models if readable => self.message(200, JSON, "", answer::models().as_bytes()),
            Route::Health if readable => self.message(200, JSON, "", br#"{"status":"ok"}"#),
            Route::Unknown => {
                let message = format!("Invalid URL ({method} {target})");
                self.failure(
                    &Failure {
                        message,
                        ..Failure::of_status(404)
                    },
                    "",
                )
            }
            Route::Api { .. } | Route::Models | Route::Health | Route::Stats => {
                let message = format!("Not allowed to {method} on {target}.");
                let allow = if matches!(route, Route::Api { .. }) {
                    "allow: POST\r\n"
                } else {
                    "allow: GET, HEAD\r\n"
                };
                self.failure(
                    &Failure {
                        message,
                        ..Failure::of_status(405)
                    },
                    allow,
                )
            }
        }
    }

    fn quota_headers(&self, headers: &mut String, quota: Quota) {
        let (limit, remaining) = (quota.limit.ceil(), quota.remaining);
        let _ = if self.anthropic {
            let reset = jiff::Timestamp::now() + quota.reset;
            write!(
                headers,
                "anthropic-ratelimit-requests-limit: {limit}\r\nanthropic-ratelimit-requests-remaining: {remaining}\r\n\
                 anthropic-ratelimit-requests-reset: {reset:.3}\r\n"
            )
        } else {
            let reset = go_duration(quota.reset);
            write!(
                headers,
                "x-ratelimit-limit-requests: {limit}\r\nx-ratelimit-remaining-requests: {remaining}\r\n\
                 x-ratelimit-reset-requests: {reset}\r\n"
            )
        };
    }
}

fn ceil_ms(duration: Duration) -> u64 {
    duration.as_micros().div_ceil(1000) as u64
}

/// As OpenAI writes resets: `12ms`, `1.5s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    let milliseconds = ceil_ms(duration);
    let seconds = (milliseconds % 60_000) as f64 / 1000.0;
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..60_000 => format!("{seconds}s"),
        _ => format!("{}m{seconds}s", milliseconds / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_like_go_durations() {
        for (ms, expect) in [
            (0, "0ms"),
            (12, "12ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (360_000, "6m0s"),
            (61_500, "1m1.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), expect);
        }
    }

    #[test]
    fn a_plain_answer_takes_as_long_as_its_stream() {
        let pace = Pace {
            time_to_first_token: Duration::from_millis(100),
            tokens_per_second: Some(10.0),
        };
        for (tokens, ms) in [(0, 0), (1, 100), (2, 200), (11, 1100)] {
            assert_eq!(pace.due(tokens), Duration::from_millis(ms));
        }
    }
}
