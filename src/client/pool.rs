//! One shard's connections, kept alive between exchanges.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connect::{self, Connection, Stream};
use super::deadline::Deadlines;
use super::failure::Failure;
use super::pump::{self, Broken, Transfer};
use super::{Exchange, Target, proxy};
use crate::http::{Limits, Response, Scheme};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime};

/// Room that a reply's buffer keeps from one exchange to the next; a rare huge answer must not
/// hold its memory for the rest of the run.
const REPLY_KEPT: usize = 1 << 20;

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
    /// Of those, waiting for an exchange.
    pub idle: usize,
    /// Connections opened so far.
    pub opened: u64,
    /// Requests sent a second time because a reused connection had gone stale.
    pub stale_resends: u64,
    /// Response bytes received (HTTP, before TLS).
    pub bytes_in: u64,
    /// Request bytes sent (HTTP, before TLS).
    pub bytes_out: u64,
}

/// Connections to a fixed list of targets, for one thread.
///
/// Nothing here sets a timer for a request: whoever owns the pool calls [`Pool::sweep`] every 100 ms
/// or so, and that is how late a timeout may be.
pub struct Pool<R: Runtime> {
    settings: PoolSettings,
    resolver: Resolver,
    targets: Vec<Endpoint<R>>,
    deadlines: Rc<Deadlines>,
    /// The time of the last sweep: exact enough to date idle connections, and free.
    swept_at: Cell<Instant>,
    opened: Cell<u64>,
    stale_resends: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

struct Endpoint<R: Runtime> {
    target: Target,
    /// Host and port, for messages.
    peer: String,
    /// The most recently used is last and goes first, so that the rest can grow old and close.
    idle: RefCell<Vec<Idle<R>>>,
}

struct Idle<R: Runtime> {
    connection: Box<Connection<R>>,
    since: Instant,
}

impl<R: Runtime> Pool<R> {
    /// A pool without connections yet; [`Pool::exchange`] names targets by their place in `targets`.
    pub fn new(settings: PoolSettings, targets: Vec<Target>, resolver: Resolver) -> Rc<Self> {
        let targets = targets.into_iter().map(|target| Endpoint {
            peer: connect::peer_name(&target.origin),
            target,
            idle: RefCell::default(),
        });
        Rc::new(Self {
            settings,
            resolver,
            targets: targets.collect(),
            deadlines: Rc::default(),
            swept_at: Cell::new(runtime::now()),
            opened: Cell::default(),
            stale_resends: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
        })
    }

    /// One attempt: sends `request` (head and body) to `target` and reads the answer into `reply`,
    /// whose old contents are dropped. `on_body` sees the decoded body as it arrives, each byte once.
    ///
    /// A reused connection that ends before the first byte of an answer had gone stale: the request
    /// goes out again on a fresh one, once. Anything else that goes wrong is the result.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn exchange(
        &self,
        target: usize,
        request: Vec<u8>,
        mut reply: Vec<u8>,
        deadline: Instant,
        mut on_body: impl FnMut(&[u8]),
    ) -> impl Future<Output = Exchange> {
        let endpoint = &self.targets[target];
        reply.clear();
        reply.shrink_to(REPLY_KEPT);
        let mut transfer = Transfer {
            request,
            reply,
            first_byte_at: None,
            received: 0,
        };
        // Not an `async fn`: that would keep every argument twice for as long as the exchange runs.
        async move {
            let original = endpoint.rewrite_for_proxy(&mut transfer.request);
            let (result, resent) = self
                .perform(endpoint, deadline, &mut transfer, &mut on_body)
                .await;
            let Transfer {
                request,
                reply,
                first_byte_at,
                ..
            } = transfer;
            Exchange {
                result,
                request: original.unwrap_or(request),
                reply,
                first_byte_at,
                resent,
            }
        }
    }

