use super::*;

#[derive(Clone, Copy)]
enum ToMain {
    Want,
    Return(u32),
    Working(bool),
}

struct Shard {
    lease: Lease,
    /// Requests not yet sent.
    work: u32,
    /// Steps each request in flight still takes.
    in_flight: Vec<u32>,
    asked: bool,
    idle: bool,
    /// It keeps a permit even when it is idle: a line waits for its retry.
    keeps: bool,
    inbox: VecDeque<Action>,
    outbox: VecDeque<ToMain>,
    /// Longest time it had work and nothing in flight, in steps.
    hungry: u32,
    hungry_max: u32,
    done: u32,
}

impl Shard {
    fn put(&mut self, n: u32) {
        if n > 0 {
            self.outbox.push_back(ToMain::Return(n));
        }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        if random.bool() {
            match self.inbox.pop_front() {
                Some(Action::Grant { n, .. }) => {
                    self.lease.grant(n);
                    self.asked = false;
                }
                Some(Action::Recall { .. }) => {
                    let n = self.lease.recall();
                    self.put(n);
                }
                Some(Action::Withdraw { n, .. }) => {
                    let n = self.lease.withdraw(n);
                    self.put(n);
                }
                None => {}
            }
        }
        self.in_flight.iter_mut().for_each(|steps| *steps -= 1);
        let before = self.in_flight.len();
        self.in_flight.retain(|&steps| steps > 0);
        for _ in self.in_flight.len()..before {
            self.done += 1;
            let n = self.lease.release();
            self.put(n);
        }
        while self.work > 0 && self.lease.try_acquire() {
            self.work -= 1;
            self.in_flight.push(random.u32(1..20));
        }
        if self.work > 0 {
            if self.idle {
                self.idle = false;
                self.outbox.push_back(ToMain::Working(true));
            }
            if !self.asked {
                self.asked = true;
                self.outbox.push_back(ToMain::Want);
            }
        } else {
            // One for a retry, as long as some requests are under way.
            let n = self
                .lease
                .surrender(u32::from(!self.in_flight.is_empty() || self.keeps));
            self.put(n);
            if !self.idle {
                self.idle = true;
                self.asked = false;
                self.outbox.push_back(ToMain::Working(false));
            }
        }
        self.hungry = if self.work > 0 && self.in_flight.is_empty() {
            self.hungry + 1
        } else {
            0
        };
        self.hungry_max = self.hungry_max.max(self.hungry);
    }
}

struct Outcome {
    shards: Vec<Shard>,
    /// Recalls sent from step 500 to step 2000.
    recalls: u32,
    /// Requests in flight per shard at step 2000.
    in_flight: Vec<usize>,
}

/// More work for shards, by step.
type Arrivals = fn(u32, &mut fastrand::Rng) -> Vec<(usize, u32)>;

const NO_ARRIVALS: Arrivals = |_, _| Vec::new();

/// After so many steps a lower cap holds: requests last up to 20, messages a few.
const STEPS_TO_TAKE_HOLD: u32 = 60;

/// Runs shards with random request durations and message delays until everything is served.
fn simulate(total: u32, work: &[u32], arrivals: Arrivals, seed: u64) -> Outcome {
    simulate_resized(total, &[], work, arrivals, seed)
}

