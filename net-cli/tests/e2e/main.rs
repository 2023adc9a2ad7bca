//! The commands as a newcomer types them: real processes, real sockets, real signals.

mod abuse;
mod basics;
mod demo;
mod harness;
mod takeover;
mod wrong;
