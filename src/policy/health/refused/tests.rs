use std::time::Duration;

use super::super::{Probe, STREAK_TO_SHUN, State};
use super::*;
use crate::policy::virtual_time::{ms, start};

/// Follows the request before it.
const NEXT: Failures = Failures {
    together: 1,
    follows: true,
};

/// What an endpoint answers to the lines 1, 2, … of shard 0.
#[derive(Clone, Copy)]
enum Says {
    Well,
    /// 400, 409, …
    Complains,
    /// 401
    NoKey,
    /// 403
    Forbidden,
    /// 404, 405, 3xx
    NoPath,
    /// A 429 with a hint.
    Slower,
    Fails,
}
use Says::{Complains, Fails, Forbidden, NoKey, NoPath, Slower, Well};

/// Lets endpoint 0 say all that, a request each at `now`, as probes if it is half-open by then.
fn say(health: &mut Health, says: &[Says], now: Instant) {
    for (index, says) in says.iter().enumerate() {
        let line = index as u64 + 1;
        health.poll(now);
        let is_probe = matches!(health.state(0, now), State::HalfOpen { .. });
        let probed = |health: &mut Health, shown| {
            if is_probe {
                health.handle_probe_result(0, shown, now);
            }
        };
        match says {
            Well => {
                probed(health, Probe::Well);
                health.handle_success(0, now);
            }
            Complains => {
                probed(health, Probe::Alive);
                health.handle_complaint(0, NEXT, now);
            }
            NoKey => health.handle_key_refused(0, line, is_probe, "401", now),
            Forbidden => {
                probed(health, Probe::Alive);
                health.handle_line_refused(0, line, Some(0), NEXT, "403", now);
            }
            NoPath => health.handle_path_refused(0, line, "404", now),
            Slower => {
                probed(health, Probe::Alive);
                health.handle_alive(0, now);
            }
            Fails => {
                probed(health, Probe::Failed);
                health.handle_transient(0, NEXT, now);
            }
        }
    }
}

fn fates(health: &mut Health) -> Vec<Fate> {
    let fates = health.take_fates();
    fates.into_iter().map(|held| held.fate).collect()
}

fn is_out(health: &Health, now: Instant) -> bool {
    matches!(health.state(0, now), State::Disabled { .. })
}

#[test]
fn lines_that_are_refused_have_their_records_if_others_are_answered() {
    use Fate::{Recorded, SentElsewhere};
    let check = |says: &[Says], expect: &[Fate], out: bool, blamed: &[u64]| {
        let now = start();
        let mut health = Health::new(vec![0], 1);
        say(&mut health, says, now);
        let name = says.len();
        assert_eq!(fates(&mut health), expect, "{name}");
        assert_eq!(is_out(&health, now), out, "{name}");
        assert_eq!(health.blamed(), blamed, "{name}");
    };
    check(&[Forbidden], &[], false, &[]);
    check(&[Forbidden, Well], &[Recorded], false, &[]);
    // A complaint about another line is an answer, too; a refusal for load is none.
    check(
        &[Well, Forbidden, Forbidden, Complains],
        &[Recorded; 2],
        false,
        &[],
    );
    check(&[Well, Forbidden, Forbidden, Slower], &[], false, &[]);
    let four = [Well, Forbidden, Forbidden, Forbidden, Forbidden];
    check(&four, &[], false, &[]);
    check(&[&four[..], &[Well]].concat(), &[Recorded; 4], false, &[]);
    check(&[Forbidden; 5], &[SentElsewhere; 5], true, &[1, 2, 3, 4, 5]);
    let five = [&four[..], &[Forbidden]].concat();
    check(&five, &[SentElsewhere; 5], true, &[2, 3, 4, 5, 6]);
    // What comes back late has the fate of those before it.
    let late = [&five[..], &[Forbidden]].concat();
    check(&late, &[SentElsewhere; 6], true, &[2, 3, 4, 5, 6]);
    // Failures between them are no answers.
    let between = [
        Forbidden, Fails, Forbidden, Slower, Forbidden, Fails, Forbidden, Forbidden,
    ];
    check(&between, &[SentElsewhere; 5], true, &[1, 3, 5, 7, 8]);
}

/// A hundred requests at once: the first answers are refusals, others are still under way.
#[test]
fn refusals_with_requests_under_way_between_them_are_not_in_a_row() {
    let now = start();
    let mut health = Health::new(vec![0], 1);
    for line in 1..=20 {
        let apart = Failures {
            together: 1,
            follows: false,
        };
        health.handle_line_refused(0, line, Some(0), apart, "403", now);
    }
    assert!(!is_out(&health, now) && fates(&mut health).is_empty());
    health.handle_success(0, now);
    assert_eq!(fates(&mut health), [Fate::Recorded; 20]);
}

