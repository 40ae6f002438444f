//! The command line: flags, their `BLAZE_…` variables, and what they say as one layer of settings.
//! Pure: arguments and environment come in as values; [`parse`] alone asks the process.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::demo::DemoArgs;
use crate::cli::say;
use crate::config::{
    API_KEY_VARIABLE, Durability, Format, Given, InputSource, Order, Origin, OutputTarget,
    Overrides, Rate, RuntimeChoice, Secret, Workers, parse_boolean, parse_bytes, parse_duration,
    parse_socket_address,
};
pub use crate::config::{Console, Job};
use crate::mock::MockArgs;

/// Every flag's variable begins with this, then its long name in capitals with underscores.
const VARIABLE_PREFIX: &str = "BLAZE_";

/// Levels of logging beyond which nothing changes.
const VERBOSITY_MAX: usize = 9;

const ENDPOINTS: &str = "Endpoints";
const FILES: &str = "Files";
const TRAFFIC: &str = "Traffic";
const LIMITS: &str = "Limits";
const ENGINE: &str = "Engine";
const EXISTING: &str = "What is already there";
const CONSOLE: &str = "Logs and progress";

const AFTER_HELP: &str = "\
Examples:
  BLAZE_API_KEY=sk-… blaze-uring -i requests.jsonl -o results.jsonl \\
      --endpoint-url https://api.openai.com/v1 --model gpt-4o-mini
  blaze-uring -c endpoints.json -i requests.jsonl -o results.jsonl --retry-errors

