//! What became of an attempt: a record, or another place among the retries. Counters, endpoint
//! health and wait hints follow from the same judgement.

mod failed;
mod failure_record;
mod refused;
mod telling;

pub(super) use refused::HeldRecord;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::batch::admission::Ticket;
use crate::batch::content::Content;
use crate::batch::judgement::{Failed, Judge};
use crate::batch::message::Report;
use crate::batch::record::{self, Success};
use crate::batch::segment::NewEntry;
use crate::batch::shard::Shard;
use crate::batch::spend;
use crate::batch::stream::StreamReply;
use crate::client;
use crate::http::Response;
use crate::journal::Outcome;
use crate::metrics::tokens::Tokens;
use crate::policy::wait_hint::WaitHint;
use crate::provider::ApiPath;
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
}