#[test]
fn the_end_of_a_file_decides_by_whether_anything_was_answered() {
    let check = |says: &[Says], fate: Fate, out: bool| {
        let now = start();
        let mut health = Health::new(vec![0], 1);
        say(&mut health, says, now);
        assert!(health.holds_any());
        health.handle_nothing_left(now);
        assert_eq!(fates(&mut health), [fate]);
        assert_eq!((is_out(&health, now), health.holds_any()), (out, false));
    };
    check(&[Forbidden], Fate::SentElsewhere, true);
    check(&[Well, Forbidden], Fate::Recorded, false);
    check(&[Complains, Forbidden], Fate::Recorded, false);
    // Stopped meanwhile, nobody is to blame.
    let mut health = Health::new(vec![0], 1);
    say(&mut health, &[Forbidden], start());
    health.handle_stop();
    assert_eq!(fates(&mut health), [Fate::SentElsewhere]);
    assert!(!is_out(&health, start()));
}

#[test]
fn a_key_is_asked_once_more_where_it_has_worked() {
    let now = start();
    let paused = State::Cooling {
        until: now + KEY_PAUSE,
    };
    let check = |before: &[Says], expect: Option<&State>, after: &[Says], out: bool| {
        let mut health = Health::new(vec![0], 1);
        say(&mut health, before, now);
        match expect {
            Some(state) => assert_eq!(health.state(0, now), *state),
            None => assert!(is_out(&health, now)),
        }
        health.poll(now);
        say(&mut health, after, now + KEY_PAUSE);
        assert_eq!(is_out(&health, now + KEY_PAUSE), out);
    };
    check(&[NoKey], None, &[], true);
    check(&[Complains, NoKey], None, &[], true);
    check(&[Well, NoKey], Some(&paused), &[NoKey], true);
    // Answers to what was sent before, of either kind, change nothing.
    check(&[Well, NoKey, NoKey, Well], Some(&paused), &[NoKey], true);
    check(&[Well, NoKey], Some(&paused), &[Well, Well], false);
    check(&[Well, NoKey], Some(&paused), &[Complains], false);
    check(&[Well, NoKey], Some(&paused), &[Well, NoKey, Well], false);
}

#[test]
fn a_path_is_refused_for_all_only_where_nothing_ever_succeeded() {
    let check = |says: &[Says], out: bool, blamed: &[u64]| {
        let now = start();
        let mut health = Health::new(vec![0], 1);
        say(&mut health, says, now);
        assert_eq!(is_out(&health, now), out);
        assert_eq!(health.blamed(), blamed);
    };
    check(&[NoPath, NoPath], true, &[1]);
    check(&[Complains, NoPath], true, &[2]);
    check(&[Well, NoPath, NoPath, NoPath, NoPath, NoPath], false, &[]);
}

/// Two endpoints; the second one is as `others` leaves it.
fn shunned(says: &[Says], others: impl Fn(&mut Health, Instant), now: Instant) -> Health {
    let mut health = Health::new(vec![0, 1], 1);
    others(&mut health, now);
    say(&mut health, says, now);
    health
}

#[test]
fn an_endpoint_that_answers_nothing_well_is_left_alone_if_there_is_another() {
    let now = start();
    let shuns = |says: &[Says], others: fn(&mut Health, Instant)| {
        let health = shunned(says, others, now);
        matches!(health.state(0, now), State::Cooling { .. })
    };
    let fail = |health: &mut Health, now| {
        (0..5).for_each(|_| health.handle_transient(1, NEXT, now));
    };
    let disable = |health: &mut Health, _| health.handle_disable(1, "401".to_owned());
    let well_once = |count: usize| [&[Well][..], &vec![Complains; count][..]].concat();
    let enough = STREAK_TO_SHUN as usize;
    assert!(!shuns(&[Complains; 4], |_, _| {}));
    assert!(shuns(&[Complains; 5], |_, _| {}));
    assert!(shuns(
        &[Complains, Fails, Complains, Fails, Complains],
        |_, _| {}
    ));
    // What has answered lines well may meet a few bad ones in a row.
    assert!(!shuns(&well_once(enough - 1), |_, _| {}));
    assert!(shuns(&well_once(enough), |_, _| {}));
    // Not for the sake of one that is out for good; of one that may come back, only if it never was well.
    assert!(!shuns(&[Complains; 99], disable));
    assert!(shuns(&[Complains; 5], fail));
    assert!(!shuns(&well_once(enough), fail));
}

#[test]
fn a_probe_that_is_no_answer_leaves_it_alone_for_longer_and_the_last_one_left_comes_back() {
    let now = start();
    let mut health = shunned(&[Complains; 5], |_, _| {}, now);
    let mut at = now;
    for seconds in [1, 2, 4] {
        at += Duration::from_secs(seconds);
        assert!(matches!(health.state(0, at), State::Cooling { until } if until == at));
        say(&mut health, &[Complains], at);
    }
    // Both answer nothing well: then it is not for either's sake.
    (0..99).for_each(|_| health.handle_complaint(1, NEXT, at));
    assert_eq!(health.state(1, at), State::Usable);
    health.handle_disable(1, "401".to_owned());
    assert_eq!(health.state(0, at + ms(1)), State::Usable);
    assert_eq!(health.outage(at), None);
}
