//! What answers say about their endpoints, as far as this shard and the coordinator should know.

use std::time::{Duration, Instant};

use super::barren::Barren;
use super::{Admission, Ticket};
use crate::batch::message::Report;
use crate::error::ErrorKind;
use crate::policy::health::{Failures, KEY_PAUSE, Probe, STREAK_TO_COOL};

/// What the coordinator knows that an endpoint can do, since it last failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    #[default]
    Nothing,
    Alive,
    Well,
}

/// What a shard has seen of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    told: Told,
    /// Attempts that failed since it was last found alive.
    failed_in_a_row: u32,
    /// Attempts that were not answered well since one last was.
    unwell_in_a_row: u32,
    /// Since when this shard leaves it alone, see [`Admission::be_wary`].
    shunned_since: Option<Instant>,
}

impl Seen {
    /// Attempts that were not answered well since one last was.
    pub(super) fn unwell_in_a_row(self) -> u32 {
        self.unwell_in_a_row
    }

    /// As many as would cool it, were they failures.
    pub(super) fn is_bad(self) -> bool {
        self.unwell_in_a_row >= STREAK_TO_COOL
    }

    /// It is left alone now: see [`Admission::be_wary`].
    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_since
            .is_some_and(|since| now.saturating_duration_since(since) < SHUNNED_MAX)
    }

    /// It has answered another shard well since.
    pub(super) fn note_well_elsewhere(&mut self) {
        self.unwell_in_a_row = 0;
        self.shunned_since = None;
    }

    /// It has not answered anything well since an attempt was not.
    pub(super) fn is_doubtful(self) -> bool {
        self.unwell_in_a_row > 0
    }
}

/// How long a shard leaves an endpoint alone by itself. The coordinator has ruled long before.
const SHUNNED_MAX: Duration = Duration::from_secs(1);

impl Admission {
    /// Leaves endpoints that [are bad](Seen::is_bad) alone for the sake of others, before the coordinator
    /// says so: one that fails fast could be sent many lines until then.
    pub(super) fn be_wary(&mut self, now: Instant) {
        self.is_wary = false;
        for endpoint in 0..self.seen.len() {
            if !self.seen[endpoint].is_bad() {
                continue;
            }
            self.is_wary = true;
            let health = &self.health;
            let is_new = !health.is_well(endpoint) && !health.is_cooled(endpoint);
            let is_better = |other: usize| other != endpoint && !self.seen[other].is_bad();
            let mut others = 0..self.seen.len();
            if is_new && others.any(|other| is_better(other) && health.usable(other, now)) {
                self.seen[endpoint].shunned_since.get_or_insert(now);
            }
        }
    }

    /// A request was answered well. The coordinator hears of it when that changes anything.
    pub fn note_succeeded(&mut self, ticket: &Ticket) {
        let endpoint = ticket.endpoint;
        self.count_answer(endpoint);
        self.health.answer(endpoint, ticket.sending.number);
        if ticket.sending.probe {
            let shown = Probe::Well;
            self.reports.push(Report::Probed { endpoint, shown });
        }
        let seen = &mut self.seen[endpoint];
        if seen.told != Told::Well || ticket.sending.probe || self.health.streak(endpoint) > 0 {
            self.reports.push(Report::Success(endpoint));
            self.barren = None;
        }
        *seen = Seen {
            told: Told::Well,
            ..Seen::default()
        };
    }

    /// An endpoint answered in a way that proves it alive, and says no more: it is not out.
    pub fn note_alive(&mut self, ticket: &Ticket) {
        let endpoint = ticket.endpoint;
        self.health.note_alive(endpoint, ticket.sending.number);
        self.probed_alive(ticket);
        let seen = &mut self.seen[endpoint];
        if seen.told == Told::Nothing || self.health.streak(endpoint) > 0 {
            self.reports.push(Report::Alive(endpoint));
        }
        seen.told = seen.told.max(Told::Alive);
        seen.failed_in_a_row = 0;
    }

