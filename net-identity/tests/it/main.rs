//! What users of this crate rely on.

mod eddsa;
mod keystore;
