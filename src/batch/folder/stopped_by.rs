//! `stopped-by.json`: the lines for whose answers earlier processes of the run have stopped.
//!
//! One line's answer may stop a run: a key that is refused, five lines in a row that are. If the line itself
//! is at fault, the same command would meet it, and stop, again and again. So the next process knows these
//! lines, and takes what they meet then for their own failure. Those that had no money go last.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::name;
use crate::batch::storage_error::StorageError;
use crate::runtime::files;

/// Physical line numbers, from 1. Lines that have got a record since may be among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoppedBy {
    /// An endpoint refused its key, its path or the line in the answers to these, and was taken out.
    #[serde(default)]
    pub refused: BTreeSet<u64>,
    /// An endpoint had no money for these.
    #[serde(default)]
    pub unpaid: BTreeSet<u64>,
}

impl StoppedBy {
    /// Nothing has stopped the run.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.unpaid.is_empty()
    }

    /// Whether a process has stopped for this line.
    pub fn has(&self, number: u64) -> bool {
        self.refused.contains(&number) || self.unpaid.contains(&number)
    }

    /// These and `others`.
    pub fn add(&mut self, others: &Self) {
        self.refused.extend(&others.refused);
        self.unpaid.extend(&others.unpaid);
    }

    /// Forgets lines: they are sent as if nothing had been known of them.
    pub fn forget(&mut self, is_forgotten: impl Fn(u64) -> bool) {
        self.refused.retain(|&number| !is_forgotten(number));
        self.unpaid.retain(|&number| !is_forgotten(number));
    }

    /// What the folder says. Without the file, or with one that nobody understands, nothing is known: then
    /// the run may stop once more for the same lines.
    pub(super) fn read(folder: &Path) -> Self {
        let Ok(text) = fs::read(folder.join(name::STOPPED_BY)) else {
            return Self::default();
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            let name = name::STOPPED_BY;
            tracing::warn!("{name} in the run folder is passed over: {error}");
            Self::default()
        })
    }

    /// Replaces the file in one step.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StorageError> {
        let partial = folder.join(name::STOPPED_BY_PARTIAL);
        let mut text = serde_json::to_vec(self)
            .map_err(|error| StorageError::io(&partial, "encode")(error.into()))?;
        text.push(b'\n');
        let write = || {
            name::remove_if_there(&partial)?;
            let file = files::create_private(&partial)?;
            files::write_all_at(&file, &text, 0)?;
            files::sync_all(&file)?;
            files::rename(&partial, &folder.join(name::STOPPED_BY))?;
            files::sync_directory(folder)
        };
        write().map_err(|error| StorageError::new(&partial, "write", text.len() as u64, error))
    }
}