    /// An endpoint answered with a complaint that may be the request's own.
    pub fn note_complained(&mut self, ticket: &Ticket) {
        let endpoint = ticket.endpoint;
        self.count_answer(endpoint);
        let failures = self.health.complain(endpoint, ticket.sending.number);
        self.probed_alive(ticket);
        let has_others = self.endpoints.len() > 1;
        let seen = &mut self.seen[endpoint];
        if has_others || seen.told == Told::Nothing || self.health.streak(endpoint) > 0 {
            self.reports.push(Report::Complaint { endpoint, failures });
            seen.told = Told::Alive;
        }
        seen.failed_in_a_row = 0;
        seen.unwell_in_a_row += 1;
        self.is_wary = true;
    }

    /// An endpoint refused the request for its path, or in a way that may be its own (403): for the
    /// coordinator's [`Report::Refused`]. Its next answer is told, whether or not the coordinator's view
    /// has come by then.
    pub fn note_refused(&mut self, ticket: &Ticket) -> Failures {
        let endpoint = ticket.endpoint;
        self.count_answer(endpoint);
        let failures = self.health.complain(endpoint, ticket.sending.number);
        self.probed_alive(ticket);
        self.seen[endpoint].told = Told::Nothing;
        self.seen[endpoint].failed_in_a_row = 0;
        self.seen[endpoint].unwell_in_a_row += 1;
        self.is_wary = true;
        failures
    }

    /// An endpoint refused its key: nothing goes there from here until the coordinator has ruled.
    pub fn note_key_refused(&mut self, ticket: &Ticket, now: Instant) -> Failures {
        let endpoint = ticket.endpoint;
        self.count_answer(endpoint);
        let failures = self.health.complain(endpoint, ticket.sending.number);
        self.health.note_pause(endpoint, now + KEY_PAUSE);
        self.seen[endpoint].told = Told::Nothing;
        self.seen[endpoint].unwell_in_a_row += 1;
        self.is_wary = true;
        failures
    }

    /// An attempt failed in a way that speaks against the endpoint: the next answer ends the streak,
    /// whether or not the coordinator's view of it has come by then. Returns what it adds to the streak.
    pub fn note_failed(&mut self, ticket: &Ticket) -> Failures {
        let endpoint = ticket.endpoint;
        let seen = &mut self.seen[endpoint];
        seen.failed_in_a_row += 1;
        seen.unwell_in_a_row += 1;
        seen.told = Told::Nothing;
        self.is_wary = true;
        self.health.fail(endpoint, ticket.sending.number)
    }

    /// A request says nothing about its endpoint. As a probe it has shown nothing good.
    pub fn note_nothing(&mut self, ticket: &Ticket) {
        let endpoint = ticket.endpoint;
        self.health.end(endpoint, ticket.sending.number);
        if ticket.sending.probe {
            let shown = Probe::Failed;
            self.reports.push(Report::Probed { endpoint, shown });
        }
    }

    /// By what this shard has seen the endpoint is out, though the coordinator may not have said so yet.
    pub fn seems_out(&self, endpoint: usize) -> bool {
        self.seen[endpoint].failed_in_a_row >= STREAK_TO_COOL
    }

    /// A line that was sent has got its failure record. The coordinator hears of it as long as no line
    /// of the run has succeeded.
    pub fn note_failed_for_good(&mut self, kind: ErrorKind, status: Option<u16>, message: &str) {
        if let Some(barren) = &mut self.barren {
            barren.note(kind, status);
            self.reports.push(Report::FailedForGood {
                kind,
                status,
                message: message.to_owned(),
            });
        }
    }

    /// Whether the run's next line may be sent: while nothing has succeeded, no more than may fail alike.
    pub(super) fn is_barren(&self) -> bool {
        let allows = |barren: &Barren| barren.allows(self.in_flight);
        self.barren.as_ref().is_some_and(|barren| !allows(barren))
    }

    /// A line was answered, well or with a complaint about it: its group does not only refuse.
    fn count_answer(&mut self, endpoint: usize) {
        let group = self.groups[endpoint];
        self.answers += 1;
        self.refused_in_a_row[group] = 0;
        self.histories[group].note_answer();
    }

    fn probed_alive(&mut self, ticket: &Ticket) {
        if ticket.sending.probe {
            self.reports.push(Report::Probed {
                endpoint: ticket.endpoint,
                shown: Probe::Alive,
            });
        }
    }
}
