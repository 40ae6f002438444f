//! Frames that come in, and what they do to streams.

use std::mem;

use super::connection::{CONNECTION_WINDOW, Connection, STREAM_WINDOW, STREAMS_MAX};
use super::fields::{Fields, Part};
use super::frame::{self, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, Reason, flag, kind, setting};
use super::stream::{Fault, State};
use crate::http::{MAX_INTERIM, ProtocolError};
use crate::runtime::buffers;

/// Frames that one header block may come in: the largest that is read needs nine.
const BLOCK_FRAMES_MAX: usize = 64;
/// Frames of bodies with nothing in them, one after the other: they cost work and no window.
const EMPTY_FRAMES_MAX: usize = 1000;
/// Room for an answer's head and, usually, its body.
const REPLY_BYTES: usize = 1 << 10;
/// Most room taken for a body on the word of its `content-length`.
const RESERVE_MAX: u64 = 256 << 10;

/// A frame of a body whose payload is coming.
pub(super) struct Data {
    /// Place and number of a stream that wants it.
    stream: Option<(usize, u32)>,
    left: usize,
    padding: usize,
    end: bool,
}

/// A header block of which more is to come.
pub(super) struct Block {
    stream: u32,
    end: bool,
    frames: usize,
    bytes: Vec<u8>,
}

