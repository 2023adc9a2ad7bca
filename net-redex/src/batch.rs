//! What the log asks of a batch before it takes it.

use net_channel::SealedView;

use crate::AppendError;

/// A frame that a log may store: a batch whose header and seal are well-formed. Signatures are not checked here.
pub(crate) fn check(frame: &[u8]) -> Result<SealedView<'_>, AppendError> {
    SealedView::parse(frame).map_err(AppendError::NotABatch)
}

/// The batch hash, or zeros if the frame is not whole.
pub(crate) fn hash(frame: &[u8]) -> [u8; 32] {
    SealedView::parse(frame).map(|view| view.hash().0).unwrap_or_default()
}
