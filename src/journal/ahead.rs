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
/// Size of the file, of which only what is used takes space. It never changes.
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

    /// `None`: the half was never used, or what it began with is lost.
    fn decode(half: &[u8], index: usize, header: &Header) -> Option<Self> {
        let start = half.get(..TURN_BYTES)?;
        let number = u64::from_le_bytes(std::array::from_fn(|at| start[8 + at]));
        let turn = Self::new(header, number);
        (turn.encode() == *start && number > 0 && turn.half() == index).then_some(turn)
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
        let mut found = Examined::default();
        found.frames_of(*self, half, TURN_BYTES);
        match found.damage {
            None => Ok(found.frames()),
            Some(damage) => Err(damage),
        }
    }
}

/// What of a write-ahead file is whole, and what is wrong with the rest.
#[derive(Debug, Default)]
pub struct Examined<'a> {
    found: Vec<(u64, Frame<'a>)>,
    /// Something is broken, and something whole stands behind it: the first such place.
    pub damage: Option<Damage>,
    /// Frames whose entry is whole and whose record is not.
    pub bereft: Vec<Entry>,
    /// Other frames that are broken, as far as anything tells of them.
    pub torn: u64,
}

impl<'a> Examined<'a> {
    /// All whole frames, in the order in which they were written.
    pub fn frames(&self) -> Vec<Frame<'a>> {
        self.found.iter().map(|(_, frame)| *frame).collect()
    }

    fn half(&mut self, half: &'a [u8], turn: Option<Turn>, others: &[Turn]) {
        if let Some(turn) = turn {
            self.frames_of(turn, half, TURN_BYTES);
        }
        // Whose beginning is lost. Written in one piece with it, so none of them can be older.
        let others = others.iter().filter(|other| turn != Some(**other));
        for other in others {
            let whole = |at: &usize| other.frame(half, *at).is_some();
            if let Some(first) = (TURN_BYTES..half.len()).find(whole) {
                let offset = (other.half() * HALF_BYTES) as u64;
                self.damaged(offset, DamageKind::Ahead);
                self.torn += u64::from(first > TURN_BYTES);
                self.frames_of(*other, half, first);
            }
        }
    }

    /// The frames of `turn`, the first of which begins at `offset` or later.
    fn frames_of(&mut self, turn: Turn, half: &'a [u8], mut offset: usize) {
        loop {
            while let Some(frame) = turn.frame(half, offset) {
                offset += ENTRY_BYTES + frame.record.len();
                self.found.push((turn.number, frame));
            }
            let Some(next) = (offset + 1..half.len()).find(|at| turn.frame(half, *at).is_some())
            else {
                break;
            };
            let broken = (turn.half() * HALF_BYTES + offset) as u64;
            self.damaged(broken, DamageKind::AheadEntry);
            match turn.entry(half, offset) {
                Some(entry) => self.bereft.push(entry),
                None => self.torn += 1,
            }
            offset = next;
        }
        let rest = half.get(offset..).unwrap_or_default();
        let is_cut = half.len() < HALF_BYTES && rest.iter().any(|byte| *byte != 0);
        match turn.entry(half, offset) {
            Some(entry) => self.bereft.push(entry),
            None => self.torn += u64::from(is_cut),
        }
    }

    fn damaged(&mut self, offset: u64, what: DamageKind) {
        self.damage = self.damage.or(Some(Damage { offset, what }));
    }
}

/// Reads the write-ahead file of the shard whose journal begins with `header`: its frames in the order
/// in which they were written. Some of them may be in the journal, too. A torn one at the end is left
/// out. An empty file belongs to a process that died before it gave it its size.
pub fn read<'a>(bytes: &'a [u8], header: &Header) -> Result<Vec<Frame<'a>>, Damage> {
    let examined = examine(bytes, header);
    match examined.damage {
        None => Ok(examined.frames()),
        Some(damage) => Err(damage),
    }
}

