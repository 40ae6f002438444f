//! What became of an attempt: an answer to keep, or a judged failure. Wait hints are read on the way.
//! Shared by lines and single calls. Pure.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::batch::content::Content;
use crate::batch::stream::{self, Assembled, Broken, StreamReply};
use crate::client;
use crate::config::Secret;
use crate::error::ErrorKind;
use crate::http::coding::CodingError;
use crate::http::{Headers, Response, Scheme};
use crate::json::Syntax;
use crate::metrics::tokens::Tokens;
use crate::policy::load::Cause;
use crate::policy::refusal::Refused;
use crate::policy::wait_hint::{self, WaitHint};
use crate::provider::no_answer::{Glance, NoAnswer};
use crate::provider::{ApiPath, Effect, Endpoint, Redactor, Refusal, Verdict, usage_of};

/// Where servers put their own id of a request, by preference: OpenAI, Anthropic, a gateway's.
const REQUEST_ID_HEADERS: [&str; 3] = ["x-request-id", "request-id", "apim-request-id"];

/// Where a gateway says which of a cloud's regions answered.
const REGION_HEADER: &str = "x-ms-region";

/// How long an endpoint is left alone while its refused token is renewed; then it is tried again.
pub const TOKEN_PAUSE: Duration = Duration::from_millis(500);

/// What is said with a 401 to a request that carried no key.
const NO_KEY: &str =
    "no key was sent: give one in BLAZE_API_KEY, or as `api_key` in the config file";

/// What is said where plain HTTP went to a server that answers so only over TLS.
const WRONG_SCHEME: &str = "write https:// instead of http://";

/// What servers that notice it say of plain HTTP on a TLS port, at the start of their 400: nginx, Go's
/// `net/http`, Apache.
const WANTS_TLS: [&[u8]; 3] = [
    b"the plain http request was sent to https port",
    b"client sent an http request to an https server",
    b"you're speaking plain http to an ssl-enabled server port",
];

/// How much of such a page is looked at: its title, or its first sentence.
const WANTS_TLS_BYTES_MAX: usize = 512;

/// Whether a 400 is about the scheme. JSON is not: it may quote a prompt.
fn wants_tls(body: &[u8]) -> bool {
    let start = body[..body.len().min(WANTS_TLS_BYTES_MAX)].to_ascii_lowercase();
    !matches!(start.trim_ascii_start().first(), Some(b'{' | b'['))
        && (WANTS_TLS.iter()).any(|words| memchr::memmem::find(&start, words).is_some())
}

/// A failed attempt, judged.
pub struct Failed<'a> {
    /// What it means.
    pub verdict: Verdict,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The status that it amounts to: an error inside a 2xx counts as the one that it names.
    pub status_meant: Option<u16>,
    /// The server's own id of the request.
    pub request_id: Option<&'a str>,
    /// Where the server says it stands.
    pub region: Option<&'a str>,
    /// The answer's body; it may repeat the endpoint's secrets.
    pub body: Option<Cow<'a, [u8]>>,
    /// How long the server asked to wait.
    pub wait: Option<Duration>,
    /// What was billed.
    pub tokens: Tokens,
    /// The server may have worked for it although no usage came back.
    pub uncounted: bool,
    /// It is a 2xx that cannot be read, and why: the same number is the same reason. 0: it is none.
    pub unreadable: u16,
    /// The request never left.
    pub unsent: bool,
    /// Only its token had to be renewed: it costs no attempt.
    pub excused: bool,
    /// Secrets of the request that are not the endpoint's; the answer may repeat them.
    carried: Redactor,
}

