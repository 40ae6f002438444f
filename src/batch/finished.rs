//! The final files of a finished run, read back: which record belongs to which line, so that the
//! failures can be sent again (`--retry-errors`).
//!
//! Nothing is taken on trust. A record belongs to a line if it begins with the very bytes that
//! [`record::write_beginning`] makes of that line (number, `custom_id` and the user's fields), and
//! every line must have exactly one record. So the files of another input, or of another
//! `--format`, are refused and never mixed in.
//!
//! Files in the order of the input are read along with it, in constant memory. What is in another
//! order (`--order completion`) is looked up by a table: about 100 bytes a record.

mod recognise;

pub(super) use recognise::{Stray, recognise};

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::folder::{Merged, map};
use super::input::{Input, LineCursor, LineRange, LineRef};
use super::line::Parsed;
use super::record::{self, RecordFormat};
use super::segment::{NewEntry, ShardLog};
use super::storage_error::StorageError;
use crate::config::Format;
use crate::journal::{Outcome, Tokens};
use crate::json;
use crate::runtime::files::Mapping;

/// Mapped pages are let go after so many lines.
const RELEASE_EVERY_LINES: u64 = 1 << 14;
/// Taken records are written in groups of about this size.
const FLUSH_BYTES: usize = 1 << 20;
/// What an `openai` record begins with, before the 16 digits of its id.
const ID_PREFIX: &[u8] = b"{\"id\":\"batch_req_";
const ID_DIGITS: usize = 16;

/// Why the failures of a finished run cannot be sent again. Nothing was sent or changed.
#[derive(Debug, thiserror::Error)]
pub enum FinishedError {
    /// The final files are not what a run of this input ends in.
    #[error(
        "--retry-errors: {what}; it needs the input, the --format and the final files of the finished run, unchanged (without it, --overwrite sends every line anew)"
    )]
    NotThisRun {
        /// Which record or line is out of place.
        what: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The final files of a finished run.
#[derive(Debug)]
pub struct Finished {
    /// `None`: successes were only counted, or went to standard output. Then every line that is not
    /// in the error file has succeeded.
    output: Option<Records>,
    errors: Records,
}

/// A line of a finished run.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// Which line.
    pub line: LineRef,
    /// What it ended in.
    pub outcome: Outcome,
    /// Its record without the newline; `None` if that was not kept.
    pub record: Option<&'a [u8]>,
}

