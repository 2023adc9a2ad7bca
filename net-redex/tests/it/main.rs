//! What the log promises, from outside.

mod basics;
#[cfg(feature = "sim")]
mod sim;
mod support;
