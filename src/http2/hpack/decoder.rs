//! A header block → its fields.

use std::collections::VecDeque;
use std::mem;

use super::{ENTRY_BYTES, STATIC, TABLE_BYTES, huffman, mark};

/// Numbers are lengths and places in tables: larger ones mean nothing.
const NUMBER_MAX: usize = 1 << 24;
/// Bytes that entries which were thrown out may take up before they are cleared away.
const DEBRIS_BYTES: usize = 1024;

/// The block breaks RFC 7541, or the caller refused a field: what follows on the connection cannot
/// be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http2) struct Undecodable;

/// One direction's table, at the receiver.
#[derive(Default)]
pub(in crate::http2) struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// Hands the fields of `block` to `take`, in order, until it returns `false`.
    pub(in crate::http2) fn decode(
        &mut self,
        mut block: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Undecodable> {
        let mut begun = false;
        while let Some(&first) = block.first() {
            if first & mark::INDEXED != 0 {
                let number = number(&mut block, 7)?;
                let (name, value) = self.table.field(number)?;
                if !take(name, value) {
                    return Err(Undecodable);
                }
            } else if first & mark::INSERTED != 0 {
                self.literal(&mut block, 6, true, &mut take)?;
            } else if first & mark::TABLE_SIZE != 0 {
                // Only in front of the fields (section 4.2).
                let size = number(&mut block, 5)?;
                if begun || size > TABLE_BYTES {
                    return Err(Undecodable);
                }
                self.table.resize(size);
                continue;
            } else {
                self.literal(&mut block, 4, false, &mut take)?;
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        inserted: bool,
        take: &mut impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Undecodable> {
        let name = match number(block, prefix)? {
            0 => string(block, &mut self.name)?,
            number => {
                // A copy: inserting may throw the entry out whose name this is.
                self.name.clear();
                self.name.extend_from_slice(self.table.field(number)?.0);
                &self.name
            }
        };
        let value = string(block, &mut self.value)?;
        if !take(name, value) {
            return Err(Undecodable);
        }
        if inserted {
            self.table.insert(name, value);
        }
        Ok(())
    }
}

/// A number whose first bits share their byte with a mark (section 5.1).
fn number(block: &mut &[u8], prefix: u32) -> Result<usize, Undecodable> {
    let full = (1_usize << prefix) - 1;
    let first = take(block, 1)?[0];
    let mut number = usize::from(first) & full;
    if number < full {
        return Ok(number);
    }
    // 28 bits, more than any number that means something.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(take(block, 1)?[0]);
        number += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return match number {
                0..=NUMBER_MAX => Ok(number),
                _ => Err(Undecodable),
            };
        }
    }
    Err(Undecodable)
}

/// A string (section 5.2): from the block itself, or decoded into `scratch`.
fn string<'r, 'a: 'r>(
    block: &mut &'a [u8],
    scratch: &'r mut Vec<u8>,
) -> Result<&'r [u8], Undecodable> {
    let is_coded = block.first().ok_or(Undecodable)? & mark::HUFFMAN != 0;
    let length = number(block, 7)?;
    let bytes = take(block, length)?;
    if !is_coded {
        return Ok(bytes);
    }
    scratch.clear();
    match huffman::decode(bytes, scratch) {
        true => Ok(scratch),
        false => Err(Undecodable),
    }
}

fn take<'a>(block: &mut &'a [u8], count: usize) -> Result<&'a [u8], Undecodable> {
    let (taken, rest) = block.split_at_checked(count).ok_or(Undecodable)?;
    *block = rest;
    Ok(taken)
}

/// The entries that the sender has made, the newest first.
struct Table {
    /// Names and values of the entries, in the order in which they came; `dropped` bytes before
    /// them are gone.
    bytes: Vec<u8>,
    dropped: usize,
    entries: VecDeque<Entry>,
    /// As section 4.1 counts.
    size: usize,
    size_max: usize,
}

struct Entry {
    start: usize,
    name: u16,
    value: u16,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            dropped: 0,
            entries: VecDeque::new(),
            size: 0,
            size_max: TABLE_BYTES,
        }
    }
}

impl Table {
    /// Name and value of entry `number`, static ones first (section 2.3.3).
    fn field(&self, number: usize) -> Result<(&[u8], &[u8]), Undecodable> {
        let index = number.checked_sub(1).ok_or(Undecodable)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let age = index - STATIC.len();
        let newest = self.entries.len().checked_sub(1 + age).ok_or(Undecodable)?;
        let entry = &self.entries[newest];
        let start = entry.start - self.dropped;
        let (name, value) = (usize::from(entry.name), usize::from(entry.value));
        Ok(self.bytes[start..start + name + value].split_at(name))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_BYTES;
        // One that is larger than the table empties it (section 4.4).
        self.evict(self.size_max.saturating_sub(size));
        if size > self.size_max {
            return;
        }
        if self.bytes.len() + size > self.size_max + DEBRIS_BYTES {
            let end = self.dropped + self.bytes.len();
            let kept = self.entries.front().map_or(end, |oldest| oldest.start);
            self.bytes.drain(..kept - self.dropped);
            self.dropped = kept;
        }
        if self.bytes.len() + size > self.bytes.capacity() {
            // In steps of a quarter: every connection has a table.
            self.bytes.reserve_exact(size.max(self.size_max / 4));
        }
        self.entries.push_back(Entry {
            start: self.dropped + self.bytes.len(),
            // No entry is longer than the table.
            name: name.len() as u16,
            value: value.len() as u16,
        });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += size;
    }

    fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(size_max);
    }

    /// Throws the oldest entries out until the rest is no larger than `size_max`.
    fn evict(&mut self, size_max: usize) {
        while self.size > size_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= usize::from(oldest.name) + usize::from(oldest.value) + ENTRY_BYTES;
        }
        if self.entries.is_empty() {
            self.dropped += mem::take(&mut self.bytes).len();
        }
    }
}