A line of the input is one of:
  {\"input\": \"Why is the sky blue?\", \"id\": 7}                  wrapped for the endpoint's API
  {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}      an API body, sent as it is
  {\"body\": {\"messages\": […]}, \"headers\": {\"x-team\": \"a\"}}  a body in a line of your own
  {\"custom_id\": \"r1\", \"url\": \"/v1/embeddings\", \"body\": {…}}  a line of OpenAI's Batch API
Your other fields come back in the record.

Every flag can be given as an environment variable: BLAZE_ and its long name, as BLAZE_MAX_ATTEMPTS.
A flag beats the environment, which beats the config file, which beats the default.
The key of --endpoint-url comes from BLAZE_API_KEY alone.
Times are seconds, or written with a unit: 100ms, 30s, 2m, 1h.

Exit status: 0 every line succeeded; 1 nothing could run; 2 usage; 3 finished, some lines failed;
4 stopped and can be resumed; 130 interrupted and can be resumed.";

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Cli {
    /// Another job than the batch.
    pub command: Option<Command>,
    /// The batch's flags and variables; empty where there is a `command`.
    pub batch: BatchArgs,
}

/// The jobs besides the batch, which needs no subcommand.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a small batch end to end against a built-in endpoint: no key, no network
    Demo(DemoArgs),
    /// Serve a trial endpoint on loopback: deterministic replies, latency and faults
    Mock(Box<MockArgs>),
    /// Print a completion script, as `source <(blaze-uring completions bash)` in ~/.bashrc
    Completions {
        /// The shell it is for
        shell: Shell,
    },
    /// Print the man page, as `blaze-uring man | man -l -`
    Man,
}

/// The batch's flags and the environment's answers to the same names, not yet merged.
#[derive(Debug, Default)]
pub struct BatchArgs {
    flags: BatchFlags,
    environment: BatchFlags,
}

impl BatchArgs {
    /// The config file, by flag or by `BLAZE_CONFIG`.
    pub fn config(&self) -> Option<&std::path::Path> {
        self.flags
            .config
            .as_deref()
            .or(self.environment.config.as_deref())
    }

    /// Flags over environment, each value with the name of where it was given.
    pub fn overrides(&self) -> Overrides {
        let flag = |long: &str| Origin::Flag(format!("--{long}"));
        let variable = |long: &str| Origin::Environment(variable_name(long));
        self.flags
            .layer(&flag)
            .over(self.environment.layer(&variable))
    }
}

/// The process's own command line and environment. Prints and exits (status 2, or 0 for `--help`
/// and `--version`) where there is nothing to return.
pub fn parse() -> Cli {
    try_parse_from(std::env::args_os(), std::env::vars_os()).unwrap_or_else(|error| refuse(&error))
}

/// Ends the process with what is wrong with its command line, or with the help that it asks for.
fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() || !say::is_in_json() {
        error.exit();
    }
    let text = error.render().to_string();
    let text = text.trim();
    say::error(text.strip_prefix("error: ").unwrap_or(text));
    std::process::exit(error.exit_code());
}

/// The command line `arguments`, the program's name first, and the `variables` of the environment. An
/// empty variable counts as not set; one that begins with `BLAZE_` and is nobody's is an error. Fails
/// with a message ready to print.
pub fn try_parse_from(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Cli, clap::Error> {
    let matches = command()
        .try_get_matches_from(arguments)
        .map_err(explain_stray_file)?;
    let Root {
        command,
        batch: flags,
    } = Root::from_arg_matches(&matches)?;
    let environment = match command {
        // A stray variable for the batch must not stop another job.
        Some(_) => BatchFlags::default(),
        None => read_environment(variables.into_iter().collect())?,
    };
    Ok(Cli {
        command,
        batch: BatchArgs { flags, environment },
    })
}

/// The clap command, each flag's help naming its variable.
pub fn command() -> clap::Command {
    Root::command().mut_args(|argument| {
        let Some(long) = argument.get_long() else {
            return argument;
        };
        let variable = variable_name(long);
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        argument.help(format!("{help} [env: {variable}]"))
    })
}

/// `blaze-uring requests.jsonl` says which flag is missing.
fn explain_stray_file(error: clap::Error) -> clap::Error {
    let stray = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg]
        .into_iter()
        .find_map(|kind| error.get(kind));
    let Some(ContextValue::String(stray)) = stray else {
        return error;
    };
    // Anything else may be a misspelt command or flag, of which clap knows more.
    if stray.starts_with('-') || !stray.contains(['.', '/', '\\']) {
        return error;
    }
    let stray = stray.escape_debug();
    let is_config = [".toml", ".yaml", ".yml"]
        .iter()
        .any(|end| stray.to_string().ends_with(end));
    let (flag, example) = match is_config {
        true => (
            "-c",
            format!("-c {stray} -i requests.jsonl -o results.jsonl"),
        ),
        false => ("-i", format!("-i {stray} -o results.jsonl")),
    };
    let message = format!(
        "{stray} stands alone; a file is given with its flag, {flag}: blaze-uring {example}"
    );
    command().error(ErrorKind::UnknownArgument, message)
}

/// Each variable is read as its flag would be, so both take the same spellings. clap's own
/// support for variables reads the process's environment, and cannot tell the two layers apart.
fn read_environment(
    mut variables: BTreeMap<OsString, OsString>,
) -> Result<BatchFlags, clap::Error> {
    variables.retain(|name, value| is_ours(name) && !value.is_empty());
    let flags = BatchFlags::augment_args(clap::Command::new("environment").no_binary_name(true));
    let mut arguments = Vec::new();
    let mut known = vec![API_KEY_VARIABLE.to_owned()];
    for argument in flags.get_arguments() {
        let Some(long) = argument.get_long() else {
            continue;
        };
        let variable = variable_name(long);
        let value = variables.get(OsStr::new(&variable));
        known.push(variable.clone());
        let Some(value) = value else {
            continue;
        };
        let given = if matches!(argument.get_action(), ArgAction::Count) {
            vec![OsString::from(format!("--{long}")); count(&variable, value)?]
        } else {
            let mut assignment = OsString::from(format!("--{long}="));
            assignment.push(value);
            vec![assignment]
        };
        // One at a time first, so that a complaint can name the variable.
        if let Err(error) = flags.clone().try_get_matches_from(&given) {
            let reason = error
                .source()
                .map_or("cannot be used".to_owned(), ToString::to_string);
            return Err(wrong_variable(&variable, value, &reason));
        }
        arguments.extend(given);
    }
    let unknown = |name: &&OsString| !known.iter().any(|known| ***name == **known);
    if let Some(name) = variables.keys().find(unknown) {
        return Err(unknown_variable(&name.to_string_lossy(), &known));
    }
    let matches: ArgMatches = flags.try_get_matches_from(arguments)?;
    BatchFlags::from_arg_matches(&matches)
}

/// `BLAZE_VERBOSE`: how many `-v`s, or a boolean for one or none.
fn count(variable: &str, value: &OsStr) -> Result<usize, clap::Error> {
    let text = value.to_str().unwrap_or_default();
    if let Ok(number @ 0..=VERBOSITY_MAX) = text.parse() {
        return Ok(number);
    }
    parse_boolean(text).map(usize::from).map_err(|_| {
        wrong_variable(
            variable,
            value,
            "expected a number from 0 to 9, true or false",
        )
    })
}

fn wrong_variable(variable: &str, value: &OsStr, reason: &str) -> clap::Error {
    // What is not text is not repeated: it might be a URL with credentials.
    let value = value
        .to_str()
        .map(|text| format!(" {text:?}"))
        .unwrap_or_default();
    let message = format!("invalid value{value} for {variable}: {reason}");
    command().error(ErrorKind::ValueValidation, message)
}

/// A typo in a variable would otherwise leave its setting at the default, and nobody would know.
fn unknown_variable(name: &str, known: &[String]) -> clap::Error {
    let own = |name: &str| name[VARIABLE_PREFIX.len()..].to_owned();
    let likeness = |known: &str| strsim::jaro_winkler(&own(known), &own(name).to_ascii_uppercase());
    let nearest = known
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .map(|nearest| format!("; the nearest is {nearest}"))
        .unwrap_or_default();
    let message = format!(
        "unknown environment variable {}{nearest} (--help lists all; unset what is not meant for blaze-uring)",
        name.escape_debug(),
    );
    command().error(ErrorKind::UnknownArgument, message)
}

fn is_ours(variable: &OsStr) -> bool {
    (variable.as_encoded_bytes()).starts_with(VARIABLE_PREFIX.as_bytes())
}

fn variable_name(long: &str) -> String {
    format!(
        "{VARIABLE_PREFIX}{}",
        long.to_ascii_uppercase().replace('-', "_")
    )
}

fn input_source() -> impl TypedValueParser<Value = InputSource> {
    OsStringValueParser::new().map(|text| InputSource::from(&*text))
}

fn output_target() -> impl TypedValueParser<Value = OutputTarget> {
    OsStringValueParser::new().map(|text| OutputTarget::from(&*text))
}

fn secret() -> impl TypedValueParser<Value = Secret> {
    StringValueParser::new().map(Secret::from)
}

#[derive(Debug, Parser)]
#[command(
    name = "blaze-uring",
    version,
    about = "Sends every line of a JSONL file to LLM HTTP endpoints; every line ends in exactly one record",
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    override_usage = "blaze-uring -i FILE [-o FILE] [-c FILE | --endpoint-url URL] [OPTIONS]\n       blaze-uring <COMMAND>"
)]
struct Root {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    batch: BatchFlags,
}

