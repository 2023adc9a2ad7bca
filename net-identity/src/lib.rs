//! Who sent this, and who may sign for whom: entities, signers and keystores.
//!
//! This crate does **not** open connections and does not know what a payload means. It has neither tokio nor QUIC.
//!
//! An **entity** is an ed25519 public key: nodes, users, services, daemons and authorities are entities. Whoever can
//! sign for one is a [`Signer`]: the keys of a node, an [`EntityKey`] in memory, or your own agent or HSM. A
//! [`Keystore`] keeps keys in `0600` files, under a passphrase if you give one. Signatures are verified strictly, and
//! every signed statement begins with a context string of its own (`docs/spec/contexts.md`).
//!
//! ```
//! use net_identity::{EntityKey, Signer};
//!
//! let key = EntityKey::generate();
//! let signature = key.sign(b"my protocol v1\0hello").expect("a key in memory always signs");
//! assert!(key.id().verify(b"my protocol v1\0hello", &signature).is_ok());
//! assert!(key.id().verify(b"other protocol\0hello", &signature).is_err());
//! ```
//!
//! Features: `passphrase` (default) seals keys with Argon2id and ChaCha20-Poly1305.

#![forbid(unsafe_code)]

mod context;
mod edwards;
mod entity;
mod key_file;
mod keystore;
mod prepared;
pub mod secret_file;
mod signer;

pub use context::CONTEXTS;
pub use entity::{EntityId, PrefixError, resolve_prefix};
pub use keystore::{KEY_NAME_LEN_MAX, KEYS_MAX, KeyEntry, Keystore, KeystoreError};
pub use net_transport::{BadSignature, KeyTextError};
pub use prepared::{PreparedKey, VerifySignature};
pub use signer::{EntityKey, Passphrase, SignError, Signer};
