//! Nodes with and without a directory.

mod directory;
mod node;
