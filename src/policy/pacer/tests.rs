use std::collections::BTreeMap;

use super::*;
use crate::policy::virtual_time::{ms, start};

enum Message {
    Ask { shard: usize, want: u32 },
    GiveBack(Slots),
    Lease { shard: usize, slots: Slots },
}

/// Shards, a main thread and messages with random delays, stepped through virtual time.
struct Simulation {
    begin: Instant,
    rate: f64,
    step: Duration,
    length: Duration,
    /// Whether a shard has work at a time since the start.
    works: fn(usize, Duration) -> bool,
}

impl Simulation {
    /// The instants at which requests left, as offsets from the start, with their shards.
    fn run(&self, shards: usize, seed: u64) -> Vec<(Duration, usize)> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pacer = Pacer::new(self.rate, self.begin);
        let mut queues: Vec<SlotQueue> = (0..shards).map(|_| SlotQueue::new()).collect();
        let mut asked = vec![false; shards];
        let mut messages: BTreeMap<(Duration, u64), Message> = BTreeMap::new();
        let mut serial = 0;
        let mut sent = Vec::new();
        let mut clock = Duration::ZERO;
        while clock < self.length {
            let now = self.begin + clock;
            let mut outbox = Vec::new();
            while let Some(entry) = messages.first_entry() {
                if entry.key().0 > clock {
                    break;
                }
                match entry.remove() {
                    Message::Ask { shard, want } => {
                        let slots = pacer.lease(want, now);
                        outbox.push(Message::Lease { shard, slots });
                    }
                    Message::GiveBack(slots) => {
                        pacer.give_back(slots, now);
                        if let Some(shard) = (0..shards).find(|&shard| (self.works)(shard, clock)) {
                            for slots in pacer.take_returned(now) {
                                outbox.push(Message::Lease { shard, slots });
                            }
                        }
                    }
                    Message::Lease { shard, slots } => {
                        queues[shard].add(slots);
                        asked[shard] = false;
                    }
                }
            }
            for shard in 0..shards {
                if !(self.works)(shard, clock) {
                    outbox.extend(queues[shard].drain().into_iter().map(Message::GiveBack));
                    continue;
                }
                while queues[shard].take(now) == Taken::Go {
                    sent.push((clock, shard));
                }
                let want = queues[shard].wants_more(now);
                if want > 0 && !asked[shard] {
                    asked[shard] = true;
                    outbox.push(Message::Ask { shard, want });
                }
            }
            for message in outbox {
                serial += 1;
                let delay = Duration::from_micros(random.u64(0..2000));
                messages.insert((clock + delay, serial), message);
            }
            clock += self.step;
        }
        sent
    }
}

/// Every sliding second starting in `from..to` holds the rate, within 2 % and one request.
fn check_windows(sent: &[(Duration, usize)], rate: f64, from: Duration, to: Duration, label: &str) {
    let mut window = from;
    while window + Duration::from_secs(1) <= to {
        let first = sent.partition_point(|&(at, _)| at < window);
        let end = sent.partition_point(|&(at, _)| at < window + Duration::from_secs(1));
        let count = (end - first) as f64;
        assert!(
            count <= rate * 1.02 + 1.0,
            "{label}: {count} in the second from {window:?}"
        );
        assert!(
            count >= rate * 0.98 - 1.0,
            "{label}: {count} in the second from {window:?}"
        );
        window += ms(7);
    }
}

fn check(rate: f64, shards: usize, works: fn(usize, Duration) -> bool) -> Vec<(Duration, usize)> {
    let length = Duration::from_secs(if rate < 100.0 { 12 } else { 3 });
    let simulation = Simulation {
        begin: start(),
        rate,
        step: Duration::from_micros(100),
        length,
        works,
    };
    let sent = simulation.run(shards, 42);
    check_windows(
        &sent,
        rate,
        Duration::ZERO,
        length,
        &format!("rate {rate}, {shards} shards"),
    );
    sent
}

#[test]
fn every_second_holds_the_rate_first_one_included() {
    for rate in [1.0, 7.0, 1000.0, 50_000.0] {
        for shards in [1, 2, 8] {
            check(rate, shards, |_, _| true);
        }
    }
}

