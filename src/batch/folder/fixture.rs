//! Runs made by hand, for the tests of folder, segments and merge.

use std::path::{Path, PathBuf};

use super::{FileKind, InputIdentity, Manifest, Opened, RunFolder, ShardFiles};
use crate::batch::segment::{NewEntry, ShardLog};
use crate::config::{Durability, Format};
use crate::journal::{Outcome, Tokens};

/// A temporary folder with the names a run uses.
pub(in crate::batch) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(in crate::batch) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// In memory, where the system has a place for it.
    pub(in crate::batch) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self {
            folder: folder.expect("a temporary folder"),
        }
    }

    pub(in crate::batch) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(in crate::batch) fn run(&self) -> PathBuf {
        self.at("out.jsonl.blaze")
    }

    pub(in crate::batch) fn shard_file(
        &self,
        kind: FileKind,
        generation: u32,
        shard: u32,
    ) -> PathBuf {
        ShardFiles { generation, shard }.path(&self.run(), kind)
    }

    pub(in crate::batch) fn open(&self) -> Opened {
        RunFolder::open_or_create(&self.run(), manifest(), false).expect("a run folder")
    }

    /// A process that finishes lines, one list for each shard, and ends properly.
    pub(in crate::batch) fn process(&self, shards: &[&[(u64, Outcome)]]) {
        let opened = self.open();
        for (shard, lines) in shards.iter().enumerate() {
            let mut log = log(&opened.folder, shard);
            for &(number, outcome) in *lines {
                log.append(entry(number, outcome), record(number, outcome).as_bytes());
            }
            log.finish().expect("space");
        }
    }
}

pub(in crate::batch) fn manifest() -> Manifest {
    Manifest {
        input: InputIdentity {
            path: "in.jsonl".to_owned(),
            size: 1000,
            mtime_ns: 5,
            fingerprint: "0a".repeat(16),
        },
        format: Format::Auto,
        max_line_bytes: 64 << 20,
        has_output: true,
        overwrite: false,
        created_us: 1_700_000_000_000_000,
    }
}

pub(in crate::batch) fn log(folder: &RunFolder, shard: usize) -> ShardLog {
    ShardLog::create(
        folder,
        folder.generation(),
        shard,
        true,
        Durability::Process,
    )
    .expect("a shard log")
}

pub(in crate::batch) fn entry(line_number: u64, outcome: Outcome) -> NewEntry {
    NewEntry {
        line_offset: line_number * 100,
        line_number,
        completed_us: 1_700_000_000_000_000 + line_number,
        outcome,
        attempts: 2,
        tokens: Tokens {
            prompt: 10,
            completion: 20,
            cached: 5,
        },
        cost_nano_usd: 7,
    }
}

/// Of varying length, and the same whoever writes it.
pub(in crate::batch) fn record(line_number: u64, outcome: Outcome) -> String {
    format!(
        "{{\"line\":{line_number},\"outcome\":\"{outcome:?}\",\"pad\":\"{}\"}}\n",
        "x".repeat((line_number % 17) as usize)
    )
}

pub(in crate::batch) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).expect("a file");
}

pub(in crate::batch) fn cut(path: &Path, length: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("a file");
    file.set_len(length).expect("a shorter file");
}
