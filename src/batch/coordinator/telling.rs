//! What a coordinator tells of its run: to the display ten times a second, and when it cannot go on.

use std::time::Instant;

use super::Coordinator;
use crate::metrics::{Availability, EndpointState, Snapshot};
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
            ..self.totals.snapshot(&self.gauges, elapsed, states)
        }
    }

    fn endpoint_state(&self, index: usize, now: Instant) -> EndpointState {
        let failure = self.last_failure[index].clone();
        let (state, reason) = match self.health.state(index, now) {
            State::Usable => (Availability::Healthy, failure),
            State::Cooling { .. } => (Availability::Cooling, failure),
            State::HalfOpen { .. } => (Availability::HalfOpen, failure),
            State::Disabled { reason } => (Availability::Disabled, Some(reason)),
        };
        EndpointState {
            name: self.plan.endpoints[index].name.clone(),
            state,
            reason,
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
