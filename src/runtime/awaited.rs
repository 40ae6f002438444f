//! How many answers a thread waits for, and how many have come: what tells a driver of sockets whether it
//! pays to wait for more. Connections tell neither: one may idle, or carry a hundred exchanges.

use std::cell::Cell;

thread_local! {
    static AWAITED: Cell<usize> = const { Cell::new(0) };
    static ENDED: Cell<usize> = const { Cell::new(0) };
}

/// An exchange of this thread, from its request to its end.
pub struct Exchange(());

impl Exchange {
    /// Counts one more.
    pub fn begin() -> Self {
        AWAITED.set(AWAITED.get() + 1);
        Self(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        AWAITED.set(AWAITED.get() - 1);
        ENDED.set(ENDED.get().wrapping_add(1));
    }
}

/// Exchanges of this thread that have not ended.
pub fn count() -> usize {
    AWAITED.get()
}

/// Exchanges of this thread that have ended since it was asked last.
pub fn take_ended() -> usize {
    ENDED.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_are_counted_from_begin_to_end() {
        take_ended();
        let both = [Exchange::begin(), Exchange::begin()];
        assert_eq!((count(), take_ended()), (2, 0));
        drop(both);
        assert_eq!((count(), take_ended()), (0, 2));
        assert_eq!(take_ended(), 0, "they are told once");
    }
}
