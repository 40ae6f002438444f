//! Spans of time as servers write them: `6m0s`, `12ms`, `1h2m3.5s`, `33 seconds`, `2 minutes`,
//! `1.5`. Pure.

/// A span that makes up all of `text`, in seconds: a duration, or a plain number of seconds.
pub fn seconds(text: &str) -> Option<f64> {
    let (seconds, rest) = leading(text)?;
    rest.is_empty().then_some(seconds)
}

/// A number without sign or exponent that makes up all of `text`.
pub fn number(text: &str) -> Option<f64> {
    let (number, rest) = split_number(text)?;
    rest.is_empty().then_some(number)
}

/// The span at the start of `text`, in seconds, and what follows it. A number without a unit is
/// seconds, if it stands alone: neither `33 requests` nor `2026-01-01` is a span.
pub fn leading(text: &str) -> Option<(f64, &str)> {
    let (value, rest) = split_number(text)?;
    let Some((unit, mut rest)) = split_unit(rest) else {
        let alone = match rest.trim_start().chars().next() {
            None => true,
            Some(next) => !next.is_alphanumeric() && !matches!(next, '-' | ':' | '/' | '%'),
        };
        return alone.then_some((value, rest));
    };
    let mut seconds = value * unit;
    // The parts that follow, as in 1m12s and "2 minutes 5 seconds".
    while let Some((value, after)) = split_number(rest.trim_start()) {
        let Some((unit, after)) = split_unit(after) else {
            break;
        };
        seconds += value * unit;
        rest = after;
    }
    Some((seconds, rest))
}

/// Digits, with decimals or without. What `f64` would parse besides ("inf", "1e9") is no number
/// here; more digits than a span can have are cut off by the plausibility check.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let mut end = whole;
    if let Some(decimals) = text[whole..].strip_prefix('.') {
        let decimals = digits(decimals);
        // The full stop of "in 5." ends a sentence.
        end += if decimals > 0 { 1 + decimals } else { 0 };
    }
    (whole > 0).then_some(())?;
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

/// The seconds in a unit that `text` starts with, spaces before it allowed, and what follows.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start_matches(' ');
    let end = text
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
    let seconds = if is(&["s", "sec", "secs", "second", "seconds"]) {
        1.0
    } else if is(&["ms", "msec", "millis", "millisecond", "milliseconds"]) {
        1e-3
    } else if is(&["m", "min", "mins", "minute", "minutes"]) {
        60.0
    } else if is(&["h", "hr", "hrs", "hour", "hours"]) {
        3600.0
    } else if is(&["d", "day", "days"]) {
        86_400.0
    } else if is(&["us", "\u{b5}s", "\u{3bc}s"]) {
        // Go writes the micro sign.
        1e-6
    } else if is(&["ns"]) {
        1e-9
    } else {
        return None;
    };
    Some((seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_texts() {
        let check = |text: &str, expect: Option<f64>| {
            let found = seconds(text);
            let close = match (found, expect) {
                (Some(found), Some(expect)) => (found - expect).abs() < 1e-9,
                (found, expect) => found == expect,
            };
            assert!(close, "{text:?}: {found:?}, not {expect:?}");
        };
        check("0", Some(0.0));
        check("33", Some(33.0));
        check("1.5", Some(1.5));
        check("6m0s", Some(360.0));
        check("12ms", Some(0.012));
        check("1h2m3.5s", Some(3723.5));
        check("2m59.56s", Some(179.56));
        check("150\u{b5}s", Some(0.00015));
        check("70ns", Some(7e-8));
        check("45.837906927s", Some(45.837_906_927));
        check("2 minutes 5 seconds", Some(125.0));
        check("1 DAY", Some(86_400.0));
        for garbage in [
            "", "-1", "s", "1x", "NaN", "inf", "1e3", "0x10", "+5", ".5", "5,5", "6m0", "1h and",
        ] {
            check(garbage, None);
        }
    }

    #[test]
    fn spans_at_the_start_of_a_sentence() {
        let check =
            |text: &str, expect: Option<(f64, &str)>| assert_eq!(leading(text), expect, "{text:?}");
        check("33 seconds. Bye", Some((33.0, ". Bye")));
        check("6.5s.", Some((6.5, ".")));
        check("5.", Some((5.0, ".")));
        check("20s 3 times", Some((20.0, " 3 times")));
        check("33 requests", None);
        check("2026-01-01", None);
        check("12:30", None);
        check("a moment", None);
    }
}
