//! Text → scalar settings, one spelling for file, environment and flags. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::{Durability, Format, Order, Rate, RuntimeChoice, Workers};

/// Longer durations are typing errors, and `Instant` arithmetic must not overflow: 10 years.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// One request in eleven days. Below it the gap between two requests is no sane duration.
pub(super) const RATE_PER_SECOND_MIN: f64 = 1e-6;

/// Far beyond any network; above it the gap between two requests rounds to nothing.
pub(super) const RATE_PER_SECOND_MAX: f64 = 1e9;

/// What should have been written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("expected {0}")]
pub struct Expected(pub &'static str);

const DURATION: Expected =
    Expected(r#"a duration up to 10 years, as "100ms", "30s", "2m", "1h" or a number of seconds"#);
const BYTES: Expected =
    Expected(r#"a number of bytes, or one with a unit, as "64MiB" (KiB, MiB, GiB)"#);
const BOOLEAN: Expected = Expected("true or false (or 1, 0, yes, no)");
const RATE: Expected =
    Expected("a rate: 0 (no limit), requests per second from 0.000001 to 1000000000, or auto");
const WORKERS: Expected = Expected("a whole number, or auto");
const SOCKET_ADDRESS: Expected =
    Expected("an address and port, as 127.0.0.1:9090 or localhost:9090");

/// A duration: a number with `ms`, `s`, `m` or `h`; without a unit, seconds. At most 10 years.
pub fn parse_duration(text: &str) -> Result<Duration, Expected> {
    // `ms` before `m` and `s`: "100ms" is never 100 minutes nor "100m" seconds.
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let text = text.trim();
    let (number, seconds_per_unit) = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?.trim_end(), *seconds)))
        .unwrap_or((text, 1.0));
    duration_of_seconds(decimal(number).ok_or(DURATION)? * seconds_per_unit)
}

/// A number of seconds, fractions allowed. Refuses what is negative, not a number, or above 10 years.
pub(super) fn duration_of_seconds(seconds: f64) -> Result<Duration, Expected> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or(DURATION)
}

/// A size: a whole number of bytes, or a number with `KiB`, `MiB` or `GiB`.
pub fn parse_bytes(text: &str) -> Result<usize, Expected> {
    const UNITS: [(&str, usize); 4] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("b", 1),
    ];
    let text = text.trim().to_ascii_lowercase();
    let (number, bytes_per_unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim_end(), *bytes)))
        .unwrap_or((&text, 1));
    whole(number)
        .and_then(|number: usize| number.checked_mul(bytes_per_unit))
        .ok_or(BYTES)
}

/// `true`, `yes`, `1`, `on` or `false`, `no`, `0`, `off`, in any case.
pub fn parse_boolean(text: &str) -> Result<bool, Expected> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" | "on" => Ok(true),
        "false" | "no" | "0" | "off" => Ok(false),
        _ => Err(BOOLEAN),
    }
}

/// `ADDRESS:PORT`; `localhost` stands for 127.0.0.1, since a name service is not asked.
pub fn parse_socket_address(text: &str) -> Result<SocketAddr, Expected> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = whole(port).ok_or(SOCKET_ADDRESS)?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| SOCKET_ADDRESS)
}

impl Rate {
    /// `0` is no limit; anything else must lie within 1e-6 and 1e9 requests per second.
    pub fn of_number(per_second: f64) -> Result<Self, Expected> {
        match per_second {
            0.0 => Ok(Self::Unlimited),
            RATE_PER_SECOND_MIN..=RATE_PER_SECOND_MAX => Ok(Self::PerSecond(per_second)),
            _ => Err(RATE),
        }
    }
}

impl FromStr for Rate {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        Self::of_number(decimal(text).ok_or(RATE)?)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("0"),
            Self::PerSecond(rate) => write!(f, "{rate}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Workers {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        whole(text).map(Self::Most).ok_or(WORKERS)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most(count) => write!(f, "{count}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// `FromStr` by a list of names; the message lists them all.
macro_rules! choice {
    ($kind:ident, $expected:literal, $($name:literal => $value:ident),+) => {
        impl FromStr for $kind {
            type Err = Expected;

            fn from_str(text: &str) -> Result<Self, Expected> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $($name => Ok(Self::$value),)+
                    _ => Err(Expected($expected)),
                }
            }
        }
    };
}

