//! A durable, append-only, verifiable log of signed event batches, usable alone or as a channel's memory.
//!
//! It does **not** check who may write or read, open a socket, or need a runtime: it knows batches, files and keys.
//!
//! A [`Log`] is a directory of segments. A batch is appended as it was on the wire ([`Log::append`]), or made of events
//! and signed by a [`Writer`]. One thread at a time writes and syncs for all that wait, so that a sync serves as many
//! as come in the time of the one before. A [`Reader`] lends batches out of the mapped segments; [`Log::events`]
//! verifies and opens them. Opening a log cuts what an interrupted write left, and nothing else: damage to what had
//! been synced is a [`Hole`] that says which events it took.
//!
//! ```
//! use net_redex::{EventItem, Log, LogConfig, Start};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?; let dir = dir.path();
//! let log = Log::open(dir, LogConfig::default())?;
//! let writer = log.writer(std::sync::Arc::new(net_identity::EntityKey::generate()))?;
//! let ack = writer.append("21.5 °C")?;
//! assert!(ack.is_durable()); // fdatasync has returned
//! for item in log.events(Start::Earliest)? {
//!     if let EventItem::Event(event) = item? {
//!         assert_eq!(event.payload(), "21.5 °C".as_bytes());
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! Features: `sim`, a disk in memory with seeded power cuts and faults ([`disk`]). Bytes: `docs/spec/redex.md`.

#![deny(unsafe_code)]

mod batch;
mod commit;
mod compact;
mod config;
mod core;
pub mod disk;
mod error;
mod events;
mod files;
mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
mod hole;
mod inspect;
mod keyring;
mod log;
mod mutants;
mod open;
mod read;
mod recovery;
mod repair;
mod rewrite;
mod scrub;
mod segment;
mod store;
mod tend;
mod verify;
mod walk;
mod writer;

pub use compact::{CompactError, Compaction};
pub use config::{Clock, Entropy, LogConfig, Retention, RingSecret, SyncPolicy};
pub use error::{AppendError, OpenError, ReadError};
pub use events::{EventItem, Events, FollowEvents, LogEvent, SealedWhy};
pub use format::LogId;
pub use hole::{DotRange, Hole};
pub use inspect::SegmentInfo;
pub use keyring::KeyRingError;
pub use log::{Ack, Append, Enqueue, Log, LogMetrics, Queued};
pub use read::{Batch, Follow, Found, Place, Reader, Start};
pub use recovery::{Recovery, Torn};
pub use repair::RepairError;
pub use scrub::Scrub;
pub use verify::{Expected, Fault, FaultKind, Verification};
pub use writer::{NewEvent, WriteError, Writer, WriterError};

/// The context strings of this crate, for the table and its test.
pub const CONTEXTS: &[&str] = &[keyring::RING_CONTEXT];

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
