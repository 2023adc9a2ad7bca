//! Names of channels, and their hashes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use net_transport::{MeshId, NodeId};
use serde::{Deserialize, Serialize};

use crate::context;

/// The most bytes of a channel's name, and of a pattern.
pub const NAME_LEN_MAX: usize = 255;

/// The segment that [`ChannelName::open`] replaces by the node's id.
pub(crate) const NODE_SEGMENT: &str = "$node";

/// The name of a channel, such as `vehicles/fleet-7/telemetry`. Cheap to clone.
///
/// 1 to 255 bytes; segments of `A-Z a-z 0-9 - _ . : @ ~` separated by `/`; no segment is empty, `.` or `..`. A segment
/// may begin with `$`: those are the system's, and only `$node` may be written by users ([`ChannelName::open`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// The name as a user writes it: each segment `$node` becomes this node's id, 52 letters; other segments that begin
    /// with `$` are refused, being the system's.
    ///
    /// # Errors
    /// [`NameError`] says which byte of `text` is wrong, or that the name is too long once `$node` is replaced.
    pub fn open(text: &str, node: &NodeId) -> Result<Self, NameError> {
        check(text, Rules { wildcards: false, node: true, system: false })?;
        Self::bounded(&replace_node(text, node))
    }

    /// The name as it stands on the wire, where `$node` has been replaced and the system's own segments may stand.
    ///
    /// # Errors
    /// [`NameError`] says which byte is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, Rules { wildcards: false, node: false, system: true })?;
        Self::bounded(text)
    }

    fn bounded(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong { len: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.split('/')
    }

    /// Does a segment begin with `$`, so that the channel belongs to the system?
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.segments().any(|segment| segment.starts_with('$'))
    }

    /// What stands for the channel in keys, signatures and headers of this mesh.
    #[must_use]
    pub fn hash(&self, mesh: &MeshId) -> ChannelHash {
        let mut hasher = blake3::Hasher::new_derive_key(context::CHANNEL);
        hasher.update(&mesh.0).update(self.0.as_bytes());
        ChannelHash(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = NameError;

    /// As [`ChannelName::parse`].
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Serialize for ChannelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChannelName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What stands for a channel of one mesh: BLAKE3 over the mesh id and the name, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelHash(pub [u8; 32]);

impl ChannelHash {
    /// The first 8 bytes, little-endian: the `channel` of a header.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for ChannelHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChannelHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Why text is no name, or no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no text.
    #[error("a channel's name has at least one byte")]
    Empty,
    /// More than [`NAME_LEN_MAX`] bytes.
    #[error("a name of {len} bytes (with $node replaced); the limit is {NAME_LEN_MAX}")]
    TooLong {
        /// Bytes of the name.
        len: usize,
    },
    /// A segment without a byte: a `/` at the beginning, at the end, or after another.
    #[error("the segment at byte {at} is empty: remove the `/`")]
    EmptySegment {
        /// Offset where the segment would begin.
        at: usize,
    },
    /// A segment `.` or `..`.
    #[error("the segment at byte {at} is `.` or `..`, which name nothing here")]
    DotSegment {
        /// Offset of the segment.
        at: usize,
    },
    /// A byte that may not stand there.
    #[error("byte {at} ({:?}) may not stand there: segments consist of A-Z a-z 0-9 - _ . : @ ~", char::from(*.byte))]
    Byte {
        /// Offset of the byte.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// A wildcard that is not a whole segment.
    #[error("the wildcard at byte {at} must be a segment of its own: `*` for one, `**` for any number")]
    Wildcard {
        /// Offset of the `*`.
        at: usize,
    },
    /// A segment of the system's in a name that a user opens.
    #[error("the segment at byte {at} begins with `$`, which only the system's channels do")]
    System {
        /// Offset of the segment.
        at: usize,
    },
    /// `$node` where it has to be replaced already.
    #[error("the `$node` at byte {at} stands for a node's id and must be replaced first")]
    NodeSegment {
        /// Offset of the segment.
        at: usize,
    },
}

/// What may stand in a text beside plain segments.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) wildcards: bool,
    pub(crate) node: bool,
    pub(crate) system: bool,
}

/// Checks each segment; the length only roughly, because `$node` may be replaced by more or fewer bytes.
pub(crate) fn check(text: &str, rules: Rules) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    // A `$node` grows when it is replaced, so what is too long now stays too long.
    if text.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong { len: text.len() });
    }
    let mut at = 0;
    for segment in text.split('/') {
        check_segment(segment, at, rules)?;
        at += segment.len() + 1;
    }
    Ok(())
}