choice!(RuntimeChoice, "auto, uring or tokio", "auto" => Auto, "uring" => Uring, "tokio" => Tokio);
choice!(Order, "input or completion", "input" => Input, "completion" => Completion);
choice!(Format, "auto, blaze or openai", "auto" => Auto, "blaze" => Blaze, "openai" => OpenAi);
choice!(Durability, "process or power", "process" => Process, "power" => Power);

/// Digits with at most one point: `f64::from_str` would also take `inf`, `NaN`, `1e300` and a sign.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

/// Digits only: `FromStr` of integers would also take a sign.
pub(super) fn whole<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProviderKind;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("100ms", 100),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("30", 30_000),
            ("0.25", 250),
            (".5s", 500),
            ("1.5 m", 90_000),
            (" 10 ms ", 10),
            ("0", 0),
            ("87600h", 315_360_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "ms",
            "-1s",
            "+1s",
            "1e3",
            "inf",
            "NaN",
            "1.2.3",
            "1d",
            "1 0s",
            "87601h",
            "1m30s",
            "10mss",
            "99999999999999999999999999999999999999",
        ] {
            assert_eq!(parse_duration(text), Err(DURATION), "{text}");
        }
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(duration_of_seconds(seconds), Err(DURATION), "{seconds}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64MiB", 64 << 20),
            ("2 gib", 2 << 30),
            ("1KiB", 1024),
            ("7B", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "1MB",
            "99999999999GiB",
            "18446744073709551616",
        ] {
            assert_eq!(parse_bytes(text), Err(BYTES), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, expect) in [
            ("0", Rate::Unlimited),
            ("0.0", Rate::Unlimited),
            ("1", Rate::PerSecond(1.0)),
            ("0.5", Rate::PerSecond(0.5)),
            ("5000", Rate::PerSecond(5000.0)),
            ("auto", Rate::Auto),
            ("AUTO", Rate::Auto),
        ] {
            assert_eq!(text.parse(), Ok(expect), "{text}");
            assert_eq!(
                expect.to_string().parse(),
                Ok(expect),
                "{text} there and back"
            );
        }
        for text in [
            "",
            "-1",
            "nan",
            "inf",
            "1e3",
            "0.0000001",
            "1000000001",
            "fast",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RATE), "{text}");
        }
    }

    #[test]
    fn workers() {
        for (text, expect) in [
            ("7", Workers::Most(7)),
            (" 0 ", Workers::Most(0)),
            ("Auto", Workers::Auto),
        ] {
            assert_eq!(text.parse(), Ok(expect), "{text}");
            assert_eq!(expect.to_string().parse(), Ok(expect), "{text}");
        }
        for text in ["", "-1", "1.5", "many"] {
            assert_eq!(text.parse::<Workers>(), Err(WORKERS), "{text}");
        }
    }

    #[test]
    fn booleans_and_choices() {
        for text in ["1", "true", "YES", "on"] {
            assert_eq!(parse_boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "false", "No", "off"] {
            assert_eq!(parse_boolean(text), Ok(false), "{text}");
        }
        assert_eq!(parse_boolean("2"), Err(BOOLEAN));
        assert_eq!("uring".parse(), Ok(RuntimeChoice::Uring));
        assert_eq!("power".parse(), Ok(Durability::Power));
        assert_eq!("openai".parse(), Ok(Format::OpenAi));
        assert_eq!("completion".parse(), Ok(Order::Completion));
        assert_eq!("Azure".parse(), Ok(ProviderKind::Azure));
        assert_eq!(
            "gcp".parse::<ProviderKind>(),
            Err(Expected("openai, azure, anthropic"))
        );
    }

    #[test]
    fn socket_addresses() {
        for (text, expect) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(
                parse_socket_address(text).map(|address| address.to_string()),
                Ok(expect.to_owned())
            );
        }
        for text in [
            "",
            "9090",
            "localhost",
            "localhost:+1",
            "localhost:65536",
            "example.com:80",
        ] {
            assert_eq!(parse_socket_address(text), Err(SOCKET_ADDRESS), "{text}");
        }
    }
}
