mod damage;

use super::fixture::{Place, cut, entry, flip, log, manifest, record};
use super::*;
use crate::batch::segment::NewAttempt;
use crate::config::Format;
use crate::journal::HEADER_BYTES;
use crate::journal::Outcome::{Failure, Success};
use std::fs;

fn done(resume: &Resume) -> Vec<u64> {
    (0..200)
        .filter(|number| resume.done.contains(*number))
        .collect()
}

#[test]
fn a_new_run_has_nothing_done_and_a_resumed_one_knows_what_is() {
    let place = Place::new();
    let opened = place.open();
    assert!(opened.resume.is_none() && opened.publication.is_none());
    assert_eq!(opened.folder.generation(), 1);
    drop(opened);
    place.process(&[&[(1, Success), (64, Failure)], &[(130, Success)], &[]]);
    place.process(&[&[(5, Failure)]]);
    let Opened { folder, resume, .. } = place.open();
    let resume = resume.expect("an unfinished run");
    assert_eq!(done(&resume), [1, 5, 64, 130]);
    assert_eq!(
        (resume.succeeded, resume.failed, resume.attempts),
        (2, 2, 8)
    );
    assert_eq!(
        resume.tokens,
        TokenTotals {
            prompt: 40,
            completion: 80,
            cached: 20
        }
    );
    assert_eq!(
        (resume.generation, folder.generation()),
        (3, 3),
        "one generation for each process that wrote"
    );
    assert!(!resume.done.contains(u64::MAX));
}

#[test]
fn an_error_that_was_sent_again_counts_once() {
    let place = Place::new();
    place.process(&[&[(1, Failure), (2, Failure)]]);
    place.process(&[&[(1, Success), (2, Failure)]]);
    let resume = place.open().resume.expect("an unfinished run");
    assert_eq!((resume.succeeded, resume.failed), (1, 1));
    assert!(
        resume.done.succeeded.contains(1)
            && !resume.done.failed.contains(1)
            && resume.done.failed.contains(2)
    );
    assert_eq!(resume.tokens.prompt, 40, "both attempts were paid for");
}

#[test]
fn an_attempt_that_ended_no_line_is_paid_for_and_not_done() {
    let place = Place::new();
    let opened = place.open();
    let mut log = log(&opened.folder, 0);
    log.note_attempt(NewAttempt {
        attempts: 0,
        line_offset: 700,
        line_number: 7,
        completed_us: 1,
        tokens: crate::journal::Tokens {
            prompt: 3,
            completion: 2,
            cached: 1,
        },
        cost_nano_usd: 11,
    });
    assert_eq!(log.buffered(), 1, "it is written like a record");
    log.append(entry(8, Success), record(8, Success).as_bytes());
    log.finish().expect("written");
    drop((log, opened));
    let opened = place.open();
    let resume = opened.resume.as_ref().expect("an unfinished run");
    assert_eq!(done(resume), [8]);
    assert_eq!((resume.succeeded, resume.tokens.prompt), (1, 13));
    let mut costs = Vec::new();
    opened
        .folder
        .each_entry(&mut |entry| costs.push(entry.cost_nano_usd))
        .expect("intact journals");
    assert_eq!(costs, [11, 7]);
}

#[test]
fn attempts_of_an_unfinished_line_count_in_later_processes_until_it_has_its_record() {
    let place = Place::new();
    for attempts in [&[(7, 1), (8, 2), (9, 0)][..], &[(7, 2)]] {
        let opened = place.open();
        let mut log = log(&opened.folder, 0);
        for &(line_number, attempts) in attempts {
            log.note_attempt(NewAttempt {
                line_offset: 100 * line_number,
                line_number,
                completed_us: 1,
                attempts,
                tokens: crate::journal::Tokens::default(),
                cost_nano_usd: 0,
            });
        }
        if attempts.len() == 1 {
            log.append(entry(8, Failure), record(8, Failure).as_bytes());
        }
        log.finish().expect("written");
    }
    let mut resume = place.open().resume.expect("an unfinished run");
    let spent = |resume: &super::Resume| [7, 8, 9].map(|line| resume.done.goes_last(line));
    assert_eq!(spent(&resume), [Some(2), None, None]);
    assert_eq!(resume.attempts, u64::from(entry(8, Failure).attempts));
    // Sent again, a failure has all its attempts.
    assert_eq!(resume.send_failures_again(), 1);
    assert_eq!(spent(&resume), [Some(2), None, None]);
}

