//! Logs: to standard error, as text or JSON lines, around the live block when there is one.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, with the live block lifted for the length of each line.
#[derive(Clone)]
struct AroundBlock(MultiProgress);

impl Write for AroundBlock {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A reader that has gone (`2>&1 | head`) must not end the run: the logger would panic.
        let _ = self.0.suspend(|| io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AroundBlock {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Starts logging; a second call changes nothing. `-v` adds debug, `-vv` trace.
pub fn start(verbose: u8, json: bool, block: &MultiProgress) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::new(format!("warn,blaze_uring={level}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(AroundBlock(block.clone()));
    // An error means that somebody else, such as a test, has started logging already.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
}
