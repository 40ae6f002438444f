//! Everything around the simulated process that is not disk: the network's mood, and the books that
//! the endpoints keep of what reaches them.

mod watch;

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::lines::{Fate, Line};
use super::scenario::{Process, Scenario, Trouble, address};
use super::servers;
use super::streams::Streams;
use crate::runtime::simulated::world::World;

/// Violations kept; the first says what is wrong.
const VIOLATIONS_MAX: usize = 20;

/// See the module.
pub struct Outside {
    world: Weak<World>,
    scenario: Scenario,
    process: RefCell<Process>,
    number: Cell<usize>,
    /// When the run began, and the process that runs.
    began: Instant,
    begun: Cell<Instant>,
    /// Servers answer what they failed on before.
    is_mended: Cell<bool>,
    books: RefCell<Vec<Book>>,
    /// Requests out, by endpoint.
    in_flight: RefCell<Vec<usize>>,
    /// When each request of this process began to be sent, and to which endpoint.
    sendings: RefCell<Vec<(Instant, usize)>>,
    cooldowns: RefCell<Vec<Cooldown>>,
    /// More were out than may be, since when.
    excess: RefCell<Option<(Instant, String)>>,
    /// Connections that speak HTTP/2, by number.
    shared: RefCell<BTreeMap<u64, Streams>>,
    connect_faults: Cell<u32>,
    excused: Cell<u32>,
    /// What each process may have sent again.
    repeats: RefCell<Vec<Repeats>>,
    violations: RefCell<Vec<String>>,
}

/// What the endpoints know of a line.
#[derive(Clone, Debug, Default)]
struct Book {
    /// Requests that arrived from the process that runs.
    received: u32,
    /// … of those, how many may have met a stale connection: sent again without an attempt, once.
    stale: u32,
    /// … and how many met an endpoint that refuses the key, which costs no attempt.
    refused: u32,
    /// Faults that it met in all processes: attempts that were answered count over the whole run.
    faults: u32,
    /// Answers, in all processes, that fail whatever endpoint gives them.
    dooms: u32,
    /// Processes to which it was answered for good, and when.
    answered: Vec<(usize, Instant)>,
    /// It is in flight, or was when the process was killed.
    is_out: bool,
    /// The last process that sent it.
    last_sender: Option<usize>,
}

/// A server has asked to wait.
struct Cooldown {
    endpoint: usize,
    /// By then every shard has heard of it.
    heard: Instant,
    until: Instant,
}

/// How many of the lines that a process was answered, or had in flight at its end, may be sent again.
#[derive(Debug)]
struct Repeats {
    process: usize,
    most: usize,
    in_flight: Vec<usize>,
    ended: Instant,
    /// What has its record is synced some time later, because nothing was wrong with its disk.
    syncs: bool,
    /// Power was lost after it: what was answered since then may be lost besides.
    lost_since: Option<Instant>,
}

/// How long after its server has begun to answer a line must be safe under `--durability power`:
/// the answer's way, in pieces with pauses, a stalled shard, and the tenth of a second between syncs.
const SAFE_AFTER: Duration = Duration::from_millis(1_000);
/// How long news of a cooldown takes from the shard that hears of it to every other.
const NEWS_SPREAD_WITHIN: Duration = Duration::from_millis(250);

impl Book {
    fn was_answered(&self, process: usize) -> bool {
        self.answered.iter().any(|(number, _)| *number == process)
    }

