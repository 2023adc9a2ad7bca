//! The formats of this crate, driven from outside.

mod batch;
mod fixture;
