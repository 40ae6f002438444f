//! A shard's place in the input: from the ranges it is given to the next line that has no record yet.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::batch::folder::DoneSet;
use crate::batch::input::{Input, LineCursor, LineRange, LineRef};
use crate::batch::line::{InvalidLine, Parsed};
use crate::batch::message::Report;
use crate::error::ErrorKind;
use crate::policy::refusal::Marks;
use crate::provider::cost::estimate_tokens;

/// See the module.
pub(super) struct Source {
    pub(super) cursor: Option<LineCursor>,
    /// Where the cursor began.
    pub(super) range_start: u64,
    ranges: VecDeque<LineRange>,
    range_wanted: bool,
    pub(super) exhausted: bool,
    ended: bool,
    /// The next line, not yet sent.
    next: Option<LineRef>,
    /// What it was parsed into, and the memory for the one behind it.
    parsed: Parsed,
    /// Unfinished lines that an earlier process has tried already: they go after all others, so that
    /// lines that always fail cannot keep a run from ever reaching those behind them.
    pub(super) tried_before: Vec<TriedBefore>,
    /// The line last estimated, by its offset, and the tokens it is taken for.
    estimated: Option<(u64, u64)>,
    /// What finished lines were parsed into.
    spare: Vec<Parsed>,
    done: Option<Arc<DoneSet>>,
    max_line_bytes: usize,
}

/// A line that an earlier process of the run has tried.
pub(super) struct TriedBefore {
    pub(super) line_offset: u64,
    pub(super) line_number: u64,
    /// How often.
    pub(super) attempts: u32,
}

/// Parsed lines kept for their memory, which is little: a turn of the loop gives back some and takes as many.
const SPARE_MAX: usize = 64;

/// How looking for the next line ended.
pub(super) enum Filled {
    Ready,
    Refused(LineRef, ErrorKind, String),
    Empty,
}

impl Source {
    pub(super) fn new(done: Option<Arc<DoneSet>>, max_line_bytes: usize) -> Self {
        Self {
            cursor: None,
            range_start: 0,
            ranges: VecDeque::new(),
            range_wanted: false,
            exhausted: false,
            ended: false,
            next: None,
            parsed: Parsed::default(),
            tried_before: Vec::new(),
            estimated: None,
            spare: Vec::new(),
            done,
            max_line_bytes,
        }
    }

    pub(super) fn add(&mut self, range: LineRange) {
        self.range_wanted = false;
        self.ranges.push_back(range);
    }

    pub(super) fn end(&mut self) {
        self.range_wanted = false;
        self.ended = true;
    }

    /// Finds and parses the next unfinished line, unless that is done already.
    pub(super) fn fill(&mut self, input: &Input, reports: &mut Vec<Report>) -> Filled {
        if self.next.is_some() {
            return Filled::Ready;
        }
        loop {
            let Some(cursor) = &mut self.cursor else {
                let range = self.ranges.pop_front();
                // Asked for while the last range is begun, so that the next is here when it ends.
                if self.ranges.is_empty() && !self.ended && !self.range_wanted {
                    self.range_wanted = true;
                    reports.push(Report::WantRange);
                }
                match range {
                    Some(range) => {
                        self.range_start = range.start;
                        self.cursor = Some(LineCursor::new(range));
                    }
                    None => {
                        self.exhausted = self.ended;
                        return Filled::Empty;
                    }
                }
                continue;
            };
            let Some(line) = cursor.next(input) else {
                self.cursor = None;
                continue;
            };
            if self
                .done
                .as_ref()
                .is_some_and(|done| done.contains(line.number))
            {
                continue;
            }
            let filled = self.parse(input, line);
            let spent = self.done.as_ref();
            let spent = spent.and_then(|done| done.goes_last(line.number));
            match (&filled, spent) {
                (Filled::Ready, Some(attempts)) => {
                    self.next = None;
                    self.tried_before.push(TriedBefore {
                        line_offset: line.offset,
                        line_number: line.number,
                        attempts,
                    });
                }
                _ => return filled,
            }
        }
    }

    fn parse(&mut self, input: &Input, line: LineRef) -> Filled {
        let text = input.text(&line);
        if text.len() > self.max_line_bytes {
            let message = format!(
                "the line has {} bytes, more than --max-line-bytes allows ({})",
                text.len(),
                self.max_line_bytes
            );
            return Filled::Refused(line, ErrorKind::TooLarge, message);
        }
        if !self.parsed.holds_memory()
            && let Some(spare) = self.spare.pop()
        {
            self.parsed = spare;
        }
        match self.parsed.parse(text) {
            Ok(()) => {
                self.next = Some(line);
                Filled::Ready
            }
            Err(InvalidLine { message }) => Filled::Refused(line, ErrorKind::InvalidInput, message),
        }
    }

    /// The line that [`Self::fill`] has found.
    pub(super) fn next(&self) -> (LineRef, &Parsed) {
        (self.next.expect("a line was filled in"), &self.parsed)
    }

    /// The same, to be sent.
    #[inline]
    pub(super) fn take(&mut self) -> (LineRef, Parsed) {
        let line = self.next.take().expect("a line was filled in");
        (line, self.parsed.hand_out())
    }

    /// The same, to be parsed again when it is sent.
    pub(super) fn put_off(&mut self) -> LineRef {
        self.next.take().expect("a line was filled in")
    }

    /// What an earlier process has noted of a line.
    pub(super) fn marks(&self, number: u64) -> Marks {
        let done = self.done.as_ref();
        match done.is_some_and(|done| done.stopped_by.has(number)) {
            true => Marks::KNOWN,
            false => Marks::default(),
        }
    }

    /// Parses a line that was parsed when it was first sent.
    pub(super) fn parse_again(&mut self, line: &[u8]) -> Parsed {
        let mut parsed = self.spare.pop().unwrap_or_default();
        parsed
            .parse(line)
            .expect("a parked line was parsed when it was first sent");
        parsed
    }

    /// Tokens that a line is taken for: the one parked at this offset, else the next one.
    pub(super) fn estimate(&mut self, input: &Input, parked: Option<u64>) -> u64 {
        let next = self.next.map(|line| line.offset);
        let offset = parked.or(next).expect("a line is ready");
        if let Some((of, tokens)) = self.estimated
            && of == offset
        {
            return tokens;
        }
        let line = input.line(offset);
        let tokens = if parked.is_none() {
            estimate(&self.parsed, line)
        } else {
            let parsed = self.parse_again(line);
            let tokens = estimate(&parsed, line);
            self.reuse(parsed);
            tokens
        };
        self.estimated = Some((offset, tokens));
        tokens
    }

    pub(super) fn reuse(&mut self, parsed: Parsed) {
        if parsed.holds_memory() && self.spare.len() < SPARE_MAX {
            self.spare.push(parsed);
        }
    }
}

fn estimate(parsed: &Parsed, line: &[u8]) -> u64 {
    estimate_tokens(parsed.body_bytes(), parsed.completion_tokens_max(line))
}
