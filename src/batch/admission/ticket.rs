//! What a request carries from its admission to its end.

use std::cell::Cell;

use crate::batch::input::LineRef;
use crate::batch::line::Parsed;
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
