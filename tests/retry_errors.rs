//! `--retry-errors`: failures of an unfinished or a finished run go out again, successes never do,
//! and the final files end up as if nothing had failed.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blaze_uring::mock::{Mock, Scripted};
use support::{Place, batch_args, run, run_stdin, runtimes, scripted, spawn};

/// Lines of every shape; what holds `bad` fails as long as [`Endpoint::is_fussy`].
fn mixed(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| {
            let taste = if index % 3 == 1 { "bad" } else { "good" };
            let text = format!("{taste} {index}");
            match index % 4 {
                0 => format!(r#"{{"input":"{text}","id":{index},"metadata":{{"a": 1}}}}"#),
                1 => format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#),
                2 => format!(r#"{{"body":{{"messages":[{{"role":"user","content":"{text}"}}]}},"tag":"é"}}"#),
                // The first half of the custom_ids is there twice.
                _ => format!(
                    r#"{{"custom_id":"r{}","method":"POST","url":"/v1/chat/completions","body":{{"messages":[{{"role":"user","content":"{text}"}}]}}}}"#,
                    index % (count / 2)
                ),
            }
        })
        .collect()
}

/// The same endpoint, so that records name the same URL, with moods.
struct Endpoint {
    mock: Mock,
    mood: Arc<Mood>,
}

#[derive(Default)]
struct Mood {
    /// Refuses what holds `bad`.
    fussy: AtomicBool,
    /// Answers that many more requests, then says nothing to any; `u64::MAX`: no such limit.
    answers_left: AtomicU64,
}

impl Endpoint {
    fn new() -> Self {
        let mood = Arc::new(Mood::default());
        mood.fussy.store(true, Ordering::SeqCst);
        mood.answers_left.store(u64::MAX, Ordering::SeqCst);
        let seen = Arc::clone(&mood);
        let mock = scripted(move |request| {
            let left = seen
                .answers_left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                    u64::MAX => Some(left),
                    left => left.checked_sub(1),
                });
            if left.is_err() {
                return Some(Scripted::raw("").then_hang());
            }
            let is_bad = memchr::memmem::find(&request.body, b"bad").is_some();
            (is_bad && seen.fussy.load(Ordering::SeqCst))
                .then(|| Scripted::json(400, r#"{"error":{"message":"I do not like it"}}"#))
        });
        Self { mock, mood }
    }

    fn relents(&self) {
        self.mood.fussy.store(false, Ordering::SeqCst);
    }

    fn answers(&self, count: u64) {
        self.mood.answers_left.store(count, Ordering::SeqCst);
    }

    /// The texts that arrived since the first `skip` requests, sorted.
    fn texts(&self, skip: usize) -> Vec<String> {
        let mut texts: Vec<_> = support::bodies(&self.mock)
            .iter()
            .skip(skip)
            .map(|body| {
                let body: serde_json::Value = serde_json::from_str(body).expect("a JSON body");
                let content = &body["messages"][0]["content"];
                content.as_str().expect("a text").to_owned()
            })
            .collect();
        texts.sort();
        texts
    }
}

/// The texts of [`mixed`] that fail, sorted.
fn bad_texts(count: usize) -> Vec<String> {
    let mut texts: Vec<_> = (0..count)
        .filter(|index| index % 3 == 1)
        .map(|index| format!("bad {index}"))
        .collect();
    texts.sort();
    texts
}

/// Without what may differ between a run and an undisturbed one.
fn normal(bytes: &[u8]) -> String {
    let mut text = String::from_utf8(bytes.to_vec()).expect("records are UTF-8");
    for name in ["\"latency_ms\":", "\"attempts\":"] {
        let mut parts = text.split(name);
        let mut kept = parts.next().expect("a first part").to_owned();
        for part in parts {
            kept += name;
            kept += part.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        text = kept;
    }
    text
}

/// What an undisturbed run of `lines` at an endpoint that likes everything writes.
fn undisturbed(endpoint: &Endpoint, runtime: &str, lines: &[String], more: &[&str]) -> String {
    let was_fussy = endpoint.mood.fussy.swap(false, Ordering::SeqCst);
    let place = Place::new();
    place.input(lines);
    run(&place, &batch_args(&endpoint.mock, runtime, more)).expect(0);
    endpoint.mood.fussy.store(was_fussy, Ordering::SeqCst);
    normal(&place.read("out.jsonl"))
}

fn with(more: &[&'static str], flags: &[&'static str]) -> Vec<&'static str> {
    [more, flags].concat()
}

#[test]
fn after_a_finished_run_only_the_failures_go_out_and_the_files_are_as_if_none_had_been() {
    const COUNT: usize = 40;
    for runtime in runtimes() {
        for more in [
            &[][..],
            &["--format", "openai"],
            &["--format", "blaze"],
            &["--durability", "power"],
        ] {
            let endpoint = Endpoint::new();
            let lines = mixed(COUNT);
            let expect = undisturbed(&endpoint, runtime, &lines, more);
            let place = Place::new();
            place.input(&lines);
            let args = batch_args(&endpoint.mock, runtime, more);
            run(&place, &args).expect(3);
            assert_eq!(place.records("errors.jsonl").len(), bad_texts(COUNT).len());

            let skip = endpoint.mock.requests().len();
            endpoint.relents();
            let again = batch_args(&endpoint.mock, runtime, &with(more, &["--retry-errors"]));
            run(&place, &again).expect(0);
            assert_eq!(endpoint.texts(skip), bad_texts(COUNT), "{runtime} {more:?}");
            assert_eq!(
                normal(&place.read("out.jsonl")),
                expect,
                "{runtime} {more:?}"
            );
            assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
        }
    }
}

#[test]
fn what_fails_again_stays_in_the_error_file_with_its_new_record() {
    for runtime in runtimes() {
        let endpoint = Endpoint::new();
        let place = Place::new();
        let lines = [
            r#"{"input":"bad"}"#,
            "no request",
            "",
            r#"{"input":"good"}"#,
        ];
        place.input(&lines);
        run(&place, &batch_args(&endpoint.mock, runtime, &[])).expect(3);
        let errors = place.read("errors.jsonl");
        // Three times: a finished retry is a finished run.
        for round in 2..=3 {
            let again = batch_args(&endpoint.mock, runtime, &["--retry-errors"]);
            run(&place, &again).expect(3);
            assert_eq!(endpoint.mock.requests().len(), 1 + round, "{runtime}");
            assert_eq!(place.read("errors.jsonl"), errors);
        }
        endpoint.relents();
        run(
            &place,
            &batch_args(&endpoint.mock, runtime, &["--retry-errors"]),
        )
        .expect(3);
        let numbers = |name: &str, pointer: &str| -> Vec<u64> {
            let number = |record: &serde_json::Value| record.pointer(pointer)?.as_u64();
            place.records(name).iter().filter_map(number).collect()
        };
        assert_eq!(numbers("out.jsonl", "/metadata/line_number"), [1, 4]);
        assert_eq!(numbers("errors.jsonl", "/line_number"), [2]);
    }
}

#[test]
fn files_in_order_of_completion_keep_their_records_and_gain_the_new_ones() {
    const COUNT: usize = 60;
    for runtime in runtimes() {
        for order in ["input", "completion"] {
            let endpoint = Endpoint::new();
            let place = Place::new();
            let lines = mixed(COUNT);
            place.input(&lines);
            let args = batch_args(&endpoint.mock, runtime, &["--order", "completion"]);
            run(&place, &args).expect(3);
            // As far from the input's order as can be.
            for name in ["out.jsonl", "errors.jsonl"] {
                let text = String::from_utf8(place.read(name)).expect("UTF-8");
                let reversed: String = text.lines().rev().map(|line| format!("{line}\n")).collect();
                place.write(name, reversed);
            }
            let before = place.read("out.jsonl");
            let skip = endpoint.mock.requests().len();
            endpoint.relents();
            let flags = ["--order", order, "--retry-errors"];
            run(&place, &batch_args(&endpoint.mock, runtime, &flags)).expect(0);
            assert_eq!(endpoint.texts(skip), bad_texts(COUNT), "{runtime} {order}");
            let after = normal(&place.read("out.jsonl"));
            let expect = undisturbed(&endpoint, runtime, &lines, &[]);
            if order == "input" {
                assert_eq!(after, expect);
            } else {
                assert!(after.starts_with(&normal(&before)));
                let set = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
                assert_eq!(set(&after), set(&expect));
            }
        }
    }
}

/// Lines whose records the newest process's only shard has made safe.
fn settled(place: &Place, generation: u32) -> u64 {
    let journal = place.path(&format!("out.jsonl.blaze/journal-{generation:04}-000.log"));
    let bytes = fs::read(journal).unwrap_or_default();
    bytes.get(48..56).map_or(0, |mark| {
        u64::from_le_bytes(mark.try_into().expect("8 bytes"))
    })
}

#[test]
fn a_retry_that_is_killed_goes_on_where_it_was() {
    const COUNT: usize = 40;
    for runtime in runtimes() {
        for resume in ["--retry-errors", "--no-progress"] {
            let endpoint = Endpoint::new();
            let lines = mixed(COUNT);
            let expect = undisturbed(&endpoint, runtime, &lines, &[]);
            let place = Place::new();
            place.input(&lines);
            run(&place, &batch_args(&endpoint.mock, runtime, &[])).expect(3);
            let (output, errors) = (place.read("out.jsonl"), place.read("errors.jsonl"));

            let skip = endpoint.mock.requests().len();
            endpoint.relents();
            endpoint.answers(5);
            // One at a time, so that which were answered is known.
            let flags = ["--retry-errors", "--workers", "1"];
            let mut retry = spawn(&place, &batch_args(&endpoint.mock, runtime, &flags));
            retry.until("five records are safe", || settled(&place, 2) == 5);
            retry.kill();
            assert_eq!(place.read("out.jsonl"), output, "untouched until the end");
            assert_eq!(
                place.read("errors.jsonl"),
                errors,
                "untouched until the end"
            );
            let answered: Vec<_> = support::bodies(&endpoint.mock)[skip..skip + 5].to_vec();

            endpoint.answers(u64::MAX);
            let skip = endpoint.mock.requests().len();
            let args = batch_args(&endpoint.mock, runtime, &[]);
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let args: Vec<_> = args
                .into_iter()
                .filter(|arg| *arg != "--no-progress")
                .chain([resume])
                .collect();
            if resume == "--retry-errors" {
                run(&place, &args).expect(0);
                let bodies = support::bodies(&endpoint.mock)[skip..].to_vec();
                assert_eq!(bodies.len(), bad_texts(COUNT).len() - 5);
                assert!(bodies.iter().all(|body| !answered.contains(body)));
                assert_eq!(normal(&place.read("out.jsonl")), expect);
                assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
            } else {
                // Without the flag the failures stand; what the retry got is kept.
                run(&place, &args).expect(3);
                assert_eq!(endpoint.mock.requests().len(), skip);
                let failed = bad_texts(COUNT).len() - 5;
                assert_eq!(place.records("errors.jsonl").len(), failed);
                assert_eq!(place.records("out.jsonl").len(), COUNT - failed);
            }
        }
    }
}

#[test]
fn resuming_sends_failures_again_only_when_told() {
    const COUNT: usize = 30;
    for runtime in runtimes() {
        for retry in [true, false] {
            let endpoint = Endpoint::new();
            let lines = mixed(COUNT);
            let expect = undisturbed(&endpoint, runtime, &lines, &[]);
            let place = Place::new();
            place.input(&lines);
            endpoint.answers(12);
            let skip = endpoint.mock.requests().len();
            let flags = ["--workers", "1"];
            let mut first = spawn(&place, &batch_args(&endpoint.mock, runtime, &flags));
            first.until("twelve records are safe", || settled(&place, 1) == 12);
            first.kill();
            let answered = support::bodies(&endpoint.mock)[skip..skip + 12].to_vec();
            let failed = answered.iter().filter(|body| body.contains("bad")).count();
            assert!((1..12).contains(&failed), "{failed} of 12 failed");

            endpoint.answers(u64::MAX);
            endpoint.relents();
            let skip = endpoint.mock.requests().len();
            let flags = if retry { &["--retry-errors"][..] } else { &[] };
            let args = batch_args(&endpoint.mock, runtime, flags);
            run(&place, &args).expect(if retry { 0 } else { 3 });
            let bodies = support::bodies(&endpoint.mock)[skip..].to_vec();
            let again = bodies.iter().filter(|body| answered.contains(body));
            let again: Vec<_> = again.collect();
            assert!(again.iter().all(|body| body.contains("bad")), "{again:?}");
            assert_eq!(again.len(), if retry { failed } else { 0 }, "{runtime}");
            assert_eq!(bodies.len(), COUNT - 12 + again.len());
            if retry {
                assert_eq!(normal(&place.read("out.jsonl")), expect);
                assert!(!place.path("errors.jsonl").exists());
            } else {
                assert_eq!(place.records("errors.jsonl").len(), failed);
            }
        }
    }
}

#[test]
fn if_nothing_failed_nothing_is_touched() {
    for runtime in runtimes() {
        for output in [true, false] {
            let endpoint = Endpoint::new();
            endpoint.relents();
            let place = Place::new();
            place.input(&mixed(10));
            let args = |more: &[&str]| {
                let args = batch_args(&endpoint.mock, runtime, more);
                let drop = if output { "" } else { "-o out.jsonl" };
                args.join(" ")
                    .replace(drop, "")
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            run(&place, &args(&[])).expect(0);
            let stamp = || {
                let stat = |path: PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
                (place.listing(), stat(place.path("out.jsonl")))
            };
            let before = stamp();
            let done = run(&place, &args(&["--retry-errors"])).expect(0);
            assert!(done.stderr.contains("nothing to send again"), "{done:?}");
            assert_eq!(endpoint.mock.requests().len(), 10);
            assert_eq!(stamp(), before);
        }
    }
}

#[test]
fn where_no_run_has_finished_it_is_an_ordinary_run() {
    for runtime in runtimes() {
        let endpoint = Endpoint::new();
        endpoint.relents();
        let place = Place::new();
        place.input(&mixed(10));
        run(
            &place,
            &batch_args(&endpoint.mock, runtime, &["--retry-errors"]),
        )
        .expect(0);
        assert_eq!(place.records("out.jsonl").len(), 10);
    }
}

#[test]
fn files_of_another_run_are_refused_and_stay() {
    let endpoint = Endpoint::new();
    let runtime = runtimes()[0];
    let lines = mixed(12);
    let made = Place::new();
    made.input(&lines);
    run(&made, &batch_args(&endpoint.mock, runtime, &[])).expect(3);
    let output = String::from_utf8(made.read("out.jsonl")).expect("UTF-8");
    let errors = String::from_utf8(made.read("errors.jsonl")).expect("UTF-8");
    let requests = endpoint.mock.requests().len();

    let check =
        |input: &[String], output: &str, errors: &str, more: &[&'static str], expect: &str| {
            let place = Place::new();
            place.input(input);
            place.write("out.jsonl", output);
            place.write("errors.jsonl", errors);
            let args = batch_args(&endpoint.mock, runtime, &with(more, &["--retry-errors"]));
            let refused = run(&place, &args).expect(1);
            assert!(refused.stderr.contains(expect), "{expect}: {refused:#?}");
            assert!(refused.stderr.contains("--retry-errors"), "{refused:#?}");
            assert_eq!(place.read("out.jsonl"), output.as_bytes());
            assert_eq!(place.read("errors.jsonl"), errors.as_bytes());
            assert_eq!(place.listing(), ["errors.jsonl", "in.jsonl", "out.jsonl"]);
            assert_eq!(endpoint.mock.requests().len(), requests, "nothing was sent");
        };
    let first = |text: &str| {
        text.lines()
            .next()
            .map(|line| format!("{line}\n"))
            .expect("a line")
    };
    let edited: Vec<_> = lines
        .iter()
        .map(|line| line.replace("good 0", "good 00"))
        .collect();
    check(
        &edited,
        &output,
        &errors,
        &[],
        "line 1 of out.jsonl is not the record",
    );
    let ids: Vec<_> = lines
        .iter()
        .map(|line| line.replace("\"r3\"", "\"r9\""))
        .collect();
    check(&ids, &output, &errors, &[], "is not the record");
    check(&lines[1..], &output, &errors, &[], "is not the record");
    let more = [&lines[..], &[lines[0].clone()]].concat();
    check(
        &more,
        &output,
        &errors,
        &[],
        "line 13 of the input has no record",
    );
    let less = errors.replace(&first(&errors), "");
    check(
        &lines,
        &output,
        &less,
        &[],
        "line 2 of the input has no record",
    );
    let twice = output.clone() + &first(&output);
    check(
        &lines,
        &twice,
        &errors,
        &[],
        "line 9 of out.jsonl is not the record",
    );
    let both = errors.clone() + &first(&errors);
    check(
        &lines,
        &output,
        &both,
        &[],
        "line 5 of errors.jsonl is not the record",
    );
    let foreign = format!("{errors}{{\"a\":1}}\n");
    check(
        &lines,
        &output,
        &foreign,
        &[],
        "line 5 of errors.jsonl is not a record",
    );
    check(
        &lines,
        "",
        &errors,
        &[],
        "line 1 of the input has no record",
    );
    check(
        &lines,
        &output,
        &errors,
        &["--format", "openai"],
        "--format",
    );
}

#[test]
fn without_an_output_what_is_not_in_the_error_file_is_done() {
    const COUNT: usize = 24;
    for runtime in runtimes() {
        for reversed in [false, true] {
            let endpoint = Endpoint::new();
            let place = Place::new();
            place.input(&mixed(COUNT));
            let args = |more: &[&str]| -> Vec<String> {
                let args = batch_args(&endpoint.mock, runtime, more);
                args.into_iter()
                    .filter(|arg| arg != "-o" && arg != "out.jsonl")
                    .collect()
            };
            run(&place, &args(&[])).expect(3);
            if reversed {
                let text = String::from_utf8(place.read("errors.jsonl")).expect("UTF-8");
                let lines: String = text.lines().rev().map(|line| format!("{line}\n")).collect();
                place.write("errors.jsonl", lines);
            }
            let skip = endpoint.mock.requests().len();
            endpoint.relents();
            let done = run(&place, &args(&["--retry-errors", "--json-logs"])).expect(0);
            assert_eq!(endpoint.texts(skip), bad_texts(COUNT));
            let summary = done.stdout.lines().last().expect("a summary");
            let summary: serde_json::Value = serde_json::from_str(summary).expect("JSON");
            assert_eq!(summary["success_count"], COUNT, "{summary}");
            assert_eq!(place.listing(), ["in.jsonl"]);
        }
    }
}

#[test]
fn to_standard_output_go_only_the_new_successes() {
    const COUNT: usize = 12;
    for runtime in runtimes() {
        let endpoint = Endpoint::new();
        let place = Place::new();
        let input = place.input(&mixed(COUNT));
        let input = fs::read(input).expect("the input");
        let args = |more: &[&str]| -> Vec<String> {
            let args = batch_args(&endpoint.mock, runtime, more);
            let change = |arg: String| match arg.as_str() {
                "out.jsonl" | "in.jsonl" => "-".to_owned(),
                _ => arg,
            };
            args.into_iter().map(change).collect()
        };
        let first = run_stdin(&place, &args(&[]), &input).expect(3);
        let failed = bad_texts(COUNT).len();
        assert_eq!(first.stdout.lines().count(), COUNT - failed);
        endpoint.relents();
        let second = run_stdin(&place, &args(&["--retry-errors"]), &input).expect(0);
        assert_eq!(second.stdout.lines().count(), failed);
        assert!(
            second
                .stdout
                .lines()
                .all(|line| !first.stdout.contains(line))
        );
        assert_eq!(place.listing(), ["in.jsonl"]);
    }
}

#[test]
fn a_process_killed_while_it_read_the_files_back_leaves_nothing_that_counts() {
    let endpoint = Endpoint::new();
    let runtime = runtimes()[0];
    let lines = mixed(12);
    let expect = undisturbed(&endpoint, runtime, &lines, &[]);
    let place = Place::new();
    place.input(&lines);
    run(&place, &batch_args(&endpoint.mock, runtime, &[])).expect(3);
    let output = place.read("out.jsonl");
    // As it dies before the manifest: segments and journal in any state.
    fs::create_dir(place.path("out.jsonl.blaze")).expect("a folder");
    place.write("out.jsonl.blaze/lock", "1");
    place.write("out.jsonl.blaze/output-0001-000.seg", &output[..100]);
    place.write("out.jsonl.blaze/journal-0001-000.log", "BLZJRNL\n");
    let skip = endpoint.mock.requests().len();
    endpoint.relents();
    run(
        &place,
        &batch_args(&endpoint.mock, runtime, &["--retry-errors"]),
    )
    .expect(0);
    assert_eq!(endpoint.texts(skip), bad_texts(12));
    assert_eq!(normal(&place.read("out.jsonl")), expect);
    assert_eq!(place.listing(), ["in.jsonl", "out.jsonl"]);
}
