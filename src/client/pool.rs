//! One shard's connections, kept alive between exchanges.

use std::cell::Cell;
use std::future::Future;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connect::Stream;
use super::deadline::Deadlines;
use super::endpoint::{Endpoint, Idle, Way};
use super::failure::{Failure, Phase};
use super::http2::{self, Ended};
use super::pump::{self, Broken, Transfer};
use super::{Exchange, Target, Wanted};
use crate::http::{Limits, Response};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime, Write, awaited, buffers};

/// Connections that may turn out to take no more streams before an exchange gives up.
const UNSENT_MAX: usize = 3;
/// GOAWAYs that may send one exchange elsewhere without being its fault: servers close connections
/// in full use after so many requests (nginx: 1000), and of the 128 streams on one the last has to
/// move on 128 / 8 times if the server takes only 8 requests a connection.
const UNDONE_MAX: usize = 16;

/// What all targets of a pool share.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Caps of a response.
    pub limits: Limits,
    /// How long a connection may idle. Servers close theirs after 5 to 75 s, and a closed one only
    /// costs a second sending.
    pub idle_timeout: Duration,
    /// For `https` targets; see [`super::load_tls`].
    pub tls: Option<Arc<ClientConfig>>,
}

/// Figures of a pool since its start, and of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections open now.
    pub open: usize,
    /// Of those, without an exchange.
    pub idle: usize,
    /// Connections opened so far.
    pub opened: u64,
    /// Requests sent a second time because a reused connection had gone stale, or the server had
    /// done nothing with them.
    pub stale_resends: u64,
    /// Response bytes received (HTTP, before TLS; of HTTP/2 as HTTP/1.1 would have them).
    pub bytes_in: u64,
    /// Request bytes sent, counted alike.
    pub bytes_out: u64,
}

/// Connections to a fixed list of targets, for one thread.
///
/// Nothing here sets a timer for a request: whoever owns the pool calls [`Pool::sweep`] every 100 ms
/// or so, and that is how late a timeout may be.
pub struct Pool<R: Runtime> {
    settings: PoolSettings,
    targets: Vec<Rc<Endpoint<R>>>,
    deadlines: Rc<Deadlines>,
    /// The time of the last sweep: exact enough to date idle connections, and free.
    swept_at: Cell<Instant>,
    stale_resends: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

/// One exchange's caller and what it has come to. Behind one pointer, so that every future on the
/// way down keeps one word of it.
struct Parts<'a, W, B> {
    write: &'a mut W,
    on_body: &'a mut B,
    transfer: &'a mut Transfer,
    times: &'a Times,
    /// Bytes of the request that was written last.
    written: usize,
    resent: bool,
}

struct Times {
    start: Instant,
    deadline: Instant,
}

impl<W: FnMut(&mut Vec<u8>), B> Parts<'_, W, B> {
    /// The request, written for `endpoint`.
    fn written<R: Runtime>(&mut self, endpoint: &Endpoint<R>) -> Vec<u8> {
        let mut request = buffers::take();
        (self.write)(&mut request);
        endpoint.rewrite_for_proxy(&mut request);
        self.written = request.len();
        request
    }

    fn late(&self, phase: Phase, peer: &str) -> Failure {
        Failure::Timeout {
            phase,
            peer: peer.to_owned(),
            after: self
                .times
                .deadline
                .saturating_duration_since(self.times.start),
        }
    }
}

impl<R: Runtime> Pool<R> {
    /// A pool without connections yet; [`Pool::exchange`] names targets by their place in `targets`.
    pub fn new(settings: PoolSettings, targets: Vec<Target>, resolver: Resolver) -> Rc<Self> {
        let deadlines = Rc::<Deadlines>::default();
        let targets = targets.into_iter().map(|target| {
            let (resolver, deadlines) = (resolver.clone(), Rc::clone(&deadlines));
            Endpoint::new(target, &settings, resolver, deadlines)
        });
        Rc::new(Self {
            targets: targets.collect(),
            settings,
            deadlines,
            swept_at: Cell::new(runtime::now()),
            stale_resends: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
        })
    }

