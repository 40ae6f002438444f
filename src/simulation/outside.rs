//! Everything around the simulated process that is not disk: the network's mood, and the books that
//! the endpoints keep of what reaches them.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::lines::{Fate, Line, marked};
use super::scenario::{Process, Scenario, Trouble, address};
use super::servers;
use crate::runtime::simulated::network::{Watcher, Welcome};
use crate::runtime::simulated::world::World;

/// Violations kept; the first says what is wrong.
const VIOLATIONS_MAX: usize = 20;

/// See the module.
pub struct Outside {
    world: Weak<World>,
    scenario: Scenario,
    process: RefCell<Process>,
    number: Cell<usize>,
    begun: Cell<Instant>,
    /// Servers answer what they failed on before.
    is_mended: Cell<bool>,
    books: RefCell<Vec<Book>>,
    /// Requests out, by endpoint.
    in_flight: RefCell<Vec<usize>>,
    /// When each request of this process began to be sent.
    sendings: RefCell<Vec<Instant>>,
    connect_faults: Cell<u32>,
    excused: Cell<u32>,
    /// By process: how many of the lines it was answered may be sent again.
    repeats_max: RefCell<Vec<(usize, usize)>>,
    violations: RefCell<Vec<String>>,
}

/// What the endpoints know of a line.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Requests that arrived from the process that runs.
    pub received: u32,
    /// … of those, how many cost no attempt.
    pub excused: u32,
    /// Faults that it met in this process.
    faults: u32,
    /// Processes to which it was answered for good.
    pub answered: Vec<usize>,
}

