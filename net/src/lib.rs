//! A distributed event bus without a broker: the layers of Net, wired into one builder.
//!
//! This crate has no logic of its own beyond the wiring and the directory in which a node keeps its keys; what it
//! re-exports is documented where it is written: [`channel`] (publish and subscribe), [`redex`] (logs on disk),
//! [`identity`] (who signs) and [`transport`] (links).
//!
//! A [`Node`] is one member of a mesh: it finds the others, links to them, publishes on channels and subscribes to
//! patterns of channels. Every event is sealed end to end and signed by its origin; a subscriber gets each event once,
//! in its origin's order, and is told of what could not be had.
//!
//! ```
//! # #[cfg(feature = "channel")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use net::{From, Node};
//!
//! let node = Node::builder().ephemeral().mdns(false).start().await?;
//! let quakes = node.channel("quakes/ak").open().await?;
//! quakes.publish(r#"{"mag": 4.2}"#).await?;
//! let mut events = node.subscribe("quakes/*").from(From::Earliest).await?;
//! let event = events.next().await.expect("the node is open")?.event().expect("nothing is lost on one node");
//! assert_eq!(event.payload(), br#"{"mag": 4.2}"#);
//! node.close().await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "channel"))]
//! # fn main() {}
//! ```
//!
//! Features, the first three by default: `channel` gives the node, `filter` filters of subscriptions, `log` logs on disk;
//! `full` gives every layer there is; `weather` adds faults to the sockets of a node, for tests.

#![forbid(unsafe_code)]

#[cfg(feature = "channel")]
mod builder;
#[cfg(feature = "log")]
pub mod logs;
#[cfg(feature = "channel")]
mod metrics;
#[cfg(feature = "channel")]
mod node;
#[cfg(feature = "channel")]
mod runtime;
#[cfg(feature = "channel")]
pub mod state;

#[cfg(feature = "channel")]
pub use net_channel as channel;
pub use net_identity as identity;
#[cfg(feature = "log")]
pub use net_redex as redex;
pub use net_transport as transport;

#[cfg(feature = "channel")]
pub use builder::{Builder, StartError};
#[cfg(feature = "channel")]
pub use metrics::Metrics;
#[cfg(feature = "channel")]
pub use net_channel::{Channel, Cursor, Event, From, Item, NodeEvent, NodeEvents, Publish, Subscription};
pub use net_transport::{NodeId, Ticket};
#[cfg(feature = "channel")]
pub use node::{Node, StartNote};
#[cfg(feature = "channel")]
pub use runtime::runtime;

/// The context strings of this crate, for the table and its test.
#[cfg(feature = "log")]
pub const CONTEXTS: &[&str] = &[logs::RING_SECRET];
