//! When a shard waits for more answers before it goes on with those that are there. Pure.
//!
//! One whose answers come in twos and threes while it works spends more on its turns (system calls, a
//! write of records, on HTTP/2 a TLS record and a packet for each request) than on the answers, if its
//! server is no faster.

use std::time::Duration;

/// How long it waits at most: no answer of a model comes so fast that this would show.
pub(super) const TIME: Duration = Duration::from_micros(50);
/// Completions it waits for.
const ENOUGH: usize = 24;
/// The least it waits for. On HTTP/2 a connection or two bring all answers, and a completion tells of one buffer:
/// of four or five usual answers.
const LEAST: usize = 4;
/// A turn that has ended so many exchanges, or has so many requests to send, was worth its price.
const WORTH: usize = 16;
/// With fewer answers to come, those that are there may be all.
const AWAITED: usize = 2 * ENOUGH;

/// What a turn of the ring begins with.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// The turn before found work, too.
    pub(super) busy: bool,
    /// Exchanges that have ended since.
    pub(super) ended: usize,
    /// Exchanges that wait for their answers.
    pub(super) awaited: usize,
    /// Connections that have something to send.
    pub(super) queued: usize,
    /// Connections that are open.
    pub(super) connections: usize,
}

/// For how many completions it waits; `None`: for none.
pub(super) fn completions(turn: &Turn) -> Option<usize> {
    let waits = turn.busy && turn.ended.max(turn.queued) < WORTH && turn.awaited >= AWAITED;
    waits.then(|| turn.connections.clamp(LEAST, ENOUGH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_shard_with_few_answers_waits_for_more() {
        let few = Turn {
            busy: true,
            ended: 3,
            awaited: 256,
            queued: 3,
            connections: 256,
        };
        let cases = [
            ("many connections", few, Some(24)),
            (
                "five",
                Turn {
                    connections: 5,
                    ..few
                },
                Some(5),
            ),
            (
                "one",
                Turn {
                    connections: 1,
                    ..few
                },
                Some(4),
            ),
            ("nothing ended", Turn { ended: 0, ..few }, Some(24)),
            ("the first turn", Turn { busy: false, ..few }, None),
            ("enough ended", Turn { ended: 16, ..few }, None),
            ("enough to send", Turn { queued: 16, ..few }, None),
            (
                "nearly enough",
                Turn {
                    ended: 15,
                    queued: 15,
                    ..few
                },
                Some(24),
            ),
            ("few are awaited", Turn { awaited: 47, ..few }, None),
            ("just so many", Turn { awaited: 48, ..few }, Some(24)),
        ];
        for (name, turn, expect) in cases {
            assert_eq!(completions(&turn), expect, "{name}");
        }
    }
}