impl Outside {
    pub fn new(world: &Rc<World>, scenario: Scenario, first: Process) -> Rc<Self> {
        let outside = Rc::new(Self {
            world: Rc::downgrade(world),
            books: RefCell::new(vec![Book::default(); scenario.lines.len()]),
            in_flight: RefCell::new(vec![0; scenario.endpoints]),
            scenario,
            process: RefCell::new(first),
            number: Cell::new(0),
            begun: Cell::new(world.now()),
            is_mended: Cell::new(false),
            sendings: RefCell::default(),
            connect_faults: Cell::new(0),
            excused: Cell::new(0),
            repeats_max: RefCell::default(),
            violations: RefCell::default(),
        });
        world.network.watch(Rc::<Self>::clone(&outside));
        for endpoint in 0..outside.scenario.endpoints {
            let served = Rc::clone(&outside);
            let serve = move |peer| -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
                Box::pin(servers::serve(Rc::clone(&served), endpoint, peer))
            };
            world.network.listen(address(endpoint), Rc::new(serve));
        }
        outside
    }

    /// The next process begins.
    pub fn begin(&self, number: usize, process: Process) {
        *self.process.borrow_mut() = process;
        self.number.set(number);
        self.begun.set(self.world().now());
        self.in_flight.borrow_mut().fill(0);
        self.sendings.borrow_mut().clear();
        self.connect_faults.set(0);
        self.excused.set(0);
        for book in self.books.borrow_mut().iter_mut() {
            *book = Book {
                answered: std::mem::take(&mut book.answered),
                ..Book::default()
            };
        }
    }

    pub fn world(&self) -> Rc<World> {
        self.world.upgrade().expect("the world is there")
    }

    pub fn trouble(&self) -> Trouble {
        self.process.borrow().trouble.clone()
    }

    pub fn sendings(&self) -> Ref<'_, Vec<Instant>> {
        self.sendings.borrow()
    }

    /// Requests of this process that were sent twice without an attempt.
    pub fn excused(&self) -> u32 {
        self.excused.get()
    }

    pub fn violation(&self, what: String) {
        let mut violations = self.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.take()
    }

    /// From now on the servers answer what they failed on before.
    pub fn mend(&self) {
        self.is_mended.set(true);
    }

    /// The endpoint refuses the key.
    pub fn is_dead(&self, endpoint: usize) -> bool {
        self.process.borrow().dead == Some(endpoint)
    }

    /// The endpoint is out.
    pub fn is_out(&self, endpoint: usize) -> bool {
        let since = self.world().now().duration_since(self.begun.get());
        let outage = self.process.borrow().outage;
        outage.is_some_and(|(out, from, lasts)| {
            out == endpoint && (from..from + lasts).contains(&since)
        })
    }

    /// A request of a line has arrived.
    pub fn receives(&self, id: usize, endpoint: usize) -> Line {
        let line = &self.scenario.lines[id];
        let mut books = self.books.borrow_mut();
        let book = &mut books[id];
        book.received += 1;
        let most = self.scenario.attempts_max + book.excused;
        if book.received > most {
            let received = book.received;
            self.violation(format!(
                "{} was sent {received} times, at most {most} attempts are allowed (endpoint {endpoint})",
                line.mark()
            ));
        }
        line.clone().if_mended(self.is_mended.get())
    }

    /// It is answered for good.
    pub fn answers(&self, id: usize) {
        let number = self.number.get();
        if self.is_mended.get() && self.scenario.lines[id].fate == Fate::Refused {
            // A failure, which each process that is told to sends again.
            return;
        }
        let answered = &mut self.books.borrow_mut()[id].answered;
        if answered.last() != Some(&number) {
            answered.push(number);
        }
    }

    /// It will be sent again without an attempt.
    pub fn excuse(&self, id: usize) {
        self.books.borrow_mut()[id].excused += 1;
        self.excused.set(self.excused.get() + 1);
    }

    /// So many of the lines that a process was answered may be sent again.
    pub fn may_repeat(&self, process: usize, most: usize) {
        self.repeats_max.borrow_mut().push((process, most));
    }

    /// Power was lost: processes that did not end well may have left records that were not synced.
    pub fn lift_repeats(&self) {
        for (_, most) in self.repeats_max.borrow_mut().iter_mut() {
            if *most > 0 {
                *most = usize::MAX;
            }
        }
    }

    /// A process of which more lines were sent again than may be, with both figures.
    pub fn repeated_too_often(&self) -> Option<(usize, usize, usize)> {
        let books = self.books.borrow();
        let lines = self.scenario.lines.iter().zip(books.iter());
        let repeated: Vec<&Book> = lines
            .filter(|(line, _)| matches!(line.fate, Fate::Answered | Fate::Refused))
            .map(|(_, book)| book)
            .collect();
        let repeats_max = self.repeats_max.borrow();
        repeats_max.iter().find_map(|&(process, most)| {
            let is_repeated = |book: &&&Book| {
                book.answered.contains(&process) && book.answered.last() > Some(&process)
            };
            let count = repeated.iter().filter(is_repeated).count();
            (count > most).then_some((process, count, most))
        })
    }

    /// Whether this answer is to be a fault.
    pub fn may_fault(&self, id: usize) -> bool {
        let Trouble {
            answers, per_line, ..
        } = self.trouble();
        let mut books = self.books.borrow_mut();
        let may = !self.scenario.decided || books[id].faults < per_line;
        let is_fault = may && self.world().chance(answers);
        books[id].faults += u32::from(is_fault);
        is_fault
    }
}

impl Watcher for Outside {
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

    fn sends(&self, address: SocketAddr, since: Instant, request: &[u8]) {
        let endpoint = endpoint_of(address);
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight[endpoint] += 1;
        self.sendings.borrow_mut().push(since);
        let config = &self.process.borrow().config;
        let limit = config.endpoints[endpoint].max_concurrent;
        if in_flight[endpoint] > limit {
            self.violation(format!(
                "{} requests in flight to endpoint {endpoint}, its max_concurrent is {limit}",
                in_flight[endpoint]
            ));
        }
        let all: usize = in_flight.iter().sum();
        if all > config.request.workers {
            let workers = config.request.workers;
            self.violation(format!("{all} requests in flight, --workers is {workers}"));
        }
        let Some(id) = marked(request) else {
            return self.violation("a request of no line".to_owned());
        };
        let answered = self.books.borrow()[id]
            .answered
            .contains(&self.number.get());
        if answered && self.scenario.lines[id].fate == Fate::Answered {
            self.violation(format!(
                "{} is sent again though this process has its answer",
                self.scenario.lines[id].mark()
            ));
        }
    }

    fn ended(&self, address: SocketAddr) {
        let mut in_flight = self.in_flight.borrow_mut();
        let count = &mut in_flight[endpoint_of(address)];
        *count = count.saturating_sub(1);
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
