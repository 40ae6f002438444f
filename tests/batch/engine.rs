//! Shards, workers and caps: whatever their numbers, every line is done once.

use std::collections::BTreeSet;

use blaze_uring::mock::Scripted;

use crate::support::{
    Place, batch_args, bodies, mock, mock_with, replaced, run, runtimes, scripted, spawn,
};

/// Lines of [`several_ranges`].
const LINES: u64 = 1500;

/// Enough for three of the 64 KiB ranges in which input goes to shards.
fn several_ranges() -> Vec<String> {
    (0..LINES)
        .map(|number| format!(r#"{{"input":"{number:0100}","n":{number}}}"#))
        .collect()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!(r#"{{"input":"line {number}","n":{number}}}"#))
        .collect()
}

#[test]
fn every_line_is_done_once_whatever_the_numbers() {
    let lines = several_ranges();
    for runtime in runtimes() {
        for more in [
            &["--cores", "2"][..],
            &["--cores", "2", "-w", "1"],
            &["--cores", "2", "-w", "3", "-r", "0"],
            &["--cores", "1", "-w", "200", "-r", "0"],
        ] {
            let (place, mock) = (Place::new(), mock());
            place.input(&lines);
            let url = mock.url("/v1/chat/completions");
            let mut args = vec![
                "-i",
                "in.jsonl",
                "-o",
                "out.jsonl",
                "--runtime",
                runtime,
                "--endpoint-url",
                &url,
            ];
            args.extend(["-r", "0"].iter().filter(|_| !more.contains(&"-r")));
            args.extend(more);
            run(&place, &args).expect(0);
            let records = place.records("out.jsonl");
            let order: Vec<_> = records
                .iter()
                .map(|record| record["n"].as_u64().expect("n"))
                .collect();
            assert_eq!(order, (0..LINES).collect::<Vec<_>>(), "{runtime} {more:?}");
            let sent = bodies(&mock);
            assert_eq!(sent.len() as u64, LINES);
            assert_eq!(
                sent.into_iter().collect::<BTreeSet<_>>().len() as u64,
                LINES
            );
        }
    }
}

#[test]
fn workers_bound_what_is_in_flight() {
    for runtime in runtimes() {
        for (workers, cores) in [("1", "2"), ("4", "2"), ("4", "1")] {
            let place = Place::new();
            let mock = mock_with(|options| options.latency = "10ms".parse().expect("valid"));
            place.input(&numbered(40));
            let args = replaced(
                batch_args(&mock, runtime, &["-w", workers]),
                "--cores",
                cores,
            );
            run(&place, &args).expect(0);
            let limit: u64 = workers.parse().expect("a number");
            let seen = mock.stats().in_flight_max;
            assert!(
                seen <= limit,
                "{seen} in flight with {workers} workers on {runtime}"
            );
        }
    }
}

#[test]
fn a_line_waits_for_room_at_its_endpoint() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = mock_with(|options| options.latency = "5ms".parse().expect("valid"));
        place.input(&numbered(60));
        place.write(
            "c.json",
            format!(
                r#"{{"endpoints":[{{"url":"{}","max_concurrent":1}}],"workers":50,"rate":0}}"#,
                mock.url("/v1")
            ),
        );
        let args = [
            "-i",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "-c",
            "c.json",
            "--cores",
            "2",
            "--runtime",
            runtime,
        ];
        run(&place, &args).expect(0);
        assert_eq!(place.records("out.jsonl").len(), 60);
        assert_eq!(mock.stats().in_flight_max, 1, "{runtime}");
    }
}

#[test]
fn more_cores_than_there_are_is_a_warning() {
    let asked = (blaze_uring::runtime::available_cores().len() + 62).to_string();
    for runtime in runtimes() {
        let (place, mock) = (Place::new(), mock());
        place.input(&numbered(10));
        let args = replaced(batch_args(&mock, runtime, &[]), "--cores", &asked);
        let run = run(&place, &args).expect(0);
        let warned = run
            .stderr
            .lines()
            .any(|line| line.contains("WARN") && line.contains(&format!("--cores {asked}")));
        assert!(warned, "{}", run.stderr);
        assert_eq!(place.records("out.jsonl").len(), 10);
    }
}

#[test]
fn there_are_no_more_shards_than_requests_in_flight() {
    if blaze_uring::runtime::available_cores().len() < 2 {
        return;
    }
    for runtime in runtimes() {
        for (workers, shards) in [("1", 1), ("2", 2)] {
            let place = Place::new();
            let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
            place.input(&several_ranges());
            let args = replaced(batch_args(&mock, runtime, &["-w", workers]), "--cores", "2");
            let mut running = spawn(&place, &args);
            running.until("the first request", || mock.stats().requests > 0);
            let listing = place.listing();
            let journals = listing.iter().filter(|name| name.contains("/journal-"));
            assert_eq!(journals.count(), shards, "{runtime}: {listing:?}");
            running.kill();
        }
    }
}

/// A huge page is 2 MiB: a run would hold one wherever it needs a few KiB.
#[test]
#[cfg(target_os = "linux")]
fn no_huge_pages_are_asked_for() {
    for runtime in runtimes() {
        let place = Place::new();
        let mock = scripted(|_| Some(Scripted::raw("").then_hang()));
        place.input(&several_ranges());
        let mut running = spawn(&place, &batch_args(&mock, runtime, &[]));
        running.until("the first request", || mock.stats().requests > 0);
        let mappings = std::fs::read_to_string(format!("/proc/{}/smaps", running.id()));
        let mappings = mappings.expect("its mappings can be read");
        let flags: Vec<_> = mappings
            .lines()
            .filter_map(|line| line.strip_prefix("VmFlags:"))
            .collect();
        assert!(!flags.is_empty(), "{runtime}: {mappings}");
        let asked = flags.iter().filter(|flags| flags.contains(" hg"));
        assert_eq!(asked.count(), 0, "{runtime}: {flags:?}");
        running.kill();
    }
}
