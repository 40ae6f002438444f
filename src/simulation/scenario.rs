//! What a seed stands for: an input, endpoints, settings and the faults that are met.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::lines::{Fate, Line, Shape};
use crate::config::{
    Config, Durability, EndpointConfig, MAX_OUTAGE_NEVER, Order, Rate, RequestConfig, RetryConfig,
};
use crate::runtime::simulated::disk::DiskTrouble;
use crate::runtime::simulated::world::Manners;

/// Processes after which nothing goes wrong any more, so that every run ends.
pub const TROUBLED_PROCESSES_MAX: usize = 8;

/// Lines of a run that fail whatever endpoint they go to, after all their attempts: also more of them
/// than can be in flight, which pass for an outage.
const DOOMED_MAX: usize = 30;

/// What stays the same over all processes of a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub lines: Vec<Line>,
    pub endpoints: usize,
    pub has_output: bool,
    pub order: Order,
    pub durability: Durability,
    /// The highest number of attempts that any process may make.
    pub attempts_max: u32,
    /// Faults stay below what makes a line fail that should not.
    pub decided: bool,
    pub trouble: Trouble,
    /// Once it has finished, the failures are sent again.
    pub retries_errors: bool,
    /// There is an output already, which is replaced when the new one is complete.
    pub overwrites: bool,
}

/// How often things go wrong.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// Chance of each answer to be a fault.
    pub answers: f64,
    /// Chance of each attempt to connect to fail.
    pub connects: f64,
    /// Chance that an idle connection is closed by its server.
    pub stale: f64,
    /// Faults of either kind per process that one line may meet, if the run is decided.
    pub per_line: u32,
    /// Chance of each process to be killed.
    pub kills: f64,
    /// Chance of each process to meet a disk that fails.
    pub disks: f64,
    /// Chance of each kill to be a loss of power.
    pub power: f64,
    /// Chance of each process to see the wall clock jump.
    pub clocks: f64,
    /// Chance of each process to meet an endpoint that refuses its key.
    pub dead: f64,
    /// Chance of each process to meet an endpoint that is out for a while.
    pub outages: f64,
}

/// How one process of the run is started, and what it meets.
#[derive(Clone, Debug)]
pub struct Process {
    pub config: Config,
    pub manners: Manners,
    pub trouble: Trouble,
    pub latency_max: Duration,
    pub piece_max: usize,
    /// Interrupt it after this.
    pub interrupt_after: Option<Duration>,
    /// Kill it after this.
    pub kill_after: Option<Duration>,
    /// Killed, or at its end if it ends the run, power is lost.
    pub loses_power: bool,
    /// The wall clock jumps by so many microseconds, after so long.
    pub clock_jumps: Option<(Duration, i64)>,
    /// This endpoint refuses the key.
    pub dead: Option<usize>,
    /// This endpoint is out, from when on and for how long.
    pub outage: Option<(usize, Duration, Duration)>,
    /// What its disk is like.
    pub disk: DiskTrouble,
}

/// One of them, each as likely.
fn one_of<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(0..choices.len())]
}

fn chance(random: &mut fastrand::Rng, probability: f64) -> bool {
    random.f64() < probability
}

impl Scenario {
    pub fn new(random: &mut fastrand::Rng) -> Self {
        let is_calm = chance(random, 0.1);
        let decided = chance(random, 0.7);
        let (lines, doomed) = lines(random);
        // A process that nobody has answered yet stops after some seven failures (`--max-outage`), and
        // the next one counts on.
        let attempts_max = match decided {
            true if doomed == 0 => 8,
            true => 3,
            false => random.u32(1..4),
        };
        let trouble = match is_calm {
            true => Trouble::default(),
            false => Trouble {
                answers: one_of(random, &[0.0, 0.02, 0.1, 0.4]),
                connects: one_of(random, &[0.0, 0.0, 0.05, 0.3]),
                stale: one_of(random, &[0.0, 0.05, 0.3]),
                per_line: (attempts_max - 1) / 2,
                kills: one_of(random, &[0.0, 0.5, 0.9]),
                disks: one_of(random, &[0.0, 0.3, 0.7]),
                power: one_of(random, &[0.0, 0.5, 1.0]),
                clocks: one_of(random, &[0.0, 0.5]),
                dead: one_of(random, &[0.0, 0.1]),
                // Who is out takes attempts from whichever lines it likes.
                outages: if decided {
                    0.0
                } else {
                    one_of(random, &[0.0, 0.5])
                },
            },
        };
        let has_output = chance(random, 0.9);
        let retries_errors = has_output && chance(random, 0.25);
        Self {
            lines,
            overwrites: has_output && !retries_errors && chance(random, 0.15),
            retries_errors,
            endpoints: one_of(random, &[1, 1, 2, 3]),
            has_output,
            order: one_of(random, &[Order::Input, Order::Input, Order::Completion]),
            durability: one_of(random, &[Durability::Process, Durability::Power]),
            attempts_max,
            decided,
            trouble,
        }
    }