#[test]
fn saturated_shards_get_similar_shares() {
    for rate in [1000.0, 50_000.0] {
        let sent = check(rate, 8, |_, _| true);
        for shard in 0..8 {
            let share =
                sent.iter().filter(|&&(_, by)| by == shard).count() as f64 / sent.len() as f64;
            assert!(
                (0.06..0.2).contains(&share),
                "rate {rate}: shard {shard} has {share}"
            );
        }
    }
}

#[test]
fn the_share_of_an_idle_shard_goes_to_the_others() {
    for rate in [1000.0, 50_000.0] {
        let sent = check(rate, 2, |shard, at| shard == 0 || at < ms(1000));
        let late = sent.iter().filter(|&&(at, _)| at >= ms(1500)).count();
        let late_by_first = sent
            .iter()
            .filter(|&&(at, by)| at >= ms(1500) && by == 0)
            .count();
        assert_eq!(late, late_by_first);
    }
}

#[test]
fn shards_whose_work_flickers_lose_nothing() {
    // At any time at least one shard has work, and each goes idle every 30 ms.
    check(1000.0, 3, |shard, at| {
        !(at.as_millis() as usize / 10 + shard).is_multiple_of(3)
    });
}

#[test]
fn slots_leased_far_ahead_come_back_when_work_shrinks() {
    // At 7 a second each of 8 shards holds a slot up to a second away; 7 of them stop at 2 s.
    check(7.0, 8, |shard, at| shard == 0 || at < ms(2000));
}

#[test]
fn capacity_nobody_used_is_lost() {
    let begin = start();
    let mut pacer = Pacer::new(1000.0, begin);
    let mut queue = SlotQueue::new();
    let now = begin + Duration::from_secs(5);
    queue.add(pacer.lease(ASK_MAX, now));
    let mut sent = 0;
    while queue.take(now) == Taken::Go {
        sent += 1;
    }
    assert_eq!(sent, 11, "10 ms of missed slots and the one due now");
}

#[test]
fn a_stalled_shard_does_not_burst() {
    let begin = start();
    let mut queue = SlotQueue::new();
    queue.add(Slots {
        first: begin,
        spacing_ns: 1e6,
        count: 1000,
        evenly: false,
    });
    let mut sent = 0;
    while queue.take(begin + ms(500)) == Taken::Go {
        sent += 1;
    }
    assert_eq!(sent, 11);
    assert_eq!(queue.take(begin + ms(500)), Taken::At(begin + ms(501)));
    assert_eq!(queue.take(begin + ms(5000)), Taken::Empty);
}

#[test]
fn a_late_slot_keeps_its_distance_from_the_next_where_that_counts() {
    let begin = start();
    let mut pacer = Pacer::new(100.0, begin);
    pacer.set_evenly(true);
    let mut queue = SlotQueue::new();
    queue.add(pacer.lease(3, begin));
    assert_eq!(queue.take(begin + ms(4)), Taken::Go);
    let next = begin + Duration::from_micros(13_500);
    assert_eq!(queue.take(begin + ms(10)), Taken::At(next));
    assert_eq!(queue.take(next), Taken::Go);
    // The half millisecond that each comes closer brings it back to its slots.
    let third = begin + ms(23);
    assert_eq!(queue.take(begin + ms(22)), Taken::At(third));
    assert_eq!(queue.take(third), Taken::Go);
    pacer.set_evenly(false);
    queue.add(pacer.lease(2, begin + ms(25)));
    assert_eq!(queue.take(begin + ms(39)), Taken::Go, "35 ms are over");
}

