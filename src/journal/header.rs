//! The start of a journal: whose it is, and the mark that says how much of it is settled. Pure.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Damage, DamageKind};

/// Header and mark together.
pub const HEADER_BYTES: usize = MARK_OFFSET + MARK_BYTES;
/// Where the mark lies; it is the only part of a journal that is ever written again.
pub const MARK_OFFSET: usize = 48;
/// Size of the mark. Within one disk sector, so it is written whole or not at all.
pub const MARK_BYTES: usize = 16;
/// Version of the layout. 2: entries tell what was paid. 3: a write-ahead file may hold more of them.
pub const VERSION: u32 = 3;

const MAGIC: [u8; 8] = *b"BLZJRNL\n";
const CHECKED_BYTES: usize = 40;

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The run, as in its manifest.
    pub run_id: [u8; 16],
    /// Which process of the run wrote it: 1 for the first, one more for each that resumed.
    pub generation: u32,
    /// Which shard of that process.
    pub shard: u32,
    /// Of the three; made once, because every entry's checksum begins with it.
    checksum: u64,
}

impl Header {
    /// Of a journal that begins, or one that was begun with these.
    pub fn new(run_id: [u8; 16], generation: u32, shard: u32) -> Self {
        let checksum = xxh3_64(&checked_bytes(run_id, generation, shard));
        Self {
            run_id,
            generation,
            shard,
            checksum,
        }
    }

    /// The first bytes of a new journal, nothing settled.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let checked = checked_bytes(self.run_id, self.generation, self.shard);
        bytes[..CHECKED_BYTES].copy_from_slice(&checked);
        bytes[CHECKED_BYTES..MARK_OFFSET].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[MARK_OFFSET..].copy_from_slice(&self.mark(0));
        bytes
    }

    /// The mark: the first `settled` entries and their records are where a crash cannot reach
    /// them. Under `--durability process` that is once they are written, because a killed
    /// process takes nothing back; under `power`, once they are synced.
    pub fn mark(&self, settled: u64) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&settled.to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[..8], self.checksum);
        bytes[8..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header and its settled count. `bytes` holds at least [`HEADER_BYTES`].
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u64), Damage> {
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let run_id = std::array::from_fn(|i| bytes[24 + i]);
        let header = Self::new(run_id, number(12), number(16));
        let damage = |offset: usize, what| {
            Err(Damage {
                offset: offset as u64,
                what,
            })
        };
        let checksum = u64::from_le_bytes(std::array::from_fn(|i| bytes[CHECKED_BYTES + i]));
        if bytes[..8] != MAGIC || xxh3_64(&bytes[..CHECKED_BYTES]) != checksum {
            return damage(0, DamageKind::Header);
        }
        if number(8) != VERSION {
            return damage(8, DamageKind::Version(number(8)));
        }
        match header.settled(bytes) {
            Some(settled) => Ok((header, settled)),
            None => damage(MARK_OFFSET, DamageKind::Mark),
        }
    }

    /// What the mark says, unless it is not this header's.
    pub(super) fn settled(&self, bytes: &[u8]) -> Option<u64> {
        let mark = bytes.get(MARK_OFFSET..HEADER_BYTES)?;
        let settled = u64::from_le_bytes(std::array::from_fn(|i| mark[i]));
        (*mark == self.mark(settled)).then_some(settled)
    }

    /// Also the seed of every entry's checksum, so that an entry of another journal never passes.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum
    }
}

fn checked_bytes(run_id: [u8; 16], generation: u32, shard: u32) -> [u8; CHECKED_BYTES] {
    let mut bytes = [0; CHECKED_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&generation.to_le_bytes());
    bytes[16..20].copy_from_slice(&shard.to_le_bytes());
    bytes[24..40].copy_from_slice(&run_id);
    bytes
}