#[test]
fn a_second_process_is_refused_by_pid() {
    let place = Place::new();
    let opened = place.open();
    let error = RunFolder::open_or_create(&place.run(), manifest(), true).expect_err("locked");
    let expected = format!(
        "{} is in use by another process (pid {}); wait for it to end",
        place.run().display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
    drop(opened);
    place.open();
}

#[test]
fn another_command_is_refused_and_fresh_throws_the_run_away() {
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    let mut touched = manifest();
    (
        touched.input.mtime_ns,
        touched.input.path,
        touched.created_us,
    ) = (6, "copy.jsonl".to_owned(), 7);
    assert!(
        RunFolder::open_or_create(&place.run(), touched, false)
            .expect("the same run")
            .resume
            .is_some()
    );
    let mut others = [(); 5].map(|()| manifest());
    others[0].input.size = 999;
    others[1].input.fingerprint = "0b".repeat(16);
    others[2].format = Format::OpenAi;
    others[3].max_line_bytes = 5;
    others[4].has_output = false;
    for (other, what) in others.into_iter().zip([
        "input",
        "input",
        "--format",
        "--max-line-bytes",
        "choice of output",
    ]) {
        let error = RunFolder::open_or_create(&place.run(), other.clone(), false)
            .expect_err(what)
            .to_string();
        assert!(
            error.contains(&format!("another {what} (")) && error.contains("--fresh"),
            "{error}"
        );
        assert!(
            place.shard_file(FileKind::Output, 1, 0).exists(),
            "nothing was changed"
        );
    }
    let mut other = manifest();
    other.format = Format::OpenAi;
    let fresh = RunFolder::open_or_create(&place.run(), other, true).expect("a new run");
    assert!(fresh.resume.is_none());
    assert_eq!(fresh.folder.generation(), 1);
    assert!(!place.shard_file(FileKind::Output, 1, 0).exists());
}

#[test]
fn overwrite_once_given_stays() {
    let place = Place::new();
    assert!(!place.open().folder.manifest().overwrite);
    let overwriting = Manifest {
        overwrite: true,
        ..manifest()
    };
    RunFolder::open_or_create(&place.run(), overwriting, false).expect("the same run");
    assert!(place.open().folder.manifest().overwrite);
}

/// Writes the manifest and its copy.
fn write_manifests(place: &Place, text: &str) {
    for name in ["manifest.json", "manifest.copy.json"] {
        fs::write(place.run().join(name), text).expect("a file");
    }
}

#[test]
fn manifests_of_others_are_refused() {
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    let path = place.run().join("manifest.json");
    let whole = fs::read_to_string(&path).expect("a manifest");
    let version = format!("\"version\": {}", manifest::VERSION);
    let (fields, _) = whole.rsplit_once(",\n").expect("a checksum at the end");
    let text = format!("{fields}\n}}\n");
    let other = |version: u64| {
        format!(
            "another version of blaze-uring (format {version}, this one has {})",
            manifest::VERSION
        )
    };
    let cases = [
        (text.replace(&version, "\"version\": 99"), other(99)),
        (text.replace(&version, "\"version\": 2"), other(2)),
        (
            text.replace(&version, "\"version\": 3")
                .replace("running", "publishing"),
            other(3),
        ),
        (
            text.replace(&version, "\"version\": \"x\""),
            "no known version".to_owned(),
        ),
        (
            text[..text.len() / 2].to_owned(),
            "cannot understand".to_owned(),
        ),
        (
            text.replace("\"phase\"", "\"stage\""),
            "unknown field `stage`".to_owned(),
        ),
        (
            text.replace("\"auto\"", "\"xml\""),
            "unknown format xml".to_owned(),
        ),
        (
            whole.replace("\"size\": 1000", "\"size\": 1001"),
            "does not match its checksum".to_owned(),
        ),
        (String::new(), "cannot understand".to_owned()),
    ];
    // The format before, of a run that was not published yet, is the same.
    write_manifests(&place, &text.replace(&version, "\"version\": 3"));
    assert!(place.open().resume.is_some());
    for (text, expected) in cases {
        assert_ne!(text, whole);
        write_manifests(&place, &text);
        let error = RunFolder::open_or_create(&place.run(), manifest(), false)
            .expect_err(&expected)
            .to_string();
        assert!(
            error.contains(&expected)
                && error.contains("manifest.json")
                && error.contains("--fresh"),
            "{error}"
        );
    }
    // One of an earlier build, without a checksum.
    write_manifests(&place, &text);
    assert_eq!(done(&place.open().resume.expect("a run")), [1]);
    write_manifests(&place, "");
    assert!(
        RunFolder::open_or_create(&place.run(), manifest(), true)
            .expect("a new run")
            .resume
            .is_none()
    );
}

#[test]
fn a_manifest_that_is_lost_or_altered_anywhere_is_made_good_by_its_copy() {
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    let path = place.run().join("manifest.json");
    let whole = fs::read(&path).expect("a manifest");
    let check = |what: &str| {
        let resume = place.open().resume.expect(what);
        assert_eq!(done(&resume), [1], "{what}");
        assert_eq!(fs::read(&path).expect("a manifest"), whole, "{what}");
    };
    for at in (0..whole.len()).step_by(7) {
        if whole[at..].starts_with(b"3") || whole[at..].starts_with(b"4") {
            // It may be that of a version.
            continue;
        }
        flip(&path, at);
        check(&format!("byte {at}"));
    }
    cut(&path, 40);
    check("cut");
    fs::write(&path, [0; 300]).expect("zeros");
    check("zeros");
    fs::remove_file(&path).expect("removed");
    assert!(RunFolder::exists(&place.run()));
    check("missing");
}

#[test]
fn a_folder_without_any_record_is_begun_anew_whatever_it_says() {
    let other = Manifest {
        format: Format::OpenAi,
        ..manifest()
    };
    let begins_anew = |place: &Place| {
        let opened = RunFolder::open_or_create(&place.run(), other.clone(), false);
        let opened = opened.expect("nothing is lost by it");
        assert!(opened.resume.is_none());
        assert_eq!(opened.folder.manifest().format, Format::OpenAi);
    };
    // Another command's, before and after its shards began.
    for shards in 0..3 {
        let place = Place::new();
        let opened = place.open();
        (0..shards).for_each(|shard| drop(log(&opened.folder, shard)));
        drop(opened);
        begins_anew(&place);
    }
    // Files that a power loss has emptied, or left as zeros.
    for fill in [0, 4096] {
        let place = Place::new();
        let opened = place.open();
        drop(log(&opened.folder, 0));
        drop(opened);
        for kind in FileKind::ALL {
            fs::write(place.shard_file(kind, 1, 0), vec![0; fill]).expect("a file");
        }
        begins_anew(&place);
    }
    // Nobody knows whose it was.
    let place = Place::new();
    let opened = place.open();
    drop(log(&opened.folder, 0));
    drop(opened);
    write_manifests(&place, "{");
    begins_anew(&place);
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.run()).expect("a folder");
    fs::write(place.run().join("thesis.txt"), "years of work").expect("a file");
    for fresh in [false, true] {
        let error =
            RunFolder::open_or_create(&place.run(), manifest(), fresh).expect_err("foreign");
        assert!(
            error
                .to_string()
                .ends_with("(it holds thesis.txt); move it away"),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(place.run()).expect("a folder").count(),
            1,
            "not even a lock was put there"
        );
    }
    fs::remove_dir_all(place.run()).expect("removed");
    fs::write(place.run(), "a file").expect("a file");
    assert!(matches!(
        RunFolder::open_or_create(&place.run(), manifest(), true),
        Err(FolderError::Foreign { .. })
    ));
}

