//! Opening: what the disk holds is read, the torn tail is cut, and what has rotted is named.
//!
//! Only what was never synced may be cut. A position is known to be synced if the manifest's floor is above it, or if
//! a sound record or segment after it carries the mark that everything before it was on the disk. Damage below that
//! is rot. Damage above it is a torn write if a sector of it is missing, which is how a disk tears; otherwise it was
//! written whole and is rot too.

use std::io;
use std::ops::Range;

use crate::disk::{DiskFile, write_all};
use crate::files::{Files, Opened};
use crate::format::{Floor, SEGMENT_HEADER_LEN};
use crate::hole::{DotRange, Hole};
use crate::mutants::mutant;
use crate::walk::{Seen, Span, Start, Walk, is_zero};

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The unsynced tail that was cut, if there was one.
    pub torn: Option<Torn>,
    /// Damage above the floor that is not a torn tail; below it, damage is found when it is read or scrubbed.
    pub holes: Vec<Hole>,
    /// Batches that were read to find the end: those since the last checkpoint.
    pub replayed: u64,
    /// Another process has the log open for writing, and this view of it ends at that process's last checkpoint.
    pub beside_writer: bool,
    /// Manifest slots, segment headers and files of other logs that were found damaged or foreign, and passed over.
    pub passed_over: Vec<String>,
}

/// An interrupted write that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Torn {
    /// The first offset that is no more.
    pub offset: u64,
    /// Base offset of the segment it was cut from.
    pub segment: u64,
    /// Byte position of the cut.
    pub position: u64,
    /// Whole batches behind the torn place that were cut with it: none of them had been acknowledged as durable.
    pub batches: u64,
}

/// The end of the log after recovery.
pub(crate) struct Tail {
    pub(crate) base: u64,
    pub(crate) opened: Opened,
    pub(crate) position: u64,
    pub(crate) next_offset: u64,
    pub(crate) last_time: u64,
    /// Records of the last segment, from its beginning.
    pub(crate) records: Vec<Seen>,
}

struct Part {
    base: u64,
    opened: Opened,
    walk: Walk,
}

/// Walks from the floor to the end, decides what is torn, and cuts it. `bases` from the floor's segment on; nothing is
/// looked at from `until` on, if it is given.
pub(crate) fn recover(
    files: &Files<'_>,
    bases: &[u64],
    floor: Floor,
    until: Option<Floor>,
    report: &mut Recovery,
) -> io::Result<Option<Tail>> {
    let mut parts = read_parts(files, bases, floor, until, report)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let synced = synced_up_to(&parts, floor);
    let cut = parts.iter().enumerate().find_map(|(i, part)| {
        let torn = |span: &&Span| (part.base, span.bytes.start) >= synced && span.can_be_torn || mutant!("cut_rot");
        part.walk.spans.iter().find(torn).map(|span| (i, span.bytes.start, span.offsets.start, span.stray))
    });
    if let Some((i, position, offset, stray)) = cut {
        let behind = |part: &Part, from: u64| part.walk.records.iter().filter(|r| r.position >= from).count() as u64;
        let batches = behind(&parts[i], position) + parts[i + 1..].iter().map(|part| behind(part, 0)).sum::<u64>();
        report.replayed -= batches;
        if !stray {
            report.torn = Some(Torn { offset, segment: parts[i].base, position, batches });
        }
        if !files.config.read_only {
            for part in parts.drain(i + 1..).rev() {
                files.disk().remove(&files.segment_path(part.base))?;
            }
            files.disk().sync_dir(files.dir)?;
            clear(&*parts[i].opened.file, position..parts[i].opened.len)?;
        }
        parts.truncate(i + 1);
        let walk = &mut parts[i].walk;
        walk.records.retain(|record| record.position < position);
        walk.spans.retain(|span| span.bytes.start < position);
        (walk.end, walk.next_offset) = (position, offset);
    }
    for part in &parts {
        report.holes.extend(part.walk.spans.iter().filter(|span| !span.stray).map(|span| hole(part.base, span)));
    }
    let Some(Part { base, opened, walk }) = parts.pop() else { return Ok(None) };
    Ok(Some(Tail {
        base,
        opened,
        position: walk.end,
        next_offset: walk.next_offset,
        last_time: walk.last_time,
        records: walk.records,
    }))
}

