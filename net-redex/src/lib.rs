//! A durable, append-only, verifiable log of signed event batches.

#![deny(unsafe_code)]

mod batch;
mod commit;
mod config;
mod core;
pub mod disk;
mod error;
mod files;
mod format;
mod group;
mod hole;
mod log;
mod mutants;
mod open;
mod read;
mod recovery;
mod segment;
mod tend;
mod walk;

pub use config::{Clock, Entropy, LogConfig, Retention, SyncPolicy};
pub use error::{AppendError, OpenError, ReadError};
pub use format::LogId;
pub use hole::{DotRange, Hole};
pub use log::{Ack, Append, Log, LogMetrics};
pub use read::{Batch, Follow, Found, Place, Reader, Start};
pub use recovery::{Recovery, Torn};
