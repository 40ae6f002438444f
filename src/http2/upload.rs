//! What goes out on streams: requests, as far as the server's windows let them.

use std::ops::Range;
use std::rc::Rc;

use super::connection::{Connection, Key};
use super::frame::{self, HEAD_BYTES, PAYLOAD_BYTES_MAX, Reason, flag, kind};
use super::request::RequestHead;
use super::stream::Stream;
use crate::runtime::buffers;

/// Bytes that may wait to be sent. Beyond that no bodies are added, and nothing is read: a peer that
/// asks and does not listen to the answers has to wait for itself.
pub(super) const OUT_BYTES: usize = 64 << 10;
/// Streams of a client have odd numbers up to here.
const STREAM_MAX: u32 = (1 << 31) - 1;
/// The largest window (section 6.9.1).
pub(super) const WINDOW_MAX: i64 = (1 << 31) - 1;

/// The rest of a request that waits for a window, or for room.
pub(super) struct Upload {
    request: Vec<u8>,
    rest: Range<usize>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        buffers::give_back(std::mem::take(&mut self.request));
    }
}

impl Connection {
    /// Sends a request on a stream of its own: its head, with the content-length that stands in
    /// `request` at `length`, and the body that stands there at `body`. The buffer goes back to the
    /// thread's when all of it is on its way. `once`: that head is not expected again. `None`: the
    /// connection takes no more requests.
    pub fn open(
        &mut self,
        head: &Rc<RequestHead>,
        once: bool,
        length: Option<Range<usize>>,
        request: Vec<u8>,
        body: Range<usize>,
    ) -> Option<Key> {
        if self.is_closing() || self.next_stream > STREAM_MAX {
            self.closing = true;
            buffers::give_back(request);
            return None;
        }
        let id = self.next_stream;
        self.next_stream += 2;
        self.begin_output();
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        let length = length.map(|place| &request[place]);
        self.encoder.encode(head, length, once, &mut self.out);
        let last = if body.is_empty() { flag::END_STREAM } else { 0 };
        frame::frame_block(start, last, id, &mut self.out);
        let mut stream = Stream::new(id, self.initial_window);
        let upload = Upload {
            request,
            rest: body,
        };
        // A large one waits for its turn, so that it keeps no other request from going out.
        let is_usual = upload.rest.len() <= PAYLOAD_BYTES_MAX;
        let key = if is_usual && self.queue.is_empty() && self.out.len() < OUT_BYTES {
            let upload = send(&mut self.out, &mut self.send_window, &mut stream, upload);
            stream.upload = upload.map(Box::new);
            self.insert(stream)
        } else {
            stream.upload = (!upload.rest.is_empty()).then(|| Box::new(upload));
            self.insert(stream)
        };
        self.enqueue(key.0);
        self.nudge();
        Some(key)
    }

    /// Has the stream in `slot` wait for its turn to send, if it can.
    pub(super) fn enqueue(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        if stream.upload.is_some() && !stream.queued && stream.send_window > 0 {
            stream.queued = true;
            self.queue.push_back((slot, stream.id));
        }
    }

    /// Adds what windows and room allow to what goes out, a frame of each stream in turn.
    pub(super) fn pump(&mut self) {
        while self.send_window > 0
            && self.out.len() < OUT_BYTES
            && let Some((slot, id)) = self.queue.pop_front()
        {
            // Its stream may be over, and its place another's.
            if self.ids[slot] != id {
                continue;
            }
            self.begin_output();
            let stream = &mut self.streams[slot];
            stream.queued = false;
            if let Some(mut upload) = stream.upload.take() {
                send_frame(&mut self.out, &mut self.send_window, stream, &mut upload);
                stream.upload = (!upload.rest.is_empty()).then_some(upload);
            }
            self.enqueue(slot);
        }
    }

    /// The server takes `more` bytes on a stream, or (0) on all of them.
    pub(super) fn widen(&mut self, id: u32, more: u32) -> Result<(), Reason> {
        let more = i64::from(more);
        if id == 0 {
            if more == 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.send_window += more;
            if self.send_window > WINDOW_MAX {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
        } else if let Some(slot) = self.find(id)? {
            let stream = &mut self.streams[slot];
            stream.send_window += more;
            if more == 0 || stream.send_window > WINDOW_MAX {
                let reason = match more {
                    0 => Reason::PROTOCOL_ERROR,
                    _ => Reason::FLOW_CONTROL_ERROR,
                };
                self.break_stream(slot, reason);
                return Ok(());
            }
            self.enqueue(slot);
        }
        self.pump();
        Ok(())
    }

    /// The server's window for a new stream changes, and with it those of all (section 6.9.2).
    pub(super) fn rewiden(&mut self, initial: u32) -> Result<(), Reason> {
        let initial = i64::from(initial);
        if initial > WINDOW_MAX {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let more = initial - self.initial_window;
        self.initial_window = initial;
        for slot in 0..self.ids.len() {
            if self.ids[slot] == 0 {
                continue;
            }
            self.streams[slot].send_window += more;
            if self.streams[slot].send_window > WINDOW_MAX {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            self.enqueue(slot);
        }
        self.pump();
        Ok(())
    }
}

/// Sends as many frames of a new request as fit; what is left, if anything is.
fn send(
    out: &mut Vec<u8>,
    window: &mut i64,
    stream: &mut Stream,
    mut upload: Upload,
) -> Option<Upload> {
    while !upload.rest.is_empty() {
        if *window <= 0 || stream.send_window <= 0 || out.len() >= OUT_BYTES {
            return Some(upload);
        }
        send_frame(out, window, stream, &mut upload);
    }
    None
}

/// Sends one frame, within the windows.
fn send_frame(out: &mut Vec<u8>, window: &mut i64, stream: &mut Stream, upload: &mut Upload) {
    let room = stream.send_window.min(*window).max(0) as usize;
    let length = upload.rest.len().min(room).min(PAYLOAD_BYTES_MAX);
    if length == 0 {
        return;
    }
    let end = upload.rest.start + length;
    let last = if end == upload.rest.end {
        flag::END_STREAM
    } else {
        0
    };
    let payload = &upload.request[upload.rest.start..end];
    frame::write(kind::DATA, last, stream.id, payload, out);
    upload.rest.start = end;
    *window -= length as i64;
    stream.send_window -= length as i64;
}
