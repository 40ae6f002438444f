use super::*;
use crate::config::{Config, EndpointConfig, MAX_OUTAGE_NEVER, RequestConfig};
use crate::provider::Endpoint;

fn traffic(rate_limit: Rate, endpoints: Vec<EndpointConfig>, now: Instant) -> Traffic {
    let config = Config {
        request: RequestConfig {
            rate_limit,
            ..RequestConfig::default()
        },
        endpoints,
        ..Config::default()
    };
    let endpoints = Endpoint::resolve_all(&config.endpoints).expect("good endpoints");
    let plan = Plan::new(config, endpoints, Vec::new(), None);
    let mut traffic = Traffic::new(&plan, now);
    traffic.set_working(true, now);
    traffic
}

fn endpoint(name: &str) -> EndpointConfig {
    EndpointConfig {
        name: Some(name.to_owned()),
        url: "http://127.0.0.1:9/v1".to_owned(),
        ..EndpointConfig::default()
    }
}

/// The endpoint a request may go to, and its place there.
#[track_caller]
fn gone(admitted: Admitted) -> (usize, Sending) {
    match admitted {
        Admitted::Go { endpoint, sending } => (endpoint, sending),
        other => panic!("it may not go: {other:?}"),
    }
}

fn unreachable_error(traffic: &mut Traffic, endpoint: usize, sending: Sending, now: Instant) {
    let resolved = Endpoint::resolve(&self::endpoint("x")).expect("a good endpoint");
    let failure = crate::client::Failure::Connect("refused".to_owned());
    let failed = Failed::without_answer(&resolved, &failure, None);
    traffic.release(endpoint, sending, now);
    traffic.handle_failure(endpoint, sending, 0, &failed, now, now);
}

/// Lets `count` requests fail at `now`.
fn fail(traffic: &mut Traffic, count: u32, now: Instant) {
    for _ in 0..count {
        let (endpoint, sending) = gone(traffic.admit(Rather::default(), 1, 1, now));
        unreachable_error(traffic, endpoint, sending, now);
    }
}

#[test]
fn a_streak_cools_and_one_probe_decides() {
    let now = crate::runtime::now();
    let mut traffic = traffic(Rate::Unlimited, vec![endpoint("a")], now);
    fail(&mut traffic, 5, now);
    let second = now + Duration::from_secs(1);
    assert_eq!(
        traffic.admit(Rather::default(), 1, 1, now),
        Admitted::Wait(Some(second))
    );
    let (_, sending) = gone(traffic.admit(Rather::default(), 1, 1, second));
    assert!(sending.probe);
    let Admitted::Wait(Some(_)) = traffic.admit(Rather::default(), 1, 1, second) else {
        panic!("there is one probe, and patience with it has an end");
    };
    traffic.release(0, sending, second);
    traffic.handle_success(0, sending, 1, Some(1), Duration::ZERO, second);
    assert!(!gone(traffic.admit(Rather::default(), 1, 1, second)).1.probe);
}

#[test]
fn a_probe_that_nobody_sends_is_given_again() {
    let now = crate::runtime::now();
    let mut traffic = traffic(Rate::Unlimited, vec![endpoint("a")], now);
    fail(&mut traffic, 5, now);
    let later = now + Duration::from_secs(2);
    traffic.poll(later);
    traffic.set_working(false, later);
    traffic.set_working(true, later);
    assert!(gone(traffic.admit(Rather::default(), 1, 1, later)).1.probe);
}

#[test]
fn an_outage_is_told_when_it_has_lasted() {
    let now = crate::runtime::now();
    let mut traffic = traffic(Rate::Unlimited, vec![endpoint("a")], now);
    fail(&mut traffic, 5, now);
    assert_eq!(traffic.outage(now), None);
    let (kind, message) = traffic
        .outage(now + MAX_OUTAGE_NEVER)
        .expect("nothing ever succeeded");
    assert_eq!(kind, ErrorKind::Connect);
    assert_eq!(message, "no endpoint has been usable for 5 s (a: refused)");
}

