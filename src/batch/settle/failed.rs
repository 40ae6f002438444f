//! A failed attempt: its line is parked for another one, held back, or ends in its failure record.

use std::borrow::Cow;
use std::time::Instant;

use crate::batch::admission::Ticket;
use crate::batch::judgement::{Failed, TOKEN_PAUSE};
use crate::batch::record::{Billed, Failure};
use crate::batch::segment::NewAttempt;
use crate::batch::shard::Shard;
use crate::batch::spend;
use crate::metrics::tokens::Tokens;
use crate::policy::refusal::{Marks, Refused, Ruling};
use crate::policy::retry::{self, Decision, Parked};
use crate::runtime::{self, Runtime};

impl<R: Runtime> Shard<R> {
    /// Tells the coordinator, then parks the line or writes its failure record.
    pub(super) fn settle_failure(
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
    pub(super) fn usable_elsewhere(&self, endpoint: usize, now: Instant) -> bool {
        let mut admission = self.admission.borrow_mut();
        let health = admission.health();
        (0..self.plan.endpoints.len()).any(|other| other != endpoint && health.usable(other, now))
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
    pub(super) fn note_token(&self, ticket: &Ticket, line: &[u8], failed: &mut Failed<'_>) {
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
}

/// `marks`: what the line has met now; what it met before stays with it.
pub(super) fn parked(ticket: &Ticket, attempts: u32, due: Instant, marks: Marks) -> Parked {
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

#[expect(
    clippy::disallowed_methods,
    reason = "the shard is where jitter's randomness comes from"
)]
fn random() -> f64 {
    fastrand::f64()
}
