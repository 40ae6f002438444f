//! What a file is that is not JSONL as a whole: a guess from its bytes, and the command that mends it. Pure.
//!
//! One line that is not valid is that line's failure. A file is refused only if every line would be one:
//! what other programs wrote is recognised by their magic numbers, text only where none of the first
//! [`PROBED_LINES`] lines is a request.

use std::fmt;
use std::path::Path;

use serde::de::IgnoredAny;

use super::cursor::{is_blank, line_at, skip_byte_order_mark};
use crate::batch::line::Parsed;

/// Lines that are looked at: a header, a comment or a few broken lines do not make another kind.
const PROBED_LINES: usize = 100;
/// How much of a text is parsed to see whether one JSON value spans its lines; a few hundred usual ones.
const PROBED_BYTES: usize = 1 << 20;
/// Records of a table that must agree with its header, and how much of the file they may take.
const PROBED_RECORDS: usize = 20;
const PROBED_TABLE_BYTES: usize = 64 << 10;
/// A longer first field is prose.
const COLUMN_NAME_BYTES_MAX: usize = 64;

/// Another kind of file than JSONL in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignKind {
    /// Written by a packer.
    Packed(&'static Packer),
    /// A format of bytes that is read by programs of its own.
    Binary(&'static str),
    /// Text in a coding of two or four bytes, as `iconv` calls it.
    Wide(&'static str),
    /// Values between delimiters, a record a line.
    Table {
        /// `,`, `;`, a tab or `|`.
        delimiter: u8,
    },
    /// One JSON array, in one line or many.
    Array {
        /// Its elements are the prompts themselves.
        of_texts: bool,
    },
    /// JSON objects that go over several lines.
    Pretty,
}

/// A format of packed files, and what reads it from standard input.
#[derive(Debug, PartialEq, Eq)]
pub struct Packer {
    name: &'static str,
    unpack: &'static str,
    magic: &'static [u8],
    extension: &'static str,
}

const PACKERS: [Packer; 7] = [
    packer("gzip", "gunzip", b"\x1f\x8b\x08", "gz"),
    packer("zstd", "zstd -dc", b"\x28\xb5\x2f\xfd", "zst"),
    packer("xz", "xz -dc", b"\xfd7zXZ\x00", "xz"),
    packer("bzip2", "bzip2 -dc", b"BZh", "bz2"),
    packer("zip", "funzip", b"PK\x03\x04", "zip"),
    packer("zip", "funzip", b"PK\x05\x06", "zip"),
    packer("lz4", "lz4 -dc", b"\x04\x22\x4d\x18", "lz4"),
];

const fn packer(
    name: &'static str,
    unpack: &'static str,
    magic: &'static [u8],
    extension: &'static str,
) -> Packer {
    Packer {
        name,
        unpack,
        magic,
        extension,
    }
}

/// No line of JSON begins like one of these.
const BINARIES: [(&[u8], &str); 8] = [
    (b"PAR1", "a Parquet file"),
    (b"ARROW1\0\0", "an Arrow file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x7fELF", "a program (ELF)"),
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a picture (PNG)"),
];

/// The kind of `bytes`, a whole file, if it is not JSONL. Lines longer than `line_bytes_max` are not read.
pub(super) fn recognise(bytes: &[u8], line_bytes_max: usize) -> Option<ForeignKind> {
    packed_or_binary(bytes).or_else(|| {
        // The usual case ends at the first line.
        if holds_a_request(bytes, line_bytes_max) {
            return None;
        }
        wide(bytes)
            .map(ForeignKind::Wide)
            .or_else(|| json(bytes))
            .or_else(|| table(bytes).map(|delimiter| ForeignKind::Table { delimiter }))
    })
}

fn packed_or_binary(bytes: &[u8]) -> Option<ForeignKind> {
    let packer = PACKERS.iter().find(|packer| {
        let rest = bytes.strip_prefix(packer.magic);
        // bzip2's magic number is three letters, a level, and then pi or the root of it.
        let is_bzip2 = |rest: &[u8]| {
            matches!(rest, [b'1'..=b'9', block @ ..]
                if block.starts_with(b"1AY&SY") || block.starts_with(b"\x17\x72\x45\x38\x50\x90"))
        };
        rest.is_some_and(|rest| packer.name != "bzip2" || is_bzip2(rest))
    });
    let binary = BINARIES.iter().find(|(magic, _)| bytes.starts_with(magic));
    (packer.map(ForeignKind::Packed)).or(binary.map(|(_, name)| ForeignKind::Binary(name)))
}

/// Whether one of the first lines is a request; the last element of an array that has a line of its own
/// does not count.
fn holds_a_request(bytes: &[u8], line_bytes_max: usize) -> bool {
    let mut parsed = Parsed::default();
    let mut lines = texts(bytes).peekable();
    for _ in 0..PROBED_LINES {
        let Some(text) = lines.next() else {
            return false;
        };
        if text.len() > line_bytes_max || parsed.parse(text).is_err() {
            continue;
        }
        let next = lines
            .peek()
            .map_or(b"".as_slice(), |next| next.trim_ascii_start());
        if next.first() != Some(&b']') {
            return true;
        }
    }
    false
}

/// The lines that are not blank.
fn texts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < bytes.len() {
            let (text, after) = line_at(bytes, skip_byte_order_mark(bytes, next));
            next = after;
            if !is_blank(text) {
                return Some(text);
            }
        }
        None
    })
}

