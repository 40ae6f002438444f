//! The last lines of a run, if they fail whatever the endpoint. Pure.
//!
//! An endpoint that answers every request with an error is out, and an outage ends the run instead of
//! burning its lines. But when every line that is left has been tried, and each was *answered* with an
//! error that may be its own (HTTP 500, no JSON), the run could never end: every command would meet the
//! same lines, the same streak and the same stop. So when such an outage has lasted as long as it may,
//! the lines get the attempts they have left, and end in a success or a failure record.
//!
//! Lines that an earlier process has tried count as tried, and with the attempts that it spent on them
//! (`DoneSet::goes_last`); they go after those that nobody has tried. So where such lines outnumber
//! what can be in flight, every process of the run tries others, until one finds all of them tried.

use std::time::Duration;

/// What to do about an outage that would end the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Stop: the endpoints are out.
    Stop,
    /// Wait for them as long as an outage may last.
    Wait,
    /// Send what is left: it may be the lines.
    Forgive,
}

/// See the module.
#[derive(Debug)]
pub struct LastLines {
    /// By shard: every line it was given has been tried, and it will get no more.
    all_tried: Vec<bool>,
    /// By endpoint: its last failure may have been its line's.
    may_be_the_line: Vec<bool>,
    forgiving: bool,
}

impl LastLines {
    /// Nothing is known of `endpoints` endpoints; `shards` shards begin.
    pub fn new(shards: usize, endpoints: usize) -> Self {
        Self {
            all_tried: vec![false; shards],
            may_be_the_line: vec![false; endpoints],
            forgiving: false,
        }
    }

    /// `shard` has tried every line that it will ever have.
    pub fn handle_all_tried(&mut self, shard: usize) {
        self.all_tried[shard] = true;
    }

    /// A transient failure; `true` if it speaks against the endpoint. One that cannot be the line's ends
    /// the forgiveness.
    pub fn handle_failure(&mut self, endpoint: usize, may_be_the_line: bool) -> bool {
        self.may_be_the_line[endpoint] = may_be_the_line;
        self.forgiving &= may_be_the_line;
        !self.forgiving
    }

    /// Every endpoint has been out for `lasted`, of `outage_max`. `enabled` are those that are not
    /// disabled; `has_succeeded`: some line of the run has, if only of an earlier process.
    pub fn rule(
        &mut self,
        has_succeeded: bool,
        mut enabled: impl Iterator<Item = usize>,
        lasted: Duration,
        outage_max: Duration,
    ) -> Ruling {
        let may_be_the_lines = has_succeeded
            && self.all_tried.iter().all(|tried| *tried)
            && enabled.all(|endpoint| self.may_be_the_line[endpoint]);
        if !may_be_the_lines {
            return Ruling::Stop;
        }
        self.forgiving = lasted >= outage_max;
        match self.forgiving {
            true => Ruling::Forgive,
            false => Ruling::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(5);
    const MAX: Duration = Duration::from_secs(60);

    /// Two shards have tried all their lines, which both endpoints answered badly.
    fn last_lines() -> LastLines {
        let mut last = LastLines::new(2, 2);
        for index in 0..2 {
            last.handle_all_tried(index);
            assert!(last.handle_failure(index, true), "it counts at first");
        }
        last
    }

    #[test]
    fn lines_that_may_be_at_fault_are_forgiven_when_the_outage_is_over_long() {
        let mut last = last_lines();
        assert_eq!(last.rule(true, 0..2, SHORT, MAX), Ruling::Wait);
        assert!(last.handle_failure(0, true), "still counted");
        assert_eq!(last.rule(true, 0..2, MAX, MAX), Ruling::Forgive);
        assert!(!last.handle_failure(0, true), "no streak any more");
        // Nobody answers: it was an outage after all.
        assert!(last.handle_failure(0, false));
        assert!(last.handle_failure(1, true));
        assert_eq!(last.rule(true, 0..2, MAX, MAX), Ruling::Stop);
    }

    #[test]
    fn an_outage_stops_the_run() {
        assert_eq!(last_lines().rule(false, 0..2, MAX, MAX), Ruling::Stop);
        let mut untried = LastLines::new(2, 1);
        untried.handle_failure(0, true);
        untried.handle_all_tried(0);
        assert_eq!(untried.rule(true, 0..1, MAX, MAX), Ruling::Stop);
        let mut silent = last_lines();
        silent.handle_failure(1, false);
        assert_eq!(silent.rule(true, 0..2, MAX, MAX), Ruling::Stop);
        // A disabled endpoint has no say.
        assert_eq!(silent.rule(true, 0..1, MAX, MAX), Ruling::Forgive);
    }
}
