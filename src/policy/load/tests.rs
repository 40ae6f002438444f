use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::*;
use crate::policy::pacer::{AGAIN, GAP};
use crate::policy::refusals::{self, History, LineRefusals, Spread};
use crate::policy::virtual_time::{ms, start};

/// How a server counts.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// So many a second, and so many more at once; with `queues` those wait.
    Rate {
        per_second: f64,
        burst: f64,
        queues: bool,
    },
    /// The same without any burst, by a clock that knows whole milliseconds.
    Evenly(f64),
    /// So many in each second of a clock.
    Fixed(u32),
    /// So many at once.
    Places(usize),
    /// Refuses every so manieth at random.
    Random(f64),
}

/// A server; refusals come back at once, answers after `latency`, which varies or does not.
#[derive(Clone, Copy, Debug)]
struct Server {
    manner: Manner,
    latency: f64,
    varies: bool,
    /// Seconds that a refusal asks to wait; 0: it does not say.
    hint: f64,
    /// Seconds that our timers are late, on average.
    late: f64,
}

enum Event {
    Done {
        line: usize,
        sent: Instant,
        ok: bool,
    },
    Report,
    Wake,
}

/// Both halves of a run with every default against one server, on one shard, in virtual time.
struct Simulation {
    seed: u64,
    begin: Instant,
    now: Instant,
    server: Server,
    excess: f64,
    taken_at: Option<Instant>,
    serving: usize,
    events: BTreeMap<(Instant, u64), (Event, bool)>,
    number: u64,
    load: Load,
    in_flight: u32,
    group_slot: Instant,
    run_slot: Instant,
    again_at: Option<Instant>,
    is_spent_twice: bool,
    rests_until: Instant,
    in_a_row: u32,
    history: History,
    parked: BinaryHeap<Reverse<(Instant, usize)>>,
    lines: Vec<LineRefusals>,
    answers: u64,
    served: Vec<Duration>,
    refused: u64,
    lost: usize,
    unreported: (u32, Duration),
    /// When the timer is meant to fire, and when it does.
    armed: Option<(Instant, Instant)>,
}

/// `--rate` by default.
const RUN_RATE: f64 = 1000.0;
/// A slot may be used so late.
const CATCH_UP: Duration = ms(10);

impl Simulation {
    fn new(server: Server) -> Self {
        let now = start();
        let mut simulation = Self {
            seed: 88_172_645_463_325_252,
            begin: now,
            now,
            server,
            excess: 0.0,
            taken_at: None,
            serving: 0,
            events: BTreeMap::new(),
            number: 0,
            load: Load::new(4096, false, 1, now),
            in_flight: 0,
            group_slot: now,
            run_slot: now,
            again_at: None,
            is_spent_twice: false,
            rests_until: now,
            in_a_row: 0,
            history: History::new(),
            parked: BinaryHeap::new(),
            lines: Vec::new(),
            answers: 0,
            served: Vec::new(),
            refused: 0,
            lost: 0,
            unreported: (0, Duration::ZERO),
            armed: None,
        };
        simulation.at(now + ms(100), Event::Report, false);
        simulation
    }

    fn random(&mut self) -> f64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn at(&mut self, at: Instant, event: Event, is_last_place: bool) {
        self.number += 1;
        self.events
            .insert((at, self.number), (event, is_last_place));
    }

    fn arm(&mut self, at: Instant) {
        if self.armed.is_none_or(|(meant, _)| meant > at) {
            let late = -(1.0 - self.random()).ln() * self.server.late;
            let fires = at + Duration::from_secs_f64(late);
            self.armed = Some((at, fires));
            self.at(fires, Event::Wake, false);
        }
    }

    fn run(&mut self, lasts: Duration) {
        let end = self.begin + lasts;
        self.send();
        while let Some(first) = self.events.first_entry() {
            if first.key().0 > end {
                break;
            }
            let ((at, _), (event, is_last_place)) = first.remove_entry();
            self.now = at;
            match event {
                Event::Done { line, sent, ok } => self.ended(line, sent, ok, is_last_place),
                Event::Report => {
                    let (count, latency) = std::mem::take(&mut self.unreported);
                    self.load.handle_answers(count, latency, at);
                    self.at(at + ms(100), Event::Report, false);
                }
                Event::Wake => self.armed = self.armed.filter(|(_, fires)| *fires > at),
            }
            self.send();
        }
    }