/// What is done with each line.
pub type Take<'a> = &'a mut dyn FnMut(Taken<'_>) -> Result<(), StorageError>;

impl Finished {
    /// What lies under the names of the final files; `None` if no run has ended there. `output` is
    /// `None` if successes are only counted or go to standard output.
    pub fn find(output: Option<&Path>, errors: &Path) -> Result<Option<Self>, StorageError> {
        let errors = Records::open(errors)?;
        let Some(output) = output else {
            return Ok(Some(Self {
                output: None,
                errors,
            }));
        };
        let output = Records::open(output)?;
        let is_there = output.map.is_some() || !errors.bytes().is_empty();
        Ok(is_there.then_some(Self {
            output: Some(output),
            errors,
        }))
    }

    /// There is a line to send again.
    pub fn has_failures(&self) -> bool {
        !self.errors.bytes().is_empty()
    }

    /// Finds the record of every line, in the order of the files, and hands it to `take`.
    ///
    /// # Errors
    /// The files do not belong to this input, or `take` failed.
    pub fn read(
        &self,
        input: &Input,
        format: Format,
        take: Take<'_>,
    ) -> Result<Merged, FinishedError> {
        let mut lines = Lines::new(input, format);
        let mut reading = Reading {
            output: self
                .output
                .as_ref()
                .map(|output| Head::new(output, Outcome::Success)),
            errors: Head::new(&self.errors, Outcome::Failure),
            merged: Merged::default(),
            take,
        };
        // Without an output, a line is known to have succeeded only when all errors are known.
        if self.output.is_some() {
            reading.along_with(&mut lines)?;
        }
        reading.rest(&mut lines)?;
        Ok(reading.merged)
    }

    /// [`Finished::read`] into a shard's log, whose output is kept if the finished run's is known.
    pub fn read_into(
        &self,
        log: &mut ShardLog,
        input: &Input,
        format: Format,
        completed_us: u64,
    ) -> Result<Merged, FinishedError> {
        let mut line_of_record = Vec::new();
        let merged = self.read(input, format, &mut |taken| {
            line_of_record.clear();
            line_of_record.extend_from_slice(taken.record.unwrap_or_default());
            line_of_record.push(b'\n');
            let entry = NewEntry {
                line_offset: taken.line.offset,
                line_number: taken.line.number,
                completed_us,
                outcome: taken.outcome,
                attempts: 0,
                tokens: Tokens::default(),
                cost_nano_usd: 0,
            };
            log.append(entry, &line_of_record);
            match log.buffered_bytes() >= FLUSH_BYTES {
                true => log.flush(),
                false => Ok(()),
            }
        })?;
        log.finish()?;
        Ok(merged)
    }

    /// Successes have records to take over.
    pub fn has_output(&self) -> bool {
        self.output.is_some()
    }
}

/// One final file; none is as good as an empty one.
#[derive(Debug)]
struct Records {
    path: PathBuf,
    map: Option<Mapping>,
}

impl Records {
    fn open(path: &Path) -> Result<Self, StorageError> {
        Ok(Self {
            path: path.to_path_buf(),
            // A device or pipe keeps nothing that could be read back.
            map: if path.is_file() { map(path)? } else { None },
        })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The record at an offset, and the next one's offset.
    fn at(&self, offset: usize) -> Option<(&[u8], usize)> {
        let rest = &self.bytes()[offset..];
        if rest.is_empty() {
            return None;
        }
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        Some((
            &rest[..length],
            (offset + length + 1).min(self.bytes().len()),
        ))
    }

    fn release(&self) {
        if let Some(map) = &self.map {
            map.release_all();
        }
    }
}

/// What a record says about its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    /// `blaze` records carry the line number.
    Line(u64),
    /// The id of an `openai` record derives from `custom_id` and line number.
    Id([u8; ID_DIGITS]),
}

impl Origin {
    /// `None`: this program did not write it.
    fn of(record: &[u8]) -> Option<Self> {
        let (mut line_number, mut metadata, mut is_failure) = (None, None, false);
        json::members(record, |member| match &*member.name(record) {
            b"line_number" => line_number = Some(member.value),
            b"metadata" => metadata = Some(member.value),
            b"error_kind" => is_failure = true,
            _ => {}
        })
        .ok()?;
        let number = match (is_failure, metadata) {
            (true, _) => json::as_u64(line_number?.of(record)),
            (false, Some(metadata)) => {
                json::get(metadata.of(record), &["line_number"]).and_then(json::as_u64)
            }
            (false, None) => None,
        };
        number.map(Self::Line).or_else(|| Self::id(record))
    }

    fn id(beginning: &[u8]) -> Option<Self> {
        let digits = beginning.strip_prefix(ID_PREFIX)?.first_chunk()?;
        Some(Self::Id(*digits))
    }
}

/// A final file as far as it was read.
struct Head<'a> {
    records: &'a Records,
    outcome: Outcome,
    offset: usize,
    /// Records before it.
    count: u64,
}

/// The record at a head.
#[derive(Clone, Copy)]
struct Found<'a> {
    record: &'a [u8],
    origin: Origin,
    next: usize,
}

impl<'a> Head<'a> {
    fn new(records: &'a Records, outcome: Outcome) -> Self {
        Self {
            records,
            outcome,
            offset: 0,
            count: 0,
        }
    }

