//! What a node says of itself: signed, small, and soon stale.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::link::control::{ADDRESS_LEN, WireAddress};
use crate::{BINDING_LEN, MeshId, NodeId, NodeKeys, StaticBinding, context};

/// Bytes of a record at most.
pub(crate) const RECORD_LEN_MAX: usize = 1024;
/// Addresses in a record at most.
pub(crate) const ADDRESSES_MAX: usize = 16;

const FORMAT: u8 = 1;
const SIGNATURE_LEN: usize = 64;

/// A verified node record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) binding: StaticBinding,
    /// Random for each start of the node.
    pub(crate) boot: [u8; 8],
    /// Of two records of one node, the one with the higher seq holds.
    pub(crate) seq: u64,
    /// Where it can be dialled, best first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Its place.
    pub(crate) subnet: [u8; 4],
}

/// The signed part: everything is of fixed size but the addresses.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    format: u8,
    binding: &'a [u8],
    boot: [u8; 8],
    seq: u64,
    subnet: [u8; 4],
    /// 18 bytes each.
    addresses: &'a [u8],
}

/// Why bytes are no node record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a node record that cannot be read")]
    Malformed,
    #[error("the signature of a node record does not verify")]
    Forged,
}

/// A record that has been read, and whose signature has not been checked: enough to see whether it is news.
pub(crate) struct UnverifiedRecord<'a> {
    body: Body<'a>,
    signed: &'a [u8],
    signature: &'a [u8; SIGNATURE_LEN],
    pub(crate) node: NodeId,
}

impl<'a> UnverifiedRecord<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_LEN_MAX {
            return Err(RecordError::Malformed);
        }
        let (signature, signed) = bytes.split_first_chunk().ok_or(RecordError::Malformed)?;
        let (body, rest): (Body<'a>, _) = postcard::take_from_bytes(signed).map_err(|_| RecordError::Malformed)?;
        let addresses = body.addresses.len();
        if body.format != FORMAT
            || !rest.is_empty()
            || body.binding.len() != BINDING_LEN
            || !addresses.is_multiple_of(ADDRESS_LEN)
            || addresses / ADDRESS_LEN > ADDRESSES_MAX
        {
            return Err(RecordError::Malformed);
        }
        let node = NodeId::from_bytes(*body.binding.first_chunk().ok_or(RecordError::Malformed)?);
        Ok(Self { body, signed, signature, node })
    }

    pub(crate) fn seq(&self) -> u64 {
        self.body.seq
    }

    /// Checks both signatures; `known` saves checking a binding that was checked before.
    pub(crate) fn verify(self, mesh: &MeshId, known: Option<&StaticBinding>) -> Result<NodeRecord, RecordError> {
        let binding = match known.filter(|known| known.to_bytes() == self.body.binding) {
            Some(known) => *known,
            None => StaticBinding::parse(self.body.binding).map_err(|_| RecordError::Forged)?,
        };
        self.node.verify(&message(mesh, self.signed), self.signature).map_err(|_| RecordError::Forged)?;
        let (addresses, _) = self.body.addresses.as_chunks::<ADDRESS_LEN>();
        Ok(NodeRecord {
            binding,
            boot: self.body.boot,
            seq: self.body.seq,
            addresses: addresses.iter().filter_map(|bytes| WireAddress::from_bytes(bytes).dialable()).collect(),
            subnet: self.body.subnet,
        })
    }
}

impl NodeRecord {
    /// Signs; addresses over the limit are left out.
    pub(crate) fn sign(&self, keys: &NodeKeys, mesh: &MeshId) -> Bytes {
        let addresses = self.addresses.iter().take(ADDRESSES_MAX).map(|address| WireAddress::from(*address).to_bytes());
        let addresses: Vec<u8> = addresses.flatten().collect();
        let binding = self.binding.to_bytes();
        let (boot, seq, subnet) = (self.boot, self.seq, self.subnet);
        let body = Body { format: FORMAT, binding: &binding, boot, seq, subnet, addresses: &addresses };
        let signed = postcard::to_allocvec(&body).expect("a record is plain data");
        let signature = keys.sign(&message(mesh, &signed));
        [&signature[..], &signed].concat().into()
    }
}

/// A record of one mesh says nothing in another.
fn message(mesh: &MeshId, signed: &[u8]) -> Vec<u8> {
    [context::RECORD.as_bytes(), &mesh.0, signed].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    const MESH: MeshId = MeshId([5; 32]);

    fn sample(keys: &NodeKeys) -> NodeRecord {
        NodeRecord {
            binding: *keys.binding(),
            boot: [1; 8],
            seq: 1 << 40,
            addresses: vec!["127.0.0.1:9000".parse().expect("v4"), "[2001:db8::1]:9".parse().expect("v6")],
            subnet: [3, 7, 0, 0],
        }
    }

    fn parse(bytes: &[u8]) -> Result<NodeRecord, RecordError> {
        UnverifiedRecord::parse(bytes)?.verify(&MESH, None)
    }

    #[test]
    fn record_round_trips() {
        let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
        let bytes = sample(&keys).sign(&keys, &MESH);
        assert_eq!(parse(&bytes), Ok(sample(&keys)));
        let read = UnverifiedRecord::parse(&bytes).expect("well formed");
        assert_eq!((read.node, read.seq()), (keys.id(), 1 << 40));
        assert!(read.verify(&MESH, Some(keys.binding())).is_ok());
    }

    #[test]
    fn every_flipped_bit_cut_and_extension_is_refused() {
        let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
        let bytes = sample(&keys).sign(&keys, &MESH);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
        for n in 0..bytes.len() {
            assert!(parse(&bytes[..n]).is_err(), "cut to {n}");
        }
        assert!(parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn record_of_another_mesh_or_signer_is_refused() {
        let (keys, other) = (NodeKeys::from_seed(&Seed::new([1; 32])), NodeKeys::from_seed(&Seed::new([2; 32])));
        assert_eq!(parse(&sample(&keys).sign(&keys, &MeshId([6; 32]))), Err(RecordError::Forged));
        assert_eq!(parse(&sample(&keys).sign(&other, &MESH)), Err(RecordError::Forged));
    }

    #[test]
    fn the_largest_record_fits_its_limit() {
        let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
        let mut record = sample(&keys);
        record.seq = u64::MAX;
        record.addresses = vec!["127.0.0.1:9000".parse().expect("v4"); ADDRESSES_MAX + 5];
        let bytes = record.sign(&keys, &MESH);
        assert!(bytes.len() <= RECORD_LEN_MAX);
        assert_eq!(parse(&bytes).map(|r| r.addresses.len()), Ok(ADDRESSES_MAX));
    }
}
