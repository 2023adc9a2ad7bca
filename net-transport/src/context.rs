//! Every context string of this crate: of `derive_key`, of signatures, of hashes.
//!
//! No two of the project are equal and none is a prefix of another; `docs/spec/contexts.md` lists them all.

pub(crate) const NODE_KEY: &str = "net 2026 node ed25519 v1";
pub(crate) const NOISE_KEY: &str = "net 2026 noise x25519 v1";
pub(crate) const BINDING: &str = "net static binding v1\0";
pub(crate) const RECORD: &str = "net node record v1\0";
pub(crate) const TICKET_CHECKSUM: &str = "net ticket checksum v1";
pub(crate) const MESH_ID_HINT: &str = "net mesh id hint v1";
#[cfg(feature = "link")]
pub(crate) const LINK_PROLOGUE: &str = "net link v1\0";
#[cfg(feature = "link")]
pub(crate) const LINK_AUTH: &str = "net link auth\0";
#[cfg(feature = "link")]
pub(crate) const LINK_GATE: &str = "net link v1 gate";
#[cfg(feature = "link")]
pub(crate) const LINK_EXPORTER: &str = "net link v1 exporter";
#[cfg(feature = "link")]
pub(crate) const RESET_KEY: &str = "net 2026 stateless reset v1";
#[cfg(feature = "link")]
pub(crate) const CONNECTION_ID_KEY: &str = "net 2026 connection id v1";
#[cfg(feature = "link")]
pub(crate) const TOKEN_KEY: &str = "net 2026 address token v1";

/// The context strings of this crate, for the table and its test.
pub const CONTEXTS: &[&str] = &[
    NODE_KEY,
    NOISE_KEY,
    BINDING,
    RECORD,
    TICKET_CHECKSUM,
    MESH_ID_HINT,
    #[cfg(feature = "link")]
    LINK_PROLOGUE,
    #[cfg(feature = "link")]
    LINK_AUTH,
    #[cfg(feature = "link")]
    LINK_GATE,
    #[cfg(feature = "link")]
    LINK_EXPORTER,
    #[cfg(feature = "link")]
    RESET_KEY,
    #[cfg(feature = "link")]
    CONNECTION_ID_KEY,
    #[cfg(feature = "link")]
    TOKEN_KEY,
];
