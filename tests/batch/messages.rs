//! What threads tell each other: it follows the time and the ranges of input, not the requests.

use serde_json::Value;

use crate::support::{Place, batch_args, mock_with, parse_records, replaced, run, runtimes};

const LINES: u64 = 6000;
const SHARDS: u64 = 2;
const WORKERS: u64 = 16;

/// A shard tells its counters every 100 ms.
const COUNTERS_PER_SECOND: f64 = 10.0;
/// And with a rate asks for slots every 15 ms at the soonest, and gets them: it asks when its last is
/// nearer than 30 ms, and half of what then lies before the horizon of 60 ms is its own.
const SLOTS_PER_SECOND: f64 = 2.0 * 1000.0 / 15.0;
/// Start and end of a shard, its ranges of input, the slots that it gives back.
const ONCE_A_SHARD: f64 = 18.0;
/// A request that ends when its shard has nothing more to send may give back its permits of the run
/// and of its endpoint, and another shard be granted both.
const AT_THE_END: f64 = 4.0;

#[test]
fn messages_follow_the_time_and_not_the_requests() {
    let lines: Vec<String> = (0..LINES)
        .map(|number| format!(r#"{{"input":"line {number}"}}"#))
        .collect();
    let workers = WORKERS.to_string();
    for runtime in runtimes() {
        for rate in ["0", "100000"] {
            let (place, mock) = (
                Place::new(),
                mock_with(|options| options.record_requests = false),
            );
            place.input(&lines);
            let args = batch_args(
                &mock,
                runtime,
                &["--rate", rate, "-w", &workers, "-v", "--json-logs"],
            );
            let run = run(&place, &replaced(args, "--cores", "2")).expect(0);
            let summary: Value = parse_records("stdout", run.stdout.as_bytes())
                .pop()
                .expect("a summary");
            let seconds = summary["elapsed_seconds"].as_f64().expect("a time");
            assert_eq!(summary["attempts"].as_u64(), Some(LINES));

            let told = run
                .stderr
                .lines()
                .find_map(|line| {
                    let (from, rest) = line.split_once(" messages from shards, ")?;
                    let (to, _) = rest.split_once(" to them")?;
                    let from = from.rsplit(|c: char| !c.is_ascii_digit()).next()?;
                    Some(from.parse::<f64>().ok()? + to.parse::<f64>().ok()?)
                })
                .unwrap_or_else(|| panic!("the number is not told: {run:#?}"));
            let slots = if rate == "0" { 0.0 } else { SLOTS_PER_SECOND };
            let a_shard = ONCE_A_SHARD + seconds * (COUNTERS_PER_SECOND + slots);
            let bound = SHARDS as f64 * a_shard + WORKERS as f64 * AT_THE_END;
            assert!(
                told <= bound,
                "{runtime}, --rate {rate}: {told} messages in {seconds} s, at most {bound}"
            );
            eprintln!(
                "{runtime}, --rate {rate}: {told} messages in {seconds} s, {:.1} for 1000 requests",
                told * 1000.0 / LINES as f64
            );
        }
    }
}
