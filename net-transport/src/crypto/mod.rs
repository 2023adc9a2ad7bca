//! The handshake of a link: `Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s` where QUIC expects TLS.
//!
//! This module implements the traits of `quinn_proto::crypto` and nothing else: it opens no socket, keeps no time and
//! knows no stream. `docs/spec/link.md` has its bytes.
//!
//! | file | holds |
//! |---|---|
//! | `noise` | the Noise handshake itself: snow, with our own X25519 that refuses low-order points |
//! | `schedule` | from psk, static key and Noise split to the key of every packet |
//! | `packet` | packets and header masks under either cipher (RFC 9001 §5) |
//! | `messages` | framing and the two authentication messages |
//! | `session` | the state machine that quinn drives |
//! | `config` | what quinn is configured with: who we are, whom we dial, whom we admit |
//! | `token` | stateless resets, address tokens, connection ids |
//! | `entropy` | where random bytes come from |
//!
//! A stranger, who lacks the psk or the responder's static key, can neither read an Initial packet nor form one, and so
//! gets no answer. A recorder who holds the psk and all *public* keys reads Initial packets and nothing more: all other
//! keys come from the Noise split, which takes an ephemeral secret of one end or the other.

mod config;
mod entropy;
mod messages;
mod noise;
mod packet;
mod schedule;
mod session;
mod token;

pub use config::{
    CREDENTIAL_LEN_MAX, CredentialTooLong, LinkIdentity, client_config, generation_of, server_config, version, versions,
};
pub use entropy::{Entropy, NoEntropy};
pub use messages::{BODY_LEN_MAX, HandshakeError};
pub use session::PeerIdentity;
pub use token::{CONNECTION_ID_LEN, ConnectionIds, reset_key, token_key};
