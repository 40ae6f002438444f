//! Journals and write-ahead files.

use blaze_uring::journal::ahead::{TURN_BYTES, Turn};
use blaze_uring::journal::{
    self, DamageKind, ENTRY_BYTES, Entry, HEADER_BYTES, Header, MARK_OFFSET, Outcome, Tokens,
};

/// Bytes → the intact part of a journal. An input that begins with `+` describes a journal and what
/// happens to it, since nobody guesses checksums: bytes 1 to 7 are entries, settled ones, the kind of
/// damage, its place (two bytes), the flipped bits, and the first entry's seed.
pub fn journal(data: &[u8]) {
    match data {
        [b'+', entries, settled, kind, high, low, bits, rest @ ..] => {
            let place = usize::from(u16::from_be_bytes([*high, *low]));
            damaged(*entries, *settled, *kind, place, *bits, rest);
            damaged_ahead(*entries, *kind, place, *bits, rest);
        }
        _ => raw(data),
    }
}

/// What is read, reads the same a second time, and so does every cut of it.
fn raw(data: &[u8]) {
    let Ok(replay) = journal::replay(data) else {
        return;
    };
    let entries: Vec<_> = replay.entries().collect();
    assert_eq!(entries.len() as u64, replay.len());
    assert_eq!(
        replay.missing(),
        replay.settled().saturating_sub(replay.len())
    );
    let Some(header) = replay.header() else {
        assert!(replay.is_empty());
        return;
    };
    for (index, entry) in (0..).zip(&entries) {
        assert_eq!(
            journal::entry_at(data, &header, index).as_ref(),
            Some(entry)
        );
        let at = journal::entry_offset(index) as usize;
        assert_eq!(entry.encode(&header, index), data[at..at + ENTRY_BYTES]);
    }
    let kept = &data[..journal::entry_offset(replay.len()) as usize];
    let again = journal::replay(kept).expect("what is intact stays intact");
    assert_eq!((again.len(), again.torn()), (replay.len(), None));
}

/// A true journal, cut, flipped or longer: what is before the damage is kept, and damage is told that
/// something whole stands behind.
fn damaged(entries: u8, settled: u8, kind: u8, place: usize, bits: u8, rest: &[u8]) {
    let header = Header::new([7; 16], u32::from(bits), 3);
    let count = u64::from(entries % 16);
    let settled = u64::from(settled) % (count + 1);
    let written: Vec<Entry> = (0..count).map(|index| entry(index, rest)).collect();
    let mut bytes = header.encode().to_vec();
    bytes[MARK_OFFSET..HEADER_BYTES].copy_from_slice(&header.mark(settled));
    for (index, entry) in (0..).zip(&written) {
        bytes.extend(entry.encode(&header, index));
    }
    let place = place % (bytes.len() + 1);
    let length = bytes.len();
    match kind % 3 {
        0 => bytes.truncate(place),
        1 if place < length => bytes[place] ^= bits,
        _ => bytes.extend(rest),
    }
    let touched = match kind % 3 {
        0 if place < length => Some(place),
        1 if place < length && bits != 0 => Some(place),
        _ => None,
    };
    let replay = journal::replay(&bytes);
    let Some(touched) = touched else {
        let replay = replay.expect("nothing of it is damaged");
        assert!(replay.entries().eq(written.iter().copied()), "all of it");
        assert_eq!(replay.settled(), settled);
        return;
    };
    if touched < HEADER_BYTES {
        match replay {
            // Shorter than a header: of a process that died before it wrote anything.
            Ok(replay) => {
                assert!(kind.is_multiple_of(3) && replay.is_empty() && replay.header().is_none())
            }
            Err(damage) => assert!(damage.what != DamageKind::Entry),
        }
        return;
    }
    let intact = (touched - HEADER_BYTES) / ENTRY_BYTES;
    match replay {
        Ok(replay) => {
            let is_last = kind.is_multiple_of(3) || intact as u64 + 1 >= count;
            assert!(is_last || intact as u64 >= settled, "damage is not told");
            assert!(replay.entries().eq(written[..intact].iter().copied()));
            assert_eq!(replay.missing(), settled.saturating_sub(intact as u64));
        }
        Err(damage) => {
            assert!((intact as u64) < settled, "a torn tail is no damage");
            assert_eq!(damage.offset, journal::entry_offset(intact as u64));
        }
    }
}

/// The same happens to half a write-ahead file with as many lines: a torn end is dropped, damage before
/// the last frame is told by the frame that has it.
fn damaged_ahead(entries: u8, kind: u8, place: usize, bits: u8, rest: &[u8]) {
    let header = Header::new([7; 16], u32::from(bits), 3);
    let turn = Turn::first(&header).next(&header);
    let mut half = turn.encode().to_vec();
    let (mut written, mut starts) = (Vec::new(), Vec::new());
    for index in 0..u64::from(entries % 16) {
        let record = &rest[..rest.len().min(index as usize * 7)];
        let entry = Entry {
            length: record.len() as u64,
            record_checksum: crc32fast::hash(record),
            ..entry(index, rest)
        };
        starts.push(half.len());
        half.extend(turn.encode_entry(&entry, half.len()));
        half.extend(record);
        written.push((entry, record));
    }
    let length = half.len();
    let place = TURN_BYTES + place % (length + 1 - TURN_BYTES);
    let is_torn = kind.is_multiple_of(3);
    let touches = place < length && (is_torn || (kind % 3 == 1 && bits != 0));
    match kind % 3 {
        0 => half.truncate(place),
        1 if place < length => half[place] ^= bits,
        _ => half.extend(rest),
    }
    // Which frame is touched.
    let touched = starts.partition_point(|start| *start <= place);
    let whole = if touches { touched - 1 } else { written.len() };
    match turn.frames(&half) {
        Ok(frames) => {
            assert!(is_torn || whole + 1 >= written.len(), "damage is not told");
            let frames = frames.iter().map(|frame| (frame.entry, frame.record));
            assert!(frames.eq(written[..whole].iter().copied()));
        }
        Err(damage) => {
            assert!(touches && !is_torn && whole + 1 < written.len());
            let offset = damage.offset as usize - journal::ahead::HALF_BYTES;
            assert_eq!(offset, starts[whole]);
        }
    }
}

fn entry(index: u64, rest: &[u8]) -> Entry {
    let byte = |at: usize| u64::from(rest.get(at).copied().unwrap_or_default());
    let wide = byte(0) << (byte(1) % 64);
    Entry {
        line_offset: wide.wrapping_mul(index + 1),
        line_number: index + 1,
        completed_us: wide,
        outcome: match (byte(2) >> (index % 4 * 2)) & 3 {
            0 => None,
            1 => Some(Outcome::Success),
            _ => Some(Outcome::Failure),
        },
        position: wide ^ byte(3),
        length: byte(4),
        record_checksum: byte(5) as u32,
        attempts: byte(6) as u32,
        tokens: Tokens {
            prompt: byte(7) as u32,
            completion: wide as u32,
            cached: 0,
        },
        cost_nano_usd: wide ^ byte(8),
    }
}
