//! Numbers with units, addresses and variables, from text and back.

use super::BindAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A whole number in decimal digits, nothing else.
pub(crate) fn parse_integer(given: &str) -> Option<u64> {
    given.bytes().all(|byte| byte.is_ascii_digit()).then(|| given.parse().ok()).flatten()
}

/// Units of sizes, as Redis reads them: `k` is 1000, `kb` is 1024.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1 << 30),
];

/// A size: digits and a unit, in any case.
pub(crate) fn parse_bytes(given: &str) -> Option<u64> {
    let (digits, unit) = split_unit(given)?;
    let unit = unit.to_ascii_lowercase();
    let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?;
    parse_integer(digits)?.checked_mul(*factor)
}

/// The shortest text that `parse_bytes` reads as this size.
pub(crate) fn show_bytes(bytes: u64) -> String {
    for (unit, factor) in [("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Units of time, in microseconds.
const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// A span of time: digits, perhaps with a fraction, and a unit. To the microsecond.
pub(crate) fn parse_duration(given: &str) -> Option<Duration> {
    let (digits, unit) = split_unit(given)?;
    let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut us = parse_integer(whole)?.checked_mul(*factor)?;
    let mut place = *factor;
    for digit in fraction.bytes() {
        place /= 10;
        us = us.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * place)?;
    }
    Some(Duration::from_micros(us))
}

/// The shortest text that `parse_duration` reads as this span.
pub(crate) fn show_duration(span: Duration) -> String {
    let us = span.as_micros();
    for (unit, factor) in DURATION_UNITS {
        let factor = u128::from(factor);
        if us >= factor && us.is_multiple_of(factor) {
            return format!("{}{unit}", us / factor);
        }
    }
    format!("{us}s")
}

/// Number and unit; `None` if there is no number.
fn split_unit(given: &str) -> Option<(&str, &str)> {
    let end = given.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(given.len());
    let (digits, unit) = given.split_at(end);
    (!digits.is_empty()).then(|| (digits, unit.trim_start()))
}

/// The addresses of Redis's `bind`.
///
/// # Errors
/// The word that is no address.
pub(crate) fn parse_addresses(words: &[&str]) -> Result<Vec<BindAddress>, String> {
    words
        .iter()
        .map(|word| {
            let (rest, optional) = word.strip_prefix('-').map_or((*word, false), |rest| (rest, true));
            let ip = match rest {
                "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                "::*" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                _ => rest.parse().map_err(|_| (*word).to_owned())?,
            };
            Ok(BindAddress { ip, optional })
        })
        .collect()
}

/// The inverse of [`parse_addresses`] for one.
pub(crate) fn show_address(address: &BindAddress) -> String {
    format!("{}{}", if address.optional { "-" } else { "" }, address.ip)
}

/// Replaces each `${NAME}` by the variable of the environment.
///
/// # Errors
/// Which variable is not set, or that a `${` has no end. Never quotes the text itself.
pub(crate) fn substitute_environment(given: &str) -> Result<String, String> {
    let mut text = String::with_capacity(given.len());
    let mut rest = given;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        let end = after.find('}').ok_or("a \"${\" has no \"}\"")?;
        let name = &after[..end];
        let value = std::env::var(name).map_err(|_| format!("the environment has no variable {name:?}"))?;
        text.push_str(before);
        text.push_str(&value);
        rest = &after[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_redis_reads_them() {
        let sizes = [
            ("0", 0),
            ("1k", 1000),
            ("1kb", 1024),
            ("2MB", 2 << 20),
            ("1g", 1_000_000_000),
            ("3gb", 3 << 30),
            ("7b", 7),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5gb", "1tb", "1 0", "99999999999999999999", "20000000000gb"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_may_have_a_fraction() {
        let spans = [
            ("50ms", 50_000),
            ("2s", 2_000_000),
            ("1.5s", 1_500_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("250us", 250),
        ];
        for (text, us) in spans {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(us)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.x5s", "1s2ms", "1 week", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for us in [0, 1, 999, 1_000, 1_500, 60_000_000, 61_000_000, 3_600_000_000, 86_400_000_000 * 365] {
            let span = Duration::from_micros(us);
            assert_eq!(parse_duration(&show_duration(span)), Some(span));
        }
        for bytes in [0, 1, 1000, 1024, 1 << 20, (1 << 30) + 1, u64::MAX] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
    }

    #[test]
    fn bind_takes_what_redis_takes() {
        let addresses = parse_addresses(&["127.0.0.1", "-::1", "*", "-::*"]).expect("valid");
        let shown: Vec<String> = addresses.iter().map(show_address).collect();
        assert_eq!(shown, ["127.0.0.1", "-::1", "0.0.0.0", "-::"]);
        assert_eq!(parse_addresses(&["127.0.0.1", "example.org"]), Err("example.org".to_owned()));
    }

    #[test]
    fn variables_are_replaced_and_missing_ones_named() {
        let path = std::env::var("PATH").expect("tests run with a PATH");
        assert_eq!(substitute_environment("a${PATH}b$c"), Ok(format!("a{path}b$c")));
        assert_eq!(
            substitute_environment("p4ss${LEASEHOLD_NO_SUCH}").unwrap_err(),
            "the environment has no variable \"LEASEHOLD_NO_SUCH\""
        );
        assert_eq!(substitute_environment("p4ss${X").unwrap_err(), "a \"${\" has no \"}\"");
    }
}
