//! What a coordinator tells of its run: to the display ten times a second, and when it cannot go on.

use std::time::{Duration, Instant};

use super::{Coordinator, Stopped};
use crate::metrics::{Availability, EndpointState, Snapshot, Stopping};
use crate::policy::health::{State, StopReason};

impl Coordinator {
    /// The run as it stands.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let states = (0..self.plan.endpoints.len())
            .map(|index| self.endpoint_state(index, now))
            .collect();
        let elapsed = now.duration_since(self.started);
        Snapshot {
            rate_found: self.quotas.found_rate(),
            groups: self.plan.found(&self.quotas),
            stopping: self.stopping(now),
            ..self.totals.snapshot(&self.gauges, elapsed, states)
        }
    }

    fn endpoint_state(&self, index: usize, now: Instant) -> EndpointState {
        let failure = self.last_failure[index].clone();
        let mut cooldown = None;
        let (state, reason) = match self.health.state(index, now) {
            State::Usable => (Availability::Healthy, failure),
            State::Cooling { until } => {
                cooldown = Some(until.saturating_duration_since(now));
                (Availability::Cooling, failure)
            }
            State::HalfOpen { .. } => (Availability::HalfOpen, failure),
            State::Disabled { reason } => (Availability::Disabled, Some(reason)),
        };
        EndpointState {
            name: self.plan.endpoints[index].name.clone(),
            state,
            reason,
            cooldown,
        }
    }

    fn stopping(&self, now: Instant) -> Option<Stopping> {
        let stopped = self.stopped.as_ref()?;
        Some(Stopping {
            reason: stopped.to_string(),
            interrupted: matches!(stopped, Stopped::Interrupted),
            left: (self.leave_at).map_or(Duration::ZERO, |at| at.saturating_duration_since(now)),
        })
    }

    /// Keeps the figures for processes that resume, if it is time or the run ends.
    pub(super) fn keep_figures(&mut self, now: Instant, is_last: bool) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        if keeper.is_due(now) || is_last {
            let names = self.plan.endpoints.iter();
            let names = names.map(|endpoint| endpoint.name.as_str());
            let elapsed = now.duration_since(self.started);
            keeper.keep(self.totals.figures(names, elapsed));
        }
    }

    /// Why the run cannot go on: one clause per endpoint.
    pub(super) fn unusable_because(&self, reason: &StopReason, now: Instant) -> String {
        let clauses: Vec<String> = self
            .plan
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| {
                let why = match (self.health.state(index, now), &self.last_failure[index]) {
                    (State::Disabled { reason }, _) => format!("disabled: {reason}"),
                    (_, Some(message)) => format!("last failure: {message}"),
                    (_, None) => "cooling".to_owned(),
                };
                format!("{}: {why}", endpoint.name)
            })
            .collect();
        let head = match reason {
            StopReason::AllDisabled(_) => "no endpoint can be used any more".to_owned(),
            StopReason::Outage(lasted) => {
                format!(
                    "no endpoint has been usable for {:.0} s",
                    lasted.as_secs_f64()
                )
            }
        };
        format!("{head} ({})", clauses.join("; "))
    }
}
