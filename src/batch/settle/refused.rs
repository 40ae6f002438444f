//! What becomes of a line that its endpoint refused, and records that are held back until that is known.

use std::time::Instant;

use super::failed::parked;
use super::failure_record::failure_entry;
use crate::batch::admission::Ticket;
use crate::batch::record::{self, Failure};
use crate::batch::segment::NewEntry;
use crate::batch::shard::Shard;
use crate::error::ErrorKind;
use crate::metrics::{self, FailureExample};
use crate::policy::health::Fate;
use crate::policy::refusal::{self, Marks, Refused, Ruling};
use crate::policy::retry::Parked;
use crate::runtime::Runtime;

/// A failure record that is held back: whether the refusal was the line's own is not known yet.
pub struct HeldRecord {
    /// The line, should it be sent elsewhere.
    line: Parked,
    entry: NewEntry,
    /// With its newline.
    record: Vec<u8>,
    kind: ErrorKind,
    status: Option<u16>,
    message: String,
    example: FailureExample,
}

impl<R: Runtime> Shard<R> {
    /// What becomes of a line that was refused.
    pub(super) fn rule_on(
        &self,
        ticket: &Ticket,
        line: &[u8],
        what: Refused,
        now: Instant,
    ) -> Ruling {
        let endpoint = ticket.endpoint;
        let (mut what, mut elsewhere) = (what, self.usable_elsewhere(endpoint, now));
        let mut admission = self.admission.borrow_mut();
        if what == Refused::Model {
            let model = ticket.parsed.model(line);
            match admission.note_unknown_model(model.as_deref(), endpoint, now) {
                Some(others) => elsewhere = others,
                None => what = Refused::Line,
            }
        }
        refusal::rule(&refusal::Case {
            what,
            is_well: admission.health().is_well(endpoint),
            is_known: ticket.marks.has(Marks::KNOWN),
            was_sent_elsewhere: ticket.marks.has(Marks::SENT_ELSEWHERE),
            key_was_refused: ticket.marks.has(Marks::KEY_REFUSED),
            is_probe: ticket.sending.probe,
            elsewhere,
            has_attempts_left: ticket.attempts + 1 < self.plan.config.retry.max_attempts,
        })
    }

    /// The line's failure record is made and held back until the coordinator says what its endpoint's
    /// refusal means: [`Shard::handle_held`].
    pub(super) fn hold(&self, ticket: &Ticket, failure: &Failure<'_>, now: Instant) {
        let mut record = Vec::new();
        let format = record::format_for(self.plan.config.format, failure.parsed);
        record::write_failure(format, failure, &mut record);
        let held = HeldRecord {
            line: parked(ticket, ticket.attempts, now, Marks::default()),
            entry: failure_entry(ticket.line, failure),
            record,
            kind: failure.kind,
            status: failure.status,
            message: failure.message.to_owned(),
            example: self.example(Some(ticket), failure.line, ticket.line.number),
        };
        let endpoint = ticket.endpoint;
        let records = &mut self.held.borrow_mut()[endpoint];
        records.push_back(held);
        let mut admission = self.admission.borrow_mut();
        admission.hold_record(endpoint, records.len());
        ticket.note_settled();
    }

    /// What has become of the oldest line that `endpoint` has refused.
    pub(in crate::batch) fn handle_held(&self, endpoint: usize, fate: Fate) {
        let held = self.held.borrow_mut()[endpoint].pop_front();
        let held = held.expect("the coordinator knows which records are held back");
        let mut admission = self.admission.borrow_mut();
        admission.release_record(endpoint);
        match fate {
            Fate::SentElsewhere => {
                self.metrics.borrow_mut().retry();
                admission.park(held.line);
            }
            Fate::Recorded => {
                admission.note_failed_for_good(held.kind, held.status, &held.message);
                drop(admission);
                self.note_record(held.record.len());
                self.log.borrow_mut().append(held.entry, &held.record);
                let mut metrics = self.metrics.borrow_mut();
                metrics.line_failed(held.kind);
                let alike = metrics::Failed {
                    kind: held.kind,
                    status: held.status,
                    message: &held.message,
                };
                metrics.failures().line(alike, || held.example);
                drop(metrics);
                self.schedule_flush();
            }
        }
    }
}
