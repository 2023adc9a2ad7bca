//! Where a subscription begins, as it is written on the command line.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::{Cursor, From};
use serde::{Deserialize, Serialize};

/// `earliest`, `live`, `last:N`, `since:T` or `cursor:…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Start {
    Earliest,
    Live,
    Last(u64),
    /// Unix milliseconds.
    Since(u64),
    Cursor(#[serde(with = "cursor_text")] Cursor),
}

/// A cursor as the text that people see: JSON has no maps whose keys are pairs.
mod cursor_text {
    use net::Cursor;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cursor)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Start {
    pub(crate) fn into_from(self) -> From {
        match self {
            Self::Earliest => From::Earliest,
            Self::Live => From::Live,
            Self::Last(n) => From::Last(n),
            Self::Since(ms) => From::Since(ms),
            Self::Cursor(cursor) => From::Cursor(cursor),
        }
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "live" => Ok(Self::Live),
            // A cursor says itself what it is.
            None if text.starts_with("net-cursor") => text.parse().map(Self::Cursor).map_err(|e| format!("{e}")),
            Some(("last", n)) => match n.parse() {
                Ok(n) if n > 0 => Ok(Self::Last(n)),
                _ => Err(format!("`{n}` is no number of events, try `last:10`")),
            },
            Some(("since", t)) => since(t, SystemTime::now()).map(Self::Since),
            Some(("cursor", text)) => text.parse().map(Self::Cursor).map_err(|e| format!("{e}")),
            _ => Err("it is one of earliest, live, last:N, since:T, cursor:…; for example `last:10` or `since:15m`"
                .to_owned()),
        }
    }
}

/// The last time that can be written with four digits for the year; clocks of other nodes may say later ones.
pub(crate) const TIME_MS_MAX: u64 = 253_402_300_799_999;

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Earliest => f.write_str("the earliest event"),
            Self::Live => f.write_str("now on"),
            Self::Last(n) => write!(f, "the last {n} of each origin"),
            Self::Since(ms) => {
                write!(
                    f,
                    "{}",
                    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis((*ms).min(TIME_MS_MAX)))
                )
            }
            Self::Cursor(_) => f.write_str("the cursor"),
        }
    }
}

/// A time: unix milliseconds, a date and time in UTC, or how long ago.
pub(crate) fn since(text: &str, now: SystemTime) -> Result<u64, String> {
    let at = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| format!("`{text}` is too large for a time in milliseconds"));
    } else if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        at
    } else if let Ok(ago) = humantime::parse_duration(text) {
        now.checked_sub(ago).unwrap_or(UNIX_EPOCH)
    } else {
        return Err(format!("`{text}` is no time: `15m` (ago), `2026-01-31T12:00:00Z`, or milliseconds since 1970"));
    };
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!("earliest".parse(), Ok(Start::Earliest));
        assert_eq!("live".parse(), Ok(Start::Live));
        assert_eq!("last:7".parse(), Ok(Start::Last(7)));
        assert_eq!("since:1517363399650".parse(), Ok(Start::Since(1_517_363_399_650)));
        assert_eq!("since:1970-01-01T00:01:00Z".parse(), Ok(Start::Since(60_000)));
        let cursor = Cursor::default();
        assert_eq!(format!("cursor:{cursor}").parse(), Ok(Start::Cursor(cursor.clone())));
        assert_eq!(cursor.to_string().parse(), Ok(Start::Cursor(cursor)));
        let now = UNIX_EPOCH + Duration::from_secs(3600);
        assert_eq!(since("15m", now), Ok(2_700_000));
        assert_eq!(since("2h", now), Ok(0));
    }

    #[test]
    fn cursor_with_positions_passes_through_json() {
        let mut cursor = Cursor::default();
        cursor.set(net::transport::Pair { channel: [1; 32], origin: [2; 32] }, 7);
        let json = serde_json::to_string(&Start::Cursor(cursor.clone())).expect("it has a text form");
        assert_eq!(serde_json::from_str::<Start>(&json).expect("its own"), Start::Cursor(cursor));
    }

    #[test]
    fn what_is_no_start_is_refused_with_an_example() {
        for text in [
            "",
            "first",
            "last",
            "last:",
            "last:0",
            "last:-1",
            "last:x",
            "since:",
            "since:soon",
            "cursor:",
            "cursor:abc",
        ] {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
        assert!("soon".parse::<Start>().is_err_and(|e| e.contains("last:10")));
        assert!("since:soon".parse::<Start>().is_err_and(|e| e.contains("15m")));
    }
}
