//! The books of a finished run: every line in exactly one record, in the right file, with its own
//! content.

use std::path::Path;

use serde_json::Value;

use super::lines::{Fate, marked};
use super::scenario::Scenario;
use crate::config::Order;

/// What is wrong with the final files. `is_mended`: failures were sent again, to servers that had
/// come to their senses.
pub fn final_files(
    scenario: &Scenario,
    is_mended: bool,
    output: Option<&Path>,
    errors: &Path,
) -> Result<(), String> {
    let mut seen = vec![0; scenario.lines.len()];
    let mut failed = 0;
    for (path, is_success) in [(output, true), (Some(errors), false)] {
        let Some(path) = path else { continue };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            // An error file is not created when nothing failed.
            Err(_) if !is_success => String::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(format!("{} does not end in a newline", path.display()));
        }
        let mut before = None;
        for record_text in text.lines() {
            let record: Value = serde_json::from_str(record_text)
                .map_err(|error| format!("{error} in the record {record_text}"))?;
            let id = id_of(scenario, &record, record_text)
                .ok_or_else(|| format!("a record of no line: {record_text}"))?;
            seen[id] += 1;
            failed += usize::from(!is_success);
            let line = &scenario.lines[id].clone().if_mended(is_mended);
            match is_success {
                true => line.check_success(&record, scenario.attempts_max)?,
                // A process has stopped for this line's answer, an endpoint that refused its key; in the
                // next one it has met the same again.
                false if is_of_a_key(scenario, &record) => {}
                false => {
                    // Asked about elsewhere, what was refused may meet faults with its last attempts.
                    let wanders = scenario.endpoints > 1 && line.fate == Fate::Refused;
                    let decided = scenario.decided && !wanders;
                    line.check_failure(&record, scenario.attempts_max, decided)?;
                }
            }
            if scenario.order == Order::Input && before >= Some(id) {
                return Err(format!("{} stands after line-{before:?}", line.mark()));
            }
            before = Some(id);
        }
    }
    for (line, count) in scenario.lines.iter().zip(&seen) {
        let line = line.clone().if_mended(is_mended);
        let expected = match output {
            Some(_) => 1,
            // Successes are only counted.
            None => {
                let may_fail =
                    line.fate != Fate::Answered || !scenario.decided || scenario.trouble.dead > 0.0;
                usize::from(may_fail).min(*count)
            }
        };
        if *count != expected {
            return Err(format!("{} has {count} records", line.mark()));
        }
    }
    if errors.exists() && failed == 0 {
        return Err("an error file without errors".to_owned());
    }
    Ok(())
}

/// A failure for a key that was refused, in a run that may meet that.
fn is_of_a_key(scenario: &Scenario, record: &Value) -> bool {
    let kinds = [&record["error_kind"], &record["error"]["code"]];
    scenario.trouble.dead > 0.0 && kinds.iter().any(|kind| *kind == "auth")
}

/// The line that a record says it belongs to.
fn id_of(scenario: &Scenario, record: &Value, text: &str) -> Option<usize> {
    if let Some(id) = record["custom_id"].as_str() {
        return id.strip_prefix('c')?.parse().ok();
    }
    let number = record["line_number"].as_u64();
    match number.or_else(|| record["metadata"]["line_number"].as_u64()) {
        Some(number) => scenario.lines.iter().position(|line| line.number == number),
        None => marked(text.as_bytes()),
    }
}
