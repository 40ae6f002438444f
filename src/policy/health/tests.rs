use super::*;
use crate::policy::virtual_time::{ms, start};

const OUTAGE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fail(health: &mut Health, endpoint: usize, times: u32, now: Instant) {
    for _ in 0..times {
        health.handle_transient(endpoint, now);
    }
}

fn states(transitions: Vec<Transition>) -> Vec<(usize, State)> {
    transitions
        .into_iter()
        .map(|transition| (transition.endpoint, transition.state))
        .collect()
}

#[test]
fn five_failures_in_a_row_cool_and_a_success_starts_over() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    fail(&mut health, 0, 4, now);
    health.handle_success(0, now);
    fail(&mut health, 0, 1, now);
    assert_eq!(
        states(health.poll(now)),
        [(0, State::Usable)],
        "shards hear that there is a streak, or no success would be reported"
    );
    fail(&mut health, 0, 3, now);
    assert_eq!(health.poll(now), []);
    assert_eq!(health.view(0).streak, 4);
    fail(&mut health, 0, 1, now);
    assert_eq!(
        states(health.poll(now)),
        [(
            0,
            State::Cooling {
                until: now + seconds(1)
            }
        )]
    );
}

#[test]
fn reports_in_flight_do_not_extend_the_cooling() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    fail(&mut health, 0, 5, now);
    fail(&mut health, 0, 50, now + ms(900));
    assert_eq!(
        health.state(0, now),
        State::Cooling {
            until: now + seconds(1)
        }
    );
    health.poll(now + seconds(1));
    fail(&mut health, 0, 50, now + seconds(1));
    assert_eq!(health.state(0, now), State::HalfOpen { shard: 0 });
}

#[test]
fn failed_probes_double_the_cooling_up_to_a_minute() {
    let mut now = start();
    let mut health = Health::new(vec![0], 3);
    fail(&mut health, 0, 5, now);
    for (failed, cooling) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        health.poll(now);
        assert_eq!(
            health.next_wake(),
            Some(now + seconds(cooling)),
            "after {failed} probes"
        );
        now += seconds(cooling);
        let shard = failed % 3;
        assert_eq!(states(health.poll(now)), [(0, State::HalfOpen { shard })]);
        health.handle_probe_result(0, false, now);
    }
    health.poll(now + seconds(60));
    health.handle_probe_result(0, true, now + seconds(60));
    assert_eq!(states(health.poll(now + seconds(60))), [(0, State::Usable)]);
    fail(&mut health, 0, 5, now + seconds(61));
    let until = now + seconds(62);
    assert_eq!(
        health.state(0, now),
        State::Cooling { until },
        "the doubling starts over"
    );
}

#[test]
fn a_hint_cools_the_group_without_a_probe_and_is_never_shortened() {
    let now = start();
    let mut health = Health::new(vec![0, 1, 0], 1);
    health.handle_hint(0, seconds(30), now);
    health.handle_hint(2, seconds(10), now);
    let until = now + seconds(30);
    let cooling = State::Cooling { until };
    assert_eq!(
        states(health.poll(now)),
        [(0, cooling.clone()), (2, cooling)]
    );
    assert_eq!(health.next_wake(), Some(until));
    assert_eq!(health.outage(now), None);
    assert_eq!(
        states(health.poll(until)),
        [(0, State::Usable), (2, State::Usable)]
    );
    assert_eq!(health.next_wake(), None);
}

#[test]
fn a_hint_delays_the_probe_of_a_streak() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    fail(&mut health, 0, 5, now);
    health.handle_hint(0, seconds(7), now);
    health.poll(now);
    assert_eq!(health.poll(now + seconds(6)), []);
    assert_eq!(health.next_wake(), Some(now + seconds(7)));
    assert_eq!(
        states(health.poll(now + seconds(7))),
        [(0, State::HalfOpen { shard: 0 })]
    );
}

#[test]
fn only_shards_with_work_probe() {
    let now = start();
    let mut health = Health::new(vec![0], 2);
    health.set_working(0, false);
    health.set_working(1, false);
    fail(&mut health, 0, 5, now);
    health.poll(now);
    assert_eq!(health.next_wake(), None, "nobody could probe");
    assert_eq!(health.poll(now + seconds(2)), []);
    health.set_working(1, true);
    assert_eq!(
        states(health.poll(now + seconds(2))),
        [(0, State::HalfOpen { shard: 1 })]
    );
    health.set_working(0, true);
    health.set_working(1, false);
    health.handle_probe_declined(0, 1, now + seconds(3));
    assert_eq!(
        states(health.poll(now + seconds(3))),
        [(0, State::HalfOpen { shard: 0 })]
    );
    assert_eq!(health.next_wake(), Some(now + seconds(63)));
    assert_eq!(health.poll(now + seconds(62)), []);
    assert_eq!(
        states(health.poll(now + seconds(63))),
        [(0, State::HalfOpen { shard: 0 })]
    );
}

#[test]
fn an_outage_begins_when_the_last_endpoint_fails() {
    let now = start();
    let mut health = Health::new(vec![0, 1, 2], 1);
    health.handle_disable(0, "401".to_owned());
    fail(&mut health, 1, 5, now + seconds(10));
    assert_eq!(health.outage(now + seconds(15)), None);
    fail(&mut health, 2, 5, now + seconds(20));
    let outage = Outage {
        since: now + seconds(20),
        permanent: false,
    };
    assert_eq!(health.outage(now + seconds(21)), Some(outage));
    health.poll(now + seconds(30));
    assert_eq!(
        health.outage(now + seconds(30)),
        Some(outage),
        "half-open is still out"
    );
    health.handle_probe_result(2, true, now + seconds(31));
    assert_eq!(health.outage(now + seconds(31)), None);
}

