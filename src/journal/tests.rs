use super::*;

fn header() -> Header {
    Header::new(*b"0123456789abcdef", 3, 7)
}

fn entry(index: u64) -> Entry {
    Entry {
        line_offset: index * 1000,
        line_number: index + 1,
        completed_us: 1_700_000_000_000_000 + index,
        outcome: match index % 3 {
            2 => Some(Outcome::Failure),
            1 => None,
            _ => Some(Outcome::Success),
        },
        position: index * 500,
        length: 500,
        record_checksum: 0xdead_beef ^ index as u32,
        attempts: 1 + index as u32,
        tokens: Tokens {
            prompt: 10,
            completion: u32::MAX,
            cached: index as u32,
        },
        cost_nano_usd: index << 40,
    }
}

/// A journal of `count` entries, the first `settled` of them settled.
fn journal(count: u64, settled: u64) -> Vec<u8> {
    let mut bytes = header().encode().to_vec();
    for index in 0..count {
        bytes.extend_from_slice(&entry(index).encode(&header(), index));
    }
    bytes[MARK_OFFSET..HEADER_BYTES].copy_from_slice(&header().mark(settled));
    bytes
}

fn expect(bytes: &[u8], count: u64, torn: Option<u64>) {
    let replay = replay(bytes).expect("no damage");
    assert_eq!(
        replay.entries().collect::<Vec<_>>(),
        (0..count).map(entry).collect::<Vec<_>>()
    );
    assert_eq!((replay.len(), replay.torn()), (count, torn));
}

#[test]
fn what_is_written_is_read_back() {
    for settled in 0..=4 {
        let bytes = journal(4, settled);
        expect(&bytes, 4, None);
        let replay = replay(&bytes).expect("no damage");
        assert_eq!(
            (replay.header(), replay.settled()),
            (Some(header()), settled)
        );
        assert_eq!(replay.entry(2), Some(entry(2)));
        assert_eq!(replay.entry(4), None);
        assert_eq!(replay.entry(u64::MAX), None);
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    assert_eq!((HEADER_BYTES, ENTRY_BYTES), (64, 80));
    let bytes = journal(1, 1);
    assert_eq!(bytes[..20], *b"BLZJRNL\n\x03\0\0\0\x03\0\0\0\x07\0\0\0");
    assert_eq!(bytes[24..40], *b"0123456789abcdef");
    assert_eq!(bytes[48..56], 1_u64.to_le_bytes());
    assert_eq!(
        bytes[72..80],
        1_u64.to_le_bytes(),
        "line number of the first entry"
    );
    assert_eq!(bytes[124..128], 1_u32.to_le_bytes(), "success");
}

#[test]
fn a_cut_anywhere_in_the_unsettled_tail_drops_only_that_tail() {
    let bytes = journal(4, 1);
    for length in entry_offset(1) as usize..bytes.len() {
        let whole = (length - HEADER_BYTES) / ENTRY_BYTES;
        let boundary = entry_offset(whole as u64);
        expect(
            &bytes[..length],
            whole as u64,
            (boundary < length as u64).then_some(boundary),
        );
    }
}

/// Also where the mark says that more was there: a power loss may take an end that was written.
#[test]
fn a_cut_or_zeros_into_settled_entries_are_a_tail_that_is_counted() {
    let bytes = journal(4, 4);
    for length in HEADER_BYTES..bytes.len() {
        let whole = (length - HEADER_BYTES) as u64 / ENTRY_BYTES as u64;
        let mut zeros = bytes.clone();
        zeros[length..].fill(0);
        let boundary = entry_offset(whole);
        expect(
            &bytes[..length],
            whole,
            (boundary < length as u64).then_some(boundary),
        );
        expect(&zeros, whole, Some(boundary));
        for bytes in [&bytes[..length], &zeros] {
            assert_eq!(replay(bytes).expect("no damage").missing(), 4 - whole);
        }
    }
}

#[test]
fn a_file_without_its_header_holds_nothing() {
    let bytes = journal(0, 0);
    for length in 0..HEADER_BYTES {
        for bytes in [&bytes[..length], &vec![0; length]] {
            let replay = replay(bytes).expect("no damage");
            assert_eq!((replay.header(), replay.len()), (None, 0));
            assert_eq!(replay.torn(), (length > 0).then_some(0));
        }
    }
    let replay = replay(&[0; HEADER_BYTES]).expect("no damage");
    assert_eq!((replay.header(), replay.len()), (None, 0));
}

#[test]
fn every_flipped_byte_of_the_last_entry_ends_the_journal_there() {
    for settled in [0, 3, 5] {
        let bytes = journal(5, settled);
        for at in entry_offset(4) as usize..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut flipped = bytes.clone();
                flipped[at] ^= bit;
                expect(&flipped, 4, Some(entry_offset(4)));
            }
        }
    }
}