#[test]
fn a_stray_file_hinders_neither_resuming_nor_removing() {
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    fs::write(place.run().join(".DS_Store"), "").expect("a file");
    let opened = place.open();
    assert!(opened.resume.is_some());
    opened.folder.remove().expect("removed");
    let left: Vec<_> = fs::read_dir(place.run())
        .expect("a folder")
        .map(|entry| entry.expect("a file").file_name())
        .collect();
    assert_eq!(left, [".DS_Store"]);
}

#[test]
fn leftovers_without_a_manifest_are_no_run() {
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    for name in ["manifest.json", "manifest.copy.json"] {
        fs::remove_file(place.run().join(name)).expect("removed");
    }
    assert!(!RunFolder::exists(&place.run()));
    let opened = place.open();
    assert!(opened.resume.is_none());
    assert!(!place.shard_file(FileKind::Journal, 1, 0).exists());
    opened.folder.remove().expect("removed");
    assert!(!place.run().exists());
}

#[test]
fn a_claimed_folder_keeps_its_spool_until_it_is_fresh() {
    let place = Place::new();
    let claim = RunFolder::claim(&place.run(), false).expect("a folder");
    fs::write(claim.spool_path(), "{}\n").expect("a file");
    let opened = claim.open(manifest(), None).expect("a run");
    drop(opened);
    let claim = RunFolder::claim(&place.run(), false).expect("a folder");
    assert!(claim.spool_path().exists());
    drop(claim);
    assert!(
        !RunFolder::claim(&place.run(), true)
            .expect("a folder")
            .spool_path()
            .exists()
    );
}

