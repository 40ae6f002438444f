//! What becomes of endpoints that refuse, of lines whose failure records are held back meanwhile, and of a
//! run in which nothing succeeds.

use std::time::Instant;

use super::{Coordinator, Stopped};
use crate::batch::admission::SAME_FAILURES_MAX;
use crate::batch::message::{Order, Refused};
use crate::error::ErrorKind;
use crate::policy::health::{Fate, State};
use crate::policy::refusals::RefusedInARow;
use crate::provider::Refusal;

impl Coordinator {
    pub(super) fn handle_refused(&mut self, shard: usize, refused: Refused, now: Instant) {
        let Refused {
            endpoint,
            what,
            line,
            is_held,
            is_probe,
            failures,
            reason,
        } = refused;
        let was_disabled = self.is_disabled(endpoint, now);
        self.refused[endpoint] = RefusedInARow::default();
        self.last_failure[endpoint] = Some(reason.clone());
        let health = &mut self.health;
        match what {
            Refusal::Key => health.handle_key_refused(endpoint, line, is_probe, &reason, now),
            Refusal::Path => health.handle_path_refused(endpoint, line, &reason, now),
            Refusal::Request => {
                let holder = is_held.then_some(shard);
                health.handle_line_refused(endpoint, line, holder, failures, &reason, now);
            }
            // Which model an endpoint has is every shard's own matter; the other is told by itself.
            Refusal::Model | Refusal::Transport => {}
        }
        if self.stopped.is_some() {
            self.health.handle_stop();
        }
        if !was_disabled {
            self.tell_disabled(endpoint, now);
        }
        self.poll_health(now);
        if what == Refusal::Path && !self.is_disabled(endpoint, now) {
            // That shard has not heard yet that it has answered lines well.
            let view = self.health.view(endpoint);
            self.order(shard, Order::Endpoint(endpoint, view));
        }
    }

    /// The endpoint was spoken to in the wrong scheme.
    pub(super) fn handle_wrong_scheme(
        &mut self,
        shard: usize,
        endpoint: usize,
        reason: &str,
        now: Instant,
    ) {
        let view = self.health.view(endpoint);
        match view.is_well {
            // It has answered another shard's line well, of which that shard has not heard yet.
            true => self.order(shard, Order::Endpoint(endpoint, view)),
            false => self.disable(endpoint, reason, false, now),
        }
    }

    /// A shard has nothing more to send. Where none has, nothing will decide any more about the lines whose
    /// records are held back.
    pub(super) fn handle_done(&mut self, shard: usize, now: Instant) {
        self.shards[shard].done = true;
        let all_done = self.shards.iter().all(|shard| shard.done || shard.ended);
        if all_done && self.health.holds_any() {
            let disabled: Vec<bool> = (0..self.plan.endpoints.len())
                .map(|endpoint| self.is_disabled(endpoint, now))
                .collect();
            self.health.handle_nothing_left(now);
            for (endpoint, was_disabled) in disabled.into_iter().enumerate() {
                if !was_disabled {
                    self.tell_disabled(endpoint, now);
                }
            }
            self.poll_health(now);
        }
    }

    /// Tells shards what becomes of the lines whose records they hold back.
    pub(super) fn pass_on_fates(&mut self) {
        for held in self.health.take_fates() {
            if held.fate == Fate::SentElsewhere {
                self.shards[held.shard].done = false;
            }
            self.order(held.shard, Order::Held(held.endpoint, held.fate));
        }
    }

    /// A line that was sent has got its failure record, and none has succeeded so far.
    pub(super) fn note_failed_for_good(
        &mut self,
        kind: ErrorKind,
        status: Option<u16>,
        message: String,
        now: Instant,
    ) {
        let Some(barren) = &mut self.barren else {
            return;
        };
        let lines = barren.note(kind, status);
        if lines >= SAME_FAILURES_MAX {
            self.stop(Stopped::NothingSucceeds { lines, message }, now);
        }
    }

    pub(super) fn disable(
        &mut self,
        endpoint: usize,
        reason: &str,
        whole_group: bool,
        now: Instant,
    ) {
        let group = self.plan.groups[endpoint];
        for index in 0..self.plan.endpoints.len() {
            if index == endpoint || (whole_group && self.plan.groups[index] == group) {
                let was_disabled = self.is_disabled(index, now);
                self.health.handle_disable(index, reason.to_owned());
                if !was_disabled {
                    self.tell_disabled(index, now);
                }
            }
        }
        self.poll_health(now);
    }

    fn is_disabled(&self, endpoint: usize, now: Instant) -> bool {
        matches!(self.health.state(endpoint, now), State::Disabled { .. })
    }

    /// Tells the user if `endpoint` is disabled.
    fn tell_disabled(&self, endpoint: usize, now: Instant) {
        if let State::Disabled { reason } = self.health.state(endpoint, now) {
            let endpoint = &self.plan.endpoints[endpoint].name;
            tracing::warn!(endpoint, "endpoint disabled: {reason}");
        }
    }
}
