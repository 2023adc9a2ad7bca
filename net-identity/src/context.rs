//! Every context string of this crate.
//!
//! No two of the project are equal and none is a prefix of another; `docs/spec/contexts.md` lists them all.

/// First bytes of the associated data of a key sealed under a passphrase.
#[cfg(feature = "passphrase")]
pub(crate) const KEY_FILE: &str = "net key file v1\0";

/// The context strings of this crate, for the table and its test.
pub const CONTEXTS: &[&str] = &[
    #[cfg(feature = "passphrase")]
    KEY_FILE,
];
