//! The command line: which job, and its face.

#![expect(
    clippy::disallowed_methods,
    reason = "the command line reads the environment for everybody else"
)]

pub mod batch;
pub mod demo;
mod dry_run;
pub mod flags;
mod json_progress;
mod line_kinds;
mod live;
mod logging;
mod metrics_server;
mod say;
mod shell;
mod signals;

use std::process::ExitCode;

use crate::config::load_settings;
use crate::mock;
use crate::runtime::{files, process};
use flags::{BatchArgs, Cli, Command};

/// Runs what the process's command line asks for.
pub fn main() -> ExitCode {
    files::ignore_file_size_signal();
    process::explain_cut_mappings();
    // What is wrong with the command line is said in JSON, too.
    say::in_json(say::this_process_asks_for_json());
    let Cli { command, batch } = flags::parse();
    match command {
        None => run_batch(&batch),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Completions { shell }) => shell::completions(shell),
        Some(Command::Man) => shell::man(),
        Some(Command::Mock(args)) => match mock::run(*args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: the trial endpoint could not run: {error}");
                ExitCode::from(batch::EXIT_NOTHING_RAN)
            }
        },
    }
}

fn run_batch(args: &BatchArgs) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    match load_settings(args.config(), None, &args.overrides(), &environment) {
        Ok(settings) => batch::run(settings),
        Err(error) => {
            say::error(&error.to_string());
            ExitCode::from(error.exit_status())
        }
    }
}
