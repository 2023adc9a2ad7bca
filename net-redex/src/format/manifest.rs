//! The manifest: two pages written in turn, the newer sound one counts.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LogId, OFFSET_MAX, PAGE_LEN, RECORD_ALIGN, SEGMENT_HEADER_LEN, page_is_sound, seal_page};

/// Bytes of one of the two slots.
pub(crate) const SLOT_LEN: usize = PAGE_LEN;

const MAGIC: [u8; 8] = *b"NETMANIF";
const VERSION: u32 = 1;

/// Up to where the log is known to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Floor {
    /// Base offset of the segment.
    pub(crate) segment: u64,
    /// Byte position in it.
    pub(crate) position: u64,
    /// Offset of the event that would stand there.
    pub(crate) offset: u64,
}

/// The state of a log that its segments do not tell by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The log's random name.
    pub(crate) log: LogId,
    /// Counts up with each write.
    pub(crate) generation: u64,
    /// The channel whose batches it holds; its hash.
    pub(crate) channel: [u8; 32],
    /// The mesh that the batches were signed in.
    pub(crate) mesh: [u8; 32],
    /// The first offset that retention has left.
    pub(crate) first: u64,
    /// Nothing below it may ever be cut.
    pub(crate) floor: Floor,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    log: [u8; 16],
    generation: U64,
    channel: [u8; 32],
    mesh: [u8; 32],
    first: U64,
    floor_segment: U64,
    floor_position: U64,
    floor_offset: U64,
}

impl Manifest {
    /// The page.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; SLOT_LEN] {
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(VERSION),
            zero: U32::ZERO,
            log: self.log.0,
            generation: U64::new(self.generation),
            channel: self.channel,
            mesh: self.mesh,
            first: U64::new(self.first),
            floor_segment: U64::new(self.floor.segment),
            floor_position: U64::new(self.floor.position),
            floor_offset: U64::new(self.floor.offset),
        };
        let mut page = [0; PAGE_LEN];
        page[..size_of::<Fixed>()].copy_from_slice(fixed.as_bytes());
        seal_page(&mut page);
        page
    }

    /// What a slot says, or nothing if it is damaged, empty, of another version, or names an impossible place.
    #[must_use]
    pub(crate) fn decode(page: &[u8]) -> Option<Self> {
        if !page_is_sound(page) {
            return None;
        }
        let (fixed, rest) = Fixed::ref_from_prefix(page).ok()?;
        let zeros = &rest[..rest.len() - 4];
        let known = fixed.magic == MAGIC && fixed.version.get() == VERSION && fixed.zero.get() == 0;
        let (segment, position, offset) =
            (fixed.floor_segment.get(), fixed.floor_position.get(), fixed.floor_offset.get());
        let possible = segment <= offset
            && fixed.first.get() <= offset
            && offset <= OFFSET_MAX
            && position >= SEGMENT_HEADER_LEN as u64
            && position.is_multiple_of(RECORD_ALIGN as u64);
        (known && possible && zeros.iter().all(|b| *b == 0)).then(|| Self {
            log: LogId(fixed.log),
            generation: fixed.generation.get(),
            channel: fixed.channel,
            mesh: fixed.mesh,
            first: fixed.first.get(),
            floor: Floor { segment, position, offset },
        })
    }
}

/// The newest sound slot of a manifest file, and how many of the slots that were ever written are damaged.
#[must_use]
pub(crate) fn newest(file: &[u8]) -> (Option<Manifest>, usize) {
    let mut damaged = 0;
    let mut best: Option<Manifest> = None;
    for page in file.chunks(SLOT_LEN).take(2) {
        match Manifest::decode(page) {
            Some(slot) if best.is_none_or(|best| best.generation < slot.generation) => best = Some(slot),
            Some(_) => {}
            None if page.iter().any(|b| *b != 0) => damaged += 1,
            None => {}
        }
    }
    (best, damaged)
}

/// The version of a sound slot that is not ours: then nothing in the directory is ours to judge.
#[must_use]
pub(crate) fn other_version(file: &[u8]) -> Option<u32> {
    let version = |page| {
        let (fixed, _) = Fixed::ref_from_prefix(page).ok()?;
        (page_is_sound(page) && fixed.magic == MAGIC).then(|| fixed.version.get())
    };
    file.chunks(SLOT_LEN).take(2).filter_map(version).find(|version| *version != VERSION)
}

/// Byte position of the slot that this generation is written to.
#[must_use]
pub(crate) const fn slot_of(generation: u64) -> u64 {
    (generation % 2) * SLOT_LEN as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(generation: u64) -> Manifest {
        Manifest {
            log: LogId([1; 16]),
            generation,
            channel: [2; 32],
            mesh: [3; 32],
            first: 10,
            floor: Floor { segment: 10, position: 4096, offset: 12 },
        }
    }

    #[test]
    fn the_newer_sound_slot_counts() {
        let mut file = [sample(4).encode(), sample(5).encode()].concat();
        assert_eq!(newest(&file), (Some(sample(5)), 0));
        file[SLOT_LEN + 100] ^= 1;
        assert_eq!(newest(&file), (Some(sample(4)), 1));
        file[100] ^= 1;
        assert_eq!(newest(&file), (None, 2));
        assert_eq!(newest(&[]), (None, 0));
        assert_eq!(newest(&[0; 8192]), (None, 0));
        assert_eq!(newest(&sample(1).encode()[..4000]), (None, 1));
        assert_eq!(other_version(&file), None);
    }

    #[test]
    fn impossible_places_and_other_versions_are_no_manifest() {
        let possible = sample(1);
        let with = |floor| Manifest { floor, ..possible };
        for (what, bad) in [
            ("position in the header", with(Floor { position: 64, ..possible.floor })),
            ("position between records", with(Floor { position: 4097, ..possible.floor })),
            ("segment behind the offset", with(Floor { segment: 13, ..possible.floor })),
            ("an offset that nothing could follow", with(Floor { offset: u64::MAX, ..possible.floor })),
            ("first behind the floor", Manifest { first: 13, ..possible }),
        ] {
            assert_eq!(Manifest::decode(&bad.encode()), None, "{what}");
        }
        let mut page = possible.encode();
        page[8] = 2;
        seal_page(&mut page);
        assert_eq!((Manifest::decode(&page), other_version(&page)), (None, Some(2)));
    }
}
