//! What one batch run reads and writes, and how it talks to its user. Pure.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::{ConfigError, Given, Origin, Overrides};

/// The error file when none is named.
pub const DEFAULT_ERRORS: &str = "errors.jsonl";

/// Where requests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// A JSONL file.
    File(PathBuf),
    /// Standard input, given as `-`.
    Stdin,
}

impl From<&OsStr> for InputSource {
    fn from(text: &OsStr) -> Self {
        if text == "-" {
            Self::Stdin
        } else {
            Self::File(text.into())
        }
    }
}

/// Where successes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A JSONL file.
    File(PathBuf),
    /// Standard output, given as `-`.
    Stdout,
}

impl From<&OsStr> for OutputTarget {
    fn from(text: &OsStr) -> Self {
        if text == "-" {
            Self::Stdout
        } else {
            Self::File(text.into())
        }
    }
}

/// The files of a run and what to do with what is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The requests.
    pub input: InputSource,
    /// The successes; `None` counts them and keeps none.
    pub output: Option<OutputTarget>,
    /// The failures.
    pub errors: PathBuf,
    /// Replace an existing finished output.
    pub overwrite: bool,
    /// Throw away an unfinished run and start again.
    pub fresh: bool,
    /// Resume also from a damaged run folder: keep every record that is whole.
    pub salvage: bool,
    /// Send the lines of the error file again.
    pub retry_errors: bool,
    /// Validate config and input, send nothing.
    pub dry_run: bool,
}

/// How a run talks to its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// 0 information, 1 debug, 2 and more trace.
    pub verbose: u8,
    /// JSON lines instead of text.
    pub json_logs: bool,
    /// No live block, no progress lines.
    pub no_progress: bool,
    /// Serve Prometheus metrics here during the run.
    pub metrics_addr: Option<SocketAddr>,
}

impl Job {
    /// The job that `settings` (every layer, merged) describe.
    ///
    /// Fails without an input, and when two of input, output and error file are lexically one file
    /// (links and other names of one file are for whoever opens them to find).
    pub(super) fn resolve(settings: &Overrides) -> Result<Self, ConfigError> {
        let input = settings.input.as_ref().ok_or(ConfigError::NoInput)?;
        let errors = settings.errors.clone().unwrap_or_else(|| Given {
            value: DEFAULT_ERRORS.into(),
            origin: Origin::Field(format!(
                "the default error file (--errors {DEFAULT_ERRORS})"
            )),
        });
        if errors.value == Path::new("-") {
            return Err(invalid(
                &errors.origin,
                "the error file cannot be standard output; name a file",
            ));
        }
        let mut files = Vec::new();
        if let InputSource::File(path) = &input.value {
            files.push((&input.origin, path));
        }
        if let Some(Given {
            value: OutputTarget::File(path),
            origin,
        }) = &settings.output
        {
            files.push((origin, path));
        }
        files.push((&errors.origin, &errors.value));
        if let Some((origin, _)) = files.iter().find(|(_, path)| path.as_os_str().is_empty()) {
            return Err(invalid(origin, "the path is empty; name a file"));
        }
        refuse_same_files(&files)?;
        Ok(Self {
            input: input.value.clone(),
            output: settings.output.as_ref().map(|output| output.value.clone()),
            errors: errors.value,
            overwrite: is_set(&settings.overwrite),
            fresh: is_set(&settings.fresh),
            salvage: is_set(&settings.salvage),
            retry_errors: is_set(&settings.retry_errors),
            dry_run: is_set(&settings.dry_run),
        })
    }
}

impl Console {
    /// What `settings` (every layer, merged) ask for.
    pub(super) fn resolve(settings: &Overrides) -> Self {
        Self {
            verbose: settings.verbose.as_ref().map_or(0, |given| given.value),
            json_logs: is_set(&settings.json_logs),
            no_progress: is_set(&settings.no_progress),
            metrics_addr: settings.metrics_addr.as_ref().map(|given| given.value),
        }
    }
}

fn refuse_same_files(files: &[(&Origin, &PathBuf)]) -> Result<(), ConfigError> {
    for (index, (first, path)) in files.iter().enumerate() {
        for (second, other) in &files[index + 1..] {
            if same_path(path, other) {
                return Err(ConfigError::SameFile {
                    first: (*first).clone(),
                    second: Box::new((*second).clone()),
                    path: (*path).clone(),
                });
            }
        }
    }
    Ok(())
}

/// Compares without `./` and doubled slashes. `..` stays: behind a link it is not the parent.
fn same_path(one: &Path, other: &Path) -> bool {
    let named = |path: &Path| -> PathBuf {
        path.components()
            .filter(|part| *part != Component::CurDir)
            .collect()
    };
    named(one) == named(other)
}

fn invalid(origin: &Origin, problem: &str) -> ConfigError {
    ConfigError::Invalid {
        origin: origin.clone(),
        problem: problem.to_owned(),
    }
}

fn is_set(flag: &Option<Given<bool>>) -> bool {
    flag.as_ref().is_some_and(|given| given.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(input: &str, output: &str, errors: &str) -> Overrides {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Overrides {
            input: given(input).map(|text| Given::by_flag("--input", OsStr::new(&text).into())),
            output: given(output).map(|text| Given::by_flag("--output", OsStr::new(&text).into())),
            errors: given(errors).map(|text| Given::by_environment("BLAZE_ERRORS", text.into())),
            ..Overrides::default()
        }
    }

    #[test]
    fn defaults_and_dashes() {
        let job = Job::resolve(&settings("in.jsonl", "", "")).expect("a job");
        assert_eq!(job.input, InputSource::File("in.jsonl".into()));
        assert_eq!((job.output, job.errors), (None, "errors.jsonl".into()));
        assert!(!job.overwrite && !job.fresh && !job.salvage && !job.retry_errors && !job.dry_run);
        let job = Job::resolve(&settings("-", "-", "e")).expect("a job");
        assert_eq!(
            (job.input, job.output),
            (InputSource::Stdin, Some(OutputTarget::Stdout))
        );
    }

    #[test]
    fn one_file_for_two_purposes_is_refused() {
        for (input, output, errors, expect) in [
            ("a", "a", "", "--input and --output are the same file, a:"),
            (
                "./a",
                "a",
                "",
                "--input and --output are the same file, ./a:",
            ),
            (
                "x//a",
                "x/./a",
                "",
                "--input and --output are the same file",
            ),
            (
                "a",
                "b",
                "./b",
                "--output and BLAZE_ERRORS are the same file",
            ),
            ("a", "", "a", "--input and BLAZE_ERRORS are the same file"),
            (
                "errors.jsonl",
                "",
                "",
                "--input and the default error file (--errors errors.jsonl) are",
            ),
            ("", "", "", "-i FILE"),
            (
                "a",
                "b",
                "-",
                "BLAZE_ERRORS: the error file cannot be standard output",
            ),
        ] {
            let error = Job::resolve(&settings(input, output, errors)).expect_err("refused");
            assert!(error.to_string().contains(expect), "{error}");
            assert_eq!(error.exit_status(), 2, "{error}");
        }
        for (input, output, errors) in [("a", "b", "c"), ("a/../a", "a", "c"), ("-", "-", "c")] {
            Job::resolve(&settings(input, output, errors)).expect("different names");
        }
    }
}
