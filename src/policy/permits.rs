//! Exact caps on requests in flight over all shards (`--workers`, `max_concurrent`). Pure.
//!
//! The main thread's [`Permits`] knows how many permits each shard holds; a shard's [`Lease`]
//! counts which of them are in use, so acquiring one costs no message. A permit is either free
//! (main), held (shard) or in a message, never in two places: the cap is exact at every moment.
//!
//! When a shard runs short, others are asked to hand over ([`Action::Recall`]): half of what they
//! have to spare, else the next permit a finished request frees. A shard holding none is served
//! first and may recall from everybody; otherwise only shards without work are asked, and one holding
//! at least two more than the asker, so that saturated shards settle at equal counts and stay there.
//!
//! A cap may move (`--workers auto`). What a lower one takes away is called in at once
//! ([`Action::Withdraw`]) and vanishes as it comes back, whoever returns it first.

use std::collections::VecDeque;

/// What the main thread must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `n` permits now belong to `shard`.
    Grant {
        /// The receiver.
        shard: usize,
        /// Permits, at least 1.
        n: u32,
    },
    /// `shard` is to return something ([`Lease::recall`]).
    Recall {
        /// The receiver.
        shard: usize,
    },
    /// `shard` is to return `n` permits as soon as it can ([`Lease::withdraw`]).
    Withdraw {
        /// The receiver.
        shard: usize,
        /// Permits, at least 1.
        n: u32,
    },
}

/// Main-owned: who holds how many permits.
#[derive(Debug)]
pub struct Permits {
    total: u32,
    free: u32,
    /// Permits that are still held although the cap no longer allows them.
    surplus: u32,
    shards: Vec<Holder>,
    /// Shards that wait for a grant, longest first; each at most once.
    waiting: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    held: u32,
    /// A recall is on its way and nothing has come back since: one at a time.
    recalled: bool,
    /// It has nothing to send now, and keeps at most what its next retry may need.
    idle: bool,
}

impl Permits {
    /// `total` permits split evenly over `shards`. What does not divide goes to the shards from
    /// `offset` on, modulo `shards`: a different offset per cap keeps the odd permits of many
    /// small caps from all landing on shard 0.
    ///
    /// # Panics
    /// If `total` or `shards` is 0; configuration rules that out.
    pub fn new(total: u32, shards: usize, offset: usize) -> Self {
        assert!(total > 0 && shards > 0, "no permits or no shards");
        let count = u32::try_from(shards).expect("a shard is a thread; there are fewer than 2^32");
        let mut holders = vec![
            Holder {
                held: total / count,
                ..Holder::default()
            };
            shards
        ];
        for odd in 0..(total % count) as usize {
            holders[(offset + odd) % shards].held += 1;
        }
        Self {
            total,
            free: 0,
            surplus: 0,
            shards: holders,
            waiting: VecDeque::new(),
        }
    }

    /// The cap.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Whether a lower cap is kept to: until then more permits are held than it allows.
    pub fn is_kept(&self) -> bool {
        self.surplus == 0
    }

    /// What `shard` starts with, before any event: its [`Lease`] is built with it.
    pub fn initial(&self, shard: usize) -> u32 {
        self.shards[shard].held
    }

    /// `shard` has work and no permit to spare. It need not ask again before a grant arrives.
    pub fn handle_want(&mut self, shard: usize, actions: &mut Vec<Action>) {
        if !self.waiting.contains(&shard) {
            self.waiting.push_back(shard);
        }
        self.serve(actions);
    }

    /// `shard` returned `n` permits.
    pub fn handle_return(&mut self, shard: usize, n: u32, actions: &mut Vec<Action>) {
        let holder = &mut self.shards[shard];
        assert!(
            n <= holder.held,
            "shard {shard} returned {n} of {} permits",
            holder.held
        );
        holder.held -= n;
        holder.recalled &= n == 0;
        let vanishing = n.min(self.surplus);
        self.surplus -= vanishing;
        self.free += n - vanishing;
        self.serve(actions);
    }

    /// The cap is `total` from now on. More are granted to those who wait; of a lower cap's surplus
    /// every shard is asked for its part.
    ///
    /// # Panics
    /// If `total` is 0.
    pub fn resize(&mut self, total: u32, actions: &mut Vec<Action>) {
        assert!(total > 0, "no permits");
        if total >= self.total {
            let more = total - self.total;
            let kept = more.min(self.surplus);
            self.surplus -= kept;
            self.free += more - kept;
        } else {
            let less = self.total - total;
            let unused = less.min(self.free);
            self.free -= unused;
            self.surplus += less - unused;
            self.withdraw(less - unused, actions);
        }
        self.total = total;
        self.serve(actions);
    }

    /// Asks for `n` permits back, of each shard in proportion to what it holds.
    fn withdraw(&self, n: u32, actions: &mut Vec<Action>) {
        let (mut left, mut held_by_rest) = (u64::from(n), self.held());
        for (shard, holder) in self.shards.iter().enumerate() {
            let held = u64::from(holder.held);
            let part = (left * held).div_ceil(held_by_rest.max(1)).min(held);
            held_by_rest -= held;
            left -= part.min(left);
            if let Ok(n @ 1..) = u32::try_from(part) {
                actions.push(Action::Withdraw { shard, n });
            }
        }
    }

