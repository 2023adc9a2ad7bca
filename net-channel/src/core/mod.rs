//! The protocol of publishing and subscribing as values that a caller drives: no clock, no sockets, no tasks.

mod cache;
mod cursor;
mod item;
mod message;
mod publisher;
mod subscriptions;

pub use cache::{Cache, Cached};
pub use cursor::{Cursor, CursorError};
pub use item::{Fork, Gap, Item, Restart, Source};
pub use message::{ANSWER_LEN_MAX, MESSAGE_LEN_MAX, Message, MessageError, PROTOCOL, RefusedWhy, SeqRange, Start};
pub use publisher::{KEY_AGE_MAX, Publisher, SUBSCRIBERS_MAX, Subscriber};
pub use subscriptions::{Action, Counters, Delivery, From, Known, Limits, SubId, Subscriptions};
