//! Names, events and batches: what travels through Net, who sent it, and who may read it.
//!
//! This crate does **not** know capabilities or logs. Without its default feature it is formats and pure state: no tokio,
//! no QUIC, no clock, no randomness but that of keys.
//!
//! A [`ChannelName`] names a channel; an origin (a key that one process holds) publishes events to it. What is queued
//! becomes a **batch**: a [`BatchBuilder`] encodes the events, seals them with a key made for this batch alone, and signs
//! once. Whoever has no key can read the header and the **seal**, and verify who sent what, after what: a [`SealedView`] is
//! parsed, [`SealedView::verify`] gives a [`VerifiedSeal`], and a [`SealedBatch`] holds that proof beside the very bytes it
//! speaks of. Only from there, with the [`SenderKey`], comes an [`OpenBatch`] and its events. Each step demands the one
//! before, so none can be skipped.
//!
//! ```
//! use net_channel::{BatchBuilder, BatchHash, ChannelName, Hlc, SealParams, SealedBatch, SenderKey};
//! use net_identity::EntityKey;
//! use net_transport::{MeshId, Priority, Visibility};
//!
//! let (mesh, origin, sender_key) = (MeshId([1; 32]), EntityKey::generate(), SenderKey::generate());
//! let channel = ChannelName::parse("vehicles/fleet-7/telemetry")?.hash(&mesh);
//!
//! let mut builder = BatchBuilder::new();
//! builder.push(b"speed 81", Some(b"car-12"), &[("unit", b"km/h")], Hlc::new(1_800_000_000_000, 0))?;
//! let sealed = builder.seal(&SealParams::first(&mesh, &channel, &origin, &sender_key, 1, net_channel::random_salt()))?;
//!
//! let received = SealedBatch::verify(sealed.frame().clone(), &mesh, &channel, &origin.id())?;
//! let open = received.open(&sender_key)?;
//! let event = open.event(0).expect("one event was sealed");
//! assert_eq!((event.seq, event.payload), (1, &b"speed 81"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `node` (default) publishes and subscribes over links; `filter` selects events by texts in CEL; `json` and `rkyv` are codecs for typed payloads
//! ([`Codec`]; [`Postcard`] is always there).

#![forbid(unsafe_code)]

mod advert;
mod batch;
#[cfg(feature = "node")]
mod bus;
mod codec;
mod context;
pub mod core;
mod cursor;
mod cursor_file;
mod equivocation;
mod event;
#[cfg(feature = "filter")]
mod filter;
mod grant;
mod headers;
mod hlc;
mod incarnation;
mod keys;
mod mutants;
mod name;
mod pattern;
mod store;
mod tick;

pub use advert::{ADVERT_LEN_MAX, Advert, AdvertError, Class, VerifiedAdvert};
pub use batch::{
    BATCH_BODY_LEN_MAX, BATCH_EVENTS_MAX, BatchBuilder, BatchError, BatchHash, EVENT_LEN_MAX, EventRef, KEY_LEN_MAX,
    OpenBatch, OpenError, PARENTS_MAX, PushError, SEAL_LEN, SealError, SealParams, SealView, SealedBatch, SealedView,
    Unopened, VerifiedSeal,
};
#[cfg(feature = "node")]
pub use bus::{
    Ack, Acked, Bus, BusConfig, BusMetrics, Channel, ChannelBuilder, ChannelInfo, Delivered, Environment,
    FilterCounters, KEPT_CHANNELS_MAX, KeepError, Keeper, KeptChannel, NodeEvent, NodeEvents, OpenChannelError,
    OpenGate, PersistError, ProducerMetrics, Publish, PublishError, PublishValueError, QuotaCounters, Receipt,
    StartError, SubscribeBuilder, SubscribeError, Subscription, SubscriptionMetrics, TypedChannel, TypedItem,
    TypedSubscription,
};
#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "rkyv")]
pub use codec::Rkyv;
pub use codec::{Codec, CodecError, Postcard};
pub use context::CONTEXTS;
pub use core::{
    Cursor, CursorError, Fork, From, Gap, GapWhy, Item, Order, Restart, Sealed, SealedWhy, SeqRange, Source, Trimmed,
};
pub use cursor_file::{CursorFile, CursorFileError};
pub use equivocation::{EQUIVOCATION_LEN_MAX, Equivocation, EquivocationError};
pub use event::{Dot, Event, EventBatch, Parent, Parents};
#[cfg(feature = "filter")]
pub use filter::{Filter, FilterError, FilterErrorKind, FilterMiss};
pub use grant::{CLOCK_SKEW_S, GrantError, KEY_GRANT_LEN, KeyGrant};
pub use headers::{HEADER_NAME_LEN_MAX, HEADERS_LEN_MAX, Headers, HeadersError, HeadersIter, HeadersRef};
pub use hlc::{CLOCK_AHEAD_MS_MAX, Hlc, HlcClock};
pub use incarnation::{FLOOR_STEP, FloorError, FloorFile, SeqsExhausted, first_seq, floor_after};
pub use keys::{KeyId, SenderKey, random_salt};
pub use name::{ChannelHash, ChannelName, NAME_LEN_MAX, NameError};
pub use pattern::Pattern;
pub use store::{OpenStore, Seek, Store, StoreError, StoreFuture, StorePlace, Stored};
pub use tick::{TICK_LEN, Tick, TickError, TickParams};
