//! One shard's connections, kept alive between exchanges.

use std::cell::Cell;
use std::future::Future;
use std::mem;
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
use super::{Exchange, Target};
use crate::http::{Limits, Response, Scheme};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime};

/// Room that a reply's buffer keeps from one exchange to the next; a rare huge answer must not
/// hold its memory for the rest of the run.
const REPLY_KEPT: usize = 1 << 20;
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

impl<R: Runtime> Pool<R> {
    /// A pool without connections yet; [`Pool::exchange`] names targets by their place in `targets`.
    pub fn new(settings: PoolSettings, targets: Vec<Target>, resolver: Resolver) -> Rc<Self> {
        let deadlines = Rc::<Deadlines>::default();
        let targets = targets.into_iter().map(|target| {
            let (resolver, deadlines) = (resolver.clone(), Rc::clone(&deadlines));
            Endpoint::new(target, settings.tls.as_ref(), resolver, deadlines)
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

    /// Sends on a stream if the server speaks HTTP/2, else on an idle connection or a fresh one, and
    /// a second time if the idle one was stale. Whether a second sending was needed.
    async fn perform(
        &self,
        endpoint: &Rc<Endpoint<R>>,
        deadline: Instant,
        transfer: &mut Transfer,
        on_body: &mut impl FnMut(&[u8]),
    ) -> (Result<Response, Failure>, bool) {
        let start = runtime::now();
        let mut resent = false;
        let mut shared = endpoint.multiplexes();
        loop {
            if shared {
                // In a box, because it is large, and would make every exchange as large.
                let exchange =
                    self.perform_shared(endpoint, deadline, transfer, on_body, &mut resent);
                if let Some(result) = Box::pin(exchange).await {
                    return (result, resent);
                }
                shared = false;
            }
            let idle = if resent { None } else { endpoint.take_idle() };
            let reused = idle.as_ref().is_some_and(|idle| !idle.fresh);
            let mut connection = match idle {
                Some(idle) => idle.connection,
                // In a box, because it is large, rare, and would make every exchange as large.
                None => match Box::pin(endpoint.open(deadline)).await {
                    Ok(Some(connection)) => connection,
                    Ok(None) => {
                        shared = true;
                        continue;
                    }
                    Err(failure) => return (Err(failure), resent),
                },
            };
            connection.lease.arm(deadline);
            let (lease, limits) = (&connection.lease, self.settings.limits);
            let attempt = match &mut connection.stream {
                Stream::Plain { reader, writer, .. } => {
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
                        let fresh = false;
                        endpoint.idle.borrow_mut().push(Idle {
                            connection,
                            since,
                            fresh,
                        });
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

    /// HTTP/2: sends on a stream; a second time if the connection had gone stale or the stream was
    /// refused; and elsewhere whenever a connection closes before it took the request. `None`: the
    /// server speaks HTTP/1.1.
    async fn perform_shared(
        &self,
        endpoint: &Rc<Endpoint<R>>,
        deadline: Instant,
        transfer: &mut Transfer,
        on_body: &mut impl FnMut(&[u8]),
        resent: &mut bool,
    ) -> Option<Result<Response, Failure>> {
        let start = runtime::now();
        let late = |phase| Failure::Timeout {
            phase,
            peer: endpoint.peer.clone(),
            after: deadline.saturating_duration_since(start),
        };
        let lease = self.deadlines.lease_exchange();
        lease.arm(deadline);
        let scheme = match endpoint.target.origin.scheme {
            Scheme::Http => ::http::uri::Scheme::HTTP,
            Scheme::Https => ::http::uri::Scheme::HTTPS,
        };
        let (mut unsent, mut undone, mut repeated) = (0, 0, *resent);
        loop {
            let slot = match endpoint.way(&lease).await {
                None => return Some(Err(late(Phase::Sending))),
                Some(Err(failure)) => return Some(Err(failure)),
                Some(Ok(Way::Http1)) => return None,
                Some(Ok(Way::Http2(slot))) => slot,
            };
            let reused = slot.is_reused();
            let sending = http2::Sending {
                slot,
                heads: &endpoint.group.heads,
                scheme: &scheme,
                peer: &endpoint.peer,
                limits: self.settings.limits,
                lease: &lease,
            };
            let ended = match http2::perform(sending, transfer, on_body).await {
                Err(Ended::NotSent) if unsent < UNSENT_MAX => {
                    unsent += 1;
                    continue;
                }
                ended => ended,
            };
            count(&self.bytes_out, transfer.request.len());
            count(&self.bytes_in, transfer.reply.len());
            let failure = match ended {
                Ok(response) => return Some(Ok(response)),
                Err(Ended::Undone(_)) if undone < UNDONE_MAX => {
                    undone += 1;
                    *resent = true;
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Refused(_)) if !repeated => {
                    (repeated, *resent) = (true, true);
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Cut(_)) if reused && !repeated && transfer.first_byte_at.is_none() => {
                    (repeated, *resent) = (true, true);
                    count(&self.stale_resends, 1);
                    continue;
                }
                Err(Ended::Late(phase)) => late(phase),
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
