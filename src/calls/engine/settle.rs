//! What became of an attempt: an outcome for whoever waits, or another place among the retries.

use std::rc::Rc;
use std::time::Instant;

use serde_json::Value;

use super::{Attempt, Engine, Finished, Received};
use crate::batch::content::Content;
use crate::batch::judgement::{Answer, Failed, Judge, TOKEN_PAUSE};
use crate::batch::record::RESPONSE_TEXT_BYTES_MAX;
use crate::batch::spend;
use crate::calls::outcome::{CallError, Completion, Delta};
use crate::calls::request::Call;
use crate::entra::BearerTokens;
use crate::error::ErrorKind;
use crate::http::Response;
use crate::json::{self, Syntax};
use crate::metrics::tokens::Tokens;
use crate::policy::health::State;
use crate::policy::refusal::{self, Marks, Refused, Ruling};
use crate::policy::retry::{self, Decision};
use crate::provider::no_answer::Glance;
use crate::provider::usage_of;
use crate::runtime::{self, Runtime};

impl<R: Runtime> Engine<R> {
    /// Ends an attempt.
    pub(super) fn settle(&mut self, finished: Finished) {
        let Finished { attempt, result } = finished;
        let now = runtime::now();
        self.in_flight -= 1;
        self.traffic.release(attempt.endpoint, attempt.sending, now);
        let Received {
            result,
            reply,
            stream,
            delta_seen,
        } = match result {
            Ok(received) => received,
            Err(panic) => {
                tracing::error!("a call failed by a defect of blaze-uring: {panic}");
                let endpoint = attempt.endpoint;
                let metrics = &mut self.ledger.metrics;
                metrics.failed_attempt(endpoint, ErrorKind::Cancelled, Tokens::default());
                let error = CallError::new(ErrorKind::Cancelled, panic.to_string());
                return self.fail(*attempt.call, error);
            }
        };
        let response = match result {
            Ok(response) => response,
            Err(failure) => {
                let endpoint = &self.plan.endpoints[attempt.endpoint];
                let mut failed = Failed::without_answer(endpoint, &failure, stream);
                self.strike_out(&attempt, &mut failed);
                failed.note_endpoint(self.traffic.is_well(attempt.endpoint));
                return self.settle_failure(attempt, now, &failed, delta_seen);
            }
        };
        let unix_now_ms = (runtime::unix_micros() / 1000) as i64;
        let plan = Rc::clone(&self.plan);
        let endpoint = &plan.endpoints[attempt.endpoint];
        let content = Content::of(&response, &reply, plan.config.max_response_bytes);
        let judge = Judge::new(endpoint, &response, &reply, &content, unix_now_ms);
        self.traffic
            .handle_remainders(attempt.endpoint, &judge.hint, now);
        let parsed = judge.answer(stream).and_then(|answer| {
            let json = read(&answer.body).map_err(|fault| judge.not_json(&fault))?;
            match judge.no_answer(attempt.path, &answer, &Glance::at(&answer.body)) {
                Some(failed) => Err(failed),
                None => Ok((json, answer)),
            }
        });
        match parsed {
            Ok((json, answer)) => {
                if let Some(wait) = judge.hint.wait {
                    self.traffic.handle_wait(attempt.endpoint, wait, now);
                }
                let request_id = judge.request_id.map(str::to_owned);
                if attempt.call.streams && !delta_seen {
                    // It came whole, although a stream was asked for.
                    let event = Value::clone(&json);
                    self.open.push_delta(attempt.call.id, Delta { event });
                }
                self.succeed(attempt, now, &response, request_id, json, &answer);
            }
            Err(mut failed) => {
                failed.doubt(&attempt.call.line);
                self.strike_out(&attempt, &mut failed);
                let excuses =
                    |tokens: &BearerTokens| tokens.excuses(endpoint, attempt.token_generation);
                if failed.status == Some(401) && self.tokens.as_ref().is_some_and(excuses) {
                    failed.excuse(TOKEN_PAUSE);
                }
                failed.note_endpoint(self.traffic.is_well(attempt.endpoint));
                self.settle_failure(attempt, now, &failed, delta_seen);
            }
        }
    }