/// Finds everything that is whole in the write-ahead file of the shard whose journal begins with `header`.
/// What is missing at its end counts as zeros.
pub fn examine<'a>(bytes: &'a [u8], header: &Header) -> Examined<'a> {
    let (first, second) = bytes.split_at(bytes.len().min(HALF_BYTES));
    let halves = [first, &second[..second.len().min(HALF_BYTES)]];
    let mut turns = [None; 2];
    for (index, half) in halves.into_iter().enumerate() {
        turns[index] = Turn::decode(half, index, header);
    }
    let mut examined = Examined::default();
    for (index, half) in halves.into_iter().enumerate() {
        // Of which turns there may be frames behind a beginning that is lost: those beside the other half's.
        let numbers = match turns[1 - index] {
            Some(other) => [other.number - 1, other.number + 1],
            None => [index as u64 + 1, 0],
        };
        let others = numbers
            .into_iter()
            .filter(|number| *number > turns[index].map_or(0, |turn| turn.number));
        let others: Vec<_> = others.map(|number| Turn::new(header, number)).collect();
        if turns[index].is_none() && half.starts_with(&MAGIC) {
            // No kill and no power loss makes one that begins like one and is none of this shard's.
            examined.damaged((index * HALF_BYTES) as u64, DamageKind::Ahead);
        }
        examined.half(half, turns[index], &others);
    }
    // Frames of one turn stay in their order.
    examined.found.sort_by_key(|(number, _)| *number);
    examined
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
    fn damage_before_the_last_frame_is_told_with_its_place_and_the_others_are_found() {
        let mut file = vec![0; AHEAD_BYTES];
        let turn = Turn::first(&header());
        let ends = write(&mut file, &turn, 1..6);
        for at in 0..ends[3] {
            let mut flipped = file.clone();
            flipped[at] ^= 0x10;
            let before = ends.iter().filter(|end| **end <= at).count();
            let offset = match (at, before) {
                (0..TURN_BYTES, _) => 0,
                (_, 0) => TURN_BYTES,
                _ => ends[before - 1],
            };
            let damage = lines(&flipped).unwrap_err();
            assert_eq!(damage.offset, offset as u64, "byte {at}");
            let whole = examine(&flipped, &header()).frames();
            let found = whole.iter().map(|frame| frame.entry.line_number);
            let others = (1..6).filter(|line| at < TURN_BYTES || *line != before as u64 + 1);
            assert!(found.eq(others), "byte {at}");
        }
    }

    /// The tail is what has nothing whole behind it, whatever was there.
    #[test]
    fn a_file_that_is_cut_or_zero_at_its_end_holds_what_is_left() {
        let mut file = vec![0; AHEAD_BYTES];
        let first = Turn::first(&header());
        let ends = write(&mut file, &first, 1..6);
        let second = first.next(&header());
        let ends_2 = write(&mut file, &second, 6..9);
        let whole = |length: usize| {
            let second = ends_2.iter().filter(|end| HALF_BYTES + **end <= length);
            let count = ends.iter().filter(|end| **end <= length).count();
            // Without its beginning a half is not known to be one.
            (1..count as u64 + 1).chain(6..6 + second.count() as u64)
        };
        for length in [
            0,
            1,
            TURN_BYTES,
            ends[0] - 1,
            ends[0],
            ends[2] + 3,
            ends[4],
            HALF_BYTES + 5,
        ]
        .into_iter()
        .chain([
            HALF_BYTES + ends_2[0] + 90,
            HALF_BYTES + ends_2[2] - 1,
            AHEAD_BYTES - 1,
        ]) {
            let expected: Vec<_> = whole(length).collect();
            assert_eq!(
                lines(&file[..length]),
                Ok(expected.clone()),
                "cut at {length}"
            );
            let mut zeros = file.clone();
            zeros[length..].fill(0);
            assert_eq!(lines(&zeros), Ok(expected), "zeros from {length}");
        }
        let torn = |length| {
            let examined = examine(&file[..length], &header());
            examined.torn + examined.bereft.len() as u64
        };
        assert_eq!(
            [ends[0], ends[1] - 1, ends[1] - ENTRY_BYTES].map(torn),
            [0, 1, 1]
        );
    }

    /// A half whose first page did not reach the disk while a later one did.
    #[test]
    fn frames_behind_a_beginning_that_is_lost_or_old_are_found_and_told() {
        let turns: Vec<_> = std::iter::successors(Some(Turn::first(&header())), |turn| {
            Some(turn.next(&header()))
        })
        .take(4)
        .collect();
        let mut file = vec![0; AHEAD_BYTES];
        write(&mut file, &turns[0], 1..9);
        write(&mut file, &turns[1], 9..20);
        let old = file.clone();
        let ends = write(&mut file, &turns[2], 20..30);
        write(&mut file, &turns[3], 30..33);
        // Zero, and as it was two turns ago.
        for beginning in [&vec![0; ends[1]], &old[..ends[1]].to_vec()] {
            let mut lost = file.clone();
            lost[..ends[1]].copy_from_slice(beginning);
            let examined = examine(&lost, &header());
            let expected = Damage {
                offset: 0,
                what: DamageKind::Ahead,
            };
            assert_eq!(examined.damage, Some(expected));
            let found: Vec<_> = examined
                .frames()
                .iter()
                .map(|frame| frame.entry.line_number)
                .collect();
            assert!((22..33).all(|line| found.contains(&line)), "{found:?}");
        }
    }
}
