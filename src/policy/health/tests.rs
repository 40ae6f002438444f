use std::collections::BTreeMap;

use super::*;
use crate::config::MAX_OUTAGE_NEVER;
use crate::policy::virtual_time::{ms, start};

const OUTAGE: Duration = Duration::from_secs(60);

/// A failure that follows the one before it.
const NEXT: Failures = Failures {
    together: 1,
    follows: true,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fail(health: &mut Health, endpoint: usize, times: u32, now: Instant) {
    for _ in 0..times {
        health.handle_transient(endpoint, NEXT, now);
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
        health.handle_probe_result(0, Probe::Failed, now);
    }
    health.poll(now + seconds(60));
    health.handle_probe_result(0, Probe::Well, now + seconds(60));
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
    health.handle_probe_result(2, Probe::Well, now + seconds(31));
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
fn what_an_earlier_process_was_answered_counts() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    health.note_earlier_success();
    fail(&mut health, 0, 5, now);
    let verdict = |after| health.verdict(now + after, OUTAGE, MAX_OUTAGE_NEVER);
    assert_eq!(verdict(seconds(59)), None);
    assert_eq!(verdict(OUTAGE), Some(StopReason::Outage(OUTAGE)));
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
                local.apply(
                    transition.endpoint,
                    self.health.view(transition.endpoint),
                    now,
                );
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
    assert!(!pair.locals[0].send(0).probe, "an ordinary request");
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
    assert!(pair.locals[0].send(0).probe);
    pair.locals[0].apply(0, view, later);
    assert_eq!(pair.usable(later), [false, false]);
    assert!(!pair.locals[0].send(0).probe);
    pair.health.handle_probe_result(0, Probe::Well, later);
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
    local.apply(0, view, now);
    assert_eq!(usable(&local, now + seconds(3)), [false, false, true]);
    assert_eq!(local.next_usable(now + seconds(4)), Some(now + seconds(4)));
    local.apply(
        2,
        EndpointView {
            disabled: true,
            ..EndpointView::default()
        },
        now,
    );
    assert_eq!(local.next_usable(now), Some(now + seconds(9)));
}

/// What a server does with its request number so-and-so: after how many milliseconds it answers,
/// and whether well.
type Server = fn(u64) -> (u64, bool);

/// Shards that keep `in_flight` requests each at one endpoint, over virtual time.
struct Traffic {
    health: Health,
    locals: Vec<LocalHealth>,
    server: Server,
    /// By the time of the answer, then in the order of sending: shard, number there, whether well.
    answers: BTreeMap<(Duration, u64), (usize, u64, bool)>,
    sent: u64,
}

impl Traffic {
    fn send(&mut self, shard: usize, now: Duration) {
        let (after, ok) = (self.server)(self.sent);
        let number = self.locals[shard].send(0).number;
        let at = (now + ms(after), self.sent);
        self.answers.insert(at, (shard, number, ok));
        self.sent += 1;
    }

    fn answered(&mut self, shard: usize, number: u64, ok: bool, now: Instant) {
        let local = &mut self.locals[shard];
        match ok {
            true => {
                local.answer(0, number);
                self.health.handle_success(0, now);
            }
            false => self.health.handle_transient(0, local.fail(0, number), now),
        }
        for transition in self.health.poll(now) {
            for local in &mut self.locals {
                local.apply(
                    transition.endpoint,
                    self.health.view(transition.endpoint),
                    now,
                );
            }
        }
    }
}

/// Runs until the endpoint cools or `total` requests are sent. Returns the requests sent and, if it
/// cooled, when.
fn cooled(shards: usize, in_flight: usize, total: u64, server: Server) -> (u64, Option<Duration>) {
    let begin = start();
    let mut traffic = Traffic {
        health: Health::new(vec![0], shards),
        locals: (0..shards)
            .map(|shard| LocalHealth::new(vec![0], shard))
            .collect(),
        server,
        answers: BTreeMap::new(),
        sent: 0,
    };
    for _ in 0..in_flight {
        (0..shards).for_each(|shard| traffic.send(shard, Duration::ZERO));
    }
    while let Some(((at, _), (shard, number, ok))) = traffic.answers.pop_first() {
        traffic.answered(shard, number, ok, begin + at);
        if traffic.health.state(0, begin + at) != State::Usable {
            return (traffic.sent, Some(at));
        }
        if traffic.sent >= total {
            break;
        }
        traffic.send(shard, at);
    }
    (traffic.sent, None)
}

#[test]
fn instant_errors_of_an_opening_burst_do_not_cool_a_healthy_endpoint() {
    // One in ten fails at once, the others are answered after seconds: before the first answer comes
    // there are failures by the dozen.
    let limping: Server = |number| match number % 10 {
        7 => (1, false),
        _ => (2000 + number % 7, true),
    };
    for (shards, in_flight) in [(1, 100), (1, 4000), (2, 50), (8, 12)] {
        let (_, at) = cooled(shards, in_flight, 50_000, limping);
        assert_eq!(at, None, "{shards} shards with {in_flight} in flight each");
    }
}

#[test]
fn an_endpoint_that_only_fails_cools_before_it_takes_more_than_was_under_way() {
    let servers: [(&str, Server); 4] = [
        ("at once", |_| (1, false)),
        ("in disorder", |number| (1 + number * 7919 % 50, false)),
        ("late", |_| (30_000, false)),
        ("or hangs", |number| match number % 8 {
            3 => (30_000, false),
            _ => (1, false),
        }),
    ];
    for (how, server) in servers {
        for (shards, in_flight) in [(1, 1), (1, 50), (2, 10), (2, 1), (8, 6)] {
            let (sent, at) = cooled(shards, in_flight, 20_000, server);
            assert!(at.is_some(), "{how}: {shards} shards, {in_flight} each");
            // Five in a row on one shard are enough, whatever the others see.
            let most = (shards * in_flight + shards * 4 + 1).max(in_flight * shards * 3) as u64;
            assert!(sent <= most, "{how}: {sent} sent by {shards} × {in_flight}");
        }
    }
}

#[test]
fn five_failures_one_after_the_other_cool_wherever_they_are_seen() {
    // One request at a time on each shard, failing: the order of sending is that of the answers.
    let (sent, _) = cooled(1, 1, 1000, |_| (10, false));
    assert_eq!(sent, 5);
    let (sent, _) = cooled(2, 1, 1000, |number| (10 + number % 2, false));
    assert_eq!(sent, 6, "five failed, one is under way");
}

#[test]
fn an_endpoint_where_most_requests_time_out_cools() {
    // Answers come between the timeouts, though rarely.
    let mostly_hanging: Server = |number| match number * 7919 % 100 {
        0..10 => (100, true),
        _ => (30_000, false),
    };
    let (_, at) = cooled(2, 50, 20_000, mostly_hanging);
    assert!(at.is_some());
}

#[test]
fn a_pause_of_the_process_is_no_outage() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    health.handle_success(0, now);
    fail(&mut health, 0, 5, now);
    // It had been out for 10 s when the process was stopped for an hour.
    let stopped = now + seconds(10);
    let thawed = stopped + seconds(3600);
    health.postpone(seconds(3600), thawed);
    let verdict = |at| health.verdict(at, OUTAGE, MAX_OUTAGE_NEVER);
    assert_eq!(verdict(thawed), None);
    assert_eq!(verdict(thawed + seconds(49)), None);
    assert_eq!(
        verdict(thawed + seconds(50)),
        Some(StopReason::Outage(seconds(60)))
    );
}

#[test]
fn a_probe_has_the_time_that_a_pause_took_from_it() {
    let now = start();
    let mut health = Health::new(vec![0], 2);
    fail(&mut health, 0, 5, now);
    let probed = now + seconds(1);
    health.poll(probed);
    let first = health.view(0).probe_number;
    let thawed = probed + seconds(3600);
    health.postpone(seconds(3599), thawed);
    health.poll(thawed);
    assert_eq!(
        health.view(0).probe_number,
        first,
        "its answer may be there"
    );
    health.poll(thawed + seconds(59));
    assert_ne!(health.view(0).probe_number, first, "it was lost");
}
