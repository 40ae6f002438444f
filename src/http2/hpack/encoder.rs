//! A request's head → a header block.

use std::rc::Rc;

use super::{ENTRY_BYTES, STATIC, TABLE_BYTES, mark};
use crate::http2::RequestHead;

/// Heads whose blocks are kept; a target's requests differ in little but their length.
const BLOCKS_KEPT: usize = 8;
/// `content-length` among the static fields.
const CONTENT_LENGTH: usize = 28;

/// One direction's table, at the sender. Nothing that went into it is ever thrown out: it takes what
/// comes first and fits, which are the heads that come again and again.
pub(in crate::http2) struct Encoder {
    /// What has gone in, in order: the field of a head.
    pub(super) entries: Vec<(Rc<RequestHead>, usize)>,
    pub(super) size: usize,
    size_max: usize,
    /// The receiver has changed the table's size since the last block.
    resized: bool,
    /// Heads all of whose fields are in a table, as they look while the table has so many entries.
    blocks: Vec<Block>,
}

struct Block {
    head: Rc<RequestHead>,
    entries: usize,
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            size: 0,
            size_max: TABLE_BYTES,
            resized: false,
            blocks: Vec::new(),
        }
    }
}

impl Encoder {
    /// Takes note of the receiver's `SETTINGS_HEADER_TABLE_SIZE`.
    pub(in crate::http2) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max.min(TABLE_BYTES);
        self.resized = true;
        self.size = 0;
        self.entries.clear();
        self.blocks.clear();
    }

    /// Appends the block of `head`, with `length` as its last field, to `out`. `once`: the head is not
    /// expected again.
    pub(in crate::http2) fn encode(
        &mut self,
        head: &Rc<RequestHead>,
        length: Option<&[u8]>,
        once: bool,
        out: &mut Vec<u8>,
    ) {
        if std::mem::take(&mut self.resized) {
            // Empties the receiver's table, as ours was, and then gives it its new size.
            number(0, 5, mark::TABLE_SIZE, out);
            number(self.size_max, 5, mark::TABLE_SIZE, out);
        }
        let known = self
            .blocks
            .iter()
            .find(|block| Rc::ptr_eq(&block.head, head) && block.entries == self.entries.len());
        match known {
            Some(block) => out.extend_from_slice(&block.bytes),
            None if once => {
                for (name, value) in head.fields() {
                    literal(name, value, mark::NOT_INDEXED, 4, out);
                }
            }
            None => self.encode_new(head, out),
        }
        if let Some(length) = length {
            number(CONTENT_LENGTH, 4, mark::NOT_INDEXED, out);
            string(length, out);
        }
    }

    fn encode_new(&mut self, head: &Rc<RequestHead>, out: &mut Vec<u8>) {
        let before = self.entries.len();
        let start = out.len();
        for (place, (name, value)) in head.fields().enumerate() {
            if let Some(index) = self.find(name, value) {
                number(index, 7, mark::INDEXED, out);
                continue;
            }
            let size = name.len() + value.len() + ENTRY_BYTES;
            if self.size + size > self.size_max {
                literal(name, value, mark::NOT_INDEXED, 4, out);
                continue;
            }
            literal(name, value, mark::INSERTED, 6, out);
            self.size += size;
            self.entries.push((Rc::clone(head), place));
        }
        // As it looks from now on is known only if nothing went in with it.
        if self.entries.len() == before {
            self.blocks.retain(|block| !Rc::ptr_eq(&block.head, head));
            if self.blocks.len() == BLOCKS_KEPT {
                self.blocks.remove(0);
            }
            self.blocks.push(Block {
                head: Rc::clone(head),
                entries: before,
                bytes: out[start..].to_vec(),
            });
        }
    }

    /// The number of the entry that has this name and value.
    fn find(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        let known = STATIC
            .iter()
            .position(|(own, same)| own.as_bytes() == name && same.as_bytes() == value);
        if let Some(index) = known {
            return Some(index + 1);
        }
        let place = self
            .entries
            .iter()
            .position(|(head, place)| head.field(*place) == (name, value))?;
        Some(STATIC.len() + self.entries.len() - place)
    }
}

/// A field that is written out, but for a name that both sides know.
fn literal(name: &[u8], value: &[u8], mark: u8, prefix: u32, out: &mut Vec<u8>) {
    let known = STATIC.iter().position(|(own, _)| own.as_bytes() == name);
    number(known.map_or(0, |index| index + 1), prefix, mark, out);
    if known.is_none() {
        string(name, out);
    }
    string(value, out);
}

/// As it is: a head's strings go out once a connection.
fn string(text: &[u8], out: &mut Vec<u8>) {
    number(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

/// See `decoder::number`.
fn number(number: usize, prefix: u32, mark: u8, out: &mut Vec<u8>) {
    let full = (1_usize << prefix) - 1;
    if number < full {
        out.push(mark | number as u8);
        return;
    }
    out.push(mark | full as u8);
    let mut rest = number - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