fn check_segment(segment: &str, at: usize, rules: Rules) -> Result<(), NameError> {
    match segment {
        "" => return Err(NameError::EmptySegment { at }),
        "." | ".." => return Err(NameError::DotSegment { at }),
        "*" | "**" if rules.wildcards => return Ok(()),
        NODE_SEGMENT if rules.node => return Ok(()),
        NODE_SEGMENT => return Err(NameError::NodeSegment { at }),
        _ => {}
    }
    let plain = match segment.strip_prefix('$') {
        Some(_) if !rules.system => return Err(NameError::System { at }),
        Some("") => return Err(NameError::Byte { at, byte: b'$' }),
        Some(rest) => rest,
        None => segment,
    };
    let start = at + segment.len() - plain.len();
    match plain.bytes().position(|b| !is_name_byte(b)) {
        None => Ok(()),
        Some(i) => match plain.as_bytes()[i] {
            b'*' if rules.wildcards => Err(NameError::Wildcard { at: start + i }),
            byte => Err(NameError::Byte { at: start + i, byte }),
        },
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'@' | b'~')
}

pub(crate) fn replace_node(text: &str, node: &NodeId) -> String {
    let id = node.to_string();
    let segments: Vec<&str> = text.split('/').map(|s| if s == NODE_SEGMENT { &id } else { s }).collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::from_bytes([7; 32])
    }

    #[test]
    fn plain_names_are_taken_as_they_are() {
        for text in ["a", "vehicles/fleet-7/telemetry", "A.b:c@d~e_f-0/...", "x/.hidden/..x"] {
            assert_eq!(ChannelName::open(text, &node()).expect(text).as_str(), text);
            assert_eq!(ChannelName::parse(text).expect(text).as_str(), text);
        }
    }

    #[test]
    fn node_is_replaced_by_the_id_and_only_as_a_whole_segment() {
        let name = ChannelName::open("metrics/$node/$node", &node()).expect("a good name");
        assert_eq!(name.as_str(), format!("metrics/{0}/{0}", node()));
        assert_eq!(ChannelName::parse("metrics/$node"), Err(NameError::NodeSegment { at: 8 }));
        assert_eq!(ChannelName::open("metrics/$nodes", &node()), Err(NameError::System { at: 8 }));
        assert_eq!(ChannelName::open("metrics/a$node", &node()), Err(NameError::Byte { at: 9, byte: b'$' }));
    }

    #[test]
    fn errors_name_the_byte() {
        let refused = |text: &str| ChannelName::parse(text).expect_err(text);
        assert_eq!(refused(""), NameError::Empty);
        assert_eq!(refused("/a"), NameError::EmptySegment { at: 0 });
        assert_eq!(refused("a/"), NameError::EmptySegment { at: 2 });
        assert_eq!(refused("a//b"), NameError::EmptySegment { at: 2 });
        assert_eq!(refused("ab/../c"), NameError::DotSegment { at: 3 });
        assert_eq!(refused("."), NameError::DotSegment { at: 0 });
        assert_eq!(refused("ab/c d"), NameError::Byte { at: 4, byte: b' ' });
        assert_eq!(refused("ab/*"), NameError::Byte { at: 3, byte: b'*' });
        assert_eq!(refused("a/ü"), NameError::Byte { at: 2, byte: 0xc3 });
        assert_eq!(refused("a/$"), NameError::Byte { at: 2, byte: b'$' });
        assert_eq!(refused("$a$"), NameError::Byte { at: 2, byte: b'$' });
        assert_eq!(refused("a\0"), NameError::Byte { at: 1, byte: 0 });
    }

    #[test]
    fn systems_segments_are_parsed_but_not_opened_by_users() {
        assert!(ChannelName::parse("$rpc/echo/1").expect("the system's").is_system());
        assert_eq!(ChannelName::open("$rpc/echo", &node()), Err(NameError::System { at: 0 }));
        assert_eq!(ChannelName::open("a/$group/b", &node()), Err(NameError::System { at: 2 }));
        assert!(!ChannelName::parse("a/b").expect("a user's").is_system());
    }

    #[test]
    fn the_limit_counts_the_replaced_name() {
        assert!(ChannelName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(ChannelName::parse(&"a".repeat(256)), Err(NameError::TooLong { len: 256 }));
        let long = format!("{}/$node", "a".repeat(202));
        assert!(ChannelName::open(&long, &node()).is_ok());
        let longer = format!("{}/$node", "a".repeat(203));
        assert_eq!(ChannelName::open(&longer, &node()), Err(NameError::TooLong { len: 256 }));
    }

    #[test]
    fn the_hash_depends_on_mesh_and_name_and_the_prefix_is_its_beginning() {
        let (a, b) = (ChannelName::parse("a").expect("good"), ChannelName::parse("b").expect("good"));
        let (one, two) = (MeshId([1; 32]), MeshId([2; 32]));
        assert_ne!(a.hash(&one), a.hash(&two));
        assert_ne!(a.hash(&one), b.hash(&one));
        assert_eq!(a.hash(&one).prefix().to_le_bytes(), a.hash(&one).0[..8]);
    }
}
