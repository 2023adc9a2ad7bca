//! What the log promises, from outside.

mod bad_input;
mod basics;
mod budget;
mod contexts;
#[cfg(feature = "sim")]
mod crash;
mod events;
mod golden;
mod inspect;
mod memory;
mod reopen;
mod rot;
#[cfg(feature = "sim")]
mod sim;
mod support;
mod verify;