    /// Whether the server takes a request now, and how long it lets it wait first.
    fn takes(&mut self) -> Option<f64> {
        match self.server.manner {
            Manner::Rate {
                per_second,
                burst,
                queues,
            } => {
                let since = self
                    .taken_at
                    .map_or(1e9, |at| (self.now - at).as_secs_f64());
                let excess = (self.excess - per_second * since + 1.0).max(0.0);
                if excess > burst + 1e-9 {
                    return None;
                }
                (self.excess, self.taken_at) = (excess, Some(self.now));
                Some(if queues { excess / per_second } else { 0.0 })
            }
            Manner::Evenly(per_second) => {
                let ms = |at: Instant| (at - self.begin).as_millis() as f64;
                let is_taken =
                    (self.taken_at).is_none_or(|at| (ms(self.now) - ms(at)) * per_second >= 1000.0);
                is_taken.then(|| {
                    self.taken_at = Some(self.now);
                    0.0
                })
            }
            Manner::Fixed(most) => {
                let second = self.begin + Duration::from_secs((self.now - self.begin).as_secs());
                if self.taken_at != Some(second) {
                    (self.taken_at, self.excess) = (Some(second), 0.0);
                }
                self.excess += 1.0;
                (self.excess <= f64::from(most)).then_some(0.0)
            }
            Manner::Places(places) => (self.serving < places).then_some(0.0),
            Manner::Random(part) => (self.random() >= part).then_some(0.0),
        }
    }

    fn send(&mut self) {
        let now = self.now;
        loop {
            if self.in_flight >= self.load.window() {
                return;
            }
            if now < self.rests_until {
                return self.arm(self.rests_until);
            }
            self.run_slot = self.run_slot.max(now - CATCH_UP);
            if self.run_slot > now {
                return self.arm(self.run_slot);
            }
            if let Some(rate) = self.load.rate() {
                let spacing = Duration::from_secs_f64(1.0 / rate);
                self.group_slot = self.group_slot.max(now - CATCH_UP.max(spacing / 2));
                let again_at = self.again_at.filter(|at| *at < self.group_slot);
                let slot = again_at.unwrap_or(self.group_slot);
                if slot > now {
                    return self.arm(slot);
                }
                self.again_at = None;
                if again_at.is_none() {
                    self.group_slot += spacing;
                    self.is_spent_twice = false;
                }
                if self.load.is_paced_evenly() {
                    self.group_slot = self.group_slot.max(now + spacing.mul_f64(GAP));
                }
            }
            self.run_slot += Duration::from_secs_f64(1.0 / RUN_RATE);
            let line = match self.parked.peek() {
                Some(Reverse((due, _))) if *due <= now => {
                    let Reverse((_, line)) = self.parked.pop().expect("it was there");
                    line
                }
                _ => {
                    self.lines.push(LineRefusals::default());
                    self.lines.len() - 1
                }
            };
            self.in_flight += 1;
            let is_last_place = self.in_flight >= self.load.window();
            let (ok, takes) = match self.takes() {
                Some(wait) => {
                    self.serving += 1;
                    let varied = match self.server.varies {
                        true => 0.4 - 0.6 * (1.0 - self.random()).ln(),
                        false => 1.0,
                    };
                    (true, wait + self.server.latency * varied)
                }
                None => (false, 0.0003),
            };
            let back = now + Duration::from_secs_f64(takes);
            let sent = now;
            self.at(back, Event::Done { line, sent, ok }, is_last_place);
        }
    }

    fn ended(&mut self, line: usize, sent: Instant, ok: bool, is_last_place: bool) {
        let now = self.now;
        self.in_flight -= 1;
        if ok {
            self.serving -= 1;
            self.answers += 1;
            self.in_a_row = 0;
            self.history.note_answer();
            self.served.push(now - self.begin);
            self.unreported.0 += 1;
            self.unreported.1 += now - sent;
        } else {
            self.refused += 1;
            self.history.note_refusal();
            if self.load.is_paced_evenly() && !self.is_spent_twice {
                self.is_spent_twice = true;
                self.again_at = Some(now + AGAIN);
            }
            if self.in_flight == 0 {
                self.in_a_row += 1;
                let spread = match self.load.rate() {
                    None => Spread::Unpaced,
                    Some(_) if self.load.is_paced_evenly() => Spread::Evenly,
                    Some(_) => Spread::Paced,
                };
                let rest = refusals::rest(self.in_a_row, spread);
                self.rests_until = self.rests_until.max(now + rest);
            }
            let (is_lone, waits_alone) = (self.history.is_lone(), self.history.waits_alone());
            let wait = Duration::from_secs_f64(self.server.hint);
            if !wait.is_zero() && !waits_alone {
                self.rests_until = self.rests_until.max(now + wait);
                self.history.note_wait();
                self.load.handle_wait(self.rests_until, now);
            }
            let pushback = Pushback {
                sent,
                cause: match is_lone {
                    true => Cause::RefusedAlone,
                    false => Cause::Refused,
                },
                is_last_place,
                sends: self.refused + self.answers + u64::from(self.in_flight),
                refusals: self.refused,
            };
            self.load.handle_pushback(0, &pushback, now);
            let refusals = self.lines[line].again(self.answers);
            self.lines[line] = refusals;
            if refusals.are_too_many() {
                self.lost += 1;
            } else {
                let bound = 0.1 * 2_f64.powi(refusals.seen() as i32 - 1);
                let jitter = Duration::from_secs_f64(bound.min(10.0) * self.random());
                self.parked.push(Reverse((now + wait + jitter, line)));
            }
        }
        if self.in_flight <= self.load.window() {
            self.load.handle_kept(now);
        }
    }
}

