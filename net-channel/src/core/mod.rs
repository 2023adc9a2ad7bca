//! The protocol of publishing and subscribing as values that a caller drives: no clock, no sockets, no tasks.

mod arrivals;
mod cache;
mod counters;
mod cursor;
mod delivery;
mod feed;
mod given;
mod item;
mod limits;
mod line;
mod message;
mod publisher;
mod ranges;
mod subscriptions;

pub use cache::{Cache, Cached};
pub use counters::Counters;
pub use cursor::{Cursor, CursorError};
pub use delivery::{DeliveryBuffer, LineId, Order};
pub use given::{Given, Head};
pub use item::{Fork, Gap, GapWhy, Item, Restart, Sealed, SealedWhy, Source, Trimmed};
pub use limits::Limits;
pub use line::{Delivery, GAP_AFTER, Held, Offered};
pub use message::{
    ANSWER_LEN_MAX, MESSAGE_LEN_MAX, Message, MessageError, PROTOCOL, RANGES_PER_FETCH_MAX, RefusedWhy, SeqRange, Start,
};
pub use publisher::{Answering, Fetching, KEY_AGE_MAX, Publisher, SUBSCRIBERS_MAX, Subscriber};
pub use subscriptions::{Action, From, Known, SubId, Subscriptions, Take};
