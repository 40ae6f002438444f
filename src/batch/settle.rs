//! What became of an attempt: a record, or another place among the retries. Counters, endpoint
//! health and wait hints follow from the same judgement.

mod refused;

pub(super) use refused::HeldRecord;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::batch::admission::Ticket;
use crate::batch::content::Content;
use crate::batch::input::LineRef;
use crate::batch::judgement::{Failed, Judge, TOKEN_PAUSE};
use crate::batch::message::{self, Report};
use crate::batch::record::{self, Billed, Failure, Success};
use crate::batch::segment::{NewAttempt, NewEntry};
use crate::batch::shard::Shard;
use crate::batch::spend;
use crate::batch::stream::StreamReply;
use crate::client;
use crate::error::ErrorKind;
use crate::http::Response;
use crate::journal::Outcome;
use crate::json;
use crate::metrics::{self, FailureExample, tokens::Tokens};
use crate::policy::health::Probe;
use crate::policy::refusal::{Marks, Refused, Ruling};
use crate::policy::retry::{self, Decision, Parked};
use crate::policy::wait_hint::WaitHint;
use crate::provider::{ApiPath, Effect, Endpoint, Refusal};
use crate::runtime::{self, Runtime};

/// How many times a shard reports on its way to `--max-cost`, besides regularly: so much of it, times
/// the number of shards, may be spent before the coordinator knows.
const COST_REPORTS: f64 = 256.0;

impl<R: Runtime> Shard<R> {
    /// Ends an attempt.
    pub(super) fn settle(
        &self,
        ticket: &Ticket,
        path: Option<ApiPath>,
        sent: Instant,
        result: Result<Response, client::Failure>,
        reply: &[u8],
        stream: Option<Box<StreamReply>>,
    ) {
        let now = runtime::now();
        let line = self.input.text(&ticket.line);
        let content;
        let failed = match result {
            Err(failure) => {
                let endpoint = &self.plan.endpoints[ticket.endpoint];
                Failed::without_answer(endpoint, &failure, stream)
            }
            Ok(response) => {
                // A response answers a request, which has gone to some path.
                let path = path.unwrap_or(ApiPath::Other);
                let bytes_max = self.plan.config.max_response_bytes;
                content = Content::of(&response, reply, bytes_max);
                // What was fed to it as it came was not decoded.
                let stream = match &content.body {
                    Cow::Owned(body) => stream.map(|_| StreamReply::of(path, body, now)),
                    Cow::Borrowed(_) => stream,
                };
                let received = (&response, reply, &content);
                match self.settle_response(ticket, path, line, sent, now, received, stream) {
                    None => return self.succeeded(ticket),
                    Some(failed) => failed,
                }
            }
        };
        let mut failed = failed;
        failed.doubt(line);
        self.note_token(ticket, line, &mut failed);
        failed.note_endpoint(
            self.admission
                .borrow_mut()
                .health()
                .is_well(ticket.endpoint),
        );
        self.settle_failure(ticket, line, sent, now, &failed);
    }

    /// The wait that a failure asks for is everybody's, but for that of a lone refusal.
    fn note_wait(&self, ticket: &Ticket, failed: &Failed<'_>, now: Instant) {
        let waits_alone = failed.is_refusal()
            && self
                .admission
                .borrow_mut()
                .note_refusal(ticket.endpoint, now);
        if let Some(wait) = failed.wait.filter(|_| !waits_alone) {
            self.hinted(ticket.endpoint, wait, now);
        }
    }

    /// A fetched token is not shown, nor are keys of the line's own; it is renewed once when it is
    /// refused.
    fn note_token(&self, ticket: &Ticket, line: &[u8], failed: &mut Failed<'_>) {
        let endpoint = &self.plan.endpoints[ticket.endpoint];
        let headers = ticket.parsed.headers(line);
        let Some(tokens) = &self.tokens else {
            return failed.strike_out(endpoint, None, headers);
        };
        let tokens = tokens.borrow();
        let token = tokens.of(endpoint).map(|token| &token.secret);
        failed.strike_out(endpoint, token, headers);
        if failed.status == Some(401) && tokens.excuses(endpoint, ticket.token.get()) {
            failed.excuse(TOKEN_PAUSE);
        }
    }

