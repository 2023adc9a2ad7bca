//! Reading: positions, batches that borrow from the mapped file, and following a log that grows.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use net_channel::Cursor;
use net_transport::{Header, Pair, ShortId};

use crate::core::{Core, lock};
use crate::error::At;
use crate::format::{
    FLAG_COMPACTED, IndexFile, LogId, Probe, RECORD_ALIGN, RECORD_HEADER_LEN, SEGMENT_HEADER_LEN, Stored, header, hint,
    probe, record_len, salvage,
};
use crate::hole::{DotRange, Hole};
use crate::segment::{Ranges, Segment, segment_path};
use crate::{Log, ReadError};

/// Origins of a segment whose ranges are kept in memory; of one with more the index is read.
const RANGES_MAX: usize = 1024;
/// Holes that are remembered; others are told where they are met.
const HOLES_MAX: usize = 65_536;
/// Indexes of sealed segments that are kept in memory.
const INDEXES_MAX: usize = 4;

/// Where reading starts.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Start {
    /// The oldest batch that is kept.
    #[default]
    Earliest,
    /// Behind the newest: what is appended from now on.
    Latest,
    /// The batch that holds the event at this offset; beyond the end, the reader waits there.
    Offset(u64),
    /// The first batch stored at this time or later, in unix nanoseconds.
    Time(u64),
    /// What each origin's next seq says; an origin that the cursor does not name is read from its beginning.
    Cursor(Cursor),
    /// A place in this very log, to go on from without a search.
    Place(Place),
}

/// A place in one log: fast to go on from, and meaningless in any other log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The log.
    pub log: LogId,
    /// The offset of the next event.
    pub offset: u64,
}

/// One thing that a reader finds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Found {
    /// A batch whose checksum holds.
    Batch(Batch),
    /// Damage; what follows is readable.
    Hole(Hole),
    /// Retention gave up what stood here; reading goes on at `first`.
    Trimmed {
        /// The oldest offset that is kept.
        first: u64,
    },
}

/// A stored batch, borrowed from the mapped segment, which it keeps alive.
#[derive(Clone)]
pub struct Batch {
    segment: Arc<Segment>,
    /// Of the frame, in the segment.
    bytes: Range<u64>,
    offset: u64,
    time: u64,
    flags: u16,
}

impl Batch {
    /// The batch that stands at this position; nothing if there is none whose checksums hold.
    pub(crate) fn at(segment: &Arc<Segment>, position: u64, log: &LogId) -> Option<Self> {
        match probe(segment.bytes.slice(position..segment.bytes.end())?, log) {
            Probe::Record(stored) => Some(Self::of(segment, position, &stored)),
            _ => None,
        }
    }

    fn of(segment: &Arc<Segment>, position: u64, stored: &Stored<'_>) -> Self {
        let start = position + RECORD_HEADER_LEN as u64;
        Self {
            segment: segment.clone(),
            bytes: start..start + stored.frame.len() as u64,
            offset: stored.header.offset(),
            time: stored.header.time(),
            flags: stored.header.flags(),
        }
    }

    /// The frame as it was on the wire, ttl 0. Of a compacted one: header, seal and parents.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        self.segment.bytes.slice(self.bytes.clone()).expect("it was read from there, and what is published stays")
    }

    /// The frame's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        Header::parse(self.frame()).expect("it was parsed when it was read")
    }

    /// Offset of its first event.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset after its last event.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.offset + u64::from(self.header().events())
    }

    /// When it was stored, in unix nanoseconds.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time
    }

    pub(crate) fn flags(&self) -> u16 {
        self.flags
    }

    /// Whether its body is gone, because every event in it was superseded.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.flags & FLAG_COMPACTED != 0
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("offset", &self.offset).field("header", self.header()).finish_non_exhaustive()
    }
}

/// Reads a log in order. At the end it gives nothing, and something again when the log has grown.
#[derive(Debug)]
pub struct Reader {
    core: Arc<Core>,
    segment: Option<Arc<Segment>>,
    position: u64,
    offset: u64,
    /// Batches wholly below these seqs are passed over.
    skip: BTreeMap<ShortId, u64>,
}

