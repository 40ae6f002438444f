//! A shard's write-ahead file, and what of it still has to go to the segments.
//!
//! Frames are made in memory, as they stand in the file, and written once a turn of the loop, always
//! to the same few megabytes: pages that the kernel has at hand, unlike those of a file that grows.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::order::{InOrder, Spot};
use crate::journal::ahead::{AHEAD_BYTES, HALF_BYTES, TURN_BYTES, Turn};
use crate::journal::{ENTRY_BYTES, Entry, Header, Outcome};
use crate::runtime::files;

/// What the buffer of a half has room for: the records of a turn of the loop may lie beyond its end
/// until they are moved to the other one.
const BUFFER_BYTES: usize = HALF_BYTES + HALF_BYTES / 8;

/// From here on a half is left for the other one as soon as that is possible: the less of file and buffers is
/// in use, the more of it is found in the processor's caches.
const EARLY_BYTES: usize = HALF_BYTES / 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead {
    path: PathBuf,
    /// Created when it is first written to.
    file: Option<File>,
    header: Header,
    order: InOrder,
    /// By half: its turn, and what it holds.
    turns: [Turn; 2],
    halves: [Vec<u8>; 2],
    /// The half that is filled.
    active: usize,
    /// Up to where it holds frames, ...
    end: usize,
    /// ... and up to where these are in the file.
    written: usize,
    /// Frames that are not.
    unwritten: u64,
    /// Of frames that have not gone to the segments: bytes of their records, and how many they are.
    output_bytes: u64,
    errors_bytes: u64,
    entries: u64,
}

impl Ahead {
    /// `by_input`: what is finished waits for older lines.
    pub(super) fn new(path: PathBuf, header: Header, by_input: bool) -> Self {
        let turn = Turn::first(&header);
        let mut first = Vec::with_capacity(BUFFER_BYTES);
        first.extend_from_slice(&turn.encode());
        Self {
            path,
            file: None,
            header,
            order: InOrder::new(by_input),
            turns: [turn, turn.next(&header)],
            halves: [first, Vec::new()],
            active: 0,
            end: TURN_BYTES,
            written: 0,
            unwritten: 0,
            output_bytes: 0,
            errors_bytes: 0,
            entries: 0,
        }
    }

    /// The file's name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same, if there is a file.
    pub(super) fn into_path(self) -> Option<PathBuf> {
        self.file.map(|_| self.path)
    }

    /// Lets another file take the writes.
    #[cfg(test)]
    pub(super) fn swap(&mut self, file: File) {
        self.file = Some(file);
    }

    /// A line is sent for the first time, or refused.
    pub(super) fn begin(&mut self, line_number: u64) {
        self.order.begin(line_number);
    }

    /// Where the next record is appended to, behind the place of its entry. What a record that came to
    /// nothing has left is gone.
    pub(super) fn record_buffer(&mut self) -> &mut Vec<u8> {
        let half = &mut self.halves[self.active];
        half.truncate(self.end);
        half.resize(self.end + ENTRY_BYTES, 0);
        half
    }

