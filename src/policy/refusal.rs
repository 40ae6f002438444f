//! What an answer that refuses a line means for that line. Pure.
//!
//! One line's answer decides about that line: an endpoint is judged by what it does to several
//! ([`health`](super::health)), a line by what this table says.
//!
//! | refused | the line |
//! |---|---|
//! | the way it is spoken to (TLS) by an endpoint that never answered well | waits, since the endpoint is out |
//! | key (401) | waits for the endpoint's fate; refused again while others are answered, it fails |
//! | request (403) | its record waits for the endpoint's fate; from an endpoint that never answered well it goes elsewhere first, once |
//! | path (404, 405, redirect) | waits where nothing ever succeeded, since the endpoint is out; else it fails |
//! | model | goes to an endpoint that is not known to lack the model, else it fails |
//! | no money | stays unfinished |
//! | anything else that is final | fails; from an endpoint that never answered well it goes elsewhere first, once |
//!
//! A line whose answer was the reason for which an earlier process of the run has stopped is *known*: it
//! fails by what it meets again, whatever that is, or no repetition of the command could ever get past it.

/// What was refused, as far as it matters for the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// How the endpoint is spoken to, whatever the line. One that has answered a line well is spoken to
    /// rightly: what it says of this is a failure that another attempt may cure.
    Transport,
    /// The key: 401.
    Key,
    /// Perhaps the key, perhaps this line: 403.
    Request,
    /// The path: 404, 405, redirects.
    Path,
    /// The model.
    Model,
    /// There is no money, or no quota before tomorrow.
    Money,
    /// The line for a reason of its own, for good.
    Line,
}

/// What is known of a line that was refused, and of the endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What was refused.
    pub what: Refused,
    /// The endpoint has answered some line well.
    pub is_well: bool,
    /// The line was the reason for an earlier process' end.
    pub is_known: bool,
    /// The line was sent elsewhere before, because an endpoint that had answered nothing well refused it.
    pub was_sent_elsewhere: bool,
    /// The line was refused for its key before.
    pub key_was_refused: bool,
    /// The request was to decide whether its endpoint may be used again.
    pub is_probe: bool,
    /// Another endpoint is usable now; for [`Refused::Model`]: and not known to lack the model.
    pub elsewhere: bool,
    /// The line may be sent again.
    pub has_attempts_left: bool,
}

/// What becomes of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It has its failure record.
    Fails,
    /// It is sent to another endpoint at once, which costs it the attempt.
    GoesElsewhere,
    /// Its failure record is kept back until the endpoint has answered another line, or is out.
    IsHeld,
    /// It costs no attempt, and is sent when an endpoint can be used.
    Waits,
}

/// The table of the module.
pub fn rule(case: &Case) -> Ruling {
    let once_elsewhere =
        !case.is_well && case.elsewhere && !case.was_sent_elsewhere && case.has_attempts_left;
    let fails_here = match once_elsewhere {
        true => Ruling::GoesElsewhere,
        false => Ruling::Fails,
    };
    match case.what {
        Refused::Transport => Ruling::Waits,
        // Money that has run out refuses every line. A known one fails only where others were paid for.
        Refused::Money => match case.is_known && case.is_well {
            true => Ruling::Fails,
            false => Ruling::Waits,
        },
        Refused::Model if case.elsewhere => Ruling::Waits,
        Refused::Model => Ruling::Fails,
        _ if case.is_known => fails_here,
        Refused::Line => fails_here,
        Refused::Request => match once_elsewhere {
            true => Ruling::GoesElsewhere,
            false => Ruling::IsHeld,
        },
        Refused::Path => match case.is_well {
            true => Ruling::Fails,
            false => Ruling::Waits,
        },
        // Between its two refusals a probe was answered, or this would be it.
        Refused::Key => match case.is_well && case.key_was_refused && !case.is_probe {
            true => Ruling::Fails,
            false => Ruling::Waits,
        },
    }
}

/// What a line has met, as far as it must be remembered while the line waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marks(u8);

impl Marks {
    /// It was the reason for which an earlier process of the run has stopped.
    pub const KNOWN: Self = Self(1);
    /// It was sent elsewhere, see [`Ruling::GoesElsewhere`].
    pub const SENT_ELSEWHERE: Self = Self(2);
    /// It was refused for its key.
    pub const KEY_REFUSED: Self = Self(4);

    /// How many bits they take.
    pub const BITS: u32 = 3;

    /// As a number of [`Self::BITS`] bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Of the lowest [`Self::BITS`] bits.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// Whether `other` is among these.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `known`, `well`, `elsewhere` and so on among these words set what they say.
    fn ruled(what: Refused, words: &str) -> Ruling {
        let has = |word: &str| words.split(' ').any(|said| said == word);
        rule(&Case {
            what,
            is_well: has("well"),
            is_known: has("known"),
            was_sent_elsewhere: has("sent"),
            key_was_refused: has("again"),
            is_probe: has("probe"),
            elsewhere: has("elsewhere"),
            has_attempts_left: !has("last"),
        })
    }

    #[test]
    fn the_table() {
        use Refused::{Key, Line, Model, Money, Path, Request};
        use Ruling::{Fails, GoesElsewhere, IsHeld, Waits};
        let table: &[(Refused, &str, Ruling)] = &[
            (Refused::Transport, "", Waits),
            (Refused::Transport, "known well again elsewhere", Waits),
            (Line, "", Fails),
            (Line, "elsewhere", GoesElsewhere),
            (Line, "elsewhere sent", Fails),
            (Line, "elsewhere last", Fails),
            (Line, "elsewhere well", Fails),
            (Request, "", IsHeld),
            (Request, "well", IsHeld),
            (Request, "well elsewhere", IsHeld),
            (Request, "elsewhere", GoesElsewhere),
            (Request, "elsewhere sent", IsHeld),
            (Request, "known", Fails),
            (Request, "known elsewhere", GoesElsewhere),
            (Request, "known elsewhere sent", Fails),
            (Path, "", Waits),
            (Path, "elsewhere", Waits),
            (Path, "well", Fails),
            (Path, "known", Fails),
            (Model, "", Fails),
            (Model, "elsewhere", Waits),
            (Model, "elsewhere well known last", Waits),
            (Key, "", Waits),
            (Key, "well", Waits),
            (Key, "again", Waits),
            (Key, "well again", Fails),
            (Key, "well again probe", Waits),
            (Key, "known", Fails),
            (Money, "", Waits),
            (Money, "well", Waits),
            (Money, "known", Waits),
            (Money, "known well", Fails),
        ];
        for &(what, words, expect) in table {
            assert_eq!(ruled(what, words), expect, "{what:?}: {words}");
        }
    }

    #[test]
    fn marks_add_up() {
        let marks = Marks::KNOWN.with(Marks::KEY_REFUSED);
        assert!(marks.has(Marks::KNOWN) && marks.has(Marks::KEY_REFUSED));
        assert!(!marks.has(Marks::SENT_ELSEWHERE) && !Marks::default().has(Marks::KNOWN));
    }
}
