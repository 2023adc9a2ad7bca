//! Nodes with and without a directory.

mod directory;
mod metrics;
mod node;
