//! Names, events, sealed and signed batches, publish and subscribe.

#![forbid(unsafe_code)]

mod advert;
pub mod batch;
#[cfg(feature = "node")]
mod bus;
mod context;
pub mod core;
mod event;
mod grant;
mod hlc;
mod incarnation;
mod keys;
mod name;
mod pattern;

pub use advert::{ADVERT_LEN_MAX, Advert, AdvertError, Class};
pub use batch::Parent;
#[cfg(feature = "node")]
pub use bus::{
    Ack, Bus, BusConfig, Channel, ChannelBuilder, ChannelInfo, Delivered, Environment, OpenError, OpenGate, Publish,
    PublishError, Receipt, StartError, SubscribeBuilder, SubscribeError, Subscription,
};
pub use context::CONTEXTS;
pub use core::{Cursor, CursorError, Equivocation, From, Gap, Item, Restart, SeqRange, Source};
pub use event::{Dot, Event, Headers};
pub use grant::{GRANT_LEN, GrantError, KeyGrant};
pub use hlc::{CLOCK_AHEAD_MS_MAX, Hlc, HlcClock};
pub use incarnation::{FLOOR_STEP, FloorError, FloorFile, first_seq, floor_after};
pub use keys::{KeyId, SenderKey};
pub use name::{ChannelHash, ChannelName, NAME_LEN_MAX, NameError};
pub use pattern::Pattern;