    /// One attempt: has `write` append the request (head and body) to an empty buffer, sends it to
    /// `target` and reads the answer. `on_body` sees the decoded body as it arrives, each byte once;
    /// when it has [`Wanted::Enough`], the answer is what has come so far, however the rest ends.
    /// `start` is now, for the caller has looked at the clock.
    ///
    /// A reused connection that ends before the first byte of an answer had gone stale: the request
    /// is written and goes out again on a fresh one, once. Anything else that goes wrong is the result.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn exchange(
        &self,
        target: usize,
        start: Instant,
        deadline: Instant,
        mut write: impl FnMut(&mut Vec<u8>),
        mut on_body: impl FnMut(&[u8]) -> Wanted,
    ) -> impl Future<Output = Exchange> {
        let endpoint = &self.targets[target];
        let times = Times { start, deadline };
        // Not an `async fn`: that would keep every argument twice for as long as the exchange runs.
        async move {
            let mut transfer = Transfer {
                reply: Vec::new(),
                answered: false,
                received: 0,
            };
            let mut parts = Parts {
                write: &mut write,
                on_body: &mut on_body,
                transfer: &mut transfer,
                times: &times,
                written: 0,
                resent: false,
            };
            let awaited = awaited::Exchange::begin();
            let result = self.perform(endpoint, &mut parts).await;
            drop(awaited);
            let resent = parts.resent;
            Exchange {
                result,
                resent,
                reply: transfer.reply,
                answered: transfer.answered,
            }
        }
    }

    /// Sends on a stream if the server speaks HTTP/2, else on an idle connection or a fresh one, and
    /// a second time if the idle one was stale.
    async fn perform<W: FnMut(&mut Vec<u8>), B: FnMut(&[u8]) -> Wanted>(
        &self,
        endpoint: &Rc<Endpoint<R>>,
        parts: &mut Parts<'_, W, B>,
    ) -> Result<Response, Failure> {
        let mut shared = endpoint.multiplexes();
        loop {
            if shared {
                if let Some(result) = self.perform_shared(endpoint, parts).await {
                    return result;
                }
                shared = false;
            }
            let idle = match parts.resent {
                true => None,
                false => endpoint.take_idle(),
            };
            let reused = idle.as_ref().is_some_and(|idle| !idle.fresh);
            let mut connection = match idle {
                Some(idle) => idle.connection,
                // In a box, because it is large, rare, and would make every exchange as large.
                None => match Box::pin(endpoint.open(parts.times.deadline)).await? {
                    Some(connection) => connection,
                    None => {
                        shared = true;
                        continue;
                    }
                },
            };
            connection.lease.arm(parts.times.deadline);
            let (lease, limits) = (&connection.lease, self.settings.limits);
            let attempt = match &mut connection.stream {
                Stream::Plain { reader, writer, .. } => {
                    let write = pin!(writer.send(parts.written(endpoint)));
                    let (transfer, on_body) = (&mut *parts.transfer, &mut *parts.on_body);
                    pump::perform(reader, write, lease, limits, transfer, on_body).await
                }
                // In a box: a session's memory dwarfs it, and it would make plain exchanges larger.
                Stream::Tls { reader, writer } => {
                    let exchange = async {
                        let write = pin!(writer.send(parts.written(endpoint)));
                        let (transfer, on_body) = (&mut *parts.transfer, &mut *parts.on_body);
                        pump::perform(reader, write, lease, limits, transfer, on_body).await
                    };
                    Box::pin(exchange).await
                }
            };
            let timed_out = connection.lease.disarm();
            count(&self.bytes_in, mem::take(&mut parts.transfer.received));
            if reused && !timed_out && attempt.went_nowhere() {
                // It had gone stale, and nothing was sent: as if it had not been taken.
                continue;
            }
            count(&self.bytes_out, parts.written);

            let broken = match attempt.outcome {
                Ok(response) if !(timed_out && attempt.closed) => {
                    // A deadline that fired at the last moment has shut the connection down.
                    if response.reusable && attempt.sent && !timed_out {
                        // As exactly as sweeps look at it, and without another look at the clock.
                        let since = parts.times.start.max(self.swept_at.get());
                        let fresh = false;
                        endpoint.idle.borrow_mut().push(Idle {
                            connection,
                            since,
                            fresh,
                        });
                    }
                    return Ok(response);
                }
                // An abort looks like a close, and must not pass for the end of a body that only
                // a close ends.
                Ok(_) => Broken::Cut(None),
                Err(broken) => broken,
            };
            return Err(match broken {
                _ if timed_out => parts.late(attempt.phase, &endpoint.peer),
                Broken::Cut(_) if reused && !parts.transfer.answered => {
                    parts.resent = true;
                    count(&self.stale_resends, 1);
                    continue;
                }
                Broken::Cut(error) => Failure::cut(error.as_ref(), attempt.phase, &endpoint.peer),
                Broken::Protocol(error) => Failure::protocol(&error, &endpoint.peer),
            });
        }
    }

    /// HTTP/2: sends on a stream; a second time if the connection had gone stale or the stream was
    /// refused; and elsewhere whenever a connection closes before it took the request. `None`: the
    /// server speaks HTTP/1.1.
    async fn perform_shared<W: FnMut(&mut Vec<u8>), B: FnMut(&[u8]) -> Wanted>(
        &self,
        endpoint: &Rc<Endpoint<R>>,
        parts: &mut Parts<'_, W, B>,
    ) -> Option<Result<Response, Failure>> {
        let lease = self.deadlines.lease_exchange();
        lease.arm(parts.times.deadline);
        let (mut unsent, mut undone, mut repeated) = (0, 0, parts.resent);
        loop {
            let slot = match endpoint.way(&lease).await {
                None => return Some(Err(parts.late(Phase::Sending, &endpoint.peer))),
                Some(Err(failure)) => return Some(Err(failure)),
                Some(Ok(Way::Http1)) => return None,
                Some(Ok(Way::Http2(slot))) => slot,
            };
            if !http2::room(&slot, &lease).await {
                return Some(Err(parts.late(Phase::Sending, &endpoint.peer)));
            }
            let reused = slot.is_reused();
            let sending = http2::Sending {
                slot,
                heads: &endpoint.group.heads,
                scheme: endpoint.target.origin.scheme,
                peer: &endpoint.peer,
                lease: &lease,
            };
            let request = parts.written(endpoint);
            let (transfer, on_body) = (&mut *parts.transfer, &mut *parts.on_body);
            let ended = match http2::perform(&sending, request, transfer, on_body).await {
                Err(Ended::NotSent) if unsent < UNSENT_MAX => {
                    unsent += 1;
                    continue;
                }
                ended => ended,
            };
            count(&self.bytes_out, parts.written);
            count(&self.bytes_in, parts.transfer.reply.len());
            let failure = match ended {
                Ok(response) => return Some(Ok(response)),
                Err(Ended::Undone(_)) if undone < UNDONE_MAX => {
                    undone += 1;
                    parts.resent = true;
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Refused(_)) if !repeated => {
                    (repeated, parts.resent) = (true, true);
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Cut(_)) if reused && !repeated && !parts.transfer.answered => {
                    (repeated, parts.resent) = (true, true);
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Late(phase)) => parts.late(phase, &endpoint.peer),
                Err(Ended::NotSent) => Failure::Connect(format!(
                    "{} closes its connections before they take a request",
                    endpoint.peer
                )),
                Err(
                    Ended::Undone(failure)
                    | Ended::Refused(failure)
                    | Ended::Cut(failure)
                    | Ended::Failed(failure),
                ) => failure,
            };
            return Some(Err(failure));
        }
    }

    /// Ends exchanges whose deadline has come, which then report [`Failure::Timeout`], and closes
    /// connections that have idled too long. Returns how many exchanges were ended.
    pub fn sweep(&self, now: Instant) -> usize {
        self.swept_at.set(now);
        for endpoint in &self.targets {
            let mut idle = endpoint.idle.borrow_mut();
            let expired = idle
                .iter()
                .take_while(|one| {
                    now.saturating_duration_since(one.since) >= self.settings.idle_timeout
                })
                .count();
            idle.drain(..expired);
            endpoint.group.sweep(now, self.settings.idle_timeout);
        }
        self.deadlines.sweep(now)
    }

    /// Takes in that the thread did not run for so long until `now`, and gives exchanges that time back: what
    /// came for them meanwhile is still to be read. `span` is the longest that an exchange may take.
    pub fn postpone(&self, now: Instant, lasted: Duration, span: Duration) {
        tracing::debug!("the process was held up for {:.1} s", lasted.as_secs_f64());
        self.deadlines.postpone(now, lasted, span);
    }

    /// Closes every connection that no exchange is using.
    pub fn close_idle(&self) {
        for endpoint in &self.targets {
            endpoint.idle.borrow_mut().clear();
            endpoint.group.close_idle();
        }
    }

    /// What the pool has done and holds.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            open: self.deadlines.open(),
            idle: self
                .targets
                .iter()
                .map(|endpoint| endpoint.idle.borrow().len() + endpoint.group.idle())
                .sum(),
            opened: self.targets.iter().map(|one| one.opened.get()).sum(),
            stale_resends: self.stale_resends.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
        }
    }
}

fn count(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get() + amount as u64);
}
