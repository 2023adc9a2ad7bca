//! Where a subscriber stands: the next seq of each origin in each channel.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use net_transport::{Pair, base32_decode, base32_encode};
use serde::{Deserialize, Serialize};

/// The next seq of each (channel, origin). Small, ordered, portable: any node that has the events can serve it.
///
/// Its text form is `net-cursor1` and base32; serde gives the same data to programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    next: BTreeMap<Pair, u64>,
}

/// The most positions in a cursor that is read from text.
const POSITIONS_MAX: usize = 65_536;
const PREFIX: &str = "net-cursor1";

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: it begins with `{PREFIX}` and is copied whole, as a subscription printed it")]
pub struct CursorError;

impl Cursor {
    /// The next seq of this pair, if the cursor knows it.
    #[must_use]
    pub fn next(&self, pair: &Pair) -> Option<u64> {
        self.next.get(pair).copied()
    }

    /// Sets the next seq of this pair.
    pub fn set(&mut self, pair: Pair, next: u64) {
        self.next.insert(pair, next);
    }

    /// All positions, in order of pair.
    pub fn iter(&self) -> impl Iterator<Item = (&Pair, u64)> {
        self.next.iter().map(|(pair, next)| (pair, *next))
    }

    /// Whether it names no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_extend(self, Vec::new()).expect("a Vec grows and a map of numbers serialises");
        write!(f, "{PREFIX}{}", base32_encode(&bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(s: &str) -> Result<Self, CursorError> {
        let bytes = s.trim().strip_prefix(PREFIX).and_then(base32_decode).ok_or(CursorError)?;
        match postcard::take_from_bytes::<Self>(&bytes) {
            Ok((cursor, [])) if cursor.next.len() <= POSITIONS_MAX => Ok(cursor),
            _ => Err(CursorError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_text_round_trips_and_damage_is_refused() {
        let mut cursor = Cursor::default();
        cursor.set(Pair { channel: [1; 32], origin: [2; 32] }, 77);
        cursor.set(Pair { channel: [1; 32], origin: [3; 32] }, u64::MAX);
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        assert_eq!(text[..text.len() - 2].parse::<Cursor>(), Err(CursorError));
        assert_eq!("12".parse::<Cursor>(), Err(CursorError));
    }
}
