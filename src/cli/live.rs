//! The live block on a terminal.

use std::io;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::batch::coordinator::Observer;
use crate::batch::progress::{self, Pace};
use crate::metrics::Snapshot;

/// Columns at the right edge that stay free. The block's library leaves the cursor behind its last row; a
/// terminal writes `^C` there, which must not begin a new row: the block would not find its first one again.
const FREE_COLUMNS: u16 = 4;
/// The narrowest block; a terminal that does not tell its size has none to tell.
const COLUMNS_MIN: u16 = 20;
/// Draws per second.
const REFRESH_HZ: u8 = 20;

/// A block for standard error: on a terminal, else invisible.
pub fn block() -> MultiProgress {
    let term = Term::stderr();
    MultiProgress::with_draw_target(match term.is_term() {
        true => ProgressDrawTarget::term_like_with_hz(Box::new(Narrow(term)), REFRESH_HZ),
        false => ProgressDrawTarget::hidden(),
    })
}

/// A terminal but for its last columns.
#[derive(Debug)]
struct Narrow(Term);

impl Narrow {
    fn columns(term: &Term) -> u16 {
        term.size().1.saturating_sub(FREE_COLUMNS).max(COLUMNS_MIN)
    }
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        Self::columns(&self.0)
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Redraws the block at every tick and clears it at the end; log lines go above it.
pub struct LiveBlock {
    block: MultiProgress,
    term: Term,
    rows: Vec<ProgressBar>,
    pace: Pace,
}

impl LiveBlock {
    /// A block that shares the terminal with the log.
    pub fn new(block: MultiProgress) -> Self {
        Self {
            block,
            term: Term::stderr(),
            rows: Vec::new(),
            pace: Pace::default(),
        }
    }
}

impl Observer for LiveBlock {
    fn tick(&mut self, snapshot: &Snapshot) {
        let current = self.pace.current(snapshot);
        let (rows, columns) = (self.term.size().0, Narrow::columns(&self.term));
        // One row stays for what stands above.
        let rows_max = usize::from(rows.saturating_sub(1)).max(1);
        let texts = progress::block(snapshot, current, usize::from(columns), rows_max);
        while self.rows.len() < texts.len() {
            // `wide_msg` cuts a row at the terminal's width instead of wrapping it.
            let style = ProgressStyle::with_template("{wide_msg}")
                .expect("a constant template that indicatif knows");
            let row = self.block.add(ProgressBar::new_spinner());
            row.set_style(style);
            self.rows.push(row);
        }
        for unused in self.rows.drain(texts.len()..) {
            unused.finish_and_clear();
            self.block.remove(&unused);
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