/// One layer as clap reads it. Nothing has a default here: a default would hide the config file.
#[derive(Clone, Debug, Default, Args)]
struct BatchFlags {
    /// JSONL requests; - is standard input
    #[arg(short, long, alias = "requests_filepath", value_name = "FILE", help_heading = FILES, value_parser = input_source())]
    input: Option<InputSource>,
    /// Successes; - is standard output [default: counted, not kept]
    #[arg(short, long, alias = "save_filepath", value_name = "FILE", help_heading = FILES, value_parser = output_target())]
    output: Option<OutputTarget>,
    /// Failures [default: errors.jsonl]
    #[arg(short, long, value_name = "FILE", help_heading = FILES)]
    errors: Option<PathBuf>,
    /// Order of records in the final files: input or completion [default: input]
    #[arg(long, value_name = "ORDER", help_heading = FILES)]
    order: Option<Order>,
    /// Record format: auto, blaze or openai [default: auto]
    #[arg(long, value_name = "FORMAT", help_heading = FILES)]
    format: Option<Format>,
    /// Longest input line, in bytes or as 64MiB; a longer one is a failure record [default: 64MiB]
    #[arg(long, value_name = "BYTES", help_heading = FILES, value_parser = parse_bytes, allow_negative_numbers = true)]
    max_line_bytes: Option<usize>,

