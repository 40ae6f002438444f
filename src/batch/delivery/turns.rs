//! Which line's turn it is, and where the records of later ones wait: a file of eight bytes a line,
//! mapped, so that the kernel may write it out instead of holding it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::folder::{DELIVERY_INDEX, remove_if_there};
use crate::batch::input::{Input, LineCursor, LineRange, LineRef};
use crate::batch::storage_error::StorageError;
use crate::runtime::files::{self, MappingMut};

const SLOT_BYTES: u64 = 8;
/// A slot is the source's number, plus one, above the entry's index.
const ENTRY_BITS: u32 = 40;
/// The slot of a line whose turn passes without a record: it failed.
const PASSED: u64 = u64::MAX;
/// Pages are let go after so many lines.
const RELEASE_EVERY_LINES: u64 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    path: PathBuf,
    /// `None` for an input without lines.
    map: Option<MappingMut>,
    input: Arc<Input>,
    cursor: LineCursor,
    line: Option<LineRef>,
    passed: u64,
}

/// Where a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has no record yet.
    Waits,
    /// It failed: its record goes elsewhere.
    Passed,
    /// Its record is that of an entry of a source.
    Record { source: usize, entry: u64 },
}

impl Turns {
    /// Of an input with so many lines, blank ones included.
    pub(super) fn new(
        folder: &Path,
        input: Arc<Input>,
        physical_lines: u64,
    ) -> Result<Self, StorageError> {
        let path = folder.join(DELIVERY_INDEX);
        let bytes = (physical_lines + 1) * SLOT_BYTES;
        let create = || {
            remove_if_there(&path)?;
            let file = files::create_private(&path)?;
            files::allocate(&file, bytes)?;
            MappingMut::new(&file)
        };
        let map = match physical_lines {
            0 => None,
            _ => Some(create().map_err(|error| StorageError::new(&path, "create", bytes, error))?),
        };
        let everything = LineRange {
            start: 0,
            end: input.size(),
            first_line: 1,
        };
        let mut cursor = LineCursor::new(everything);
        let line = cursor.next(&input);
        Ok(Self {
            path,
            map,
            input,
            cursor,
            line,
            passed: 0,
        })
    }

    /// A line has its record, or, without a place, failed.
    pub(super) fn put(&mut self, line_number: u64, place: Option<(usize, u64)>) {
        let slot = place.map_or(PASSED, |(source, entry)| {
            ((source as u64 + 1) << ENTRY_BITS) | entry
        });
        let (start, end) = slot_range(line_number);
        if let Some(bytes) = self.map.as_mut().and_then(|map| map.get_mut(start..end)) {
            bytes.copy_from_slice(&slot.to_le_bytes());
        }
    }

    /// The line whose turn it is; `None` behind the last.
    pub(super) fn current(&self) -> Option<Turn> {
        let (start, end) = slot_range(self.line?.number);
        let bytes = self.map.as_ref().and_then(|map| map.get(start..end));
        let slot = bytes.and_then(|bytes| bytes.try_into().ok());
        Some(match slot.map_or(0, u64::from_le_bytes) {
            0 => Turn::Waits,
            PASSED => Turn::Passed,
            slot => Turn::Record {
                source: (slot >> ENTRY_BITS) as usize - 1,
                entry: slot & ((1 << ENTRY_BITS) - 1),
            },
        })
    }

    /// The next line's turn.
    pub(super) fn advance(&mut self) {
        self.line = self.cursor.next(&self.input);
        self.passed += 1;
        if self.passed.is_multiple_of(RELEASE_EVERY_LINES)
            && let Some(map) = &self.map
        {
            map.release_all();
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // Not every system removes a file that is mapped.
        self.map = None;
        // Left behind it only takes space until the next process replaces it.
        let _ = remove_if_there(&self.path);
    }
}

fn slot_range(line_number: u64) -> (usize, usize) {
    let start = line_number.saturating_mul(SLOT_BYTES) as usize;
    (start, start.saturating_add(SLOT_BYTES as usize))
}
