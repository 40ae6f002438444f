//! The write-ahead file: finished lines, each with its record, on their way to segment and journal. Pure.
//!
//! A shard that puts its records into its segments in the order of the input has to wait for older
//! lines. What waits is safe here. The file has two halves that are used in turns: one is begun
//! anew when everything in it has gone to segment and journal. Layout, little endian
//! (`docs/RUN_FOLDER.md`): a half begins with the 24 bytes of its [`Turn`], then follow frames: a
//! journal entry of 80 bytes, then its record.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Damage, DamageKind, ENTRY_BYTES, Entry, Header};

/// Size of a half, and where the second one begins. Larger than the records of a usual number of
/// requests in flight, so that one slow answer does not make all others give up their order; small
/// enough to stay in a processor's cache.
pub const HALF_BYTES: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// Size of the file, of which only what is used takes space. It never changes, so that a cut shows.
pub const AHEAD_BYTES: usize = 2 * HALF_BYTES;
/// Size of what a half begins with.
pub const TURN_BYTES: usize = 24;

const MAGIC: [u8; 8] = *b"BLZAHED\n";
const CHECKED_BYTES: usize = 16;

/// One use of one half. Its frames are told from those of earlier turns by their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    number: u64,
    checksum: u64,
}

/// A finished line or an attempt that was paid for, and the record with its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// As in the journal, but the record has no position yet: zero.
    pub entry: Entry,
    /// Empty for what has no record.
    pub record: &'a [u8],
}

impl Turn {
    /// The first use of the first half, by the shard whose journal begins with `header`.
    pub fn first(header: &Header) -> Self {
        Self::new(header, 1)
    }

    /// The next use of the other half.
    pub fn next(&self, header: &Header) -> Self {
        Self::new(header, self.number + 1)
    }

    fn new(header: &Header, number: u64) -> Self {
        let mut checked = [0; CHECKED_BYTES];
        checked[..8].copy_from_slice(&MAGIC);
        checked[8..].copy_from_slice(&number.to_le_bytes());
        Self {
            number,
            // Seeded with the journal: no other shard's or run's file passes for this one.
            checksum: xxh3_64_with_seed(&checked, header.checksum()),
        }
    }

    /// 0 or 1: which half it uses.
    pub fn half(&self) -> usize {
        usize::from(self.number.is_multiple_of(2))
    }

    /// What the half begins with.
    pub fn encode(&self) -> [u8; TURN_BYTES] {
        let mut bytes = [0; TURN_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// `None`: the half was never used.
    fn decode(half: &[u8], index: usize, header: &Header) -> Result<Option<Self>, Damage> {
        let start = &half[..TURN_BYTES];
        if start.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let number = u64::from_le_bytes(std::array::from_fn(|at| start[8 + at]));
        let turn = Self::new(header, number);
        match turn.encode() == *start && number > 0 && turn.half() == index {
            true => Ok(Some(turn)),
            false => Err(Damage {
                offset: (index * HALF_BYTES) as u64,
                what: DamageKind::Ahead,
            }),
        }
    }

    /// The first bytes of a frame that begins `offset` bytes into the half; the record follows.
    pub fn encode_entry(&self, entry: &Entry, offset: usize) -> [u8; ENTRY_BYTES] {
        entry.encode_seeded(self.seed(offset))
    }

    /// The entry of the frame `offset` bytes into the half; `None` if none of this turn begins there.
    pub fn entry(&self, half: &[u8], offset: usize) -> Option<Entry> {
        let bytes = half.get(offset..offset.checked_add(ENTRY_BYTES)?)?;
        Entry::decode_seeded(bytes, self.seed(offset))
    }

    /// The whole frame there.
    pub fn frame<'a>(&self, half: &'a [u8], offset: usize) -> Option<Frame<'a>> {
        let entry = self.entry(half, offset)?;
        let start = offset + ENTRY_BYTES;
        let end = start.checked_add(usize::try_from(entry.length).ok()?)?;
        let record = half.get(start..end)?;
        (crc32fast::hash(record) == entry.record_checksum).then_some(Frame { entry, record })
    }

    fn seed(&self, offset: usize) -> u64 {
        self.checksum.wrapping_add(offset as u64)
    }

    /// All frames of this turn, up to a torn one. A kill in the middle of a write leaves the beginning of
    /// it; so where a frame is broken and a later one is whole, something else has been at the file.
    pub fn frames<'a>(&self, half: &'a [u8]) -> Result<Vec<Frame<'a>>, Damage> {
        let (mut offset, mut frames) = (TURN_BYTES, Vec::new());
        while let Some(frame) = self.frame(half, offset) {
            offset += ENTRY_BYTES + frame.record.len();
            frames.push(frame);
        }
        match (offset + 1..half.len()).any(|at| self.entry(half, at).is_some()) {
            false => Ok(frames),
            true => Err(Damage {
                offset: (self.half() * HALF_BYTES + offset) as u64,
                what: DamageKind::AheadEntry,
            }),
        }
    }
}

