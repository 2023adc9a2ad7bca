//! A durable, append-only, verifiable log of signed event batches.

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
mod group;
mod hole;
mod keyring;
mod log;
mod mutants;
mod open;
mod read;
mod recovery;
mod scrub;
mod segment;
mod tend;
mod verify;
mod walk;
mod writer;

pub use compact::{CompactError, Compaction};
pub use config::{Clock, Entropy, LogConfig, Retention, RingSecret, SyncPolicy};
pub use error::{AppendError, OpenError, ReadError};
pub use events::{EventItem, Events, LogEvent, SealedWhy};
pub use format::LogId;
pub use hole::{DotRange, Hole};
pub use keyring::KeyRingError;
pub use log::{Ack, Append, Log, LogMetrics};
pub use read::{Batch, Follow, Found, Place, Reader, Start};
pub use recovery::{Recovery, Torn};
pub use scrub::Scrub;
pub use verify::{Expected, Fault, FaultKind, Verification};
pub use writer::{NewEvent, WriteError, Writer, WriterError};
