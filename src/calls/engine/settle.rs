//! What became of an attempt: an outcome for whoever waits, or another place among the retries.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Attempt, Engine, Finished, Received};
use crate::batch::judgement::{Answer, Judged, judge, not_json};
use crate::batch::record::RESPONSE_TEXT_BYTES_MAX;
use crate::calls::outcome::{CallError, Completion};
use crate::calls::request::Call;
use crate::error::ErrorKind;
use crate::http::Response;
use crate::metrics::tokens::Tokens;
use crate::policy::retry::{self, Decision};
use crate::provider::cost::cost_usd;
use crate::provider::{Effect, Verdict, usage_of};
use crate::runtime::{self, Runtime};

/// A failed attempt, judged.
struct Failed<'a> {
    verdict: Verdict,
    status: Option<u16>,
    body: &'a [u8],
    wait: Option<Duration>,
}

impl<R: Runtime> Engine<R> {
    /// Ends an attempt.
    pub(super) fn settle(&mut self, finished: Finished) {
        let Finished { attempt, result } = finished;
        let now = runtime::now();
        self.in_flight -= 1;
        self.traffic.release(attempt.endpoint);
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
                let failed = Failed {
                    verdict: Verdict {
                        kind: failure.kind(),
                        retry: failure.kind() != ErrorKind::TooLarge,
                        effect: Effect::Transient,
                        message: failure.to_string(),
                    },
                    status: None,
                    body: &[],
                    wait: None,
                };
                return self.settle_failure(attempt, now, &failed, delta_seen);
            }
        };
        let unix_now_ms = (runtime::unix_micros() / 1000) as i64;
        let endpoint = &self.plan.endpoints[attempt.endpoint];
        let Judged {
            request_id,
            hint,
            outcome,
        } = judge(endpoint, &response, &reply, stream, unix_now_ms);
        if let Some(wait) = hint.wait {
            self.traffic.handle_hint(attempt.endpoint, wait, now);
        }
        let parsed = outcome.and_then(|answer| match serde_json::from_slice(&answer.body) {
            Ok(json) => Ok((json, answer)),
            Err(syntax) => Err(not_json(response.status, syntax)),
        });
        match parsed {
            Ok((json, answer)) => {
                let request_id = request_id.map(str::to_owned);
                self.succeed(attempt, now, &response, request_id, json, &answer);
            }
            Err(verdict) => {
                let failed = Failed {
                    verdict,
                    status: Some(response.status),
                    body: &reply[response.body.clone()],
                    wait: hint.wait,
                };
                self.settle_failure(attempt, now, &failed, delta_seen);
            }
        }
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
        let tokens = self.account(&attempt, &answer.body);
        let delta = more_than_estimated(&attempt, tokens);
        self.traffic
            .handle_success(endpoint, attempt.probe, delta, now);
        let tokens = tokens.unwrap_or_default();
        let latency = now.saturating_duration_since(attempt.sent);
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
        let tokens = self.account(&attempt, failed.body);
        let metrics = &mut self.ledger.metrics;
        metrics.failed_attempt(endpoint, verdict.kind, tokens.unwrap_or_default());
        self.ledger
            .sample(endpoint, verdict.kind, failed.status, &verdict.message);
        let delta = more_than_estimated(&attempt, tokens);
        let disables_endpoint =
            self.traffic
                .handle_failure(endpoint, attempt.probe, delta, verdict, now);
        let mut call = attempt.call;
        let error = CallError {
            kind: verdict.kind,
            message: verdict.message.clone(),
            status: failed.status,
            attempts: call.attempts + 1,
            endpoint: Some(self.plan.endpoints[endpoint].name.clone()),
            response_text: excerpt(failed.body),
        };
        let given_up = self.leave_at.is_some()
            || delta_seen
            || call.give_up_at.is_some_and(|at| at <= now)
            || !self.open.is_open(call.id);
        if given_up {
            return self.fail(*call, error);
        }
        // A failed probe and an endpoint that turned out unusable are not the call's fault.
        let blameless = disables_endpoint || (attempt.probe && verdict.effect == Effect::Transient);
        call.attempts += u32::from(!blameless);
        let retry = &self.plan.config.retry;
        let decision = retry::decide(
            &retry::Failure {
                retryable: verdict.retry,
                server_wait: failed.wait,
                disables_endpoint,
                elsewhere: self.traffic.usable_elsewhere(endpoint, now),
            },
            call.attempts,
            call.max_attempts.unwrap_or(retry.max_attempts),
            &self.plan.backoff,
            &mut random,
        );
        match decision {
            Decision::Retry { after } => {
                self.ledger.metrics.retry();
                call.avoid = Some(endpoint);
                call.last_error = Some(error);
                // A wait that the clock cannot hold ends with the call's own patience.
                let due = now.checked_add(after).unwrap_or(now);
                self.parked.insert((due, call.id), call);
            }
            Decision::GiveUp => self.fail(*call, error),
        }
    }

    /// Ends a call without an answer.
    pub(super) fn fail(&mut self, call: Call, error: CallError) {
        if self.open.is_open(call.id) {
            self.ledger.failed(error.kind);
        }
        self.open.finish(call.id, Err(error));
    }

    /// Books what an answer cost; `None` if it does not say.
    fn account(&mut self, attempt: &Attempt, body: &[u8]) -> Option<Tokens> {
        let tokens = usage_of(body)?;
        let model = attempt.call.parsed.model(&attempt.call.line);
        let configured = self.plan.endpoints[attempt.endpoint].model();
        if let Some(model) = model.as_deref().or(configured) {
            let usd = cost_usd(&self.plan.config.prices, model, tokens);
            self.ledger.cost(usd);
        }
        Some(tokens)
    }
}

/// What `tpm_limit` was charged too little; an answer without figures cost what was thought.
fn more_than_estimated(attempt: &Attempt, tokens: Option<Tokens>) -> i64 {
    let Some(tokens) = tokens else { return 0 };
    let billed = tokens.prompt.saturating_add(tokens.completion);
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    signed(billed).saturating_sub(signed(attempt.tokens_estimated))
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