    fn found(&self) -> Result<Option<Found<'a>>, FinishedError> {
        let Some((record, next)) = self.records.at(self.offset) else {
            return Ok(None);
        };
        let origin = Origin::of(record).ok_or_else(|| FinishedError::NotThisRun {
            what: format!("{} is not a record", self.place(self.count)),
        })?;
        Ok(Some(Found {
            record,
            origin,
            next,
        }))
    }

    fn pass(&mut self, found: &Found<'_>) {
        self.offset = found.next;
        self.count += 1;
    }

    /// For people.
    fn place(&self, count: u64) -> String {
        format!("line {} of {}", count + 1, self.records.path.display())
    }
}

/// The input's lines, one after the other, and how their records begin.
struct Lines<'a> {
    input: &'a Input,
    format: Format,
    cursor: LineCursor,
    /// The current line, until it has its record.
    line: Option<LineRef>,
    parsed: Parsed,
    is_request: bool,
    beginning: Vec<u8>,
    released: u64,
}

impl<'a> Lines<'a> {
    fn new(input: &'a Input, format: Format) -> Self {
        let everything = LineRange {
            start: 0,
            end: input.size(),
            first_line: 1,
        };
        let mut lines = Self {
            input,
            format,
            cursor: LineCursor::new(everything),
            line: None,
            parsed: Parsed::default(),
            is_request: false,
            beginning: Vec::new(),
            released: 0,
        };
        lines.advance();
        lines
    }

    fn advance(&mut self) {
        self.released = self
            .input
            .release_before(self.released..self.cursor.offset());
        self.line = self.cursor.next(self.input);
        if let Some(line) = self.line {
            self.is_request = self.parsed.parse(self.input.line(line.offset)).is_ok();
        }
    }

    /// How a record of the current line begins, as a request or as a line that was refused.
    fn begin(&mut self, line: LineRef, outcome: Outcome, as_request: bool) -> RecordFormat {
        let parsed = as_request.then_some(&self.parsed);
        let format = record::format_for(self.format, parsed);
        let text = self.input.line(line.offset);
        self.beginning.clear();
        record::write_beginning(
            format,
            outcome,
            text,
            parsed,
            line.number,
            &mut self.beginning,
        );
        format
    }

    /// Whether the record is the current line's.
    fn own(&mut self, line: LineRef, outcome: Outcome, found: &Found<'_>) -> bool {
        [true, false].into_iter().any(|as_request| {
            // What was refused for its length alone is a request, too.
            if (as_request && !self.is_request) || (!as_request && outcome == Outcome::Success) {
                return false;
            }
            let origin = match self.begin(line, outcome, as_request) {
                RecordFormat::Blaze => Some(Origin::Line(line.number)),
                RecordFormat::OpenAi => Origin::id(&self.beginning),
            };
            origin == Some(found.origin) && found.record.starts_with(&self.beginning)
        })
    }

    /// What a record of the current line may say about it.
    fn origins(&mut self, line: LineRef) -> [Option<Origin>; 3] {
        let mut id = |as_request| {
            self.begin(line, Outcome::Failure, as_request);
            Origin::id(&self.beginning)
        };
        [Some(Origin::Line(line.number)), id(true), id(false)]
    }
}

/// Final files and input, read along with each other.
struct Reading<'a, 't> {
    output: Option<Head<'a>>,
    errors: Head<'a>,
    merged: Merged,
    take: Take<'t>,
}

/// A record that is out of order.
struct Strayed<'a> {
    found: Found<'a>,
    outcome: Outcome,
    count: u64,
    line: Option<LineRef>,
}

