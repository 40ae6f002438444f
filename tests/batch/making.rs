//! The output of a large run is made while the run goes on.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blaze_uring::mock::Scripted;
use serde_json::Value;

use crate::support::{Place, batch_args, on_each_runtime, replaced, run, scripted, spawn};

/// Together more than what makes a run a large one, 32 MiB.
const LINES: usize = 350;
const LINE_BYTES: usize = 100 << 10;
/// The one whose answer is held back.
const HELD: usize = 200;

#[test]
fn the_output_of_a_large_run_is_there_soon_after_its_last_answer() {
    let padding = "x".repeat(LINE_BYTES);
    let lines: Vec<String> = (0..LINES)
        .map(|id| match id {
            HELD => format!(r#"{{"id":{id},"input":"held {padding}"}}"#),
            _ => format!(r#"{{"id":{id},"input":"{padding}"}}"#),
        })
        .collect();
    on_each_runtime(|runtime| {
        for (cores, is_stopped) in [("1", false), ("2", false), ("2", true)] {
            let is_held = Arc::new(AtomicBool::new(is_stopped));
            let holds = Arc::clone(&is_held);
            let mock = scripted(move |request| {
                let is_held = memchr::memmem::find(&request.body, b"held").is_some();
                let is_held = is_held && holds.load(Ordering::Relaxed);
                is_held.then(|| Scripted::raw("").then_hang())
            });
            let place = Place::new();
            place.input(&lines);
            let args = batch_args(&mock, runtime, &["-v", "--grace", "0", "--timeout", "60"]);
            let args = replaced(args, "--cores", cores);
            let made = place.path("out.jsonl.blaze/output.merged");
            if is_stopped {
                let mut running = spawn(&place, &args);
                running.until("the output begins to be made", || {
                    fs::metadata(&made).is_ok_and(|metadata| metadata.len() > LINE_BYTES as u64)
                });
                running.until("all others are answered", || {
                    mock.stats().requests as usize >= LINES
                });
                running.signal(libc::SIGINT);
                running.wait().expect(130);
                assert!(!made.exists(), "it goes with a run that stops");
                is_held.store(false, Ordering::Relaxed);
            }
            let ended = run(&place, &args).expect(0);
            let is_made = ended
                .stderr
                .contains("the output was made while the run went on");
            assert_eq!(
                is_made, !is_stopped,
                "{runtime}, {cores} cores: {}",
                ended.stderr
            );
            let records = place.records("out.jsonl");
            let ids: Vec<&Value> = records.iter().map(|record| &record["id"]).collect();
            assert_eq!(
                ids,
                (0..LINES).collect::<Vec<_>>(),
                "{runtime}, {cores} cores"
            );
            let is_whole = |record: &Value| {
                record["input"]
                    .as_str()
                    .is_some_and(|text| text.ends_with(&padding))
            };
            assert!(records.iter().all(is_whole));
            assert!(!place.path("out.jsonl.blaze").exists());
        }
    });
}
