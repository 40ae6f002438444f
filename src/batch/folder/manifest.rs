//! `manifest.json`: which run the folder holds and how far it has come.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::FolderError;
use super::name::{self, FileKind};
use super::resume::map;
use crate::batch::input::{Input, Scan};
use crate::batch::storage_error::StorageError;
use crate::config::Format;
use crate::journal::Slots;
use crate::runtime::files;

/// Version of the folder's format as a whole.
pub(super) const VERSION: u64 = 4;
/// The version before: its final files had no checksums, and their places were absolute. Where none is
/// published yet, it is the same.
const VERSION_WITHOUT_SUMS: u64 = 3;

/// What makes a run the same run when its command is given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The input's content.
    pub input: InputIdentity,
    /// `--format`.
    pub format: Format,
    /// `--max-line-bytes`: decides which lines are failures.
    pub max_line_bytes: u64,
    /// Successes are kept (`-o`), not only counted.
    pub has_output: bool,
    /// `--overwrite`: existing final files are replaced. May differ; once given it stays.
    pub overwrite: bool,
    /// When the run began, in microseconds since the Unix epoch. May differ.
    pub created_us: u64,
}

/// The input file of a run. Two are the same if size and fingerprint are: a copy, or a file that
/// was only touched, has the same lines at the same offsets. Path and time of change are for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputIdentity {
    /// As given; not compared. Invalid UTF-8 is replaced.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Time of last change in nanoseconds since the Unix epoch; not compared.
    pub mtime_ns: u64,
    /// [`Scan::fingerprint`] in hexadecimal.
    pub fingerprint: String,
}

impl InputIdentity {
    /// Of an input that was scanned.
    pub fn new(input: &Input, scan: &Scan) -> Self {
        Self {
            path: input.path().to_string_lossy().into_owned(),
            size: input.size(),
            mtime_ns: input.modified_ns(),
            fingerprint: hex(&scan.fingerprint),
        }
    }
}

impl PartialEq for InputIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.fingerprint == other.fingerprint
    }
}

impl Eq for InputIdentity {}

/// What the final files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merged {
    /// Lines that succeeded.
    pub succeeded: u64,
    /// Lines that failed.
    pub failed: u64,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::batch) enum Phase {
    /// Lines are being sent, or wait to be.
    Running,
    /// The final files are on the disk; they are being put in place, or are there, and the folder goes.
    Publishing,
}

/// What a run has come to. Names no place: the command says where final files belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// What the final files hold.
    pub merged: Merged,
    /// The output; `None` if there is no such file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Sum>,
    /// The error file; `None` if there is no such file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Sum>,
}

/// What tells a final file from one that the disk has lost a part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {
    /// Its length.
    pub bytes: u64,
    /// CRC-32 (IEEE) of all of them.
    pub crc32: u32,
}

/// The manifest with what the folder adds to it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) run_id: [u8; 16],
    pub(super) manifest: Manifest,
    pub(super) phase: Phase,
    pub(super) publication: Option<Publication>,
    /// Not what the manifest said, which is damaged: it is to be written again.
    pub(super) is_copy: bool,
}

/// The file's layout.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u64,
    run_id: String,
    created_us: u64,
    phase: Phase,
    input: InputIdentity,
    format: String,
    max_line_bytes: u64,
    has_output: bool,
    overwrite: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publication: Option<Publication>,
}

/// Stands before the checksum, which is the last field.
const BEFORE_CHECKSUM: &str = ",\n  \"checksum\": \"";

impl Stored {
    pub(super) fn new(manifest: Manifest, folder: &Path) -> Self {
        // Unique enough: only journals that ever lay in this folder must not be mistaken for this
        // run's, and no two runs begin here within one microsecond.
        let seed = format!(
            "{} {} {}",
            folder.display(),
            manifest.created_us,
            std::process::id()
        );
        Self {
            run_id: xxh3_128(seed.as_bytes()).to_le_bytes(),
            manifest,
            phase: Phase::Running,
            publication: None,
            is_copy: false,
        }
    }