    /// Endpoints and settings: .json, .toml, .yaml or .yml
    #[arg(short, long, value_name = "FILE", help_heading = ENDPOINTS)]
    config: Option<PathBuf>,
    /// A single endpoint without a file, instead of the file's; its key comes from BLAZE_API_KEY
    #[arg(long, value_name = "URL", help_heading = ENDPOINTS, value_parser = secret())]
    endpoint_url: Option<Secret>,
    /// Model of that endpoint, or instead of those of the file's
    #[arg(long, value_name = "NAME", help_heading = ENDPOINTS)]
    model: Option<String>,
    /// Certificates to trust besides the built-in roots; SSL_CERT_FILE is trusted as well
    #[arg(long, value_name = "PEM", help_heading = ENDPOINTS)]
    ca_file: Option<PathBuf>,

    /// Requests per second over all cores and endpoints, retries included; 0: no limit, auto: find it [default: 1000]
    #[arg(short, long, alias = "max_requests_per_second", value_name = "N", help_heading = TRAFFIC, allow_negative_numbers = true)]
    rate: Option<Rate>,
    /// Most requests in flight over all cores, a ceiling: below it the number follows what the endpoints take [default: auto, up to 4096]
    #[arg(short, long, value_name = "N", help_heading = TRAFFIC, allow_negative_numbers = true)]
    workers: Option<Workers>,
    /// One attempt, connect to last byte [default: 30]
    #[arg(short, long, value_name = "SECS", help_heading = TRAFFIC, value_parser = parse_duration, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Attempts per line, the first included [default: 3]
    #[arg(short = 'a', long, alias = "max_attempts", value_name = "N", help_heading = TRAFFIC, allow_negative_numbers = true)]
    max_attempts: Option<u32>,

    /// How long every endpoint may be out before the run stops [default: 60; 5 if nothing ever succeeded]
    #[arg(long, value_name = "SECS", help_heading = LIMITS, value_parser = parse_duration, allow_negative_numbers = true)]
    max_outage: Option<Duration>,
    /// Stop before spending more; needs prices in the config file [default: none]
    #[arg(long, value_name = "USD", help_heading = LIMITS, allow_negative_numbers = true)]
    max_cost: Option<f64>,
    /// Longest response body, in bytes or as 64MiB; a longer one is a failure [default: 64MiB]
    #[arg(long, value_name = "BYTES", help_heading = LIMITS, value_parser = parse_bytes, allow_negative_numbers = true)]
    max_response_bytes: Option<usize>,
    /// How long requests in flight may finish after Ctrl-C or SIGTERM [default: 10]
    #[arg(long, value_name = "SECS", help_heading = LIMITS, value_parser = parse_duration, allow_negative_numbers = true)]
    grace: Option<Duration>,

    /// Threads, each pinned to a core [default: all available]
    #[arg(long, value_name = "N", help_heading = ENGINE, allow_negative_numbers = true)]
    cores: Option<usize>,
    /// auto, uring or tokio; auto takes io_uring where the kernel allows it [default: auto]
    #[arg(long, value_name = "RUNTIME", help_heading = ENGINE)]
    runtime: Option<RuntimeChoice>,
    /// What a finished record survives: process (kill -9) or power (power loss) [default: process]
    #[arg(long, value_name = "LEVEL", help_heading = ENGINE)]
    durability: Option<Durability>,

