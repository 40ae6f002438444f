//! `blaze-uring demo`: the main job end to end on any machine, without a key or a network. A small
//! input file goes through an embedded trial endpoint that is slow, sometimes limits and sometimes
//! fails; the same engine, run folder and summary as in a real run.

#![expect(
    clippy::disallowed_methods,
    reason = "the demo owns its temporary folder and shows the files it made"
)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::batch;
use crate::config::{
    Config, Console, EndpointConfig, InputSource, Job, OutputTarget, Rate, Settings,
};
use crate::mock::{Mock, MockOptions};

/// Records shown at the end.
const RECORDS_SHOWN: usize = 2;
/// Characters of a record shown.
const RECORD_WIDTH: usize = 200;

/// Options of `blaze-uring demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    /// Lines of the input file
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub lines: u64,
    /// Folder for the demo's files [default: a new one in the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(args: &DemoArgs) -> ExitCode {
    match try_run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: the demo could not run: {error}");
            ExitCode::from(batch::EXIT_NOTHING_RAN)
        }
    }
}

fn try_run(args: &DemoArgs) -> io::Result<ExitCode> {
    let folder = args.dir.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("blaze-uring-demo-{}", std::process::id()))
    });
    fs::create_dir_all(&folder)?;
    let input = folder.join("requests.jsonl");
    let output = folder.join("results.jsonl");
    let errors = folder.join("errors.jsonl");
    write_input(&input, args.lines)?;

    let mock = Mock::start(MockOptions {
        latency: "lognormal:median=20ms,p99=120ms"
            .parse()
            .expect("a constant that the mock's own parser accepts"),
        error_rate: ["429=0.003", "500=0.002"]
            .iter()
            .map(|rate| {
                rate.parse()
                    .expect("a constant that the mock's own parser accepts")
            })
            .collect(),
        ..MockOptions::default()
    })?;
    eprintln!(
        "{} lines of {} go to a trial endpoint at {}\n\
         (20 ms median latency, 0.3 % of answers 429, 0.2 % 500). The same as:\n  \
         blaze-uring -i requests.jsonl -o results.jsonl --endpoint-url {} --rate 0 --workers 200\n",
        args.lines,
        input.display(),
        mock.url(""),
        mock.url("/v1"),
    );
    let mut config = Config {
        endpoints: vec![EndpointConfig {
            name: Some("trial".to_owned()),
            url: mock.url("/v1"),
            model: Some("demo-model".to_owned()),
            max_concurrent: 200,
            ..EndpointConfig::default()
        }],
        ..Config::default()
    };
    config.request.rate_limit = Rate::Unlimited;
    config.request.workers = 200;
    config.retry.max_attempts = 6;
    let job = Job {
        input: InputSource::File(input),
        output: Some(OutputTarget::File(output.clone())),
        errors,
        overwrite: true,
        fresh: true,
        salvage: false,
        retry_errors: false,
        dry_run: false,
    };
    let code = batch::run(Settings {
        config,
        job,
        console: Console::default(),
        notes: Vec::new(),
    });
    show_records(&output)?;
    let stats = mock.stats();
    eprintln!(
        "the trial endpoint saw {} requests, at most {} at once",
        stats.requests, stats.in_flight_max
    );
    mock.stop();
    Ok(code)
}

/// Lines of two shapes, so that the demo shows both.
fn write_input(path: &Path, lines: u64) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for number in 1..=lines {
        if number % 2 == 1 {
            writeln!(
                out,
                r#"{{"input": "What is {number} in Roman numerals?", "id": {number}}}"#
            )?;
        } else {
            writeln!(
                out,
                r#"{{"messages": [{{"role": "user", "content": "Name a city with {number} bridges."}}], "metadata": {{"row": {number}}}}}"#
            )?;
        }
    }
    out.flush()
}

fn show_records(output: &Path) -> io::Result<()> {
    if !output.exists() {
        return Ok(());
    }
    eprintln!("the first records of {}:", output.display());
    for record in BufReader::new(File::open(output)?)
        .lines()
        .take(RECORDS_SHOWN)
    {
        let record = record?;
        let shown: String = record.chars().take(RECORD_WIDTH).collect();
        let cut = if shown.len() < record.len() {
            "…"
        } else {
            ""
        };
        eprintln!("  {shown}{cut}");
    }
    Ok(())
}
