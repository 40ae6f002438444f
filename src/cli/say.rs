//! What the command line says on standard error itself, outside the log: as text, or, where everything is
//! JSON lines (`--json-logs`), as one of those.

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::config::parse_boolean;
use crate::runtime::process;

const FLAG: &str = "--json-logs";
const VARIABLE: &str = "BLAZE_JSON_LOGS";

static IN_JSON: AtomicBool = AtomicBool::new(false);

/// Everything is JSON from now on, panics too, or nothing is.
pub fn in_json(wanted: bool) {
    IN_JSON.store(wanted, Ordering::Relaxed);
    process::explain_in_json(wanted);
    if wanted {
        panic::set_hook(Box::new(|panic| {
            object("ERROR", &panic.to_string(), Map::new())
        }));
    }
}

/// Whether everything is JSON.
pub fn is_in_json() -> bool {
    IN_JSON.load(Ordering::Relaxed)
}

/// Whether a command line asks for JSON: known before it is understood, for what is wrong with it.
pub fn asks_for_json(
    arguments: impl IntoIterator<Item = OsString>,
    variable: Option<OsString>,
) -> bool {
    let asked = arguments
        .into_iter()
        .take_while(|argument| argument != "--")
        .filter_map(|argument| {
            let argument = argument.into_string().ok()?;
            match argument.strip_prefix(FLAG)? {
                "" => Some(true),
                value => parse_boolean(value.strip_prefix('=')?).ok(),
            }
        })
        .last();
    let by_variable = || {
        let value = variable?.into_string().ok()?;
        parse_boolean(&value).ok()
    };
    asked.or_else(by_variable).unwrap_or(false)
}

/// Asks this process's own.
pub fn this_process_asks_for_json() -> bool {
    asks_for_json(std::env::args_os().skip(1), std::env::var_os(VARIABLE))
}

/// Why nothing runs, or not on.
pub fn error(message: &str) {
    match is_in_json() {
        true => object("ERROR", message, Map::new()),
        false => line(&format!("error: {message}")),
    }
}

/// Something a user should know.
pub fn warn(message: &str) {
    match is_in_json() {
        true => object("WARN", message, Map::new()),
        false => line(message),
    }
}

/// A JSON line as the log writes them, with more fields.
pub fn object(level: &str, message: &str, fields: Map<String, Value>) {
    let mut all = Map::new();
    all.insert("timestamp".to_owned(), json!(timestamp()));
    all.insert("level".to_owned(), json!(level));
    all.insert("message".to_owned(), json!(message));
    all.extend(fields);
    line(&Value::Object(all).to_string());
}

/// A line as it is; a reader that has gone changes nothing about the run.
pub fn line(text: &str) {
    // In one piece: threads speak at the same time.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn timestamp() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Standard error for a report of several lines of text; in JSON each is a message.
pub struct Report;

impl Write for Report {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !is_in_json() {
            return io::stderr().write(bytes);
        }
        // Reports are written line by line.
        for text in String::from_utf8_lossy(bytes).lines() {
            if !text.trim().is_empty() {
                object("INFO", text.trim(), Map::new());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_for_json_is_known_before_anything_else() {
        let check = |arguments: &[&str], variable: Option<&str>, expect: bool| {
            let arguments = arguments.iter().map(OsString::from);
            let found = asks_for_json(arguments, variable.map(OsString::from));
            assert_eq!(found, expect, "{variable:?}");
        };
        check(&[], None, false);
        check(&["-i", "x", "--json-logs", "--nonsense"], None, true);
        check(&["--json-logs=true"], None, true);
        check(&["--json-logs=false"], Some("true"), false);
        check(&["--json-logs-not"], None, false);
        check(&["--", "--json-logs"], None, false);
        check(&[], Some("1"), true);
        check(&[], Some("false"), false);
        check(&[], Some("nonsense"), false);
    }
}
