use super::*;
use crate::batch::folder::FileKind;
use crate::batch::folder::fixture::{self, Place};
use crate::batch::segment::ShardLog;
use crate::journal::Outcome::{Failure, Success};

/// A run folder, its input, and what has been delivered.
struct Scene {
    place: Place,
}

impl Scene {
    /// Eight lines; the second and the fourth are blank.
    fn new() -> Self {
        let place = Place::new();
        std::fs::write(place.at("in.jsonl"), "{}\n\n{}\n \n{}\n{}\n{}\n{}").expect("a file");
        Self { place }
    }

    fn plan(&self, order: Order, failures_again: bool) -> DeliveryPlan {
        let input = Arc::new(Input::open(&self.place.at("in.jsonl")).expect("the input"));
        let scan = input.scan(1, 1 << 20);
        assert_eq!((scan.lines, scan.physical_lines), (6, 8));
        DeliveryPlan::new(order, input, &scan, failures_again)
    }

    /// Stands for standard output.
    fn stream(&self) -> Box<dyn Write + Send> {
        Box::new(std::fs::File::create(self.place.at("delivered")).expect("a file"))
    }

    fn delivered(&self) -> String {
        std::fs::read_to_string(self.place.at("delivered")).unwrap_or_default()
    }

    #[track_caller]
    fn assert_delivered(&self, lines: &[u64]) {
        let expect: String = (lines.iter())
            .map(|line| fixture::record(*line, Success))
            .collect();
        assert_eq!(self.delivered(), expect);
    }
}

fn append(log: &mut ShardLog, lines: &[(u64, Outcome)]) {
    for &(number, outcome) in lines {
        let record = fixture::record(number, outcome);
        log.append(fixture::entry(number, outcome), record.as_bytes());
    }
    log.sync().expect("space");
}

#[test]
fn records_leave_as_soon_as_their_turn_comes() {
    for (order, expect) in [
        (Order::Input, [&[][..], &[1, 3], &[1, 3, 6, 7, 8]]),
        // Of one look, by completion, which the fixture has in the order of the lines.
        (
            Order::Completion,
            [&[3, 7], &[3, 7, 1, 6], &[3, 7, 1, 6, 8]],
        ),
    ] {
        let scene = Scene::new();
        let folder = scene.place.open().folder;
        let (mut one, mut other) = (fixture::log(&folder, 0), fixture::log(&folder, 1));
        let plan = scene.plan(order, false);
        let mut deliverer = Deliverer::new(&folder, plan, Arc::default()).expect("space");
        let mut out = Gathered::new(scene.stream(), Arc::default());
        let mut look = |expect: &[u64]| {
            deliverer.look(&mut out).expect("whole");
            out.flush().expect("a stream");
            scene.assert_delivered(expect);
            deliverer.successes
        };
        // What is not written yet does not leave.
        one.append(
            fixture::entry(3, Success),
            fixture::record(3, Success).as_bytes(),
        );
        look(&[]);
        one.sync().expect("space");
        append(&mut other, &[(7, Success)]);
        look(expect[0]);
        append(&mut one, &[(1, Success)]);
        append(&mut other, &[(6, Success)]);
        look(expect[1]);
        append(&mut other, &[(5, Failure)]);
        append(&mut one, &[(8, Success)]);
        assert_eq!(look(expect[2]), 5);
    }
}

#[test]
fn what_earlier_processes_finished_leaves_too() {
    for (order, expect) in [
        (Order::Input, &[1, 3, 5, 6, 8][..]),
        (Order::Completion, &[3, 6, 8, 1, 5]),
    ] {
        for again in [true, false] {
            let scene = Scene::new();
            scene
                .place
                .process(&[&[(3, Success), (6, Success)], &[(7, Failure), (8, Success)]]);
            let folder = scene.place.open().folder;
            let mut log = fixture::log(&folder, 0);
            let plan = scene.plan(order, again);
            let stream = scene.stream();
            let delivery = Delivery::start(&folder, plan, stream, |_| {}).expect("space");
            append(&mut log, &[(1, Success), (5, Success)]);
            if again {
                append(&mut log, &[(7, Failure)]);
            }
            let (successes, _) = delivery.finish(false).expect("a stream").expect("read");
            assert_eq!(successes, 5);
            scene.assert_delivered(expect);
            let index = folder.path().join(crate::batch::folder::DELIVERY_INDEX);
            assert!(!index.exists(), "it goes with the thread");
        }
    }
}

#[test]
fn a_failure_that_is_sent_again_keeps_its_turn() {
    let scene = Scene::new();
    scene.place.process(&[&[(1, Failure), (3, Success)]]);
    let folder = scene.place.open().folder;
    let mut log = fixture::log(&folder, 0);
    let plan = scene.plan(Order::Input, true);
    let stream = scene.stream();
    let delivery = Delivery::start(&folder, plan, stream, |_| {}).expect("space");
    append(&mut log, &[(5, Success)]);
    // The run stops here: line 1 has no new record, so nobody's turn has come.
    let (successes, _) = delivery.finish(true).expect("a stream").expect("read");
    assert_eq!(successes, 0);
    assert_eq!(scene.delivered(), "");
}

#[test]
fn a_finished_run_is_delivered_again_only_if_it_is_whole() {
    for is_whole in [true, false] {
        let scene = Scene::new();
        scene.place.process(&[&[(1, Success), (3, Success)]]);
        let folder = scene.place.open().folder;
        if !is_whole {
            fixture::cut(&scene.place.shard_file(FileKind::Output, 1, 0), 40);
        }
        let plan = scene.plan(Order::Completion, false);
        let stream = scene.stream();
        deliver_again(&folder, plan, 2, stream).expect("a stream");
        scene.assert_delivered(if is_whole { &[1, 3] } else { &[] });
    }
}

/// A stream that refuses.
struct Refuses(io::ErrorKind);

impl Write for Refuses {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_refuses_is_complained_about_at_once() {
    for (kind, is_gone, is_full) in [
        (io::ErrorKind::BrokenPipe, true, false),
        (io::ErrorKind::StorageFull, false, true),
        (io::ErrorKind::PermissionDenied, false, false),
    ] {
        let scene = Scene::new();
        scene.place.process(&[&[(1, Success)]]);
        let folder = scene.place.open().folder;
        let _log = fixture::log(&folder, 0);
        let (heard, complaint) = bounded(1);
        let plan = scene.plan(Order::Input, false);
        let delivery = Delivery::start(&folder, plan, Box::new(Refuses(kind)), move |_| {
            heard.send(()).expect("the test listens");
        })
        .expect("space");
        complaint.recv().expect("before the run is over");
        let error = delivery.finish(true).err().expect("nothing left");
        let seen = match &error {
            DeliveryError::ReaderGone => (true, false),
            DeliveryError::Storage(StorageError::NoSpace { .. }) => (false, true),
            DeliveryError::Storage(_) => (false, false),
        };
        assert_eq!(seen, (is_gone, is_full), "{error}");
    }
}

/// A stream whose reader takes nothing.
struct Stalls(Receiver<()>);

impl Write for Stalls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_run_that_stops_does_not_wait_for_a_reader_that_takes_nothing() {
    let scene = Scene::new();
    scene.place.process(&[&[(1, Success)]]);
    let folder = scene.place.open().folder;
    let (_never, stalls) = bounded(0);
    let plan = scene.plan(Order::Input, false);
    let delivery = Delivery::start(&folder, plan, Box::new(Stalls(stalls)), |_| {}).expect("space");
    assert!(delivery.finish(true).expect("no error").is_none());
}