#[test]
fn torn_tails_are_cut_off() {
    let place = Place::new();
    place.process(&[&[(1, Success), (2, Failure)]]);
    let paths = [FileKind::Output, FileKind::Errors, FileKind::Journal]
        .map(|kind| place.shard_file(kind, 1, 0));
    let whole = paths.each_ref().map(|path| fs::read(path).expect("a file"));
    for (path, bytes) in paths.iter().zip(&whole) {
        fs::write(path, [bytes, &bytes[..20]].concat()).expect("a file");
    }
    assert_eq!(
        done(&place.open().resume.expect("an unfinished run")),
        [1, 2]
    );
    assert_eq!(
        paths.each_ref().map(|path| fs::read(path).expect("a file")),
        whole
    );
}

#[test]
fn records_lost_before_they_were_synced_are_sent_again() {
    let place = Place::new();
    let opened = place.open();
    let mut log = crate::batch::segment::ShardLog::create(
        &opened.folder,
        1,
        0,
        true,
        crate::config::Durability::Power,
    )
    .expect("a shard log");
    let append = |log: &mut crate::batch::segment::ShardLog, number| {
        log.append(entry(number, Success), record(number, Success).as_bytes());
    };
    append(&mut log, 1);
    log.sync().expect("synced");
    (2..=4).for_each(|number| append(&mut log, number));
    log.flush().expect("written, not synced");
    assert_eq!(log.safe(), 1);
    drop((log, opened));
    // The disk kept the journal's pages and lost one of the segment's; no power loss keeps others.
    flip(
        &place.shard_file(FileKind::Output, 1, 0),
        record(1, Success).len() + record(2, Success).len() + 2,
    );
    let resume = place.open().resume.expect("an unfinished run");
    assert_eq!(
        (done(&resume), resume.mended.lines_lost),
        (vec![1, 2, 4], 1)
    );
    assert_eq!(resume.tokens.prompt, 40, "what it cost stays in the books");
    let resume = place.open().resume.expect("an unfinished run");
    assert_eq!(
        (done(&resume), resume.mended.lines_lost),
        (vec![1, 2, 4], 0)
    );
    flip(&place.shard_file(FileKind::Output, 1, 0), 2);
    assert!(
        RunFolder::open_or_create(&place.run(), manifest(), false).is_err(),
        "the synced record must be there"
    );
}

#[test]
fn a_process_that_died_at_birth_leaves_nothing() {
    for journal_bytes in [None, Some(0), Some(HEADER_BYTES as u64 - 1)] {
        let place = Place::new();
        let opened = place.open();
        drop(log(&opened.folder, 0));
        drop(opened);
        let journal = place.shard_file(FileKind::Journal, 1, 0);
        match journal_bytes {
            Some(bytes) => cut(&journal, bytes),
            None => fs::remove_file(&journal).expect("removed"),
        }
        let opened = place.open();
        assert_eq!(done(&opened.resume.expect("an unfinished run")), [0; 0]);
        assert!(!journal.exists() && !place.shard_file(FileKind::Errors, 1, 0).exists());
    }
}

#[test]
fn a_journal_of_another_run_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    place.process(&[&[(1, Success)]]);
    other.process(&[&[(1, Success)]]);
    let journal = |place: &Place| place.shard_file(FileKind::Journal, 1, 0);
    fs::copy(journal(&other), journal(&place)).expect("copied");
    let error = RunFolder::open_or_create(&place.run(), manifest(), false)
        .expect_err("damage")
        .to_string();
    assert!(error.contains("belongs to another run"), "{error}");
}

#[test]
#[cfg(unix)]
fn the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.process(&[&[(1, Success)]]);
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&place.run()), 0o700);
    for entry in fs::read_dir(place.run()).expect("a folder") {
        let path = entry.expect("a file").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
