//! Where the next line goes: to an endpoint that is open now, but rather to none that has just failed it,
//! and to none that is known to lack its model.

use std::time::{Duration, Instant};

use super::Admission;
use crate::batch::input::Input;
use crate::batch::message::Pool;
use crate::policy::pacer::Taken;
use crate::policy::refusals::LineRefusals;
use crate::policy::retry::Parked;

/// A line that may only go to an endpoint that has no place for it now is looked at again after this.
/// Send slots live for 10 ms: none is missed meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// For so long a line waits for another endpoint while this shard has nothing in flight.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Lines, never sent, that may wait like this so that others pass them.
const PASSED_MAX: usize = 256;

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There.
    At(usize),
    /// Nowhere yet: an endpoint that is better than those that are open has no place for it.
    NotYet,
}

impl Admission {
    /// Marks the endpoints that a request of `tokens` may go to now, and asks for permits, slots and
    /// tokens where those are all that is missing. `Err`: there is none, before that moment at least.
    pub(super) fn find_open(&mut self, tokens: u64, now: Instant) -> Result<(), Option<Instant>> {
        if self.is_wary {
            self.be_wary(now);
        }
        let (mut any, mut opens) = (false, None);
        for (index, permits) in self.endpoints.iter_mut().enumerate() {
            self.open[index] = false;
            if !self.health.usable(index, now) {
                continue;
            }
            if self.is_wary && self.seen[index].is_shunned(now) {
                continue;
            }
            let group = self.groups[index];
            let gate = &mut self.gates[group];
            let next_slot = gate.look(now);
            let pools = [
                (Pool::Endpoint(index), permits),
                (Pool::Group(group), &mut self.windows[group]),
            ];
            let mut has_permits = true;
            for (pool, permits) in pools {
                if permits.lease.available() == 0 {
                    has_permits = false;
                    if !matches!(next_slot, Taken::At(_)) {
                        permits.want(pool, &mut self.reports);
                    }
                }
            }
            if has_permits {
                self.open[index] = gate.open(next_slot, tokens, now, &mut self.reports);
                any |= self.open[index];
            }
            if let Taken::At(at) = next_slot {
                opens = opens.into_iter().chain([at]).min();
            }
        }
        match any {
            true => Ok(()),
            false => Err(opens.into_iter().chain(self.health.next_opening(now)).min()),
        }
    }

    /// Where the parked line that is due, or else the next one, goes.
    pub(super) fn place(&mut self, input: &Input, retry: Option<Parked>, now: Instant) -> Place {
        let avoid = retry.map(|parked| usize::from(parked.last_endpoint));
        if !self.models.is_empty() {
            let lacking = self.lacking(input, retry);
            if !lacking.is_empty() {
                return self.place_model(&lacking, avoid, now);
            }
        }
        if let Some(avoided) = avoid.filter(|index| self.open.get(*index) == Some(&true))
            && !self.is_open_beside(avoided)
            && self.is_worth_waiting(avoided, now)
        {
            return Place::NotYet;
        }
        let open = self.ring.pick(|index| self.open[index], avoid);
        Place::At(open.expect("an endpoint was open"))
    }

    /// Endpoints that lack the line's model.
    fn lacking(&mut self, input: &Input, retry: Option<Parked>) -> Vec<usize> {
        match retry {
            None => {
                let (line, parsed) = self.source.next();
                let model = parsed.model(input.text(&line));
                self.models.lacking(model.as_deref()).to_vec()
            }
            Some(parked) => {
                let line = input.line(parked.line_offset);
                let parsed = self.source.parse_again(line);
                let lacking = self.models.lacking(parsed.model(line).as_deref()).to_vec();
                self.source.reuse(parsed);
                lacking
            }
        }
    }

    /// Where every endpoint that may come back lacks the model, any will do: the line's own answer
    /// decides about it.
    fn place_model(&mut self, lacking: &[usize], avoid: Option<usize>, now: Instant) -> Place {
        let has_model = |index: usize| !lacking.contains(&index);
        let open = &self.open;
        if let Some(index) = (self.ring).pick(|index| open[index] && has_model(index), avoid) {
            return Place::At(index);
        }
        if self.may_have_model(lacking, now) {
            return Place::NotYet;
        }
        let any = self.ring.pick(|index| open[index], avoid);
        Place::At(any.expect("an endpoint was open"))
    }

    fn may_have_model(&self, lacking: &[usize], now: Instant) -> bool {
        (0..self.endpoints.len()).any(|index| {
            !lacking.contains(&index) && self.health.may_come_back(index, self.patience, now)
        })
    }

    fn is_open_beside(&self, avoided: usize) -> bool {
        let mut open = self.open.iter().enumerate();
        open.any(|(index, open)| *open && index != avoided)
    }

    /// The endpoint that failed the line has answered nothing well since, and another one is usable: only
    /// its places or slots are missing, at the end of a file often because another shard has them.
    fn is_worth_waiting(&mut self, avoided: usize, now: Instant) -> bool {
        let may_open = |index: usize| {
            index != avoided && self.health.usable(index, now) && !self.seen[index].is_shunned(now)
        };
        if !self.seen[avoided].is_doubtful() || !(0..self.endpoints.len()).any(may_open) {
            return false;
        }
        if self.in_flight > 0 {
            return true;
        }
        let since = *self.idle_since.get_or_insert(now);
        now.saturating_duration_since(since) < IDLE_MAX
    }

    /// Puts off the parked line that is due; it holds up nobody.
    pub(super) fn put_off(&mut self, now: Instant) {
        let parked = self.parked.pop_due(now).expect("a retry was due");
        let due = now + LOOK_AGAIN;
        self.put_off_until = Some(due);
        self.parked.push(Parked { due, ..parked });
    }

    /// A line is only put off: what it waits with is needed, such as send slots that have just come.
    pub(super) fn has_put_off(&self, now: Instant) -> bool {
        self.put_off_until.is_some_and(|until| now < until)
    }

    /// Puts off the next line, so that those behind it may pass; `false`: too many have done so.
    pub(super) fn let_pass(&mut self, now: Instant) -> bool {
        if self.parked.len() >= PASSED_MAX {
            return false;
        }
        let line = self.source.put_off();
        let due = now + LOOK_AGAIN;
        self.put_off_until = Some(due);
        self.parked.push(Parked {
            due,
            line_offset: line.offset,
            line_number: line.number,
            attempts: 0,
            last_endpoint: u16::MAX,
            refusals: LineRefusals::default(),
            unreadable: 0,
            marks: self.source.marks(line.number),
        });
        true
    }

    /// `endpoint` has refused the model of a line. Returns whether another one may have it; `None`: that
    /// cannot be remembered.
    pub fn note_unknown_model(
        &mut self,
        model: Option<&str>,
        endpoint: usize,
        now: Instant,
    ) -> Option<bool> {
        let is_noted = self.models.note(model, endpoint);
        is_noted.then(|| self.may_have_model(self.models.lacking(model), now))
    }
}
