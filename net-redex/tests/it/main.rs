//! What the log promises, from outside.

mod basics;
mod support;
