//! Records that nothing but themselves speaks for, and the lines they belong to.

use std::collections::HashMap;

use super::{Found, Lines, Origin};
use crate::batch::input::{Input, LineRef};
use crate::config::Format;
use crate::journal::Outcome;
use crate::json;

/// A record of which only its bytes are known.
#[derive(Clone, Copy, Debug)]
pub(in crate::batch) struct Stray<'a> {
    /// By the file it is in.
    pub(in crate::batch) outcome: Outcome,
    /// Without the newline.
    record: &'a [u8],
}

impl<'a> Stray<'a> {
    /// `record` ends in its newline; one that does not is nobody's.
    pub(in crate::batch) fn new(outcome: Outcome, record: &'a [u8]) -> Self {
        let record = record.strip_suffix(b"\n").unwrap_or_default();
        Self { outcome, record }
    }

    /// Attempts that its line has spent, as far as it says so.
    pub(in crate::batch) fn attempts(&self) -> u32 {
        let path: &[&str] = match self.outcome {
            Outcome::Success => &["metadata", "attempts"],
            Outcome::Failure => &["attempts"],
        };
        let attempts = json::get(self.record, path).and_then(json::as_u64);
        attempts.map_or(1, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX))
    }
}

/// The line of each stray, in their order: one whose record begins with these very bytes and is JSON to
/// its end; `None`: no line's. Goes through the input once, if there are any.
pub(in crate::batch) fn recognise(
    input: &Input,
    format: Format,
    strays: &[Stray<'_>],
) -> Vec<Option<LineRef>> {
    let mut table: HashMap<Origin, Vec<usize>> = HashMap::new();
    for (index, stray) in strays.iter().enumerate() {
        if let Some(origin) = Origin::of(stray.record) {
            table.entry(origin).or_default().push(index);
        }
    }
    let mut known = vec![None; strays.len()];
    if table.is_empty() {
        return known;
    }
    let mut lines = Lines::new(input, format);
    while let Some(line) = lines.line {
        for origin in lines.origins(line).into_iter().flatten() {
            for &index in table.get(&origin).into_iter().flatten() {
                let stray = strays[index];
                let found = Found {
                    record: stray.record,
                    origin,
                    next: 0,
                };
                if known[index].is_none() && lines.own(line, stray.outcome, &found) {
                    known[index] = Some(line);
                }
            }
        }
        lines.advance();
    }
    known
}
