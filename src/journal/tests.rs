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

#[test]
fn a_cut_into_settled_entries_is_damage() {
    let bytes = journal(4, 4);
    for length in HEADER_BYTES..bytes.len() {
        let offset = entry_offset(((length - HEADER_BYTES) / ENTRY_BYTES) as u64);
        assert_eq!(
            replay(&bytes[..length]).unwrap_err(),
            Damage {
                offset,
                what: DamageKind::Cut
            },
            "{length}"
        );
    }
}

#[test]
fn a_file_shorter_than_its_header_holds_nothing() {
    let bytes = journal(0, 0);
    for length in 0..HEADER_BYTES {
        let replay = replay(&bytes[..length]).expect("no damage");
        assert_eq!((replay.header(), replay.len()), (None, 0));
        assert_eq!(replay.torn(), (length > 0).then_some(0));
    }
}

#[test]
fn every_flipped_byte_of_the_unsettled_tail_ends_the_journal_there() {
    let bytes = journal(5, 3);
    for at in entry_offset(3) as usize..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            let index = ((at - HEADER_BYTES) / ENTRY_BYTES) as u64;
            expect(&flipped, index, Some(entry_offset(index)));
        }
    }
}

#[test]
fn every_flipped_byte_before_the_tail_is_damage_with_its_offset() {
    let bytes = journal(4, 3);
    for at in 0..entry_offset(3) as usize {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let expected = match at {
            0..MARK_OFFSET => Damage {
                offset: 0,
                what: DamageKind::Header,
            },
            MARK_OFFSET..HEADER_BYTES => Damage {
                offset: MARK_OFFSET as u64,
                what: DamageKind::Mark,
            },
            _ => {
                let index = ((at - HEADER_BYTES) / ENTRY_BYTES) as u64;
                Damage {
                    offset: entry_offset(index),
                    what: DamageKind::Entry,
                }
            }
        };
        assert_eq!(replay(&flipped).unwrap_err(), expected, "byte {at}");
    }
}

#[test]
fn an_entry_in_the_wrong_place_does_not_pass() {
    let mut bytes = journal(3, 0);
    let (first, second) = (entry_offset(0) as usize, entry_offset(1) as usize);
    let moved = bytes[second..second + ENTRY_BYTES].to_vec();
    bytes[first..first + ENTRY_BYTES].copy_from_slice(&moved);
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
