//! The machine: its streams, and what goes through it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::task::Waker;

use super::frame::{self, Reason, kind, setting};
use super::hpack::{Decoder, Encoder};
use super::incoming::{Block, Data};
use super::stream::{Fault, State, Stream};
use super::upload::OUT_BYTES;
use crate::http::Limits;
use crate::runtime::{buffers, remember_waker};

/// What a server may send on one stream, and on all of them, before it is given room for more. Bodies
/// are taken as they come, so this bounds not memory but what a fast link can have under way:
/// 1 MiB × 1 / 50 ms = 160 Mbit/s for one stream. Room is given half a window at a time.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// The protocol's own window before anybody has said anything.
const FIRST_WINDOW: u32 = 65_535;
/// Bytes that wait to be sent, or are being sent, before further requests wait to be written: a full TLS
/// record of each, with the last one in 32 KiB.
const ROOM_BYTES: usize = 28 << 10;
/// The same for all connections of a target together: hundreds may open at once. One that has nothing
/// to send takes a request all the same.
const ROOM_BYTES_OF_ALL: usize = 256 << 10;
/// Room that output is given at first: a request or two. A buffer that grows leaves its smaller selves
/// behind.
const OUTPUT_BYTES: usize = 4 << 10;
/// Requests that wait for room at once, usually; memory for more is given back.
const WAITING_KEPT: usize = 16;
/// Streams where a server names no number.
pub const STREAMS_MAX: usize = u32::MAX as usize;
/// Streams that we ended (deadlines, too large answers) and whose late frames are passed over: twice
/// as many as a connection carries.
const RESETS_KEPT: usize = 256;

/// A stream's place in its connection, from [`Connection::open`] to [`Connection::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(super) usize);

/// See the module. What it wants to say is taken by [`Connection::take_output`]; what the server says
/// goes into [`Connection::receive`].
pub struct Connection {
    pub(super) limits: Limits,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Numbers of the streams that the server may speak on, by place; 0 where there is none.
    pub(super) ids: Vec<u32>,
    pub(super) streams: Vec<Stream>,
    free: Vec<usize>,
    /// Where the last frame belonged.
    found: usize,
    pub(super) next_stream: u32,
    pub(super) out: Vec<u8>,
    /// Streams that can send, in turn.
    pub(super) queue: VecDeque<(usize, u32)>,
    /// Bytes that the server takes, on all streams together and on a new one.
    pub(super) send_window: i64,
    pub(super) initial_window: i64,
    /// Bytes of bodies that came since the server was given room for more.
    pub(super) unreturned: u32,
    pub(super) data: Option<Data>,
    pub(super) block: Option<Box<Block>>,
    pub(super) empty_frames: usize,
    pub(super) reset: VecDeque<u32>,
    pub(super) is_settled: bool,
    pub(super) streams_max: usize,
    pub(super) farewell: Option<Reason>,
    pub(super) closing: bool,
    /// Why we ended it.
    over: Option<Reason>,
    pub(super) answers: u64,
    driver: Option<Waker>,
    /// Bytes that were taken and are on their way out.
    sending: usize,
    /// Requests that are not written yet, for want of room.
    pub(super) waiting: Vec<Waker>,
    backlog: Backlog,
}

/// Bytes that wait to be sent on all connections that share this.
#[derive(Default)]
pub struct Backlog {
    all: Rc<Cell<usize>>,
    own: usize,
}

impl Clone for Backlog {
    /// For a further connection.
    fn clone(&self) -> Self {
        Self {
            all: Rc::clone(&self.all),
            own: 0,
        }
    }
}

