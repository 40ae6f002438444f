//! Damaged run folders: tails that are dropped, damage that is refused, and what `--salvage` keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::batch::input::{Input, LineCursor, LineRange};
use crate::batch::line::Parsed;
use crate::batch::record::{RecordFormat, write_beginning};
use crate::batch::segment::{NewEntry, ShardLog};
use crate::config::{Durability, Order};
use crate::journal::{ENTRY_BYTES, MARK_OFFSET, Outcome, Tokens, entry_offset};

const LINES: u64 = 60;

/// A run of real lines and records, and everything that had finished.
struct Ruin {
    place: Place,
    input: Input,
    /// By line: how it ended, and its record.
    finished: BTreeMap<u64, (Outcome, Vec<u8>)>,
}

/// What is left of a folder after it was resumed.
#[derive(Debug, PartialEq)]
struct Left {
    lines: BTreeSet<u64>,
    lost: u64,
    found: u64,
}

fn outcome_of(line: u64) -> Outcome {
    [Success, Success, Failure, Success][line as usize % 4]
}

impl Ruin {
    /// `ahead`: as a kill leaves it, a part of it written ahead; else as an interrupt does.
    fn new(ahead: bool) -> Self {
        let place = Place::in_memory();
        let text: String = (1..=LINES)
            .map(|line| format!("{{\"input\": \"line {line}\", \"id\": {line}}}\n"))
            .collect();
        fs::write(place.at("in.jsonl"), text).expect("a file");
        let input = Input::open(&place.at("in.jsonl")).expect("an input");
        let mut ruin = Self {
            place,
            input,
            finished: BTreeMap::new(),
        };
        // Each process does a third of what is left, in an order of its own, over two shards.
        for process in 0..2 {
            ruin.process(process, ahead && process == 1);
        }
        ruin
    }

    fn process(&mut self, process: u64, ahead: bool) {
        let Opened { folder, .. } = self.place.open();
        let mut logs: Vec<_> = (0..2)
            .map(|shard| {
                let generation = folder.generation();
                let log = ShardLog::create(&folder, generation, shard, true, Durability::Process);
                let log = log.expect("a log");
                match ahead {
                    true => log.writing_ahead(&folder, Order::Input),
                    false => log,
                }
            })
            .collect();
        let left: Vec<_> = (1..=LINES)
            .filter(|line| line % 3 == process)
            .map(|line| (line * 7) % 61)
            .filter(|line| (1..=LINES).contains(line))
            .collect();
        for line in &left {
            logs[*line as usize % 2].begin(*line);
        }
        for line in left {
            let outcome = outcome_of(line);
            let record = self.record(line, outcome);
            let log = &mut logs[line as usize % 2];
            if line % 5 == 0 {
                log.note_attempt(NewAttempt {
                    line_offset: self.offset(line),
                    line_number: line,
                    completed_us: line,
                    attempts: 1,
                    tokens: Tokens::default(),
                    cost_nano_usd: 3,
                });
            }
            let entry = NewEntry {
                line_offset: self.offset(line),
                ..entry(line, outcome)
            };
            log.append(entry, &record);
            log.flush().expect("space");
            self.finished.insert(line, (outcome, record));
        }
        if !ahead {
            logs.iter_mut().for_each(|log| log.finish().expect("space"));
        }
    }

    fn offset(&self, line: u64) -> u64 {
        self.line(line).offset
    }

    fn line(&self, number: u64) -> crate::batch::input::LineRef {
        let mut cursor = LineCursor::new(LineRange {
            start: 0,
            end: self.input.size(),
            first_line: 1,
        });
        std::iter::from_fn(|| cursor.next(&self.input))
            .find(|line| line.number == number)
            .expect("a line")
    }