/// Reads the write-ahead file of the shard whose journal begins with `header`: its frames in the order
/// in which they were written. Some of them may be in the journal, too. A torn one at the end is left
/// out. An empty file belongs to a process that died before it gave it its size.
pub fn read<'a>(bytes: &'a [u8], header: &Header) -> Result<Vec<Frame<'a>>, Damage> {
    let mut frames = Vec::new();
    if bytes.is_empty() {
        return Ok(frames);
    }
    if bytes.len() < AHEAD_BYTES {
        return Err(Damage {
            offset: bytes.len() as u64,
            what: DamageKind::AheadCut,
        });
    }
    let mut turns = Vec::new();
    for (index, half) in bytes.chunks_exact(HALF_BYTES).take(2).enumerate() {
        turns.extend(Turn::decode(half, index, header)?.map(|turn| (turn, half)));
    }
    turns.sort_unstable_by_key(|(turn, _)| turn.number);
    for (turn, half) in turns {
        frames.extend(turn.frames(half)?);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Outcome, Tokens};

    fn header() -> Header {
        Header::new(*b"0123456789abcdef", 3, 7)
    }

    fn entry(number: u64, record: &[u8]) -> Entry {
        Entry {
            line_offset: number * 1000,
            line_number: number,
            completed_us: number,
            outcome: match number % 3 {
                0 => None,
                1 => Some(Outcome::Success),
                _ => Some(Outcome::Failure),
            },
            position: 0,
            length: record.len() as u64,
            record_checksum: crc32fast::hash(record),
            attempts: 1,
            tokens: Tokens::default(),
            cost_nano_usd: 5,
        }
    }

    fn record(number: u64) -> Vec<u8> {
        match number % 3 {
            0 => Vec::new(),
            _ => format!(
                "{{\"line\":{number}}}{}\n",
                "x".repeat(number as usize % 30)
            )
            .into_bytes(),
        }
    }

    /// Writes frames of these lines; their ends.
    fn write(file: &mut [u8], turn: &Turn, lines: std::ops::Range<u64>) -> Vec<usize> {
        let half = &mut file[turn.half() * HALF_BYTES..][..HALF_BYTES];
        half[..TURN_BYTES].copy_from_slice(&turn.encode());
        let mut at = TURN_BYTES;
        let put = |number| {
            let record = record(number);
            let entry = turn.encode_entry(&entry(number, &record), at);
            half[at..at + ENTRY_BYTES].copy_from_slice(&entry);
            at += ENTRY_BYTES;
            half[at..at + record.len()].copy_from_slice(&record);
            at += record.len();
            at
        };
        lines.map(put).collect()
    }

    fn lines(file: &[u8]) -> Result<Vec<u64>, Damage> {
        let frames = read(file, &header())?;
        for frame in &frames {
            assert_eq!(frame.record, record(frame.entry.line_number));
        }
        Ok(frames.iter().map(|frame| frame.entry.line_number).collect())
    }

    #[test]
    fn frames_come_back_by_turns_and_those_of_earlier_turns_do_not() {
        let mut file = vec![0; AHEAD_BYTES];
        assert_eq!((lines(&[]), lines(&file)), (Ok(vec![]), Ok(vec![])));
        let first = Turn::first(&header());
        write(&mut file, &first, 1..9);
        assert_eq!(lines(&file), Ok((1..9).collect()));
        let second = first.next(&header());
        assert_eq!((first.half(), second.half()), (0, 1));
        write(&mut file, &second, 9..12);
        assert_eq!(lines(&file), Ok((1..12).collect()));
        write(&mut file, &second.next(&header()), 12..14);
        assert_eq!(
            lines(&file),
            Ok((9..14).collect()),
            "3 to 8 are of the first turn"
        );
        let other = Header::new(*b"0123456789abcdef", 3, 8);
        assert_eq!(
            read(&file, &other).unwrap_err().what,
            DamageKind::Ahead,
            "another shard's"
        );
    }

    #[test]
    fn a_write_that_was_cut_anywhere_leaves_what_was_before() {
        let mut file = vec![0; AHEAD_BYTES];
        let turn = Turn::first(&header());
        let ends = write(&mut file, &turn, 1..6);
        for cut in TURN_BYTES..ends[4] {
            let mut torn = file.clone();
            torn[cut..ends[4]].fill(0);
            let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
            assert_eq!(lines(&torn), Ok((1..whole + 1).collect()), "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_last_frame_is_told_with_its_place() {
        let mut file = vec![0; AHEAD_BYTES];
        let turn = Turn::first(&header());
        let ends = write(&mut file, &turn, 1..6);
        for at in 0..ends[3] {
            let mut flipped = file.clone();
            flipped[at] ^= 0x10;
            let starts = ends.iter().filter(|end| **end <= at);
            let offset = match at {
                0..TURN_BYTES => 0,
                _ => starts.max().copied().unwrap_or(TURN_BYTES),
            };
            let damage = lines(&flipped).unwrap_err();
            assert_eq!(damage.offset, offset as u64, "byte {at}");
        }
        for length in [1, ends[2], AHEAD_BYTES - 1] {
            let damage = Damage {
                offset: length as u64,
                what: DamageKind::AheadCut,
            };
            assert_eq!(lines(&file[..length]), Err(damage));
        }
    }
}