    fn held(&self) -> u64 {
        let held = self.shards.iter().map(|holder| u64::from(holder.held));
        held.sum()
    }

    /// `shard` has something to send again, or nothing any more: what it had to spare then came in a
    /// return of its own, and what it kept is for whoever asks.
    pub fn handle_working(&mut self, shard: usize, working: bool, actions: &mut Vec<Action>) {
        self.shards[shard].idle = !working;
        if !working {
            self.waiting.retain(|&waiting| waiting != shard);
            self.serve(actions);
        }
    }

    /// Grants what is free, then recalls for those who still wait.
    fn serve(&mut self, actions: &mut Vec<Action>) {
        while self.free > 0 && !self.waiting.is_empty() {
            let index = self
                .waiting
                .iter()
                .position(|&shard| self.shards[shard].held == 0)
                .unwrap_or(0);
            // An even split among those who ask; a single asker gets everything. It cannot hoard:
            // a recall takes half of what it has to spare, at once.
            let n = self.free.div_ceil(self.waiting.len() as u32);
            if let Some(shard) = self.waiting.remove(index) {
                self.free -= n;
                self.shards[shard].held += n;
                actions.push(Action::Grant { shard, n });
            }
        }
        assert_eq!(
            self.held() + u64::from(self.free),
            u64::from(self.total) + u64::from(self.surplus),
            "permits were lost or made up"
        );
        for index in 0..self.waiting.len() {
            self.recall_for(self.waiting[index], actions);
        }
    }

    fn recall_for(&mut self, asker: usize, actions: &mut Vec<Action>) {
        let own = self.shards[asker].held;
        if own == 0 {
            // Whoever finishes a request first serves the asker, hence everybody is told.
            for shard in 0..self.shards.len() {
                if self.shards[shard].held > 0 {
                    self.recall(shard, actions);
                }
            }
        } else {
            for shard in 0..self.shards.len() {
                if self.shards[shard].idle && self.shards[shard].held > 0 {
                    self.recall(shard, actions);
                }
            }
            let richest = (0..self.shards.len()).max_by_key(|&shard| self.shards[shard].held);
            if let Some(shard) = richest.filter(|&shard| self.shards[shard].held >= own + 2) {
                self.recall(shard, actions);
            }
        }
    }

    fn recall(&mut self, shard: usize, actions: &mut Vec<Action>) {
        if !self.shards[shard].recalled {
            self.shards[shard].recalled = true;
            actions.push(Action::Recall { shard });
        }
    }
}

/// Shard-owned: the permits one shard holds. Every return value named "to return" must reach
/// [`Permits::handle_return`] unless it is 0.
#[derive(Debug)]
pub struct Lease {
    granted: u32,
    in_use: u32,
    /// Permits promised to the main thread when requests finish; at most `in_use`.
    owed: u32,
}

impl Lease {
    /// A lease of [`Permits::initial`] permits.
    pub fn new(granted: u32) -> Self {
        Self {
            granted,
            in_use: 0,
            owed: 0,
        }
    }

    /// Takes a permit for one request, if one is to spare. `false`: ask the main thread once.
    pub fn try_acquire(&mut self) -> bool {
        let available = self.available() > 0;
        self.in_use += u32::from(available);
        available
    }

    /// A request finished. Returns the permits to return now (0 or 1).
    pub fn release(&mut self) -> u32 {
        assert!(self.in_use > 0, "released a permit that was not acquired");
        self.in_use -= 1;
        let returned = u32::from(self.owed > 0);
        self.owed -= returned;
        self.granted -= returned;
        returned
    }

    /// `n` permits arrived.
    pub fn grant(&mut self, n: u32) {
        self.granted += n;
    }

    /// The main thread needs permits. Returns what to return at once: half of the spare ones,
    /// rounded up. If none is to spare, the next finished request pays, and 0 comes back.
    pub fn recall(&mut self) -> u32 {
        let returned = self.available().div_ceil(2);
        self.granted -= returned;
        if returned == 0 && self.owed < self.in_use {
            self.owed += 1;
        }
        returned
    }

    /// The cap was lowered. Returns what to return at once of `n` permits; requests in flight pay
    /// the rest as they finish.
    pub fn withdraw(&mut self, n: u32) -> u32 {
        let returned = self.available().min(n);
        self.granted -= returned;
        // A return that was on its way has paid its part already.
        self.owed = (self.owed + (n - returned)).min(self.in_use);
        returned
    }

    /// The shard has nothing to send: returns what it has to spare beyond `keep` permits, to be
    /// returned. To be called again after each [`release`](Self::release) while that is so.
    pub fn surrender(&mut self, keep: u32) -> u32 {
        let returned = self.available().saturating_sub(keep);
        self.granted -= returned;
        self.owed = self.owed.saturating_sub(returned);
        returned
    }

    /// Permits to spare.
    pub fn available(&self) -> u32 {
        self.granted - self.in_use
    }

    /// Requests in flight.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests;
