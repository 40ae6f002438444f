//! Defects of ours: whatever panics, permits and lines are settled exactly once, and nobody waits for
//! ever.

use crossbeam_channel::{Receiver, unbounded};

use super::*;
use crate::batch::folder::fixture::{Place, log};
use crate::batch::message::Pool as Permit;
use crate::config::{Config, EndpointConfig};
use crate::journal::Outcome;
use crate::policy::load::Pushback;
use crate::runtime::mailbox;
use crate::runtime::tokio::Tokio;

/// Requests that the shard may have in flight.
const WORKERS: u32 = 2;

/// A shard with three lines to send, and what it reports.
struct Bench {
    shard: Rc<Shard<Tokio>>,
    events: Receiver<Event>,
    place: Place,
}

impl Bench {
    /// To be called within the runtime.
    fn new(attempts_max: u32) -> Self {
        Self::of_lines(attempts_max, 1)
    }

    /// The same, of lines with so many bytes of input.
    fn of_lines(attempts_max: u32, bytes: usize) -> Self {
        let place = Place::new();
        let path = place.at("in.jsonl");
        let lines: String = (1..=3)
            .map(|id| format!("{{\"input\": \"{}{id}\"}}\n", "0".repeat(bytes - 1)))
            .collect();
        std::fs::write(&path, lines).expect("an input");
        let input = Input::open(&path).expect("an input");
        let ranges = input.scan(1, 1 << 20).ranges;
        let mut config = Config {
            endpoints: vec![EndpointConfig {
                url: "http://127.0.0.1:9/v1/chat/completions".to_owned(),
                ..EndpointConfig::default()
            }],
            ..Config::default()
        };
        config.retry.max_attempts = attempts_max;
        config.request.rate_limit = crate::config::Rate::Unlimited;
        let endpoints = crate::provider::Endpoint::resolve_all(&config.endpoints);
        let plan = Plan::prepare(config, endpoints.expect("an endpoint")).expect("a plan");
        let (events, received) = unbounded();
        let (_, mailbox) = mailbox::channel();
        let (shard, _) = Shard::new(ShardStart {
            id: 0,
            plan: Arc::new(plan),
            input: Arc::new(input),
            done: None,
            has_succeeded: false,
            permits: FirstPermits {
                workers: WORKERS,
                groups: vec![WORKERS],
                endpoints: vec![WORKERS],
            },
            log: log(&place.open().folder, 0),
            events,
            mailbox,
            resolver: Resolver::start().expect("a thread"),
            tokens: None,
        });
        for range in ranges {
            shard.handle(Order::Range(range));
        }
        shard.handle(Order::NoMoreInput);
        Self {
            shard,
            events: received,
            place,
        }
    }

    fn next(&self) -> Ticket {
        self.shard.next().expect("a line may be sent").0
    }

    fn fail(&self, ticket: &Ticket) {
        let failure = crate::client::Failure::Protocol("cut".to_owned());
        let now = runtime::now();
        self.shard
            .settle(ticket, None, now, Err(failure), &[], None);
    }

    fn in_flight(&self) -> usize {
        self.shard.admission.borrow().in_flight()
    }

    fn records(&self) -> u64 {
        self.shard.log.borrow().committed()
    }

    /// Permits of `--workers` that were given back to the coordinator.
    fn returned(&self) -> u32 {
        let returned = |event: Event| match event.report {
            Report::ReturnPermits(Permit::Workers, count) => count,
            _ => 0,
        };
        self.events.try_iter().map(returned).sum()
    }
}

#[test]
fn records_are_written_before_they_take_much_memory() {
    run(async || {
        let bench = Bench::of_lines(1, FLUSH_BYTES / 2);
        let tickets = [bench.next(), bench.next()];
        let buffered = tickets.map(|ticket| {
            bench.fail(&ticket);
            bench.shard.schedule_flush();
            bench.shard.log.borrow().buffered_bytes()
        });
        assert_eq!(bench.records(), 2);
        let [one, both] = buffered;
        assert!(
            one > FLUSH_BYTES / 2,
            "the end of the turn writes it: {one}"
        );
        assert_eq!(both, 0, "the two are too much for that");
    });
}

fn run(test: impl AsyncFnOnce()) {
    Tokio::run(test()).expect("a runtime");
}

/// Its place must not be used again before the coordinator has made up its mind.
#[test]
fn a_pushback_takes_its_place_in_flight_back_to_the_coordinator() {
    run(async || {
        let bench = Bench::new(3);
        let (refused, _other) = (bench.next(), bench.next());
        bench.events.try_iter().for_each(drop);
        let peer = "server".to_owned();
        let (phase, after) = (crate::client::Phase::Waiting, Duration::ZERO);
        let failure = crate::client::Failure::Timeout { phase, peer, after };
        let sent = runtime::now();
        bench
            .shard
            .settle(&refused, None, sent, Err(failure), &[], None);
        assert!(bench.shard.next().is_none(), "the place is used again");
        let told: Vec<Report> = (bench.events.try_iter())
            .map(|event| event.report)
            .filter(|report| !matches!(report, Report::Transient { .. }))
            .collect();
        let [
            Report::Pushback {
                endpoint: 0,
                pushback: Pushback { sent: at, .. },
            },
            Report::ReturnPermits(Permit::Group(0), 1),
            Report::WantPermit(Permit::Group(0)),
        ] = told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!(at, sent);
        bench.shard.handle(Order::Grant(Permit::Group(0), 1));
        bench.next();
    });
}