    /// Replace an existing finished output
    #[arg(long, value_name = "BOOL", help_heading = EXISTING, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    overwrite: Option<bool>,
    /// Throw away an unfinished run and start again
    #[arg(long, value_name = "BOOL", help_heading = EXISTING, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    fresh: Option<bool>,
    /// Resume from a damaged run folder: keep every record that is whole, send the others' lines again
    #[arg(long, value_name = "BOOL", help_heading = EXISTING, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    salvage: Option<bool>,
    /// Send the lines of the error file again; what succeeds moves to the output
    #[arg(long, value_name = "BOOL", help_heading = EXISTING, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    retry_errors: Option<bool>,
    /// Validate config and input, send nothing, print what would run
    #[arg(long, value_name = "BOOL", help_heading = EXISTING, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<bool>,

    /// Serve Prometheus metrics during the run [default: none]
    #[arg(long, value_name = "HOST:PORT", help_heading = CONSOLE, value_parser = parse_socket_address)]
    metrics_addr: Option<SocketAddr>,
    /// Log more; twice for still more
    #[arg(short, long, help_heading = CONSOLE, action = ArgAction::Count)]
    verbose: u8,
    /// Logs and the summary as JSON lines
    #[arg(long, value_name = "BOOL", help_heading = CONSOLE, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json_logs: Option<bool>,
    /// No live block, no progress lines
    #[arg(long, value_name = "BOOL", help_heading = CONSOLE, value_parser = parse_boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_progress: Option<bool>,
}

impl BatchFlags {
    /// `config` is no setting: it says where settings are.
    fn layer(&self, origin: &dyn Fn(&str) -> Origin) -> Overrides {
        fn give<T: Clone>(value: &Option<T>, origin: Origin) -> Option<Given<T>> {
            value.clone().map(|value| Given { value, origin })
        }
        let verbose = (self.verbose > 0).then_some(self.verbose);
        Overrides {
            input: give(&self.input, origin("input")),
            output: give(&self.output, origin("output")),
            errors: give(&self.errors, origin("errors")),
            rate: give(&self.rate, origin("rate")),
            workers: give(&self.workers, origin("workers")),
            timeout: give(&self.timeout, origin("timeout")),
            max_attempts: give(&self.max_attempts, origin("max-attempts")),
            endpoint_url: give(&self.endpoint_url, origin("endpoint-url")),
            model: give(&self.model, origin("model")),
            cores: give(&self.cores, origin("cores")),
            runtime: give(&self.runtime, origin("runtime")),
            order: give(&self.order, origin("order")),
            format: give(&self.format, origin("format")),
            overwrite: give(&self.overwrite, origin("overwrite")),
            fresh: give(&self.fresh, origin("fresh")),
            salvage: give(&self.salvage, origin("salvage")),
            retry_errors: give(&self.retry_errors, origin("retry-errors")),
            max_outage: give(&self.max_outage, origin("max-outage")),
            max_cost: give(&self.max_cost, origin("max-cost")),
            max_line_bytes: give(&self.max_line_bytes, origin("max-line-bytes")),
            max_response_bytes: give(&self.max_response_bytes, origin("max-response-bytes")),
            ca_file: give(&self.ca_file, origin("ca-file")),
            grace: give(&self.grace, origin("grace")),
            durability: give(&self.durability, origin("durability")),
            metrics_addr: give(&self.metrics_addr, origin("metrics-addr")),
            verbose: give(&verbose, origin("verbose")),
            json_logs: give(&self.json_logs, origin("json-logs")),
            no_progress: give(&self.no_progress, origin("no-progress")),
            dry_run: give(&self.dry_run, origin("dry-run")),
        }
    }
}

#[cfg(test)]
mod tests;