impl Log {
    /// A reader from here on.
    ///
    /// # Errors
    /// [`ReadError`] if the place is another log's, or the disk refuses.
    pub fn read(&self, start: Start) -> Result<Reader, ReadError> {
        let core = self.core.clone();
        let mut skip = BTreeMap::new();
        let offset = match start {
            Start::Earliest => core.table().first,
            Start::Latest => self.next_offset(),
            Start::Offset(offset) => offset,
            Start::Time(time) => core.offset_at_time(time).reading(&core.dir)?,
            Start::Place(place) if place.log == core.id => place.offset,
            Start::Place(place) => return Err(ReadError::OtherLog { here: core.id, found: place.log }),
            Start::Cursor(cursor) => {
                let here = cursor.iter().filter(|(pair, _)| pair.channel == core.channel.0);
                skip = here.map(|(pair, next)| (ShortId::of(&pair.origin), next)).collect();
                core.offset_of_cursor(&skip).reading(&core.dir)?
            }
        };
        Ok(Reader { core, segment: None, position: 0, offset, skip })
    }
}

impl Log {
    /// The offset at which the event with this seq of this origin stands, if the log has it.
    #[must_use]
    pub fn find(&self, origin: &ShortId, seq: u64) -> Option<u64> {
        let found = self.core.find_dots(*origin, seq..seq.checked_add(1)?);
        found.into_iter().find_map(|found| {
            let segment = self.core.any_segment(found.segment)?;
            let rest = segment.bytes.slice(found.position..segment.bytes.end())?;
            Some(header(rest, &self.core.id)?.offset() + seq.checked_sub(found.seq)?)
        })
    }

    /// Where every origin whose public key the log knows stands at its end: any node that has the events can serve
    /// from there.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let mut cursor = Cursor::default();
        for origin in self.origins() {
            if let Some(next) = self.next_seq(&origin.short()) {
                let pair = Pair { channel: self.core.channel.0, origin: *origin.as_bytes() };
                cursor.set(pair, next);
            }
        }
        cursor
    }
}

