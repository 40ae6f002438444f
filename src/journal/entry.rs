//! One finished line: what became of it and where its record lies. Pure.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Header;

/// Size of an encoded entry.
pub const ENTRY_BYTES: usize = 80;
const CHECKED_BYTES: usize = 72;
const OUTCOME_AT: usize = 60;

/// What a line ended in; decides which segment holds its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The record goes to the output.
    Success,
    /// The record goes to the error file.
    Failure,
}

/// Tokens of one attempt; saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens, cached ones included.
    pub prompt: u32,
    /// Completion tokens.
    pub completion: u32,
    /// Prompt tokens served from the provider's cache.
    pub cached: u32,
}

/// One finished line, or an attempt before its end that was paid for or counts against the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset of the line in the input.
    pub line_offset: u64,
    /// Physical line number, from 1.
    pub line_number: u64,
    /// When it finished, in microseconds since the Unix epoch.
    pub completed_us: u64,
    /// Output or error segment; `None` for an attempt that is not the line's end and has no record.
    pub outcome: Option<Outcome>,
    /// Byte offset of the record in its segment. Of an attempt that is not the line's end, its number
    /// among those of this journal, from 1: by it the same attempt is known in the write-ahead file.
    pub position: u64,
    /// Bytes of the record, its newline included; 0 for a success that is counted, not kept.
    pub length: u64,
    /// CRC-32 (IEEE) of the record's bytes.
    pub record_checksum: u32,
    /// Attempts spent, the first included; 0 for a line that was never sent, and for an attempt
    /// before its end that does not count against it in later processes.
    pub attempts: u32,
    /// What the attempt that ended it took.
    pub tokens: Tokens,
    /// What that cost, in billionths of a US dollar; 0 also without a price.
    pub cost_nano_usd: u64,
}

impl Entry {
    /// The entry as it stands at `index` (from 0) of the journal that `header` begins.
    pub fn encode(&self, header: &Header, index: u64) -> [u8; ENTRY_BYTES] {
        self.encode_seeded(seed(header, index))
    }

    pub(super) fn encode_seeded(&self, seed: u64) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.line_offset.to_le_bytes());
        put(8, &self.line_number.to_le_bytes());
        put(16, &self.completed_us.to_le_bytes());
        put(24, &self.position.to_le_bytes());
        put(32, &self.length.to_le_bytes());
        put(40, &self.record_checksum.to_le_bytes());
        put(44, &self.attempts.to_le_bytes());
        put(48, &self.tokens.prompt.to_le_bytes());
        put(52, &self.tokens.completion.to_le_bytes());
        put(56, &self.tokens.cached.to_le_bytes());
        put(OUTCOME_AT, &outcome_code(self.outcome).to_le_bytes());
        put(64, &self.cost_nano_usd.to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[..CHECKED_BYTES], seed);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are not what [`Entry::encode`] wrote at this index of this journal.
    pub(super) fn decode(bytes: &[u8], header: &Header, index: u64) -> Option<Self> {
        Self::decode_seeded(bytes, seed(header, index))
    }

    pub(super) fn decode_seeded(bytes: &[u8], seed: u64) -> Option<Self> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().ok()?;
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        // First what costs nothing: most of what is looked at in search of an entry is none.
        let outcome = outcome_of(short(OUTCOME_AT))?;
        if xxh3_64_with_seed(&bytes[..CHECKED_BYTES], seed) != long(CHECKED_BYTES) {
            return None;
        }
        Some(Self {
            line_offset: long(0),
            line_number: long(8),
            completed_us: long(16),
            outcome,
            position: long(24),
            length: long(32),
            record_checksum: short(40),
            attempts: short(44),
            tokens: Tokens {
                prompt: short(48),
                completion: short(52),
                cached: short(56),
            },
            cost_nano_usd: long(64),
        })
    }

    /// Where the record ends in its segment; `None` if no file can be that long.
    pub fn end(&self) -> Option<u64> {
        self.position.checked_add(self.length)
    }
}

/// The checksum of the record that a broken entry speaks of, if the damage is elsewhere in it.
pub(super) fn record_checksum(bytes: &[u8]) -> Option<u32> {
    let bytes = bytes.get(40..44)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn outcome_of(code: u32) -> Option<Option<Outcome>> {
    match code {
        1 => Some(Some(Outcome::Success)),
        2 => Some(Some(Outcome::Failure)),
        3 => Some(None),
        _ => None,
    }
}

/// 0 stays unused, so that a page of zeros is no entry.
fn outcome_code(outcome: Option<Outcome>) -> u32 {
    match outcome {
        Some(Outcome::Success) => 1,
        Some(Outcome::Failure) => 2,
        None => 3,
    }
}

/// Of journal and index: an entry that a bad disk moved does not pass.
fn seed(header: &Header, index: u64) -> u64 {
    header.checksum().wrapping_add(index)
}
