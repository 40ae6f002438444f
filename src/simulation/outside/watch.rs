//! What of the books can be read off the wire: which requests are out, since when, and how many.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Outside;
use crate::runtime::simulated::network::{Watcher, Welcome};
use crate::simulation::lines::{Fate, marked};
use crate::simulation::scenario::Trouble;
use crate::simulation::streams::{Exchange, PREFACE, Streams, Told};

/// How much later than `--timeout` an attempt may end: the sweep of deadlines, and stalls.
const TIMEOUT_LATE: Duration = Duration::from_millis(300);
/// How long after a request was given up its stream is reset at the latest, but for stalls.
const RESET_WITHIN: Duration = Duration::from_millis(10);

impl Outside {
    /// More requests in flight than may be, for longer than it takes to say that some are not any more:
    /// over HTTP/2 that is a message of its own, behind the one that goes out next on another connection.
    fn check_in_flight(&self) {
        let now = self.world().now();
        let process = self.process.borrow();
        let endpoints = &process.config.endpoints;
        let says_so = endpoints.iter().any(|one| one.http2 == Some(true));
        let within = match says_so {
            true => RESET_WITHIN + process.manners.stall_max,
            false => Duration::ZERO,
        };
        let in_flight = self.in_flight.borrow();
        let all: usize = in_flight.iter().sum();
        let workers = process.config.request.workers;
        let beyond = (in_flight.iter().zip(endpoints))
            .find(|(count, endpoint)| **count > endpoint.max_concurrent)
            .map(|(count, endpoint)| {
                let (name, limit) = (&endpoint.name, endpoint.max_concurrent);
                format!("{count} requests in flight to {name:?}, its max_concurrent is {limit}")
            })
            .or_else(|| {
                (all > workers).then(|| format!("{all} requests in flight, --workers is {workers}"))
            });
        let mut excess = self.excess.borrow_mut();
        match (beyond, excess.take()) {
            (None, None) => {}
            (Some(beyond), None) if says_so => *excess = Some((now, beyond)),
            (Some(beyond), None) => self.violation(beyond),
            (beyond, Some((since, what))) => {
                if now.duration_since(since) > within {
                    self.violation(what);
                } else if beyond.is_some() {
                    *excess = Some((since, what));
                }
            }
        }
    }

    fn over(&self, address: SocketAddr, exchanges: impl IntoIterator<Item = Exchange>) {
        for exchange in exchanges {
            if let Some(request) = exchange.request {
                if exchange.is_for_good {
                    self.answers(request);
                }
                self.ended(address, exchange.since, request);
            }
        }
    }
}

impl Watcher for Outside {
    fn wrote(&self, connection: u64, address: SocketAddr, bytes: &[u8]) -> bool {
        let mut shared = self.shared.borrow_mut();
        if bytes.starts_with(PREFACE) {
            shared.insert(connection, Streams::default());
        }
        let Some(streams) = shared.get_mut(&connection) else {
            return false;
        };
        let now = self.world().now();
        streams.sends(bytes, now, |told| match told {
            Told::Sent(exchange) => {
                let request = self.sends(address, exchange.since, &exchange.body);
                exchange.request = Some(request);
            }
            Told::Over(exchange) => self.over(address, [exchange]),
        });
        if let Some(what) = streams.offence.take() {
            self.violation(what);
        }
        true
    }

    fn read(&self, connection: u64, address: SocketAddr, bytes: &[u8]) {
        if let Some(streams) = self.shared.borrow_mut().get_mut(&connection) {
            self.over(address, streams.comes(bytes));
            if let Some(what) = streams.offence.take() {
                self.violation(what);
            }
        }
    }

    fn closed(&self, connection: u64, address: SocketAddr) {
        if let Some(streams) = self.shared.borrow_mut().get_mut(&connection) {
            self.over(address, streams.end());
        }
    }

    fn welcome(&self, address: SocketAddr) -> Welcome {
        let world = self.world();
        if self.is_out(endpoint_of(address)) {
            return match world.chance(0.2) {
                true => Welcome::Silence,
                false => Welcome::Failed(self.latency(), io::ErrorKind::ConnectionRefused),
            };
        }
        let Trouble {
            connects, per_line, ..
        } = self.trouble();
        let may = !self.scenario.decided || self.connect_faults.get() < per_line;
        if may && world.chance(connects) {
            self.connect_faults.set(self.connect_faults.get() + 1);
            let after = self.latency();
            return match world.random(|random| random.u32(0..4)) {
                0 => Welcome::Silence,
                1 => Welcome::Failed(after, io::ErrorKind::ConnectionReset),
                2 => Welcome::Failed(after, io::ErrorKind::HostUnreachable),
                _ => Welcome::Failed(after, io::ErrorKind::ConnectionRefused),
            };
        }
        Welcome::Accepted(self.latency())
    }

    fn sends(&self, address: SocketAddr, since: Instant, request: &[u8]) -> usize {
        let endpoint = endpoint_of(address);
        self.in_flight.borrow_mut()[endpoint] += 1;
        self.sendings.borrow_mut().push((since, endpoint));
        self.check_in_flight();
        let config = &self.process.borrow().config;
        let Some(id) = marked(request) else {
            self.violation("a request of no line".to_owned());
            return usize::MAX;
        };
        let book = &mut self.books.borrow_mut()[id];
        (book.is_out, book.last_sender) = (true, Some(self.number.get()));
        // What goes out again for a stale connection goes out at once.
        let may_be_resent = book.stale > 0 || self.trouble().stale > 0.0;
        // Of a request that waits for a connection or a stream, nobody sees when it was let go.
        let is_seen = config.endpoints[endpoint].http2 != Some(true);
        if is_seen && !may_be_resent && self.is_within_cooldown(endpoint, since) {
            let mark = self.scenario.lines[id].mark();
            self.violation(format!(
                "{mark} is sent to endpoint {endpoint}, which has asked to wait"
            ));
        }
        let answered = book.was_answered(self.number.get());
        if answered && self.scenario.lines[id].fate == Fate::Answered {
            self.violation(format!(
                "{} is sent again though this process has its answer",
                self.scenario.lines[id].mark()
            ));
        }
        id
    }

    fn ended(&self, address: SocketAddr, since: Instant, request: usize) {
        if !self.world().is_killed()
            && let Some(book) = self.books.borrow_mut().get_mut(request)
        {
            book.is_out = false;
        }
        let lasted = self.world().now().duration_since(since);
        let timeout = self.process.borrow().config.request.timeout;
        if lasted > timeout + TIMEOUT_LATE {
            self.violation(format!("an attempt lasted {lasted:?} of {timeout:?}"));
        }
        {
            let mut in_flight = self.in_flight.borrow_mut();
            let count = &mut in_flight[endpoint_of(address)];
            *count = count.saturating_sub(1);
        }
        self.check_in_flight();
    }

    fn latency(&self) -> Duration {
        let max = self.process.borrow().latency_max;
        self.world().duration(max)
    }

    fn piece_max(&self) -> usize {
        self.process.borrow().piece_max
    }
}

fn endpoint_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]) - 1,
        SocketAddr::V6(_) => unreachable!("endpoints have IPv4 addresses"),
    }
}
