//! What a request carries from its admission to its end, and its places in flight: taken, then given back.

use std::cell::Cell;
use std::time::Instant;

use super::Admission;
use crate::batch::input::{Input, LineRef};
use crate::batch::line::Parsed;
use crate::batch::message::Pool;
use crate::policy::health::Sending;
use crate::policy::refusal::Marks;
use crate::policy::refusals::LineRefusals;

/// Leave to send one line to one endpoint, once.
#[derive(Debug)]
pub struct Ticket {
    /// Which line.
    pub line: LineRef,
    /// Its parsed form; spans into the line.
    pub parsed: Parsed,
    /// Attempts already spent on it.
    pub attempts: u32,
    /// How often it was refused for load.
    pub refusals: LineRefusals,
    /// Why an earlier answer to it could not be read; 0: none was unreadable.
    pub unreadable: u16,
    /// This process has not sent it before.
    pub is_first: bool,
    /// It took the last place in flight that its quota group has here.
    pub is_last_place: bool,
    /// What the line has met before.
    pub marks: Marks,
    /// Where it goes.
    pub endpoint: usize,
    /// Tokens taken from the quota group's `tpm_limit` until its `usage` is known.
    pub tokens: u64,
    /// Its place among the requests to that endpoint, and whether it is a probe.
    pub sending: Sending,
    /// Generation of the fetched token it was sent with; 0: none.
    pub token: Cell<u32>,
    /// Its places in flight were given back.
    pub(super) released: Cell<bool>,
    /// The line has its record, or its place among the retries.
    pub(super) settled: Cell<bool>,
}

impl Ticket {
    /// To be said once the line's record is committed or the line is parked, with nothing in between
    /// that may panic: a line is settled once, whatever happens after that.
    pub fn note_settled(&self) {
        self.settled.set(true);
    }

    /// Whether the line has its record, or its place among the retries.
    pub fn is_settled(&self) -> bool {
        self.settled.get()
    }
}

/// Where a request may go, every permit it needs being free.
pub(super) struct Leave {
    /// The parked line that is due is sent, else the next one.
    pub(super) is_retry: bool,
    pub(super) endpoint: usize,
    /// What it is taken for.
    pub(super) tokens: u64,
}

impl Admission {
    /// Takes the permits that [`Self::admit`] has found free, and the line.
    #[inline]
    pub(super) fn issue(&mut self, input: &Input, leave: Leave, now: Instant) -> Ticket {
        let endpoint = leave.endpoint;
        assert!(self.workers.lease.try_acquire(), "a worker permit was free");
        assert!(
            self.endpoints[endpoint].lease.try_acquire(),
            "an endpoint permit was free"
        );
        let group = self.groups[endpoint];
        self.sends[group] += 1;
        let window = &mut self.windows[group];
        assert!(window.lease.try_acquire(), "a permit of the group was free");
        let is_last_place = window.lease.available() == 0;
        self.in_flight += 1;
        self.idle_since = None;
        let tokens = self.gates[group].spend(leave.tokens, now);
        let sending = self.health.send(endpoint);
        if leave.is_retry {
            return self.issue_again(input, endpoint, tokens, sending, is_last_place, now);
        }
        let (line, parsed) = self.source.take();
        Ticket {
            line,
            parsed,
            attempts: 0,
            refusals: LineRefusals::default(),
            unreadable: 0,
            is_first: true,
            is_last_place,
            marks: self.source.marks(line.number),
            endpoint,
            tokens,
            sending,
            token: Cell::new(0),
            released: Cell::new(false),
            settled: Cell::new(false),
        }
    }

    /// The ticket of the parked line that is due.
    #[inline(never)]
    fn issue_again(
        &mut self,
        input: &Input,
        endpoint: usize,
        tokens: u64,
        sending: Sending,
        is_last_place: bool,
        now: Instant,
    ) -> Ticket {
        let parked = self.parked.pop_due(now).expect("a retry was due");
        let text = input.line(parked.line_offset);
        Ticket {
            line: LineRef {
                offset: parked.line_offset,
                number: parked.line_number,
                len: text.len() as u64,
            },
            parsed: self.source.parse_again(text),
            attempts: u32::from(parked.attempts),
            refusals: parked.refusals,
            unreadable: parked.unreadable,
            is_first: false,
            is_last_place,
            marks: parked.marks,
            endpoint,
            tokens,
            sending,
            token: Cell::new(0),
            released: Cell::new(false),
            settled: Cell::new(false),
        }
    }

    /// An attempt is over: its places in flight are free. Of a ticket, only the first time counts. What
    /// it says about the endpoint goes to one of [`Self::note_succeeded`], [`Self::note_failed`] and kin.
    pub fn release(&mut self, ticket: &Ticket) {
        if ticket.released.replace(true) {
            return;
        }
        assert!(self.in_flight > 0, "released more than was issued");
        self.in_flight -= 1;
        let endpoint = ticket.endpoint;
        self.health.end(endpoint, ticket.sending.number);
        self.workers.release(Pool::Workers, &mut self.reports);
        self.endpoints[endpoint].release(Pool::Endpoint(endpoint), &mut self.reports);
        let group = self.groups[endpoint];
        self.windows[group].release(Pool::Group(group), &mut self.reports);
    }
}
