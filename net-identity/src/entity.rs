//! Entities: whoever signs.

use std::fmt;
use std::str::FromStr;

use net_transport::{BadSignature, KeyTextError, NodeId, ShortId, base32_encode};
use serde::{Deserialize, Serialize};

/// An entity: its ed25519 public key. Nodes, users, services, daemons and authorities are entities.
///
/// Its text form is lower-case base32 without padding, 52 characters; from people a unique prefix is enough
/// ([`resolve_prefix`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityId([u8; 32]);

impl EntityId {
    /// An entity id of these bytes. Whether they are a valid key shows when a signature is checked.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 8-byte hint for tables and headers; never a proof.
    #[must_use]
    pub fn short(&self) -> ShortId {
        ShortId::of(&self.0)
    }

    /// Checks an ed25519 signature of this entity strictly: RFC 8032 without cofactor, and neither the key nor the
    /// point `R` may be of small order, so that one signature verifies one message under one key.
    ///
    /// # Errors
    /// [`BadSignature`] for everything that is not this key's signature of exactly these bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        NodeId::from_bytes(self.0).verify(message, signature)
    }
}

impl From<NodeId> for EntityId {
    fn from(node: NodeId) -> Self {
        Self(*node.as_bytes())
    }
}

impl From<EntityId> for NodeId {
    fn from(entity: EntityId) -> Self {
        Self::from_bytes(entity.0)
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32_encode(&self.0))
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32_encode(&self.0)[..10])
    }
}

impl FromStr for EntityId {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        text.parse::<NodeId>().map(Self::from)
    }
}

/// The one candidate whose text form begins with `prefix`. Upper case is read as lower case.
///
/// # Errors
/// [`PrefixError`] if the prefix is empty or not base32, or fits no candidate, or several.
pub fn resolve_prefix(prefix: &str, candidates: impl IntoIterator<Item = EntityId>) -> Result<EntityId, PrefixError> {
    let prefix = prefix.to_ascii_lowercase();
    if prefix.is_empty() {
        return Err(PrefixError::Empty);
    }
    if let Some(at) = prefix.bytes().position(|b| !matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
        return Err(PrefixError::NotKeyText { at });
    }
    let mut found: Option<EntityId> = None;
    for candidate in candidates {
        if !candidate.to_string().starts_with(&prefix) || found == Some(candidate) {
            continue;
        }
        if let Some(first) = found {
            return Err(PrefixError::Ambiguous { prefix, first, second: candidate });
        }
        found = Some(candidate);
    }
    found.ok_or(PrefixError::Unknown { prefix })
}

/// Why a prefix names no entity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// There is no text.
    #[error("a key, or the first letters of one, is needed")]
    Empty,
    /// A byte that no key contains.
    #[error("byte {at} is not one of a-z and 2-7, of which a key consists")]
    NotKeyText {
        /// Offset of the byte in the prefix.
        at: usize,
    },
    /// No candidate begins like this.
    #[error("no known key begins with {prefix}")]
    Unknown {
        /// What was looked for.
        prefix: String,
    },
    /// Two candidates or more begin like this.
    #[error("{first} and {second} both begin with {prefix}: give more letters")]
    Ambiguous {
        /// What was looked for.
        prefix: String,
        /// One that fits.
        first: EntityId,
        /// Another that fits.
        second: EntityId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8, second: u8) -> EntityId {
        let mut bytes = [7; 32];
        (bytes[0], bytes[1]) = (first, second);
        EntityId::from_bytes(bytes)
    }

    #[test]
    fn text_round_trips_in_52_letters() {
        let text = id(1, 2).to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse(), Ok(id(1, 2)));
        assert_eq!(text[..51].parse::<EntityId>(), Err(KeyTextError));
        assert_eq!(format!("{text}a").parse::<EntityId>(), Err(KeyTextError));
        assert_eq!("".parse::<EntityId>(), Err(KeyTextError));
    }

    #[test]
    fn the_last_letter_has_no_second_spelling() {
        // 52 letters carry 260 bits: the last four must be zero, or one key would have sixteen texts.
        let text = id(1, 2).to_string();
        let others = "abcdefghijklmnopqrstuvwxyz234567".chars().filter(|c| {
            let other = format!("{}{c}", &text[..51]);
            other.parse::<EntityId>().is_ok_and(|parsed| parsed == id(1, 2))
        });
        assert_eq!(others.count(), 1);
    }

    #[test]
    fn a_unique_prefix_finds_its_entity() {
        let all = [id(0x08, 0x42), id(0x08, 0xff), id(0xf0, 0)];
        let text = all[2].to_string();
        assert_eq!(resolve_prefix(&text[..1], all), Ok(all[2]));
        assert_eq!(resolve_prefix(&text.to_ascii_uppercase(), all), Ok(all[2]));
        let shared = &all[0].to_string()[..1];
        assert_eq!(
            resolve_prefix(shared, all),
            Err(PrefixError::Ambiguous { prefix: shared.into(), first: all[0], second: all[1] })
        );
        assert_eq!(resolve_prefix(shared, [all[0], all[0]]), Ok(all[0]), "the same entity twice is one");
        assert_eq!(resolve_prefix("", all), Err(PrefixError::Empty));
        assert_eq!(resolve_prefix("ab1", all), Err(PrefixError::NotKeyText { at: 2 }));
        assert_eq!(resolve_prefix("zzzz", all), Err(PrefixError::Unknown { prefix: "zzzz".into() }));
        let longer = format!("{text}a");
        assert!(matches!(resolve_prefix(&longer, all), Err(PrefixError::Unknown { .. })));
    }
}