    fn record(&self, number: u64, outcome: Outcome) -> Vec<u8> {
        let line = self.line(number);
        let text = self.input.line(line.offset);
        let mut parsed = Parsed::default();
        parsed.parse(text).expect("a request");
        let mut record = Vec::new();
        let format = RecordFormat::Blaze;
        write_beginning(format, outcome, text, Some(&parsed), number, &mut record);
        let pad = "x".repeat(number as usize * 13 % 90);
        let rest = match outcome {
            Success => format!(
                "{{\"pad\":\"{pad}\"}},\"metadata\":{{\"endpoint\":\"e\",\"attempts\":2,\"line_number\":{number}}}}}\n"
            ),
            Failure => format!(
                "\"{pad}\",\"error_kind\":\"timeout\",\"line_number\":{number},\"attempts\":2}}\n"
            ),
        };
        record.extend_from_slice(rest.as_bytes());
        record
    }

    /// The names of all shard files, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.place.run())
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("a file")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .filter(|name| {
                name.ends_with(".seg") || name.ends_with(".log") || name.ends_with(".wal")
            })
            .collect();
        names.sort();
        names
    }

    /// Everything in the folder but the lock, which says who had it last.
    fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(self.place.run())
            .expect("a folder")
            .map(|entry| entry.expect("a file"))
            .filter(|entry| entry.file_name() != "lock")
            .map(|entry| {
                let name = entry.file_name().into_string().expect("a name");
                (name, fs::read(entry.path()).expect("a file"))
            })
            .collect()
    }

    fn put_back(&self, bytes: &BTreeMap<String, Vec<u8>>) {
        for name in self
            .bytes()
            .keys()
            .filter(|name| !bytes.contains_key(*name))
        {
            fs::remove_file(self.place.run().join(name)).expect("removed");
        }
        for (name, bytes) in bytes {
            fs::write(self.place.run().join(name), bytes).expect("a file");
        }
    }

    fn resume(&self, salvages: bool) -> Result<Left, String> {
        let salvage = Salvage {
            input: &self.input,
            format: Format::Auto,
        };
        let claim = RunFolder::claim(&self.place.run(), false).expect("a folder");
        let opened = claim.open(manifest(), salvages.then_some(&salvage));
        let Opened { folder, resume, .. } = opened.map_err(|error| error.to_string())?;
        let resume = resume.expect("an unfinished run");
        let mut lines = BTreeSet::new();
        for files in folder.shards().expect("a folder") {
            let read = |kind| fs::read(files.path(folder.path(), kind)).unwrap_or_default();
            let journal = read(FileKind::Journal);
            let replay = crate::journal::replay(&journal).expect("it was mended");
            assert_eq!((replay.missing(), replay.torn()), (0, None));
            for entry in replay.entries() {
                let Some(outcome) = entry.outcome else {
                    continue;
                };
                let segment = match outcome {
                    Success => read(FileKind::Output),
                    Failure => read(FileKind::Errors),
                };
                let record = super::super::record(&segment, &entry).expect("it was verified");
                let line = entry.line_number;
                assert_eq!(entry.line_offset, self.offset(line));
                let expected = (outcome, record.to_vec());
                assert_eq!(self.finished.get(&line), Some(&expected), "line {line}");
                assert!(lines.insert(line), "line {line} has two records");
            }
            assert!(!files.path(folder.path(), FileKind::Ahead).exists());
        }
        assert!((1..=LINES).all(|line| resume.done.contains(line) == lines.contains(&line)));
        Ok(Left {
            lines,
            lost: resume.mended.lines_lost,
            found: resume.mended.found,
        })
    }

    /// Resumes without `--salvage`; a second time nothing more is lost.
    #[track_caller]
    fn resume_twice(&self, what: &str) -> Left {
        let left = self
            .resume(false)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let again = self.resume(false).expect("it was mended");
        assert_eq!((&again.lines, again.lost), (&left.lines, 0), "{what}");
        left
    }

    #[track_caller]
    fn refused(&self, name: &str, what: &str) -> String {
        let before = self.bytes();
        let error = self.resume(false).expect_err(what);
        let place = format!("{name} is damaged at byte ");
        let (salvage, fresh) = (error.find("--salvage"), error.find("--fresh"));
        assert!(
            error.contains(&place) && salvage.is_some() && salvage < fresh,
            "{what}: {error}"
        );
        assert_eq!(self.bytes(), before, "{what}: nothing was touched");
        error
    }

    fn all(&self) -> usize {
        self.finished.len()
    }
}

