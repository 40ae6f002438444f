//! Who is let in and when: keys, failures on order, limits, latency, counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blaze_uring::mock::{
    FailAttempts, FailFirst, Latency, MockOptions, PathStats, RateChange, WaitHint,
};

use super::client::{CHAT, Client, HELLO, await_stats, ms, once, start};

#[test]
fn keys_are_checked_wherever_they_come() {
    let mock = start(MockOptions {
        auth: Some("sk-1".to_owned()),
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer sk-2\r\n", 401),
        ("authorization: sk-1\r\n", 401),
        ("authorization: Bearer sk-1\r\n", 200),
        ("api-key: sk-1\r\n", 200),
        ("X-Api-Key: sk-1\r\n", 200),
    ] {
        client.send("POST", CHAT, header, HELLO);
        assert_eq!(client.receive().unwrap().status, status, "{header}");
    }
    assert_eq!(mock.stats().faults["unauthorized"], 3);
}

#[test]
fn failures_come_first_when_told() {
    let options = MockOptions {
        fail_first: Some(FailFirst {
            count: 2,
            statuses: vec![503, 429],
        }),
        retry_after: Some(ms(1500)),
        ..MockOptions::default()
    };
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    let answers = [1, 2, 3].map(|_| client.post(CHAT, HELLO));
    assert_eq!(
        answers.each_ref().map(|answer| answer.status),
        [503, 429, 200]
    );
    assert_eq!(
        answers
            .each_ref()
            .map(|answer| answer.header("retry-after")),
        ["1.5", "1.5", ""]
    );
    assert_eq!(answers[1].json()["error"]["code"], "rate_limit_exceeded");

    let first_attempts = Some(FailAttempts {
        attempts: 1,
        status: 502,
    });
    let mock = start(MockOptions {
        fail_first_attempts: first_attempts,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let other = HELLO.replace("hello", "other");
    let statuses = [HELLO, &other, HELLO, &other, HELLO].map(|body| client.post(CHAT, body).status);
    assert_eq!(statuses, [502, 502, 200, 200, 200]);
    assert_eq!(mock.stats().statuses, BTreeMap::from([(200, 3), (502, 2)]));
}

#[test]
fn error_rates_are_met_and_replay() {
    let run = || {
        let options = MockOptions {
            error_rate: vec!["500=0.3".parse().unwrap()],
            ..MockOptions::default()
        };
        let mock = start(options);
        let mut client = Client::connect(mock.address());
        (0..400)
            .map(|line| {
                client
                    .post(
                        CHAT,
                        &HELLO.replace("hello", &format!("line {}", line % 200)),
                    )
                    .status
            })
            .collect::<Vec<_>>()
    };
    let statuses = run();
    assert_eq!(statuses, run());
    let failed = statuses.iter().filter(|&&status| status == 500).count();
    assert!((80..160).contains(&failed), "{failed}");
    // A second attempt is thrown anew.
    assert_ne!(statuses[..200], statuses[200..]);
}

#[test]
fn beyond_the_rate_limit_is_429_with_the_wait() {
    for (wait_hint, header) in [
        (WaitHint::Seconds, Some(("retry-after", 1..=1))),
        (WaitHint::Milliseconds, Some(("retry-after-ms", 1..=500))),
        (WaitHint::None, None),
    ] {
        let mock = start(MockOptions {
            rate_limit: Some(2.0),
            wait_hint,
            ..MockOptions::default()
        });
        let mut client = Client::connect(mock.address());
        let answers = [1, 2, 3].map(|_| client.post(CHAT, HELLO));
        assert_eq!(
            answers.each_ref().map(|answer| answer.status),
            [200, 200, 429]
        );
        for (answer, remaining) in answers.iter().zip(["1", "0", "0"]) {
            assert_eq!(answer.header("x-ratelimit-limit-requests"), "2");
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), remaining);
            assert!(answer.header("x-ratelimit-reset-requests").ends_with('s'));
        }
        let refused = &answers[2];
        let message = refused.json()["error"]["message"].to_string();
        assert_eq!(
            message.contains("try again in"),
            header.is_some(),
            "{message}"
        );
        if let Some((name, range)) = header {
            assert!(
                range.contains(&refused.header(name).parse::<u64>().unwrap()),
                "{refused:?}"
            );
        } else {
            assert!(
                !refused
                    .headers
                    .keys()
                    .any(|name| name.starts_with("retry-after"))
            );
        }
    }
    let mock = start(MockOptions {
        rate_limit: Some(2.0),
        ..MockOptions::default()
    });
    let answer = once(&mock, "/v1/messages", r#"{"messages":[1],"max_tokens":5}"#);
    assert_eq!(answer.header("anthropic-ratelimit-requests-remaining"), "1");
    let reset = answer.header("anthropic-ratelimit-requests-reset");
    assert!(reset.parse::<jiff::Timestamp>().is_ok(), "{reset}");
}

#[test]
fn the_rate_limit_follows_its_schedule() {
    let rate_limit_at = vec![RateChange {
        at: ms(200),
        limit: 0.0,
    }];
    let mock = start(MockOptions {
        rate_limit: Some(1.0),
        rate_limit_at,
        ..MockOptions::default()
    });
    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    assert_eq!(client.post(CHAT, HELLO).status, 200);
    while client.post(CHAT, HELLO).status == 429 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the limit never went"
        );
    }
    assert!(mock.stats().faults["rate_limit"] >= 1);
}

