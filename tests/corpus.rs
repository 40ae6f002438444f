//! Replays the fuzzer's seeds, and every cut and flipped byte of them, through the fuzzer's own
//! entry functions: without a nightly toolchain, in every run of the tests.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its files and the clock"
)]

#[path = "fuzz/entries/mod.rs"]
mod entries;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Keeps a clone of the project small.
const CORPUS_BYTES_MAX: u64 = 100 << 10;
/// Cuts and flips of one seed.
const MUTATIONS_MAX: usize = 400;

fn seeds(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut paths: Vec<_> = fs::read_dir(folder.join(name))
        .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

#[track_caller]
fn check(path: &Path, what: &str, entry: fn(&[u8]), data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| entry(data))).is_err() {
        panic!(
            "{}, {what}: {:?}",
            path.display(),
            data.escape_ascii().to_string()
        );
    }
}

#[test]
fn every_seed_holds_whole_cut_and_flipped() {
    let mut bytes = 0;
    for (name, entry) in entries::ENTRIES {
        let paths = seeds(name);
        assert!(paths.len() >= 3, "{name} has seeds");
        for path in paths {
            let data = fs::read(&path).expect("a seed");
            bytes += data.len() as u64;
            check(&path, "whole", entry, &data);
            let every = data.len().div_ceil(MUTATIONS_MAX).max(1);
            for at in (0..data.len()).step_by(every) {
                check(&path, &format!("cut at {at}"), entry, &data[..at]);
                for flip in [0x01, 0x20, 0x80] {
                    let mut flipped = data.clone();
                    flipped[at] ^= flip;
                    check(&path, &format!("byte {at} flipped"), entry, &flipped);
                }
            }
        }
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes of seeds");
}

#[test]
fn every_entry_has_its_target() {
    for (name, _) in entries::ENTRIES {
        let target =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/targets/{name}.rs"));
        let text = fs::read_to_string(&target).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains(&format!("entries::{name}(data)")), "{name}");
    }
}
