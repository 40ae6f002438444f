//! The face of the main job: configuration, signals, display, summary, exit status.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::MultiProgress;

use crate::batch::coordinator::{Observer, Stopped};
use crate::batch::progress::PlainLines;
use crate::cli::json_progress::{JsonProgress, Stops};
use crate::cli::live::{self, LiveBlock};
use crate::cli::metrics_server::MetricsServer;
use crate::cli::{dry_run, logging, say, signals};
use crate::config::{Config, Console, Job, OutputTarget, Settings};
use crate::metrics::{Snapshot, prometheus};
use crate::processor::{Interrupt, ProcessingResult, Processor, RunError};

/// Exit statuses, as docs/CONFIGURATION.md lists them.
pub const EXIT_NOTHING_RAN: u8 = 1;
const EXIT_SOME_FAILED: u8 = 3;
const EXIT_STOPPED: u8 = 4;

/// Runs a batch as flags, environment and file describe it.
pub fn run(settings: Settings) -> ExitCode {
    let Settings {
        config,
        job,
        console,
        notes,
    } = settings;
    say::in_json(console.json_logs);
    let block = live::block();
    logging::start(console.verbose, console.json_logs, &block);
    for note in notes {
        tracing::info!("{note}");
    }
    match try_run(config, &job, &console, &block) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            say::error(&error.to_string());
            ExitCode::from(EXIT_NOTHING_RAN)
        }
    }
}

fn try_run(
    config: Config,
    job: &Job,
    console: &Console,
    block: &MultiProgress,
) -> Result<u8, RunError> {
    let processor = Processor::new(config)?;
    if job.dry_run {
        let checked = dry_run::check(&processor, job, &mut say::Report)?;
        return Ok(if checked.invalid > 0 {
            EXIT_SOME_FAILED
        } else {
            0
        });
    }
    let (interrupt, interrupts) = Interrupt::channel();
    if let Err(error) = signals::connect(interrupt, block.clone()) {
        tracing::warn!("signals will end the run without grace: {error}");
    }
    let server = match console.metrics_addr {
        Some(address) => Some(
            MetricsServer::start(address)
                .map_err(|error| RunError::Setup(format!("--metrics-addr {address}: {error}")))?,
        ),
        None => None,
    };
    if let Some(server) = &server {
        tracing::info!("metrics at http://{}/metrics", server.address());
    }
    let mut display = Display {
        progress: progress(job, console, block),
        server,
    };
    let result = processor.run(job, &mut display, &interrupts)?;
    drop(display);
    show_summary(&result, job, console);
    Ok(exit_status(&result))
}

/// The live block on a terminal, lines elsewhere, and where records share the terminal.
fn progress(job: &Job, console: &Console, block: &MultiProgress) -> Box<dyn Observer> {
    let records_are_shown = job.output == Some(OutputTarget::Stdout) && io::stdout().is_terminal();
    if console.no_progress {
        Box::new(Stops::default())
    } else if console.json_logs {
        Box::new(JsonProgress::default())
    } else if io::stderr().is_terminal() && !records_are_shown {
        Box::new(LiveBlock::new(block.clone()))
    } else {
        Box::new(PlainLines::default())
    }
}

struct Display {
    progress: Box<dyn Observer>,
    server: Option<MetricsServer>,
}

impl Observer for Display {
    fn tick(&mut self, snapshot: &Snapshot) {
        self.progress.tick(snapshot);
        if let Some(server) = &self.server {
            server.publish(prometheus::render(snapshot));
        }
    }
}

/// For people on standard error; with `--json-logs` one JSON line, on standard output unless the
/// records go there.
fn show_summary(result: &ProcessingResult, job: &Job, console: &Console) {
    if !console.json_logs {
        result.print_summary();
        return;
    }
    let line = serde_json::to_string(&result.summary).expect("a summary has string keys only");
    say::line(&line);
    if job.output != Some(OutputTarget::Stdout) {
        // Nobody reads it any more: the same line is on standard error.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

fn exit_status(result: &ProcessingResult) -> u8 {
    match &result.stopped {
        Some(Stopped::Interrupted | Stopped::ReaderGone) => signals::EXIT_INTERRUPTED,
        Some(_) => EXIT_STOPPED,
        None if result.summary.failure_count > 0 => EXIT_SOME_FAILED,
        None => 0,
    }
}
