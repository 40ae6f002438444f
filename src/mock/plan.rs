//! What becomes of a request: served, refused or disturbed. Pure: the same circumstances give the same plan.

use std::time::Duration;

use super::limit::Quota;
use super::options::{MockOptions, WaitHint};
use super::random::Dice;

/// Separates the throws of a plan from those of the answer's text.
const PLAN_SALT: u64 = 0x706c_616e;

/// What a plan depends on besides the options.
#[derive(Clone, Debug)]
pub(super) struct Circumstances {
    /// Since the start.
    pub now: Duration,
    /// Requests to APIs before this one.
    pub ordinal: u64,
    /// What the request is, seed included.
    pub identity: u64,
    /// How often it came before.
    pub attempt: u32,
    /// Requests being served besides this one.
    pub in_service: usize,
    /// What the rate limit said.
    pub quota: Option<Quota>,
    /// Whether it carried the key.
    pub authorized: bool,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plan {
    /// Answer the request, perhaps with a fault.
    Serve {
        latency: Duration,
        time_to_first_token: Duration,
        fault: Option<Fault>,
    },
    /// Answer an error at once.
    Refuse(Refusal),
    /// Reset the connection at once: an outage.
    Reset,
}

/// An error answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Refusal {
    pub status: u16,
    /// Name in the statistics.
    pub cause: &'static str,
    /// The wait to tell.
    pub wait: Option<Duration>,
}

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ResetBeforeHead,
    ResetInBody,
    Truncate,
    Close,
    Garbage,
    Slow,
    Hang,
}

impl Fault {
    /// Name in the statistics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ResetBeforeHead => "reset_before_head",
            Self::ResetInBody => "reset_in_body",
            Self::Truncate => "truncate",
            Self::Close => "close",
            Self::Garbage => "garbage",
            Self::Slow => "slow",
            Self::Hang => "hang",
        }
    }
}

/// What holds even where nothing is served: outages and the key.
pub(super) fn barrier(options: &MockOptions, now: Duration, authorized: bool) -> Option<Plan> {
    if let Some(outage) = options.outage.iter().find(|outage| outage.covers(now)) {
        let refusal = Refusal {
            status: 503,
            cause: "outage",
            wait: None,
        };
        return Some(if outage.refuse {
            Plan::Reset
        } else {
            Plan::Refuse(refusal)
        });
    }
    (!authorized).then_some(Plan::Refuse(Refusal {
        status: 401,
        cause: "unauthorized",
        wait: None,
    }))
}