/// UTF-16 and UTF-32, by their byte order mark or by the NUL bytes beside the first two letters.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [1..=255, 0, 0, 0, 1..=255, 0, 0, 0, ..] => Some("UTF-32LE"),
        [0, 0, 0, 1..=255, 0, 0, 0, 1..=255, ..] => Some("UTF-32BE"),
        [1..=255, 0, 1..=255, 0, ..] => Some("UTF-16LE"),
        [0, 1..=255, 0, 1..=255, ..] => Some("UTF-16BE"),
        _ => None,
    }
}

/// A JSON array that is the whole file, or values of which the first goes beyond its line.
fn json(bytes: &[u8]) -> Option<ForeignKind> {
    let text = bytes[skip_byte_order_mark(bytes, 0)..].trim_ascii();
    let is_array = match text.first()? {
        b'[' => true,
        b'{' => false,
        _ => return None,
    };
    let first_line = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let is_one_line = first_line == text.len();
    let probed = &text[..text.len().min(PROBED_BYTES)];
    let mut values = serde_json::Deserializer::from_slice(probed).into_iter::<IgnoredAny>();
    let is_foreign = match values.next()? {
        Ok(_) if is_one_line => is_array,
        Ok(_) => values.byte_offset() > first_line,
        // Right so far.
        Err(error) if error.is_eof() && first_line < probed.len() => true,
        Err(error) if error.is_eof() => {
            is_array && is_one_line && probed.len() < text.len() && text.ends_with(b"]")
        }
        Err(_) => false,
    };
    is_foreign.then(|| match is_array {
        true => ForeignKind::Array {
            of_texts: text[1..].trim_ascii_start().first() == Some(&b'"'),
        },
        false => ForeignKind::Pretty,
    })
}

/// The delimiter of a table whose records have as many fields as its header, most of them at least: prompts
/// hold commas that somebody forgot to quote.
fn table(bytes: &[u8]) -> Option<u8> {
    let text = &bytes[skip_byte_order_mark(bytes, 0)..];
    let is_whole = text.len() <= PROBED_TABLE_BYTES;
    let text = &text[..text.len().min(PROBED_TABLE_BYTES)];
    [b',', b';', b'\t', b'|'].into_iter().find(|&delimiter| {
        let Some(mut records) = records(text, delimiter) else {
            return false;
        };
        if !is_whole {
            // The last one may be cut.
            records.pop();
        }
        let Some((header, others)) = records.split_first() else {
            return false;
        };
        let alike = others.iter().filter(|other| other.len() == header.len());
        header.len() > 1
            && header.iter().all(|name| is_column_name(name))
            && !others.is_empty()
            && 2 * alike.count() >= others.len()
    })
}

fn is_column_name(name: &[u8]) -> bool {
    let may_stand = |byte: &u8| !byte.is_ascii_control() && !b"{}[]".contains(byte);
    (1..=COLUMN_NAME_BYTES_MAX).contains(&name.len())
        && name[0] != b' '
        && name.iter().all(may_stand)
}

