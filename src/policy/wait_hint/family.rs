//! Quotas of one answer, kept apart by who counts them: the headers of a provider and those of a gateway
//! before it belong to two families, and a figure of one says nothing about the other. Pure.

use std::time::Duration;

use super::Quota;
use super::header::{Family, Field, Kind};

/// Quotas of one answer that are kept; later ones are passed over. The most seen is ten: a provider's four,
/// and a gateway's per minute, hour and day for requests and tokens.
const QUOTAS_MAX: usize = 16;

/// Below this part of its limit a quota counts as low; see `policy::slowdown`.
const LOW: f64 = 0.2;

/// Time until the reset where the server does not tell it: most quotas are counted by the minute.
const RESET_ASSUMED: Duration = Duration::from_secs(60);

/// The quotas of one answer.
#[derive(Default)]
pub struct Quotas {
    entries: [Option<Entry>; QUOTAS_MAX],
}

struct Entry {
    family: Family,
    kind: Kind,
    quota: Quota,
}

/// One figure of a quota.
#[derive(Clone, Copy)]
pub enum Figure {
    /// Its size.
    Limit(Option<u64>),
    /// What is left.
    Remaining(Option<u64>),
    /// Time until it is replenished.
    Reset(Option<Duration>),
}

impl Quotas {
    /// Takes in one figure. A second one under the same name belongs to somebody else who counts by that
    /// name, a gateway that passes the provider's header on and adds its own.
    pub fn take(&mut self, family: Family, kind: Kind, figure: Figure) {
        let (mut family, mut passes) = (family, 0);
        loop {
            let slot = self.entries.iter_mut().find(|entry| match entry {
                None => true,
                Some(entry) => entry.family == family && entry.kind == kind,
            });
            let Some(slot) = slot else {
                return;
            };
            let entry = slot.get_or_insert_with(|| Entry {
                family,
                kind,
                quota: Quota::default(),
            });
            if entry.quota.take(figure) || passes == QUOTAS_MAX {
                return;
            }
            family = family.next();
            passes += 1;
        }
    }

    /// The tightest quota of that kind: one that is used up before one that runs low, and among equals the
    /// one that allows less until its reset.
    pub fn tightest(&self, kind: Kind) -> Quota {
        let quotas = self.entries().filter(|entry| entry.kind == kind);
        quotas
            .map(|entry| entry.quota)
            .min_by(|one, other| tightness(one).total_cmp(&tightness(other)))
            .unwrap_or_default()
    }

    /// Time until the last reset of a quota that is used up.
    pub fn wait(&self) -> Option<Duration> {
        let exhausted = self.entries().filter(|entry| entry.quota.exhausted());
        exhausted
            .filter_map(|entry| entry.quota.reset.or_else(|| self.common_reset(entry)))
            .max()
    }

    /// The reset that a family names once for all its quotas: `x-ratelimit-reset` beside
    /// `x-ratelimit-remaining-requests`.
    fn common_reset(&self, of: &Entry) -> Option<Duration> {
        self.entries()
            .filter(|entry| entry.family.is_kin(of.family))
            .filter(|entry| entry.quota.remaining.is_none() && entry.quota.limit.is_none())
            .find_map(|entry| entry.quota.reset)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }
}

impl Quota {
    /// False if that figure is here already.
    fn take(&mut self, figure: Figure) -> bool {
        fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
            let free = place.is_none();
            if free {
                *place = value;
            }
            free
        }
        match figure {
            Figure::Limit(limit) => set(&mut self.limit, limit),
            Figure::Remaining(remaining) => set(&mut self.remaining, remaining),
            Figure::Reset(reset) => set(&mut self.reset, reset),
        }
    }
}

impl Figure {
    /// What `field` says, where `count` and `reset` read its value as one or the other.
    pub fn read(
        field: Field,
        count: impl FnOnce() -> Option<u64>,
        reset: impl FnOnce() -> Option<Duration>,
    ) -> Self {
        match field {
            Field::Limit => Self::Limit(count()),
            Field::Remaining => Self::Remaining(count()),
            Field::Reset => Self::Reset(reset()),
        }
    }
}

/// A smaller number is tighter. Used up: below 0. Low: what it allows a second. Otherwise the same, but
/// behind all that are low, and a quota that does not say what is left behind all others.
fn tightness(quota: &Quota) -> f64 {
    /// No API allows as much in a second.
    const MUCH: f64 = 1e12;
    let reset = quota.reset.unwrap_or(RESET_ASSUMED).as_secs_f64();
    let Some(remaining) = quota.remaining.map(|remaining| remaining as f64) else {
        return f64::MAX;
    };
    if quota.exhausted() {
        return -reset;
    }
    let low = quota
        .limit
        .is_some_and(|limit| limit > 0 && remaining < LOW * limit as f64);
    let a_second = (remaining / reset.max(1e-3)).min(MUCH);
    a_second + if low { 0.0 } else { MUCH }
}
