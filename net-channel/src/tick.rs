//! Ticks: an origin's signed statement of its last event, so that a lost last batch is found. Layout:
//! `docs/spec/batch.md`.

use bytes::Bytes;
use net_identity::{EntityId, SignError, Signer};
use net_transport::{HEADER_LEN, Header, HeaderError, Kind, MeshId, Priority, ShortId, Visibility};
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{BatchHash, ChannelHash, context};

/// Bytes of a Tick, with its header.
pub const TICK_LEN: usize = HEADER_LEN + size_of::<TickBytes>();

const FORMAT: u8 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TickBytes {
    format: u8,
    zero: [u8; 7],
    last_hash: [u8; 32],
    unix_ms: U64,
    signature: [u8; 64],
}

const _: () = assert!(size_of::<TickBytes>() == 112);
/// Bytes of the payload that are signed.
const SIGNED_LEN: usize = 48;

/// All that a Tick says.
#[derive(Clone, Copy)]
pub struct TickParams<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The channel.
    pub channel: &'a ChannelHash,
    /// Who signs: the origin.
    pub signer: &'a dyn Signer,
    /// Seq of its last event.
    pub last_seq: u64,
    /// Hash of the batch that holds that event.
    pub last_hash: BatchHash,
    /// Seq of the first event of this incarnation.
    pub incarnation: u64,
    /// What the origin's clock shows, in milliseconds since 1970.
    pub unix_ms: u64,
    /// How far it may travel: as far as the batches.
    pub visibility: Visibility,
    /// Which queues it waits in: those of the batches.
    pub priority: Priority,
    /// The place of the origin's node, one byte a level.
    pub subnet: [u8; 4],
    /// First 4 bytes of the hash of the capability under which the origin publishes; zero if none is needed.
    pub cap: [u8; 4],
}

impl std::fmt::Debug for TickParams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TickParams")
            .field("channel", self.channel)
            .field("origin", &self.signer.id())
            .field("last_seq", &self.last_seq)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// Why bytes are no Tick, or not the Tick they should be. Always the fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TickError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Not a Tick, or a field that is not as a Tick has it.
    #[error("no tick of a known version")]
    Malformed,
    /// Seq 0, the last seq there is, or one below its incarnation.
    #[error("seq {seq} cannot be in incarnation {incarnation}")]
    Seq {
        /// The last seq.
        seq: u64,
        /// The incarnation.
        incarnation: u64,
    },
    /// The Tick is of another channel.
    #[error("a tick of another channel")]
    Channel,
    /// The Tick is of another origin.
    #[error("a tick of another origin")]
    Origin,
    /// The origin did not sign this in this channel of this mesh.
    #[error("the signature does not verify")]
    Signature,
}

/// A Tick whose signature has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Who signed it.
    pub origin: EntityId,
    /// Seq of its last event.
    pub last_seq: u64,
    /// Hash of the batch that holds that event.
    pub last_hash: BatchHash,
    /// Seq of the first event of this incarnation.
    pub incarnation: u64,
    /// What the origin's clock showed, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl Tick {
    /// Makes and signs a frame of [`TICK_LEN`] bytes.
    ///
    /// # Errors
    /// [`SignError`] if the signer fails.
    pub fn sign(params: &TickParams<'_>) -> Result<Bytes, SignError> {
        let origin = params.signer.id();
        let mut header = Header::new(Kind::Tick);
        header.set_scope(params.visibility, params.priority);
        header.set_payload_len(u32::try_from(size_of::<TickBytes>()).expect("112 bytes"));
        header.set_channel(params.channel.prefix());
        header.set_origin(origin.short());
        header.set_seq(params.last_seq);
        header.set_subnet(params.subnet);
        header.set_incarnation(params.incarnation);
        header.set_cap(params.cap);
        let mut tick = TickBytes {
            format: FORMAT,
            zero: [0; 7],
            last_hash: params.last_hash.0,
            unix_ms: U64::new(params.unix_ms),
            signature: [0; 64],
        };
        tick.signature = params.signer.sign(&signed_message(params.mesh, params.channel, &origin, &header, &tick))?;
        Ok([header.as_bytes().as_slice(), tick.as_bytes()].concat().into())
    }

    /// Parses a frame and checks that this origin signed it in this channel of this mesh.
    ///
    /// # Errors
    /// [`TickError`].
    pub fn verify(frame: &[u8], mesh: &MeshId, channel: &ChannelHash, origin: &EntityId) -> Result<Self, TickError> {
        let header = Header::parse(frame)?;
        let tick = TickBytes::ref_from_bytes(&frame[HEADER_LEN..]).map_err(|_| TickError::Malformed)?;
        let plain = header.kind() == Kind::Tick
            && header.payload_len() == size_of::<TickBytes>()
            && header.flags() == 0
            && header.dest() == ShortId::default()
            && header.events() == 0
            && header.key_id() == [0; 4];
        if !plain || tick.format != FORMAT || tick.zero != [0; 7] {
            return Err(TickError::Malformed);
        }
        let (seq, incarnation) = (header.seq(), header.incarnation());
        if incarnation == 0 || incarnation > seq || seq == u64::MAX {
            return Err(TickError::Seq { seq, incarnation });
        }
        if header.channel() != channel.prefix() {
            return Err(TickError::Channel);
        }
        if header.origin() != origin.short() {
            return Err(TickError::Origin);
        }
        origin
            .verify(&signed_message(mesh, channel, origin, header, tick), &tick.signature)
            .map_err(|_| TickError::Signature)?;
        Ok(Self {
            origin: *origin,
            last_seq: seq,
            last_hash: BatchHash(tick.last_hash),
            incarnation,
            unix_ms: tick.unix_ms.get(),
        })
    }
}

fn signed_message(
    mesh: &MeshId,
    channel: &ChannelHash,
    origin: &EntityId,
    header: &Header,
    tick: &TickBytes,
) -> Vec<u8> {
    let tick = &tick.as_bytes()[..SIGNED_LEN];
    [context::TICK.as_bytes(), &mesh.0, &channel.0, origin.as_bytes(), &header.to_signed_bytes(), tick].concat()
}