    /// The buffer as it is.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.halves[self.active]
    }

    /// Completes the frame whose record begins at `start` of the buffer.
    ///
    /// # Panics
    ///
    /// If it does not follow the last one: a bug that would hide all later ones.
    pub(super) fn commit(&mut self, entry: &Entry, start: usize) {
        assert_eq!(start, self.end + ENTRY_BYTES, "a frame follows the last");
        let half = &mut self.halves[self.active];
        let spot = Spot {
            half: self.active,
            offset: self.end,
            length: half.len() - self.end,
        };
        let bytes = self.turns[self.active].encode_entry(entry, self.end);
        half[self.end..start].copy_from_slice(&bytes);
        self.end = half.len();
        self.unwritten += 1;
        self.entries += 1;
        if let Some(bytes) = self.bytes_of(entry) {
            *bytes += entry.length;
        }
        match entry.outcome {
            Some(_) => self.order.finish(entry.line_number, spot),
            None => self.order.free(spot),
        }
    }

    fn bytes_of(&mut self, entry: &Entry) -> Option<&mut u64> {
        match entry.outcome? {
            Outcome::Success => Some(&mut self.output_bytes),
            Outcome::Failure => Some(&mut self.errors_bytes),
        }
    }

    /// What has not gone to the segments: bytes of the output, of errors, and entries.
    pub(super) fn waiting(&self) -> (u64, u64, u64) {
        (self.output_bytes, self.errors_bytes, self.entries)
    }

    /// Frames that are in memory only.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Their bytes.
    pub(super) fn unwritten_bytes(&self) -> usize {
        match self.unwritten {
            0 => 0,
            _ => self.end - self.written,
        }
    }

    /// There is more than the half takes: [`Ahead::turn_over`] comes before the next write.
    pub(super) fn is_full(&self) -> bool {
        self.end > HALF_BYTES
    }

    /// [`Ahead::turn_over`] may come now, and need not move anything.
    pub(super) fn may_turn_over(&self) -> bool {
        self.unwritten == 0 && self.end >= EARLY_BYTES && self.order.has_left(1 - self.active)
    }

    /// Writes what is new, in one piece. What an error leaves undone cannot be told from what it did:
    /// nothing more may be written then.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.unwritten == 0 {
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file,
            None => {
                let file = self.file.insert(files::create_private(&self.path)?);
                files::set_length(file, AHEAD_BYTES as u64)?;
                file
            }
        };
        let bytes = &self.halves[self.active][self.written..self.end];
        let offset = (self.active * HALF_BYTES + self.written) as u64;
        files::write_all_at(file, bytes, offset)?;
        self.written = self.end;
        self.unwritten = 0;
        Ok(())
    }

    /// Bytes of frames that may go to the segments.
    pub(super) fn ready_bytes(&self) -> usize {
        self.order.ready_bytes()
    }

    /// Hands over what may go to the segments, in this order.
    pub(super) fn take_ready(&mut self, mut take: impl FnMut(Entry, &[u8])) {
        for spot in self.order.take_ready() {
            let half = &self.halves[spot.half];
            let entry = self.turns[spot.half].entry(half, spot.offset);
            let entry = entry.expect("a frame stays where it was made");
            take(
                entry,
                &half[spot.offset..spot.offset + spot.length][ENTRY_BYTES..],
            );
            self.entries -= 1;
            if let Some(bytes) = self.bytes_of(&entry) {
                *bytes -= entry.length;
            }
        }
    }

    /// Everything may go, in order or not.
    pub(super) fn give_up_all(&mut self) {
        self.order.give_up_all();
    }

    /// Everything in the half that is not being filled may go, in order or not.
    pub(super) fn give_up_other(&mut self) {
        self.order.give_up_half(1 - self.active);
    }

    /// Begins the other half, of which everything is in segments and journal, with what is not written
    /// yet. `false`: that is more than a half takes.
    ///
    /// # Panics
    ///
    /// If a frame in the other half is still needed: a bug that would lose it.
    pub(super) fn turn_over(&mut self) -> bool {
        let start = self.written.max(TURN_BYTES);
        if TURN_BYTES + self.end - start > HALF_BYTES {
            return false;
        }
        let (from, to) = (self.active, 1 - self.active);
        assert!(
            self.order.has_left(to),
            "a half is begun anew when it is not needed"
        );
        let turn = self.turns[from].next(&self.header);
        let [first, second] = &mut self.halves;
        let (full, next) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        next.clear();
        next.reserve_exact(BUFFER_BYTES);
        next.extend_from_slice(&turn.encode());
        let mut offset = start;
        while offset < self.end {
            let entry = self.turns[from].entry(full, offset);
            let entry = entry.expect("frames follow one another");
            let bytes = turn.encode_entry(&entry, next.len());
            next.extend_from_slice(&bytes);
            let record = offset + ENTRY_BYTES;
            // It was made in this buffer, so its length fits.
            offset = record + entry.length as usize;
            next.extend_from_slice(&full[record..offset]);
        }
        full.truncate(start);
        full.shrink_to(BUFFER_BYTES);
        self.order.relocate(from, start, TURN_BYTES);
        (self.turns[to], self.active) = (turn, to);
        (self.end, self.written) = (self.halves[to].len(), 0);
        true
    }

    /// What is not written has gone to the segments and is not needed here.
    ///
    /// # Panics
    ///
    /// If any of it has not: a bug that would lose it.
    pub(super) fn forget_unwritten(&mut self) {
        assert_eq!(self.entries, 0, "everything has gone to the segments");
        let half = &mut self.halves[self.active];
        self.end = self.written.max(TURN_BYTES);
        self.unwritten = 0;
        half.truncate(self.end);
        half.shrink_to(BUFFER_BYTES);
    }
}