fn read_parts(
    files: &Files<'_>,
    bases: &[u64],
    floor: Floor,
    until: Option<Floor>,
    report: &mut Recovery,
) -> io::Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for &base in bases {
        let Some(mut opened) = files.open(base)? else {
            report.passed_over.push(format!("{base:016x}.seg belongs to another log"));
            continue;
        };
        if opened.header_damaged {
            report.passed_over.push(format!("{base:016x}.seg has a damaged first page"));
        }
        if let Some(until) = until.filter(|until| until.segment == base) {
            opened.len = opened.len.min(until.position);
        }
        let judged_from = if base == floor.segment { floor.position } else { 0 };
        if !files.config.read_only {
            // What a program that was killed left in the system's memory goes to the disk now. And after a failed
            // sync memory shows what the disk does not have, so what is above the floor is read from the disk itself.
            opened.file.fdatasync()?;
            if !mutant!("trust_cache") {
                opened.file.forget_cache(judged_from)?;
            }
        }
        let mut walk = files.walk(&opened, Start::of_segment(base))?;
        // A file that is shorter than the floor has no room for what was lost, and the log goes on in another one.
        if base == floor.segment && floor.position <= opened.len {
            walk.reaches(floor.position, floor.offset);
        }
        if let Some(before) = parts.last_mut() {
            if base < before.walk.next_offset && walk.records.is_empty() {
                // It was made, and then the batch that it was made for was not written.
                report.passed_over.push(format!("{base:016x}.seg is empty and was never used"));
                if !files.config.read_only {
                    files.disk().remove(&files.segment_path(base))?;
                }
                continue;
            }
            if base > before.walk.next_offset {
                // What lies between was written, if it was, at the end of the segment before.
                before.walk.spans.push(Span {
                    bytes: before.walk.end..before.walk.end,
                    offsets: before.walk.next_offset..base,
                    hint: None,
                    can_be_torn: true,
                    stray: false,
                });
                before.walk.next_offset = base;
            }
        }
        report.replayed += walk.records.iter().filter(|record| record.position >= judged_from).count() as u64;
        parts.push(Part { base, opened, walk });
    }
    Ok(parts)
}

/// The place (segment, position) below which everything was on the disk.
fn synced_up_to(parts: &[Part], floor: Floor) -> (u64, u64) {
    if mutant!("ignore_floor") {
        return (0, 0);
    }
    let floor = (floor.segment, floor.position);
    if mutant!("ignore_marks") {
        return floor;
    }
    let marks = parts.iter().flat_map(|part| {
        let segment = part.opened.params.synced_before.then_some((part.base, 0));
        let records = part.walk.records.iter().filter(|record| record.synced_before);
        segment.into_iter().chain(records.map(|record| (part.base, record.position)))
    });
    marks.fold(floor, Ord::max)
}

/// Makes zeros of what is behind a cut, and returns when they are on the disk.
fn clear(file: &dyn DiskFile, range: Range<u64>) -> io::Result<()> {
    if mutant!("leave_tail") {
        return Ok(());
    }
    let mut at = range.start;
    while at < range.end {
        let len = CLEAR_BYTES.min(usize::try_from(range.end - at).unwrap_or(CLEAR_BYTES));
        let bytes = crate::disk::read_up_to(file, at, len)?;
        if bytes.is_empty() {
            break;
        }
        if !is_zero(&bytes) {
            write_all(file, &vec![0; bytes.len()], at)?;
        }
        at += bytes.len() as u64;
    }
    file.fdatasync()
}

const CLEAR_BYTES: usize = 256 << 10;

pub(crate) fn hole(segment: u64, span: &Span) -> Hole {
    let dots = span.hint.map(|(origin, seq, events)| DotRange {
        origin,
        first: seq,
        last: seq.saturating_add(u64::from(events).saturating_sub(1)),
        certain: false,
    });
    Hole { offsets: span.offsets.clone(), dots: dots.into_iter().collect(), segment, bytes: span.bytes.clone() }
}

impl Tail {
    /// Where the log ends.
    pub(crate) fn floor(&self) -> Floor {
        Floor { segment: self.base, position: self.position.max(SEGMENT_HEADER_LEN as u64), offset: self.next_offset }
    }
}