    /// The process that comes next; the run's `number`th, from 0.
    pub fn process(&self, number: usize, random: &mut fastrand::Rng) -> Process {
        let troubled = number < TROUBLED_PROCESSES_MAX;
        let trouble = match troubled {
            true => self.trouble.clone(),
            false => Trouble::default(),
        };
        // Endpoints that share a quota share its limits.
        let rpm_limit = chance(random, 0.1).then(|| random.u64(600..6_000));
        let tpm_limit = chance(random, 0.1).then(|| random.u64(600_000..6_000_000));
        // Chance of its own, so that a seed without HTTP/2 stays the history that it was.
        let mut others = fastrand::Rng::with_seed(random.get_seed() ^ 2);
        let mut endpoint = |index: usize, random: &mut fastrand::Rng| EndpointConfig {
            http2: chance(&mut others, 0.25).then_some(true),
            name: Some(format!("e{index}")),
            url: format!("http://{}/v1/chat/completions", address(index)),
            weight: random.u32(1..4),
            max_concurrent: random.usize(1..9),
            quota_group: chance(random, 0.3).then(|| "shared".to_owned()),
            rpm_limit,
            tpm_limit,
            ..EndpointConfig::default()
        };
        let config = Config {
            endpoints: (0..self.endpoints)
                .map(|index| endpoint(index, random))
                .collect(),
            request: RequestConfig {
                timeout: Duration::from_millis(random.u64(1_500..5_000)),
                connect_timeout: Duration::from_millis(random.u64(500..1_500)),
                rate_limit: one_of(
                    random,
                    &[
                        Rate::Unlimited,
                        Rate::PerSecond(20.0),
                        Rate::PerSecond(100.0),
                        Rate::PerSecond(1000.0),
                        Rate::Auto,
                    ],
                ),
                workers: random.usize(1..13),
            },
            retry: RetryConfig {
                max_attempts: self.attempts_max,
                initial_backoff: Duration::from_millis(random.u64(1..200)),
                max_backoff: Duration::from_secs(1),
                multiplier: 2.0,
            },
            cores: Some(4),
            order: self.order,
            max_outage: Duration::from_secs(random.u64(20..60)),
            max_outage_at_first: Some(MAX_OUTAGE_NEVER),
            grace: Duration::from_millis(one_of(random, &[0, 500, 3_000])),
            durability: self.durability,
            ..Config::default()
        };
        let manners = Manners {
            shuffles: one_of(random, &[0.0, 0.1, 1.0]),
            main_eager: one_of(random, &[1.0, 0.5, 0.05]),
            stalls: one_of(random, &[0.0, 0.0, 0.001]),
            stall_max: Duration::from_millis(50),
            cores: random.usize(1..5),
        };
        let is_killed = chance(random, trouble.kills);
        let by_time = is_killed && chance(random, 0.2);
        let disk_fails = chance(random, trouble.disks);
        let far = one_of(random, &[10, 40, 150, 600]);
        let operation = |random: &mut fastrand::Rng| random.u64(0..far);
        let disk = DiskTrouble {
            kill_at: (is_killed && !by_time).then(|| operation(random)),
            full: (disk_fails && chance(random, 0.6)).then(|| {
                let lasts = one_of(random, &[1, 10, u64::MAX]);
                (operation(random), lasts)
            }),
            fails_at: (disk_fails && chance(random, 0.6)).then(|| operation(random)),
            cannot_reserve: troubled && chance(random, 0.2),
            short_writes: one_of(random, &[0.0, 0.0, 0.2]),
            // Under the other durability what was synced is relied on before the end, too.
            loses: match self.durability {
                Durability::Process if disk_fails => one_of(random, &[0.0, 0.001, 0.1]),
                _ => 0.0,
            },
        };
        Process {
            config,
            manners,
            disk,
            kill_after: by_time.then(|| Duration::from_millis(random.u64(0..3_000))),
            loses_power: chance(random, trouble.power),
            dead: chance(random, trouble.dead).then(|| random.usize(0..self.endpoints)),
            outage: chance(random, trouble.outages).then(|| {
                let from = Duration::from_millis(random.u64(0..1_000));
                let lasts = Duration::from_millis(one_of(random, &[200, 2_000, 20_000]));
                (random.usize(0..self.endpoints), from, lasts)
            }),
            clock_jumps: chance(random, trouble.clocks).then(|| {
                let hour_us = 3_600_000_000;
                let after = Duration::from_millis(random.u64(0..2_000));
                (after, random.i64(-30 * hour_us..30 * hour_us))
            }),
            trouble,
            latency_max: Duration::from_micros(one_of(random, &[100, 5_000, 100_000])),
            piece_max: one_of(random, &[3, 100, 4_000, 100_000]),
            interrupt_after: (troubled && chance(random, 0.2))
                .then(|| Duration::from_millis(random.u64(0..3_000))),
        }
    }
}

