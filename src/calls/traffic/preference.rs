//! Where a call goes of the endpoints that are ready: rather to none that has just failed it, and to none
//! that is known to lack its model. As for a line: `batch::admission`.

use std::time::Instant;

use super::Traffic;

/// Where a call should rather not go.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::calls) struct Rather<'a> {
    /// The endpoint that has just failed it.
    pub avoid: Option<usize>,
    /// Its model, as it was asked for.
    pub model: Option<&'a str>,
}

impl Traffic {
    /// Leaves of the endpoints that are ready those that are good for a call; `false` if it should rather
    /// wait for another one. As for a line: `batch::admission::placement`.
    pub(super) fn prefer(&self, rather: Rather<'_>, ready: &mut [bool], now: Instant) -> bool {
        let lacking = self.models.lacking(rather.model);
        let all = 0..ready.len();
        if !lacking.is_empty() {
            let has_model = |index: &usize| !lacking.contains(index);
            if all.clone().any(|index| ready[index] && has_model(&index)) {
                lacking.iter().for_each(|&index| ready[index] = false);
                return true;
            }
            return !self.may_have_model(lacking, now);
        }
        let Some(avoided) = rather.avoid.filter(|&index| ready[index]) else {
            return true;
        };
        let beside = |index: &usize| *index != avoided;
        let is_doubtful = self.health.view(avoided).streak > 0;
        all.clone().filter(beside).any(|index| ready[index])
            || !is_doubtful
            || !(all.filter(beside)).any(|index| self.local.usable(index, now))
    }

    fn may_have_model(&self, lacking: &[usize], now: Instant) -> bool {
        (0..self.caps.len()).any(|index| {
            !lacking.contains(&index) && self.local.may_come_back(index, self.max_outage, now)
        })
    }

    /// `endpoint` has refused a call's model. Returns whether another one may have it; `None`: that cannot
    /// be remembered.
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