impl Failed<'_> {
    /// An exchange with `endpoint` that brought no answer, or not all of it; `stream` has seen what
    /// came of a stream.
    pub fn without_answer(
        endpoint: &Endpoint,
        failure: &client::Failure,
        stream: Option<Box<StreamReply>>,
    ) -> Self {
        Self {
            verdict: Verdict {
                kind: failure.kind(),
                retry: failure.kind() != ErrorKind::TooLarge,
                effect: match failure.kind() {
                    _ if failure.is_for_good() => Effect::Refused {
                        what: Refusal::Transport,
                        reason: endpoint.message(&failure.to_string()),
                    },
                    // The endpoint is well; the request asks for too much.
                    ErrorKind::TooLarge => Effect::None,
                    _ => Effect::Transient,
                },
                hearsay: None,
                // It may quote what the server sent.
                message: endpoint.message(&failure.to_string()),
            },
            status: None,
            status_meant: None,
            request_id: None,
            region: None,
            body: None,
            wait: None,
            tokens: stream.map_or_else(Tokens::default, |stream| stream.used()),
            uncounted: failure.kind() == ErrorKind::Timeout,
            unreadable: 0,
            unsent: failure.is_before_request(),
            excused: false,
            carried: Redactor::default(),
        }
    }

    /// Whether the server refused the request for load: it did nothing for the line, and would do it later.
    pub fn is_refusal(&self) -> bool {
        self.verdict.effect == Effect::RateLimited && self.verdict.retry && !self.excused
    }

    /// Whether such a refusal, if nobody else is served, says that the endpoint is out. One that says how
    /// long to wait for a limit does not.
    pub fn may_be_an_outage(&self) -> bool {
        self.is_refusal() && (self.wait.is_none() || self.verdict.kind != ErrorKind::RateLimited)
    }

    /// The request carried these secrets besides those of `endpoint`: a fetched token, headers of a
    /// line's own. They must not be shown either. A 401 to a request without any key says so.
    pub fn strike_out<'h>(
        &mut self,
        endpoint: &Endpoint,
        token: Option<&Secret>,
        headers: impl Iterator<Item = (Cow<'h, str>, Cow<'h, str>)>,
    ) {
        let mut has_key = token.is_some() || endpoint.has_key();
        let carried = &mut self.carried;
        if let Some(token) = token {
            carried.add(token.expose());
        }
        for (name, value) in headers {
            has_key |= Endpoint::carries_key(&name);
            carried.add_header(&name, &value);
        }
        for name in [&mut self.request_id, &mut self.region] {
            *name = name.filter(|name| carried.redact(name) == *name);
        }
        let struck = |text: &mut String| *text = carried.redact(text);
        struck(&mut self.verdict.message);
        if let Effect::Refused { reason, .. } | Effect::Exhausted { reason } =
            &mut self.verdict.effect
        {
            struck(reason);
        }
        if self.status == Some(401) && !has_key {
            self.say_besides(NO_KEY);
        } else if self.status == Some(400)
            && endpoint.origin.scheme == Scheme::Http
            && self.body.as_deref().is_some_and(wants_tls)
        {
            self.say_besides(WRONG_SCHEME);
            self.verdict.kind = ErrorKind::Tls;
            self.verdict.retry = true;
            self.verdict.effect = Effect::Refused {
                what: Refusal::Transport,
                reason: self.verdict.message.clone(),
            };
        }
    }

    /// From an endpoint that has answered a line well, an answer in the other scheme speaks of one request:
    /// of a gateway that restarts, of one server among several behind a name. Another attempt may be
    /// answered.
    pub fn note_endpoint(&mut self, is_well: bool) {
        let what = Refusal::Transport;
        if is_well
            && matches!(&self.verdict.effect, Effect::Refused { what: refused, .. } if *refused == what)
        {
            self.verdict.effect = Effect::Transient;
        }
    }

    /// Adds to the message, and to what is said of the endpoint, what would help.
    fn say_besides(&mut self, help: &str) {
        let add = |text: &mut String| *text = format!("{text} ({help})");
        add(&mut self.verdict.message);
        if let Effect::Refused { reason, .. } | Effect::Exhausted { reason } =
            &mut self.verdict.effect
        {
            add(reason);
        }
    }

    /// Words of the answer that `request` says, too, may be quoted from it: then the status alone counts.
    pub fn doubt(&mut self, request: &[u8]) {
        let Some(words) = self.verdict.hearsay.take() else {
            return;
        };
        let request = request.to_ascii_lowercase();
        if memchr::memmem::find(&request, words.as_bytes()).is_none() {
            return;
        }
        let reason = self.verdict.message.clone();
        (self.verdict.kind, self.verdict.retry, self.verdict.effect) = match self.status_meant {
            Some(429) => (ErrorKind::RateLimited, true, Effect::RateLimited),
            Some(403) => {
                let what = Refusal::Request;
                (ErrorKind::Auth, false, Effect::Refused { what, reason })
            }
            _ => (ErrorKind::BadRequest, false, Effect::None),
        };
    }

    /// What was refused, if this is no failure that another attempt may cure. With
    /// [`refusal::rule`](crate::policy::refusal::rule).
    pub fn refused(&self) -> Option<Refused> {
        Some(match &self.verdict.effect {
            Effect::Refused { what, .. } => match what {
                Refusal::Transport => Refused::Transport,
                Refusal::Key => Refused::Key,
                Refusal::Request => Refused::Request,
                Refusal::Path => Refused::Path,
                Refusal::Model => Refused::Model,
            },
            Effect::Exhausted { .. } => Refused::Money,
            Effect::None if self.is_final_complaint() => Refused::Line,
            Effect::None | Effect::Transient | Effect::RateLimited => return None,
        })
    }

    /// The endpoint has answered that this line will not do.
    fn is_final_complaint(&self) -> bool {
        let complains = self
            .status_meant
            .is_some_and(|status| (300..500).contains(&status));
        complains && !self.verdict.retry
    }

    /// The answer's body without the secrets of `endpoint` and of the request: some servers repeat
    /// the key that they refuse.
    pub fn shown_body(&self, endpoint: &Endpoint) -> Option<Cow<'_, [u8]>> {
        Some(match endpoint.redact_body(self.body.as_deref()?) {
            Cow::Borrowed(body) => self.carried.redact_bytes(body),
            Cow::Owned(body) => Cow::Owned(self.carried.redact_bytes(&body).into_owned()),
        })
    }

    /// A newer token is here or will be after `pause`: the request is sent again, and the endpoint
    /// is only left alone so long.
    pub fn excuse(&mut self, pause: Duration) {
        self.verdict.retry = true;
        self.verdict.effect = Effect::RateLimited;
        self.wait = Some(pause);
        self.excused = true;
    }

    /// Whether the endpoint answered with an error that the line itself may cause: 500, what is no JSON.
    /// Statuses that speak of load, of a gateway or of time are the endpoint's own.
    pub fn may_be_the_line(&self) -> bool {
        const OF_THE_ENDPOINT: [u16; 8] = [408, 425, 429, 498, 502, 503, 504, 529];
        self.status_meant
            .is_some_and(|status| !OF_THE_ENDPOINT.contains(&status))
    }

    /// Whether the line may be sent again, whose earlier attempts ended in `unreadable` (see
    /// [`Failed::unreadable`]): what is unreadable for the same reason twice will be so a third time, and is
    /// paid for.
    pub fn may_be_cured(&self, unreadable: u16) -> bool {
        self.verdict.retry && (self.unreadable == 0 || self.unreadable != unreadable)
    }

    /// What is to be remembered of it for the line's next attempt.
    pub fn unreadable_or(&self, unreadable: u16) -> u16 {
        match self.unreadable {
            0 => unreadable,
            latest => latest,
        }
    }

    /// How it says that there was too much, if it does; `is_lone`: a refusal is one of few.
    pub fn pushback(&self, is_lone: impl FnOnce() -> bool) -> Option<Cause> {
        match self.is_refusal() {
            true if is_lone() => Some(Cause::RefusedAlone),
            true => Some(Cause::Refused),
            false => (self.verdict.kind == ErrorKind::Timeout).then_some(Cause::Timeout),
        }
    }
}

