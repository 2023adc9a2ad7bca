//! Names, events and batches: what travels through Net, and who may read it.

#![forbid(unsafe_code)]

mod advert;
mod batch;
#[cfg(feature = "node")]
mod bus;
mod codec;
mod context;
pub mod core;
mod cursor;
mod equivocation;
mod event;
mod grant;
mod headers;
mod hlc;
mod incarnation;
mod keys;
mod name;
mod pattern;
mod tick;

pub use advert::{ADVERT_LEN_MAX, Advert, AdvertError, Class, VerifiedAdvert};
pub use batch::{
    BATCH_BODY_LEN_MAX, BATCH_EVENTS_MAX, BatchBuilder, BatchError, BatchHash, EVENT_LEN_MAX, EventRef, KEY_LEN_MAX,
    OpenBatch, OpenError, PARENTS_MAX, PushError, SEAL_LEN, SealError, SealParams, SealView, SealedBatch, SealedView,
    VerifiedSeal,
};
#[cfg(feature = "node")]
pub use bus::{
    Ack, Bus, BusConfig, Channel, ChannelBuilder, ChannelInfo, Delivered, Environment, OpenChannelError, OpenGate,
    Publish, PublishError, Receipt, StartError, SubscribeBuilder, SubscribeError, Subscription,
};
#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "rkyv")]
pub use codec::Rkyv;
pub use codec::{Codec, CodecError, Postcard};
pub use context::CONTEXTS;
pub use core::{Cursor, CursorError, Fork, From, Gap, Item, Restart, SeqRange, Source};
pub use equivocation::{EQUIVOCATION_LEN_MAX, Equivocation, EquivocationError};
pub use event::{Dot, Event, EventBatch, Parent, Parents};
pub use grant::{CLOCK_SKEW_S, GrantError, KEY_GRANT_LEN, KeyGrant};
pub use headers::{HEADER_NAME_LEN_MAX, HEADERS_LEN_MAX, Headers, HeadersError, HeadersIter, HeadersRef};
pub use hlc::{CLOCK_AHEAD_MS_MAX, Hlc, HlcClock};
pub use incarnation::{FLOOR_STEP, FloorError, FloorFile, SeqsExhausted, first_seq, floor_after};
pub use keys::{KeyId, SenderKey};
pub use name::{ChannelHash, ChannelName, NAME_LEN_MAX, NameError};
pub use pattern::Pattern;
pub use tick::{TICK_LEN, Tick, TickError, TickParams};
