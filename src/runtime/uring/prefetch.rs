//! Memory that is asked for before it is needed, several pieces at a time.
//!
//! With a thousand requests in flight, what one holds has left the processor's nearer caches when its
//! answer comes. A turn of the ring knows which tasks it is about to wake, and asks for all of them at once
//! instead of waiting for one line of memory after the other.

/// Of one line, at least.
const LINE_BYTES: usize = 64;

/// Asks for `bytes` from `start` on. Only a hint: any address is fine, nothing is read or changed.
pub(super) fn prefetch<T>(start: *const T, bytes: usize) {
    for offset in (0..bytes).step_by(LINE_BYTES) {
        line(start.cast::<i8>().wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
fn line(address: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: part of every x86-64 processor; it never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
}

#[cfg(not(target_arch = "x86_64"))]
fn line(_address: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_will_do() {
        let bytes = [7u8; 200];
        prefetch(bytes.as_ptr(), bytes.len());
        prefetch(bytes.as_ptr(), 1 << 20);
        prefetch(std::ptr::null::<u8>(), 1 << 20);
        prefetch(usize::MAX as *const u8, 200);
        assert_eq!(bytes, [7u8; 200]);
    }
}
