//! Whether input, output and error file can be what they are asked to be, before anything is sent.
//! Creates nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "an error file in the way is read to tell whose it is"
)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::runtime::files;

/// Why the final files cannot be written. Nothing ran; the user has to act.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Two names for one file: one would destroy the other.
    #[error("the {one} and the {other} are the same file, {}; give each its own", path.display())]
    SameFile {
        /// Its first role.
        one: &'static str,
        /// Its second role.
        other: &'static str,
        /// Its name in the second role.
        path: PathBuf,
    },
    /// There already is a finished run's file.
    #[error("the {role} {} already exists; replace it with --overwrite, or give another name", path.display())]
    Exists {
        /// Output or error file.
        role: &'static str,
        /// Its name.
        path: PathBuf,
    },
    /// There already are the failures of another job.
    #[error("the error file {} already holds {owner}; keep it and write to another: -e {}", path.display(), free.display())]
    ErrorsOfAnother {
        /// The error file.
        path: PathBuf,
        /// Whose records they are, as far as they tell.
        owner: String,
        /// A name for this job's error file that nobody has.
        free: PathBuf,
    },
    /// A folder has that name.
    #[error("the {role} {} is a directory; name a file in it", path.display())]
    Directory {
        /// Output or error file.
        role: &'static str,
        /// Its name.
        path: PathBuf,
    },
    /// A device or pipe, beside which the run folder cannot be.
    #[error("the {role} {} is not a regular file; use `-o -` for standard output, or leave -o out to only count successes", path.display())]
    Special {
        /// Output or error file.
        role: &'static str,
        /// Its name.
        path: PathBuf,
    },
    /// There is no folder to put it into.
    #[error("the folder {} for the {role} does not exist; create it first", path.display())]
    NoFolder {
        /// Output or error file.
        role: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// What should be the folder is something else.
    #[error("{}, which is to hold the {role}, is a file, not a folder; choose another place", path.display())]
    BelowFile {
        /// Output or error file.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The folder is read-only for this user.
    #[error("cannot create files in {} for the {role}: permission denied or read-only; choose another folder", path.display())]
    NotWritable {
        /// Output or error file.
        role: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// The name cannot be recorded in the manifest.
    #[error("the {role} {} has a name that is not valid UTF-8; give it another", path.display())]
    NotUtf8 {
        /// Output or error file.
        role: &'static str,
        /// Its name.
        path: PathBuf,
    },
}

/// How much of an error file is read to tell whose it is, and how much of a text is repeated.
const FIRST_RECORD_BYTES_MAX: u64 = 64 << 10;
const SHOWN_CHARACTERS_MAX: usize = 60;

const INPUT: &str = "input";
const OUTPUT: &str = "output";
const ERRORS: &str = "error file";

/// Checks the three files of a run. `input` and `output` are `None` for standard input and output,
/// and `output` also if successes are only counted.
///
/// Existing final files are refused unless they may be overwritten, or an unfinished run is there
/// to be resumed (`has_folder`), which decides for itself. An empty error file is in nobody's way.
pub fn check_targets(
    input: Option<&Path>,
    output: Option<&Path>,
    errors: &Path,
    overwrite: bool,
    has_folder: bool,
) -> Result<(), TargetError> {
    let roles = [(INPUT, input), (OUTPUT, output), (ERRORS, Some(errors))];
    let named: Vec<_> = roles
        .into_iter()
        .filter_map(|(role, path)| Some((role, path?)))
        .collect();
    for (at, &(other, path)) in named.iter().enumerate() {
        if let Some(&(one, _)) = named[..at]
            .iter()
            .find(|(_, earlier)| files::same_file(earlier, path))
        {
            return Err(TargetError::SameFile {
                one,
                other,
                path: path.to_path_buf(),
            });
        }
    }
    let may_exist = overwrite || has_folder;
    if let Some(output) = output {
        check_target(OUTPUT, output, true, |_| may_exist)?;
    }
    check_target(ERRORS, errors, output.is_none(), |length| {
        may_exist || length == 0
    })
    .map_err(|error| match error {
        TargetError::Exists { path, .. } => TargetError::ErrorsOfAnother {
            owner: owner_of(&path),
            free: free_name(&path, output),
            path,
        },
        other => other,
    })
}

/// Whose failures an error file holds: when they were written, and what the first one is about.
fn owner_of(errors: &Path) -> String {
    let written = fs::metadata(errors).and_then(|metadata| metadata.modified());
    let written = written.map_or_else(
        |_| String::new(),
        |time| format!(", written {}", httpdate::fmt_http_date(time)),
    );
    match first_record(errors) {
        Some(first) => format!("the failures of another job{written} (the first: {first})"),
        None => format!("something else than failure records{written}"),
    }
}

/// The first record of an error file in a few words, if it is one.
fn first_record(errors: &Path) -> Option<String> {
    let mut start = Vec::new();
    let file = fs::File::open(errors).ok()?;
    file.take(FIRST_RECORD_BYTES_MAX)
        .read_to_end(&mut start)
        .ok()?;
    let line = start.split(|&byte| byte == b'\n').next()?;
    let record: serde_json::Value = serde_json::from_slice(line).ok()?;
    let shown = |text: &serde_json::Value| -> Option<String> {
        let text: String = text.as_str()?.chars().take(SHOWN_CHARACTERS_MAX).collect();
        Some(text.escape_debug().to_string())
    };
    if let Some(error) = shown(&record["error"]) {
        let line_number = record["line_number"].as_u64()?;
        return Some(format!("line {line_number}, \"{error}\""));
    }
    record.get("response")?;
    Some(format!("custom_id \"{}\"", shown(&record["custom_id"])?))
}

/// A name that no file has: after the output, so that it tells which job it belongs to.
fn free_name(errors: &Path, output: Option<&Path>) -> PathBuf {
    let stem = output.unwrap_or(errors).with_extension("");
    let kind = if output.is_some() { ".errors" } else { "" };
    let named = |suffix: String| {
        let mut name = stem.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let plain = output.map(|_| named(".errors.jsonl".to_owned()));
    let numbered = (2_u32..).map(|number| named(format!("{kind}-{number}.jsonl")));
    plain
        .into_iter()
        .chain(numbered)
        .find(|name| !name.exists())
        // A folder does not hold four billion files.
        .unwrap_or_else(|| errors.to_path_buf())
}

/// `hosts` is set for the file beside which the run folder lies.
fn check_target(
    role: &'static str,
    target: &Path,
    hosts: bool,
    may_exist: impl Fn(u64) -> bool,
) -> Result<(), TargetError> {
    let path = target.to_path_buf();
    if target.to_str().is_none() {
        return Err(TargetError::NotUtf8 { role, path });
    }
    if files::is_device_name(target) {
        return Err(TargetError::Special { role, path });
    }
    match fs::metadata(target) {
        Ok(metadata) if metadata.is_dir() => return Err(TargetError::Directory { role, path }),
        Ok(metadata) if !metadata.is_file() => {
            return if hosts {
                Err(TargetError::Special { role, path })
            } else {
                Ok(())
            };
        }
        Ok(metadata) if !may_exist(metadata.len()) => {
            return Err(TargetError::Exists { role, path });
        }
        _ => {}
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !parent.is_dir() {
        return Err(match parent.ancestors().find(|above| above.exists()) {
            Some(above) if above.is_file() => TargetError::BelowFile {
                role,
                path: above.to_path_buf(),
            },
            _ => TargetError::NoFolder { role, path: parent },
        });
    }
    if !files::is_writable_folder(&parent) {
        return Err(TargetError::NotWritable { role, path: parent });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_passes_and_what_cannot_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("in"), "{}\n").expect("a file");
        fs::write(at("old"), "{}\n").expect("a file");
        age(&at("old"));
        fs::write(at("empty"), "").expect("a file");
        fs::create_dir(at("sub")).expect("a folder");
        fs::hard_link(at("in"), at("hard")).expect("a hard link");
        let before = fs::read_dir(folder.path()).expect("a folder").count();
        let check = |output: Option<&str>,
                     errors: &str,
                     (overwrite, has_folder): (bool, bool),
                     expect: &str| {
            let output = output.map(at);
            let result = check_targets(
                Some(&at("in")),
                output.as_deref(),
                &at(errors),
                overwrite,
                has_folder,
            );
            let text = result.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
            let text = text.replace(&folder.path().join("").display().to_string(), "");
            assert_eq!(text, expect, "{output:?} {errors}");
        };
        let (plain, overwrite, resume) = ((false, false), (true, false), (false, true));
        check(Some("out"), "err", plain, "fine");
        check(None, "err", plain, "fine");
        check(Some("sub/out"), "sub/../err", plain, "fine");
        for forced in [plain, overwrite, resume] {
            check(
                Some("in"),
                "err",
                forced,
                "the input and the output are the same file, in; give each its own",
            );
            check(
                Some("hard"),
                "err",
                forced,
                "the input and the output are the same file, hard; give each its own",
            );
            check(
                Some("out"),
                "in",
                forced,
                "the input and the error file are the same file, in; give each its own",
            );
            check(
                Some("out"),
                "sub/../out",
                forced,
                "the output and the error file are the same file, sub/../out; give each its own",
            );
            check(
                Some("sub"),
                "err",
                forced,
                "the output sub is a directory; name a file in it",
            );
            check(
                Some("no/out"),
                "err",
                forced,
                "the folder no for the output does not exist; create it first",
            );
            check(
                Some("in/out"),
                "err",
                forced,
                "in, which is to hold the output, is a file, not a folder; choose another place",
            );
            check(
                Some("in/no/out"),
                "err",
                forced,
                "in, which is to hold the output, is a file, not a folder; choose another place",
            );
        }
        let exists = |role: &str, name: &str| {
            format!(
                "the {role} {name} already exists; replace it with --overwrite, or give another name"
            )
        };
        check(Some("old"), "err", plain, &exists("output", "old"));
        check(Some("empty"), "err", plain, &exists("output", "empty"));
        let owned = |owner: &str, free: &str| {
            format!(
                "the error file old already holds {owner}; keep it and write to another: -e {free}"
            )
        };
        let other = "something else than failure records, written Thu, 01 Jan 1970 00:00:00 GMT";
        check(Some("out"), "old", plain, &owned(other, "out.errors.jsonl"));
        check(None, "old", plain, &owned(other, "old-2.jsonl"));
        let taken = ["out.errors.jsonl", "out.errors-2.jsonl", "old-2.jsonl"];
        for name in taken {
            fs::write(at(name), "").expect("a file");
        }
        check(
            Some("out.x"),
            "old",
            plain,
            &owned(other, "out.errors-3.jsonl"),
        );
        check(None, "old", plain, &owned(other, "old-3.jsonl"));
        for name in taken {
            fs::remove_file(at(name)).expect("it goes");
        }
        for (record, first) in [
            (
                r#"{"input":"a","error":"HTTP 429: \"slow\"","line_number":7}"#,
                r#"line 7, "HTTP 429: \"slow\"" "#.trim_end(),
            ),
            (
                r#"{"id":"b","custom_id":"r2","response":null,"error":{"code":"timeout"}}"#,
                "custom_id \"r2\"",
            ),
        ] {
            fs::write(at("old"), format!("{record}\n{record}\n")).expect("a file");
            age(&at("old"));
            let owner = format!(
                "the failures of another job, written Thu, 01 Jan 1970 00:00:00 GMT (the first: {first})"
            );
            check(
                Some("out"),
                "old",
                plain,
                &owned(&owner, "out.errors.jsonl"),
            );
        }
        check(Some("out"), "empty", plain, "fine");
        check(Some("old"), "err", overwrite, "fine");
        check(Some("old"), "err", resume, "fine");
        assert_eq!(
            fs::read_dir(folder.path()).expect("a folder").count(),
            before,
            "nothing was created"
        );
    }

    /// As old as can be.
    fn age(path: &Path) {
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(std::time::UNIX_EPOCH).expect("a time");
    }

    #[test]
    #[cfg(unix)]
    fn devices_are_for_errors_only() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (output, null) = (folder.path().join("out"), Path::new("/dev/null"));
        assert_eq!(
            check_targets(None, Some(&output), null, false, false),
            Ok(())
        );
        let special = |role| {
            Err(TargetError::Special {
                role,
                path: null.to_path_buf(),
            })
        };
        assert_eq!(
            check_targets(None, Some(null), &output, false, false),
            special(OUTPUT)
        );
        assert_eq!(
            check_targets(None, None, null, false, false),
            special(ERRORS)
        );
        let path = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
        assert_eq!(
            check_targets(None, Some(&path), &output, false, false),
            Err(TargetError::NotUtf8 { role: OUTPUT, path })
        );
    }
}