#[test]
fn a_refused_slot_is_used_once_more() {
    let begin = start();
    let at = |us| begin + Duration::from_micros(us);
    let mut pacer = Pacer::new(100.0, begin);
    let mut queue = SlotQueue::new();
    queue.add(pacer.lease(1, begin));
    assert_eq!(queue.take(begin), Taken::Go);
    queue.again(at(300));
    assert_eq!(
        queue.take(at(1000)),
        Taken::Empty,
        "where gaps do not count"
    );
    pacer.set_evenly(true);
    queue.add(pacer.lease(3, begin));
    assert_eq!(queue.take(at(10_000)), Taken::Go);
    queue.again(at(10_300));
    assert_eq!(queue.take(at(10_900)), Taken::At(at(11_000)));
    assert_eq!(queue.take(at(11_000)), Taken::Go);
    queue.again(at(11_300));
    assert_eq!(
        queue.take(at(20_000)),
        Taken::At(at(20_500)),
        "once, and in its distance"
    );
    assert_eq!(queue.take(at(20_500)), Taken::Go);
    queue.again(at(20_800));
    queue.drain();
    assert_eq!(queue.take(at(22_000)), Taken::Empty);
}

#[test]
fn a_greedy_asker_leaves_half_of_the_horizon() {
    let begin = start();
    let mut pacer = Pacer::new(1000.0, begin);
    let counts: Vec<u32> = (0..7).map(|_| pacer.lease(ASK_MAX, begin).count).collect();
    assert_eq!(
        counts,
        [30, 15, 8, 4, 2, 1, 1],
        "60 slots before the horizon, then one at a time"
    );
}

#[test]
fn a_slow_rate_leases_one_slot_however_far() {
    let begin = start();
    let mut pacer = Pacer::new(0.5, begin);
    let slots: Vec<Slots> = (0..3).map(|_| pacer.lease(10, begin)).collect();
    let expect = [0, 2000, 4000].map(|at| Slots {
        first: begin + ms(at),
        spacing_ns: 2e9,
        count: 1,
        evenly: false,
    });
    assert_eq!(slots, expect);
}

#[test]
fn a_returned_slot_is_leased_again_until_it_expires() {
    let begin = start();
    let mut pacer = Pacer::new(1000.0, begin);
    let lease = pacer.lease(4, begin);
    assert_eq!(lease.count, 4);
    pacer.give_back(lease, begin);
    assert_eq!(pacer.lease(3, begin), Slots { count: 3, ..lease });
    let last = Slots {
        first: begin + ms(3),
        count: 1,
        ..lease
    };
    assert_eq!(pacer.take_returned(begin + ms(13)), [last]);
    pacer.give_back(last, begin + ms(13));
    assert_eq!(
        pacer.take_returned(begin + ms(14)),
        [],
        "the slot at 3 ms lives to 13 ms"
    );
}

#[test]
fn a_new_rate_holds_within_the_horizon() {
    let begin = start();
    let mut pacer = Pacer::new(0.1, begin);
    for _ in 0..8 {
        pacer.lease(1, begin);
    }
    pacer.set_rate(1000.0, begin);
    assert!(pacer.lease(1, begin).first <= begin + HORIZON + ms(1));
    pacer.set_rate(0.1, begin);
    assert!(pacer.lease(1, begin).first >= begin + Duration::from_secs(10));
}

#[test]
fn a_rate_that_changes_all_the_time_is_held_too() {
    // By the hundredth change a slot every 90.6 ms.
    let begin = start();
    let mut pacer = Pacer::new(10.0, begin);
    for change in 1..=100 {
        let last = pacer.lease(1, begin).first;
        assert!(
            last >= begin + ms(90) * (change - 1),
            "{change}: {:?}",
            last - begin
        );
        pacer.set_rate(10.0 * 1.001_f64.powi(change as i32), begin);
    }
}

#[test]
#[should_panic(expected = "a rate is a positive number")]
fn a_rate_of_zero_is_a_bug() {
    Pacer::new(0.0, start());
}

#[test]
fn no_minute_exceeds_its_limit_however_late_slots_are_used() {
    const MINUTE: f64 = 60.0;
    for limit in [1, 2, 7, 60, 100, 599, 600, 601, 10_000] {
        let spacing = 1.0 / per_minute(limit);
        let late = CATCH_UP.as_secs_f64().max(spacing / 2.0);
        // One slot as late as can be, the following in time: all that fit into a minute.
        let most = ((MINUTE + late) / spacing - 1e-6).ceil() as u64;
        assert!(most <= limit, "{limit}: {most}");
        assert!(
            60.0 / spacing >= limit as f64 * 0.999 - 0.5,
            "{limit}: wasteful"
        );
    }
}
