//! The names in a run folder, and which of them are ours to delete.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::files;

pub(super) const LOCK: &str = "lock";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const MANIFEST_PARTIAL: &str = "manifest.json.partial";
pub(super) const MANIFEST_COPY: &str = "manifest.copy.json";
pub(super) const MANIFEST_COPY_PARTIAL: &str = "manifest.copy.json.partial";
pub(super) const SPOOL: &str = "input.jsonl";
const SPOOL_PARTIAL: &str = "input.jsonl.partial";
/// Lines for whose answers earlier processes have stopped.
pub(super) const STOPPED_BY: &str = "stopped-by.json";
pub(super) const STOPPED_BY_PARTIAL: &str = "stopped-by.json.partial";
/// Behind the name of a file that is not complete yet.
const PARTIAL: &str = ".partial";
/// Line number → journal entry, while merging.
pub(in crate::batch) const MERGE_INDEX: &str = "merge-index";
/// Line number → record that waits for its turn, while records are streamed.
pub(in crate::batch) const DELIVERY_INDEX: &str = "delivery-index";
pub(in crate::batch) const OUTPUT_MERGED: &str = "output.merged";
pub(in crate::batch) const ERRORS_MERGED: &str = "errors.merged";
/// Shows which permissions a new file gets here.
pub(in crate::batch) const PERMISSIONS_PROBE: &str = "permissions";

const FIGURES_PREFIX: &str = "figures-";
const FIGURES_SUFFIX: &str = ".json";
const PARTIAL_SUFFIX: &str = ".partial";

/// What a shard writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Records of successes.
    Output,
    /// Records of failures.
    Errors,
    /// Which lines are finished.
    Journal,
    /// Finished lines on their way to the other three.
    Ahead,
}

/// One shard of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::batch) struct ShardFiles {
    pub(in crate::batch) generation: u32,
    pub(in crate::batch) shard: u32,
}

impl FileKind {
    pub(super) const ALL: [Self; 4] = [Self::Output, Self::Errors, Self::Journal, Self::Ahead];

    fn affixes(self) -> (&'static str, &'static str) {
        match self {
            Self::Output => ("output-", ".seg"),
            Self::Errors => ("errors-", ".seg"),
            Self::Journal => ("journal-", ".log"),
            Self::Ahead => ("ahead-", ".wal"),
        }
    }
}

impl ShardFiles {
    pub(in crate::batch) fn path(self, folder: &Path, kind: FileKind) -> PathBuf {
        folder.join(self.name(kind))
    }

    /// A journal that is being written anew.
    pub(super) fn partial_journal(self, folder: &Path) -> PathBuf {
        folder.join(self.name(FileKind::Journal) + PARTIAL)
    }

    fn name(self, kind: FileKind) -> String {
        let (prefix, suffix) = kind.affixes();
        format!("{prefix}{:04}-{:03}{suffix}", self.generation, self.shard)
    }

    fn parse(name: &str) -> Option<Self> {
        FileKind::ALL.into_iter().find_map(|kind| {
            let (prefix, suffix) = kind.affixes();
            let (generation, shard) = name
                .strip_prefix(prefix)?
                .strip_suffix(suffix)?
                .split_once('-')?;
            let files = Self {
                generation: generation.parse().ok()?,
                shard: shard.parse().ok()?,
            };
            // Spelt as we spell it: `+1` and `0000001` are somebody else's.
            (files.name(kind) == name).then_some(files)
        })
    }
}

/// Where the run of these final files keeps its folder: beside the output, or beside the error
/// file if successes are only counted.
pub fn run_folder_path(output: Option<&Path>, errors: &Path) -> PathBuf {
    let mut path = output.unwrap_or(errors).as_os_str().to_os_string();
    path.push(".blaze");
    path.into()
}

/// The shards that have any file in the folder, in order.
pub(super) fn shards(folder: &Path) -> io::Result<Vec<ShardFiles>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(ShardFiles::parse));
    }
    Ok(found.into_iter().collect())
}

/// The first name in the folder that this program does not write.
pub(super) fn foreign(folder: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_ours(&entry.file_name().to_string_lossy()) || entry.file_type()?.is_dir() {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Deletes our files except the lock; the manifest last, because without it the rest is no run.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    let mut manifest = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(MANIFEST) => manifest = Some(entry.path()),
            Some(name) if name != LOCK && is_ours(name) => remove_if_there(&entry.path())?,
            _ => {}
        }
    }
    manifest.map_or(Ok(()), |path| remove_if_there(&path))
}

pub(in crate::batch) fn remove_if_there(path: &Path) -> io::Result<()> {
    match files::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Where a process of the run keeps its figures.
pub(super) fn figures(generation: u32) -> String {
    format!("{FIGURES_PREFIX}{generation:04}{FIGURES_SUFFIX}")
}

/// Where they are written before they replace the last ones.
pub(super) fn figures_partial(figures: &Path) -> PathBuf {
    let mut path = figures.as_os_str().to_os_string();
    path.push(PARTIAL_SUFFIX);
    path.into()
}

/// Whose figures a file holds.
pub(super) fn figures_of(name: &str) -> Option<u32> {
    let generation = name
        .strip_prefix(FIGURES_PREFIX)?
        .strip_suffix(FIGURES_SUFFIX)?;
    let generation = generation.parse().ok()?;
    (figures(generation) == name).then_some(generation)
}

fn is_ours(name: &str) -> bool {
    let fixed = [
        LOCK,
        MANIFEST,
        MANIFEST_PARTIAL,
        MANIFEST_COPY,
        MANIFEST_COPY_PARTIAL,
        SPOOL,
        SPOOL_PARTIAL,
        STOPPED_BY,
        STOPPED_BY_PARTIAL,
        MERGE_INDEX,
        DELIVERY_INDEX,
        OUTPUT_MERGED,
        ERRORS_MERGED,
        PERMISSIONS_PROBE,
    ];
    let whole = name.strip_suffix(PARTIAL_SUFFIX).unwrap_or(name);
    let shard = name.strip_suffix(PARTIAL).unwrap_or(name);
    fixed.contains(&name) || ShardFiles::parse(shard).is_some() || figures_of(whole).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (generation, shard) in [
            (1, 0),
            (12, 34),
            (9999, 999),
            (10_000, 1000),
            (u32::MAX, u32::MAX),
        ] {
            let files = ShardFiles { generation, shard };
            for kind in FileKind::ALL {
                assert_eq!(ShardFiles::parse(&files.name(kind)), Some(files));
            }
        }
        let name = ShardFiles {
            generation: 1,
            shard: 2,
        }
        .name(FileKind::Journal);
        assert_eq!(name, "journal-0001-002.log");
        for name in ["figures-0003.json", "figures-12345.json.partial"] {
            assert!(is_ours(name), "{name}");
        }
        for foreign in [
            "figures-3.json",
            "figures-0003.json.partial.partial",
            "journal-1-2.log",
            "journal-0001-002.seg",
            "output-+001-002.seg",
            "output-0001-002.seg.bak",
            "notes",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn the_folder_lies_beside_the_output_or_the_errors() {
        let check = |output: Option<&str>, expected: &str| {
            assert_eq!(
                run_folder_path(output.map(Path::new), Path::new("d/errors.jsonl")),
                Path::new(expected)
            );
        };
        check(Some("out.jsonl"), "out.jsonl.blaze");
        check(None, "d/errors.jsonl.blaze");
    }
}
