//! The rules of the house, as tests: import direction, who may name a provider, a runtime or a
//! platform, no locks in the hot path, no file that outgrows its responsibility.

#![allow(clippy::disallowed_methods, reason = "a test reads the source tree")]

use std::fs;
use std::path::{Path, PathBuf};

/// Layer of each top-level module; imports point to lower numbers only.
const LAYERS: &[(&str, u32)] = &[
    ("main", 8),
    ("cli", 7),
    ("demo", 7),
    ("lib", 8),
    ("simulation", 8),
    ("processor", 6),
    ("calls", 6),
    ("batch", 5),
    ("entra", 4),
    ("client", 3),
    ("mock", 3),
    ("policy", 2),
    ("provider", 2),
    ("http", 2),
    ("http2", 2),
    ("journal", 2),
    ("tls", 2),
    ("runtime", 1),
    ("config", 0),
    ("metrics", 0),
    ("json", 0),
    ("error", 0),
    ("block", 0),
];

/// Vocabulary that a sibling on the same layer may use.
const VOCABULARY: &[&str] = &["http", "json", "error", "config", "metrics", "block"];

/// No source file is longer than this, tests included.
const FILE_LINES_MAX: usize = 700;

/// Files that were longer when the rule came, with the length they may not exceed.
const LONG_FILES: &[(&str, usize)] = &[];

/// Test code: modules in files of their own.
fn is_test(source: &Source) -> bool {
    [
        "tests",
        "fixture",
        "virtual_time",
        "simulation",
        "simulated",
    ]
    .iter()
    .any(|name| source.path.contains(name))
}

struct Source {
    /// Path below the package root, with forward slashes.
    path: String,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src is readable") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("below the root");
                let path_text = below.to_string_lossy().replace('\\', "/");
                let first = path_text
                    .trim_start_matches("src/")
                    .split('/')
                    .next()
                    .expect("a name");
                found.push(Source {
                    module: first.trim_end_matches(".rs").to_owned(),
                    text: fs::read_to_string(&path).expect("source is UTF-8"),
                    path: path_text,
                });
            }
        }
    }
    assert!(found.len() > 20, "the source tree was found");
    found
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn layer(module: &str) -> u32 {
    LAYERS
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("module {module} has no layer: add it to LAYERS"))
        .1
}

fn offences(check: impl Fn(&Source, usize, &str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources() {
        // The fences are for what ships: unit tests stand at the end of a file.
        let shipped = source.text.split("\n#[cfg(test)]\nmod tests {").next();
        for (index, line) in shipped.unwrap_or_default().lines().enumerate() {
            if let Some(offence) = check(&source, index + 1, code(line)) {
                found.push(format!("{}:{}: {offence}", source.path, index + 1));
            }
        }
    }
    found
}

#[track_caller]
fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn imports_point_down() {
    assert_none(offences(|source, _, line| {
        let own = layer(&source.module);
        for part in line.split("crate::").skip(1) {
            let name: String = part
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            if !LAYERS.iter().any(|(module, _)| *module == name) || name == source.module {
                continue;
            }
            let other = layer(&name);
            let sibling = other == own && VOCABULARY.contains(&name.as_str());
            if other >= own && !sibling {
                return Some(format!("{} must not import {name}", source.module));
            }
        }
        None
    }));
}

#[test]
fn provider_names_stay_with_the_providers() {
    assert_none(offences(|source, _, line| {
        let hot = ["batch", "client", "http", "http2", "journal", "runtime"];
        if !hot.contains(&source.module.as_str()) || is_test(source) {
            return None;
        }
        let line = line.to_ascii_lowercase();
        ["azure", "anthropic", "gemini", "groq", "mistral"]
            .iter()
            .find(|name| line.contains(**name))
            .map(|name| format!("names the provider {name}"))
    }));
}

#[test]
fn platforms_and_backends_stay_in_runtime() {
    assert_none(offences(|source, _, line| {
        if source.module == "runtime" || is_test(source) {
            return None;
        }
        [
            "cfg(feature",
            "cfg(target_os",
            "cfg(unix",
            "cfg(windows",
            "cfg(not(unix",
            "monoio::",
        ]
        .iter()
        .find(|banned| line.contains(**banned))
        .map(|banned| format!("{banned} belongs into src/runtime"))
    }));
}

#[test]
fn only_the_runtime_and_the_mock_name_tokio() {
    assert_none(offences(|source, _, line| {
        (line.contains("tokio::")
            && !["runtime", "mock"].contains(&source.module.as_str())
            && !is_test(source))
        .then(|| "tokio belongs into src/runtime (the mock is a program of its own)".to_owned())
    }));
}

#[test]
fn no_locks_in_the_hot_path() {
    assert_none(offences(|source, _, line| {
        if !["batch", "client", "policy", "http", "http2"].contains(&source.module.as_str()) {
            return None;
        }
        [
            "Arc<Mutex",
            "Arc<RwLock",
            "std::sync::Mutex",
            "std::sync::RwLock",
        ]
        .iter()
        .find(|banned| line.contains(**banned))
        .map(|banned| format!("{banned}: shards share nothing"))
    }));
}

#[test]
fn pure_machines_do_no_io_and_read_no_clock() {
    assert_none(offences(|source, _, line| {
        if !["policy", "provider", "http", "http2", "journal", "json"]
            .contains(&source.module.as_str())
            || is_test(source)
        {
            return None;
        }
        [
            "Instant::now",
            "SystemTime::now",
            "std::net::Tcp",
            "std::fs",
            "std::env",
            "std::thread",
            "fastrand::",
            "File::",
        ]
        .iter()
        .find(|banned| line.contains(**banned))
        .map(|banned| format!("{banned} in a pure module"))
    }));
}

#[test]
fn every_module_opens_with_what_it_is() {
    let missing: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!") && !is_test(source))
        .map(|source| source.path)
        .collect();
    assert_none(missing);
}

#[test]
fn files_keep_to_one_responsibility() {
    let long: Vec<String> = sources()
        .iter()
        .filter_map(|source| {
            let lines = source.text.lines().count();
            let allowed = LONG_FILES
                .iter()
                .find(|(path, _)| *path == source.path)
                .map_or(FILE_LINES_MAX, |(_, lines)| *lines);
            (lines > allowed).then(|| format!("{}: {lines} lines, at most {allowed}", source.path))
        })
        .collect();
    assert_none(long);
}

#[test]
fn no_unfinished_work_is_left_in_the_tree() {
    assert_none(offences(|_, _, line| {
        ["todo!(", "unimplemented!(", "dbg!("]
            .iter()
            .find(|banned| line.contains(**banned))
            .map(|banned| (*banned).to_owned())
    }));
}

/// No fault is listed without a test that exists: what `docs/RELIABILITY.md` names as `module::test`, or
/// as a name of several words, is a function somewhere in the tree.
#[test]
fn every_test_that_is_named_for_a_fault_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/RELIABILITY.md")).expect("the document");
    let mut functions = String::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                functions += &fs::read_to_string(path).expect("source text");
            }
        }
    }
    let rows = document.lines().filter(|line| line.starts_with('|'));
    let missing = rows
        .filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit_once(" | "))
        .flat_map(|(_, tests)| tests.split('`').skip(1).step_by(2))
        .filter_map(|test| test.rsplit("::").next())
        .filter(|name| name.matches('_').count() >= 3)
        .filter(|name| {
            !["(", "<"]
                .iter()
                .any(|next| functions.contains(&format!("fn {name}{next}")))
        })
        .map(|name| format!("docs/RELIABILITY.md names {name}, which is no test"))
        .collect();
    assert_none(missing);
}
