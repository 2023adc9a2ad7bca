//! Putting back what was damaged, from another copy.

use std::io;

use net_channel::{BatchError, SealedView};

use crate::core::lock;
use crate::format::{RecordParams, SegmentHeader, SegmentParams, body_crc, push};
use crate::hole::Hole;
use crate::{Log, ReadError};

/// Why a hole was not filled. The log is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The log knows of no such hole.
    #[error("the log has no such hole: it may be filled already")]
    NoHole,
    /// The segment is still being written, or its file is gone.
    #[error("the segment is not a sealed one that is there: try again when the log has gone on to the next")]
    NotSealed,
    /// The batches do not fill the hole exactly.
    #[error("the batches hold {found} events, the hole is {expected}: give all of them, in the order of the log")]
    WrongSize {
        /// Events that are lost.
        expected: u64,
        /// Events of the batches that were given.
        found: u64,
    },
    /// A batch is not one that belongs there.
    #[error("batch {index} is not one that was lost here")]
    OtherDots {
        /// Which of those given, 0 first.
        index: usize,
    },
    /// A batch does not verify, or its origin's public key is not known.
    #[error("batch {index} does not verify")]
    Invalid {
        /// Which of those given, 0 first.
        index: usize,
        /// What is wrong; nothing if the key is not known.
        source: Option<BatchError>,
    },
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing failed.
    #[error("the segment was not written")]
    Io(#[from] io::Error),
}

impl Log {
    /// Fills a hole with the batches that were lost, as another keeper has them: all of them, in order, each verified.
    /// The segment is written anew and put in the old one's place. Blocks.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn repair(&self, hole: &Hole, batches: &[&[u8]]) -> Result<(), RepairError> {
        let core = &*self.core;
        let _rewriting = lock(&core.rewriting);
        if lock(&core.holes).get(&hole.offsets.start) != Some(hole) || hole.bytes.is_empty() {
            return Err(RepairError::NoHole);
        }
        let events = self.check_batches(hole, batches)?;
        let expected = hole.offsets.end - hole.offsets.start;
        if events != expected {
            return Err(RepairError::WrongSize { expected, found: events });
        }
        if !core.table().sealed.contains_key(&hole.segment) {
            return Err(RepairError::NotSealed);
        }
        let (segment, index) = core.sealed_segment(hole.segment)?.ok_or(RepairError::NotSealed)?;
        let params = SegmentParams { generation: segment.params.generation.wrapping_add(1), ..segment.params };
        let mut bytes = SegmentHeader::encode(&params).to_vec();
        let mut reader = crate::read::segment_reader(&segment, &core.id);
        let (mut time, mut filled) = (segment.params.base_time, false);
        loop {
            if reader.position() >= hole.bytes.start && !filled {
                let mut offset = hole.offsets.start;
                for batch in batches {
                    push(&mut bytes, &core.id, RecordParams { flags: 0, offset, time }, batch, body_crc(batch));
                    offset += batch_events(batch);
                }
                filled = true;
            }
            let at = reader.position();
            let Some((raw, batch)) = reader.next_record() else { break };
            time = batch.map_or(time, |batch| batch.time());
            if !hole.bytes.contains(&at) {
                bytes.extend_from_slice(raw);
            }
        }
        core.replace(params, &bytes, &index)?;
        lock(&core.holes).remove(&hole.offsets.start);
        Ok(())
    }

    /// Checks that these are batches that the hole can have held; gives how many events they have.
    fn check_batches(&self, hole: &Hole, batches: &[&[u8]]) -> Result<u64, RepairError> {
        let mut events = 0;
        for (index, batch) in batches.iter().enumerate() {
            let view =
                SealedView::parse(batch).map_err(|source| RepairError::Invalid { index, source: Some(source) })?;
            let header = view.header();
            let origin = lock(&self.core.keys).origin(&header.origin());
            let origin = origin.ok_or(RepairError::Invalid { index, source: None })?;
            view.verify(&self.core.mesh, &self.core.channel, &origin)
                .map_err(|source| RepairError::Invalid { index, source: Some(source) })?;
            let last = header.seq() + u64::from(header.events()) - 1;
            let certain = || hole.dots.iter().filter(|dots| dots.certain);
            let named =
                |dots: &crate::DotRange| (dots.origin, dots.first, dots.last) == (header.origin(), header.seq(), last);
            // Where the index says what was lost, nothing else goes there; and nothing goes into the log twice.
            if certain().next().is_some() && !certain().any(named) {
                return Err(RepairError::OtherDots { index });
            }
            events += u64::from(header.events());
        }
        Ok(events)
    }
}

fn batch_events(batch: &[u8]) -> u64 {
    SealedView::parse(batch).map_or(0, |view| u64::from(view.header().events()))
}
