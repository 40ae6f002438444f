//! What a process left behind, read as the next one would: the lines that have their record.

use std::collections::BTreeSet;
use std::path::Path;

use crate::journal::{Outcome, replay};

/// Physical numbers of the lines with a whole record in a run folder; `None`: there is no run that could
/// be resumed by sending. `failures`: theirs, too.
pub fn finished(folder: &Path, failures: bool) -> Option<BTreeSet<u64>> {
    let manifest = std::fs::read(folder.join("manifest.json")).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).ok()?;
    if manifest["phase"] != "running" {
        return None;
    }
    let mut finished = BTreeSet::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let name = entry.ok()?.file_name();
        let name = name.to_str()?;
        let shard = name
            .strip_prefix("journal-")
            .and_then(|name| name.strip_suffix(".log"));
        if let Some(shard) = shard {
            read(folder, shard, failures, &mut finished);
        }
    }
    Some(finished)
}

/// Up to the first entry without its record: what lies behind it does not count.
fn read(folder: &Path, shard: &str, failures: bool, finished: &mut BTreeSet<u64>) {
    let file = |name: String| std::fs::read(folder.join(name)).unwrap_or_default();
    let (output, errors) = (
        file(format!("output-{shard}.seg")),
        file(format!("errors-{shard}.seg")),
    );
    let journal = file(format!("journal-{shard}.log"));
    // Damage is the next process's to tell.
    let Ok(replay) = replay(&journal) else { return };
    for entry in replay.entries() {
        let segment = match entry.outcome {
            Some(Outcome::Success) => &output,
            Some(Outcome::Failure) => &errors,
            None => continue,
        };
        let end = entry.end().and_then(|end| usize::try_from(end).ok());
        let record = end.and_then(|end| segment.get(entry.position as usize..end));
        if record.map(crc32fast::hash) != Some(entry.record_checksum) {
            return;
        }
        if failures || entry.outcome == Some(Outcome::Success) {
            finished.insert(entry.line_number);
        }
    }
}
