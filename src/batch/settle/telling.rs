//! What a failed attempt says about its endpoint: to this shard at once, to the coordinator by reports.

use std::time::Instant;

use crate::batch::admission::Ticket;
use crate::batch::judgement::Failed;
use crate::batch::message::{self, Report};
use crate::batch::shard::Shard;
use crate::policy::health::Probe;
use crate::policy::refusal::{Marks, Refused, Ruling};
use crate::provider::{Effect, Refusal};
use crate::runtime::Runtime;

impl<R: Runtime> Shard<R> {
    /// Tells both.
    pub(super) fn tell(
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
}