/// The same number for the same fault in two bodies, whatever else differs in them: what was expected, and what
/// stands there. Of a body that ends too early, its length tells.
fn fault_of(body: &[u8], fault: &Syntax) -> u16 {
    /// Enough for `-Infinity` or the beginning of a web page.
    const SEEN: usize = 16;
    let rest = body.get(fault.offset..).unwrap_or_default();
    let seen = &rest[..rest.len().min(SEEN)];
    let length = if seen.is_empty() { body.len() } else { 0 };
    fingerprint(&[fault.expected.as_bytes(), seen, &length.to_le_bytes()])
}

/// Not 0. Two that differ are taken for the same once in 65,535 times, which costs one attempt.
fn fingerprint(parts: &[&[u8]]) -> u16 {
    let folded = parts
        .iter()
        .fold(0, |seed, part| xxh3_64_with_seed(part, seed));
    (folded % u64::from(u16::MAX)) as u16 + 1
}

/// A header's value that names something and goes to logs and records: visible ASCII, or it could
/// move a terminal's cursor.
fn name_of(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        .then_some(text)
}

/// What `endpoint` answered, read as far as every outcome needs.
pub struct Judge<'e, 'a> {
    endpoint: &'e Endpoint,
    response: &'e Response,
    headers: Headers<'a>,
    body: &'a [u8],
    /// Why the body could not be decoded.
    fault: Option<&'a CodingError>,
    unix_now_ms: i64,
    /// The server's own id of the request.
    pub request_id: Option<&'a str>,
    /// What it says about waiting, also where it succeeded.
    pub hint: WaitHint,
}

