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

/// A file that was changed before its tail: something whole stands behind it.
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
    /// An entry does not match its checksum, and a later one does.
    Entry,
    /// Entries that this process has written or repaired are missing at the end.
    Cut,
    /// The journal of another run or shard.
    Foreign,
    /// A half of a write-ahead file does not say whose it is, and has whole frames; or it is another's.
    Ahead,
    /// An entry of a write-ahead file, or its record, does not match its checksum, and later ones do.
    AheadEntry,
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
            Self::Foreign => f.write_str("the journal belongs to another run or shard"),
            Self::Ahead => f.write_str("the write-ahead file is altered"),
            Self::AheadEntry => f.write_str("an entry of the write-ahead file is altered"),
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
/// A broken entry below the mark with a whole one behind it is [`Damage`], and so are an altered header and
/// mark. Other broken entries are a torn tail: what a kill left half-written, or a power loss
/// did not write; their lines are simply sent again, also if the mark says that they were there
/// ([`Replay::missing`]). A file shorter than a header, or with zeros in its place, belongs to a process
/// that died before it wrote anything.
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
    let is_whole = |index: &u64| slots.entry(*index).is_some();
    let Some(broken) = (0..slots.len()).find(|index| !is_whole(index)) else {
        return Ok(slots.first(slots.len()));
    };
    // Above the mark, what was not synced may be lost in any order.
    match broken < slots.settled() && (broken..slots.len()).rev().any(|index| is_whole(&index)) {
        false => Ok(slots.first(broken)),
        true => Err(Damage {
            offset: entry_offset(broken),
            what: DamageKind::Entry,
        }),
    }
}

impl<'a> Slots<'a> {
    /// `None`: the process died before it wrote a header.
    pub fn new(bytes: &'a [u8]) -> Result<Option<Self>, Damage> {
        let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Ok(None);
        };
        if head.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (header, settled) = Header::decode(head)?;
        Ok(Some(Self {
            header,
            body,
            settled,
        }))
    }

    /// A journal that ought to begin with `header`, whatever it begins with; and what is wrong with its
    /// beginning. A mark that cannot be read says nothing: 0. Where the header is altered, `settled` is
    /// what the mark says.
    pub fn expected(bytes: &'a [u8], header: Header) -> (Self, Option<Damage>) {
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let settled = header.settled(bytes).unwrap_or(0);
        let slots = Self {
            header,
            body,
            settled,
        };
        let wrong = match Self::new(bytes) {
            Ok(Some(found)) if found.header == header => None,
            Ok(Some(_)) => Some(Damage {
                offset: 0,
                what: DamageKind::Foreign,
            }),
            Ok(None) => Some(Damage {
                offset: 0,
                what: DamageKind::Header,
            }),
            Err(damage) => Some(damage),
        };
        (slots, wrong)
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

    /// Of an entry that is not intact: the checksum of its record, if that much of it is.
    pub fn record_checksum(&self, index: u64) -> Option<u32> {
        entry::record_checksum(self.slot(index)?)
    }

    /// Nothing was ever written there, or it is lost.
    pub fn is_blank(&self, index: u64) -> bool {
        let slot = self.slot(index).unwrap_or_default();
        slot.iter().all(|byte| *byte == 0)
    }

    fn slot(&self, index: u64) -> Option<&'a [u8]> {
        slot_in(self.body, index)
    }

    /// The journal of which exactly the first `intact` entries are, as a process left it that had repaired
    /// it or written it: then none below the mark is missing.
    pub fn end(self, intact: u64) -> Result<Replay<'a>, Damage> {
        let replay = self.first(intact);
        if replay.missing() == 0 {
            return Ok(replay);
        }
        let what = match self.len() > intact {
            true => DamageKind::Entry,
            false => DamageKind::Cut,
        };
        let offset = entry_offset(intact);
        Err(Damage { offset, what })
    }

    /// The first `intact` entries.
    fn first(self, intact: u64) -> Replay<'a> {
        let end = intact as usize * ENTRY_BYTES;
        Replay {
            header: Some(self.header),
            entries: &self.body[..end],
            settled: self.settled,
            torn: (end < self.body.len()).then_some(entry_offset(intact)),
        }
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

    /// Entries that the mark counts and that are not there.
    pub fn missing(&self) -> u64 {
        self.settled.saturating_sub(self.len())
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
    Entry::decode(slot_in(entries, index)?, header, index)
}

fn slot_in(entries: &[u8], index: u64) -> Option<&[u8]> {
    let start = usize::try_from(index).ok()?.checked_mul(ENTRY_BYTES)?;
    entries.get(start..start.checked_add(ENTRY_BYTES)?)
}

/// Byte offset in the journal of the entry at `index`, which is also the journal's length up to it.
pub fn entry_offset(index: u64) -> u64 {
    HEADER_BYTES as u64 + index * ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests;
