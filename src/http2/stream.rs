//! One stream, from its request to the end of its answer.

use std::task::Waker;

use super::frame::Reason;
use super::upload::Upload;
use crate::http::{ProtocolError, Signals};
use crate::runtime::remember_waker;

/// How far a stream is.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// No final head has come.
    Waiting,
    /// The head is there, the body is not complete.
    Answering,
    /// The answer is complete.
    Done,
    /// There will be none, or not all of it.
    Failed(Fault),
}

/// Why a stream ended before its answer was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server ended it (RST_STREAM).
    Reset(Reason),
    /// The server says that it did nothing with the request, and closes the connection (GOAWAY).
    Undone(Reason),
    /// What came breaks HTTP/2, on this stream or on the connection, or its head is too large.
    Broken(Reason),
    /// What came breaks HTTP, or a cap.
    Protocol(ProtocolError),
    /// The connection ended.
    Cut,
}

/// See the module.
pub struct Stream {
    /// Its number on the wire.
    pub(super) id: u32,
    pub(super) state: State,
    /// Status, once the head is there.
    pub(super) status: u16,
    pub(super) signals: Signals,
    /// Interim answers so far.
    pub(super) interim: u8,
    /// Waits among those that have something to send.
    pub(super) queued: bool,
    /// Body bytes that came since the server was given room for more.
    pub(super) unreturned: u32,
    /// Bytes that the server takes; below 0 after it has changed its mind.
    pub(super) send_window: i64,
    /// Length of the body as the head has it.
    pub(super) length: Option<u64>,
    /// Length of the head in `reply`.
    pub(super) head_end: usize,
    /// The head, as HTTP/1.1 would have it, and what has come of the body.
    pub(super) reply: Vec<u8>,
    /// What of the request is still to be sent.
    pub(super) upload: Option<Box<Upload>>,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: i64) -> Self {
        Self {
            id,
            state: State::Waiting,
            status: 0,
            signals: Signals::default(),
            interim: 0,
            queued: false,
            unreturned: 0,
            send_window,
            length: None,
            head_end: 0,
            reply: Vec::new(),
            upload: None,
            waker: None,
        }
    }

    /// How far it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Status code of the final head; 0 before it has come.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the head's fields say.
    pub fn signals(&self) -> Signals {
        self.signals
    }

    /// Where in [`Stream::reply`] the body begins.
    pub fn head_end(&self) -> usize {
        self.head_end
    }

    /// Head and body, as far as they have come. Taken out, it must be put back before more comes.
    pub fn reply(&mut self) -> &mut Vec<u8> {
        &mut self.reply
    }

    /// Whether all of the request is on its way.
    pub fn is_sent(&self) -> bool {
        self.upload.is_none()
    }

    /// Has `waker` woken when something changes.
    pub fn remember(&mut self, waker: &Waker) {
        remember_waker(&mut self.waker, waker);
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
