//! Logs: to standard error, as text or JSON lines, around the live block when there is one.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("blaze_uring", level);
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(AroundBlock(block.clone()));
    // An error means that somebody else, such as a test, has started logging already.
    let _ = if json {
        let lines = builder.json().flatten_event(true);
        lines.finish().with(filter).try_init()
    } else {
        builder.with_ansi(false).finish().with(filter).try_init()
    };
}
