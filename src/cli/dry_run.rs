//! `--dry-run`: checks the configuration and every input line, sends nothing, prints what would run.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::batch::input::{Input, LineCursor};
use crate::batch::line::Parsed;
use crate::cli::line_kinds::LineKinds;
use crate::cli::say;
use crate::config::{InputSource, Job, OutputTarget, Rate, WORKERS_MAX};
use crate::processor::{Processor, RunError};

/// Invalid lines listed by number; further ones are counted.
const INVALID_SHOWN: u64 = 100;

/// What a dry run found.
pub struct Checked {
    /// Lines that are requests.
    pub valid: u64,
    /// Lines that would end in a failure record without being sent.
    pub invalid: u64,
}

/// Checks everything a run would check, and all lines; the report goes to `out`.
///
/// # Errors
/// The run could not start.
pub fn check(processor: &Processor, job: &Job, out: &mut dyn Write) -> Result<Checked, RunError> {
    let (input, scan) = processor.inspect(job)?;
    let mut checked = Checked {
        valid: 0,
        invalid: 0,
    };
    let mut parsed = Parsed::default();
    let mut kinds = LineKinds::default();
    let mut released = 0;
    for range in scan.ranges {
        let mut cursor = LineCursor::new(range);
        while let Some(line) = cursor.next(&input) {
            let text = input.line(line.offset);
            let problem = if text.len() > processor.config().max_line_bytes {
                Some(format!("{} bytes, more than --max-line-bytes", text.len()))
            } else {
                parsed.parse(text).err().map(|invalid| invalid.message)
            };
            let Some(problem) = problem else {
                checked.valid += 1;
                kinds.note(line.number, text, &parsed);
                continue;
            };
            checked.invalid += 1;
            if checked.invalid <= INVALID_SHOWN && say::is_in_json() {
                say_invalid(input.path(), line.number, &problem);
            } else if checked.invalid <= INVALID_SHOWN {
                say(
                    out,
                    format_args!("{}:{}: {problem}", input.path().display(), line.number),
                );
            }
        }
        released = input.release_before(released..range.end);
    }
    if checked.invalid > INVALID_SHOWN {
        say(
            out,
            format_args!(
                "… and {} more invalid lines",
                checked.invalid - INVALID_SHOWN
            ),
        );
    }
    describe(processor, job, &input, &checked, out);
    for line in kinds.describe(processor.endpoints()) {
        say(out, format_args!("{line}"));
    }
    if say::is_in_json() {
        say_checked(&input, &checked);
    }
    Ok(checked)
}

fn describe(
    processor: &Processor,
    job: &Job,
    input: &Input,
    checked: &Checked,
    out: &mut dyn Write,
) {
    let config = processor.config();
    say(
        out,
        format_args!(
            "dry run: nothing was sent\n  input     {}: {} lines, {} valid, {} invalid",
            match &job.input {
                InputSource::Stdin => "standard input".to_owned(),
                InputSource::File(_) => input.path().display().to_string(),
            },
            checked.valid + checked.invalid,
            checked.valid,
            checked.invalid,
        ),
    );
    let output = match &job.output {
        Some(OutputTarget::File(path)) => path.display().to_string(),
        Some(OutputTarget::Stdout) => "standard output".to_owned(),
        None => "counted, not kept (no -o)".to_owned(),
    };
    say(
        out,
        format_args!("  output    {output}\n  errors    {}", job.errors.display()),
    );
    let rate = match config.request.rate_limit {
        Rate::Unlimited => "no limit".to_owned(),
        Rate::PerSecond(rate) => format!("{rate} requests/s"),
        Rate::Auto => "found automatically".to_owned(),
    };
    let workers = config.request.workers;
    say(
        out,
        format_args!(
            "  traffic   {rate}, up to {workers} in flight, {} attempts, {:?} timeout",
            config.retry.max_attempts, config.request.timeout,
        ),
    );
    for endpoint in processor.endpoints() {
        say(
            out,
            format_args!(
                "  endpoint  {}: weight {}, {}model {}",
                endpoint.name,
                endpoint.weight,
                match endpoint.max_concurrent {
                    WORKERS_MAX.. => String::new(),
                    most => format!("at most {most} in flight, "),
                },
                endpoint.model().unwrap_or("as in the line"),
            ),
        );
    }
}

fn say(out: &mut dyn Write, line: std::fmt::Arguments<'_>) {
    // Nobody reads the report any more: the exit status still tells.
    let _ = writeln!(out, "{line}");
}

fn say_invalid(path: &Path, line_number: u64, problem: &str) {
    let fields = json!({"path": path.to_string_lossy(), "line_number": line_number});
    if let Value::Object(fields) = fields {
        say::object("WARN", problem, fields);
    }
}

/// The last line in JSON.
fn say_checked(input: &Input, checked: &Checked) {
    let fields = json!({
        "status": "dry_run",
        "input": input.path().to_string_lossy(),
        "lines": checked.valid + checked.invalid,
        "valid": checked.valid,
        "invalid": checked.invalid,
    });
    if let Value::Object(fields) = fields {
        say::object("INFO", "dry run: nothing was sent", fields);
    }
}