#[test]
fn places_in_flight_follow_their_search() {
    let now = crate::runtime::now();
    let mut config = Config {
        endpoints: vec![endpoint("a")],
        ..Config::default()
    };
    config.request.rate_limit = Rate::Unlimited;
    let endpoints = Endpoint::resolve_all(&config.endpoints).expect("good endpoints");
    let plan = Plan::new(config, endpoints, Vec::new(), None);
    let mut traffic = Traffic::new(&plan, now);
    traffic.set_working(true, now);
    let fill = |traffic: &mut Traffic, now| {
        let sent = std::iter::from_fn(|| match traffic.admit(Rather::default(), 1, 99, now) {
            Admitted::Go { sending, .. } => Some(sending),
            Admitted::Wait(_) | Admitted::NotYet => None,
        });
        sent.collect::<Vec<Sending>>()
    };
    let first = fill(&mut traffic, now);
    assert_eq!(first.len(), 50);
    // A whole round of answers: twice as many may go.
    let later = now + Duration::from_secs(1);
    for sending in first {
        traffic.release(0, sending, later);
        traffic.handle_success(0, sending, 1, None, Duration::from_secs(1), later);
    }
    let mut second = fill(&mut traffic, later).into_iter();
    assert_eq!(second.len(), 100);
    // One answer too late: back to fifty, so as many must come back before another goes.
    let resolved = Endpoint::resolve(&endpoint("x")).expect("a good endpoint");
    let timeout = crate::client::Failure::Timeout {
        phase: crate::client::Phase::Waiting,
        peer: "127.0.0.1:9".to_owned(),
        after: Duration::from_secs(1),
    };
    let failed = Failed::without_answer(&resolved, &timeout, None);
    let sending = second.next().expect("a hundred");
    traffic.release(0, sending, later);
    traffic.handle_failure(0, sending, 0, &failed, later, later);
    for sending in second.by_ref().take(49) {
        traffic.release(0, sending, later);
        assert_eq!(fill(&mut traffic, later), []);
    }
    traffic.release(0, second.next().expect("a hundred"), later);
    let third = fill(&mut traffic, later);
    assert_eq!(third.len(), 1);
    assert_eq!(plan.found(traffic.quotas())[0].workers, Some(50));
    // The fifty are kept to by now: one that is sent from here on says that they are too many.
    let after = later + Duration::from_millis(1);
    traffic.release(0, third[0], after);
    traffic.handle_failure(0, third[0], 0, &failed, after, after);
    assert_eq!(plan.found(traffic.quotas())[0].workers, Some(49));
    assert_eq!(fill(&mut traffic, after), []);
}

#[test]
fn slots_tokens_and_caps_hold_calls_back() {
    let now = crate::runtime::now();
    let mut paced = traffic(Rate::PerSecond(10.0), vec![endpoint("a")], now);
    gone(paced.admit(Rather::default(), 1, 9, now));
    let next = now + Duration::from_millis(100);
    assert_eq!(
        paced.admit(Rather::default(), 1, 9, now),
        Admitted::Wait(Some(next))
    );
    gone(paced.admit(Rather::default(), 1, 9, next));

    let limited = EndpointConfig {
        tpm_limit: Some(60_000),
        max_concurrent: 2,
        ..endpoint("a")
    };
    let mut limited = traffic(Rate::Unlimited, vec![limited], now);
    let (_, first) = gone(limited.admit(Rather::default(), 900, 1, now));
    let Admitted::Wait(Some(at)) = limited.admit(Rather::default(), 900, 1, now) else {
        panic!("a second's worth is 1000 tokens");
    };
    assert!(at > now);
    // The first one used hardly any: the second may go at once.
    limited.handle_success(0, first, 900, Some(1), Duration::ZERO, now);
    let (_, second) = gone(limited.admit(Rather::default(), 900, 1, now));
    assert_eq!(
        limited.admit(Rather::default(), 1, 1, now),
        Admitted::Wait(None)
    );
    limited.release(0, second, now);
    assert_ne!(
        limited.admit(Rather::default(), 1, 1, now),
        Admitted::Wait(None)
    );
}