impl Reader {
    /// The place behind what was read last.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { log: self.core.id, offset: self.offset }
    }

    /// The next batch or hole; nothing at the end of what there is now.
    ///
    /// # Errors
    /// [`ReadError::Io`]; the reader stays where it was.
    pub fn next_found(&mut self) -> Result<Option<Found>, ReadError> {
        loop {
            let first = self.core.table().first;
            if self.offset < first {
                (self.segment, self.offset) = (None, first);
                return Ok(Some(Found::Trimmed { first }));
            }
            let segment = match self.segment.clone() {
                Some(segment) => segment,
                None => match self.enter()? {
                    Entered::Segment(segment) => segment,
                    Entered::Hole(hole) => return Ok(Some(Found::Hole(hole))),
                    Entered::Again => continue,
                    Entered::End => return Ok(None),
                },
            };
            let end = segment.bytes.end();
            if self.position < end {
                match self.step(&segment, end)? {
                    Some(found) => return Ok(Some(found)),
                    None => continue,
                }
            }
            let next = self.core.table().after(segment.base());
            let Some(next) = next else { return Ok(None) };
            // The segment may have grown between the look at its end and the look at its successor.
            if segment.bytes.end() > self.position {
                continue;
            }
            self.segment = None;
            if self.offset < next {
                let hole = self.hole(&segment, self.position..self.position, self.offset..next, None)?;
                self.offset = next;
                return Ok(Some(Found::Hole(hole)));
            }
        }
    }

    /// Looks at the record at the reader's position.
    fn step(&mut self, segment: &Arc<Segment>, end: u64) -> Result<Option<Found>, ReadError> {
        let rest = segment.bytes.slice(self.position..end).unwrap_or_default();
        match probe(rest, &self.core.id) {
            Probe::Record(stored) if stored.header.offset() >= self.offset || self.is_entering(&stored) => {
                let (header, frame_header) = (stored.header, stored.frame_header);
                if header.offset() > self.offset {
                    let hole = self.hole(segment, self.position..self.position, self.offset..header.offset(), None)?;
                    self.offset = header.offset();
                    return Ok(Some(Found::Hole(hole)));
                }
                let batch = Batch::of(segment, self.position, &stored);
                let seen = frame_header.seq() + u64::from(frame_header.events());
                let passed = self.skip.get(&frame_header.origin()).is_some_and(|next| seen <= *next);
                self.position += header.record_len() as u64;
                self.offset = stored.next_offset();
                Ok((!passed).then_some(Found::Batch(batch)))
            }
            Probe::Record(stored) => {
                // Before the offset that was asked for.
                self.position += stored.header.record_len() as u64;
                Ok(None)
            }
            _ => self.pass_damage(segment, rest),
        }
    }

    /// Whether the record holds the offset that was asked for, in its middle.
    fn is_entering(&self, stored: &Stored<'_>) -> bool {
        stored.header.offset() < self.offset && self.offset < stored.next_offset()
    }

    fn pass_damage(&mut self, segment: &Arc<Segment>, rest: &[u8]) -> Result<Option<Found>, ReadError> {
        let skip = match probe(rest, &self.core.id) {
            Probe::BodyDamaged(header) => header.record_len(),
            _ => salvage(rest).map_or(RECORD_ALIGN, record_len),
        };
        let mut at = skip.min(rest.len());
        let next = loop {
            let Some(tail @ [_, ..]) = rest.get(at..) else { break None };
            if header(tail, &self.core.id).is_some_and(|h| h.offset() >= self.offset)
                && let Probe::Record(stored) = probe(tail, &self.core.id)
            {
                break Some(stored.header.offset());
            }
            at += RECORD_ALIGN;
        };
        let bytes = self.position..self.position + at.min(rest.len()) as u64;
        let end = match next {
            Some(offset) => offset,
            None => {
                let table = self.core.table();
                let end = || self.core.end_offset.load(Ordering::Acquire);
                table.after(segment.base()).unwrap_or_else(end)
            }
        };
        let hint = hint(rest).map(|h| (h.origin(), h.seq(), h.events()));
        let offsets = self.offset..end;
        self.position = bytes.end;
        if offsets.is_empty() {
            return Ok(None);
        }
        let hole = self.hole(segment, bytes, offsets, hint)?;
        self.offset = end;
        Ok(Some(Found::Hole(hole)))
    }

    /// Names what was lost, by the index where it knows.
    fn hole(
        &self,
        segment: &Segment,
        bytes: Range<u64>,
        offsets: Range<u64>,
        hint: Option<(ShortId, u64, u16)>,
    ) -> Result<Hole, ReadError> {
        let hole = self.core.name_hole(segment.base(), bytes, offsets, hint).reading(&self.core.dir)?;
        Ok(hole)
    }

    fn enter(&mut self) -> Result<Entered, ReadError> {
        let (base, active) = {
            let table = self.core.table();
            let base = table.base_of(self.offset);
            (base, (base == table.active.base()).then(|| table.active.clone()))
        };
        if let Some(active) = active {
            if self.offset >= self.core.end_offset.load(Ordering::Acquire) && self.offset > active.base() {
                // Nothing there yet. Entering now and going through the segment to its end costs once, later or now.
                if self.offset > self.core.end_offset.load(Ordering::Acquire) {
                    return Ok(Entered::End);
                }
            }
            self.position = self.core.active_position_of(&active, self.offset);
            self.segment = Some(active.clone());
            return Ok(Entered::Segment(active));
        }
        let path = segment_path(&self.core.dir, base);
        let Some((segment, index)) = self.core.sealed_segment(base).reading(&path)? else {
            self.core.look_for_trim().reading(&path)?;
            let table = self.core.table();
            if self.offset < table.first || !table.sealed.contains_key(&base) {
                // Retention was faster: this log's own, or that of the process that writes.
                return Ok(Entered::Again);
            }
            let next = table.after(base).unwrap_or(self.offset);
            drop(table);
            let bytes = 0..0;
            let hole = self.core.name_hole(base, bytes, self.offset..next, None).reading(&path)?;
            self.offset = next;
            return Ok(Entered::Hole(hole));
        };
        self.position = position_of(&segment, &index, self.offset, &self.core.id);
        self.segment = Some(segment.clone());
        Ok(Entered::Segment(segment))
    }

    /// Blocks until there is something to read, or the time is over.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn wait_found(&mut self, timeout: Duration) -> Result<Option<Found>, ReadError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let version = self.core.watch.version();
            if let Some(found) = self.next_found()? {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if !self.core.watch.wait(version, left) {
                return Ok(None);
            }
        }
    }

    /// What comes next, as soon as there is something: first history, then what is appended, without a seam.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub fn follow(&mut self) -> Follow<'_> {
        Follow { reader: self }
    }
}

enum Entered {
    Segment(Arc<Segment>),
    Hole(Hole),
    Again,
    End,
}