    /// Writes the success record; `None` if that was it, else why the attempt failed after all.
    #[expect(clippy::too_many_arguments, reason = "one attempt's parts, used once")]
    fn settle_response<'a>(
        &self,
        ticket: &Ticket,
        path: ApiPath,
        line: &[u8],
        sent: Instant,
        now: Instant,
        (response, reply, content): (&Response, &'a [u8], &'a Content<'a>),
        stream: Option<Box<StreamReply>>,
    ) -> Option<Failed<'a>> {
        let endpoint = &self.plan.endpoints[ticket.endpoint];
        let completed_us = runtime::unix_micros();
        let judge = Judge::new(
            endpoint,
            response,
            reply,
            content,
            (completed_us / 1000) as i64,
        );
        let answer = match judge.answer(stream) {
            Ok(answer) => answer,
            Err(failed) => {
                return Some(self.noted(ticket, &judge, *failed));
            }
        };
        if let Some(wait) = judge.hint.wait {
            self.hinted(ticket.endpoint, wait, now);
        }
        let first_token = answer
            .first_token_at
            .map(|at| at.saturating_duration_since(sent));
        let latency = now.saturating_duration_since(sent);
        let mut log = self.log.borrow_mut();
        let out = log.record_buffer(Outcome::Success);
        let start = out.len();
        let written = record::write_success(
            record::format_for(self.plan.config.format, Some(&ticket.parsed)),
            &Success {
                line,
                parsed: &ticket.parsed,
                response: &answer.body,
                endpoint: &endpoint.name,
                latency_ms: latency.as_millis() as u64,
                ttft_ms: first_token.map(|first| first.as_millis() as u64),
                attempts: ticket.attempts + 1,
                status: response.status,
                line_number: ticket.line.number,
                request_id: judge.request_id,
            },
            &|tokens, model| {
                spend::of_named(&self.plan, endpoint, &ticket.parsed, line, tokens, model)
            },
            out,
        );
        let written = match written {
            Ok(written) => written,
            Err(fault) => return Some(*judge.not_json(&fault)),
        };
        if let Some(failed) = judge.no_answer(path, &answer, &written.glance) {
            out.truncate(start);
            drop(log);
            return Some(self.noted(ticket, &judge, *failed));
        }
        let billed = written.billed;
        let tokens = billed.tokens.unwrap_or_default();
        self.note_record(out.len() - start);
        log.commit(
            NewEntry {
                line_offset: ticket.line.offset,
                line_number: ticket.line.number,
                completed_us,
                outcome: Outcome::Success,
                attempts: ticket.attempts + 1,
                tokens: spend::narrowed(tokens),
                cost_nano_usd: spend::nano_usd(billed.usd),
            },
            start,
        );
        ticket.note_settled();
        drop(log);
        self.metrics
            .borrow_mut()
            .success(ticket.endpoint, latency, tokens, first_token);
        self.charge(billed.usd);
        self.settle_tokens(ticket, tokens, true);
        if judge.says_more() {
            self.note_remainders(ticket, &judge.hint, tokens);
        }
        None
    }

    /// Notes what a failed answer says about quotas.
    #[cold]
    fn noted<'a>(&self, ticket: &Ticket, judge: &Judge<'_, '_>, failed: Failed<'a>) -> Failed<'a> {
        if judge.says_more() {
            self.note_remainders(ticket, &judge.hint, failed.tokens);
        }
        failed
    }

    fn note_remainders(&self, ticket: &Ticket, hint: &WaitHint, tokens: Tokens) {
        let used = tokens.prompt.saturating_add(tokens.completion);
        self.admission
            .borrow_mut()
            .note_remainders(ticket.endpoint, hint, used);
    }

    /// Corrects what was taken from a `tpm_limit` for this request by what it used. An answer that
    /// does not say, or that never came, is taken to have used the estimate.
    fn settle_tokens(&self, ticket: &Ticket, tokens: Tokens, uncounted: bool) {
        let used = match tokens.prompt.saturating_add(tokens.completion) {
            0 if uncounted => ticket.tokens,
            used => used,
        };
        self.admission.borrow_mut().settle_tokens(ticket, used);
    }

    /// Counts what an answer cost, and sees to it that `--max-cost` is noticed in time.
    fn charge(&self, usd: Option<f64>) {
        let Some(usd) = usd.filter(|usd| *usd > 0.0) else {
            return;
        };
        self.metrics.borrow_mut().cost(usd);
        let unreported = self.unreported_usd.get() + usd;
        self.unreported_usd.set(unreported);
        if self
            .plan
            .config
            .max_cost
            .is_some_and(|max_cost| unreported >= max_cost / COST_REPORTS)
        {
            self.report_metrics();
        }
    }

    fn succeeded(&self, ticket: &Ticket) {
        let mut admission = self.admission.borrow_mut();
        admission.release(ticket);
        admission.note_succeeded(ticket);
    }

    fn hinted(&self, endpoint: usize, wait: Duration, now: Instant) {
        self.report(Report::Hint { endpoint, wait });
        self.admission.borrow_mut().note_hint(endpoint, now + wait);
    }

    /// Tells the coordinator, then parks the line or writes its failure record.
    fn settle_failure(
        &self,
        ticket: &Ticket,
        line: &[u8],
        sent: Instant,
        now: Instant,
        failed: &Failed<'_>,
    ) {
        let verdict = &failed.verdict;
        let effect = &failed.verdict.effect;
        let endpoint = &self.plan.endpoints[ticket.endpoint];
        // Whoever asks a provider's support is asked for these. Escaped: a server may send anything.
        tracing::debug!(
            line = ticket.line.number,
            endpoint = endpoint.name,
            kind = verdict.kind.as_str(),
            request_id = failed.request_id.map(debug),
            region = failed.region.map(debug),
            "an attempt failed: {}",
            verdict.message
        );
        self.metrics
            .borrow_mut()
            .failed_attempt(ticket.endpoint, verdict.kind, failed.tokens);
        self.note_failure(ticket, line, failed);
        let billed = self.billed(ticket, line, failed);
        self.charge(billed.usd);
        self.settle_tokens(ticket, failed.tokens, failed.uncounted);
        self.admission.borrow_mut().release(ticket);
        self.note_wait(ticket, failed, now);
        let ruling = (failed.refused()).map(|what| (what, self.rule_on(ticket, line, what, now)));
        self.tell(ticket, effect, failed, ruling, now);
        let is_lone = || self.admission.borrow().is_lone_refusal(ticket.endpoint);
        if let Some(cause) = failed.pushback(is_lone) {
            self.admission
                .borrow_mut()
                .note_pushback(ticket, cause, sent);
        }
        let failure = Failure {
            line,
            parsed: Some(&ticket.parsed),
            kind: verdict.kind,
            message: &verdict.message,
            status: failed.status,
            attempts: ticket.attempts + 1,
            line_number: ticket.line.number,
            body: None,
            request_id: failed.request_id,
            endpoint: Some(&endpoint.name),
            billed,
        };
        let fails = || {
            let body = failed.shown_body(endpoint);
            let body = body.as_deref();
            self.write_failure(ticket.line, Some(ticket), &Failure { body, ..failure });
        };
        if let Some((what, ruling)) = ruling {
            let marks = match (what, ruling) {
                (_, Ruling::GoesElsewhere) => Marks::SENT_ELSEWHERE,
                (Refused::Key, _) => Marks::KEY_REFUSED,
                _ => Marks::default(),
            };
            return match ruling {
                Ruling::Fails => fails(),
                Ruling::GoesElsewhere => self.park_again(ticket, billed, 1, now, marks),
                Ruling::Waits => self.park_again(ticket, billed, 0, now, marks),
                Ruling::IsHeld => {
                    let body = failed.shown_body(endpoint);
                    let body = body.as_deref();
                    self.hold(ticket, &Failure { body, ..failure }, now);
                }
            };
        }
        // An endpoint that nobody reaches is not the line's fault. One that answers with errors may fail
        // because of the line, which therefore pays also for a probe: or the last lines of a run, all of
        // that kind, would never end.
        let unreachable = failed.unsent
            && (ticket.sending.probe || self.admission.borrow().seems_out(ticket.endpoint));
        let refused = failed.is_refusal().then(|| {
            let answers = self.admission.borrow().answers();
            ticket.refusals.again(answers)
        });
        let blameless = unreachable || failed.excused || refused.is_some();
        let spent = ticket.attempts + u32::from(!blameless);
        let decision = retry::decide(
            &retry::Failure {
                retryable: failed.may_be_cured(ticket.unreadable),
                server_wait: failed.wait,
                elsewhere: self.usable_elsewhere(ticket.endpoint, now),
                refused,
            },
            spent,
            self.plan.config.retry.max_attempts,
            &self.plan.backoff,
            &mut random,
        );
        match decision {
            Decision::Retry { after } => {
                self.metrics.borrow_mut().retry();
                let counts = !blameless && failed.may_be_the_line();
                self.journal_attempt(ticket, billed, if counts { spent } else { 0 });
                let unreadable = failed.unreadable_or(ticket.unreadable);
                let refusals = refused.unwrap_or(ticket.refusals);
                self.admission.borrow_mut().park(Parked {
                    refusals,
                    unreadable,
                    ..parked(ticket, spent, now + after, Marks::default())
                });
                ticket.note_settled();
            }
            Decision::GiveUp => {
                let body = failed.shown_body(endpoint);
                let message = refused.map_or(Cow::Borrowed(verdict.message.as_str()), |refusals| {
                    refusals.explain(&verdict.message).into()
                });
                let last = Failure {
                    body: body.as_deref(),
                    message: &message,
                    // One that was refused each time was sent all the same.
                    attempts: spent.max(1),
                    ..failure
                };
                self.write_failure(ticket.line, Some(ticket), &last);
            }
        }
    }

    /// The line waits until an endpoint can be used, another one first.
    fn park_again(
        &self,
        ticket: &Ticket,
        billed: Billed,
        attempts: u32,
        now: Instant,
        marks: Marks,
    ) {
        self.metrics.borrow_mut().retry();
        self.journal_attempt(ticket, billed, 0);
        let parked = parked(ticket, ticket.attempts + attempts, now, marks);
        self.admission.borrow_mut().park(parked);
        ticket.note_settled();
    }

    /// Counts an attempt that failed with those that failed alike, for the summary.
    fn note_failure(&self, ticket: &Ticket, line: &[u8], failed: &Failed<'_>) {
        let alike = metrics::Failed {
            kind: failed.verdict.kind,
            status: failed.status,
            message: &failed.verdict.message,
        };
        let example = || self.example(Some(ticket), line, ticket.line.number);
        let mut metrics = self.metrics.borrow_mut();
        metrics.failures().attempt(alike, example);
    }

    /// What a summary tells of a line that failed.
    fn example(&self, ticket: Option<&Ticket>, line: &[u8], line_number: u64) -> FailureExample {
        let endpoint = ticket.map(|ticket| &self.plan.endpoints[ticket.endpoint]);
        let url = endpoint.zip(ticket).map(|(endpoint, ticket)| {
            let (url, model) = (ticket.parsed.url(line), ticket.parsed.model(line));
            let completes_prompt = ticket.parsed.completes_prompt();
            endpoint.called_url(url.as_deref(), model.as_deref(), completes_prompt)
        });
        FailureExample {
            message: String::new(),
            url: url.unwrap_or_default(),
            endpoint: endpoint.map_or_else(String::new, |endpoint| endpoint.name.clone()),
            without_key: endpoint.is_some_and(Endpoint::sends_no_key),
            line_number,
            id: id_of(line),
        }
    }

    /// What a failed attempt cost, as far as it says.
    fn billed(&self, ticket: &Ticket, line: &[u8], failed: &Failed<'_>) -> Billed {
        let tokens = Some(failed.tokens).filter(|tokens| *tokens != Tokens::default());
        let usd = tokens.and_then(|tokens| {
            let endpoint = &self.plan.endpoints[ticket.endpoint];
            let model = failed.body.as_deref().and_then(spend::model_of);
            let (plan, parsed) = (&self.plan, &ticket.parsed);
            spend::of_answer(plan, endpoint, parsed, line, tokens, model.as_deref())
        });
        Billed { tokens, usd }
    }

    /// An attempt that is not the line's last is journalled if it cost anything, or if the line has
    /// spent it (`attempts` so far, else 0) also for a process that resumes: lines that always fail
    /// must come to their end however often the run stops, while an endpoint that is out costs no
    /// line anything that outlives the process.
    fn journal_attempt(&self, ticket: &Ticket, billed: Billed, attempts: u32) {
        if billed.tokens.is_some() || attempts > 0 {
            self.log.borrow_mut().note_attempt(NewAttempt {
                line_offset: ticket.line.offset,
                line_number: ticket.line.number,
                completed_us: runtime::unix_micros(),
                attempts,
                tokens: spend::narrowed(billed.tokens.unwrap_or_default()),
                cost_nano_usd: spend::nano_usd(billed.usd),
            });
        }
    }

    /// Another endpoint may take the line now.
    fn usable_elsewhere(&self, endpoint: usize, now: Instant) -> bool {
        let mut admission = self.admission.borrow_mut();
        let health = admission.health();
        (0..self.plan.endpoints.len()).any(|other| other != endpoint && health.usable(other, now))
    }

    fn tell(
        &self,
        ticket: &Ticket,
        effect: &Effect,
        failed: &Failed<'_>,
        ruling: Option<(Refused, Ruling)>,
        now: Instant,
    ) {
        let endpoint = ticket.endpoint;
        let refused = failed.may_be_an_outage();
        let mut admission = self.admission.borrow_mut();
        match effect {
            // What was refused beside others that are served says nothing about the endpoint's health.
            Effect::RateLimited
                if refused && !ticket.sending.probe && !admission.is_served_nothing(endpoint) => {}
            Effect::RateLimited if !refused => admission.note_alive(ticket),
            Effect::Transient | Effect::RateLimited => {
                if ticket.sending.probe {
                    let shown = Probe::Failed;
                    self.report(Report::Probed { endpoint, shown });
                }
                let failures = admission.note_failed(ticket);
                self.report(Report::Transient {
                    endpoint,
                    failures,
                    message: failed.verdict.message.clone(),
                    may_be_the_line: failed.may_be_the_line(),
                    refused,
                });
            }
            Effect::None if failed.status.is_some() => admission.note_complained(ticket),
            // The endpoint answered: whatever it said, it is not out.
            Effect::None => admission.note_alive(ticket),
            Effect::Refused { what, .. } if *what == Refusal::Model => {
                admission.note_complained(ticket);
            }
            Effect::Refused {
                what: Refusal::Transport,
                reason,
            } => {
                admission.health().note_refused(endpoint);
                admission.note_nothing(ticket);
                self.report(Report::WrongScheme {
                    endpoint,
                    reason: reason.clone(),
                });
            }
            // An earlier process has drawn its conclusions from this line.
            Effect::Refused { .. } | Effect::Exhausted { .. }
                if matches!(ruling, Some((what, ruling)) if ticket.marks.has(Marks::KNOWN)
                    && (what != Refused::Money || ruling == Ruling::Fails)) =>
            {
                admission.note_nothing(ticket);
            }
            Effect::Refused { what, reason } => {
                let failures = match what {
                    Refusal::Key => admission.note_key_refused(ticket, now),
                    _ => admission.note_refused(ticket),
                };
                if *what == Refusal::Path && !admission.health().is_well(endpoint) {
                    admission.health().note_refused(endpoint);
                }
                // Behind the answers before it, some of which may still wait to be told.
                let refused = Report::Refused(Box::new(message::Refused {
                    endpoint,
                    what: *what,
                    line: ticket.line.number,
                    is_held: matches!(ruling, Some((_, Ruling::IsHeld))),
                    is_probe: ticket.sending.probe,
                    failures,
                    reason: reason.clone(),
                }));
                admission.reports.push(refused);
            }
            Effect::Exhausted { reason } => {
                admission.health().note_exhausted(endpoint);
                self.report(Report::Disable {
                    endpoint,
                    reason: reason.clone(),
                    unpaid: Some(ticket.line.number),
                });
            }
        }
    }

    /// A line that was never sent because it is no request.
    pub(super) fn refuse(&self, line: LineRef, kind: ErrorKind, message: &str) {
        self.write_failure(
            line,
            None,
            &Failure {
                line: self.input.text(&line),
                parsed: None,
                kind,
                message,
                status: None,
                attempts: 0,
                line_number: line.number,
                body: None,
                request_id: None,
                endpoint: None,
                billed: Billed::default(),
            },
        );
    }

    /// A defect of ours hit this line: it becomes a failure record, unless its fate was settled
    /// before. The shard goes on.
    pub(super) fn settle_panic(&self, ticket: &Ticket, panic: &str) {
        tracing::error!(
            line = ticket.line.number,
            "a request failed by a defect of blaze-uring: {panic}"
        );
        self.admission.borrow_mut().release(ticket);
        if ticket.is_settled() {
            return;
        }
        self.write_failure(
            ticket.line,
            Some(ticket),
            &Failure {
                line: self.input.text(&ticket.line),
                parsed: Some(&ticket.parsed),
                kind: ErrorKind::Cancelled,
                message: &format!("a defect of blaze-uring: {panic}"),
                status: None,
                attempts: ticket.attempts + 1,
                line_number: ticket.line.number,
                body: None,
                request_id: None,
                endpoint: None,
                billed: Billed::default(),
            },
        );
    }

    /// `ticket`: the request that it ends, if one was sent.
    fn write_failure(&self, line: LineRef, ticket: Option<&Ticket>, failure: &Failure<'_>) {
        let mut log = self.log.borrow_mut();
        let out = log.record_buffer(Outcome::Failure);
        let start = out.len();
        record::write_failure(
            record::format_for(self.plan.config.format, failure.parsed),
            failure,
            out,
        );
        self.note_record(out.len() - start);
        log.commit(failure_entry(line, failure), start);
        drop(log);
        if let Some(ticket) = ticket {
            ticket.note_settled();
            let mut admission = self.admission.borrow_mut();
            admission.note_failed_for_good(failure.kind, failure.status, failure.message);
        }
        let mut metrics = self.metrics.borrow_mut();
        metrics.line_failed(failure.kind);
        let alike = metrics::Failed {
            kind: failure.kind,
            status: failure.status,
            message: failure.message,
        };
        let example = || self.example(ticket, failure.line, line.number);
        metrics.failures().line(alike, example);
    }
}

