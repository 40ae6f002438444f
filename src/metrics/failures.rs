//! Failures that are alike, counted together with one example of each: what a summary says first. Pure.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::ErrorKind;

/// Different failures kept apart at most; further ones are counted with those of their kind and status.
const KEPT_MAX: usize = 128;
/// Characters of an example's text.
const TEXT_CHARS_MAX: usize = 300;

/// Failures alike: of one kind and status, with one text but for its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureTally {
    key: u64,
    /// As `error_kind` in records.
    pub kind: String,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Lines that ended in a failure record of this sort.
    pub lines: u64,
    /// Attempts that failed like this, those that were made again included.
    pub attempts: u64,
    /// The first one that was seen.
    pub example: FailureExample,
}

/// One failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureExample {
    /// What a record says of it; without secrets.
    pub message: String,
    /// Where the request went, without credentials or query; empty if none was sent.
    pub url: String,
    /// The endpoint's name; empty as above.
    pub endpoint: String,
    /// The endpoint has no key, and none was sent.
    pub without_key: bool,
    /// Physical line number in the input, from 1.
    pub line_number: u64,
    /// The line's own name for itself, if it has one.
    pub id: Option<String>,
}

/// What failed, before it is known whether an example is needed.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// Its kind.
    pub kind: ErrorKind,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What a record says of it.
    pub message: &'a str,
}

/// A few tallies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failures(Vec<FailureTally>);

impl Failures {
    /// One more attempt that failed.
    pub fn attempt(&mut self, failed: Failed<'_>, example: impl FnOnce() -> FailureExample) {
        self.tally(failed, example).attempts += 1;
    }

    /// One more line that ended in a failure record.
    pub fn line(&mut self, failed: Failed<'_>, example: impl FnOnce() -> FailureExample) {
        self.tally(failed, example).lines += 1;
    }

    fn tally(
        &mut self,
        failed: Failed<'_>,
        example: impl FnOnce() -> FailureExample,
    ) -> &mut FailureTally {
        let mut key = key(&failed, failed.message);
        if self.find(key).is_none() && self.0.len() >= KEPT_MAX {
            key = self::key(&failed, "");
        }
        let at = self.find(key).unwrap_or_else(|| {
            let mut example = example();
            example.message = shortened(failed.message);
            self.0.push(FailureTally {
                key,
                kind: failed.kind.as_str().to_owned(),
                status: failed.status,
                lines: 0,
                attempts: 0,
                example,
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.0.iter().position(|tally| tally.key == key)
    }

    /// Adds what somebody else counted.
    pub fn absorb(&mut self, others: &Self) {
        for other in &others.0 {
            let at = self.find(other.key).or_else(|| {
                let alike = |tally: &FailureTally| {
                    (&tally.kind, tally.status) == (&other.kind, other.status)
                };
                let is_full = self.0.len() >= KEPT_MAX;
                is_full.then(|| self.0.iter().position(alike)).flatten()
            });
            match at {
                Some(at) => {
                    self.0[at].lines += other.lines;
                    self.0[at].attempts += other.attempts;
                }
                // As many more as there are kinds and statuses.
                None => self.0.push(other.clone()),
            }
        }
    }

    /// Lines that failed are sent again: their records no longer count.
    pub fn forget_lines(&mut self) {
        for tally in &mut self.0 {
            tally.lines = 0;
        }
    }

    /// The failure that most lines ended in; if none has a record, the one of most attempts.
    pub fn most_frequent(&self) -> Option<&FailureTally> {
        let rank = |tally: &&FailureTally| (tally.lines, tally.attempts);
        // Of those that are equally frequent the first one seen.
        self.0.iter().rev().max_by_key(rank)
    }

    /// Nothing failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Texts that differ in numbers only are one: most name the line's own length, id or time.
fn key(failed: &Failed<'_>, message: &str) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(failed.kind.as_str().as_bytes());
    hash.update(&failed.status.unwrap_or(0).to_le_bytes());
    for text in message.split(|char: char| char.is_ascii_digit()) {
        if !text.is_empty() {
            hash.update(text.as_bytes());
            hash.update(&[0]);
        }
    }
    hash.digest()
}

fn shortened(message: &str) -> String {
    let mut text: String = message.chars().take(TEXT_CHARS_MAX).collect();
    if text.len() < message.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind, message: &str) -> Failed<'_> {
        Failed {
            kind,
            status: Some(400),
            message,
        }
    }

    fn example(line_number: u64) -> FailureExample {
        FailureExample {
            line_number,
            ..FailureExample::default()
        }
    }

    #[test]
    fn texts_that_differ_in_numbers_are_alike() {
        let mut failures = Failures::default();
        for (line, text) in [
            "no model x",
            "the limit is 8192, not 9001",
            "the limit is 8192, not 17",
            "the limit is 1, not 2",
        ]
        .into_iter()
        .enumerate()
        {
            failures.line(failed(ErrorKind::BadRequest, text), || example(line as u64));
        }
        // The same text of another kind.
        for _ in 0..9 {
            failures.attempt(failed(ErrorKind::Timeout, "no model x"), || example(9));
        }
        let most = failures.most_frequent().expect("some");
        assert_eq!((most.lines, most.example.line_number), (3, 1));
        assert_eq!(most.example.message, "the limit is 8192, not 9001");
        failures.forget_lines();
        let most = failures.most_frequent().expect("some");
        assert_eq!((most.kind.as_str(), most.attempts), ("timeout", 9));
    }

    #[test]
    fn memory_is_bounded_whatever_servers_say() {
        let (mut all, mut other) = (Failures::default(), Failures::default());
        let text = |number: usize| {
            let letter = |digit: usize| char::from(b'a' + (digit % 26) as u8);
            [letter(number), letter(number / 26)]
                .iter()
                .collect::<String>()
        };
        for number in 0..26 * 26 {
            other.line(failed(ErrorKind::BadRequest, &text(number)), || example(1));
            all.line(
                failed(ErrorKind::BadRequest, &format!("-{}", text(number))),
                || example(1),
            );
        }
        assert_eq!(other.0.len(), KEPT_MAX + 1);
        all.absorb(&other);
        assert_eq!(all.0.len(), KEPT_MAX + 1);
        let lines: u64 = all.0.iter().map(|tally| tally.lines).sum();
        assert_eq!(lines, 2 * 26 * 26);
        let long = "ü".repeat(1000);
        let mut failures = Failures::default();
        failures.line(failed(ErrorKind::BadRequest, &long), || example(1));
        let most = failures.most_frequent().expect("some");
        assert_eq!(most.example.message.chars().count(), TEXT_CHARS_MAX + 1);
    }
}
