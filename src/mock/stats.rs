//! What the trial endpoint has seen. [`Books`] are kept under one lock; [`Stats`] is a copy of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limit::{Bucket, Quota};
use super::options::MockOptions;
use super::script::SeenRequest;

/// Different paths counted on their own; the rest share [`OTHER_PATHS`].
const PATHS_MAX: usize = 1024;
/// Where paths beyond the first 1024 are counted.
const OTHER_PATHS: &str = "(other)";
/// Different bodies whose attempts are counted, and different values of `count_by`.
const KEYS_MAX: usize = 10_000_000;
/// Arrival times kept.
const ARRIVALS_MAX: usize = 10_000_000;
/// Seconds with their own arrival count: a day.
const SECONDS_MAX: usize = 86_400;
/// Requests kept by `record_requests`.
const RECORDED_MAX: usize = 100_000;

/// What has been seen since the start; also the JSON at `/stats`. Requests to `/stats` count nowhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Complete requests, whatever came of them.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Requests that arrived and whose last bytes are not being written.
    pub in_flight: u64,
    /// The most there were at once.
    pub in_flight_max: u64,
    /// By path without query: give endpoints different prefixes to tell them apart.
    pub paths: BTreeMap<String, PathStats>,
    /// Answers by status, when they were decided.
    pub statuses: BTreeMap<u16, u64>,
    /// Failures and faults that were injected, by name.
    pub faults: BTreeMap<String, u64>,
    /// Arrivals in each second since the start, up to the last that had one.
    pub arrivals_per_second: Vec<u64>,
    /// With `record_arrivals`: arrival times in µs since the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals_us: Vec<u64>,
    /// With `count_by`: requests by the value at that place of their body.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, u32>,
    /// What the bounds of `arrivals_us`, `seen`, the recorded requests and the attempt counts left out.
    pub dropped: u64,
}

/// What one path has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStats {
    /// Complete requests.
    pub requests: u64,
    /// Now.
    pub in_flight: u64,
    /// The most there were at once.
    pub in_flight_max: u64,
}

/// The counts as they grow.
pub(super) struct Books {
    stats: Stats,
    path_numbers: HashMap<String, usize>,
    paths: Vec<PathStats>,
    faults: BTreeMap<&'static str, u64>,
    seen: HashMap<String, u32>,
    /// How often each body came; kept only if a decision depends on it.
    attempts: Option<HashMap<u64, u32>>,
    bucket: Bucket,
    /// API requests so far.
    ordinal: u64,
    /// Requests let in and not finished.
    in_service: usize,
    record_arrivals: bool,
    recorded: Option<Vec<SeenRequest>>,
}

/// What the books say about an API request as it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub ordinal: u64,
    pub attempt: u32,
    pub in_service: usize,
    pub quota: Option<Quota>,
}

/// A request in flight; given back to [`Books::finish`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    path: usize,
    in_service: bool,
}

impl Ticket {
    /// The request was let in, and counts against `max_concurrent`.
    pub(super) fn let_in(&mut self, books: &mut Books) {
        self.in_service = true;
        books.in_service += 1;
    }
}

impl Books {
    pub(super) fn new(options: &MockOptions) -> Self {
        let changes: Vec<_> = options
            .rate_limit_at
            .iter()
            .map(|change| (change.at, change.limit))
            .collect();
        Self {
            stats: Stats::default(),
            path_numbers: HashMap::new(),
            paths: Vec::new(),
            faults: BTreeMap::new(),
            seen: HashMap::new(),
            attempts: options.counts_attempts().then(HashMap::new),
            bucket: Bucket::new(options.rate_limit, &changes),
            ordinal: 0,
            in_service: 0,
            record_arrivals: options.record_arrivals,
            recorded: options.record_requests.then(Vec::new),
        }
    }

    /// Counts a connection and numbers it, from 0.
    pub(super) fn connect(&mut self) -> u64 {
        self.stats.connections += 1;
        self.stats.connections - 1
    }

