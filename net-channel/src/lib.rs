//! Names, events and batches: what travels through Net, and who may read it.

#![forbid(unsafe_code)]

mod batch;
mod context;
mod event;
mod headers;
mod hlc;
mod keys;
mod name;
mod pattern;

pub use batch::{
    BATCH_BODY_LEN_MAX, BATCH_EVENTS_MAX, BatchBuilder, BatchError, BatchHash, EVENT_LEN_MAX, EventRef, KEY_LEN_MAX,
    OpenBatch, OpenError, PARENTS_MAX, PushError, SEAL_LEN, SealError, SealParams, SealedBatch, SealedView,
    VerifiedSeal,
};
pub use context::CONTEXTS;
pub use event::{Dot, Event, EventBatch, Parent, Parents};
pub use headers::{HEADER_NAME_LEN_MAX, HEADERS_LEN_MAX, Headers, HeadersError, HeadersIter, HeadersRef};
pub use hlc::{CLOCK_AHEAD_MS_MAX, Hlc, HlcClock};
pub use keys::{KeyId, SenderKey};
pub use name::{ChannelHash, ChannelName, NAME_LEN_MAX, NameError};
pub use pattern::Pattern;