    /// A fetched token is not shown, nor are keys of the call's own.
    fn strike_out(&self, attempt: &Attempt, failed: &mut Failed<'_>) {
        let endpoint = &self.plan.endpoints[attempt.endpoint];
        let token = self.tokens.as_ref().and_then(|tokens| tokens.of(endpoint));
        let call = &attempt.call;
        failed.strike_out(
            endpoint,
            token.map(|token| &token.secret),
            call.parsed.headers(&call.line),
        );
    }

    fn succeed(
        &mut self,
        attempt: Attempt,
        now: Instant,
        response: &Response,
        request_id: Option<String>,
        json: Value,
        answer: &Answer<'_>,
    ) {
        let endpoint = attempt.endpoint;
        let tokens = usage_of(&answer.body);
        let used = tokens.map(|tokens| tokens.prompt.saturating_add(tokens.completion));
        let estimated = attempt.call.tokens_estimated;
        let latency = now.saturating_duration_since(attempt.sent);
        self.traffic
            .handle_success(endpoint, attempt.sending, estimated, used, latency, now);
        let tokens = tokens.unwrap_or_default();
        let cost_usd = self.charge(&attempt, tokens, json["model"].as_str());
        let ttft = answer
            .first_token_at
            .map(|at| at.saturating_duration_since(attempt.sent));
        self.ledger.metrics.success(endpoint, latency, tokens, ttft);
        let id = attempt.call.id;
        if self.open.is_open(id) {
            self.ledger.succeeded();
        }
        let completion = Completion {
            response: json,
            endpoint: self.plan.endpoints[endpoint].name.clone(),
            status: response.status,
            attempts: attempt.call.attempts + 1,
            latency,
            ttft,
            request_id,
            tokens,
            cost_usd,
        };
        self.open.finish(id, Ok(completion));
    }

    /// Tells the machines, then parks the call or fails it.
    fn settle_failure(
        &mut self,
        attempt: Attempt,
        now: Instant,
        failed: &Failed<'_>,
        delta_seen: bool,
    ) {
        let endpoint = attempt.endpoint;
        let verdict = &failed.verdict;
        tracing::debug!(
            endpoint = self.plan.endpoints[endpoint].name,
            kind = verdict.kind.as_str(),
            request_id = failed.request_id.map(debug),
            region = failed.region.map(debug),
            "an attempt failed: {}",
            verdict.message
        );
        let metrics = &mut self.ledger.metrics;
        metrics.failed_attempt(endpoint, verdict.kind, failed.tokens);
        let model = failed.body.as_deref().and_then(spend::model_of);
        self.charge(&attempt, failed.tokens, model.as_deref());
        self.ledger
            .sample(endpoint, verdict.kind, failed.status, &verdict.message);
        let ruling = failed.refused().map(|what| {
            let ruling = self.rule_on(&attempt, what, now);
            (what, ruling)
        });
        self.traffic.handle_failure(
            endpoint,
            attempt.sending,
            attempt.call.tokens_estimated,
            failed,
            attempt.sent,
            now,
        );
        let mut call = attempt.call;
        let error = CallError {
            kind: verdict.kind,
            message: verdict.message.clone(),
            status: failed.status,
            attempts: call.attempts + 1,
            endpoint: Some(self.plan.endpoints[endpoint].name.clone()),
            response_text: (failed.shown_body(&self.plan.endpoints[endpoint]))
                .and_then(|body| excerpt(&body)),
        };
        let given_up = self.leave_at.is_some()
            || delta_seen
            || call.give_up_at.is_some_and(|at| at <= now)
            || !self.open.is_open(call.id);
        if given_up {
            return self.fail(*call, error);
        }
        if let Some((what, ruling)) = ruling {
            match ruling {
                // Nobody waits for the answers of other calls to know what this one's means.
                Ruling::Fails | Ruling::IsHeld => return self.fail(*call, error),
                Ruling::GoesElsewhere => {
                    call.attempts += 1;
                    call.marks = call.marks.with(Marks::SENT_ELSEWHERE);
                }
                Ruling::Waits if what == Refused::Key => {
                    call.marks = call.marks.with(Marks::KEY_REFUSED);
                }
                Ruling::Waits => {}
            }
            return self.park(call, endpoint, error, now);
        }
        // An endpoint that nobody reaches is not the call's fault.
        let is_out = || !matches!(self.traffic.endpoint(endpoint, now).0, State::Usable);
        let unreachable = failed.unsent && (attempt.sending.probe || is_out());
        let refused = (failed.is_refusal()).then(|| call.refusals.again(self.traffic.answers()));
        let blameless = unreachable || failed.excused || refused.is_some();
        call.refusals = refused.unwrap_or(call.refusals);
        call.attempts += u32::from(!blameless);
        let retry = &self.plan.config.retry;
        let decision = retry::decide(
            &retry::Failure {
                retryable: failed.may_be_cured(call.unreadable),
                server_wait: failed.wait,
                elsewhere: self.traffic.usable_elsewhere(endpoint, now),
                refused,
            },
            call.attempts,
            call.max_attempts.unwrap_or(retry.max_attempts),
            &self.plan.backoff,
            &mut random,
        );
        match decision {
            // A wait that the clock cannot hold ends with the call's own patience.
            Decision::Retry { after } => {
                call.unreadable = failed.unreadable_or(call.unreadable);
                let due = now.checked_add(after).unwrap_or(now);
                self.park(call, endpoint, error, due);
            }
            Decision::GiveUp => {
                let mut error = error;
                if let Some(refusals) = refused {
                    error.message = refusals.explain(&error.message);
                    error.attempts = call.attempts.max(1);
                }
                self.fail(*call, error);
            }
        }
    }

