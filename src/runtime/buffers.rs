//! Byte buffers that requests share one after the other. A request in flight holds none: it takes one
//! to be written into and one to be read into, each for a moment.
//!
//! Small buffers hold one request or one answer, large ones what many have to say together. Each comes back
//! to its own shelf: were there one shelf, every buffer would be a large one sooner or later.
//!
//! The buffers belong to the thread, which is a shard's own; nothing is shared between threads.

use std::cell::RefCell;

/// What a small buffer has room for at most: a usual request, or answer.
const SMALL_BYTES_MAX: usize = 8 << 10;
/// Small buffers kept by a thread: more are in use at once only while a whole turn of its loop writes or
/// settles, or the answers of a turn wait to be read. That is 1.5 MiB at most.
const SMALL_KEPT_MAX: usize = 192;
/// A large one that grew beyond this is given back to the allocator: a rare huge answer must not hold its
/// memory for the rest of the run.
const LARGE_BYTES_MAX: usize = 64 << 10;
/// Bytes of large buffers kept. A hundred connections that have something to say at once are rare, and
/// what they need besides is not kept for the next time.
const LARGE_KEPT_BYTES_MAX: usize = 1 << 20;

struct Spare {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    large_bytes: usize,
}

impl Spare {
    fn take_small(&mut self) -> Option<Vec<u8>> {
        self.small.pop()
    }

    fn take_large(&mut self) -> Option<Vec<u8>> {
        let buffer = self.large.pop()?;
        self.large_bytes -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes <= SMALL_BYTES_MAX {
            if self.small.len() < SMALL_KEPT_MAX {
                self.small.push(buffer);
            }
        } else if self.large_bytes + bytes <= LARGE_KEPT_BYTES_MAX {
            self.large_bytes += bytes;
            self.large.push(buffer);
        }
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const {
        RefCell::new(Spare { small: Vec::new(), large: Vec::new(), large_bytes: 0 })
    };
}

/// An empty buffer for one request or answer, with whatever capacity its last user left.
pub fn take() -> Vec<u8> {
    with(|spare| spare.take_small().or_else(|| spare.take_large())).unwrap_or_default()
}

/// An empty buffer for what many have to say, likewise.
pub fn take_large() -> Vec<u8> {
    with(|spare| spare.take_large().or_else(|| spare.take_small())).unwrap_or_default()
}

/// What `buffer` holds, with room for `room` bytes more: in another one if it has to be.
pub fn with_room(buffer: Vec<u8>, room: usize) -> Vec<u8> {
    if buffer.capacity() > 0 && buffer.capacity() - buffer.len() >= room {
        return buffer;
    }
    match buffer.len() + room <= SMALL_BYTES_MAX {
        true => moved(buffer, take(), room),
        false => moved(buffer, take_large(), room),
    }
}

/// What `buffer` holds, in a small one if that will do: for who keeps it while waiting.
pub fn at_rest(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() <= SMALL_BYTES_MAX || buffer.len() > SMALL_BYTES_MAX {
        return buffer;
    }
    moved(buffer, take(), 0)
}

/// Takes a buffer back, with whatever is in it.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGE_BYTES_MAX {
        return;
    }
    buffer.clear();
    with(|spare| {
        spare.keep(buffer);
        None
    });
}

fn moved(from: Vec<u8>, mut to: Vec<u8>, room: usize) -> Vec<u8> {
    to.reserve(from.len() + room);
    to.extend_from_slice(&from);
    give_back(from);
    to
}

/// A thread that is ending has none and keeps none.
fn with(act: impl FnOnce(&mut Spare) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let outcome = SPARE.try_with(|spare| act(&mut spare.borrow_mut()));
    outcome.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, whose shelves are empty.
    fn check(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(test);
        thread.join().expect("the thread passes its assertions");
    }

    fn kept(take: fn() -> Vec<u8>) -> usize {
        let taken = std::iter::repeat_with(take);
        taken.take_while(|one| one.capacity() > 0).count()
    }

    #[test]
    fn a_buffer_comes_back_empty_unless_it_is_too_large() {
        check(|| {
            give_back(b"old contents".to_vec());
            let again = take();
            assert!(again.is_empty() && again.capacity() >= 12);
            assert_eq!(take().capacity(), 0, "there was one");
            give_back(Vec::with_capacity(LARGE_BYTES_MAX + 1));
            assert_eq!(take().capacity(), 0, "a very large one is not kept");
        });
    }

    #[test]
    fn few_large_buffers_are_kept_and_they_take_no_place_of_small_ones() {
        check(|| {
            for _ in 0..2 * SMALL_KEPT_MAX {
                give_back(Vec::with_capacity(LARGE_BYTES_MAX));
            }
            for _ in 0..2 * SMALL_KEPT_MAX {
                give_back(Vec::with_capacity(1));
            }
            assert_eq!(take().capacity(), 1, "a small one for a request");
            assert_eq!(take_large().capacity(), LARGE_BYTES_MAX);
            let large = LARGE_KEPT_BYTES_MAX / LARGE_BYTES_MAX;
            let rest = SMALL_KEPT_MAX - 1 + large - 1;
            assert_eq!(kept(take), rest, "either will do when there is no other");
            give_back(Vec::with_capacity(1));
            give_back(Vec::with_capacity(LARGE_BYTES_MAX));
            assert_eq!(kept(take_large), 2);
        });
    }

    #[test]
    fn what_waits_is_in_a_small_buffer_and_has_room_again_when_it_is_wanted() {
        check(|| {
            let large = with_room(b"half a frame".to_vec(), LARGE_BYTES_MAX / 2);
            assert_eq!(large, b"half a frame");
            assert!(large.capacity() - large.len() >= LARGE_BYTES_MAX / 2);
            assert_eq!(take().capacity(), 12, "what it was in came back");
            let small = at_rest(large);
            assert_eq!(small, b"half a frame");
            assert!(small.capacity() <= SMALL_BYTES_MAX);
            for as_it_is in [small, vec![b'x'; SMALL_BYTES_MAX + 1]] {
                let place = as_it_is.as_ptr();
                let at_rest = at_rest(as_it_is);
                assert_eq!(at_rest.as_ptr(), place, "nothing is won by moving it");
            }
        });
    }
}