impl Backlog {
    fn set(&mut self, own: usize) {
        self.all.set(self.all.get() + own - self.own);
        self.own = own;
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Connection {
    /// A connection that has its preface to say, and shares `backlog` with others.
    pub fn new(limits: Limits, backlog: Backlog) -> Self {
        let mut out = buffers::take();
        out.extend_from_slice(frame::PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, limits.head_bytes as u32),
        ];
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        frame::write(kind::SETTINGS, 0, 0, &payload, &mut out);
        let more = (CONNECTION_WINDOW - FIRST_WINDOW).to_be_bytes();
        frame::write(kind::WINDOW_UPDATE, 0, 0, &more, &mut out);
        Self {
            limits,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            ids: Vec::new(),
            streams: Vec::new(),
            free: Vec::new(),
            found: 0,
            next_stream: 1,
            out,
            queue: VecDeque::new(),
            send_window: i64::from(FIRST_WINDOW),
            initial_window: i64::from(FIRST_WINDOW),
            unreturned: 0,
            data: None,
            block: None,
            empty_frames: 0,
            reset: VecDeque::new(),
            is_settled: false,
            streams_max: 0,
            farewell: None,
            closing: false,
            over: None,
            answers: 0,
            driver: None,
            sending: 0,
            waiting: Vec::new(),
            backlog,
        }
    }

    /// Streams that the server allows at once; 0 before it has said so.
    pub fn streams_max(&self) -> usize {
        self.streams_max
    }

    /// Whether no further request will be taken.
    pub fn is_closing(&self) -> bool {
        self.closing || self.over.is_some()
    }

    /// Why this side ended the connection, if it did.
    pub fn over(&self) -> Option<Reason> {
        self.over
    }

    /// What the server said when it announced the connection's end, if it did.
    pub fn farewell(&self) -> Option<Reason> {
        self.farewell
    }

    /// Heads and pieces of bodies that have come.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// The stream at `key`.
    pub fn stream(&mut self, key: Key) -> &mut Stream {
        &mut self.streams[key.0]
    }

    /// Whoever opened the stream leaves it; what is not over then is ended.
    pub fn leave(&mut self, key: Key) {
        let slot = key.0;
        let stream = &self.streams[slot];
        // Also when the answer came before the request was out: nobody will read the rest of it.
        let is_done = stream.state == State::Done && stream.is_sent();
        if !is_done && !matches!(stream.state, State::Failed(_)) {
            self.end_stream(slot, Reason::CANCEL);
        }
        self.ids[slot] = 0;
        let gone = mem::replace(&mut self.streams[slot], Stream::new(0, 0));
        buffers::give_back(gone.reply);
        self.free.push(slot);
    }

    /// Has `waker` woken when there is output.
    pub fn remember(&mut self, waker: &Waker) {
        remember_waker(&mut self.driver, waker);
    }

    /// What is to be sent now, if anything is.
    pub fn take_output(&mut self) -> Option<Vec<u8>> {
        self.pump();
        if self.out.is_empty() {
            return None;
        }
        let out = mem::take(&mut self.out);
        self.sending = out.len();
        Some(out)
    }

    /// What was taken has been sent: requests may be written that wait for room.
    pub fn note_sent(&mut self) {
        self.sending = 0;
        self.backlog.set(self.out.len());
        self.wake_waiting();
    }

    /// Whether a request should be written now; if not, `waker` is woken when it is time to look
    /// again. Until then nobody needs to hold its bytes.
    pub fn has_room(&mut self, waker: &Waker) -> bool {
        self.backlog.set(self.sending + self.out.len());
        let has_room = match self.sending + self.out.len() {
            0 => true,
            length => length < ROOM_BYTES && self.backlog.all.get() < ROOM_BYTES_OF_ALL,
        };
        let has_room = has_room || self.is_closing();
        if !has_room && !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
        has_room
    }

    /// Has all who wait for room look again.
    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
        self.waiting.shrink_to(WAITING_KEPT);
    }

    /// Whether it waits for what it has to say to be sent, and reads nothing meanwhile.
    pub fn is_full(&self) -> bool {
        self.out.len() >= OUT_BYTES
    }

    /// Takes in what came; how much of it. The rest is to come again, with more behind it, or once
    /// there is room for output.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.over.is_none() && !self.is_full() {
            match self.step(&bytes[taken..]) {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(reason) => self.end(reason),
            }
        }
        taken
    }

    /// Ends the connection, in words: every stream that is not over fails.
    pub fn end(&mut self, reason: Reason) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(reason);
        self.begin_output();
        // The last stream of the server's that was taken: it opens none.
        let payload = [0_u32.to_be_bytes(), reason.0.to_be_bytes()].concat();
        frame::write(kind::GOAWAY, 0, 0, &payload, &mut self.out);
        self.fail_all(|_| Some(Fault::Broken(reason)));
    }

    /// The connection is gone.
    pub fn cut(&mut self) {
        self.closing = true;
        self.fail_all(|_| Some(Fault::Cut));
    }

    /// Where the stream `id` is; `None` if it is over.
    pub(super) fn find(&mut self, id: u32) -> Result<Option<usize>, Reason> {
        if id.is_multiple_of(2) || id >= self.next_stream {
            // No stream, one of the server's, or one that nobody has opened.
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.ids.get(self.found) == Some(&id) {
            return Ok(Some(self.found));
        }
        let slot = self.ids.iter().position(|&known| known == id);
        self.found = slot.unwrap_or(self.found);
        Ok(slot)
    }

    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.ids.push(0);
            self.streams.push(Stream::new(0, 0));
            self.ids.len() - 1
        });
        self.ids[slot] = stream.id;
        self.streams[slot] = stream;
        Key(slot)
    }

    /// What came on the stream in `slot` breaks the protocol; others are not concerned.
    pub(super) fn break_stream(&mut self, slot: usize, reason: Reason) {
        self.end_stream(slot, reason);
        self.fail_stream(slot, Fault::Broken(reason));
    }

    pub(super) fn fail_stream(&mut self, slot: usize, fault: Fault) {
        self.ids[slot] = 0;
        let stream = &mut self.streams[slot];
        stream.upload = None;
        stream.state = State::Failed(fault);
        stream.wake();
    }

    /// Fails what `fault` gives a fault to, because the connection ends.
    pub(super) fn fail_all(&mut self, fault: impl Fn(&Stream) -> Option<Fault>) {
        self.wake_waiting();
        for slot in 0..self.ids.len() {
            if self.ids[slot] != 0
                && let Some(fault) = fault(&self.streams[slot])
            {
                self.fail_stream(slot, fault);
            }
        }
    }

    /// Tells the server that nobody wants the stream in `slot` any more.
    pub(super) fn end_stream(&mut self, slot: usize, reason: Reason) {
        let id = self.streams[slot].id;
        self.ids[slot] = 0;
        if self.over.is_some() {
            return;
        }
        if self.reset.len() == RESETS_KEPT {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
        self.begin_output();
        frame::write(
            kind::RST_STREAM,
            0,
            id,
            &reason.0.to_be_bytes(),
            &mut self.out,
        );
        self.nudge();
    }

    /// Has the driver look for output.
    pub fn nudge(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Makes room for output.
    pub(super) fn begin_output(&mut self) {
        if self.out.capacity() == 0 {
            self.out = buffers::take_large();
            self.out.reserve(OUTPUT_BYTES);
        }
    }
}