#[test]
fn a_file_that_lost_its_end_costs_the_lines_that_were_there_and_says_how_many() {
    for ahead in [false, true] {
        let ruin = Ruin::new(ahead);
        let whole = ruin.bytes();
        for name in ruin.names() {
            let bytes = &whole[&name];
            if bytes.is_empty() {
                continue;
            }
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |at| at + 1);
            let mut before = BTreeSet::new();
            for length in (0..used)
                .step_by(if name.ends_with(".wal") { 331 } else { 97 })
                .chain([used - 1])
            {
                let what = format!("{name} up to {length} of {used}");
                // Cut off, and never written.
                let mut zeros = bytes.clone();
                zeros[length..].fill(0);
                let mut results = Vec::new();
                for bytes in [bytes[..length].to_vec(), zeros] {
                    fs::write(ruin.place.run().join(&name), bytes).expect("a file");
                    results.push(ruin.resume_twice(&what));
                    ruin.put_back(&whole);
                }
                assert_eq!(results[0].lines, results[1].lines, "{what}");
                let left = &results[0];
                let gone = (ruin.all() - left.lines.len()) as u64;
                if name.ends_with(".wal") {
                    // Nothing else tells of what is not begun.
                    assert!(left.lost <= gone + 1, "{what}: {left:?}");
                } else {
                    assert!(left.lost >= gone, "{what}: {left:?}, {gone} are gone");
                    assert!(left.lost <= gone + 2, "{what}: {left:?}, {gone} are gone");
                    assert!(
                        left.lines.is_superset(&before),
                        "{what}: more of it is more"
                    );
                    before.clone_from(&left.lines);
                }
            }
            assert_eq!(ruin.resume(false).expect(&name).lines.len(), ruin.all());
            ruin.put_back(&whole);
        }
    }
}

/// One byte less at the end of each file of a stopped run is one line, in its own words.
#[test]
fn the_last_byte_of_a_segment_or_journal_is_one_line() {
    let ruin = Ruin::new(false);
    let whole = ruin.bytes();
    for name in ruin.names() {
        if whole[&name].is_empty() {
            continue;
        }
        cut(&ruin.place.run().join(&name), whole[&name].len() as u64 - 1);
        let left = ruin.resume_twice(&name);
        assert_eq!((left.lines.len(), left.lost), (ruin.all() - 1, 1), "{name}");
        ruin.put_back(&whole);
    }
}

#[test]
fn what_is_broken_before_the_tail_is_refused_and_salvaged() {
    for ahead in [false, true] {
        let ruin = Ruin::new(ahead);
        let whole = ruin.bytes();
        let (mut refused, mut dropped) = (0, 0);
        for name in ruin.names() {
            let bytes = &whole[&name];
            if bytes.is_empty() {
                continue;
            }
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |at| at + 1);
            for at in (0..used).step_by(101) {
                let what = format!("byte {at} of {used} of {name}");
                flip(&ruin.place.run().join(&name), at);
                let before = ruin.bytes();
                match ruin.resume(false) {
                    Ok(left) => {
                        assert!(left.lines.len() + 1 >= ruin.all(), "{what}: {left:?}");
                        dropped += 1;
                    }
                    Err(_) => {
                        assert_eq!(ruin.bytes(), before, "{what}");
                        ruin.refused(&name, &what);
                        refused += 1;
                        let left = ruin.resume(true).expect(&what);
                        let gone = (ruin.all() - left.lines.len()) as u64;
                        assert!(gone <= 1, "{what}: {left:?}");
                        assert!(left.lost >= gone, "{what}: {left:?}");
                        let again = ruin.resume(false).expect("it was mended");
                        assert_eq!((again.lines, again.lost), (left.lines, 0), "{what}");
                    }
                }
                ruin.put_back(&whole);
            }
        }
        assert!(refused > 50 && dropped > 5, "{refused} {dropped}");
    }
}