/// The first records of a table (RFC 4180), as fields without their quotes; `None` if something stands
/// behind a quote that closes. Blank lines are no records.
fn records(text: &[u8], delimiter: u8) -> Option<Vec<Vec<&[u8]>>> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    let mut at = 0;
    while at < text.len() && records.len() <= PROBED_RECORDS {
        let field = if text[at] == b'"' {
            let from = at + 1;
            let mut closing = from;
            loop {
                closing += memchr::memchr(b'"', &text[closing..])?;
                if text.get(closing + 1) != Some(&b'"') {
                    break;
                }
                closing += 2;
            }
            at = closing + 1;
            &text[from..closing]
        } else {
            let length = memchr::memchr2(delimiter, b'\n', &text[at..]).unwrap_or(text.len() - at);
            let field = &text[at..at + length];
            at += length;
            field.strip_suffix(b"\r").unwrap_or(field)
        };
        record.push(field);
        at += usize::from(text[at..].starts_with(b"\r\n"));
        match text.get(at) {
            Some(&byte) if byte == delimiter => at += 1,
            Some(b'\n') | None => {
                at += 1;
                let record = std::mem::take(&mut record);
                if record != [b"".as_slice()] {
                    records.push(record);
                }
            }
            Some(_) => return None,
        }
    }
    Some(records)
}

impl ForeignKind {
    /// The command that makes JSONL of the file at `path`; `None` where there is none to tell.
    fn mend(self, path: &Path) -> Option<String> {
        let filter = self.filter()?;
        let (from, to) = (
            quoted(&path.display().to_string()),
            quoted(&self.mended(path)),
        );
        Some(match self {
            Self::Array { .. } | Self::Pretty => format!("{filter} {from} > {to}"),
            Self::Packed(packer) if packer.name == "zip" => format!("unzip -p {from} > {to}"),
            _ => format!("{filter} < {from} > {to}"),
        })
    }

    /// The command that reads it from standard input and writes JSONL to standard output.
    fn filter(self) -> Option<String> {
        Some(match self {
            Self::Packed(packer) => packer.unpack.to_owned(),
            Self::Binary(_) => return None,
            Self::Wide(coding) => format!("iconv -f {coding} -t UTF-8"),
            Self::Table { delimiter } => {
                let option = match delimiter {
                    b',' => String::new(),
                    b'\t' => r#", delimiter="\t""#.to_owned(),
                    other => format!(r#", delimiter="{}""#, char::from(other)),
                };
                format!(
                    "python3 -c 'import csv, json, sys; \
                     [print(json.dumps(row)) for row in csv.DictReader(sys.stdin{option})]'"
                )
            }
            Self::Array { of_texts: false } => "jq -c '.[]'".to_owned(),
            Self::Array { of_texts: true } => "jq -c '.[] | {input: .}'".to_owned(),
            Self::Pretty => "jq -c .".to_owned(),
        })
    }

    /// A name for what the command writes: beside the file, and not its own.
    fn mended(self, path: &Path) -> String {
        let mut stem = path.to_path_buf();
        let known = |extension: &str| {
            let packed = matches!(self, Self::Packed(packer) if packer.extension == extension);
            packed || ["jsonl", "ndjson", "json", "csv", "tsv", "txt"].contains(&extension)
        };
        while stem
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(known)
        {
            stem.set_extension("");
        }
        format!("{}.lines.jsonl", stem.display())
    }

    /// The whole complaint about the input at `path`, `None` for standard input.
    pub(super) fn explain(self, path: Option<&Path>) -> String {
        let (input, way_out) = match path {
            Some(path) => (
                format!("input {}", path.display()),
                self.mend(path)
                    .map(|command| format!("make JSONL of it with: {command}")),
            ),
            None => (
                "standard input".to_owned(),
                self.filter()
                    .map(|filter| format!("put this before it: | {filter} | blaze-uring -i - …")),
            ),
        };
        let way_out =
            way_out.unwrap_or_else(|| "export its rows as JSON, one object a line".into());
        format!(
            "{input} is not JSONL but looks like {self}; {way_out}{}",
            self.hint()
        )
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Table { .. } => " (a column called `input` becomes the prompt)",
            _ => "",
        }
    }
}

impl fmt::Display for ForeignKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(packer) => write!(f, "a file compressed by {}", packer.name),
            Self::Binary(name) => f.write_str(name),
            Self::Wide(coding) => write!(f, "text in {coding}, not UTF-8"),
            Self::Table { delimiter: b',' } => f.write_str("CSV"),
            Self::Table { delimiter: b'\t' } => {
                f.write_str("a table with tabs between its fields (TSV)")
            }
            Self::Table { delimiter } => {
                write!(
                    f,
                    "CSV with `{}` between its fields",
                    char::from(*delimiter)
                )
            }
            Self::Array { .. } => f.write_str("one JSON array"),
            Self::Pretty => {
                f.write_str("pretty-printed JSON, where an object goes over several lines")
            }
        }
    }
}

/// `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./+-@%:,=".contains(&byte);
    if !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
