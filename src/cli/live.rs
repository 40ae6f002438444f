//! The live block on a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::batch::coordinator::Observer;
use crate::batch::progress::{self, Pace};
use crate::metrics::Snapshot;

/// Redraws the block at every tick and clears it at the end; log lines go above it.
pub struct LiveBlock {
    block: MultiProgress,
    rows: Vec<ProgressBar>,
    pace: Pace,
}

impl LiveBlock {
    /// A block that shares the terminal with the log.
    pub fn new(block: MultiProgress) -> Self {
        Self {
            block,
            rows: Vec::new(),
            pace: Pace::default(),
        }
    }
}

impl Observer for LiveBlock {
    fn tick(&mut self, snapshot: &Snapshot) {
        let current = self.pace.current(snapshot);
        let texts = progress::block(snapshot, current);
        while self.rows.len() < texts.len() {
            // `wide_msg` cuts a row at the terminal's width instead of wrapping it.
            let style = ProgressStyle::with_template("{wide_msg}")
                .expect("a constant template that indicatif knows");
            let row = self.block.add(ProgressBar::new_spinner());
            row.set_style(style);
            self.rows.push(row);
        }
        for (row, text) in self.rows.iter().zip(texts) {
            row.set_message(text);
        }
    }
}

impl Drop for LiveBlock {
    fn drop(&mut self) {
        for row in &self.rows {
            row.finish_and_clear();
        }
        // A terminal that is gone needs no clearing.
        let _ = self.block.clear();
    }
}