    /// Counts a request to `target`.
    pub(super) fn arrive(&mut self, now: Duration, target: &str) -> Ticket {
        self.stats.requests += 1;
        self.stats.in_flight += 1;
        self.stats.in_flight_max = self.stats.in_flight_max.max(self.stats.in_flight);
        let path = self.path_number(target.split('?').next().unwrap_or(target));
        let path_stats = &mut self.paths[path];
        path_stats.requests += 1;
        path_stats.in_flight += 1;
        path_stats.in_flight_max = path_stats.in_flight_max.max(path_stats.in_flight);
        let second = now.as_secs() as usize;
        if second < SECONDS_MAX {
            let seconds = &mut self.stats.arrivals_per_second;
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
        if self.record_arrivals {
            if self.stats.arrivals_us.len() < ARRIVALS_MAX {
                self.stats.arrivals_us.push(now.as_micros() as u64);
            } else {
                self.stats.dropped += 1;
            }
        }
        Ticket {
            path,
            in_service: false,
        }
    }

    /// Counts a request to an API by what it is, and asks the rate limit.
    pub(super) fn stand(
        &mut self,
        now: Duration,
        identity: u64,
        count_key: Option<String>,
    ) -> Standing {
        if let Some(key) = count_key {
            if self.seen.len() < KEYS_MAX || self.seen.contains_key(&key) {
                *self.seen.entry(key).or_default() += 1;
            } else {
                self.stats.dropped += 1;
            }
        }
        let mut attempt = 0;
        if let Some(attempts) = &mut self.attempts {
            if attempts.len() < KEYS_MAX || attempts.contains_key(&identity) {
                let count = attempts.entry(identity).or_default();
                attempt = *count;
                *count = count.saturating_add(1);
            } else {
                self.stats.dropped += 1;
            }
        }
        self.ordinal += 1;
        Standing {
            ordinal: self.ordinal - 1,
            attempt,
            in_service: self.in_service,
            quota: self.bucket.take(now),
        }
    }

    pub(super) fn answered(&mut self, status: Option<u16>, fault: Option<&'static str>) {
        if let Some(status) = status {
            *self.stats.statuses.entry(status).or_default() += 1;
        }
        if let Some(fault) = fault {
            *self.faults.entry(fault).or_default() += 1;
        }
    }

    pub(super) fn finish(&mut self, ticket: Ticket) {
        self.stats.in_flight -= 1;
        self.paths[ticket.path].in_flight -= 1;
        self.in_service -= usize::from(ticket.in_service);
    }

    pub(super) fn record(&mut self, request: &SeenRequest) {
        let Some(recorded) = &mut self.recorded else {
            return;
        };
        if recorded.len() < RECORDED_MAX {
            recorded.push(request.clone());
        } else {
            self.stats.dropped += 1;
        }
    }

    pub(super) fn recorded(&self) -> Vec<SeenRequest> {
        self.recorded.clone().unwrap_or_default()
    }

    pub(super) fn snapshot(&self) -> Stats {
        let paths = self
            .path_numbers
            .iter()
            .map(|(path, &number)| (path.clone(), self.paths[number]));
        Stats {
            paths: paths.collect(),
            faults: self
                .faults
                .iter()
                .map(|(&name, &count)| (name.to_owned(), count))
                .collect(),
            seen: self
                .seen
                .iter()
                .map(|(key, &count)| (key.clone(), count))
                .collect(),
            ..self.stats.clone()
        }
    }

    fn path_number(&mut self, path: &str) -> usize {
        if let Some(&number) = self.path_numbers.get(path) {
            return number;
        }
        let path = if self.paths.len() < PATHS_MAX {
            path
        } else {
            OTHER_PATHS
        };
        let paths = &mut self.paths;
        *self.path_numbers.entry(path.to_owned()).or_insert_with(|| {
            paths.push(PathStats::default());
            paths.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_is_counted_overall_and_by_path() {
        let mut books = Books::new(&MockOptions::default());
        let now = Duration::from_millis(1500);
        let first = books.arrive(now, "/a?x=1");
        let second = books.arrive(now, "/a");
        let third = books.arrive(now, "/b");
        books.finish(first);
        let fourth = books.arrive(now, "/b");
        for ticket in [second, third, fourth] {
            books.finish(ticket);
        }
        let stats = books.snapshot();
        assert_eq!(
            (stats.requests, stats.in_flight, stats.in_flight_max),
            (4, 0, 3)
        );
        assert_eq!(
            stats.paths["/a"],
            PathStats {
                requests: 2,
                in_flight: 0,
                in_flight_max: 2
            }
        );
        assert_eq!(
            stats.paths["/b"],
            PathStats {
                requests: 2,
                in_flight: 0,
                in_flight_max: 2
            }
        );
        assert_eq!(stats.arrivals_per_second, [0, 4]);
    }

    #[test]
    fn paths_are_bounded() {
        let mut books = Books::new(&MockOptions::default());
        for number in 0..PATHS_MAX + 10 {
            books.arrive(Duration::ZERO, &format!("/{number}"));
        }
        let stats = books.snapshot();
        assert_eq!(
            (stats.paths.len(), stats.paths[OTHER_PATHS].requests),
            (PATHS_MAX + 1, 10)
        );
    }

    #[test]
    fn attempts_are_counted_by_identity() {
        let options = MockOptions {
            fail_first_attempts: "1".parse().ok(),
            ..MockOptions::default()
        };
        let mut books = Books::new(&options);
        let attempts =
            [1, 2, 1, 1].map(|identity| books.stand(Duration::ZERO, identity, None).attempt);
        assert_eq!(attempts, [0, 0, 1, 2]);
    }

    #[test]
    fn values_are_counted_and_survive_json() {
        let mut books = Books::new(&MockOptions::default());
        for key in ["a", "b", "a"] {
            books.stand(Duration::ZERO, 0, Some(key.to_owned()));
        }
        books.answered(Some(429), Some("rate_limit"));
        let stats = books.snapshot();
        assert_eq!(
            stats.seen,
            BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
        );
        assert_eq!(
            serde_json::from_str::<Stats>(&serde_json::to_string(&stats).unwrap()).unwrap(),
            stats
        );
    }
}