#[test]
fn the_verdict() {
    let now = start();
    let check = |succeeded: bool, max_outage: Duration, after: Duration, expect| {
        let mut health = Health::new(vec![0], 1);
        if succeeded {
            health.handle_success(0, now);
        }
        assert_eq!(health.ever_succeeded(), succeeded);
        assert_eq!(health.verdict(now, max_outage, MAX_OUTAGE_NEVER), None);
        fail(&mut health, 0, 5, now);
        assert_eq!(
            health.verdict(now + after, max_outage, MAX_OUTAGE_NEVER),
            expect
        );
    };
    check(true, OUTAGE, seconds(59), None);
    check(
        true,
        OUTAGE,
        seconds(60),
        Some(StopReason::Outage(seconds(60))),
    );
    check(false, OUTAGE, ms(4999), None);
    check(
        false,
        OUTAGE,
        seconds(5),
        Some(StopReason::Outage(seconds(5))),
    );
    check(
        false,
        seconds(2),
        seconds(2),
        Some(StopReason::Outage(seconds(2))),
    );
}

#[test]
fn all_disabled_is_permanent_and_keeps_the_first_reasons() {
    let now = start();
    let mut health = Health::new(vec![0, 0], 1);
    health.handle_disable(0, "401: bad key".to_owned());
    assert_eq!(health.verdict(now, OUTAGE, MAX_OUTAGE_NEVER), None);
    health.handle_disable(1, "404: no such model".to_owned());
    health.handle_disable(1, "later".to_owned());
    health.handle_success(1, now);
    assert_eq!(
        health.outage(now),
        Some(Outage {
            since: now,
            permanent: true
        })
    );
    let reasons = vec!["401: bad key".to_owned(), "404: no such model".to_owned()];
    assert_eq!(
        health.verdict(now, OUTAGE, MAX_OUTAGE_NEVER),
        Some(StopReason::AllDisabled(reasons))
    );
    assert_eq!(health.poll(now).len(), 2);
    assert_eq!(health.next_wake(), None);
}

/// Main and two shards with instant messages.
struct Pair {
    health: Health,
    locals: [LocalHealth; 2],
}

impl Pair {
    fn new(groups: &[usize]) -> Self {
        let local = |shard| LocalHealth::new(groups.to_vec(), shard);
        Self {
            health: Health::new(groups.to_vec(), 2),
            locals: [local(0), local(1)],
        }
    }

    fn poll(&mut self, now: Instant) {
        for transition in self.health.poll(now) {
            for local in &mut self.locals {
                local.apply(transition.endpoint, self.health.view(transition.endpoint));
            }
        }
    }

    fn usable(&self, now: Instant) -> [bool; 2] {
        [0, 1].map(|shard| self.locals[shard].usable(0, now))
    }
}

#[test]
fn exactly_one_request_is_the_probe() {
    let now = start();
    let mut pair = Pair::new(&[0]);
    assert!(!pair.locals[0].take_probe(0), "an ordinary request");
    fail(&mut pair.health, 0, 5, now);
    pair.poll(now);
    let later = now + seconds(2);
    assert_eq!(
        pair.usable(later),
        [false, false],
        "the cooling is over, but main decides"
    );
    assert_eq!(pair.locals[0].next_usable(now), None);
    pair.poll(later);
    assert_eq!(pair.usable(later), [true, false]);
    // The same view again must not make a second probe.
    let view = pair.health.view(0);
    assert!(pair.locals[0].take_probe(0));
    pair.locals[0].apply(0, view);
    assert_eq!(pair.usable(later), [false, false]);
    assert!(!pair.locals[0].take_probe(0));
    pair.health.handle_probe_result(0, true, later);
    pair.poll(later);
    assert_eq!(pair.usable(later), [true, true]);
}

#[test]
fn an_idle_shard_passes_the_probe_on() {
    let now = start();
    let mut pair = Pair::new(&[0]);
    fail(&mut pair.health, 0, 5, now);
    pair.poll(now + seconds(1));
    assert_eq!(pair.usable(now + seconds(1)), [true, false]);
    assert_eq!(pair.locals[0].surrender_probes(), [0]);
    pair.health.handle_probe_declined(0, 0, now + seconds(1));
    pair.poll(now + seconds(1));
    assert_eq!(pair.usable(now + seconds(1)), [false, true]);
}

#[test]
fn local_hints_and_refusals_act_at_once() {
    let now = start();
    let mut local = LocalHealth::new(vec![0, 1, 0], 0);
    local.note_hint(0, now + seconds(3));
    local.note_hint(2, now + seconds(1));
    let usable = |local: &LocalHealth, at| [0, 1, 2].map(|endpoint| local.usable(endpoint, at));
    assert_eq!(usable(&local, now + seconds(2)), [false, true, false]);
    local.note_refused(1);
    assert_eq!(local.next_usable(now), Some(now + seconds(3)));
    assert_eq!(usable(&local, now + seconds(3)), [true, false, true]);
    let view = EndpointView {
        usable_from: Some(now + seconds(9)),
        ..EndpointView::default()
    };
    local.apply(0, view);
    assert_eq!(usable(&local, now + seconds(3)), [false, false, true]);
    assert_eq!(local.next_usable(now + seconds(4)), Some(now + seconds(4)));
    local.apply(
        2,
        EndpointView {
            disabled: true,
            ..EndpointView::default()
        },
    );
    assert_eq!(local.next_usable(now), Some(now + seconds(9)));
}