/// Files that are gone altogether, and what is found again in the segments.
#[test]
fn a_missing_file_is_refused_and_salvaged() {
    for ahead in [false, true] {
        let ruin = Ruin::new(ahead);
        let whole = ruin.bytes();
        for name in ruin.names() {
            fs::remove_file(ruin.place.run().join(&name)).expect("removed");
            if name.ends_with(".wal") || whole[&name].is_empty() {
                ruin.resume_twice(&name);
                ruin.put_back(&whole);
                continue;
            }
            if let Err(error) = ruin.resume(false) {
                assert!(error.contains("missing"), "{error}");
                ruin.refused(&name, &name);
            }
            let left = ruin.resume(true).expect(&name);
            if name.starts_with("journal-") {
                // Each is whole in its segment or was written ahead.
                assert_eq!(left.lines.len(), ruin.all(), "{name}: {left:?}");
                assert_eq!(left.lost, 0);
            }
            assert_eq!(ruin.resume(false).expect("mended").lines, left.lines);
            ruin.put_back(&whole);
        }
    }
}

#[test]
fn records_whose_entries_are_altered_are_known_by_their_checksum() {
    let ruin = Ruin::new(false);
    let whole = ruin.bytes();
    let name = "journal-0001-000.log";
    let path = ruin.place.run().join(name);
    let entries = ((whole[name].len() - HEADER_BYTES) / ENTRY_BYTES) as u64;
    assert!(entries > 6);
    for index in 0..entries - 1 {
        // In the line's number, and in the record's checksum.
        for (field, keeps) in [(8, true), (40, false)] {
            let is_attempt = whole[name][entry_offset(index) as usize + 60] == 3;
            flip(&path, entry_offset(index) as usize + field);
            ruin.refused(name, "an entry");
            let left = ruin.resume(true).expect("salvaged");
            let gone = usize::from(!keeps && !is_attempt);
            assert_eq!(left.lines.len(), ruin.all() - gone, "entry {index}");
            ruin.put_back(&whole);
        }
    }
    // All of them, header and mark included.
    let mut zeros = whole[name].clone();
    zeros[..MARK_OFFSET + 3].fill(7);
    zeros[entry_offset(1) as usize + 50] ^= 1;
    fs::write(&path, zeros).expect("a file");
    ruin.refused(name, "its beginning");
    assert_eq!(ruin.resume(true).expect("salvaged").lines.len(), ruin.all());
}

/// An altered record is never taken for whole because its entry is lost elsewhere in the file.
#[test]
fn an_altered_record_is_sent_again() {
    let ruin = Ruin::new(false);
    let whole = ruin.bytes();
    let name = "output-0001-000.seg";
    for at in (0..whole[name].len()).step_by(53) {
        flip(&ruin.place.run().join(name), at);
        let left = ruin.resume(true).expect("salvaged");
        assert_eq!(left.lines.len(), ruin.all() - 1, "byte {at}");
        ruin.put_back(&whole);
    }
}

#[test]
fn an_undamaged_folder_is_simply_resumed() {
    for ahead in [false, true] {
        let ruin = Ruin::new(ahead);
        let left = ruin.resume(true).expect("nothing is damaged");
        let expected = Left {
            lines: ruin.finished.keys().copied().collect(),
            lost: 0,
            found: 0,
        };
        assert_eq!(left, expected);
    }
}

/// A disk that brings back an older state of one file beside the newest of the others.
#[test]
fn an_older_file_beside_newer_ones_loses_no_more_than_it_lacks() {
    let ruin = Ruin::new(true);
    let newest = ruin.bytes();
    // By name, the file as it was at other lengths of its run; the write-ahead file also emptied.
    for name in ruin.names() {
        let mut olds = vec![Vec::new()];
        let bytes = &newest[&name];
        if name.starts_with("journal-") {
            let entries = bytes.len().saturating_sub(HEADER_BYTES) / ENTRY_BYTES;
            for entries in 0..entries as u64 {
                let mut old = bytes[..entry_offset(entries) as usize].to_vec();
                let replay = crate::journal::replay(bytes).expect("a journal");
                let mark = replay.header().expect("a header").mark(entries);
                old[MARK_OFFSET..HEADER_BYTES].copy_from_slice(&mark);
                olds.push(old);
            }
        } else if name.ends_with(".wal") {
            olds.push(vec![0; bytes.len()]);
        } else {
            let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            olds.extend(ends.map(|(at, _)| bytes[..=at].to_vec()));
        }
        for (number, old) in olds.into_iter().enumerate() {
            fs::write(ruin.place.run().join(&name), old).expect("a file");
            let what = format!("{name}, {number}");
            ruin.resume_twice(&what);
            ruin.put_back(&newest);
        }
    }
}

