//! The search in flight: how many requests at once one quota group takes. Pure.
//!
//! The window doubles every round trip until a pushback (429, 529, timeout), then the gap between the
//! largest window that was *proven* by a whole round and the *ceiling*, the smallest one that was not, is
//! halved until it is closed. From then on the ceiling is tried again only now and then: servers that
//! refuse also ask to wait, so each try costs time as well as a refusal. A try that passes is followed by
//! larger ones, each twice the last, so a limit that was raised is found in a few round trips.
//!
//! Servers that never refuse but queue are recognised by their throughput: when twice the window brought
//! no more answers per second, the smaller one is enough, and the rest only waited.
//!
//! Rounds are counted in answers, not in seconds: the same rules hold for answers of a millisecond and of
//! a minute.

use std::time::{Duration, Instant};

/// Where the search starts, in requests.
pub const WINDOW_START: u32 = 50;

/// A round lasts at least this long: counters of the shards come every 100 ms.
const ROUND_MIN: Duration = Duration::from_millis(200);

/// A round proves its window only if at least this part of it was in flight on average. Below, it is
/// not the window that holds the traffic back.
const USED: f64 = 0.5;

/// Twice the window must bring at least this much more throughput, or it brings nothing.
const GAIN: f64 = 1.05;

/// What a pushback at a proven window, or before any was, leaves: the limit itself has fallen.
const DECREASE: f64 = 0.7;

/// Pushbacks within this time after the first, but for those that the decrease explains, each say that one
/// request too many is in flight. Then a new burst begins.
const BURST: Duration = Duration::from_millis(500);

/// The least that all pushbacks of one burst leave of the window. Further places rest until it is over.
const DECREASE_MOST: f64 = 0.5;

/// The gap between proven window and ceiling is closed when it is below this part of the window.
const GAP_CLOSED: f64 = 0.03;

/// How long a closed gap is left alone where refusals ask to wait, usually for a second: a thirtieth of
/// the time.
const PATIENCE_WAITING: Duration = Duration::from_secs(30);

/// The same where they do not: a try costs a request that is refused, and no time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest that failing tries make of it: a raised limit is noticed within two minutes.
const PATIENCE_MAX: Duration = Duration::from_secs(120);

/// So many rounds in a row must say that twice the window brings nothing: one may be a hiccup.
const ROUNDS_IN_VAIN: u32 = 2;

/// After that more is tried again soon: without refusals a try costs nothing.
const SETTLED: Duration = Duration::from_secs(5);

/// With so many in flight a group begins again that has waited, and doubles with each round of answers: it
/// was asked to wait because there was too much.
const WINDOW_BACK: u32 = 4;

/// Answers between two tries for each pushback of the last one: pushbacks stay below 1 %.
const ANSWERS_PER_PUSHBACK: u32 = 100;

/// Main-owned: the search for one quota group's number of requests in flight.
#[derive(Debug)]
pub struct InFlightSearch {
    most: u32,
    window: u32,
    /// The largest window that a whole round went through, as far as is known now.
    proven: Option<u32>,
    /// The smallest window above it that was pushed back, or brought nothing.
    ceiling: Option<u32>,
    /// Growth beyond a ceiling that has turned out to be none.
    step: u32,
    round: Round,
    /// The window with the highest throughput so far, and that throughput, in answers per second.
    best: Option<(u32, f64)>,
    /// Rounds at twice that window that brought no more.
    in_vain: u32,
    burst: Option<Burst>,
    /// When the window was last kept to, after it had shrunk: what was sent before says nothing of it.
    kept_since: Instant,
    /// When it first shrank since then. What was sent later may have been one too many.
    shrunk: Option<Instant>,
    /// The ceiling is not tried before then ...
    hold_until: Instant,
    /// ... nor before so many answers.
    hold_answers: u32,
    patience: Duration,
    /// What it begins with.
    patience_first: Duration,
    /// The group comes back from a wait: the window that it had before.
    regain: Option<u32>,
}

#[derive(Debug)]
struct Round {
    since: Instant,
    answers: u32,
    /// Their latencies added up: by Little's law the requests in flight, times the round's length.
    busy: Duration,
}