/// Where an endpoint listens.
pub fn address(endpoint: usize) -> SocketAddr {
    let host = Ipv4Addr::new(10, 0, 0, endpoint as u8 + 1);
    SocketAddr::new(host.into(), 80)
}

/// Lines, and how many of them fail only after all their attempts.
fn lines(random: &mut fastrand::Rng) -> (Vec<Line>, usize) {
    let count = one_of(random, &[1, 5, 20, 40, 80]);
    let count = random.usize(count / 2..count + 1);
    // Ranges of input are at least 64 KiB: only larger inputs keep several shards busy.
    let padding_max = one_of(random, &[0, 300, 8_000]);
    let answer_padding_max = one_of(random, &[0, 200, 5_000]);
    let oddity = one_of(random, &[0.0, 0.1, 0.3]);
    let doomed_from = match chance(random, 0.1) {
        // None behind it is answered.
        true => random.usize(0..count + 1),
        false => usize::MAX,
    };
    let (mut number, mut doomed) = (0, 0);
    let lines = (0..count)
        .map(|id| {
            // Blank lines count, and have no record.
            number += 1 + u64::from(chance(random, 0.05));
            Line {
                id,
                number,
                shape: one_of(
                    random,
                    &[Shape::Input, Shape::Body, Shape::Batch, Shape::Bare],
                ),
                fate: match chance(random, oddity) {
                    _ if id >= doomed_from => one_of(random, &[Fate::Fails, Fate::NotJson]),
                    true => one_of(
                        random,
                        &[Fate::Refused, Fate::Fails, Fate::NotJson, Fate::Invalid],
                    ),
                    false => Fate::Answered,
                },
                streams: chance(random, 0.2),
                padding: random.usize(0..padding_max + 1),
                answer_padding: random.usize(0..answer_padding_max + 1),
            }
        })
        .map(|line| {
            let fails = matches!(line.fate, Fate::Fails | Fate::NotJson);
            doomed += usize::from(fails);
            Line {
                streams: line.streams && line.shape != Shape::Input,
                fate: match fails && doomed > DOOMED_MAX {
                    true => Fate::Refused,
                    false => line.fate,
                },
                ..line
            }
        })
        .collect();
    (lines, doomed.min(DOOMED_MAX))
}

/// The input file.
pub fn input(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut number = 1;
    for line in lines {
        while number < line.number {
            text.push_str(" \n");
            number += 1;
        }
        text.push_str(&line.text());
        text.push('\n');
        number += 1;
    }
    text
}