/// A successful answer. Whether it is JSON is for the reader to find out: see [`Judge::not_json`].
pub struct Answer<'a> {
    /// The body, or the JSON that a stream was put together to.
    pub body: Cow<'a, [u8]>,
    /// When the first token of a stream came.
    pub first_token_at: Option<Instant>,
}

impl<'e, 'a> Judge<'e, 'a> {
    /// Reads head and wait hints; `reply` is what was received, and `content` the body in it.
    pub fn new(
        endpoint: &'e Endpoint,
        response: &'e Response,
        reply: &'a [u8],
        content: &'a Content<'_>,
        unix_now_ms: i64,
    ) -> Self {
        let headers = Headers::new(&reply[response.head.clone()]);
        let body = &*content.body;
        let request_id = response
            .signals
            .has_request_id()
            .then(|| REQUEST_ID_HEADERS.iter().find_map(|name| headers.get(name)))
            .flatten()
            .and_then(name_of);
        let hint = if response.signals.has_wait_hint() || response.status >= 400 {
            wait_hint::parse(response.status, headers.iter(), body, unix_now_ms)
        } else {
            WaitHint::default()
        };
        Self {
            endpoint,
            response,
            headers,
            body,
            fault: content.fault.as_ref(),
            unix_now_ms,
            request_id,
            hint,
        }
    }

    /// Whether the head speaks of waiting or of quotas.
    pub fn says_more(&self) -> bool {
        self.response.signals.has_wait_hint()
    }

    /// The answer, or why the attempt failed; `stream` has seen the body of a stream.
    ///
    /// # Errors
    /// Not a 2xx, in a coding that cannot be undone, or a stream that broke.
    pub fn answer(&self, stream: Option<Box<StreamReply>>) -> Result<Answer<'a>, Box<Failed<'a>>> {
        if !(200..300).contains(&self.response.status) {
            return Err(self.classified());
        }
        if let Some(fault) = self.fault {
            return Err(self.undecodable(fault));
        }
        match self.assembled(stream) {
            None => Ok(Answer {
                body: Cow::Borrowed(self.body),
                first_token_at: None,
            }),
            Some(Ok(assembled)) => Ok(Answer {
                body: Cow::Owned(assembled.body),
                first_token_at: assembled.first_token_at,
            }),
            Some(Err(broken)) => {
                let meant = (self.endpoint).classify_stream(self.response.status, &broken.error);
                let mut failed = self.amounting(meant, broken.error.said.as_deref());
                failed.tokens = broken.tokens;
                if broken.begun && failed.verdict.effect == Effect::RateLimited {
                    // It was not refused: the server has worked for it.
                    failed.verdict.effect = Effect::Transient;
                }
                Err(failed)
            }
        }
    }