    /// Sends on an idle connection or a fresh one, and a second time if the idle one was stale.
    async fn perform(
        &self,
        endpoint: &Endpoint<R>,
        deadline: Instant,
        transfer: &mut Transfer,
        on_body: &mut impl FnMut(&[u8]),
    ) -> (Result<Response, Failure>, bool) {
        let start = runtime::now();
        let mut resent = false;
        loop {
            let idle = if resent { None } else { endpoint.take_idle() };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                // In a box, because it is large, rare, and would make every exchange as large.
                None => match Box::pin(self.open(endpoint, deadline)).await {
                    Ok(connection) => connection,
                    Err(failure) => return (Err(failure), resent),
                },
            };
            connection.lease.arm(deadline);
            let (lease, limits) = (&connection.lease, self.settings.limits);
            let attempt = match &mut connection.stream {
                Stream::Plain { reader, writer } => {
                    pump::perform(reader, writer, lease, limits, transfer, on_body).await
                }
                Stream::Tls { reader, writer } => {
                    pump::perform(reader, writer, lease, limits, transfer, on_body).await
                }
            };
            let timed_out = connection.lease.disarm();
            count(&self.bytes_out, transfer.request.len());
            count(&self.bytes_in, mem::take(&mut transfer.received));

            let broken = match attempt.outcome {
                Ok(response) if !(timed_out && attempt.closed) => {
                    // A deadline that fired at the last moment has shut the connection down.
                    if response.reusable && attempt.sent && !timed_out {
                        let since = transfer.first_byte_at.unwrap_or(start);
                        let since = since.max(self.swept_at.get());
                        endpoint.idle.borrow_mut().push(Idle { connection, since });
                    }
                    return (Ok(response), resent);
                }
                // An abort looks like a close, and must not pass for the end of a body that only
                // a close ends.
                Ok(_) => Broken::Cut(None),
                Err(broken) => broken,
            };
            let failure = match broken {
                _ if timed_out => Failure::Timeout {
                    phase: attempt.phase,
                    peer: endpoint.peer.clone(),
                    after: deadline.saturating_duration_since(start),
                },
                Broken::Cut(_) if reused && transfer.first_byte_at.is_none() => {
                    resent = true;
                    count(&self.stale_resends, 1);
                    continue;
                }
                Broken::Cut(error) => Failure::cut(error.as_ref(), attempt.phase, &endpoint.peer),
                Broken::Protocol(error) => Failure::protocol(&error, &endpoint.peer),
            };
            return (Err(failure), resent);
        }
    }

    /// Aborts exchanges whose deadline has come, which then report [`Failure::Timeout`], and closes
    /// connections that have idled too long. Returns how many exchanges were aborted.
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
        }
        self.deadlines.sweep(now)
    }

    /// Closes every connection that no exchange is using.
    pub fn close_idle(&self) {
        for endpoint in &self.targets {
            endpoint.idle.borrow_mut().clear();
        }
    }

    /// What the pool has done and holds.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            open: self.deadlines.open(),
            idle: self
                .targets
                .iter()
                .map(|endpoint| endpoint.idle.borrow().len())
                .sum(),
            opened: self.opened.get(),
            stale_resends: self.stale_resends.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint<R>,
        deadline: Instant,
    ) -> Result<Box<Connection<R>>, Failure> {
        let tls = self.settings.tls.as_ref();
        let connection = connect::open(
            &endpoint.target,
            &self.resolver,
            tls,
            &self.deadlines,
            deadline,
        )
        .await?;
        count(&self.opened, 1);
        Ok(Box::new(connection))
    }
}

impl<R: Runtime> Endpoint<R> {
    /// The most recently used connection that is still of use. On a plain one that has bytes to
    /// read they would pass for the next answer: a late 408, the rest of a broken response. Under TLS
    /// they may be session tickets; what a peer may put there is its own.
    fn take_idle(&self) -> Option<Box<Connection<R>>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop() {
            let is_plain = matches!(connection.stream, Stream::Plain { .. });
            if !is_plain || connection.lease.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Plain HTTP through a proxy: puts a rewritten copy in the request's place and returns the
    /// original.
    fn rewrite_for_proxy(&self, request: &mut Vec<u8>) -> Option<Vec<u8>> {
        let Target { origin, proxy, .. } = &self.target;
        let proxy = proxy.as_ref().filter(|_| origin.scheme == Scheme::Http)?;
        let rewritten = proxy::absolute_form(request, origin, proxy);
        Some(mem::replace(request, rewritten))
    }
}

fn count(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get() + amount as u64);
}
