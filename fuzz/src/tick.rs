//! Ticks: as they came, and signed by the origin.

use net_channel::{BatchHash, TICK_LEN, Tick, TickParams};
use net_transport::{HEADER_LEN, Header, Priority, Visibility};

use crate::world::{World, flipped};

/// Bytes before the signature.
const UNSIGNED_LEN: usize = TICK_LEN - 64;

/// Reads the input as a Tick; and as one without its signature, where channel and origin are put right.
pub fn run(data: &[u8]) -> bool {
    let world = World::new();
    let as_it_came = reads(&world, data);
    let signed = signed(&world, data).is_some_and(|frame| reads(&world, &frame));
    as_it_came || signed
}

fn signed(world: &World, data: &[u8]) -> Option<Vec<u8>> {
    let (unsigned, rest) = data.split_at_checked(UNSIGNED_LEN)?;
    let mut header = *Header::parse(unsigned).ok()?;
    header.set_channel(world.channel.prefix());
    header.set_origin(world.origin.short());
    let said = &unsigned[HEADER_LEN..];
    let signature = world.sign(&[
        b"net tick v1\0",
        &world.mesh.0,
        &world.channel.0,
        world.origin.as_bytes(),
        &header.to_signed_bytes(),
        said,
    ]);
    Some([header.as_bytes(), said, &signature, rest].concat())
}

fn reads(world: &World, frame: &[u8]) -> bool {
    let verify = |frame: &[u8]| Tick::verify(frame, &world.mesh, &world.channel, &world.origin);
    let Ok(tick) = verify(frame) else { return false };
    let header = Header::parse(frame).expect("it was verified");
    assert_eq!(frame.len(), TICK_LEN);
    assert_eq!((tick.last_seq, tick.incarnation), (header.seq(), header.incarnation()));
    assert!(0 < tick.incarnation && tick.incarnation <= tick.last_seq && tick.last_seq < u64::MAX);
    let again = Tick::sign(&TickParams {
        mesh: &world.mesh,
        channel: &world.channel,
        signer: &world.signer,
        last_seq: tick.last_seq,
        last_hash: tick.last_hash,
        incarnation: tick.incarnation,
        unix_ms: tick.unix_ms,
        visibility: header.visibility(),
        priority: header.priority(),
        subnet: header.subnet(),
        cap: header.cap(),
    })
    .expect("a key in memory signs");
    let mut again = again.to_vec();
    let mut with_ttl = *Header::parse(&again).expect("just made");
    with_ttl.set_ttl(header.ttl());
    again[..HEADER_LEN].copy_from_slice(with_ttl.as_bytes());
    assert_eq!(again, frame, "a tick is read differently from how it was written");
    let (forged, bit) = flipped(frame, frame, 0..frame.len() * 8);
    if let Ok(other) = verify(&forged) {
        let forged = Header::parse(&forged).expect("it was verified");
        assert_ne!(forged.ttl(), header.ttl(), "bit {bit} of a tick is not signed");
        assert_eq!(other, tick, "bit {bit} of a tick is not signed");
    }
    true
}

/// Ticks of two shapes, signed, and to be signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    let params = TickParams {
        mesh: &world.mesh,
        channel: &world.channel,
        signer: &world.signer,
        last_seq: 1_005,
        last_hash: BatchHash([0x88; 32]),
        incarnation: 1_000,
        unix_ms: 1_800_000_000_123,
        visibility: Visibility::Global,
        priority: Priority::Normal,
        subnet: [3, 7, 2, 0],
        cap: [0; 4],
    };
    let last = TickParams {
        last_seq: u64::MAX - 1,
        incarnation: 1,
        unix_ms: u64::MAX,
        visibility: Visibility::Local,
        priority: Priority::Low,
        cap: [1, 2, 3, 4],
        ..params
    };
    [params, last]
        .iter()
        .flat_map(|params| {
            let frame = Tick::sign(params).expect("a key in memory signs").to_vec();
            let unsigned = frame[..UNSIGNED_LEN].to_vec();
            [frame, unsigned]
        })
        .collect()
}
