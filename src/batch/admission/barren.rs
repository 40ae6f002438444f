//! A run in which nothing succeeds: how many lines have ended in the same failure. Pure.
//!
//! A wrong setting that the server answers with a complaint of its own (400: no such field) fails every
//! line alike. After [`SAME_FAILURES_MAX`] of them the coordinator stops the run, instead of burning the file.

use crate::error::ErrorKind;

/// Lines with the same final failure after which a run without any success stops.
pub const SAME_FAILURES_MAX: usize = 100;

/// The failures of a run, or of a shard's part of it, that has had no success so far.
#[derive(Debug, Default)]
pub struct Barren {
    /// Few: kinds are few, and statuses those of one or a few servers.
    counts: Vec<(ErrorKind, Option<u16>, usize)>,
}

impl Barren {
    /// One more line has ended like this; how many have.
    pub fn note(&mut self, kind: ErrorKind, status: Option<u16>) -> usize {
        let mut counts = self.counts.iter_mut();
        match counts.find(|(of, with, _)| (*of, *with) == (kind, status)) {
            Some((_, _, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.counts.push((kind, status, 1));
                1
            }
        }
    }

    /// Lines that may still be sent while so many are in flight: no more than could all fail in the same
    /// way before the run stops.
    pub fn allows(&self, in_flight: usize) -> bool {
        let most = self.counts.iter().map(|(_, _, count)| *count).max();
        most.is_none_or(|most| most + in_flight < SAME_FAILURES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_sent_than_may_fail_alike() {
        let mut barren = Barren::default();
        assert!(barren.allows(10_000), "nothing has failed yet");
        for count in 1..=60 {
            assert_eq!(barren.note(ErrorKind::BadRequest, Some(400)), count);
        }
        assert_eq!(barren.note(ErrorKind::BadRequest, Some(422)), 1);
        assert_eq!(barren.note(ErrorKind::NotFound, Some(400)), 1);
        assert!(barren.allows(39) && !barren.allows(40));
        for _ in 0..40 {
            barren.note(ErrorKind::BadRequest, Some(400));
        }
        assert!(!barren.allows(0));
    }
}
