//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B). Pure.
//!
//! The code is canonical: codes of one length follow each other in the order of their bytes, and
//! shorter ones come first. So the lengths say everything; the tables are made of them at compile
//! time.

/// Length in bits of each byte's code (RFC 7541, appendix B). The end-of-string symbol comes last:
/// 30 ones.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
/// No code is longer.
const BITS_MAX: usize = 30;
/// Codes up to this long are looked up at once: all of what heads are usually made of.
const FAST_BITS: usize = 9;

/// Bytes in the order of their codes, and of each length the first code and how many there are.
struct Codes {
    ordered: [u8; 256],
    first: [u32; BITS_MAX + 1],
    count: [u32; BITS_MAX + 1],
    /// Place of the first code of a length in `ordered`.
    offset: [u32; BITS_MAX + 1],
    /// By the next bits: the code's length and its byte; length 0 is a longer code.
    fast: [(u8, u8); 1 << FAST_BITS],
}

static CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes = Codes {
        ordered: [0; 256],
        first: [0; BITS_MAX + 1],
        count: [0; BITS_MAX + 1],
        offset: [0; BITS_MAX + 1],
        fast: [(0, 0); 1 << FAST_BITS],
    };
    let (mut code, mut place, mut bits) = (0, 0, 1);
    while bits <= BITS_MAX {
        code <<= 1;
        codes.first[bits] = code;
        codes.offset[bits] = place;
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as usize == bits {
                codes.ordered[place as usize] = byte as u8;
                if bits <= FAST_BITS {
                    let spare = FAST_BITS - bits;
                    let mut index = (code as usize) << spare;
                    while index < (code as usize + 1) << spare {
                        codes.fast[index] = (bits as u8, byte as u8);
                        index += 1;
                    }
                }
                place += 1;
                code += 1;
                codes.count[bits] += 1;
            }
            byte += 1;
        }
        bits += 1;
    }
    codes
}

/// Appends the text that `coded` stands for; `false` if it stands for none: the end-of-string
/// symbol, or padding that is too long or not all ones.
pub(super) fn decode(coded: &[u8], text: &mut Vec<u8>) -> bool {
    // The next `count` bits, from the top.
    let (mut bits, mut count, mut at) = (0_u64, 0_u32, 0);
    loop {
        while count <= 56 && at < coded.len() {
            bits |= u64::from(coded[at]) << (56 - count);
            count += 8;
            at += 1;
        }
        let (length, byte) = CODES.fast[(bits >> (64 - FAST_BITS)) as usize];
        let (length, byte) = match length {
            0 => match long(bits) {
                Some(found) => found,
                // 30 ones, unless they are not all there.
                None if count >= BITS_MAX as u32 => return false,
                None => (u32::MAX, 0),
            },
            length => (u32::from(length), byte),
        };
        if length > count {
            // Less than a code is left: padding.
            return count < 8 && bits | u64::MAX >> count == u64::MAX;
        }
        text.push(byte);
        bits <<= length;
        count -= length;
    }
}

/// The code at the top of `bits`, longer than those of the table; `None` for the end of string.
fn long(bits: u64) -> Option<(u32, u8)> {
    (FAST_BITS + 1..=BITS_MAX).find_map(|length| {
        let code = (bits >> (64 - length)) as u32;
        let place = code.checked_sub(CODES.first[length])?;
        let found = place < CODES.count[length];
        found.then(|| {
            let byte = CODES.ordered[(CODES.offset[length] + place) as usize];
            (length as u32, byte)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` in the code, padded with ones.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits: Vec<u8> = Vec::new();
        for &byte in text {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let from = CODES.offset[length] as usize;
            let place = CODES.ordered[from..].iter().position(|&one| one == byte);
            let code = CODES.first[length] as usize + place.expect("every byte has a code");
            bits.extend((0..length).rev().map(|bit| (code >> bit & 1) as u8));
        }
        bits.resize(bits.len().next_multiple_of(8), 1);
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit))
            .collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let check = |text: &[u8], coded: Option<&[u8]>| {
            let own = encode(text);
            if let Some(coded) = coded {
                assert_eq!(own, coded);
            }
            let mut decoded = b"before ".to_vec();
            assert!(decode(&own, &mut decoded), "{}", text.escape_ascii());
            assert_eq!(decoded, [b"before ", text].concat());
        };
        // RFC 7541, appendices C.4.1, C.4.2 and C.6.1.
        check(
            b"www.example.com",
            Some(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
        );
        check(b"no-cache", Some(b"\xa8\xeb\x10\x64\x9c\xbf"));
        check(b"private", Some(b"\xae\xc3\x77\x1a\x4b"));
        check(
            b"Mon, 21 Oct 2013 20:13:21 GMT",
            Some(b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff"),
        );
        check(b"", Some(b""));
        for byte in 0..=255 {
            check(&[byte], None);
            check(&[byte, b'a', byte, byte, 0, 249], None);
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for coded in [
            // The end of string, whole and behind a letter.
            &b"\xff\xff\xff\xff"[..],
            b"\x1f\xff\xff\xff\xff",
            // Eight bits of padding; padding with a zero.
            b"\xff",
            b"\x1f\xff",
            b"\x18",
            b"\x1e",
        ] {
            assert!(!decode(coded, &mut Vec::new()), "{coded:x?}");
        }
        assert!(decode(b"\x1f", &mut Vec::new()), "a letter and its padding");
    }
}
