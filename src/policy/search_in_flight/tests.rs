use std::collections::VecDeque;

use super::*;
use crate::policy::virtual_time::{ms, start};

/// A server that serves `places` requests at once, each in `latency`. Others are refused, or wait.
#[derive(Clone, Copy)]
struct Server {
    places: usize,
    latency: Duration,
    /// What a refusal asks the client to wait; `None`: nothing is refused.
    refuses: Option<Duration>,
}

/// Drives a search against a server over virtual time, a millisecond at a time.
struct Simulation {
    begin: Instant,
    now: Instant,
    search: InFlightSearch,
    server: Server,
    /// When each request being served ends, and when it was sent; in order.
    serving: VecDeque<(Instant, Instant)>,
    /// Requests in the server's queue: when they were sent.
    queued: VecDeque<Instant>,
    /// Refusals on their way back: when their requests were sent.
    refused: Vec<Instant>,
    paused_until: Instant,
    /// Requests there are to send per millisecond at most.
    demand: usize,
    /// Counted since the last report.
    answers: u32,
    latency: Duration,
}

impl Simulation {
    fn new(server: Server, most: u32) -> Self {
        let now = start();
        let mut search = InFlightSearch::new(most, now);
        if server.refuses.is_some_and(|wait| !wait.is_zero()) {
            search.patience_first = PATIENCE_WAITING;
            search.patience = PATIENCE_WAITING;
        }
        Self {
            begin: now,
            now,
            search,
            server,
            serving: VecDeque::new(),
            queued: VecDeque::new(),
            refused: Vec::new(),
            paused_until: now,
            demand: usize::MAX,
            answers: 0,
            latency: Duration::ZERO,
        }
    }

    fn in_flight(&self) -> usize {
        self.serving.len() + self.queued.len() + self.refused.len()
    }

    /// Sends for that long; returns requests served and pushed back.
    fn run(&mut self, lasts: Duration) -> (u32, u32) {
        let end = self.now + lasts;
        let (mut served, mut pushed_back) = (0, 0);
        while self.now < end {
            self.now += ms(1);
            while let Some(&(_, sent)) = self.serving.front().filter(|(at, _)| *at <= self.now) {
                self.serving.pop_front();
                self.answers += 1;
                self.latency += self.now - sent;
                served += 1;
            }
            for sent in std::mem::take(&mut self.refused) {
                pushed_back += 1;
                self.search.handle_pushback(sent, self.now);
                self.paused_until = self.now + self.server.refuses.unwrap_or_default();
            }
            if self.in_flight() <= self.search.window() as usize {
                self.search.handle_kept(self.now);
            }
            self.send();
            if (self.now - self.begin).as_millis().is_multiple_of(100) {
                let latency = std::mem::take(&mut self.latency);
                let answers = std::mem::take(&mut self.answers);
                self.search.handle_answers(answers, latency, self.now);
            }
        }
        (served, pushed_back)
    }

    fn send(&mut self) {
        let room = (self.search.window() as usize).saturating_sub(self.in_flight());
        for _ in 0..room.min(self.demand) {
            if self.now < self.paused_until {
                break;
            }
            match self.server.refuses {
                Some(_) if self.serving.len() >= self.server.places => self.refused.push(self.now),
                _ => self.queued.push_back(self.now),
            }
            self.serve();
        }
        self.serve();
    }

    fn serve(&mut self) {
        while self.serving.len() < self.server.places
            && let Some(sent) = self.queued.pop_front()
        {
            self.serving
                .push_back((self.now + self.server.latency, sent));
        }
    }
}

/// The part of what the server can serve in `lasts` that `served` is.
fn part(served: u32, server: Server, lasts: Duration) -> f64 {
    let most = server.places as f64 * lasts.as_secs_f64() / server.latency.as_secs_f64();
    f64::from(served) / most
}

#[test]
fn finds_the_limit_and_follows_it() {
    let lasts = Duration::from_secs(20);
    for places in [1, 4, 50, 333] {
        for latency in [50, 500] {
            for pause in [0, 1000] {
                let label = format!("{places} at once, {latency} ms, waits of {pause} ms");
                let server = |places| Server {
                    places,
                    latency: ms(latency),
                    refuses: Some(ms(pause)),
                };
                let check = |simulation: &mut Simulation, when: &str| {
                    simulation.run(lasts);
                    let (served, pushed_back) = simulation.run(lasts);
                    let part = part(served, simulation.server, lasts);
                    assert!(part > 0.9, "{label}, {when}: {part}");
                    let pushed_back = f64::from(pushed_back) / f64::from(served + pushed_back);
                    assert!(pushed_back < 0.02, "{label}, {when}: {pushed_back} refused");
                };
                let mut simulation = Simulation::new(server(places), 10_000);
                check(&mut simulation, "found");
                simulation.server = server(places.div_ceil(2));
                check(&mut simulation, "halved");
                simulation.server = server(places * 2);
                // The patience of an unchanged limit comes first.
                simulation.run(PATIENCE_MAX);
                check(&mut simulation, "raised");
            }
        }
    }
}

#[test]
fn a_queue_is_not_filled_beyond_what_it_needs() {
    let lasts = Duration::from_secs(20);
    for places in [1, 10, 100, 700] {
        let server = Server {
            places,
            latency: ms(100),
            refuses: None,
        };
        let mut simulation = Simulation::new(server, 100_000);
        simulation.run(lasts);
        let served = simulation.run(lasts).0;
        let part = part(served, server, lasts);
        let window = simulation.search.window();
        assert!(part > 0.95, "{places} at once: {part} with {window}");
        // Twice what fills it may be taken for better, and twice that is tried now and then.
        let enough = 4 * (places as u32).max(WINDOW_START);
        assert!(window <= enough, "{places} at once: {window}");
    }
}

