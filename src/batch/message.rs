//! What travels between the coordinator (main thread) and the shards: health, permits, send slots,
//! ranges of input and counters. Nothing else crosses threads.

use std::time::Duration;

use crate::batch::input::LineRange;
use crate::batch::segment::StorageError;
use crate::entra::Token;
use crate::error::ErrorKind;
use crate::metrics::Delta;
use crate::policy::health::{EndpointView, Failures, Fate, Probe};
use crate::policy::load::Pushback;
use crate::policy::pacer::Slots;
use crate::policy::slowdown::Remainders;
use crate::provider::Refusal;
use crate::runtime::kernel_time::KernelTime;

/// A pool of in-flight permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// `--workers`.
    Workers,
    /// What the search in flight has found for one quota group.
    Group(usize),
    /// `max_concurrent` of one endpoint.
    Endpoint(usize),
}

/// A schedule of send slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// `--rate`: every request takes a slot of it.
    Run,
    /// Of one quota group (`rpm_limit`, `--rate auto`): requests to its endpoints take one besides.
    Group(usize),
}

/// Coordinator → shard.
#[derive(Debug)]
pub enum Order {
    /// More input to work through.
    Range(LineRange),
    /// All input has been handed out.
    NoMoreInput,
    /// Moments at which a request may be sent.
    Slots(Schedule, Slots),
    /// Tokens of a quota group's `tpm_limit` that may be spent.
    Tokens {
        /// Which quota group.
        group: usize,
        /// How many.
        amount: u64,
    },
    /// Whether requests of a quota group need send slots for now, because little is left of its quota.
    Pace {
        /// Which quota group.
        group: usize,
        /// Otherwise they need none any more.
        slots: bool,
    },
    /// More requests may be in flight.
    Grant(Pool, u32),
    /// Give permits back as soon as possible: another shard has none.
    Recall(Pool),
    /// Give so many permits back as soon as possible: there are fewer now.
    Withdraw(Pool, u32),
    /// What is known of an endpoint now.
    Endpoint(usize, EndpointView),
    /// What becomes of the oldest line of this shard whose record is held back because this endpoint
    /// has refused it.
    Held(usize, Fate),
    /// A newer token, from the thread that fetches them.
    Token(Token),
    /// Send nothing more; finish what is in flight.
    Stop,
    /// Write what is finished, drop the rest and leave.
    Exit,
}

/// Shard → coordinator.
#[derive(Debug)]
pub enum Report {
    /// The shard's thread has begun; how much time it spends inside the kernel is to be seen here.
    Begun(KernelTime),
    /// The shard works on its last range.
    WantRange,
    /// Slots are running low: how many more would be used.
    WantSlots(Schedule, u32),
    /// Slots that will not be used.
    GiveBackSlots(Schedule, Slots),
    /// The next line needs that many more tokens of a quota group's `tpm_limit`.
    WantTokens {
        /// Which quota group.
        group: usize,
        /// How many are missing.
        amount: u64,
    },
    /// Requests took more tokens than were leased for them (or, negative, fewer).
    SettleTokens {
        /// Which quota group.
        group: usize,
        /// How many more.
        more: i64,
    },
    /// A request was refused for load, or its time was over.
    Pushback {
        /// Which endpoint.
        endpoint: usize,
        /// What it says.
        pushback: Pushback,
    },
    /// What is left of an endpoint's quotas (sent while that is little, and once more).
    Remaining {
        /// Which endpoint.
        endpoint: usize,
        /// What its answer said.
        said: Box<Remainders>,
        /// Tokens that the request took; 0: unknown.
        used: u64,
    },
    /// No permit left while a line waits.
    WantPermit(Pool),
    /// Permits given back.
    ReturnPermits(Pool, u32),
    /// An attempt failed in a way that counts towards the endpoint's streak.
    Transient {
        /// Which endpoint.
        endpoint: usize,
        /// What it adds to the streak.
        failures: Failures,
        /// The failure, for the summary of a stopped run.
        message: String,
        /// The endpoint answered, and the line may be what it cannot do.
        may_be_the_line: bool,
        /// It was refused for load: that counts only where nobody is served.
        refused: bool,
    },
    /// Every line that this shard will ever have was tried at least once.
    AllTried,
    /// An attempt was answered well (sent only while the endpoint has a streak or never was).
    Success(usize),
    /// An attempt was answered in a way that proves the endpoint alive, and says no more (as above).
    Alive(usize),
    /// An attempt was answered with a complaint that may be its own (as above, and always where there is
    /// another endpoint).
    Complaint {
        /// Which endpoint.
        endpoint: usize,
        /// What it adds to the streak of answers that are none.
        failures: Failures,
    },
    /// The endpoint refuses its key, its path, or this line.
    Refused(Box<Refused>),
    /// A line that was sent has got its failure record (sent only while no line of the run has succeeded).
    FailedForGood {
        /// The failure's kind.
        kind: ErrorKind,
        /// HTTP status, if there was an answer.
        status: Option<u16>,
        /// Its text.
        message: String,
    },
    /// This shard has nothing left but lines whose records are held back.
    OnlyHeld,
    /// What the half-open probe of an endpoint showed.
    Probed {
        /// Which endpoint.
        endpoint: usize,
        /// What it showed.
        shown: Probe,
    },
    /// This shard has nothing to send the probe of this endpoint with.
    ProbeDeclined(usize),
    /// Whether this shard has anything to send.
    Working(bool),
    /// The server asked to wait.
    Hint {
        /// Which endpoint.
        endpoint: usize,
        /// For how long from now.
        wait: Duration,
    },
    /// The endpoint speaks TLS where its URL says plain HTTP, or the other way round. It is out, unless it
    /// has answered any line well.
    WrongScheme {
        /// Which endpoint.
        endpoint: usize,
        /// What was met, and what to write instead.
        reason: String,
    },
    /// The endpoint cannot be used again in this run.
    Disable {
        /// Which endpoint.
        endpoint: usize,
        /// The server's words.
        reason: String,
        /// The whole quota group is out, because the answer to this line says that there is no money;
        /// otherwise this endpoint alone.
        unpaid: Option<u64>,
    },
    /// Counters since the last report.
    Metrics(Box<Delta>),
    /// No input, nothing parked, nothing in flight, everything written.
    Drained,
    /// Stopped as ordered: nothing in flight, everything finished is written.
    Stopped,
    /// Records can no longer be written.
    Storage(StorageError),
    /// Records can no longer leave through standard output: why, its thread tells at the end.
    Undelivered,
    /// A defect of ours outside any request: the shard cannot be trusted to finish its lines.
    Broken(String),
    /// The shard's thread is over; an error if it could not run at all.
    Ended(Result<(), String>),
}

/// An endpoint's refusal of a key, a path or a line.
#[derive(Debug)]
pub struct Refused {
    /// Which endpoint.
    pub endpoint: usize,
    /// What it refused; never its model, which is no matter for anybody else.
    pub what: Refusal,
    /// The line's physical number.
    pub line: u64,
    /// The line's record is held back: an [`Order::Held`] is awaited.
    pub is_held: bool,
    /// The request was a probe.
    pub is_probe: bool,
    /// What it adds to the streak of answers that are none.
    pub failures: Failures,
    /// The server's words.
    pub reason: String,
}

/// What the coordinator waits for.
#[derive(Debug)]
pub struct Event {
    /// Who reports.
    pub shard: usize,
    /// What.
    pub report: Report,
}
