//! A tap on cleartext HTTP/2: every frame passes through it, is counted and checked, and a script
//! may add frames of the server's.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::frame::{DATA, Frame, HEADERS, PREFACE, RST_STREAM};
use crate::server::Server;

/// What a connection has carried, by the frames themselves.
#[derive(Default)]
pub struct Carried {
    /// Streams that the client has opened.
    pub opened: usize,
    /// Streams that the server has answered to the end.
    pub answered: usize,
    /// Streams open at once, at most.
    pub together_max: usize,
    /// Streams that were opened while as many as the server allows were open already.
    pub over_limit: usize,
    /// SETTINGS of the server's that the client has acknowledged.
    pub acknowledged: usize,
    /// Frames by which the client has given streams up.
    pub resets: usize,
    open: BTreeSet<u32>,
    /// Limits the client has been sent, the oldest first, each until it is acknowledged.
    limits_sent: Vec<Option<u32>>,
    limit: Option<u32>,
    /// Streams above this one are neither answered nor passed on any more.
    last: Option<u32>,
    silent: bool,
}

/// What the script wants after an answer has ended.
pub enum Then {
    Nothing,
    /// The server's SETTINGS change.
    StreamsMax(u32),
    /// A GOAWAY by which the server has looked at the oldest open stream, and at no later one.
    GoawayButOldest,
    /// Nothing passes any more, either way, and the connection stays open.
    Silence,
}

/// A tap; dropping it stops it.
pub struct Tap {
    server: Server,
    connections: Arc<Mutex<Vec<Arc<Mutex<Carried>>>>>,
}

impl Tap {
    /// Listens in front of `upstream`. After each answer `script` gets the connection's number, from
    /// 0, and how many answers it has carried.
    pub fn start(
        upstream: SocketAddr,
        script: impl Fn(usize, usize) -> Then + Send + Sync + 'static,
    ) -> Self {
        let connections = Arc::<Mutex<Vec<_>>>::default();
        let all = Arc::clone(&connections);
        let server = Server::start(move |number, client| {
            let Ok(peer) = TcpStream::connect(upstream) else {
                return;
            };
            peer.set_nodelay(true).expect("a TCP socket");
            let carried = Arc::new(Mutex::new(Carried::default()));
            lock(&all).push(Arc::clone(&carried));
            let to_client = Mutex::new(&client);
            thread::scope(|scope| {
                scope.spawn(|| {
                    forward_requests(&client, &peer, &to_client, &carried);
                    let _ = peer.shutdown(Shutdown::Both);
                });
                forward_answers(&peer, &to_client, &carried, |answered| {
                    script(number, answered)
                });
                let _ = client.shutdown(Shutdown::Both);
            });
        });
        Self {
            server,
            connections,
        }
    }

    pub fn url(&self) -> String {
        self.server.url("/v1/chat/completions")
    }

    /// What `measure` says of each connection, in the order in which they came.
    pub fn each<T>(&self, measure: impl Fn(&Carried) -> T) -> Vec<T> {
        let connections = lock(&self.connections);
        connections.iter().map(|one| measure(&lock(one))).collect()
    }

    /// The client kept to the server's settings on every connection.
    #[track_caller]
    pub fn assert_within_limits(&self) {
        let over: usize = self.each(|one| one.over_limit).iter().sum();
        assert_eq!(over, 0, "streams beyond the server's limit");
    }
}

/// A test that has failed may have poisoned it; the others still want to know.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward_requests(
    client: &TcpStream,
    mut peer: &TcpStream,
    to_client: &Mutex<&TcpStream>,
    carried: &Mutex<Carried>,
) {
    let mut from = BufReader::new(client);
    let mut preface = [0; 24];
    if from.read_exact(&mut preface).is_err() {
        return;
    }
    assert_eq!(&preface, PREFACE);
    let _ = peer.write_all(&preface);
    while let Some(frame) = Frame::read(&mut from) {
        let (passes, is_silent) = {
            let mut seen = lock(carried);
            (seen.request(&frame), seen.silent)
        };
        let sent = match passes {
            true => frame.write(&mut peer),
            // What is passed over counts for the connection's window all the same (RFC 9113 section 6.8).
            false if frame.kind == DATA && !frame.payload.is_empty() && !is_silent => {
                Frame::window_update(frame.payload.len()).write(&mut *lock(to_client))
            }
            false => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn forward_answers(
    peer: &TcpStream,
    to_client: &Mutex<&TcpStream>,
    carried: &Mutex<Carried>,
    script: impl Fn(usize) -> Then,
) {
    let mut from = BufReader::new(peer);
    while let Some(frame) = Frame::read(&mut from) {
        let mut seen = lock(carried);
        let passes = seen.answer(&frame);
        let ended = passes && frame.ends_stream();
        let then = match ended {
            true => script(seen.answered),
            false => Then::Nothing,
        };
        let extra = seen.extra(then);
        drop(seen);
        let frames = passes.then_some(frame).into_iter().chain(extra);
        for frame in frames {
            if frame.write(&mut *lock(to_client)).is_err() {
                return;
            }
        }
    }
}

impl Carried {
    /// Takes note of a frame of the client's; whether it is passed on.
    fn request(&mut self, frame: &Frame) -> bool {
        if frame.is_settings(true) {
            self.acknowledged += 1;
            if let Some(limit) = self.limits_sent.remove(0) {
                self.limit = Some(limit);
            }
            // The server has sent one; it does not know of the tap's.
            return self.acknowledged == 1 && !self.silent;
        }
        if frame.kind == HEADERS && self.open.insert(frame.stream) {
            self.opened += 1;
            self.together_max = self.together_max.max(self.open.len());
            let limit = self.limit.map_or(usize::MAX, |limit| limit as usize);
            self.over_limit += usize::from(self.open.len() > limit);
        }
        if frame.kind == RST_STREAM {
            self.resets += 1;
            self.open.remove(&frame.stream);
        }
        let undone = self.last.is_some_and(|last| frame.stream > last);
        !(undone || self.silent)
    }

    /// Takes note of a frame of the server's; whether it is passed on.
    fn answer(&mut self, frame: &Frame) -> bool {
        if self.silent || self.last.is_some_and(|last| frame.stream > last) {
            return false;
        }
        if frame.is_settings(false) {
            self.limits_sent.push(frame.allowed_streams());
        }
        if frame.ends_stream() || frame.kind == RST_STREAM {
            self.open.remove(&frame.stream);
            self.answered += 1;
        }
        true
    }

    /// The frame that is added.
    fn extra(&mut self, then: Then) -> Option<Frame> {
        match then {
            Then::Nothing => None,
            Then::StreamsMax(streams) => {
                self.limits_sent.push(Some(streams));
                Some(Frame::streams_max(streams))
            }
            Then::GoawayButOldest => {
                let last = *self.open.first()?;
                self.last = Some(last);
                self.open.retain(|stream| *stream <= last);
                Some(Frame::goaway(last))
            }
            Then::Silence => {
                self.silent = true;
                None
            }
        }
    }
}
