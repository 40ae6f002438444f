//! Opens a connection: name, TCP, proxy tunnel, TLS. The cold path of the client.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::deadline::{Deadlines, Lease};
use super::failure::{Failure, Phase};
use super::tls::{self, TlsReader, TlsWriter};
use super::{Target, proxy};
use crate::http::{Origin, Scheme};
use crate::runtime::dns::Resolver;
use crate::runtime::{self, Runtime, Socket};

/// An open connection. Dropping it closes it.
pub(super) struct Connection<R: Runtime> {
    pub(super) stream: Stream<R>,
    pub(super) lease: Lease,
    /// HTTP/2, not HTTP/1.1.
    pub(super) speaks_http2: bool,
}

/// Both halves, with or without TLS.
pub(super) enum Stream<R: Runtime> {
    Plain {
        reader: R::Reader,
        writer: R::Writer,
        /// What an HTTP/2 server has said behind the proxy's answer; the reader will not repeat it.
        early: Vec<u8>,
    },
    Tls {
        reader: TlsReader<R::Reader>,
        writer: TlsWriter<R::Writer>,
    },
}

/// Opens a connection to `target` by `deadline` at the latest.
pub(super) async fn open<R: Runtime>(
    target: &Target,
    resolver: &Resolver,
    tls: Option<&Arc<ClientConfig>>,
    deadlines: &Rc<Deadlines>,
    deadline: Instant,
) -> Result<Connection<R>, Failure> {
    let start = runtime::now();
    let deadline = deadline.min(start + target.connect_timeout);
    let first_hop = target
        .proxy
        .as_ref()
        .map_or(&target.origin, |proxy| &proxy.origin);
    let mut peer = peer_name(first_hop);
    if target.proxy.is_some() {
        peer.insert_str(0, "proxy ");
    }
    let late = || Failure::Timeout {
        phase: Phase::Connecting,
        peer: peer.clone(),
        after: deadline.saturating_duration_since(start),
    };

    let resolving = pin!(resolver.resolve(&first_hop.host, first_hop.port));
    let addresses = match before(deadlines, deadline, resolving).await {
        None => return Err(late()),
        Some(Err(error)) => return Err(Failure::Unreachable(error.to_string())),
        Some(Ok(addresses)) => addresses,
    };
    let socket = match connect_any::<R>(&addresses, deadlines, deadline).await {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(late()),
        Err(error) => return Err(Failure::connecting(&error, &peer)),
    };
    let lease = deadlines.lease(socket.abort.clone());
    // From here on operations end by abort, like those of an exchange, and none is dropped.
    lease.arm(deadline);
    let secured = secure::<R>(socket, target, tls, &peer).await;
    if lease.disarm() {
        return Err(late());
    }
    let stream = secured?;
    Ok(Connection {
        speaks_http2: match &stream {
            Stream::Plain { .. } => target.http2 == Some(true),
            Stream::Tls { reader, .. } => reader.speaks_http2(),
        },
        stream,
        lease,
    })
}

/// Host and port, as messages name a peer.
pub(super) fn peer_name(origin: &Origin) -> String {
    if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        format!("{}:{}", origin.host, origin.port)
    }
}

/// Tries the addresses in order. Each gets its share of the time that is left, so that one which
/// swallows packets leaves time for the next.
async fn connect_any<R: Runtime>(
    addresses: &[SocketAddr],
    deadlines: &Rc<Deadlines>,
    deadline: Instant,
) -> io::Result<Socket<R>> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (tried, address) in addresses.iter().enumerate() {
        let now = runtime::now();
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(now) / left;
        match before(deadlines, now + share, pin!(R::connect(*address))).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => failure = error,
            None => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

/// Builds the proxy's tunnel and TLS on a fresh socket, as far as the target wants them.
async fn secure<R: Runtime>(
    mut socket: Socket<R>,
    target: &Target,
    tls: Option<&Arc<ClientConfig>>,
    first_hop: &str,
) -> Result<Stream<R>, Failure> {
    let plain = target.origin.scheme == Scheme::Http;
    let peer = peer_name(&target.origin);
    let mut early = Vec::new();
    // Only plain HTTP/1.1 has requests that a proxy itself understands.
    if (!plain || target.http2 == Some(true))
        && let Some(proxy) = &target.proxy
    {
        early = proxy::tunnel(
            &mut socket.reader,
            &mut socket.writer,
            proxy,
            &peer,
            first_hop,
        )
        .await?;
    }
    if plain {
        return Ok(Stream::Plain {
            reader: socket.reader,
            writer: socket.writer,
            early,
        });
    }
    if !early.is_empty() {
        // TLS servers wait for the client: these bytes are not the peer's.
        return Err(Failure::Protocol(format!(
            "{first_hop}: unexpected bytes after its answer"
        )));
    }
    let config =
        tls.ok_or_else(|| Failure::Tls(format!("{peer}: this client was set up without TLS")))?;
    let name = ServerName::try_from(target.origin.host.clone())
        .map_err(|_| Failure::Tls(format!("{peer}: no certificate can be for this host name")))?;
    match tls::handshake(socket.reader, socket.writer, Arc::clone(config), name).await {
        Ok((reader, writer)) => Ok(Stream::Tls { reader, writer }),
        Err(error) => {
            let error = (error.kind() != io::ErrorKind::UnexpectedEof).then_some(error);
            Err(Failure::cut(error.as_ref(), Phase::Connecting, &peer))
        }
    }
}

/// The outcome of `work` if it comes before the first sweep from `deadline` on.
///
/// Neither a timer nor a copy of the work, which the caller pins: thousands of connections may be on
/// their way at once.
async fn before<F: Future>(
    deadlines: &Rc<Deadlines>,
    deadline: Instant,
    mut work: Pin<&mut F>,
) -> Option<F::Output> {
    let lease = deadlines.lease_exchange();
    lease.arm(deadline);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = work.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        match lease.has_fired(context.waker()) {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    })
    .await
}
