//! A pool's connections to one target, of either protocol, and which of them is spoken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use super::connect::{self, Connection, Stream};
use super::deadline::{Deadlines, Lease};
use super::failure::Failure;
use super::http2::{self, Group, Opening, Slot, Turn};
use super::pool::PoolSettings;
use super::{Target, proxy};
use crate::http::{Limits, Scheme};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime, catch_panic};
use crate::tls;

/// See the module.
pub(super) struct Endpoint<R: Runtime> {
    pub(super) target: Target,
    /// Host and port, for messages.
    pub(super) peer: String,
    limits: Limits,
    tls: Option<Arc<ClientConfig>>,
    resolver: Resolver,
    deadlines: Rc<Deadlines>,
    /// The most recently used is last and goes first, so that the rest can grow old and close.
    pub(super) idle: RefCell<Vec<Idle<R>>>,
    pub(super) group: Rc<Group>,
    /// Whether HTTP/2 is spoken, or may turn out to be.
    multiplexes: Cell<bool>,
    pub(super) opened: Cell<u64>,
}

/// An HTTP/1.1 connection between two exchanges.
pub(super) struct Idle<R: Runtime> {
    pub(super) connection: Box<Connection<R>>,
    pub(super) since: Instant,
    /// No exchange has used it yet, so it cannot have gone stale.
    pub(super) fresh: bool,
}

/// What an exchange goes out on.
pub(super) enum Way {
    /// A connection of its own.
    Http1,
    /// A stream.
    Http2(Slot),
}

impl<R: Runtime> Endpoint<R> {
    pub(super) fn new(
        target: Target,
        settings: &PoolSettings,
        resolver: Resolver,
        deadlines: Rc<Deadlines>,
    ) -> Rc<Self> {
        let tls = settings.tls.as_ref();
        let multiplexes = match target.origin.scheme {
            // By ALPN: the server chooses.
            Scheme::Https => target.http2 != Some(false),
            // Nothing is negotiated, so somebody has to know.
            Scheme::Http => target.http2 == Some(true),
        };
        let tls = match multiplexes {
            true => tls.cloned(),
            false => tls.map(|config| tls::without_http2(config)),
        };
        Rc::new(Self {
            peer: connect::peer_name(&target.origin),
            target,
            limits: settings.limits,
            tls,
            resolver,
            deadlines,
            idle: RefCell::default(),
            group: Rc::default(),
            multiplexes: Cell::new(multiplexes),
            opened: Cell::new(0),
        })
    }

    /// Whether exchanges have to ask for their [`Way`].
    pub(super) fn multiplexes(&self) -> bool {
        self.multiplexes.get()
    }

    /// The most recently used connection that is still of use. On a plain one that has bytes to
    /// read they would pass for the next answer: a late 408, the rest of a broken response. Under TLS
    /// they may be session tickets; what a peer may put there is its own.
    pub(super) fn take_idle(&self) -> Option<Idle<R>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(one) = idle.pop() {
            let is_plain = matches!(one.connection.stream, Stream::Plain { .. });
            if !is_plain || one.connection.lease.is_quiet() {
                return Some(one);
            }
        }
        None
    }

    /// Opens a connection for one exchange. `None`: it speaks HTTP/2 after all, and goes to where
    /// the exchange finds it.
    pub(super) async fn open(
        &self,
        deadline: Instant,
    ) -> Result<Option<Box<Connection<R>>>, Failure> {
        let connection = self.connect(deadline).await?;
        if !connection.speaks_http2 {
            return Ok(Some(connection));
        }
        self.multiplexes.set(true);
        R::spawn(http2::serve(connection, self.limits, self.announce()));
        Ok(None)
    }

    /// Waits for a stream, or for the news that there will be none; `None` when the deadline of
    /// `lease` comes first.
    pub(super) async fn way(self: &Rc<Self>, lease: &Lease) -> Option<Result<Way, Failure>> {
        let mut again = false;
        loop {
            if !self.idle.borrow().is_empty() || !self.multiplexes.get() {
                return Some(Ok(Way::Http1));
            }
            if let Some(slot) = self.group.take_stream() {
                return Some(Ok(Way::Http2(slot)));
            }
            while self.group.wants_connection() {
                // In a task of its own: it serves whoever waits, and outlives this exchange.
                let opening = self.announce();
                R::spawn(open_shared(Rc::clone(self), opening));
            }
            match self.group.wait(lease, again).await {
                Turn::Look => again = true,
                Turn::Failed(failure) => return Some(Err(*failure)),
                Turn::Late => return None,
            }
        }
    }

    /// Plain HTTP/1.1 through a proxy: puts a rewritten copy in the request's place.
    pub(super) fn rewrite_for_proxy(&self, request: &mut Vec<u8>) {
        let Target { origin, proxy, .. } = &self.target;
        let plain = origin.scheme == Scheme::Http && !self.multiplexes.get();
        if let Some(proxy) = proxy.as_ref().filter(|_| plain) {
            *request = proxy::absolute_form(request, origin, proxy);
        }
    }

    fn announce(&self) -> Opening {
        Opening::new(&self.group, &self.peer, self.target.connect_timeout)
    }

    async fn connect(&self, deadline: Instant) -> Result<Box<Connection<R>>, Failure> {
        let connection = connect::open(
            &self.target,
            &self.resolver,
            self.tls.as_ref(),
            &self.deadlines,
            deadline,
        )
        .await?;
        self.opened.set(self.opened.get() + 1);
        Ok(Box::new(connection))
    }
}

/// Opens a connection for whoever waits, and drives it if it speaks HTTP/2.
async fn open_shared<R: Runtime>(endpoint: Rc<Endpoint<R>>, mut opening: Opening) {
    let deadline = runtime::now() + endpoint.target.connect_timeout;
    let connected = catch_panic(endpoint.connect(deadline)).await;
    match connected {
        Ok(Ok(connection)) if connection.speaks_http2 => {
            // The settings that the server opens with are part of connecting.
            connection.lease.arm(deadline);
            let limits = endpoint.limits;
            drop(endpoint);
            http2::serve(connection, limits, opening).await;
        }
        Ok(Ok(connection)) => {
            endpoint.multiplexes.set(false);
            endpoint.idle.borrow_mut().push(Idle {
                connection,
                since: runtime::now(),
                fresh: true,
            });
            opening.turn_to_http1();
        }
        Ok(Err(failure)) => opening.fail(failure),
        Err(panic) => opening.fail(Failure::Connect(panic.to_string())),
    }
}
