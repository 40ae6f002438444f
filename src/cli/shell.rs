//! What shells and manuals are told about the command line: completions and a man page, both made of the
//! same definition as `--help`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::Shell;

use super::batch::EXIT_NOTHING_RAN;
use super::flags;

/// Writes the completions of `shell` to standard output.
pub fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    let mut command = flags::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Writes the man page, in roff, to standard output.
pub fn man() -> ExitCode {
    let mut page = Vec::new();
    match clap_mangen::Man::new(flags::command()).render(&mut page) {
        Ok(()) => print(&page),
        Err(error) => failed(&error),
    }
}

/// At once: who closes the pipe early (`| head`) has what he wanted.
fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn failed(error: &io::Error) -> ExitCode {
    // Nobody may listen there, either.
    let _ = writeln!(
        io::stderr(),
        "error: cannot write to standard output: {error}"
    );
    ExitCode::from(EXIT_NOTHING_RAN)
}