/// The same with a cap that moves: from that step on, so many.
fn simulate_resized(
    total: u32,
    caps: &[(u32, u32)],
    work: &[u32],
    arrivals: Arrivals,
    seed: u64,
) -> Outcome {
    let (mut total, mut resized_at) = (total, 0);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut permits = Permits::new(total, work.len(), seed as usize);
    let mut shards: Vec<Shard> = (0..work.len())
        .map(|shard| Shard {
            lease: Lease::new(permits.initial(shard)),
            work: work[shard],
            in_flight: Vec::new(),
            asked: false,
            idle: false,
            keeps: seed.is_multiple_of(2),
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            hungry: 0,
            hungry_max: 0,
            done: 0,
        })
        .collect();
    let mut expected: u32 = work.iter().sum();
    let mut recalls = 0;
    let mut in_flight = Vec::new();
    for step in 0..100_000 {
        for _ in 0..shards.len() {
            let index = random.usize(0..shards.len());
            if let Some(message) = shards[index].outbox.pop_front() {
                let mut actions = Vec::new();
                match message {
                    ToMain::Want => permits.handle_want(index, &mut actions),
                    ToMain::Return(n) => permits.handle_return(index, n, &mut actions),
                    ToMain::Working(working) => {
                        permits.handle_working(index, working, &mut actions);
                    }
                }
                for action in actions {
                    let recall = matches!(action, Action::Recall { .. });
                    recalls += u32::from(recall && (500..2000).contains(&step));
                    deliver(action, &mut shards);
                }
            }
        }
        if let Some(&(_, cap)) = caps.iter().find(|(at, _)| *at == step) {
            (total, resized_at) = (cap, step);
            let mut actions = Vec::new();
            permits.resize(cap, &mut actions);
            for action in actions {
                deliver(action, &mut shards);
            }
        }
        for (shard, more) in arrivals(step, &mut random) {
            shards[shard % work.len()].work += more;
            expected += more;
        }
        for shard in &mut shards {
            shard.step(&mut random);
        }
        let in_use: u32 = shards.iter().map(|shard| shard.lease.in_use()).sum();
        let holds = caps.is_empty() || step > resized_at + STEPS_TO_TAKE_HOLD;
        assert!(
            in_use <= total || !holds,
            "{in_use} of {total} in use at step {step}, seed {seed}"
        );
        if step == 2000 {
            in_flight = shards.iter().map(|shard| shard.in_flight.len()).collect();
        }
        if step > 5000 && shards.iter().map(|shard| shard.done).sum::<u32>() == expected {
            return Outcome {
                shards,
                recalls,
                in_flight,
            };
        }
    }
    panic!("seed {seed}, total {total}: some requests were never served");
}

fn deliver(action: Action, shards: &mut [Shard]) {
    let (Action::Grant { shard, .. } | Action::Recall { shard } | Action::Withdraw { shard, .. }) =
        action;
    shards[shard].inbox.push_back(action);
}

#[test]
fn a_cap_that_moves_takes_hold_and_loses_no_permit() {
    for seed in 0..10 {
        let caps = [
            (100, 3),
            (300, 40),
            (310, 39),
            (320, 12),
            (330, 200),
            (500, 1),
            (800, 9),
        ];
        for total in [1, 8, 50] {
            simulate_resized(total, &caps, &[400; 8], NO_ARRIVALS, seed);
            simulate_resized(total, &caps, &[0, 0, 900, 0], NO_ARRIVALS, seed);
        }
        let grown = [(1000, 4), (1500, 64)];
        let outcome = simulate_resized(64, &grown, &[9000; 4], NO_ARRIVALS, seed);
        assert_eq!(outcome.in_flight.iter().sum::<usize>(), 64, "at step 2000");
    }
}

#[test]
fn a_lower_cap_is_called_in_from_all_who_hold_it() {
    let check = |held: &[u32], free: u32, cap: u32, expect: &[(usize, u32)]| {
        let total = held.iter().sum::<u32>() + free;
        let mut permits = Permits::new(total, held.len(), 0);
        permits.free = free;
        for (holder, &held) in permits.shards.iter_mut().zip(held) {
            holder.held = held;
        }
        let mut actions = Vec::new();
        permits.resize(cap, &mut actions);
        let expect: Vec<Action> = expect
            .iter()
            .map(|&(shard, n)| Action::Withdraw { shard, n })
            .collect();
        assert_eq!(actions, expect, "held {held:?}, {free} free, cap {cap}");
    };
    check(&[10, 10], 0, 10, &[(0, 5), (1, 5)]);
    check(&[10, 10], 4, 20, &[]);
    check(&[10, 10], 4, 19, &[(0, 1)]);
    check(&[30, 0, 10], 0, 1, &[(0, 30), (2, 9)]);
    check(&[1, 1, 1], 0, 1, &[(0, 1), (1, 1)]);
    check(&[1, 1], 0, 9, &[]);
}

#[test]
fn every_request_is_served_and_the_cap_is_never_exceeded() {
    let arrivals: Arrivals = |step, random| match random.u32(0..10) {
        0 if step < 5000 => vec![(random.usize(0..8), random.u32(1..10))],
        _ => vec![],
    };
    for seed in 0..10 {
        for total in [1, 2, 3, 7, 8, 9, 50] {
            simulate(total, &[40; 8], arrivals, seed);
            simulate(total, &[0, 0, 100, 0], arrivals, seed);
            simulate(total, &[100], arrivals, seed);
        }
    }
}

#[test]
fn a_single_permit_goes_round() {
    for seed in 0..10 {
        for shard in simulate(1, &[100; 8], NO_ARRIVALS, seed).shards {
            // 8 shards, requests of up to 20 steps, and a few steps for messages each.
            assert!(
                shard.hungry_max < 8 * 60,
                "hungry for {} steps",
                shard.hungry_max
            );
        }
    }
}

