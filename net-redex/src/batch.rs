//! What the log asks of a batch before it takes it.

use net_channel::{SealView, SealedView};

use crate::AppendError;

/// A frame that a log may store: a batch whose header and seal are well-formed. Signatures are not checked here.
pub(crate) fn check(frame: &[u8]) -> Result<SealedView<'_>, AppendError> {
    SealedView::parse(frame).map_err(AppendError::NotABatch)
}

/// The hash of a stored batch, with its body or without; zeros if it is neither.
pub(crate) fn hash(frame: &[u8]) -> [u8; 32] {
    let whole = SealedView::parse(frame).map(|view| view.hash().0);
    whole.or_else(|_| SealView::parse(frame).map(|view| view.hash().0)).unwrap_or_default()
}
