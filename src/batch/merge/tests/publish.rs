//! What becomes of a run whose process was killed, or lost its power, around the publication.

use super::super::publish::put_in_place;
use super::*;

const LINES: [(u64, Outcome); 4] = [(2, Success), (1, Success), (3, Failure), (4, Failure)];
const OUTPUT: [(u64, Outcome); 2] = [(1, Success), (2, Success)];
const ERRORS: [(u64, Outcome); 2] = [(3, Failure), (4, Failure)];

/// How far the process came: so many of its two files were in place.
fn publish(place: &Place, lines: &[(u64, Outcome)], in_place: usize) {
    place.process(&[lines]);
    fs::write(place.at("out.jsonl"), "old").expect("a file");
    let opened = place.open();
    let plan = MergePlan {
        overwrite: true,
        begun: None,
        ..plan(place, Order::Input)
    };
    let (publication, mut made) = prepare(&opened.folder, plan, &mut |_, _| {}).expect("prepared");
    opened.folder.publish(&publication).expect("recorded");
    if in_place < 2 {
        made[0] = None;
    }
    if in_place < 1 {
        made[1] = None;
    }
    put_in_place(&made, None).expect("published in part");
}

/// What the next process does: it completes the publication, or merges again.
fn next_process(place: &Place) -> (bool, Merged) {
    let mut opened = place.open();
    let publication = opened.publication.expect("a publication");
    let (output, errors) = (place.at("out.jsonl"), place.at("errors.jsonl"));
    let is_complete = complete(&opened.folder, &publication, Some(&output), &errors);
    let is_complete = is_complete.expect("nothing is refused");
    if is_complete {
        opened.folder.remove().expect("removed");
        return (true, publication.merged);
    }
    let manifest = opened.folder.manifest().clone();
    let resume = opened.folder.resume(&manifest, None).expect("every record");
    let lines = resume.succeeded + resume.failed;
    let plan = plan(place, Order::Input);
    let merged = merge(&opened.folder, plan, lines, &mut |_, _| {}).expect("merged");
    (false, merged)
}

#[test]
fn publishing_is_completed_from_any_step() {
    for in_place in 0..=2 {
        let place = Place::new();
        publish(&place, &LINES, in_place);
        let merged = Merged {
            succeeded: 2,
            failed: 2,
        };
        assert_eq!(next_process(&place), (true, merged), "{in_place}");
        expect_final(&place, &OUTPUT, &ERRORS);
    }
}

/// What a loss of power, a bad disk or a hand leaves of a final file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Empty,
    Cut,
    Zeros,
    OneBit,
    Gone,
    Longer,
}

impl Harm {
    fn inflict(self, path: &Path) {
        let mut bytes = fs::read(path).expect("a file");
        match self {
            Self::Empty => bytes.clear(),
            Self::Cut => bytes.truncate(bytes.len() - 1),
            Self::Zeros => bytes.fill(0),
            Self::OneBit => bytes[7] ^= 1,
            Self::Gone => {}
            Self::Longer => bytes.push(b'\n'),
        }
        // A file of its own: where a segment became the final file, both would be harmed.
        fs::remove_file(path).expect("it goes");
        if !matches!(self, Self::Gone) {
            fs::write(path, bytes).expect("a file");
        }
    }
}

#[test]
fn final_files_that_are_not_what_was_made_are_made_again() {
    let harms = [
        Harm::Empty,
        Harm::Cut,
        Harm::Zeros,
        Harm::OneBit,
        Harm::Gone,
        Harm::Longer,
    ];
    // In the order of the input, one of the files is a segment.
    let sorted = [OUTPUT, ERRORS].concat();
    for lines in [&LINES[..], &sorted] {
        for in_place in 0..=2 {
            for (name, temporary, since) in [
                ("errors.jsonl", "errors.merged", 1),
                ("out.jsonl", "output.merged", 2),
            ] {
                for harm in harms {
                    let place = Place::new();
                    publish(&place, lines, in_place);
                    let path = match in_place >= since {
                        true => place.at(name),
                        false => place.run().join(temporary),
                    };
                    harm.inflict(&path);
                    let (is_complete, merged) = next_process(&place);
                    assert!(!is_complete, "{in_place} {name} {harm:?}");
                    assert_eq!((merged.succeeded, merged.failed), (2, 2));
                    expect_final(&place, &OUTPUT, &ERRORS);
                }
            }
        }
    }
}

/// Not even a folder whose records are gone makes a success of a file that is not what it should be.
#[test]
fn nothing_is_said_of_final_files_when_the_records_are_gone_too() {
    let place = Place::new();
    publish(&place, &LINES, 2);
    Harm::Empty.inflict(&place.at("out.jsonl"));
    for kind in [FileKind::Output, FileKind::Errors, FileKind::Journal] {
        fs::remove_file(place.shard_file(kind, 1, 0)).expect("a file");
    }
    let mut opened = place.open();
    let publication = opened.publication.expect("a publication");
    let (output, errors) = (place.at("out.jsonl"), place.at("errors.jsonl"));
    let is_complete = complete(&opened.folder, &publication, Some(&output), &errors);
    assert!(!is_complete.expect("nothing is refused"));
    let manifest = opened.folder.manifest().clone();
    let error = opened
        .folder
        .resume(&manifest, None)
        .expect_err("no records");
    let text = error.to_string();
    assert!(text.contains("4 records only 0 are left"), "{text}");
    assert!(place.run().exists());
}

/// A copy of a folder ends in its own place, whatever it was copied at, and touches the original nowhere.
#[test]
fn a_copied_folder_ends_in_its_own_place() {
    for in_place in 0..=2 {
        let place = Place::new();
        publish(&place, &LINES, in_place);
        let listing = |folder: &Path| {
            let mut files: Vec<_> = fs::read_dir(folder)
                .expect("a folder")
                .map(|entry| entry.expect("an entry").path())
                .filter(|path| path.is_file())
                .map(|path| (path.clone(), fs::read(path).expect("a file")))
                .collect();
            files.sort();
            files
        };
        let copy = Place::new();
        fs::create_dir(copy.run()).expect("a folder");
        for (path, bytes) in listing(&place.run()) {
            fs::write(copy.run().join(path.file_name().expect("a name")), bytes).expect("a copy");
        }
        let before = (listing(&place.at("")), listing(&place.run()));
        next_process(&copy);
        expect_final(&copy, &OUTPUT, &ERRORS);
        let after = (listing(&place.at("")), listing(&place.run()));
        assert_eq!(before, after, "{in_place}");
        next_process(&place);
        expect_final(&place, &OUTPUT, &ERRORS);
    }
}