/// Whatever happens to the files, a run that is resumed or salvaged has each line's own record or none, and
/// one that is refused is as it was.
#[test]
fn any_damage_leaves_right_records_or_is_refused_untouched() {
    let (mut resumed, mut refused) = (0, 0);
    let ruins = [Ruin::new(false), Ruin::new(true)];
    let wholes = ruins.each_ref().map(Ruin::bytes);
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let which = random.usize(0..2);
        let (ruin, whole) = (&ruins[which], &wholes[which]);
        let names = ruin.names();
        // Records are changed, or what tells of them is; both at once no checksum would notice.
        let spares = if random.bool() { ".seg" } else { ".log" };
        for _ in 0..random.usize(1..6) {
            let name = &names[random.usize(0..names.len())];
            let path = ruin.place.run().join(name);
            let Ok(mut bytes) = fs::read(&path) else {
                continue;
            };
            let at = random.usize(0..bytes.len() + 1);
            let end = (at + random.usize(0..200)).min(bytes.len());
            match random.usize(0..6) {
                0 => bytes.truncate(at),
                1 => bytes[at..].fill(0),
                2 => bytes[at..end].fill(0),
                3 => bytes.clear(),
                4 if !name.ends_with(spares) => {
                    for byte in &mut bytes[at..end] {
                        *byte ^= random.u8(..);
                    }
                }
                4 => {}
                _ => {
                    fs::remove_file(&path).expect("removed");
                    continue;
                }
            }
            fs::write(&path, bytes).expect("a file");
        }
        let before = ruin.bytes();
        match ruin.resume(false) {
            Ok(_) => resumed += 1,
            Err(error) => {
                assert!(error.contains("--salvage"), "seed {seed}: {error}");
                assert_eq!(ruin.bytes(), before, "seed {seed}");
                let left = ruin
                    .resume(true)
                    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let again = ruin.resume(false).expect("it was mended");
                assert_eq!(again.lines, left.lines, "seed {seed}");
                refused += 1;
            }
        }
        ruin.put_back(whole);
    }
    assert!(resumed > 50 && refused > 50, "{resumed} {refused}");
}

/// Without manifest and copy nothing says whose lines these are but they themselves.
#[test]
fn without_any_manifest_records_must_show_whose_they_are() {
    for ahead in [false, true] {
        let ruin = Ruin::new(ahead);
        let whole = ruin.bytes();
        write_manifests(&ruin.place, "{");
        let error = ruin.resume(false).expect_err("no manifest");
        assert!(error.contains("--salvage"), "{error}");
        let left = ruin.resume(true).expect("salvaged");
        assert_eq!((left.lines.len(), left.lost), (ruin.all(), 0));
        ruin.put_back(&whole);
        // The lines of another input, one of which is the same at the same place.
        let text = fs::read_to_string(ruin.place.at("in.jsonl")).expect("an input");
        let other = text
            .replace("line", "Line")
            .replacen("Line 1\"", "line 1\"", 1);
        fs::write(ruin.place.at("other.jsonl"), other).expect("a file");
        let mut ruin = ruin;
        ruin.input = Input::open(&ruin.place.at("other.jsonl")).expect("an input");
        write_manifests(&ruin.place, "{");
        let left = ruin.resume(true).expect("salvaged");
        let one = BTreeSet::from([1]);
        let expected: BTreeSet<_> = one
            .into_iter()
            .filter(|line| ruin.finished.contains_key(line))
            .collect();
        assert_eq!(left.lines, expected);
    }
}