#[test]
fn saturated_shards_do_not_pass_permits_around() {
    for total in [8, 11, 50] {
        // So much work that nobody goes idle before step 2000.
        let outcome = simulate(total, &[2000; 8], NO_ARRIVALS, u64::from(total));
        assert_eq!(outcome.recalls, 0, "total {total}");
    }
}

#[test]
fn permits_spread_evenly_after_one_shard_had_them_all() {
    let at_step_500 = |step, _: &mut fastrand::Rng| {
        if step == 500 {
            vec![(1, 2000), (2, 2000), (3, 2000)]
        } else {
            vec![]
        }
    };
    let outcome = simulate(16, &[5000, 0, 0, 0], at_step_500, 5);
    assert_eq!(outcome.in_flight, [4, 4, 4, 4], "at step 2000");
}

#[test]
fn all_permits_go_where_the_work_is() {
    // The others keep a permit for a retry each with an even seed, and none with an odd one.
    for seed in [1, 2] {
        let outcome = simulate(16, &[0, 5000, 0, 0], NO_ARRIVALS, seed);
        assert_eq!(
            outcome.in_flight,
            [0, 16, 0, 0],
            "at step 2000, seed {seed}"
        );
    }
    let mut permits = Permits::new(16, 2, 0);
    let mut actions = Vec::new();
    permits.handle_return(1, 8, &mut actions);
    permits.handle_working(1, false, &mut actions);
    permits.handle_want(0, &mut actions);
    assert_eq!(actions, [Action::Grant { shard: 0, n: 8 }]);
}

#[test]
fn odd_permits_start_at_the_offset() {
    let check = |total, shards, offset, expect: &[u32]| {
        let permits = Permits::new(total, shards, offset);
        let initial: Vec<u32> = (0..shards).map(|shard| permits.initial(shard)).collect();
        assert_eq!(initial, expect);
    };
    check(8, 4, 0, &[2, 2, 2, 2]);
    check(6, 4, 0, &[2, 2, 1, 1]);
    check(6, 4, 3, &[2, 1, 1, 2]);
    check(1, 4, 6, &[0, 0, 1, 0]);
}

#[test]
fn who_is_asked_to_hand_over() {
    let check = |held: &[u32], asker: usize, expect: &[usize]| {
        let mut permits = Permits::new(held.iter().sum(), held.len(), 0);
        for (holder, &held) in permits.shards.iter_mut().zip(held) {
            holder.held = held;
        }
        let mut actions = Vec::new();
        permits.handle_want(asker, &mut actions);
        permits.handle_want(asker, &mut actions);
        let expect: Vec<Action> = expect
            .iter()
            .map(|&shard| Action::Recall { shard })
            .collect();
        assert_eq!(actions, expect, "held {held:?}, asker {asker}");
    };
    check(&[0, 1, 3], 0, &[1, 2]);
    check(&[1, 2, 2], 0, &[]);
    check(&[1, 2, 3], 0, &[2]);
    check(&[4, 4], 1, &[]);
}

#[test]
fn a_shard_without_permits_is_served_before_one_with_some() {
    let mut permits = Permits::new(3, 3, 0);
    let mut actions = Vec::new();
    permits.handle_return(2, 1, &mut actions);
    permits.handle_want(0, &mut actions);
    assert_eq!(actions, [Action::Grant { shard: 0, n: 1 }]);
    actions.clear();
    permits.handle_want(0, &mut actions);
    permits.handle_want(2, &mut actions);
    assert_eq!(
        actions,
        [Action::Recall { shard: 0 }, Action::Recall { shard: 1 }]
    );
    actions.clear();
    permits.handle_return(1, 1, &mut actions);
    assert_eq!(actions, [Action::Grant { shard: 2, n: 1 }]);
}

#[test]
fn a_lease_pays_what_it_owes() {
    let mut lease = Lease::new(4);
    assert!(lease.try_acquire());
    assert_eq!(
        (lease.available(), lease.recall()),
        (3, 2),
        "half of the spare ones, rounded up"
    );
    assert_eq!(lease.recall(), 1);
    assert_eq!((lease.available(), lease.try_acquire()), (0, false));
    assert_eq!(lease.recall(), 0, "owed instead");
    assert_eq!(lease.recall(), 0, "one request cannot owe two permits");
    assert_eq!((lease.release(), lease.available()), (1, 0));
    assert_eq!(lease.recall(), 0);
    lease.grant(2);
    assert!(lease.try_acquire());
    assert_eq!(
        (lease.release(), lease.surrender(1), lease.surrender(0)),
        (0, 1, 1)
    );
}