impl Connection {
    /// One frame, or a piece of one; 0 if it is not there yet.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        if self.data.is_some() {
            return self.take_data(bytes);
        }
        let Some(head) = Head::read(bytes) else {
            return Ok(0);
        };
        if head.length > PAYLOAD_BYTES_MAX {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let is_first = !self.is_settled && !matches!(head.kind, kind::SETTINGS | kind::GOAWAY);
        let is_strange = match &self.block {
            Some(block) => head.kind != kind::CONTINUATION || head.stream != block.stream,
            None => head.kind == kind::CONTINUATION,
        };
        if is_first || is_strange {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if head.kind == kind::DATA {
            return self.begin_data(&head, &bytes[HEAD_BYTES..]);
        }
        let end = HEAD_BYTES + head.length;
        let Some(payload) = bytes.get(HEAD_BYTES..end) else {
            return Ok(0);
        };
        match head.kind {
            kind::HEADERS => self.headers(&head, payload)?,
            kind::CONTINUATION => self.continuation(&head, payload)?,
            kind::SETTINGS => self.settings(&head, payload)?,
            kind::PING => self.ping(&head, payload)?,
            kind::GOAWAY => self.goaway(&head, payload)?,
            kind::WINDOW_UPDATE => self.widen(head.stream, number(payload)? & 0x7fff_ffff)?,
            kind::RST_STREAM => {
                let reason = Reason(number(payload)?);
                if let Some(slot) = self.find(head.stream)? {
                    self.fail_stream(slot, Fault::Reset(reason));
                }
            }
            // Nobody was asked to push.
            kind::PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR),
            kind::PRIORITY if head.stream == 0 => return Err(Reason::PROTOCOL_ERROR),
            kind::PRIORITY if head.length != 5 => return Err(Reason::FRAME_SIZE_ERROR),
            // Others are extensions, to be passed over (section 5.5).
            _ => {}
        }
        Ok(end)
    }

    fn begin_data(&mut self, head: &Head, bytes: &[u8]) -> Result<usize, Reason> {
        let slot = self.find(head.stream)?;
        let (mut taken, mut left, mut padding) = (HEAD_BYTES, head.length, 0);
        if head.has(flag::PADDED) {
            let Some(&first) = bytes.first() else {
                return Ok(0);
            };
            padding = usize::from(first);
            taken += 1;
            left = left
                .checked_sub(1 + padding)
                .ok_or(Reason::PROTOCOL_ERROR)?;
        }
        self.account(head, slot)?;
        let end = head.has(flag::END_STREAM);
        self.empty_frames = match left == 0 && !end {
            true => self.empty_frames + 1,
            false => 0,
        };
        if self.empty_frames > EMPTY_FRAMES_MAX {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if let Some(slot) = slot
            && self.streams[slot].state == State::Waiting
        {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.data = Some(Data {
            stream: slot.map(|slot| (slot, head.stream)),
            left,
            padding,
            end,
        });
        self.answers += u64::from(slot.is_some());
        // A frame without content ends here.
        Ok(taken + self.take_data(&bytes[taken - HEAD_BYTES..])?)
    }

    /// Takes a frame's length from the windows, and gives room back where half a window is used.
    fn account(&mut self, head: &Head, slot: Option<usize>) -> Result<(), Reason> {
        let length = head.length as u32;
        if slot.is_none() && !self.reset.contains(&head.stream) {
            return Err(Reason::STREAM_CLOSED);
        }
        self.unreturned += length;
        if self.unreturned > CONNECTION_WINDOW {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        if self.unreturned >= CONNECTION_WINDOW / 2 {
            let more = mem::take(&mut self.unreturned);
            self.give_room(0, more);
        }
        if let Some(slot) = slot {
            let stream = &mut self.streams[slot];
            stream.unreturned += length;
            if stream.unreturned > STREAM_WINDOW {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            if stream.unreturned >= STREAM_WINDOW / 2 && !head.has(flag::END_STREAM) {
                let more = mem::take(&mut stream.unreturned);
                self.give_room(head.stream, more);
            }
        }
        Ok(())
    }

    fn give_room(&mut self, stream: u32, more: u32) {
        self.begin_output();
        frame::write(
            kind::WINDOW_UPDATE,
            0,
            stream,
            &more.to_be_bytes(),
            &mut self.out,
        );
    }

    /// Takes what is there of a body's frame.
    fn take_data(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let Some(data) = &mut self.data else {
            return Ok(0);
        };
        let count = data.left.min(bytes.len());
        data.left -= count;
        let padding = match data.left {
            0 => data.padding.min(bytes.len() - count),
            _ => 0,
        };
        data.padding -= padding;
        let (stream, end) = (data.stream, data.end);
        let is_over = data.left == 0 && data.padding == 0;
        if is_over {
            self.data = None;
        }
        // It may have ended within the frame.
        if let Some((slot, id)) = stream
            && self.ids[slot] == id
        {
            let stream = &mut self.streams[slot];
            let body = stream.reply.len() - stream.head_end;
            if body + count > self.limits.body_bytes {
                self.refuse_body(slot);
            } else {
                stream.reply.extend_from_slice(&bytes[..count]);
                match is_over && end {
                    true => self.finish(slot),
                    false => stream.wake(),
                }
            }
        }
        Ok(count + padding)
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        let mut block = payload;
        if head.has(flag::PADDED) {
            let (&padding, rest) = block.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
            let end = rest.len().checked_sub(usize::from(padding));
            block = &rest[..end.ok_or(Reason::PROTOCOL_ERROR)?];
        }
        if head.has(flag::PRIORITY) {
            block = block.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.fields(head.stream, end, block);
        }
        self.find(head.stream)?;
        self.block = Some(Box::new(Block {
            stream: head.stream,
            end,
            frames: 1,
            bytes: block.to_vec(),
        }));
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        let Some(mut block) = self.block.take() else {
            return Err(Reason::PROTOCOL_ERROR);
        };
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        // Twice the cap: what is too large for its stream need not end the connection.
        if block.frames > BLOCK_FRAMES_MAX || block.bytes.len() > 2 * self.limits.head_bytes {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if head.has(flag::END_HEADERS) {
            return self.fields(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block.
    fn fields(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Reason> {
        let found = self.find(id)?;
        if found.is_none() && !self.reset.contains(&id) {
            return Err(Reason::STREAM_CLOSED);
        }
        let mut nowhere = Vec::new();
        let (part, reply) = match found.map(|slot| &mut self.streams[slot]) {
            None => (Part::Nothing, &mut nowhere),
            Some(stream) if stream.state == State::Answering => (Part::Trailers, &mut nowhere),
            Some(stream) => {
                if stream.reply.capacity() == 0 {
                    stream.reply = buffers::take();
                    stream.reply.reserve(REPLY_BYTES);
                }
                (Part::Head, &mut stream.reply)
            }
        };
        let mut fields = Fields::new(part, reply, self.limits.head_bytes);
        let decoded = self
            .decoder
            .decode(block, |name, value| fields.take(name, value));
        if decoded.is_err() {
            return Err(match fields.is_bomb() {
                true => Reason::ENHANCE_YOUR_CALM,
                false => Reason::COMPRESSION_ERROR,
            });
        }
        let (is_good, status, signals) = (fields.is_good(), fields.status, fields.signals);
        let length = fields.length;
        let Some(slot) = found else { return Ok(()) };
        let stream = &mut self.streams[slot];
        match (part, status) {
            _ if !is_good => self.break_stream(slot, Reason::PROTOCOL_ERROR),
            (Part::Head, Some(101)) => self.break_stream(slot, Reason::PROTOCOL_ERROR),
            (Part::Head, Some(100..200)) if end => {
                self.break_stream(slot, Reason::PROTOCOL_ERROR);
            }
            (Part::Head, Some(100..200)) => {
                stream.reply.clear();
                stream.interim += 1;
                if usize::from(stream.interim) > MAX_INTERIM {
                    let limit = MAX_INTERIM;
                    let error = ProtocolError::TooManyInterim { limit };
                    self.end_stream(slot, Reason::CANCEL);
                    self.fail_stream(slot, Fault::Protocol(error));
                }
            }
            (Part::Head, Some(status)) => {
                stream.reply.extend_from_slice(b"\r\n");
                stream.head_end = stream.reply.len();
                stream.status = status;
                stream.signals = signals;
                stream.length = length;
                stream.state = State::Answering;
                self.answers += 1;
                let expected = length.unwrap_or(0);
                if expected > self.limits.body_bytes as u64 {
                    self.refuse_body(slot);
                } else if end {
                    self.finish(slot);
                } else {
                    stream.reply.reserve(expected.min(RESERVE_MAX) as usize);
                    stream.wake();
                }
            }
            // What trailers say is of no use to anybody here.
            _ if end => self.finish(slot),
            _ => self.break_stream(slot, Reason::PROTOCOL_ERROR),
        }
        Ok(())
    }

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let is_acknowledgement = head.has(flag::ACK);
        if is_acknowledgement && !payload.is_empty() || !payload.len().is_multiple_of(6) {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if is_acknowledgement {
            return match self.is_settled {
                true => Ok(()),
                false => Err(Reason::PROTOCOL_ERROR),
            };
        }
        if !mem::replace(&mut self.is_settled, true) {
            self.streams_max = STREAMS_MAX;
        }
        for one in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([one[0], one[1]]);
            let value = number(&one[2..])?;
            match name {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value != 0 => return Err(Reason::PROTOCOL_ERROR),
                setting::MAX_CONCURRENT_STREAMS => self.streams_max = value as usize,
                setting::INITIAL_WINDOW_SIZE => self.rewiden(value)?,
                // Ours are of the smallest size that may be named.
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                _ => {}
            }
        }
        self.begin_output();
        frame::write(kind::SETTINGS, flag::ACK, 0, &[], &mut self.out);
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if payload.len() != 8 {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if !head.has(flag::ACK) {
            self.begin_output();
            frame::write(kind::PING, flag::ACK, 0, payload, &mut self.out);
        }
        Ok(())
    }

    fn goaway(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (last, reason) = payload
            .split_at_checked(4)
            .ok_or(Reason::FRAME_SIZE_ERROR)?;
        let last = number(last)? & 0x7fff_ffff;
        let reason = Reason(number(reason.get(..4).ok_or(Reason::FRAME_SIZE_ERROR)?)?);
        self.closing = true;
        self.farewell = Some(reason);
        self.fail_all(|stream| (stream.id > last).then_some(Fault::Undone(reason)));
        Ok(())
    }

    /// The answer in `slot` is complete.
    fn finish(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        let body = (stream.reply.len() - stream.head_end) as u64;
        // Answers without a body may name the length that one would have.
        let is_bodiless = body == 0 && matches!(stream.status, 204 | 304);
        if !is_bodiless && stream.length.is_some_and(|length| length != body) {
            return self.break_stream(slot, Reason::PROTOCOL_ERROR);
        }
        self.ids[slot] = 0;
        stream.state = State::Done;
        stream.wake();
    }

    /// The answer in `slot` is larger than the cap.
    fn refuse_body(&mut self, slot: usize) {
        let limit = self.limits.body_bytes;
        self.end_stream(slot, Reason::CANCEL);
        self.fail_stream(slot, Fault::Protocol(ProtocolError::BodyTooLarge { limit }));
    }
}

/// The only number of a frame.
fn number(payload: &[u8]) -> Result<u32, Reason> {
    let bytes = payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?;
    Ok(u32::from_be_bytes(bytes))
}