impl Round {
    fn new(since: Instant) -> Self {
        Self {
            since,
            answers: 0,
            busy: Duration::ZERO,
        }
    }
}

#[derive(Debug)]
struct Burst {
    since: Instant,
    /// The window that was too large.
    window: u32,
    /// It was tried from a smaller one that is known to pass.
    was_try: bool,
    /// Places of the window that are not used until the burst is over.
    resting: u32,
}

impl InFlightSearch {
    /// A search that starts at [`WINDOW_START`] and never goes above `most`, which is at least 1.
    pub fn new(most: u32, now: Instant) -> Self {
        let most = most.max(1);
        Self {
            most,
            window: WINDOW_START.min(most),
            proven: None,
            ceiling: None,
            step: 1,
            round: Round::new(now),
            best: None,
            in_vain: 0,
            burst: None,
            kept_since: now,
            shrunk: None,
            hold_until: now,
            hold_answers: 0,
            patience: PATIENCE,
            patience_first: PATIENCE,
            regain: None,
        }
    }

    /// The most that may ever be in flight.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// How many requests may be in flight; at least 1.
    pub fn window(&self) -> u32 {
        let resting = self.burst.as_ref().map_or(0, |burst| burst.resting);
        self.window.saturating_sub(resting).max(1)
    }

    /// The window, once there were too many; `None`: no limit has been met.
    pub fn found(&self) -> Option<u32> {
        let is_met = self.burst.is_some() || self.ceiling.is_some();
        is_met.then(|| self.window())
    }

    /// What was sent at `sent` was sent when no more were in flight than the window allows now.
    pub fn is_kept_since(&self, sent: Instant) -> bool {
        sent >= self.kept_since && self.shrunk.is_none_or(|shrunk| sent < shrunk)
    }

    /// The group waits because its server asked for it.
    pub fn handle_wait(&mut self, now: Instant) {
        self.patience_first = PATIENCE_WAITING;
        self.come_back(now);
    }

    /// The group has been out, or is: it will come back with a few requests.
    pub fn come_back(&mut self, now: Instant) {
        if self.window > WINDOW_BACK {
            self.regain.get_or_insert(self.window);
            self.window = WINDOW_BACK;
            self.shrunk.get_or_insert(now);
            self.round = Round::new(now);
        }
    }

    /// What was known of a limit was said of requests that came too fast.
    pub fn forget_ceiling(&mut self) {
        self.ceiling = None;
        self.patience = self.patience_first;
    }

    /// No more requests are in flight than the window allows. To be told whenever that may be so again
    /// after it has shrunk.
    pub fn handle_kept(&mut self, now: Instant) {
        if self.shrunk.take().is_some() {
            self.kept_since = now;
        }
    }

    /// `count` requests were served since the last call, in `latency` added up.
    pub fn handle_answers(&mut self, count: u32, latency: Duration, now: Instant) {
        self.hold_answers = self.hold_answers.saturating_sub(count);
        if let Some(burst) = self.burst.as_mut().filter(|burst| burst.resting > 0) {
            if now >= burst.since + BURST {
                burst.resting = 0;
            }
            self.round = Round::new(now);
            return;
        }
        let round = &mut self.round;
        round.answers = round.answers.saturating_add(count);
        round.busy += latency;
        if let Some(before) = self.regain {
            if round.answers >= self.window {
                self.window = self.window.saturating_mul(2).min(before);
                self.regain = Some(before).filter(|before| *before > self.window);
                self.round = Round::new(now);
            }
            return;
        }
        let elapsed = now.saturating_duration_since(round.since);
        if elapsed < ROUND_MIN || round.answers < self.window {
            return;
        }
        let in_flight = round.busy.as_secs_f64() / elapsed.as_secs_f64();
        let throughput = |answers: f64| answers / elapsed.as_secs_f64();
        let answers = f64::from(round.answers);
        // Where a round ends, an answer more or less is chance.
        let (measured, sure) = (throughput(answers), throughput(answers - 0.5));
        self.round = Round::new(now);
        if in_flight >= f64::from(self.window) * USED {
            self.handle_round(measured, sure, now);
        }
    }

