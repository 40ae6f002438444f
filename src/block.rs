//! Searches sixteen bytes at once. Pure.
//!
//! Names in JSON and lines of a head are short: to call a search for each costs more than the search. Sixteen
//! bytes are a vector register of x86-64's baseline, so this is compiled into its callers and asks nothing of
//! the processor.
//!
//! Each function returns a bit for every byte that is wanted, that of the first byte lowest.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 16;

/// Bytes of four blocks: long texts are searched by as many at once, which takes half the instructions.
pub(crate) const WIDE: usize = 4 * BLOCK;

/// What ends a run of plain characters in a JSON string: quotes, backslashes, control characters.
#[inline]
pub(crate) fn string_specials(block: &[u8; BLOCK]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64.
    return unsafe { sse2::string_specials(block) };
    #[cfg(not(target_arch = "x86_64"))]
    portable::string_specials(block)
}

/// Whether there is any of [`string_specials`] in four blocks.
#[inline]
pub(crate) fn has_string_specials(wide: &[u8; WIDE]) -> bool {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64.
    return unsafe { sse2::has_string_specials(wide) };
    #[cfg(not(target_arch = "x86_64"))]
    portable::has_string_specials(wide)
}

/// Where line feeds are in `bytes`, from `at` on.
#[derive(Debug)]
pub(crate) struct LineFeeds<'a> {
    bytes: &'a [u8],
    /// All before it has been looked at.
    at: usize,
    /// Of the last block: those that were not handed out yet.
    hits: u32,
}

impl<'a> LineFeeds<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, hits: 0 }
    }
}

impl Iterator for LineFeeds<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.hits == 0 {
            let rest = self.bytes.get(self.at..)?;
            let Some(block) = rest.first_chunk() else {
                let offset = rest.iter().position(|&byte| byte == b'\n');
                let found = offset.map(|offset| self.at + offset);
                self.at = found.map_or(self.bytes.len(), |found| found + 1);
                return found;
            };
            self.hits = line_feeds(block);
            self.at += BLOCK;
        }
        let place = self.hits.trailing_zeros() as usize;
        self.hits &= self.hits - 1;
        Some(self.at - BLOCK + place)
    }
}

/// Line feeds.
#[inline]
fn line_feeds(block: &[u8; BLOCK]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64.
    return unsafe { sse2::line_feeds(block) };
    #[cfg(not(target_arch = "x86_64"))]
    portable::line_feeds(block)
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8, _mm_xor_si128,
    };

    use super::{BLOCK, WIDE};

    /// Changing this bit of a byte makes a quote a space, and keeps control characters what they are and
    /// everything else above a space.
    const QUOTE_TO_SPACE: u8 = b'"' ^ b' ';

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn string_specials(block: &[u8; BLOCK]) -> u32 {
        let block = load(block);
        let turned = _mm_xor_si128(block, all(QUOTE_TO_SPACE));
        mask(_mm_or_si128(up_to_space(turned), equal(block, b'\\')))
    }

    /// The least of four bytes each, once turned as above and once with the backslash as zero.
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn has_string_specials(wide: &[u8; WIDE]) -> bool {
        let (mut turned, mut backslash) = (all(u8::MAX), all(u8::MAX));
        for block in wide.as_chunks().0 {
            let block = load(block);
            turned = _mm_min_epu8(turned, _mm_xor_si128(block, all(QUOTE_TO_SPACE)));
            backslash = _mm_min_epu8(backslash, _mm_xor_si128(block, all(b'\\')));
        }
        mask(_mm_or_si128(up_to_space(turned), equal(backslash, 0))) != 0
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn line_feeds(block: &[u8; BLOCK]) -> u32 {
        mask(equal(load(block), b'\n'))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(block: &[u8; BLOCK]) -> __m128i {
        // SAFETY: it reads the sixteen bytes of the block, whatever their alignment.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn all(byte: u8) -> __m128i {
        _mm_set1_epi8(byte.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(block: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(block, all(byte))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn up_to_space(block: __m128i) -> __m128i {
        _mm_cmpeq_epi8(block, _mm_min_epu8(block, all(b' ')))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn mask(bytes: __m128i) -> u32 {
        _mm_movemask_epi8(bytes).cast_unsigned()
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::{BLOCK, WIDE};

    pub(super) fn string_specials(block: &[u8; BLOCK]) -> u32 {
        mask(block, is_special)
    }

    pub(super) fn has_string_specials(wide: &[u8; WIDE]) -> bool {
        (wide.iter()).fold(false, |found, &byte| found | is_special(byte))
    }

    fn is_special(byte: u8) -> bool {
        matches!(byte, b'"' | b'\\' | 0..=0x1f)
    }

    pub(super) fn line_feeds(block: &[u8; BLOCK]) -> u32 {
        mask(block, |byte| byte == b'\n')
    }

    /// First whether there is any: compilers turn that into vector instructions.
    #[inline]
    fn mask(block: &[u8; BLOCK], is_wanted: impl Fn(u8) -> bool) -> u32 {
        if !(block.iter()).fold(false, |found, &byte| found | is_wanted(byte)) {
            return 0;
        }
        (block.iter().rev()).fold(0, |hits, &byte| hits << 1 | u32::from(is_wanted(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_where_it_is() {
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK {
                let mut block = [b'x'; BLOCK];
                block[place] = byte;
                let is_special = byte < b' ' || byte == b'"' || byte == b'\\';
                let expect = |is_wanted| u32::from(is_wanted) << place;
                assert_eq!(string_specials(&block), expect(is_special), "{block:?}");
                assert_eq!(line_feeds(&block), expect(byte == b'\n'), "{block:?}");
                assert_eq!(string_specials(&block), portable::string_specials(&block));
                assert_eq!(line_feeds(&block), portable::line_feeds(&block));
            }
        }
    }

    #[test]
    fn any_of_four_blocks_is_noticed() {
        for byte in 0..=u8::MAX {
            for place in 0..WIDE {
                let mut wide = [b'x'; WIDE];
                wide[place] = byte;
                let expect = byte < b' ' || byte == b'"' || byte == b'\\';
                assert_eq!(has_string_specials(&wide), expect, "{byte} at {place}");
                assert_eq!(portable::has_string_specials(&wide), expect);
            }
        }
    }

    #[test]
    fn line_feeds_come_in_order_over_blocks_and_their_rest() {
        for length in 0..100 {
            let text: Vec<u8> = (0..length)
                .map(|index: usize| match index * index % 7 {
                    2 => b'\n',
                    _ => b'x',
                })
                .collect();
            for from in 0..=length {
                let found: Vec<_> = LineFeeds::new(&text, from).collect();
                let expect: Vec<_> = (from..length).filter(|&at| text[at] == b'\n').collect();
                assert_eq!(found, expect, "{length} bytes from {from}");
            }
        }
    }

    #[test]
    fn all_of_several_are_found() {
        let block = b"a\n\"b\\\x1f \x7f\xff\x80\n\n\0cde";
        assert_eq!(string_specials(block), 0b0001_1100_0011_0110);
        assert_eq!(line_feeds(block), 0b0000_1100_0000_0010);
        assert_eq!(portable::string_specials(block), string_specials(block));
    }
}
