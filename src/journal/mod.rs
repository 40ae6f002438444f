//! Which lines are finished, and where their records lie: fixed-size entries ↔ bytes with
//! checksums, and a replay that drops a torn tail and refuses damage before it. Pure.
//!
//! One journal belongs to one shard of one process of a run. Layout, little endian (`docs/RUN_FOLDER.md`):
//! a 48-byte header, a 16-byte mark that says how many entries are settled, then 80 bytes an entry.
//! Lines that wait for their place in it are in the write-ahead file ([`ahead`]).

pub mod ahead;
mod entry;
mod header;

pub use entry::{ENTRY_BYTES, Entry, Outcome, Tokens};
pub use header::{HEADER_BYTES, Header, MARK_BYTES, MARK_OFFSET, VERSION};

use std::fmt;

/// A journal whose bytes were changed or cut where no crash can have done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Byte offset in the journal.
    pub offset: u64,
    /// What is wrong there.
    pub what: DamageKind,
}

/// What a damaged journal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The header does not match its checksum, or is no journal's.
    Header,
    /// The header is intact and of a version this build cannot read.
    Version(u32),
    /// The mark does not match its checksum.
    Mark,
    /// A settled entry does not match its checksum.
    Entry,
    /// Settled entries are missing at the end.
    Cut,
    /// A half of a write-ahead file does not say whose it is.
    Ahead,
    /// An entry of a write-ahead file, or its record, does not match its checksum, and later ones do.
    AheadEntry,
    /// A write-ahead file is shorter than it was made.
    AheadCut,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the journal's header is altered"),
            Self::Version(version) => write!(
                f,
                "the journal has version {version}, this program reads {VERSION}"
            ),
            Self::Mark => f.write_str("the journal's mark is altered"),
            Self::Entry => f.write_str("a journal entry is altered"),
            Self::Cut => f.write_str("the journal is cut short"),
            Self::Ahead => f.write_str("the write-ahead file is altered"),
            Self::AheadEntry => f.write_str("an entry of the write-ahead file is altered"),
            Self::AheadCut => f.write_str("the write-ahead file is cut short"),
        }
    }
}

/// The intact part of a journal.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    header: Option<Header>,
    entries: &'a [u8],
    settled: u64,
    torn: Option<u64>,
}

/// A journal whose entries nobody has looked at yet: for a reader that checks them in its own order.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    header: Header,
    body: &'a [u8],
    settled: u64,
}

/// Reads a journal.
///
/// Settled entries (see [`Header::mark`]) must all be there and intact; anything else is
/// [`Damage`]. After them, the first entry that does not match its checksum ends the journal: what a
/// crash left half-written, whose lines are simply sent again. A file shorter than a header belongs
/// to a process that died before it wrote anything.
pub fn replay(bytes: &[u8]) -> Result<Replay<'_>, Damage> {
    let Some(slots) = Slots::new(bytes)? else {
        let torn = (!bytes.is_empty()).then_some(0);
        return Ok(Replay {
            header: None,
            entries: &[],
            settled: 0,
            torn,
        });
    };
    let intact = (0..slots.len()).find(|&index| slots.entry(index).is_none());
    slots.end(intact.unwrap_or(slots.len()))
}

impl<'a> Slots<'a> {
    /// `None`: the process died before it wrote a header.
    pub fn new(bytes: &'a [u8]) -> Result<Option<Self>, Damage> {
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let (head, body) = bytes.split_at(HEADER_BYTES);
        let (header, settled) = Header::decode(head)?;
        Ok(Some(Self {
            header,
            body,
            settled,
        }))
    }

    /// Whose journal it is.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Entries up to this index must be intact.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Entries that are there in full, intact or not.
    pub fn len(&self) -> u64 {
        (self.body.len() / ENTRY_BYTES) as u64
    }

    /// Nothing follows the header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `index`; `None` if it is not intact, or beyond the end.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        entry_in(self.body, &self.header, index)
    }

    /// The journal of which exactly the first `intact` entries are.
    pub fn end(self, intact: u64) -> Result<Replay<'a>, Damage> {
        let end = intact as usize * ENTRY_BYTES;
        let offset = entry_offset(intact);
        if intact < self.settled {
            let whole_entry_left = self.body.len() - end >= ENTRY_BYTES;
            let what = if whole_entry_left {
                DamageKind::Entry
            } else {
                DamageKind::Cut
            };
            return Err(Damage { offset, what });
        }
        Ok(Replay {
            header: Some(self.header),
            entries: &self.body[..end],
            settled: self.settled,
            torn: (end < self.body.len()).then_some(offset),
        })
    }
}

impl Replay<'_> {
    /// `None`: the process died before it wrote one.
    pub fn header(&self) -> Option<Header> {
        self.header
    }

    /// Intact entries.
    pub fn len(&self) -> u64 {
        (self.entries.len() / ENTRY_BYTES) as u64
    }

    /// No line finished.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries up to this index were safe, records included, when the mark was written.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Where a torn tail begins, if there is one.
    pub fn torn(&self) -> Option<u64> {
        self.torn
    }

    /// The entry at `index`. `None` beyond the end, or if the bytes changed since the replay.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        entry_in(self.entries, &self.header?, index)
    }

    /// All intact entries in the order in which they were written.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map_while(|index| self.entry(index))
    }
}

/// The entry at `index` of a journal that [`replay`] accepted with this header, without going
/// through the others. `None` beyond the end, or if the bytes changed since.
pub fn entry_at(journal: &[u8], header: &Header, index: u64) -> Option<Entry> {
    entry_in(journal.get(HEADER_BYTES..)?, header, index)
}

/// The entry at `index` of the journal that `header` begins, from its own bytes. `None` if they are not
/// what was written there.
pub fn decode_entry(bytes: &[u8], header: &Header, index: u64) -> Option<Entry> {
    Entry::decode(bytes.get(..ENTRY_BYTES)?, header, index)
}

fn entry_in(entries: &[u8], header: &Header, index: u64) -> Option<Entry> {
    let start = usize::try_from(index).ok()?.checked_mul(ENTRY_BYTES)?;
    Entry::decode(
        entries.get(start..start.checked_add(ENTRY_BYTES)?)?,
        header,
        index,
    )
}

/// Byte offset in the journal of the entry at `index`, which is also the journal's length up to it.
pub fn entry_offset(index: u64) -> u64 {
    HEADER_BYTES as u64 + index * ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests;