    /// When `process` was answered, if a later one was again.
    fn answered_again(&self, process: usize) -> Option<Instant> {
        let (_, at) = self
            .answered
            .iter()
            .find(|(number, _)| *number == process)?;
        let (last, _) = self.answered.last()?;
        (*last > process).then_some(*at)
    }
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
            began: world.now(),
            begun: Cell::new(world.now()),
            is_mended: Cell::new(false),
            sendings: RefCell::default(),
            cooldowns: RefCell::default(),
            excess: RefCell::default(),
            shared: RefCell::default(),
            connect_faults: Cell::new(0),
            excused: Cell::new(0),
            repeats: RefCell::default(),
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
        self.cooldowns.borrow_mut().clear();
        self.excess.take();
        self.shared.borrow_mut().clear();
        self.connect_faults.set(0);
        self.excused.set(0);
        for book in self.books.borrow_mut().iter_mut() {
            (book.received, book.stale, book.refused) = (0, 0, 0);
        }
    }

    pub fn world(&self) -> Rc<World> {
        self.world.upgrade().expect("the world is there")
    }

    /// Since the run began.
    pub fn elapsed(&self) -> Duration {
        self.world().now().duration_since(self.began)
    }

    pub fn trouble(&self) -> Trouble {
        self.process.borrow().trouble.clone()
    }

    pub fn sendings(&self) -> Ref<'_, Vec<(Instant, usize)>> {
        self.sendings.borrow()
    }

    /// Requests of this process that were sent twice without an attempt.
    pub fn excused(&self) -> u32 {
        self.excused.get()
    }

    pub fn violation(&self, what: String) {
        self.world().event("VIOLATION", 0, || what.clone());
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

    /// Attempts to connect may fail.
    fn can_be_unreachable(&self) -> bool {
        let process = self.process.borrow();
        process.outage.is_some() || process.trouble.connects > 0.0
    }

    /// A request of a line has arrived.
    pub fn receives(&self, id: usize, endpoint: usize) -> Line {
        let line = &self.scenario.lines[id];
        let mut books = self.books.borrow_mut();
        let book = &mut books[id];
        book.received += 1;
        let attempts_max = self.scenario.attempts_max;
        // Once for each attempt, of which those do not count that end when nobody can be reached.
        let resent_max = match self.can_be_unreachable() {
            true => book.stale,
            false => book.stale.min(attempts_max),
        };
        let most = attempts_max + resent_max + book.refused;
        if book.received > most {
            let received = book.received;
            self.violation(format!(
                "{} was sent {received} times, {attempts_max} attempts and {} more are allowed (endpoint {endpoint})",
                line.mark(),
                most - attempts_max
            ));
        }
        line.clone().if_mended(self.is_mended.get())
    }

    /// It is answered for good.
    pub fn answers(&self, id: usize) {
        let number = self.number.get();
        let fate = self.scenario.lines[id].fate;
        if fate == Fate::Refused && (self.is_mended.get() || self.scenario.endpoints > 1) {
            // A failure, which each process that is told to sends again; or, from an endpoint that has
            // answered nothing well, one to be asked about elsewhere.
            return;
        }
        let book = &mut self.books.borrow_mut()[id];
        if !self.is_mended.get() && matches!(fate, Fate::Fails | Fate::NotJson) {
            book.dooms += 1;
        }
        if !book.was_answered(number) {
            book.answered.push((number, self.world().now()));
        }
    }

    /// The same, once the answer on that stream has come whole.
    pub fn answers_on(&self, connection: u64, stream: u32) {
        if let Some(streams) = self.shared.borrow_mut().get_mut(&connection)
            && let Some((_, exchange)) = streams.open().find(|(number, _)| *number == stream)
        {
            exchange.is_for_good = true;
        }
    }

    /// When the client stops waiting for what is out on that stream.
    pub fn deadline_on(&self, connection: u64, stream: u32) -> Option<Instant> {
        let timeout = self.process.borrow().config.request.timeout;
        let mut shared = self.shared.borrow_mut();
        let mut open = shared.get_mut(&connection)?.open();
        let (_, exchange) = open.find(|(number, _)| *number == stream)?;
        Some(exchange.since + timeout)
    }

    /// What comes on an HTTP/2 connection breaks the protocol: its client may complain.
    pub fn breaks(&self, connection: u64) {
        if let Some(streams) = self.shared.borrow_mut().get_mut(&connection) {
            streams.is_broken = true;
        }
    }

    /// An HTTP/2 connection ends under all that is out on it.
    pub fn excuse_all_on(&self, connection: u64) {
        if let Some(streams) = self.shared.borrow_mut().get_mut(&connection) {
            let out = streams.open().filter_map(|(_, exchange)| exchange.request);
            out.for_each(|id| self.excuse_stale(id));
        }
    }

    /// It may have met a stale connection, and is sent again without an attempt.
    pub fn excuse_stale(&self, id: usize) {
        self.books.borrow_mut()[id].stale += 1;
        self.excused.set(self.excused.get() + 1);
    }

    /// Its endpoint refuses the key, or the request for load: it is sent again without an attempt.
    pub fn excuse_refused(&self, id: usize) {
        self.books.borrow_mut()[id].refused += 1;
        self.excused.set(self.excused.get() + 1);
    }

    /// The endpoint has asked to wait, in an answer that is on its way. That concerns everybody if it is
    /// the group's first wait; later, one that comes alone among many answers concerns its own line only.
    pub fn cools(&self, endpoint: usize, wait: Duration) {
        let cooldowns = self.cooldowns.borrow();
        if (cooldowns.iter()).any(|cooldown| self.share_quota(cooldown.endpoint, endpoint)) {
            return;
        }
        drop(cooldowns);
        let now = self.world().now();
        let arrives_within = self.process.borrow().latency_max;
        self.cooldowns.borrow_mut().push(Cooldown {
            endpoint,
            heard: now + arrives_within + NEWS_SPREAD_WITHIN,
            until: now + wait,
        });
    }

    fn share_quota(&self, one: usize, other: usize) -> bool {
        let config = &self.process.borrow().config;
        let group = |endpoint: usize| config.endpoints[endpoint].quota_group.as_ref();
        one == other || group(one).is_some() && group(one) == group(other)
    }

    /// A request begins to be sent at `since`, and its quota group has been asked to wait.
    fn is_within_cooldown(&self, endpoint: usize, since: Instant) -> bool {
        let cooldowns = self.cooldowns.borrow();
        cooldowns
            .iter()
            .filter(|cooldown| self.share_quota(cooldown.endpoint, endpoint))
            .any(|cooldown| (cooldown.heard..cooldown.until).contains(&since))
    }

    /// A process has ended; so many of the lines that it was answered may be sent again. `syncs`: what
    /// has its record becomes safe from a loss of power.
    pub fn may_repeat(&self, process: usize, most: usize, syncs: bool) {
        let mut in_flight = Vec::new();
        for (id, book) in self.books.borrow_mut().iter_mut().enumerate() {
            if std::mem::take(&mut book.is_out) {
                in_flight.push(id);
            }
        }
        self.repeats.borrow_mut().push(Repeats {
            process,
            most,
            in_flight,
            ended: self.world().now(),
            syncs,
            lost_since: None,
        });
    }

    /// Power was lost: processes that did not end well may have left records that were not synced,
    /// unless the last one sent anything. Before that it syncs what the others left.
    pub fn lose_power(&self) {
        let last = self.number.get();
        let has_sent = !self.sendings.borrow().is_empty();
        for repeats in self.repeats.borrow_mut().iter_mut() {
            let begun = repeats.ended.checked_sub(SAFE_AFTER);
            if repeats.most > 0 && (repeats.process == last || !has_sent) {
                let since = begun.filter(|_| repeats.syncs);
                repeats.lost_since = Some(since.unwrap_or(self.began));
            }
        }
    }

    /// Power was lost, and nobody had promised that anything survives it.
    pub fn lose_everything(&self) {
        for repeats in self.repeats.borrow_mut().iter_mut() {
            repeats.lost_since = Some(self.began);
        }
    }

    /// A line of these that the process has sent.
    pub fn has_sent_any_of(&self, numbers: &BTreeSet<u64>) -> Option<String> {
        let number = self.number.get();
        let books = self.books.borrow();
        let mut lines = self.scenario.lines.iter().zip(books.iter());
        lines
            .find(|(line, book)| book.last_sender == Some(number) && numbers.contains(&line.number))
            .map(|(line, _)| line.mark())
    }

    /// A process of which more lines were sent again than may be, with both figures: those that it was
    /// answered, and those that it had in flight when it was killed.
    pub fn repeated_too_often(&self) -> Option<(usize, usize, usize)> {
        let books = self.books.borrow();
        let lines = self.scenario.lines.iter().zip(books.iter());
        let lines: Vec<(usize, &Book)> = lines
            .filter(|(line, _)| matches!(line.fate, Fate::Answered | Fate::Refused))
            .map(|(line, book)| (line.id, book))
            .collect();
        let repeats = self.repeats.borrow();
        repeats.iter().find_map(|repeats| {
            let process = repeats.process;
            let answered = |book: &Book| book.answered_again(process);
            let was_in_flight = |id: &usize, book: &Book| {
                repeats.in_flight.contains(id) && book.last_sender > Some(process)
            };
            let (count, most) = match repeats.lost_since {
                None => {
                    let is_repeated = |(id, book): &&(usize, &Book)| {
                        answered(book).is_some() || was_in_flight(id, book)
                    };
                    (lines.iter().filter(is_repeated).count(), repeats.most)
                }
                Some(since) => {
                    let answered = lines.iter().filter_map(|(_, book)| answered(book));
                    (answered.filter(|at| *at < since).count(), 0)
                }
            };
            (count > most).then_some((process, count, most))
        })
    }

    /// A line that was answered with its failure more often than it may have attempts, over all
    /// processes of the run, with both figures: an attempt is forgotten only if its process did not end
    /// well.
    pub fn doomed_too_often(&self) -> Option<(String, u32, u32)> {
        let repeats = self.repeats.borrow();
        let forgetful = repeats.iter().filter(|repeats| repeats.most > 0).count() as u32;
        let most = self.scenario.attempts_max + forgetful;
        let books = self.books.borrow();
        let lost_power = repeats.iter().any(|repeats| repeats.lost_since.is_some());
        let mut lines = self.scenario.lines.iter().zip(books.iter());
        lines
            .find(|(_, book)| !lost_power && book.dooms > most)
            .map(|(line, book)| (line.mark(), book.dooms, most))
    }

    /// Faults stay below what makes a line fail that should not.
    pub fn is_decided(&self) -> bool {
        self.scenario.decided
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