#[test]
fn concurrency_is_capped_and_counted_by_path() {
    let latency = Latency::Constant(ms(300));
    let mock = start(MockOptions {
        max_concurrent: Some(2),
        latency,
        ..MockOptions::default()
    });
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(mock.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send("POST", &format!("/p{}{CHAT}", number % 2), "", HELLO);
        if number < 2 {
            await_stats(&mock, "the request", |stats| {
                stats.in_flight == number as u64 + 1
            });
        }
    }
    assert_eq!(clients[2].receive().unwrap().status, 429);
    assert_eq!(clients[0].receive().unwrap().status, 200);
    assert_eq!(clients[1].receive().unwrap().status, 200);
    let stats = await_stats(&mock, "the end", |stats| stats.in_flight == 0);
    assert_eq!((stats.in_flight_max, stats.requests), (3, 3));
    assert_eq!(
        stats.paths[&format!("/p0{CHAT}")],
        PathStats {
            requests: 2,
            in_flight: 0,
            in_flight_max: 2
        }
    );
    assert_eq!(
        stats.paths[&format!("/p1{CHAT}")],
        PathStats {
            requests: 1,
            in_flight: 0,
            in_flight_max: 1
        }
    );
}

#[test]
fn latency_and_pace_take_their_time() {
    let options = MockOptions {
        latency: Latency::Constant(ms(50)),
        ttft: Latency::Constant(ms(100)),
        tokens_per_second: Some(100.0),
        ..MockOptions::default()
    };
    let mock = start(options);
    let body = |stream| format!(r#"{{"messages":[1],"max_tokens":11,"stream":{stream}}}"#);
    // 50 ms, 100 ms to the first token, and ten more tokens of 10 ms.
    let expect = ms(250)..ms(250) + Duration::from_secs(2);
    let started = Instant::now();
    let plain = once(&mock, CHAT, &body(false));
    let took = started.elapsed();
    assert!(expect.contains(&took), "{took:?}");
    assert_eq!(plain.json()["usage"]["completion_tokens"], 11);

    let mut client = Client::connect(mock.address());
    let started = Instant::now();
    client.send("POST", CHAT, "", &body(true));
    client.read_more().unwrap();
    let first_bytes = started.elapsed();
    assert_eq!(client.receive().unwrap().broken, None);
    let took = started.elapsed();
    assert!(expect.contains(&took), "{took:?}");
    // The head comes after the latency, and 200 ms before the end.
    assert!(
        first_bytes >= ms(50) && took - first_bytes >= ms(100),
        "{first_bytes:?} of {took:?}"
    );
}

#[test]
fn lines_and_arrivals_are_counted() {
    let options = MockOptions {
        count_by: Some("/messages/0/content".to_owned()),
        record_arrivals: true,
        ..MockOptions::default()
    };
    let mock = start(options);
    let mut client = Client::connect(mock.address());
    for text in ["a", "b", "a"] {
        client.post(CHAT, &HELLO.replace("hello", text));
    }
    let stats = mock.stats();
    assert_eq!(
        stats.seen,
        BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
    );
    assert_eq!(stats.arrivals_us.len(), 3);
    assert!(stats.arrivals_us.is_sorted());
    assert_eq!(stats.arrivals_per_second.iter().sum::<u64>(), 3);
}
