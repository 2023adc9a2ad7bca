//! Putting back what was damaged, from another copy.

use std::io;

use net_channel::{BatchError, SealedView};

use crate::core::lock;
use crate::format::{Entry, RecordParams};
use crate::hole::{DotRange, Hole, dots_of};
use crate::read::segment_reader;
use crate::rewrite::Rewrite;
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
        let views = self.check_batches(hole, batches)?;
        if !core.table().sealed.contains_key(&hole.segment) {
            return Err(RepairError::NotSealed);
        }
        let (segment, index) = core.sealed_segment(hole.segment)?.ok_or(RepairError::NotSealed)?;
        let mut rewrite = Rewrite::begin(core, &segment, index.clone())?;
        rewrite.fill(hole.bytes.start);
        let mut reader = segment_reader(&segment, &core.id);
        let (mut time, mut filled) = (segment.params.base_time, false);
        loop {
            let at = reader.position();
            if at >= hole.bytes.start && !filled {
                let mut offset = hole.offsets.start;
                for (frame, view) in batches.iter().zip(&views) {
                    let header = view.header();
                    let number = index.origins.iter().position(|known| known.origin == header.origin());
                    let origin = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != u16::MAX);
                    let entry = Entry { seq: header.seq(), position: 0, origin, events: header.events() };
                    rewrite.insert(entry, RecordParams { flags: 0, offset, time }, frame)?;
                    offset += u64::from(header.events());
                }
                filled = true;
            }
            let Some((bytes, batch)) = reader.next_record() else { break };
            time = batch.map_or(time, |batch| batch.time());
            if !hole.bytes.contains(&at) {
                rewrite.copy(at, bytes)?;
            }
        }
        rewrite.finish()?;
        Ok(())
    }

    /// Checks that these are the batches that the hole can have held.
    fn check_batches<'a>(&self, hole: &Hole, batches: &[&'a [u8]]) -> Result<Vec<SealedView<'a>>, RepairError> {
        let parsed = batches.iter().enumerate().map(|(index, batch)| {
            SealedView::parse(batch).map_err(|source| RepairError::Invalid { index, source: Some(source) })
        });
        let views = parsed.collect::<Result<Vec<_>, _>>()?;
        let (expected, found) =
            (hole.offsets.end - hole.offsets.start, views.iter().map(|view| u64::from(view.header().events())).sum());
        if expected != found {
            return Err(RepairError::WrongSize { expected, found });
        }
        let given: Vec<DotRange> = views.iter().map(|view| dots_of(view.header())).collect();
        let lost: Vec<DotRange> = hole.dots.iter().filter(|dots| dots.certain).copied().collect();
        for (index, dots) in given.iter().enumerate() {
            // Where the index says what was lost, it is that, in this order; and nothing goes into the log twice.
            let belongs = match lost.get(index) {
                Some(lost) => dots == lost,
                None => {
                    lost.is_empty() && !given[..index].iter().any(|before| before.overlaps(dots)) && !self.has(dots)
                }
            };
            if !belongs {
                return Err(RepairError::OtherDots { index });
            }
        }
        for (index, view) in views.iter().enumerate() {
            let origin = lock(&self.core.keys).origin(&view.header().origin());
            let origin = origin.ok_or(RepairError::Invalid { index, source: None })?;
            view.verify(&self.core.mesh, &self.core.channel, &origin)
                .map_err(|source| RepairError::Invalid { index, source: Some(source) })?;
        }
        Ok(views)
    }

    fn has(&self, dots: &DotRange) -> bool {
        !self.core.find_dots(dots.origin, dots.first..dots.last + 1).is_empty()
    }
}
