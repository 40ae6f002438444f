//! What the traffic policy costs a request: everything between two requests of a shard but the
//! exchange itself and the record. `cargo bench --bench policy`

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use blaze_uring::batch::admission::{Admission, Admitted, FirstPermits, Opening};
use blaze_uring::batch::input::{Input, LineRange};
use blaze_uring::batch::message::{Order, Report, Schedule};
use blaze_uring::batch::quotas::GroupLimits;
use blaze_uring::policy::pacer::Pacer;
use divan::Bencher;

const ENDPOINTS: usize = 16;

/// Lines of the input, which is read over and over.
const LINES: usize = 10_000;

/// Between two requests, in virtual time.
const STEP: Duration = Duration::from_micros(1);

fn main() {
    divan::main();
}

/// A shard's half of the policy, and of the coordinator what answers it.
struct Shard {
    admission: Admission,
    input: Input,
    range: LineRange,
    now: Instant,
    run: Pacer,
    groups: Vec<Pacer>,
}

impl Shard {
    /// All endpoints with their own quota group and, if `limited`, with every limit there is.
    #[expect(
        clippy::disallowed_methods,
        reason = "the start of virtual time, and a file"
    )]
    fn new(limited: bool) -> Self {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        for _ in 0..LINES {
            file.write_all(b"{\"input\":\"x\"}\n").expect("written");
        }
        let input = Input::open(file.path()).expect("an input");
        let range = input.scan(1, usize::MAX).ranges[0];
        let limits = GroupLimits {
            requests_per_minute: limited.then_some(u64::MAX),
            tokens_per_minute: limited.then_some(u64::MAX),
            search_rate: false,
            in_flight_max: 1000,
        };
        let now = Instant::now();
        let mut admission = Admission::new(Opening {
            shard: 0,
            started: now,
            weights: (1..=ENDPOINTS as u32).collect(),
            groups: (0..ENDPOINTS).collect(),
            limits: vec![limits; ENDPOINTS],
            permits: FirstPermits {
                workers: 1000,
                groups: vec![1000; ENDPOINTS],
                endpoints: vec![100; ENDPOINTS],
            },
            paced: limited,
            done: None,
            max_line_bytes: 1 << 20,
            max_outage: Duration::from_secs(60),
            has_succeeded: true,
        });
        for group in 0..ENDPOINTS {
            let amount = 1 << 62;
            admission.handle(Order::Tokens { group, amount }, now);
        }
        let second = 1e9 / STEP.as_nanos() as f64;
        Self {
            admission,
            input,
            range,
            now,
            run: Pacer::new(second, now),
            groups: vec![(); ENDPOINTS]
                .into_iter()
                .map(|()| Pacer::new(second / 2.0, now))
                .collect(),
        }
    }

    /// Takes a request, and its answer.
    fn request(&mut self) {
        loop {
            self.now += STEP;
            let admitted = self.admission.admit(&self.input, self.now);
            if let Admitted::Go(ticket) = black_box(admitted) {
                self.admission.release(&ticket);
                self.admission.note_succeeded(&ticket);
                self.admission.settle_tokens(&ticket, ticket.tokens);
                return;
            }
            // At the beginning nothing is leased yet.
            self.answer();
        }
    }

    /// What the coordinator says to the reports so far.
    fn answer(&mut self) {
        for report in std::mem::take(&mut self.admission.reports) {
            let order = match report {
                Report::WantRange => Order::Range(self.range),
                Report::WantSlots(schedule, want) => {
                    let pacer = match schedule {
                        Schedule::Run => &mut self.run,
                        Schedule::Group(group) => &mut self.groups[group],
                    };
                    Order::Slots(schedule, pacer.lease(want, self.now))
                }
                _ => continue,
            };
            self.admission.handle(order, self.now);
        }
    }
}

/// Line, permits, health and weights over 16 endpoints; release and report. In rounds, as a shard meets
/// requests: one by one, each would be measured with cold caches.
#[divan::bench(sample_size = 1000)]
fn request_unlimited(bencher: Bencher<'_, '_>) {
    let mut shard = Shard::new(false);
    bencher.bench_local(|| {
        shard.request();
        shard.answer();
    });
}

/// Besides: a slot of `--rate`, a slot and tokens of the quota group, and their leases.
#[divan::bench(sample_size = 1000)]
fn request_with_every_limit(bencher: Bencher<'_, '_>) {
    let mut shard = Shard::new(true);
    bencher.bench_local(|| {
        shard.request();
        shard.answer();
    });
}
