//! What ends a run before its last line, and how shards leave.

use std::time::Instant;

use super::{Coordinator, LEAVE_WITHIN, Stopped, TICK, watch};
use crate::batch::last_lines::Ruling;
use crate::batch::message::Order;
use crate::policy::health::{State, StopReason};

impl Coordinator {
    pub(super) fn tick(&mut self, now: Instant) {
        self.give_up_stuck(now);
        if let Some(leave_at) = self.leave_at
            && now >= leave_at
        {
            self.leave_at = None;
            for shard in 0..self.shards.len() {
                self.order(shard, Order::Exit);
            }
        }
        if self.stopped.is_some() {
            return;
        }
        if self.input.changed() {
            self.stop(Stopped::InputChanged, now);
            return;
        }
        let outage_max = self.plan.config.max_outage;
        let at_first = self.plan.config.max_outage_at_first();
        if let Some(reason) = self.health.verdict(now, outage_max, at_first) {
            match self.rule(&reason, now) {
                Ruling::Wait => {}
                Ruling::Forgive => {
                    tracing::warn!(
                        "no endpoint has been usable, but all that is left are lines that failed with \
                         an answer: they get the attempts they have left"
                    );
                    self.health.forgive(now);
                }
                Ruling::Stop => {
                    let reasons = self.unusable_because(&reason, now);
                    self.stop(Stopped::NoEndpoint(reasons), now);
                }
            }
        }
    }

    /// Whether an outage is to end the run.
    fn rule(&mut self, reason: &StopReason, now: Instant) -> Ruling {
        let StopReason::Outage(lasted) = *reason else {
            return Ruling::Stop;
        };
        let has_succeeded = self.health.ever_succeeded();
        let enabled = (0..self.plan.endpoints.len())
            .filter(|&index| !matches!(self.health.state(index, now), State::Disabled { .. }));
        let outage_max = self.plan.config.max_outage;
        self.last_lines
            .rule(has_succeeded, enabled, lasted, outage_max)
    }

    /// Stops the run if `--max-cost` is reached.
    pub(super) fn check_cost(&mut self, now: Instant) {
        let spent = self.spent_before + self.totals.cost_usd();
        if self
            .plan
            .config
            .max_cost
            .is_some_and(|max_cost| spent >= max_cost)
        {
            self.stop(Stopped::Cost(spent), now);
        }
    }

    /// Nothing more is sent; what is in flight may finish within the grace.
    pub(super) fn stop(&mut self, stopped: Stopped, now: Instant) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(stopped);
        self.health.handle_stop();
        self.pass_on_fates();
        self.leave_at = Some(now + self.plan.config.grace.max(LEAVE_WITHIN.min(TICK)));
        for shard in 0..self.shards.len() {
            self.order(shard, Order::Stop);
        }
    }

    /// Goes on without shards whose threads will never say anything again.
    fn give_up_stuck(&mut self, now: Instant) {
        let patience = watch::patience(&self.plan.config);
        for shard in 0..self.shards.len() {
            let worker = &mut self.shards[shard];
            let Some(watch) = worker.watch.as_mut().filter(|_| !worker.ended) else {
                continue;
            };
            let Some(spent) = watch.is_stuck(patience) else {
                continue;
            };
            worker.ended = true;
            self.stuck.push(shard);
            let message = format!(
                "shard {shard} is stuck: its thread has spent {:.1} s in system calls that lead to nothing, as \
                 when the system fails every call of io_uring; --runtime tokio does without",
                spent.as_secs_f64()
            );
            tracing::error!("{message}");
            self.stop(Stopped::Shard(message), now);
        }
    }
}
