//! Memory that the kernel fills with what sockets receive, lent to it buffer by buffer.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Buffers of a ring; a power of two. More answers may come at once: their sockets then wait a turn.
pub(super) const COUNT: u16 = 256;
/// Bytes of a buffer: a usual answer and its head.
const BYTES: usize = 4096;
/// The only group of buffers on a ring.
pub(super) const GROUP: u16 = 0;
/// The kernel wants the ring of entries to begin on a page.
const PAGE: usize = 4096;

/// The buffers of one ring (`io_uring_register_buf_ring(3)`), for one thread.
///
/// A buffer belongs to the kernel from [`Buffers::give`] until a completion names it, and to whoever
/// was told of that completion until it is given back.
pub(super) struct Buffers {
    /// `COUNT` entries, shared with the kernel, which reads them up to the tail.
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: Cell<u16>,
}

fn entries_layout() -> Layout {
    let entries = Layout::array::<BufRingEntry>(usize::from(COUNT)).expect("a few KiB");
    entries.align_to(PAGE).expect("a page is a power of two")
}

fn memory_layout() -> Layout {
    Layout::from_size_align(usize::from(COUNT) * BYTES, PAGE).expect("a few MiB")
}

impl Buffers {
    /// Allocates the buffers and gives all of them to the kernel. Fails before Linux 5.19.
    ///
    /// # Safety
    ///
    /// The buffers must not be dropped before `ring`, nor while it is being closed by the kernel.
    pub(super) unsafe fn register(ring: &IoUring) -> io::Result<Self> {
        let allocate = |layout| {
            // SAFETY: neither layout is empty.
            NonNull::new(unsafe { alloc_zeroed(layout) })
                .unwrap_or_else(|| handle_alloc_error(layout))
        };
        let buffers = Self {
            entries: allocate(entries_layout()).cast(),
            memory: allocate(memory_layout()),
            tail: Cell::new(0),
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the memory is as large as said, zeroed, and lives as long as the caller promises.
        unsafe {
            ring.submitter().register_buf_ring(address, COUNT, GROUP)?;
        }
        (0..COUNT).for_each(|number| buffers.give(number));
        Ok(buffers)
    }

    /// Gives a buffer to the kernel. Its bytes may change from here on.
    pub(super) fn give(&self, number: u16) {
        let tail = self.tail.get();
        // SAFETY: the index is within the ring, and the kernel does not look at entries from the
        // tail on. Only this thread writes.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(tail % COUNT));
            entry.set_addr(self.start(number) as u64);
            entry.set_len(BYTES as u32);
            entry.set_bid(number);
        }
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail lies within the first entry, in a field that `give` never writes
        // otherwise, aligned for 16 bits; both sides access it atomically.
        unsafe {
            let shared = BufRingEntry::tail(self.entries.as_ptr());
            AtomicU16::from_ptr(shared.cast_mut()).store(tail, Ordering::Release);
        }
    }

    /// The first `count` bytes of a buffer that the kernel has filled and that was not given back.
    pub(super) fn bytes(&self, number: u16, count: u16) -> &[u8] {
        assert!(usize::from(count) <= BYTES, "within one buffer");
        // SAFETY: within the allocation, initialised (zeroed at first), and the kernel does not
        // write to a buffer before it is given back, which the borrow of its finder forbids.
        unsafe { std::slice::from_raw_parts(self.start(number), usize::from(count)) }
    }

    fn start(&self, number: u16) -> *mut u8 {
        assert!(number < COUNT, "one of our buffers");
        // SAFETY: within the allocation, by the assertion.
        unsafe { self.memory.as_ptr().add(usize::from(number) * BYTES) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts; the kernel is done with them by the promise made to
        // `register`.
        unsafe {
            dealloc(self.entries.cast().as_ptr(), entries_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}
