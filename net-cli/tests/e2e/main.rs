//! The commands as a newcomer types them: real processes, real sockets, real signals.

#![allow(clippy::print_stdout, reason = "what is typed is shown, to be read along and when a test fails")]
#![allow(unreachable_pub, reason = "modules of one test program share their helpers")]

mod abuse;
mod basics;
mod bench;
mod demo;
mod harness;
mod keep;
mod log;
mod newcomer;
mod seeing;
mod takeover;
mod wrong;