#[test]
fn an_unused_window_does_not_grow() {
    let server = Server {
        places: usize::MAX,
        latency: ms(100),
        refuses: None,
    };
    let mut simulation = Simulation::new(server, 10_000);
    simulation.search.window = 8;
    simulation.demand = 1;
    // A request a millisecond, answered in 100 ms: 100 are in flight.
    simulation.run(Duration::from_secs(60));
    let window = simulation.search.window();
    assert!((100..=256).contains(&window), "{window}");
}

#[test]
fn the_search_keeps_within_its_bounds() {
    let server = Server {
        places: usize::MAX,
        latency: ms(50),
        refuses: None,
    };
    for most in [0, 1, 5, 100] {
        let mut simulation = Simulation::new(server, most);
        simulation.run(Duration::from_secs(30));
        assert_eq!(simulation.search.window(), most.max(1));
    }
    let now = start();
    let mut search = InFlightSearch::new(100, now);
    for second in 0..1000 {
        let now = now + Duration::from_secs(second);
        search.handle_pushback(now, now);
        assert!(search.window() >= 1);
    }
    assert_eq!(search.window(), 1);
}

#[test]
fn pushbacks_of_one_burst_count_once_until_it_should_be_over() {
    let now = start();
    let mut search = InFlightSearch::new(1000, now);
    search.window = 100;
    for at in [0, 1, 50, 99] {
        search.handle_pushback(now, now + ms(at));
        assert_eq!(search.window(), 70);
    }
    // Sent before it took hold.
    search.handle_kept(now + ms(100));
    search.handle_pushback(now + ms(99), now + ms(101));
    assert_eq!(search.window(), 70);
    search.handle_pushback(now + ms(100), now + ms(102));
    assert_eq!(search.window(), 69);
    // Sent when there were still seventy.
    search.handle_pushback(now + ms(102), now + ms(103));
    assert_eq!(search.window(), 69);
    for _ in 0..100 {
        search.handle_pushback(now + ms(101), now + ms(200));
    }
    assert_eq!(search.window(), 1, "the rest of the places rest");
    search.handle_answers(0, ms(0), now + ms(499));
    assert_eq!(search.window(), 1);
    search.handle_answers(0, ms(0), now + ms(500));
    assert_eq!(search.window(), 50);
    search.handle_pushback(now + ms(101), now + ms(500));
    assert_eq!(search.window(), 35);
}

/// Where eight are tried first, fewer are found within a few refusals each. Who is less patient with what was
/// found tries again after 2 s and after 4 s more, each for one refusal.
#[test]
fn a_small_limit_is_found_by_few_refusals() {
    for places in 1..=7 {
        for latency in [20, 50, 500] {
            for (patience, refused_max) in [(PATIENCE_WAITING, 20), (PATIENCE, 22)] {
                let server = Server {
                    places,
                    latency: ms(latency),
                    refuses: Some(ms(0)),
                };
                let mut simulation = Simulation::new(server, 10_000);
                let search = &mut simulation.search;
                (search.window, search.patience, search.patience_first) = (8, patience, patience);
                let refused = simulation.run(Duration::from_secs(10)).1;
                let label = format!("{places} at once, {latency} ms: {refused} refused");
                assert!(refused <= refused_max, "{label}");
                assert_eq!(simulation.search.window() as usize, places, "{label}");
            }
        }
    }
}

#[test]
fn a_try_that_fails_returns_to_what_was_proven() {
    let now = start();
    let mut search = InFlightSearch::new(1000, now);
    (search.window, search.patience, search.patience_first) =
        (8, PATIENCE_WAITING, PATIENCE_WAITING);
    let round = |search: &mut InFlightSearch, at: u64| {
        let window = search.window();
        search.handle_answers(window, ms(200) * window, now + ms(at));
    };
    round(&mut search, 200);
    assert_eq!(search.window(), 16);
    search.handle_pushback(now + ms(200), now + ms(210));
    assert_eq!(search.window(), 8);
    round(&mut search, 410);
    assert_eq!(search.window(), 12);
    search.handle_pushback(now + ms(990), now + ms(1000));
    assert_eq!(search.window(), 8);
    round(&mut search, 1200);
    assert_eq!(search.window(), 10);
    // Within its patience a closed gap stays closed.
    search.ceiling = Some(11);
    for turn in 7..150 {
        round(&mut search, turn * 200);
        assert_eq!(search.window(), 10, "at {turn}");
    }
}

#[test]
fn one_hiccup_does_not_pass_for_a_queue() {
    let now = start();
    let mut search = InFlightSearch::new(1000, now);
    search.window = 8;
    search.handle_answers(8, ms(200) * 8, now + ms(200));
    assert_eq!(search.window(), 16);
    // Twice as many took twice as long, once.
    search.handle_answers(16, ms(400) * 16, now + ms(600));
    assert_eq!(search.window(), 16);
    search.handle_answers(16, ms(200) * 16, now + ms(800));
    assert_eq!(search.window(), 32);
    // And twice in a row.
    search.handle_answers(32, ms(400) * 32, now + ms(1200));
    search.handle_answers(32, ms(400) * 32, now + ms(1600));
    assert_eq!(search.window(), 16);
    // More is tried again soon.
    search.handle_answers(16, ms(200) * 16, now + ms(6500));
    search.handle_answers(16, ms(200) * 16, now + ms(6700));
    assert_eq!(search.window(), 17);
}
