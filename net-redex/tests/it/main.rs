//! What the log promises, from outside.

mod bad_input;
mod basics;
#[cfg(feature = "sim")]
mod crash;
mod events;
mod golden;
#[cfg(feature = "sim")]
mod sim;
mod support;
mod verify;
