//! `figures-GGGG.json`: what a process of the run counted, for the summaries of those that resume. Worth
//! nothing but for that: what cannot be read is passed over, what cannot be written is not missed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{RunFolder, name};
use crate::metrics::Figures;
use crate::runtime::files;

/// How often they are written.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// The file's layout.
#[derive(Serialize, Deserialize)]
struct Stored<F> {
    run_id: String,
    figures: F,
}

/// Keeps the figures of this process in its run folder.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    generation: u32,
    run_id: String,
    sends_failures_again: bool,
    due: Instant,
}

impl Keeper {
    /// Nothing is written in the first second.
    pub fn new(folder: &RunFolder, sends_failures_again: bool, now: Instant) -> Self {
        Self {
            folder: folder.path().to_path_buf(),
            generation: folder.generation(),
            run_id: hex(folder.run_id()),
            sends_failures_again,
            due: now + KEEP_EVERY,
        }
    }

    /// Whether it is time to keep them again.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.due = now + KEEP_EVERY;
        }
        is_due
    }

    /// Replaces what was kept.
    pub fn keep(&self, figures: Figures) {
        let stored = Stored {
            run_id: self.run_id.clone(),
            figures: Figures {
                sends_failures_again: self.sends_failures_again,
                ..figures
            },
        };
        let path = self.folder.join(name::figures(self.generation));
        if let Err(error) = write(&path, &stored) {
            tracing::debug!("cannot write {}: {error}", path.display());
        }
    }
}

fn write(path: &Path, stored: &Stored<Figures>) -> std::io::Result<()> {
    let text = serde_json::to_vec(stored)?;
    let partial = name::figures_partial(path);
    name::remove_if_there(&partial)?;
    let file = files::create_private(&partial)?;
    files::write_all_at(&file, &text, 0)?;
    files::rename(&partial, path)
}

impl RunFolder {
    /// What earlier processes of the run counted, in their order.
    pub fn earlier_figures(&self) -> Vec<Figures> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            let generation = entry.file_name().to_str().and_then(name::figures_of);
            let Some(generation) = generation else {
                continue;
            };
            let stored = fs::read(entry.path())
                .ok()
                .and_then(|text| serde_json::from_slice::<Stored<Figures>>(&text).ok())
                .filter(|stored| stored.run_id == hex(self.run_id()));
            found.extend(stored.map(|stored| (generation, stored.figures)));
        }
        found.sort_by_key(|(generation, _)| *generation);
        found.into_iter().map(|(_, figures)| figures).collect()
    }
}

fn hex(run_id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(run_id))
}
