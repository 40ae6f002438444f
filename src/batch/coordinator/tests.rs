use crossbeam_channel::unbounded;

use super::*;
use crate::batch::message::Schedule;
use crate::config::{Config, EndpointConfig};
use crate::policy::health::{EndpointView, Failures};
use crate::policy::load::{Cause, Pushback};
use crate::provider::Endpoint;
use crate::runtime::mailbox;

const SHARDS: usize = 2;

struct Nobody;

impl Observer for Nobody {
    fn tick(&mut self, _: &Snapshot) {}
}

/// Lets a coordinator of two shards and the endpoints `a` and `b`, one quota group, handle these
/// reports, all of which wait already when it looks; returns what shard 1 was told, in order.
fn told(reports: Vec<(usize, Report)>) -> Vec<Order> {
    told_of(Config::default(), reports)
}

/// The same with the other settings of `config`.
fn told_of(config: Config, reports: Vec<(usize, Report)>) -> Vec<Order> {
    let endpoint = |name: &str| EndpointConfig {
        name: Some(name.to_owned()),
        url: "http://127.0.0.1:9/v1".to_owned(),
        quota_group: Some("org".to_owned()),
        ..EndpointConfig::default()
    };
    let config = Config {
        endpoints: vec![endpoint("a"), endpoint("b")],
        ..config
    };
    let endpoints = Endpoint::resolve_all(&config.endpoints).expect("good endpoints");
    let plan = Arc::new(Plan::new(config, endpoints, Vec::new(), None));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let input = Arc::new(Input::open(file.path()).expect("an empty input"));
    let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| mailbox::channel()).unzip();
    let (sender, events) = unbounded();
    let ended = (0..SHARDS).map(|shard| (shard, Report::Ended(Ok(()))));
    for (shard, report) in reports.into_iter().chain(ended) {
        sender.send(Event { shard, report }).expect("it is there");
    }
    let slices = Slices::new(Vec::new(), SHARDS);
    let gauges = Gauges::default();
    let now = runtime::now();
    let coordinator = Coordinator::new(plan, input, slices, senders, events, gauges, now);
    coordinator.run(&mut Nobody, &crossbeam_channel::never());
    std::iter::from_fn(|| mailboxes[1].try_recv()).collect()
}

/// The first orders to shard 1 are about both endpoints, then come the answers to what it asked for
/// after the report of shard 0, however much that is.
fn check(cause: Vec<Report>, expect: impl Fn(&EndpointView) -> bool, endpoints: usize) {
    const ASKED: usize = 500;
    let mut reports: Vec<(usize, Report)> = cause.into_iter().map(|report| (0, report)).collect();
    reports.extend((0..ASKED).map(|_| (1, Report::WantRange)));
    let orders = told(reports);
    let (first, rest) = orders.split_at(endpoints);
    for order in first {
        assert!(
            matches!(order, Order::Endpoint(_, view) if expect(view)),
            "{order:?}"
        );
    }
    // A group that waits comes back with fewer in flight.
    let fewer = usize::from(matches!(rest.first(), Some(Order::Withdraw(..))));
    let rest = &rest[fewer..];
    assert_eq!(rest.len(), ASKED, "{:?}", rest.first());
    assert!(rest.iter().all(|order| matches!(order, Order::NoMoreInput)));
}

#[test]
fn a_wait_that_one_shard_was_told_reaches_the_others_before_anything_else() {
    let hint = Report::Hint {
        endpoint: 0,
        wait: Duration::from_secs(30),
    };
    check(vec![hint], |view| view.usable_from.is_some(), 2);
}

#[test]
fn a_cooling_reaches_the_others_before_anything_else() {
    let failed = |together| Report::Transient {
        endpoint: 0,
        failures: Failures {
            together,
            follows: false,
        },
        message: "refused".to_owned(),
        may_be_the_line: false,
        refused: false,
    };
    check(vec![failed(5)], |view| view.needs_probe, 1);
}

/// Shard 1 is told either way: it sends nothing there until it is.
#[test]
fn a_wrong_scheme_disables_an_endpoint_unless_it_has_answered_another_shard_well() {
    for is_well in [false, true] {
        let wrong = Report::WrongScheme {
            endpoint: 0,
            reason: "write https://".to_owned(),
        };
        let well = is_well.then_some((0, Report::Success(0)));
        let orders = told(well.into_iter().chain([(1, wrong)]).collect());
        let view = orders.iter().rev().find_map(|order| match order {
            Order::Endpoint(0, view) => Some(view),
            _ => None,
        });
        let view = view.expect("shard 1 is told");
        assert_eq!((view.is_well, view.disabled), (is_well, !is_well));
    }
}

#[test]
fn a_quota_that_runs_low_paces_every_shard() {
    let quota = crate::policy::wait_hint::Quota {
        limit: Some(100),
        remaining: Some(9),
        reset: Some(Duration::from_secs(60)),
    };
    let said = crate::policy::slowdown::Remainders {
        requests: quota,
        ..Default::default()
    };
    let low = Report::Remaining {
        endpoint: 0,
        said: Box::new(said),
        used: 0,
    };
    let want = Report::WantSlots(Schedule::Group(0), 10);
    let orders = told(vec![(0, low), (1, want)]);
    let slots = orders.iter().find_map(|order| match order {
        Order::Slots(Schedule::Group(0), slots) => Some(slots.spacing_ns),
        _ => None,
    });
    assert!(
        slots.is_some_and(|ns| (ns - 60e9 / 9.0).abs() < 1e3),
        "{orders:?}"
    );
    let paced = |order: &Order| {
        matches!(
            order,
            Order::Pace {
                group: 0,
                slots: true
            }
        )
    };
    assert!(orders.iter().any(paced), "{orders:?}");
}

#[test]
fn a_pushback_of_what_was_sent_once_a_smaller_window_was_kept_to_shrinks_it_again() {
    let config = Config::default();
    let pushback = |sent| Report::Pushback {
        endpoint: 0,
        pushback: Pushback {
            sent,
            cause: Cause::Timeout,
            is_last_place: true,
            sends: 0,
            refusals: 0,
        },
    };
    let returned = |shard, count| (shard, Report::ReturnPermits(Pool::Group(0), count));
    let now = runtime::now();
    // Later than all that these runs do.
    let later = now + Duration::from_secs(3600);
    let too_many = || (0, pushback(now));
    let again = || (0, pushback(later));
    // The search starts with 50, of which each shard holds 25, and goes on with 35.
    let cases = [
        // Requests were in flight, and their permits came back as they ended.
        (
            vec![too_many(), returned(0, 25), again(), returned(1, 25)],
            34,
        ),
        // One had not come back: what was sent may have been one too many for that.
        (
            vec![
                too_many(),
                returned(0, 10),
                again(),
                returned(0, 15),
                returned(1, 25),
            ],
            35,
        ),
        // All permits were to spare: the smaller window was kept to at once.
        (
            vec![returned(0, 25), returned(1, 25), too_many(), again()],
            34,
        ),
    ];
    for (mut reports, left) in cases {
        let what = format!("{reports:?}");
        reports.push((1, Report::WantPermit(Pool::Group(0))));
        let orders = told_of(config.clone(), reports);
        let granted: Vec<u32> = (orders.iter())
            .filter_map(|order| match order {
                Order::Grant(Pool::Group(0), count) => Some(*count),
                _ => None,
            })
            .collect();
        assert_eq!(granted, [left], "after {what}");
    }
}