    #[cold]
    fn undecodable(&self, fault: &CodingError) -> Box<Failed<'a>> {
        let message = self.endpoint.message(&fault.to_string());
        if !matches!(fault, CodingError::TooLarge { .. }) {
            let mut failed = self.failed(Verdict::transient(ErrorKind::Protocol, message));
            failed.unreadable = fingerprint(&[self.body]);
            return failed;
        }
        self.failed(Verdict {
            kind: ErrorKind::TooLarge,
            retry: false,
            effect: Effect::None,
            hearsay: None,
            message,
        })
    }

    /// What came of the stream that the body is, if it is one; `stream` has seen it as it came.
    fn assembled(&self, stream: Option<Box<StreamReply>>) -> Option<Result<Assembled, Broken>> {
        let asked = stream.is_some();
        match stream.filter(|stream| stream.is_events()) {
            Some(stream) => Some(stream.finish()),
            None if self.body.first() == Some(&b'{') && !asked => None,
            None => stream::read_whole(self.body, asked || self.response.signals.event_stream()),
        }
    }

    /// The failure of a success that turned out to hold no answer: `answer` came from `path`, and `glance`
    /// has seen it. `None`: it holds one.
    #[inline]
    pub fn no_answer(
        &self,
        path: ApiPath,
        answer: &Answer<'a>,
        glance: &Glance,
    ) -> Option<Box<Failed<'a>>> {
        let (status, headers) = (self.response.status, self.headers.iter());
        let body = &answer.body;
        let meant = (self.endpoint).classify_success(path, status, headers, body, glance)?;
        Some(self.without(*meant, body))
    }

    #[cold]
    fn without(&self, meant: NoAnswer, body: &Cow<'a, [u8]>) -> Box<Failed<'a>> {
        // An error says that nothing was done.
        let uncounted = !meant.is_error;
        let said = std::str::from_utf8(body).ok();
        let mut failed = self.amounting(meant, said);
        failed.tokens = usage_of(body).unwrap_or_default();
        failed.uncounted = uncounted;
        failed.body = Some(body.clone());
        failed
    }

    /// The failure of a 2xx that amounts to another status; the error in it may ask to wait.
    fn amounting(&self, meant: NoAnswer, said: Option<&str>) -> Box<Failed<'a>> {
        let said = said.unwrap_or_default().as_bytes();
        let hint = wait_hint::parse(meant.status, self.headers.iter(), said, self.unix_now_ms);
        let mut failed = self.failed(meant.verdict);
        failed.status_meant = Some(meant.status);
        failed.wait = hint.wait.max(failed.wait);
        failed
    }

    /// The failure of a success whose body, or the answer put together from it, turned out not to be JSON.
    #[cold]
    pub fn not_json(&self, fault: &Syntax) -> Box<Failed<'a>> {
        let mut failed = self.classified();
        failed.unreadable = fault_of(self.body, fault);
        failed
    }

    fn classified(&self) -> Box<Failed<'a>> {
        let headers = self.headers.iter();
        self.failed(
            self.endpoint
                .classify(self.response.status, headers, self.body),
        )
    }

    fn failed(&self, verdict: Verdict) -> Box<Failed<'a>> {
        let is_shown =
            |name: &&str| matches!(self.endpoint.redact_body(name.as_bytes()), Cow::Borrowed(_));
        Box::new(Failed {
            verdict,
            status: Some(self.response.status),
            status_meant: Some(self.response.status),
            request_id: self.request_id.filter(is_shown),
            region: (self.headers.get(REGION_HEADER))
                .and_then(name_of)
                .filter(is_shown),
            body: Some(Cow::Borrowed(self.body)),
            wait: self.hint.wait,
            tokens: usage_of(self.body).unwrap_or_default(),
            uncounted: self.response.status < 300,
            unreadable: 0,
            unsent: false,
            excused: false,
            carried: Redactor::default(),
        })
    }
}
