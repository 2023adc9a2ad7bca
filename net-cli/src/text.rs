//! Sizes, times and tables as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::start::TIME_MS_MAX;

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// A size: `17 B`, `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    // What would be rounded up to 1024.0 is one of the next unit.
    while tenths >= 10 * 1024 - 1 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

/// Reads a size: `4096`, `64MiB`, `1.5 GB`; k, M, G, T, with or without B, are thousands, with an i they are 1024s.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: `64MiB`, `1GB` or a number of bytes");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = |prefix: &str| "kmgt".find(prefix).and_then(|at| u32::try_from(at + 1).ok());
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => Some(1),
        unit => match unit.strip_suffix('i') {
            Some(prefix) if prefix.len() == 1 => power(prefix).map(|power| 1024_u64.pow(power)),
            None if unit.len() == 1 => power(unit).map(|power| 1000_u64.pow(power)),
            _ => None,
        },
    };
    number.checked_mul(factor.ok_or_else(wrong)?).ok_or_else(wrong)
}

/// A number and what it counts: `1 event`, `2 events`.
pub(crate) fn count(n: u64, what: &str) -> String {
    let ending = match what {
        _ if n == 1 => "",
        "batch" => "es",
        _ => "s",
    };
    format!("{n} {what}{ending}")
}

/// A number in three digits: `0.12`, `99.5`, `1.23 M`.
pub(crate) fn number(n: f64) -> String {
    let (n, unit) = match n {
        // What would be rounded up to 1000 is 1 of the next unit.
        n if n < 999.5 => (n, ""),
        n if n < 999_500.0 => (n / 1e3, " k"),
        n if n < 999_500_000.0 => (n / 1e6, " M"),
        n => (n / 1e9, " G"),
    };
    let digits = match n {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{n:.digits$}{unit}")
}

/// A time of a log, in unix nanoseconds, as date and time in UTC.
pub(crate) fn time(ns: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(ms(ns).min(TIME_MS_MAX));
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").replace('Z', "")
}

/// A time of a log, in unix nanoseconds, in milliseconds.
pub(crate) fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// How long ago a time is, in one unit: `5s`, `3h`, `12d`.
pub(crate) fn ago(ns: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let secs = now.saturating_sub(Duration::from_nanos(ns)).as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m", secs / 60),
        3_600..172_800 => format!("{}h", secs / 3_600),
        172_800..63_072_000 => format!("{}d", secs / 86_400),
        _ => format!("{}y", secs / 31_536_000),
    }
}

/// Lines of columns that are as wide as they must be; the first is aligned to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_or_four_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_258_291, "1.2 MiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("2k", 2_000),
            ("2kb", 2_000),
            ("2Ki", 2_048),
            ("10GB", 10_000_000_000),
            ("1t", 1_000_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "B", "MiB", "-1", "1.5", "64 MiBs", "64 kk", "1 i", "1ib", "99999999999G"] {
            assert!(parse_size(text).is_err_and(|e| e.contains("64MiB")), "{text}");
        }
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (n, text) in [
            (0.0, "0.00"),
            (0.125, "0.12"),
            (9.996, "10.0"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.00 k"),
            (1_234.0, "1.23 k"),
            (999_600.0, "1.00 M"),
            (2_345_678.0, "2.35 M"),
            (12.3e9, "12.3 G"),
        ] {
            assert_eq!(number(n), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(100_000_000);
        let at = |secs_ago: u64| (100_000_000 - secs_ago) * 1_000_000_000;
        for (secs, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_200, "2h"), (172_800, "2d"), (94_608_000, "3y")] {
            assert_eq!(ago(at(secs), now), text);
        }
        assert_eq!(ago(u64::MAX, now), "0s", "a clock that was ahead");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["a", "b", "c"]), row(["wide", "100", "7"])]), ["a       b  c", "wide  100  7"]);
        assert_eq!(table(&[]), Vec::<String>::new());
    }

    #[test]
    fn times_and_counts_are_words_for_people() {
        assert_eq!(time(1_517_363_399_650_000_000), "2018-01-31 01:49:59");
        assert_eq!(time(u64::MAX), "2554-07-21 23:34:33");
        assert_eq!((count(1, "event"), count(0, "batch")), ("1 event".to_owned(), "0 batches".to_owned()));
    }
}
