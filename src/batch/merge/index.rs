//! Which journal entry is the final one of each line: a file of eight bytes a line, mapped, so that
//! the kernel may write it out instead of holding it. Beside it, in memory: how many bytes come before
//! each piece of the input, and whether a segment is in order as it is.

use std::path::{Path, PathBuf};

use super::source::Source;
use crate::batch::folder::{MERGE_INDEX, Merged, remove_if_there};
use crate::batch::storage_error::StorageError;
use crate::config::Order;
use crate::journal::{Entry, Outcome};
use crate::runtime::files::{self, MappingMut};

const SLOT_BYTES: u64 = 8;
/// A slot is the source's number, plus one, above the entry's index: 16 million shards of 10^12
/// entries each. Zero: the line has no record.
const ENTRY_BITS: u32 = 40;
/// Mapped pages are let go after so many entries, at 80 bytes of mapped memory each.
const RELEASE_EVERY_ENTRIES: u64 = 1 << 16;

/// Lines of a piece: the records of so many usual lines fill a few large writes, and 10^9 lines have
/// 4 MiB of totals.
pub(super) const PIECE_LINES: u64 = if cfg!(test) { 3 } else { 1 << 13 };

/// The final entry of each line.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// `None` if no line has a record.
    map: Option<MappingMut>,
    totals: Totals,
    /// What comes before each piece of [`PIECE_LINES`] line numbers; while building, what is in it.
    pieces: Vec<Totals>,
    /// By source: its output and its error segment.
    successions: Vec<[Succession; 2]>,
}

/// What final entries add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) merged: Merged,
    pub(super) output_bytes: u64,
    pub(super) errors_bytes: u64,
}

/// How the records of a segment follow one another.
#[derive(Clone, Copy, Debug)]
struct Succession {
    /// Where the last record ends.
    end: u64,
    line_number: u64,
    /// Each record begins where the one before it ends.
    gapless: bool,
    /// They are in the order of the input.
    ascending: bool,
}

/// Where a line's final entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: usize,
    pub(super) entry: u64,
}

impl Index {
    /// Reads all journals. `sources` are in order of generation.
    pub(super) fn build(folder: &Path, sources: &[Source]) -> Result<Self, StorageError> {
        let mut index = Self {
            path: folder.join(MERGE_INDEX),
            map: None,
            totals: Totals::default(),
            pieces: Vec::new(),
            successions: vec![[Succession::default(); 2]; sources.len()],
        };
        let Some(line_number_max) = sources.iter().map(Source::line_number_max).max() else {
            return Ok(index);
        };
        let bytes = (line_number_max.saturating_add(1)).saturating_mul(SLOT_BYTES);
        let map = create(&index.path, bytes).map_err(|error| {
            // Whoever makes room for the index alone would be back for the final files.
            let needed = bytes + sources.iter().map(Source::record_bytes).sum::<u64>();
            StorageError::new(&index.path, "create", needed, error)
        })?;
        index.map = Some(map);
        // The file of the index is that long, so its pieces fit into memory.
        let pieces = (line_number_max / PIECE_LINES + 1) as usize;
        index.pieces.resize(pieces, Totals::default());
        for (number, source) in sources.iter().enumerate() {
            for entry in 0..source.entries() {
                index.add(
                    sources,
                    Place {
                        source: number,
                        entry,
                    },
                )?;
                if entry % RELEASE_EVERY_ENTRIES == RELEASE_EVERY_ENTRIES - 1 {
                    source.release();
                    index.release();
                }
            }
            source.release();
        }
        for piece in &mut index.pieces {
            let before = index.totals;
            index.totals.add_all(piece);
            *piece = before;
        }
        Ok(index)
    }

