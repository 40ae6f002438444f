//! Failure records, and how the summary counts what they tell.

use crate::batch::admission::Ticket;
use crate::batch::input::LineRef;
use crate::batch::judgement::Failed;
use crate::batch::record::{self, Billed, Failure};
use crate::batch::segment::NewEntry;
use crate::batch::shard::Shard;
use crate::batch::spend;
use crate::error::ErrorKind;
use crate::journal::Outcome;
use crate::json;
use crate::metrics::{self, FailureExample};
use crate::provider::Endpoint;
use crate::runtime::{self, Runtime};

impl<R: Runtime> Shard<R> {
    /// A line that was never sent because it is no request.
    pub(in crate::batch) fn refuse(&self, line: LineRef, kind: ErrorKind, message: &str) {
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
    pub(in crate::batch) fn settle_panic(&self, ticket: &Ticket, panic: &str) {
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
    pub(super) fn write_failure(
        &self,
        line: LineRef,
        ticket: Option<&Ticket>,
        failure: &Failure<'_>,
    ) {
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

    /// Counts an attempt that failed with those that failed alike, for the summary.
    pub(super) fn note_failure(&self, ticket: &Ticket, line: &[u8], failed: &Failed<'_>) {
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
    pub(super) fn example(
        &self,
        ticket: Option<&Ticket>,
        line: &[u8],
        line_number: u64,
    ) -> FailureExample {
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
}

pub(super) fn failure_entry(line: LineRef, failure: &Failure<'_>) -> NewEntry {
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