    /// What becomes of a call that was refused.
    fn rule_on(&mut self, attempt: &Attempt, what: Refused, now: Instant) -> Ruling {
        let (call, endpoint) = (&attempt.call, attempt.endpoint);
        let (mut what, mut elsewhere) = (what, self.traffic.usable_elsewhere(endpoint, now));
        if what == Refused::Model {
            let model = call.parsed.model(&call.line);
            match (self.traffic).note_unknown_model(model.as_deref(), endpoint, now) {
                Some(others) => elsewhere = others,
                None => what = Refused::Line,
            }
        }
        let attempts_max = self.plan.config.retry.max_attempts;
        refusal::rule(&refusal::Case {
            what,
            is_well: self.traffic.is_well(endpoint),
            is_known: false,
            was_sent_elsewhere: call.marks.has(Marks::SENT_ELSEWHERE),
            key_was_refused: call.marks.has(Marks::KEY_REFUSED),
            is_probe: attempt.sending.probe,
            elsewhere,
            has_attempts_left: call.attempts + 1 < call.max_attempts.unwrap_or(attempts_max),
        })
    }

    fn park(&mut self, mut call: Box<Call>, endpoint: usize, error: CallError, due: Instant) {
        self.ledger.metrics.retry();
        call.avoid = Some(endpoint);
        call.last_error = Some(error);
        self.parked.insert((due, call.id), call);
    }

    /// Ends a call without an answer.
    pub(super) fn fail(&mut self, call: Call, error: CallError) {
        if self.open.is_open(call.id) {
            self.ledger.failed(error.kind);
        }
        self.open.finish(call.id, Err(error));
    }

    /// Books what an answer of that model cost, in US dollars.
    fn charge(&mut self, attempt: &Attempt, tokens: Tokens, model: Option<&str>) -> Option<f64> {
        let Call { parsed, line, .. } = &*attempt.call;
        let endpoint = &self.plan.endpoints[attempt.endpoint];
        let usd = spend::of_answer(&self.plan, endpoint, parsed, line, tokens, model);
        self.ledger.cost(usd.unwrap_or(0.0));
        usd
    }
}

/// An answer as a tree. Half a character in it, which is JSON all the same, is replaced: a tree cannot hold it.
fn read(body: &[u8]) -> Result<Value, Syntax> {
    let plain = serde_json::from_slice(body);
    plain.or_else(|_| {
        json::validate(body)?;
        // Deeper than a tree may be, or a number beyond all bounds.
        serde_json::from_str(&json::mended(body)).map_err(|_| Syntax {
            offset: 0,
            expected: "JSON that fits into a tree",
        })
    })
}

fn excerpt(body: &[u8]) -> Option<String> {
    let cut = &body[..body.len().min(RESPONSE_TEXT_BYTES_MAX)];
    (!cut.is_empty()).then(|| String::from_utf8_lossy(cut).into_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the engine is where jitter's randomness comes from"
)]
fn random() -> f64 {
    fastrand::f64()
}