#[test]
fn every_flipped_byte_with_something_whole_behind_it_is_damage_with_its_offset() {
    for settled in [3, 4] {
        let bytes = journal(4, settled);
        for at in 0..entry_offset(3) as usize {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let (offset, what) = match at {
                0..MARK_OFFSET => (0, DamageKind::Header),
                MARK_OFFSET..HEADER_BYTES => (MARK_OFFSET as u64, DamageKind::Mark),
                _ => {
                    let index = ((at - HEADER_BYTES) / ENTRY_BYTES) as u64;
                    (entry_offset(index), DamageKind::Entry)
                }
            };
            let expected = Damage { offset, what };
            assert_eq!(replay(&flipped).unwrap_err(), expected, "byte {at}");
            // Whoever knows what it ought to begin with finds the others all the same.
            let (slots, wrong) = Slots::expected(&flipped, header());
            let whole = (0..4).filter_map(|index| slots.entry(index)).count();
            assert_eq!(whole, if at < HEADER_BYTES { 4 } else { 3 }, "byte {at}");
            assert_eq!(wrong.is_some(), at < HEADER_BYTES);
        }
    }
}

/// What was not synced may be lost in any order, and no power loss is damage.
#[test]
fn above_the_mark_a_broken_entry_ends_the_journal_whatever_is_behind_it() {
    let bytes = journal(5, 2);
    for at in entry_offset(2) as usize..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        let index = ((at - HEADER_BYTES) / ENTRY_BYTES) as u64;
        expect(&flipped, index, Some(entry_offset(index)));
    }
}

#[test]
fn a_process_that_ends_finds_every_entry_that_it_has_marked() {
    let bytes = journal(4, 4);
    let end = |bytes: &[u8], intact| {
        let slots = Slots::new(bytes).expect("no damage").expect("a header");
        slots.end(intact).map(|replay| replay.len())
    };
    assert_eq!(end(&bytes, 4), Ok(4));
    for (length, what) in [
        (bytes.len(), DamageKind::Entry),
        (bytes.len() - 1, DamageKind::Cut),
    ] {
        let offset = entry_offset(3);
        assert_eq!(end(&bytes[..length], 3), Err(Damage { offset, what }));
    }
}

#[test]
fn an_entry_in_the_wrong_place_does_not_pass() {
    let mut bytes = journal(2, 2);
    let (first, second) = (entry_offset(0) as usize, entry_offset(1) as usize);
    let moved = bytes[second..].to_vec();
    bytes[first..second].copy_from_slice(&moved);
    assert_eq!(replay(&bytes).unwrap_err().offset, entry_offset(0));
    bytes.truncate(second);
    expect(&bytes, 0, Some(entry_offset(0)));
}

#[test]
fn a_page_of_zeros_is_a_torn_tail() {
    let mut bytes = journal(2, 2);
    bytes.resize(bytes.len() + 4096, 0);
    expect(&bytes, 2, Some(entry_offset(2)));
}

#[test]
fn another_version_says_so() {
    for version in [2, 4] {
        let mut bytes = journal(0, 0);
        bytes[8] = version;
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..40]);
        bytes[40..48].copy_from_slice(&checksum.to_le_bytes());
        let damage = replay(&bytes).unwrap_err();
        let what = DamageKind::Version(version.into());
        assert_eq!(damage, Damage { offset: 8, what });
    }
}
