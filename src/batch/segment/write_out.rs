//! A segment that may become the output as it is goes to the disk while the run goes on, so that the sync at
//! its end finds little left to do. Nothing depends on it: it is a hint to the kernel, given by a thread of its
//! own, because a disk that is busy lets whoever gives it wait.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, bounded};

use crate::runtime::files;

/// Less than this is not worth a hint: any disk takes it in a moment.
const STEP_BYTES: u64 = 8 << 20;

/// How far the hints have come. The thread starts with the first and ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct WriteOut {
    hints: Option<Sender<Hint>>,
    until: u64,
}

type Hint = (Arc<File>, Range<u64>);

impl WriteOut {
    /// The file has grown to this. While an earlier hint is being given, the next one waits and grows.
    pub(super) fn reached(&mut self, file: &Arc<File>, length: u64) {
        if length.saturating_sub(self.until) < STEP_BYTES {
            return;
        }
        if self.hints.is_none() {
            self.hints = start().ok();
        }
        let hint = (Arc::clone(file), self.until..length);
        if let Some(hints) = &self.hints
            && hints.try_send(hint).is_ok()
        {
            self.until = length;
        }
    }
}

fn start() -> io::Result<Sender<Hint>> {
    let (sender, hints) = bounded::<Hint>(1);
    let builder = thread::Builder::new().name("write-out".to_owned());
    builder.spawn(move || {
        for (file, range) in hints {
            files::begin_writing_out(&file, range);
        }
    })?;
    Ok(sender)
}
