//! Nodes with and without a directory.

#[cfg(feature = "log")]
mod contexts;
mod directory;
#[cfg(feature = "log")]
mod logs;
mod metrics;
mod node;
#[cfg(feature = "log")]
mod persist;