#[test]
fn a_wrong_scheme_is_one_requests_failure_where_a_line_was_answered_well() {
    for is_well in [false, true] {
        run(async || {
            let bench = Bench::new(3);
            let (first, second) = (bench.next(), bench.next());
            if is_well {
                bench.shard.admission.borrow_mut().note_succeeded(&first);
            }
            let failure = crate::client::Failure::WrongScheme("write https://".to_owned());
            let now = runtime::now();
            let settle = |failure| {
                bench
                    .shard
                    .settle(&second, None, now, Err(failure), &[], None);
            };
            settle(failure);
            let (mut transient, mut wrong) = (0, 0);
            for event in bench.events.try_iter() {
                transient += usize::from(matches!(event.report, Report::Transient { .. }));
                wrong += usize::from(matches!(event.report, Report::WrongScheme { .. }));
            }
            let (of_the_request, of_the_endpoint) = (usize::from(is_well), usize::from(!is_well));
            assert_eq!((transient, wrong), (of_the_request, of_the_endpoint));
            // Neither way it has its record: it is sent again.
            assert_eq!(bench.records(), 0);
            let mut admission = bench.shard.admission.borrow_mut();
            assert_eq!(admission.health().is_disabled(0), !is_well);
        });
    }
}

#[test]
fn a_panic_before_anything_is_settled_makes_one_record() {
    run(async || {
        let bench = Bench::new(3);
        let (ticket, other) = (bench.next(), bench.next());
        bench.shard.settle_panic(&ticket, "a test");
        assert_eq!((bench.in_flight(), bench.records()), (1, 1));
        bench.fail(&other);
        assert_eq!((bench.in_flight(), bench.records()), (0, 1), "parked");
    });
}

#[test]
fn a_panic_after_the_permits_went_back_does_not_give_them_back_again() {
    run(async || {
        let bench = Bench::new(3);
        let (ticket, _other) = (bench.next(), bench.next());
        bench.shard.admission.borrow_mut().release(&ticket);
        bench.shard.settle_panic(&ticket, "a test");
        assert_eq!((bench.in_flight(), bench.records()), (1, 1));
        // One of two permits is free: a third line may go, and no fourth.
        let _third = bench.next();
        assert_eq!(bench.in_flight(), WORKERS as usize);
        assert_eq!(bench.returned(), 0, "no more than there are");
    });
}

#[test]
fn a_panic_after_the_line_was_settled_settles_it_no_second_time() {
    run(async || {
        // The record is made: its only attempt failed.
        let bench = Bench::new(1);
        let (ticket, _other) = (bench.next(), bench.next());
        bench.fail(&ticket);
        bench.shard.settle_panic(&ticket, "a test");
        assert_eq!((bench.in_flight(), bench.records()), (1, 1), "one record");
        // The line waits for its next attempt.
        let bench = Bench::new(3);
        let (ticket, _other) = (bench.next(), bench.next());
        bench.fail(&ticket);
        bench.shard.settle_panic(&ticket, "a test");
        assert_eq!((bench.in_flight(), bench.records()), (1, 0), "parked once");
    });
}

#[test]
fn half_a_record_of_a_panic_gets_into_no_other() {
    run(async || {
        let bench = Bench::new(1);
        let (ticket, other) = (bench.next(), bench.next());
        let half = |outcome| {
            let mut log = bench.shard.log.borrow_mut();
            log.record_buffer(outcome).extend_from_slice(b"{\"half");
        };
        half(Outcome::Success);
        half(Outcome::Failure);
        bench.shard.settle_panic(&ticket, "a test");
        bench.fail(&other);
        bench.shard.leave();
        let opened = bench.place.open();
        let resume = opened.resume.expect("a run");
        assert_eq!(
            (resume.succeeded, resume.failed),
            (0, 2),
            "both can be read"
        );
    });
}

#[test]
fn a_panic_outside_any_request_is_told() {
    run(async || {
        let bench = Bench::new(1);
        bench.shard.clone().spawn(async { panic!("by a test") });
        Tokio::yield_now().await;
        let told = bench
            .events
            .try_iter()
            .find_map(|event| match event.report {
                Report::Broken(message) => Some(message),
                _ => None,
            });
        let told = told.expect("a report");
        assert!(
            told.contains("by a test") && told.contains("shard 0"),
            "{told}"
        );
    });
}