    /// A 429, a 529 or a timeout of a request that was sent at `sent`: too many were in flight.
    pub fn handle_pushback(&mut self, sent: Instant, now: Instant) {
        // While the group comes back, it speaks of the window that it comes back to.
        let back = self.regain.take();
        let few = self.window;
        self.window = back.unwrap_or(few);
        self.push_back(sent, now);
        if back.is_some() {
            self.regain = Some(self.window).filter(|&before| before > few);
            self.window = self.window.min(few);
        }
    }

    fn push_back(&mut self, sent: Instant, now: Instant) {
        match &mut self.burst {
            Some(burst) if now < burst.since + BURST => {
                if burst.was_try {
                    self.hold_answers = self.hold_answers.saturating_add(ANSWERS_PER_PUSHBACK);
                }
                let least = (f64::from(burst.window) * DECREASE_MOST) as u32;
                if sent >= self.kept_since && self.shrunk.is_none_or(|shrunk| sent < shrunk) {
                    if self.window > least.max(1) {
                        self.window -= 1;
                        // What was thought proven is pushed back as well.
                        self.proven = None;
                    } else {
                        burst.resting = (burst.resting + 1).min(self.window - 1);
                    }
                    self.shrunk.get_or_insert(now);
                }
            }
            _ => self.begin_burst(now),
        }
        self.round = Round::new(now);
    }

    fn begin_burst(&mut self, now: Instant) {
        let is_first = self.burst.is_none();
        let below = self.proven.filter(|&proven| proven < self.window);
        self.burst = Some(Burst {
            since: now,
            window: self.window,
            was_try: below.is_some(),
            resting: 0,
        });
        // All that is in flight belongs to this decrease.
        (self.kept_since, self.shrunk) = (now, Some(now));
        self.hold_answers = ANSWERS_PER_PUSHBACK;
        // The first burst came all at once, which some servers refuse whose number it does not reach.
        self.ceiling = (!is_first || below.is_some()).then_some(self.window);
        self.step = 1;
        match below {
            Some(proven) => self.window = proven,
            None => {
                self.window = ((f64::from(self.window) * DECREASE) as u32).max(1);
                self.proven = None;
                self.patience = self.patience_first;
            }
        }
        // Throughput under another limit is no measure for this one.
        self.best = None;
        self.hold_until = now + self.patience;
    }

    /// The window was used for a whole round without a pushback; answers per second as measured, and at least.
    fn handle_round(&mut self, measured: f64, sure: f64, now: Instant) {
        match self.best {
            Some((window, best)) if sure <= best * GAIN => {
                if self.window / 2 >= window {
                    self.in_vain += 1;
                    if self.in_vain >= ROUNDS_IN_VAIN {
                        self.settle(window, now);
                    }
                    return;
                }
            }
            _ => self.best = Some((self.window, measured)),
        }
        self.in_vain = 0;
        self.proven = Some(self.window);
        self.grow(now);
    }

    /// Twice the window brought nothing: the rest of the requests only waited.
    fn settle(&mut self, window: u32, now: Instant) {
        self.ceiling = Some(self.window.min(window.saturating_add(gap_closed(window))));
        self.window = window;
        self.proven = Some(window);
        self.best = None;
        self.in_vain = 0;
        self.step = 1;
        self.hold_until = now + SETTLED;
    }

    fn grow(&mut self, now: Instant) {
        let grown = match self.ceiling {
            None => self.window.saturating_mul(2),
            Some(ceiling) if self.window >= ceiling => {
                self.patience = self.patience_first;
                self.step = self.step.saturating_mul(2);
                self.window.saturating_add(self.step)
            }
            Some(ceiling) if ceiling - self.window > gap_closed(self.window) => {
                self.window + (ceiling - self.window) / 2
            }
            Some(ceiling) => {
                if now < self.hold_until || self.hold_answers > 0 {
                    return;
                }
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
                self.step = ceiling - self.window;
                ceiling
            }
        };
        // Twice the best is enough to judge by.
        let enough = self
            .best
            .map_or(u32::MAX, |(best, _)| best.saturating_mul(2));
        self.window = grown.min(enough).min(self.most);
    }
}

/// The widest gap that is no worth searching any more.
fn gap_closed(window: u32) -> u32 {
    ((f64::from(window) * GAP_CLOSED) as u32).max(1)
}

#[cfg(test)]
mod tests;