fn failure_entry(line: LineRef, failure: &Failure<'_>) -> NewEntry {
    NewEntry {
        line_offset: line.offset,
        line_number: line.number,
        completed_us: runtime::unix_micros(),
        outcome: Outcome::Failure,
        attempts: failure.attempts,
        tokens: spend::narrowed(failure.billed.tokens.unwrap_or_default()),
        cost_nano_usd: spend::nano_usd(failure.billed.usd),
    }
}

/// `marks`: what the line has met now; what it met before stays with it.
fn parked(ticket: &Ticket, attempts: u32, due: Instant, marks: Marks) -> Parked {
    Parked {
        due,
        line_offset: ticket.line.offset,
        line_number: ticket.line.number,
        attempts: u16::try_from(attempts).unwrap_or(u16::MAX),
        last_endpoint: ticket.endpoint as u16,
        refusals: ticket.refusals,
        unreadable: ticket.unreadable,
        marks: ticket.marks.with(marks),
    }
}

/// What a line calls itself, cut where nobody reads on.
fn id_of(line: &[u8]) -> Option<String> {
    const CHARS_MAX: usize = 64;
    let value = ["custom_id", "id"]
        .iter()
        .find_map(|name| json::get(line, &[name]))?;
    let text = match json::text(value) {
        Some(text) => text.into_owned(),
        None => String::from_utf8_lossy(value).into_owned(),
    };
    Some(text.chars().take(CHARS_MAX).collect())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shard is where jitter's randomness comes from"
)]
fn random() -> f64 {
    fastrand::f64()
}
