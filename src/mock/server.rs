//! The threads: one accepts and hands connections on in turn, the others serve their shares.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::connection::serve;
use super::options::Outage;
use super::state::State;

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// Connections accepted and not yet taken by their thread.
const HANDED_ON_MAX: usize = 1024;
/// Pause after a failed accept (mostly: no descriptors left), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// An accepted connection and its number.
type Accepted = (StdStream, u64);

/// Running threads; dropping it stops and joins them, which closes every connection.
pub(super) struct Server {
    address: SocketAddr,
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(state: &Arc<State>) -> io::Result<Self> {
        let socket = bind(state.options.listen)?;
        socket.listen(BACKLOG)?;
        // Known before any thread runs; connections wait in the backlog until one does.
        let address = socket
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (stop, stopped) = watch::channel(());
        let mut server = Self {
            address,
            stop: Some(stop),
            threads: Vec::new(),
        };
        let tls = state.options.tls.clone().map(TlsAcceptor::from);
        let mut workers = Vec::new();
        for number in 0..state.options.threads {
            let (hand_on, handed_on) = mpsc::channel(HANDED_ON_MAX);
            workers.push(hand_on);
            let work = work(handed_on, tls.clone(), Arc::clone(state));
            server.spawn(format!("mock-{number}"), stopped.clone(), work)?;
        }
        let accept = accept(socket, address, workers, Arc::clone(state));
        server.spawn("mock-accept".to_owned(), stopped, accept)?;
        Ok(server)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs `task` and what it spawns on a thread of its own until the server stops.
    fn spawn(
        &mut self,
        name: String,
        mut stopped: watch::Receiver<()>,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // It only ever changes by its sender's end.
                    _ = stopped.changed() => {}
                    result = task => {
                        if let Err(error) = result {
                            tracing::error!(%error, "the trial endpoint stopped listening");
                        }
                    }
                }
            });
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic there has been printed already; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Serves the connections that are handed on.
async fn work(
    mut handed_on: mpsc::Receiver<Accepted>,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
) -> io::Result<()> {
    while let Some((stream, number)) = handed_on.recv().await {
        let stream = TcpStream::from_std(stream)?;
        tokio::spawn(serve(stream, tls.clone(), Arc::clone(&state), number));
    }
    // The acceptor has ended; what was accepted before goes on until the server stops.
    std::future::pending().await
}

/// Accepts connections, except in outages that refuse them.
async fn accept(
    socket: Socket,
    address: SocketAddr,
    workers: Vec<mpsc::Sender<Accepted>>,
    state: Arc<State>,
) -> io::Result<()> {
    let mut listener = TcpListener::from_std(socket.into())?;
    let mut turn = workers.iter().cycle();
    loop {
        let refusal = next_refusal(&state);
        let refusal_begins = async {
            match refusal {
                Some(outage) => tokio::time::sleep(outage.from.saturating_sub(state.now())).await,
                None => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = refusal_begins => {
                drop(listener);
                listener = refuse(address, refusal.map_or(Duration::ZERO, |outage| outage.to), &state).await?;
                continue;
            }
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let number = state.books().connect();
                // There is at least one worker, and it outlives the acceptor unless it panicked.
                if let Some(worker) = turn.next()
                    && worker.send((stream, number)).await.is_err()
                {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

/// The outage that refuses connections next, or does now.
fn next_refusal(state: &State) -> Option<Outage> {
    let now = state.now();
    let ahead = state
        .options
        .outage
        .iter()
        .filter(|outage| outage.refuse && outage.to > now);
    ahead.min_by_key(|outage| outage.from).copied()
}

/// Keeps the port without listening, which makes the kernel refuse connections, until `end`.
async fn refuse(address: SocketAddr, end: Duration, state: &State) -> io::Result<TcpListener> {
    let placeholder = bind(address)?;
    tokio::time::sleep(end.saturating_sub(state.now())).await;
    placeholder.listen(BACKLOG)?;
    TcpListener::from_std(placeholder.into())
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // On Unix this lets a port be used again at once; on Windows it would let others share it.
    socket.set_reuse_address(cfg!(unix))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