impl Iterator for Reader {
    type Item = Result<Found, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_found().transpose()
    }
}

/// Waits for what a reader finds next.
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Follow<'a> {
    reader: &'a mut Reader,
}

impl Future for Follow<'_> {
    type Output = Result<Found, ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let version = self.reader.core.watch.version();
            if let Some(found) = self.reader.next_found()? {
                return Poll::Ready(Ok(found));
            }
            if self.reader.core.watch.poll(version, context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// A record of an origin that holds some of the seqs asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundDots {
    pub(crate) segment: u64,
    pub(crate) position: u64,
    pub(crate) seq: u64,
    pub(crate) events: u16,
}

impl Core {
    /// The index of a sealed segment.
    pub(crate) fn sealed_index(&self, base: u64) -> std::io::Result<Arc<IndexFile>> {
        if let Some((_, index)) = lock(&self.indexes).iter().find(|(known, _)| *known == base) {
            return Ok(index.clone());
        }
        let bases = self.table().bases();
        let at = bases.binary_search(&base).map_err(|_| std::io::ErrorKind::NotFound)?;
        let index = self.files().index(&bases, at)?;
        self.remember_index(base, index.clone());
        Ok(index)
    }

    pub(crate) fn remember_index(&self, base: u64, index: Arc<IndexFile>) {
        let mut indexes = lock(&self.indexes);
        indexes.retain(|(known, _)| *known != base);
        indexes.push_back((base, index));
        if indexes.len() > INDEXES_MAX {
            indexes.pop_front();
        }
    }

