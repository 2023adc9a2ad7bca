//! Every context string of this crate: of `derive_key`, of signatures, of hashes.
//!
//! No two of the project are equal and none is a prefix of another; `docs/spec/contexts.md` lists them all.

pub(crate) const CHANNEL: &str = "net 2026 channel v1";
pub(crate) const BATCH: &str = "net batch v1\0";
pub(crate) const BATCH_HASH: &str = "net batch hash v1\0";
pub(crate) const BATCH_KEY_COMMIT: &str = "net batch key commit v1";
pub(crate) const SENDER_KEY_ID: &str = "net sender key id v1";
pub(crate) const KEY_GRANT: &str = "net key grant v1\0";
pub(crate) const ADVERT: &str = "net advert v1\0";
pub(crate) const ADVERT_KEY: &str = "net advert key v1";
pub(crate) const TICK: &str = "net tick v1\0";
pub(crate) const FLOOR_FILE: &str = "net floor file v1";
pub(crate) const CURSOR_FILE: &str = "net cursor file v1";

/// The context strings of this crate, for the table and its test.
pub const CONTEXTS: &[&str] = &[
    CHANNEL,
    BATCH,
    BATCH_HASH,
    BATCH_KEY_COMMIT,
    SENDER_KEY_ID,
    KEY_GRANT,
    ADVERT,
    ADVERT_KEY,
    TICK,
    FLOOR_FILE,
    CURSOR_FILE,
];
