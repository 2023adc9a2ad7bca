//! The commands as a newcomer types them: real processes, real sockets, real signals.

#![allow(unreachable_pub, reason = "modules of one test program share their helpers")]

mod abuse;
mod basics;
mod demo;
mod harness;
mod seeing;
mod takeover;
mod wrong;
