//! Byte buffers that requests share one after the other. A request in flight holds none: it takes one
//! to be written into and one to be read into, each for a moment.
//!
//! The buffers belong to the thread, which is a shard's own; nothing is shared between threads.

use std::cell::RefCell;

/// Buffers kept by a thread: more are in use at once only while a whole turn of its loop writes or
/// settles, or the answers of a turn wait to be read.
const KEPT_MAX: usize = 192;
/// One that grew beyond this is given back to the allocator: a rare huge answer must not hold its
/// memory for the rest of the run. All together that is 12 MiB at most.
const KEPT_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with whatever capacity its last user left.
pub fn take() -> Vec<u8> {
    // A thread that is ending has none.
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_default()
}

/// Takes a buffer back, with whatever is in it.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEPT_BYTES_MAX {
        return;
    }
    buffer.clear();
    // A thread that is ending keeps none.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_unless_it_is_too_large() {
        std::thread::spawn(|| {
            give_back(b"old contents".to_vec());
            let again = take();
            assert!(again.is_empty() && again.capacity() >= 12);
            assert_eq!(take().capacity(), 0, "there was one");
            give_back(Vec::with_capacity(KEPT_BYTES_MAX + 1));
            assert_eq!(take().capacity(), 0, "a large one is not kept");
            for _ in 0..2 * KEPT_MAX {
                give_back(Vec::with_capacity(1));
            }
            let kept = std::iter::repeat_with(take).take_while(|one| one.capacity() > 0);
            assert_eq!(kept.count(), KEPT_MAX);
        })
        .join()
        .expect("the thread passes its assertions");
    }
}
