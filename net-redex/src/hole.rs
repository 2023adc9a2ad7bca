//! What a log lost, by name.

use std::fmt;
use std::ops::Range;

use net_transport::{Header, ShortId};

/// Events that the log holds no more, or cannot read: damage, never silence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hole {
    /// Their offsets.
    pub offsets: Range<u64>,
    /// Whose they were.
    pub dots: Vec<DotRange>,
    /// Base offset of the segment.
    pub segment: u64,
    /// The bytes in the segment's file that are damaged; empty if the file is missing.
    pub bytes: Range<u64>,
}

/// Seqs of one origin that a hole swallowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DotRange {
    /// Whose.
    pub origin: ShortId,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Whether the index says so, or a checksum; otherwise the damaged bytes themselves do, which is a hint.
    pub certain: bool,
}

impl DotRange {
    /// Whether both name some event.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.origin == other.origin && self.first <= other.last && other.first <= self.last
    }
}

/// The events of a frame that is known to be a batch.
pub(crate) fn dots_of(header: &Header) -> DotRange {
    let last = header.seq() + u64::from(header.events()) - 1;
    DotRange { origin: header.origin(), first: header.seq(), last, certain: true }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offsets {} to {} are damaged:", self.offsets.start, self.offsets.end)?;
        for dot in &self.dots {
            write!(f, " {}:{}..{}", dot.origin, dot.first, dot.last)?;
            if !dot.certain {
                f.write_str(" (perhaps)")?;
            }
        }
        Ok(())
    }
}