    /// Of two entries of one line (an error sent again) the later one is final.
    fn add(&mut self, sources: &[Source], place: Place) -> Result<(), StorageError> {
        let key =
            |place: Place, entry: &Entry| (sources[place.source].generation(), entry.completed_us);
        let entry = sources[place.source].entry(place.entry)?;
        let Some(outcome) = entry.outcome else {
            return Ok(());
        };
        self.successions[place.source][usize::from(outcome == Outcome::Failure)].follow(&entry);
        let piece = (entry.line_number / PIECE_LINES) as usize;
        if let Some(earlier_place) = self.get(entry.line_number) {
            let earlier = sources[earlier_place.source].entry(earlier_place.entry)?;
            if key(earlier_place, &earlier) > key(place, &entry) {
                return Ok(());
            }
            // Only ends of lines are in the index.
            if let Some(outcome) = earlier.outcome {
                let (count, bytes) = self.pieces[piece].of(outcome);
                *count -= 1;
                *bytes -= earlier.length;
            }
        }
        self.pieces[piece].add(outcome, entry.length);
        let slot = ((place.source as u64 + 1) << ENTRY_BITS) | place.entry;
        let range = slot_range(entry.line_number);
        let map = self
            .map
            .as_mut()
            .expect("the index was sized by the sources' highest line number");
        map[range].copy_from_slice(&slot.to_le_bytes());
        Ok(())
    }

    /// The segment of this source, of `bytes` bytes and the only one with records of this outcome, is
    /// what its final file shall be.
    pub(super) fn is_whole(
        &self,
        source: usize,
        outcome: Outcome,
        order: Order,
        bytes: u64,
    ) -> bool {
        let succession = &self.successions[source][usize::from(outcome == Outcome::Failure)];
        succession.gapless
            && succession.end == bytes
            // No record was replaced by a later one.
            && self.totals.bytes(outcome) == bytes
            // A journal is in order of completion.
            && (order == Order::Completion || succession.ascending)
    }

    /// The line's final entry, if it has one.
    pub(super) fn get(&self, line_number: u64) -> Option<Place> {
        let slot = self.map.as_ref()?.get(slot_range(line_number))?;
        let slot = u64::from_le_bytes(slot.try_into().ok()?);
        let source = (slot >> ENTRY_BITS).checked_sub(1)?;
        Some(Place {
            source: source as usize,
            entry: slot & ((1 << ENTRY_BITS) - 1),
        })
    }

    /// One more than the highest line number it can hold.
    pub(super) fn line_number_end(&self) -> u64 {
        self.map
            .as_ref()
            .map_or(0, |map| map.len() as u64 / SLOT_BYTES)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What comes before a piece, or before the end.
    pub(super) fn before(&self, piece: usize) -> Totals {
        self.pieces.get(piece).copied().unwrap_or(self.totals)
    }

    /// Lets go of all mapped pages.
    pub(super) fn release(&self) {
        if let Some(map) = &self.map {
            map.release_all();
        }
    }
}

impl Totals {
    fn of(&mut self, outcome: Outcome) -> (&mut u64, &mut u64) {
        match outcome {
            Outcome::Success => (&mut self.merged.succeeded, &mut self.output_bytes),
            Outcome::Failure => (&mut self.merged.failed, &mut self.errors_bytes),
        }
    }

    pub(super) fn add(&mut self, outcome: Outcome, length: u64) {
        let (count, bytes) = self.of(outcome);
        *count += 1;
        *bytes += length;
    }

    fn add_all(&mut self, other: &Self) {
        self.merged.succeeded += other.merged.succeeded;
        self.merged.failed += other.merged.failed;
        self.output_bytes += other.output_bytes;
        self.errors_bytes += other.errors_bytes;
    }

    pub(super) fn bytes(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Success => self.output_bytes,
            Outcome::Failure => self.errors_bytes,
        }
    }
}

impl Succession {
    fn follow(&mut self, entry: &Entry) {
        self.gapless &= entry.position == self.end;
        self.ascending &= entry.line_number > self.line_number;
        self.end = entry.position.saturating_add(entry.length);
        self.line_number = entry.line_number;
    }
}

impl Default for Succession {
    fn default() -> Self {
        Self {
            end: 0,
            // Lines count from 1.
            line_number: 0,
            gapless: true,
            ascending: true,
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // Not every system removes a file that is mapped.
        self.map = None;
        // Left behind it would only take space until the next merge replaces it.
        let _ = remove_if_there(&self.path);
    }
}

fn create(path: &Path, bytes: u64) -> std::io::Result<MappingMut> {
    remove_if_there(path)?;
    let file = files::create_private(path)?;
    files::allocate(&file, bytes)?;
    MappingMut::new(&file)
}

/// Of a line number the file is long enough for, so it fits into memory's addresses.
fn slot_range(line_number: u64) -> std::ops::Range<usize> {
    let start = line_number.saturating_mul(SLOT_BYTES) as usize;
    start..start.saturating_add(SLOT_BYTES as usize)
}