/// Decides about a request to an API. Limits come before faults, so that a fault rate is a share
/// of the requests that were let in.
pub(super) fn decide(options: &MockOptions, circumstances: &Circumstances) -> Plan {
    let Circumstances {
        now,
        ordinal,
        identity,
        attempt,
        in_service,
        quota,
        authorized,
    } = *circumstances;
    if let Some(plan) = barrier(options, now, authorized) {
        return plan;
    }
    if let Some(wait) = quota.and_then(|quota| quota.wait) {
        // Told in seconds it is told in whole ones, as servers do; never 0, which would invite a storm.
        let wait = match options.wait_hint {
            WaitHint::Seconds => Duration::from_secs(wait.as_secs_f64().ceil() as u64),
            WaitHint::Milliseconds | WaitHint::None => wait,
        };
        return Plan::Refuse(Refusal {
            status: 429,
            cause: "rate_limit",
            wait: Some(wait),
        });
    }
    if options
        .max_concurrent
        .is_some_and(|limit| in_service >= limit)
    {
        return Plan::Refuse(Refusal {
            status: 429,
            cause: "max_concurrent",
            wait: options.retry_after,
        });
    }
    let injected = |status, cause| {
        let wait = options.retry_after.filter(|_| matches!(status, 429 | 503));
        Plan::Refuse(Refusal {
            status,
            cause,
            wait,
        })
    };
    if let Some(status) = options
        .fail_first
        .as_ref()
        .and_then(|first| first.status(ordinal))
    {
        return injected(status, "fail_first");
    }
    if let Some(first) = options
        .fail_first_attempts
        .filter(|first| attempt < first.attempts)
    {
        return injected(first.status, "fail_first_attempts");
    }

    let mut dice = Dice::new(identity, PLAN_SALT ^ (u64::from(attempt) << 32));
    let mut throw = dice.unit();
    for rate in &options.error_rate {
        throw -= rate.probability.get();
        if throw < 0.0 {
            return injected(rate.status, "error_rate");
        }
    }
    let reset = options.reset_rate.get() / 2.0;
    let faults = [
        (reset, Fault::ResetBeforeHead),
        (reset, Fault::ResetInBody),
        (options.truncate_rate.get(), Fault::Truncate),
        (options.close_rate.get(), Fault::Close),
        (options.garbage_rate.get(), Fault::Garbage),
        (options.slow_rate.get(), Fault::Slow),
        (options.hang_rate.get(), Fault::Hang),
    ];
    let fault = faults.into_iter().find(|&(rate, _)| {
        throw -= rate;
        throw < 0.0
    });
    Plan::Serve {
        latency: options.latency.sample(&mut dice),
        time_to_first_token: options.ttft.sample(&mut dice),
        fault: fault.map(|(_, fault)| fault),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::options::{FailAttempts, FailFirst, Latency, Outage, Probability};
    use super::*;

    fn circumstances() -> Circumstances {
        Circumstances {
            now: Duration::ZERO,
            ordinal: 0,
            identity: 1,
            attempt: 0,
            in_service: 0,
            quota: None,
            authorized: true,
        }
    }

    fn refusal(plan: Plan) -> (u16, &'static str, Option<Duration>) {
        match plan {
            Plan::Refuse(Refusal {
                status,
                cause,
                wait,
            }) => (status, cause, wait),
            other => panic!("{other:?} is not a refusal"),
        }
    }

    #[test]
    fn the_default_serves_everything_at_once() {
        let served = Plan::Serve {
            latency: Duration::ZERO,
            time_to_first_token: Duration::ZERO,
            fault: None,
        };
        for identity in 0..100 {
            assert_eq!(
                decide(
                    &MockOptions::default(),
                    &Circumstances {
                        identity,
                        ..circumstances()
                    }
                ),
                served
            );
        }
    }

    #[test]
    fn causes_in_their_order() {
        let second = Duration::from_secs(1);
        let quota = Quota {
            limit: 1.0,
            remaining: 0,
            reset: second,
            wait: Some(second / 3),
        };
        let mut options = MockOptions {
            outage: vec![Outage {
                from: second,
                to: 2 * second,
                refuse: false,
            }],
            max_concurrent: Some(3),
            fail_first: Some(FailFirst {
                count: 2,
                statuses: vec![429],
            }),
            fail_first_attempts: Some(FailAttempts {
                attempts: 1,
                status: 502,
            }),
            retry_after: Some(5 * second),
            ..MockOptions::default()
        };
        let check = |options: &MockOptions, circumstances, expect| {
            assert_eq!(refusal(decide(options, &circumstances)), expect);
        };
        let all = Circumstances {
            now: second,
            quota: Some(quota),
            in_service: 3,
            authorized: false,
            ..circumstances()
        };
        check(&options, all.clone(), (503, "outage", None));
        let all = Circumstances {
            now: 2 * second,
            ..all
        };
        check(&options, all.clone(), (401, "unauthorized", None));
        let all = Circumstances {
            authorized: true,
            ..all
        };
        check(&options, all.clone(), (429, "rate_limit", Some(second)));
        let all = Circumstances { quota: None, ..all };
        check(
            &options,
            all.clone(),
            (429, "max_concurrent", Some(5 * second)),
        );
        let all = Circumstances {
            in_service: 2,
            ..all
        };
        check(&options, all.clone(), (429, "fail_first", Some(5 * second)));
        let all = Circumstances { ordinal: 2, ..all };
        check(&options, all.clone(), (502, "fail_first_attempts", None));
        let all = Circumstances { attempt: 1, ..all };
        assert!(matches!(decide(&options, &all), Plan::Serve { .. }));
        options.outage[0].refuse = true;
        assert_eq!(
            decide(&options, &Circumstances { now: second, ..all }),
            Plan::Reset
        );
    }

    #[test]
    fn rates_are_met_and_replay() {
        let rate = |value| Probability::new(value).unwrap();
        let options = MockOptions {
            error_rate: vec!["429=0.1".parse().unwrap(), "500=0.05".parse().unwrap()],
            reset_rate: rate(0.1),
            truncate_rate: rate(0.05),
            hang_rate: rate(0.05),
            latency: Latency::Uniform {
                from: Duration::ZERO,
                to: Duration::from_secs(1),
            },
            ..MockOptions::default()
        };
        let run = || {
            (0..20_000u64)
                .map(|n| {
                    decide(
                        &options,
                        &Circumstances {
                            identity: n / 2,
                            attempt: (n % 2) as u32,
                            ..circumstances()
                        },
                    )
                })
                .collect::<Vec<_>>()
        };
        let plans = run();
        assert_eq!(plans, run());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for plan in &plans {
            let name = match plan {
                Plan::Refuse(refusal) => refusal.status.to_string(),
                Plan::Serve {
                    fault: Some(fault), ..
                } => fault.as_str().to_owned(),
                Plan::Serve { fault: None, .. } => "fine".to_owned(),
                Plan::Reset => "reset".to_owned(),
            };
            *counts.entry(name).or_default() += 1;
        }
        for (name, expect) in [
            ("429", 0.1),
            ("500", 0.05),
            ("reset_before_head", 0.05),
            ("reset_in_body", 0.05),
            ("truncate", 0.05),
            ("hang", 0.05),
            ("fine", 0.65),
        ] {
            let share = counts[name] as f64 / plans.len() as f64;
            assert!((share - expect).abs() < 0.01, "{name}: {share}");
        }
        assert_eq!(counts.values().sum::<usize>(), plans.len());
    }
}