    /// A sealed segment and its index; nothing if its file is gone or is another log's.
    pub(crate) fn sealed_segment(&self, base: u64) -> std::io::Result<Option<(Arc<Segment>, Arc<IndexFile>)>> {
        let index = match self.sealed_index(base) {
            Ok(index) => index,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let known = self.table().sealed.get(&base).and_then(|slot| slot.segment.upgrade());
        // Compaction replaces segments: positions of one generation mean nothing in another.
        if let Some(segment) = known.filter(|segment| segment.params.generation == index.meta.generation) {
            return Ok(Some((segment, index)));
        }
        let Some(segment) = self.files().sealed(base, index.meta.end)? else { return Ok(None) };
        let segment = Arc::new(segment);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = table.sealed.get_mut(&base) {
            slot.segment = Arc::downgrade(&segment);
        }
        Ok(Some((segment, index)))
    }

    /// The positions of a segment's records, as its index knows them; nothing if the segment is gone.
    pub(crate) fn positions(&self, base: u64) -> std::io::Result<Option<(Arc<Segment>, Vec<u64>)>> {
        let of = |entries: &[crate::format::Entry]| entries.iter().map(|entry| entry.position).collect();
        let active = self.table().active.clone();
        if active.base() == base {
            let index = self.index();
            if index.base() == base {
                return Ok(Some((active, of(index.entries()))));
            }
        }
        Ok(self.sealed_segment(base)?.map(|(segment, index)| (segment, of(&index.entries))))
    }

    /// A segment, whether it is sealed or not.
    fn any_segment(&self, base: u64) -> Option<Arc<Segment>> {
        let active = self.table().active.clone();
        if active.base() == base {
            return Some(active);
        }
        self.sealed_segment(base).ok().flatten().map(|(segment, _)| segment)
    }

    /// Where in the active segment the record with this offset stands, or one before it.
    fn active_position_of(&self, active: &Segment, offset: u64) -> u64 {
        let index = self.index();
        // The index may already be that of the next segment: then this one is walked from its beginning.
        if index.base() != active.base() {
            return SEGMENT_HEADER_LEN as u64;
        }
        position_in(active, index.entries(), offset, &self.id)
    }

    fn bases(&self) -> (Vec<u64>, u64) {
        let table = self.table();
        (table.sealed.keys().copied().collect(), table.active.base())
    }

    /// The offset of the first batch stored at this time or later.
    fn offset_at_time(&self, time: u64) -> std::io::Result<u64> {
        let (sealed, active_base) = self.bases();
        // Store times never go back, so the first segment that ends late enough holds the place.
        for base in sealed {
            let index = self.sealed_index(base)?;
            if index.meta.end_time < time {
                continue;
            }
            let Some((segment, index)) = self.sealed_segment(base)? else { continue };
            let found = first_at(&segment, &index.entries, &self.id, |header| header.time() >= time);
            return Ok(found.unwrap_or(index.meta.end_offset));
        }
        let active = self.table().active.clone();
        if active.base() != active_base {
            return self.offset_at_time(time);
        }
        let index = self.index();
        let found = first_at(&active, index.entries(), &self.id, |header| header.time() >= time);
        Ok(found.unwrap_or_else(|| self.end_offset.load(Ordering::Acquire)))
    }

    /// The lowest offset at which an origin has something that the cursor has not seen.
    fn offset_of_cursor(&self, next: &BTreeMap<ShortId, u64>) -> std::io::Result<u64> {
        let (sealed, _) = self.bases();
        let unseen = |origins: &[crate::format::OriginRange]| {
            origins
                .iter()
                .any(|o| o.range.is_some_and(|(_, last)| next.get(&o.origin).is_none_or(|next| last >= *next)))
        };
        for base in sealed {
            let index = self.sealed_index(base)?;
            if unseen(&index.origins) {
                return Ok(index.meta.base.max(self.table().first));
            }
        }
        let base = self.table().active.base();
        let index = self.index();
        if unseen(index.origins()) { Ok(base) } else { Ok(self.end_offset.load(Ordering::Acquire)) }
    }

    /// Records that hold some of these seqs of an origin, the newest segment first.
    pub(crate) fn find_dots(&self, origin: ShortId, seqs: Range<u64>) -> Vec<FoundDots> {
        let mut found = Vec::new();
        let mut search = |base: u64, entries: &[crate::format::Entry], origins: &[crate::format::OriginRange]| {
            let number = origins.iter().position(|o| o.origin == origin);
            let Some(number) = number else { return };
            let overlaps = |first: u64, end: u64| first < seqs.end && seqs.start < end;
            if !origins[number].range.is_some_and(|(first, last)| overlaps(first, last + 1)) {
                return;
            }
            // Those that have no number share none: the records themselves say whose they are.
            let number = u16::try_from(number).ok().filter(|number| *number != u16::MAX);
            let is_its = |e: &crate::format::Entry| {
                e.origin == number && (number.is_some() || self.origin_at(base, e.position) == Some(origin))
            };
            found.extend(
                entries
                    .iter()
                    .filter(|e| overlaps(e.seq, e.seq + u64::from(e.events)) && is_its(e))
                    .map(|e| FoundDots { segment: base, position: e.position, seq: e.seq, events: e.events }),
            );
        };
        {
            let index = self.index();
            search(index.base(), index.entries(), index.origins());
        }
        // Asked for after the index was looked at: a segment that has ended meanwhile is among them.
        let sealed: Vec<u64> = self.table().sealed.keys().copied().collect();
        for base in sealed.into_iter().rev() {
            if self.is_elsewhere(base, origin, &seqs) {
                continue;
            }
            if let Ok(index) = self.sealed_index(base) {
                self.remember_ranges(base, &index);
                search(base, &index.entries, &index.origins);
            }
        }
        found
    }

    /// Whether a sealed segment is known to hold none of these seqs.
    fn is_elsewhere(&self, base: u64, origin: ShortId, seqs: &Range<u64>) -> bool {
        let table = self.table();
        let ranges = table.sealed.get(&base).and_then(|slot| slot.ranges.as_ref());
        let holds = |(of, first, last): &(ShortId, u64, u64)| *of == origin && *first < seqs.end && seqs.start <= *last;
        ranges.is_some_and(|ranges| !ranges.iter().any(holds))
    }

    /// Keeps what tells without the index which seqs are not in a segment: gaps that are filled late ask every time.
    pub(crate) fn remember_ranges(&self, base: u64, index: &IndexFile) {
        let ranges = index.origins.iter().filter_map(|o| o.range.map(|(first, last)| (o.origin, first, last)));
        let ranges: Ranges = ranges.take(RANGES_MAX + 1).collect();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = table.sealed.get_mut(&base)
            && ranges.len() <= RANGES_MAX
        {
            slot.ranges = Some(ranges);
        }
    }

    /// Whose record stands at a position.
    fn origin_at(&self, base: u64, position: u64) -> Option<ShortId> {
        let segment = self.any_segment(base)?;
        Some(Batch::at(&segment, position, &self.id)?.header().origin())
    }

    /// Makes a hole of damage, says whose events it held as well as can be known, and remembers it.
    pub(crate) fn name_hole(
        &self,
        base: u64,
        bytes: Range<u64>,
        offsets: Range<u64>,
        hint: Option<(ShortId, u64, u16)>,
    ) -> std::io::Result<Hole> {
        let named = |entries: &[crate::format::Entry], origins: &[crate::format::OriginRange]| -> Vec<DotRange> {
            let inside = entries.iter().filter(|e| bytes.contains(&e.position));
            inside
                .filter_map(|e| {
                    let origin = origins.get(usize::from(e.origin?))?.origin;
                    let last = e.seq + u64::from(e.events).saturating_sub(1);
                    Some(DotRange { origin, first: e.seq, last, certain: true })
                })
                .collect()
        };
        let active = self.table().active.base() == base;
        let mut dots = if active {
            let index = self.index();
            named(index.entries(), index.origins())
        } else {
            let index = self.sealed_index(base);
            index.map(|index| named(&index.entries, &index.origins)).unwrap_or_default()
        };
        if dots.is_empty() {
            dots.extend(hint.map(|(origin, seq, events)| {
                let last = seq.saturating_add(u64::from(events).saturating_sub(1));
                DotRange { origin, first: seq, last, certain: false }
            }));
        }
        let hole = Hole { offsets, dots, segment: base, bytes };
        let mut holes = lock(&self.holes);
        if holes.len() < HOLES_MAX || holes.contains_key(&hole.offsets.start) {
            holes.insert(hole.offsets.start, hole.clone());
        } else {
            self.counters.holes_forgotten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(hole)
    }
}

fn position_of(segment: &Segment, index: &IndexFile, offset: u64, log: &LogId) -> u64 {
    position_in(segment, &index.entries, offset, log)
}

/// Goes through all bytes of a segment: records, and what is damaged as it is.
pub(crate) struct SegmentReader<'a> {
    segment: &'a Arc<Segment>,
    log: &'a LogId,
    position: u64,
}

pub(crate) fn segment_reader<'a>(segment: &'a Arc<Segment>, log: &'a LogId) -> SegmentReader<'a> {
    SegmentReader { segment, log, position: SEGMENT_HEADER_LEN as u64 }
}

impl<'a> SegmentReader<'a> {
    /// Byte position of what comes next.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The bytes of the next record and its batch; of damage, the bytes of one alignment and nothing.
    pub(crate) fn next_record(&mut self) -> Option<(&'a [u8], Option<Batch>)> {
        let end = self.segment.bytes.end();
        let rest = self.segment.bytes.slice(self.position..end).filter(|rest| !rest.is_empty())?;
        let Probe::Record(stored) = probe(rest, self.log) else {
            let len = RECORD_ALIGN.min(rest.len());
            self.position += len as u64;
            return Some((&rest[..len], None));
        };
        let batch = Batch::of(self.segment, self.position, &stored);
        let len = stored.header.record_len();
        self.position += len as u64;
        Some((&rest[..len], Some(batch)))
    }
}

/// The position of the last record whose offset is not above this one.
fn position_in(segment: &Segment, entries: &[crate::format::Entry], offset: u64, log: &LogId) -> u64 {
    let end = segment.bytes.end();
    let offset_of = |i: usize| -> Option<u64> {
        // A damaged record has no offset to tell: those after it do.
        entries[i..].iter().find_map(|e| Some(header(segment.bytes.slice(e.position..end)?, log)?.offset()))
    };
    let (mut low, mut high) = (0, entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match offset_of(middle) {
            Some(found) if found <= offset => low = middle + 1,
            _ => high = middle,
        }
    }
    low.checked_sub(1).map_or(SEGMENT_HEADER_LEN as u64, |i| entries[i].position)
}

/// The offset of the first record of which this holds, where it holds of all that follow.
fn first_at(
    segment: &Segment,
    entries: &[crate::format::Entry],
    log: &LogId,
    holds: impl Fn(&crate::format::RecordHeader) -> bool,
) -> Option<u64> {
    let end = segment.bytes.end();
    let header_from = |i: usize| entries[i..].iter().find_map(|e| header(segment.bytes.slice(e.position..end)?, log));
    let (mut low, mut high) = (0, entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if header_from(middle).is_some_and(&holds) { high = middle } else { low = middle + 1 }
    }
    header_from(low.min(entries.len())).filter(|h| holds(h)).map(|h| h.offset())
}
