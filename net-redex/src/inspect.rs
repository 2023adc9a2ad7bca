//! What a log is made of, for those who look after it.

use std::sync::atomic::Ordering;

use net_channel::KeyId;
use net_identity::EntityId;
use net_transport::ShortId;

use crate::core::{Core, lock};
use crate::error::At;
use crate::segment::segment_path;
use crate::{Log, ReadError};

/// A segment: the piece of a log that retention gives up as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Offset of its first event.
    pub base: u64,
    /// Offset after its last event.
    pub next_offset: u64,
    /// Bytes of its header and records.
    pub bytes: u64,
    /// Bytes of its file, with the room that was made ahead; zero if the file is missing.
    pub file_bytes: u64,
    /// When it was begun, in unix nanoseconds: nothing in it was stored earlier. Zero if its first page is damaged.
    pub begun: u64,
    /// When its last batch was stored, in unix nanoseconds; nothing if it holds none.
    pub last: Option<u64>,
    /// Whether it is full or ended, so that nothing is appended to it any more.
    pub sealed: bool,
}

impl Log {
    /// The segments, the oldest first; the last one is the one that is being written.
    ///
    /// # Errors
    /// [`ReadError`] if the disk refuses.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, ReadError> {
        let core = &*self.core;
        let (first, sealed) = {
            let table = core.table();
            (table.first, table.sealed.keys().copied().collect::<Vec<_>>())
        };
        let mut segments = Vec::with_capacity(sealed.len() + 1);
        for base in sealed {
            // Retention may have been here meanwhile.
            segments.extend(core.sealed_info(base)?.filter(|info| info.next_offset > first || info.base >= first));
        }
        segments.push(core.active_info()?);
        Ok(segments)
    }

    /// The seq after the highest of each origin that the log has ever had, in order of origin.
    #[must_use]
    pub fn next_seqs(&self) -> Vec<(ShortId, u64)> {
        let mut next: Vec<_> = self.core.index().origins().iter().map(|o| (o.origin, o.next)).collect();
        next.sort_unstable_by_key(|(origin, _)| origin.0);
        next
    }

    /// The public key of the origin with this short id, if the log knows it.
    #[must_use]
    pub fn origin(&self, short: &ShortId) -> Option<EntityId> {
        lock(&self.core.keys).origin(short)
    }

    /// Which keys the ring holds, and whose they are; nothing if it is sealed with a secret that was not given.
    #[must_use]
    pub fn key_ids(&self) -> Option<Vec<(ShortId, KeyId)>> {
        lock(&self.core.keys).names()
    }
}

impl Core {
    fn sealed_info(&self, base: u64) -> Result<Option<SegmentInfo>, ReadError> {
        let path = segment_path(&self.dir, base);
        let index = match self.sealed_index(base) {
            Ok(index) => index,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).reading(&path),
        };
        let opened = self.files().open(base).reading(&path)?;
        let meta = &index.meta;
        Ok(Some(SegmentInfo {
            base,
            next_offset: meta.end_offset,
            bytes: if opened.is_some() { meta.end } else { 0 },
            file_bytes: opened.as_ref().map_or(0, |opened| opened.len),
            begun: opened.map_or(0, |opened| opened.params.base_time),
            last: (meta.end_offset > base).then_some(meta.end_time),
            sealed: true,
        }))
    }

    fn active_info(&self) -> Result<SegmentInfo, ReadError> {
        let mut info = {
            // A segment cannot end while the writer is held.
            let writer = lock(&self.writer);
            let active = &writer.active;
            let (base, next_offset) = (active.base(), self.end_offset.load(Ordering::Acquire));
            SegmentInfo {
                base,
                next_offset,
                bytes: active.bytes.end(),
                file_bytes: active.allocated(),
                begun: active.params.base_time,
                last: (next_offset > base).then_some(writer.time),
                sealed: false,
            }
        };
        if self.config.read_only {
            // Beside a process that writes, the file goes on behind what is looked at.
            let opened = self.files().open(info.base).reading(&segment_path(&self.dir, info.base))?;
            info.file_bytes = opened.map_or(0, |opened| opened.len);
        }
        Ok(info)
    }
}