impl<'a> Reading<'a, '_> {
    /// As far as both files are in the input's order.
    fn along_with(&mut self, lines: &mut Lines<'_>) -> Result<(), FinishedError> {
        let mut output = self.head(Outcome::Success)?;
        let mut errors = self.head(Outcome::Failure)?;
        while let Some(line) = lines.line {
            let (outcome, head) = [
                (Outcome::Success, &mut output),
                (Outcome::Failure, &mut errors),
            ]
            .into_iter()
            .find(|(outcome, head)| head.is_some_and(|found| lines.own(line, *outcome, &found)))
            .map_or((Outcome::Success, None), |(outcome, head)| {
                (outcome, Some(head))
            });
            let Some(head) = head else {
                return Ok(());
            };
            let found = head.expect("the record at this head is the line's");
            self.taken(line, outcome, Some(found.record))?;
            if let Some(place) = self.place_of(outcome) {
                place.pass(&found);
            }
            *head = self.head(outcome)?;
            lines.advance();
            if self.lines_taken().is_multiple_of(RELEASE_EVERY_LINES) {
                self.release();
            }
        }
        Ok(())
    }

    /// What is left, in the order of the files.
    fn rest(&mut self, lines: &mut Lines<'_>) -> Result<(), FinishedError> {
        let (mut strayed, table) = self.stray()?;
        let mut unknown = None;
        while let Some(line) = lines.line {
            let record = lines
                .origins(line)
                .into_iter()
                .flatten()
                .find_map(|origin| table.get(&origin));
            match record.map(|&index| &mut strayed[index]) {
                Some(record)
                    if record.line.is_none() && lines.own(line, record.outcome, &record.found) =>
                {
                    record.line = Some(line);
                }
                _ if self.output.is_none() => self.taken(line, Outcome::Success, None)?,
                _ => unknown = unknown.or(Some(line)),
            }
            lines.advance();
        }
        for record in &strayed {
            let Some(line) = record.line else {
                let place = self.place_of(record.outcome);
                let place = place.map_or_else(String::new, |head| head.place(record.count));
                let what = format!("{place} is not the record of a line of the input");
                return Err(FinishedError::NotThisRun { what });
            };
            self.taken(line, record.outcome, Some(record.found.record))?;
        }
        match unknown {
            None => Ok(()),
            Some(line) => Err(FinishedError::NotThisRun {
                what: format!("line {} of the input has no record", line.number),
            }),
        }
    }

    /// The records that are left, and where each is by what it says about its line.
    fn stray(&mut self) -> Result<(Vec<Strayed<'a>>, HashMap<Origin, usize>), FinishedError> {
        let (mut strayed, mut table) = (Vec::new(), HashMap::new());
        for head in self.output.iter_mut().chain([&mut self.errors]) {
            while let Some(found) = head.found()? {
                if table.insert(found.origin, strayed.len()).is_some() {
                    return Err(FinishedError::NotThisRun {
                        what: format!("{} is a second record of its line", head.place(head.count)),
                    });
                }
                strayed.push(Strayed {
                    found,
                    outcome: head.outcome,
                    count: head.count,
                    line: None,
                });
                head.pass(&found);
            }
        }
        Ok((strayed, table))
    }

    fn place_of(&mut self, outcome: Outcome) -> Option<&mut Head<'a>> {
        match outcome {
            Outcome::Success => self.output.as_mut(),
            Outcome::Failure => Some(&mut self.errors),
        }
    }

    fn head(&mut self, outcome: Outcome) -> Result<Option<Found<'a>>, FinishedError> {
        self.place_of(outcome).map_or(Ok(None), |head| head.found())
    }

    fn taken(
        &mut self,
        line: LineRef,
        outcome: Outcome,
        record: Option<&[u8]>,
    ) -> Result<(), FinishedError> {
        match outcome {
            Outcome::Success => self.merged.succeeded += 1,
            Outcome::Failure => self.merged.failed += 1,
        }
        (self.take)(Taken {
            line,
            outcome,
            record,
        })?;
        Ok(())
    }

    fn lines_taken(&self) -> u64 {
        self.merged.succeeded + self.merged.failed
    }

    fn release(&self) {
        self.errors.records.release();
        if let Some(output) = &self.output {
            output.records.release();
        }
    }
}