/// From the third second to the thirtieth at least `least` of what the server could have served is, and no
/// line is lost.
fn check(server: Server, capacity: f64, least: f64) {
    let lasts = Duration::from_secs(30);
    let mut simulation = Simulation::new(server);
    simulation.run(lasts);
    let begun = Duration::from_secs(2);
    let served = simulation.served.iter().filter(|at| **at >= begun).count();
    let part = served as f64 / (capacity * (lasts - begun).as_secs_f64());
    assert!(part >= least, "{server:?}: {part:.3} of {capacity}/s");
    assert_eq!(simulation.lost, 0, "{server:?}");
}

#[test]
fn a_server_that_counts_by_the_second_is_used() {
    for per_second in [20.0, 200.0, 900.0] {
        for (burst, queues) in [(5.0, false), (20.0, false), (200.0, false), (20.0, true)] {
            // A burst of ten seconds' worth hides the limit for as long.
            if burst > per_second * 5.0 {
                continue;
            }
            for latency in [0.001, 0.02] {
                let server = Server {
                    manner: Manner::Rate {
                        per_second,
                        burst,
                        queues,
                    },
                    latency,
                    varies: false,
                    hint: 0.0,
                    late: 0.0,
                };
                check(server, per_second, 0.9);
            }
        }
    }
}

/// Where nothing is taken in advance, every request that comes a moment early is refused, and timers are late.
#[test]
fn a_server_that_takes_no_burst_is_used() {
    for per_second in [50.0, 200.0] {
        for latency in [0.005, 0.02, 0.1] {
            for (varies, late) in [(false, 0.0001), (true, 0.0001), (true, 0.0005)] {
                let server = Server {
                    manner: Manner::Evenly(per_second),
                    latency,
                    varies,
                    hint: 0.0,
                    late,
                };
                check(server, per_second, 0.88);
            }
        }
    }
}

#[test]
fn a_server_that_counts_by_the_seconds_of_a_clock_is_used() {
    for latency in [0.02, 0.2] {
        for varies in [false, true] {
            let server = Server {
                manner: Manner::Fixed(200),
                latency,
                varies,
                hint: 0.0,
                late: 0.0005,
            };
            check(server, 200.0, 0.88);
        }
    }
}

#[test]
fn a_server_that_counts_places_is_used() {
    for places in [1, 3, 8, 40] {
        for latency in [0.02, 0.15] {
            for varies in [false, true] {
                let server = Server {
                    manner: Manner::Places(places),
                    latency,
                    varies,
                    hint: 0.0,
                    late: 0.0,
                };
                check(server, (places as f64 / latency).min(RUN_RATE), 0.85);
            }
        }
    }
}

#[test]
fn random_refusals_hold_nobody_up() {
    for latency in [0.01, 0.05] {
        for hint in [0.0, 1.0] {
            let server = Server {
                manner: Manner::Random(0.03),
                latency,
                varies: true,
                hint,
                late: 0.0,
            };
            check(server, RUN_RATE * 0.97, 0.9);
        }
    }
}

/// A machine that answers so many a second however many are asked for: it never refuses, and what it does in
/// its own order needs no pace.
#[test]
fn a_server_that_only_queues_is_not_paced() {
    const PER_SECOND: f64 = 20_000.0;
    let begin = start();
    let mut load = Load::new(4096, false, 1, begin);
    let mut met = false;
    for tick in 1..=6000 {
        let now = begin + ms(tick);
        // By Little's law.
        let latency = Duration::from_secs_f64(f64::from(load.window()) / PER_SECOND);
        let count = (PER_SECOND / 1000.0) as u32;
        load.handle_answers(count, count * latency, now);
        met |= load.window_found().is_some();
        assert_eq!(load.rate(), None, "after {tick} ms");
        assert!(!load.is_paced_evenly(), "after {tick} ms");
    }
    assert!(met, "it has noticed that twice as many bring no more");
}