    /// `None` if there is no manifest: no run was begun here. Where it is damaged or missing, its copy
    /// tells the same.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, FolderError> {
        let path = folder.join(name::MANIFEST);
        let copy = || Self::read_file(&folder.join(name::MANIFEST_COPY));
        let (copied, what) = match Self::read_file(&path) {
            Err(unreadable @ FolderError::UnreadableManifest { .. }) => match copy() {
                Ok(Some(copied)) => (copied, unreadable.to_string()),
                _ => return Err(unreadable),
            },
            Ok(None) => match copy() {
                Ok(Some(copied)) => (copied, format!("{} is missing", path.display())),
                // Without either there is no run.
                Ok(None) => return Ok(None),
                Err(error) => return Err(error),
            },
            found => return found,
        };
        let what = what.split("; ").next().unwrap_or_default();
        tracing::warn!("{what}; going on with its copy");
        Ok(Some(Self {
            is_copy: true,
            ..copied
        }))
    }

    /// Of a run whose manifest and its copy are lost, if its journals still say which run it is; for the
    /// rest, `now`'s word is taken.
    pub(super) fn rebuilt(folder: &Path, now: Manifest) -> Result<Option<Self>, FolderError> {
        let shards = name::shards(folder).map_err(StorageError::io(folder, "list"))?;
        let mut run_ids = Vec::new();
        for files in shards {
            let journal = map(&files.path(folder, FileKind::Journal))?;
            if let Ok(Some(slots)) = Slots::new(journal.as_deref().unwrap_or_default()) {
                run_ids.push(slots.header().run_id);
            }
        }
        run_ids.dedup();
        Ok(match run_ids[..] {
            [run_id] => Some(Self {
                run_id,
                manifest: now,
                phase: Phase::Running,
                publication: None,
                is_copy: true,
            }),
            // Of several runs, none is the one.
            _ => None,
        })
    }

    fn read_file(path: &Path) -> Result<Option<Self>, FolderError> {
        let path = path.to_path_buf();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(&path, "read")(error).into()),
        };
        let unreadable = |reason: String| FolderError::UnreadableManifest {
            path: path.clone(),
            reason,
        };
        let mut value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(VERSION) => {}
            Some(VERSION_WITHOUT_SUMS) if value["phase"] == "running" => {}
            Some(version) => return Err(FolderError::OtherVersion { path, version }),
            _ => return Err(unreadable("it has no known version".to_owned())),
        }
        if let Err(altered) = check(&text) {
            return Err(unreadable(altered));
        }
        if let Some(fields) = value.as_object_mut() {
            fields.remove("checksum");
        }
        let raw: Raw =
            serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))?;
        let run_id = unhex(&raw.run_id)
            .ok_or_else(|| unreadable("run_id is not 32 hexadecimal digits".to_owned()))?;
        let format = format_from(&raw.format)
            .ok_or_else(|| unreadable(format!("unknown format {}", raw.format)))?;
        let manifest = Manifest {
            input: raw.input,
            format,
            max_line_bytes: raw.max_line_bytes,
            has_output: raw.has_output,
            overwrite: raw.overwrite,
            created_us: raw.created_us,
        };
        Ok(Some(Self {
            run_id,
            manifest,
            phase: raw.phase,
            publication: raw.publication,
            is_copy: false,
        }))
    }

    /// Replaces the manifest and its copy, each in one step, safe from power loss: they are small and
    /// rarely written. The copy goes first: what it says of how far the run has come is true before the
    /// manifest says it.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StorageError> {
        let Manifest {
            input,
            format,
            max_line_bytes,
            has_output,
            overwrite,
            created_us,
        } = &self.manifest;
        let raw = Raw {
            version: VERSION,
            run_id: hex(&self.run_id),
            created_us: *created_us,
            phase: self.phase,
            input: input.clone(),
            format: format_name(*format).to_owned(),
            max_line_bytes: *max_line_bytes,
            has_output: *has_output,
            overwrite: *overwrite,
            publication: self.publication,
        };
        // Fails only for paths that are not UTF-8; `check_targets` turned those away.
        let text = encode(&raw).map_err(|error| {
            StorageError::io(&folder.join(name::MANIFEST), "encode")(error.into())
        })?;
        for (partial, name) in [
            (name::MANIFEST_COPY_PARTIAL, name::MANIFEST_COPY),
            (name::MANIFEST_PARTIAL, name::MANIFEST),
        ] {
            let partial = folder.join(partial);
            let write = || {
                name::remove_if_there(&partial)?;
                let file = files::create_private(&partial)?;
                files::write_all_at(&file, &text, 0)?;
                files::sync_all(&file)?;
                files::rename(&partial, &folder.join(name))?;
                files::sync_directory(folder)
            };
            write()
                .map_err(|error| StorageError::new(&partial, "write", text.len() as u64, error))?;
        }
        Ok(())
    }

    /// Refuses a command that is not this run's.
    pub(super) fn check_same_run(&self, now: &Manifest, folder: &Path) -> Result<(), FolderError> {
        let then = &self.manifest;
        let refuse = |what, then: String, now: String| {
            Err(FolderError::OtherRun {
                path: folder.to_path_buf(),
                what,
                then,
                now,
            })
        };
        let describe = |input: &InputIdentity| {
            format!(
                "{}, {} bytes, fingerprint {}",
                input.path, input.size, input.fingerprint
            )
        };
        if then.input != now.input {
            return refuse("input", describe(&then.input), describe(&now.input));
        }
        if then.format != now.format {
            return refuse(
                "--format",
                format_name(then.format).to_owned(),
                format_name(now.format).to_owned(),
            );
        }
        if then.max_line_bytes != now.max_line_bytes {
            return refuse(
                "--max-line-bytes",
                then.max_line_bytes.to_string(),
                now.max_line_bytes.to_string(),
            );
        }
        if then.has_output != now.has_output {
            let describe =
                |has_output| if has_output { "with -o" } else { "without -o" }.to_owned();
            return refuse(
                "choice of output",
                describe(then.has_output),
                describe(now.has_output),
            );
        }
        Ok(())
    }
}

/// The text of the file, its checksum at the end.
fn encode(raw: &Raw) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(raw)?;
    // Behind the last field, whose line goes on with the checksum.
    text.truncate(text.len().saturating_sub("\n}".len()));
    let checksum = format!("{BEFORE_CHECKSUM}{:016x}\"\n}}\n", xxh3_64(&text));
    text.extend_from_slice(checksum.as_bytes());
    Ok(text)
}

/// Whether the text is what was written. One without a checksum is of an earlier version.
fn check(text: &[u8]) -> Result<(), String> {
    let Some(at) = memchr::memmem::rfind(text, BEFORE_CHECKSUM.as_bytes()) else {
        return Ok(());
    };
    let digits = &text[at + BEFORE_CHECKSUM.len()..];
    let expected = format!("{:016x}\"\n}}\n", xxh3_64(&text[..at]));
    match digits == expected.as_bytes() {
        true => Ok(()),
        false => Err("it does not match its checksum".to_owned()),
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Auto => "auto",
        Format::Blaze => "blaze",
        Format::OpenAi => "openai",
    }
}

fn format_from(name: &str) -> Option<Format> {
    [Format::Auto, Format::Blaze, Format::OpenAi]
        .into_iter()
        .find(|format| format_name(*format) == name)
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32)
        .then(|| u128::from_str_radix(text, 16).ok())?
        .map(u128::to_be_bytes)
}
