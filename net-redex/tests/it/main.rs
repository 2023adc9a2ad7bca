//! What the log promises, from outside.

mod basics;
#[cfg(feature = "sim")]
mod crash;
mod events;
#[cfg(feature = "sim")]
mod sim;
mod support;
mod verify;
