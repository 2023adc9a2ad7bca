//! Tickets: one string that lets a node join a mesh.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{MeshId, Peer, Psk, base32_decode, base32_encode, context};

/// What a node needs to join a mesh, as one string that can be pasted: `net1` and lower-case base32.
///
/// **It holds the psk and is a secret**: [`Display`](fmt::Display) writes all of it, `Debug` nothing that is secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The mesh.
    pub mesh: MeshId,
    /// The generation of the psk.
    pub generation: u8,
    /// The secret of the mesh.
    pub psk: Psk,
    /// Version and hash of the policy that the mesh had when the ticket was made.
    pub policy: Option<(u64, [u8; 32])>,
    /// Nodes to dial first, at most [`TICKET_PEERS_MAX`], each with at most [`TICKET_ADDRESSES_MAX`] addresses.
    pub peers: Vec<Peer>,
    /// A capability for the new node; empty if it needs none or gets it elsewhere.
    pub capability: Vec<u8>,
}

/// Peers of a ticket at most.
pub const TICKET_PEERS_MAX: usize = 16;

/// Addresses of one peer of a ticket at most.
pub const TICKET_ADDRESSES_MAX: usize = 16;

/// Characters of a ticket at most, white space included: 64 KiB.
pub const TICKET_TEXT_LEN_MAX: usize = 64 * 1024;

const PREFIX: &str = "net1";
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;

/// Why text is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The text does not begin with `net1`.
    #[error("a ticket begins with \"net1\": copy it again from its first character")]
    Prefix,
    /// A character that tickets do not contain; `at` counts characters from 0, white space not counted.
    #[error("character {at} of the ticket is {character:?}, but tickets have letters a-z and digits 2-7 only")]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// The checksum does not fit.
    #[error("a letter of the ticket was lost or changed when copying: copy it again, all of it")]
    Checksum,
    /// A newer form of ticket.
    #[error("the ticket is of version {0}, and this program knows version 1: update it")]
    Version(u8),
    /// More text than a ticket can have.
    #[error("a ticket has at most 65536 characters: copy the ticket alone")]
    TooLong,
    /// More peers than [`TICKET_PEERS_MAX`].
    #[error("the ticket names {0} peers, at most 16 are allowed")]
    TooManyPeers(usize),
    /// More addresses of a peer than [`TICKET_ADDRESSES_MAX`].
    #[error("the ticket names {0} addresses of one peer, at most 16 are allowed")]
    TooManyAddresses(usize),
    /// The checksum fits, and the content still is no ticket.
    #[error("the content of the ticket is not valid: ask for a new one")]
    Content,
    /// Bytes follow the content.
    #[error("the ticket has {0} bytes too many: ask for a new one")]
    TrailingBytes(usize),
}

impl Ticket {
    /// Checks the limits that [`FromStr`] demands, so that what is written can be read.
    ///
    /// # Errors
    /// [`TicketError::TooManyPeers`], [`TicketError::TooManyAddresses`] or [`TicketError::TooLong`].
    pub fn check(&self) -> Result<(), TicketError> {
        if self.peers.len() > TICKET_PEERS_MAX {
            return Err(TicketError::TooManyPeers(self.peers.len()));
        }
        let most = self.peers.iter().map(|peer| peer.addresses.len()).max().unwrap_or(0);
        if most > TICKET_ADDRESSES_MAX {
            return Err(TicketError::TooManyAddresses(most));
        }
        if self.to_string().len() > TICKET_TEXT_LEN_MAX {
            return Err(TicketError::TooLong);
        }
        Ok(())
    }
}

/// First bytes of BLAKE3 over version and body. It finds slips, not attackers: whoever has a ticket can make others.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::derive_key(context::TICKET_CHECKSUM, bytes);
    std::array::from_fn(|i| hash[i])
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Zeroizing::new(postcard::to_allocvec(self).map_err(|_| fmt::Error)?);
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + body.len() + CHECKSUM_LEN));
        bytes.push(VERSION);
        bytes.extend_from_slice(&body);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        f.write_str(PREFIX)?;
        f.write_str(&Zeroizing::new(base32_encode(&bytes)))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket. White space within it, as a terminal or a mail makes it, does not matter, nor does case.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > TICKET_TEXT_LEN_MAX {
            return Err(TicketError::TooLong);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
        let text = Zeroizing::new(text);
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        if let Some((at, character)) = text.chars().enumerate().skip(PREFIX.len()).find(|(_, c)| !is_base32(*c)) {
            return Err(TicketError::Character { character, at });
        }
        // Every character is right, so what is left is a length that no ticket has.
        let bytes = Zeroizing::new(base32_decode(encoded).ok_or(TicketError::Checksum)?);
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TicketError::Checksum)?;
        if checksum(content) != *sum {
            return Err(TicketError::Checksum);
        }
        match content {
            [VERSION, body @ ..] => read(body),
            [version, ..] => Err(TicketError::Version(*version)),
            [] => Err(TicketError::Content),
        }
    }
}

fn read(body: &[u8]) -> Result<Ticket, TicketError> {
    let (ticket, rest): (Ticket, _) = postcard::take_from_bytes(body).map_err(|_| TicketError::Content)?;
    if !rest.is_empty() {
        return Err(TicketError::TrailingBytes(rest.len()));
    }
    ticket.check()?;
    Ok(ticket)
}

fn is_base32(character: char) -> bool {
    matches!(character, 'a'..='z' | '2'..='7')
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("mesh", &self.mesh)
            .field("generation", &self.generation)
            .field("policy_version", &self.policy.map(|(version, _)| version))
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
