//! The hot paths of a node one by one: `instructions` lists them, `instructions PATH TIMES` runs one.
//!
//! `cargo xtask bench instructions` runs each under a tool that counts. What a path needs to begin with is the same however
//! often it is run, so that it drops out of the difference of two runs.

#![forbid(unsafe_code)]

// The links' own source, which is no part of that crate's interface.
#[expect(dead_code, reason = "a link also asks whether a frame is begun")]
#[path = "../../../net-transport/src/link/assembler.rs"]
mod assembler;

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use net::Node;
use net::channel::{
    Advert, BatchBuilder, BatchHash, ChannelHash, ChannelName, Class, EventBatch, Hlc, OpenGate, SealParams,
    SealedBatch, SenderKey,
};
use net::identity::EntityKey;
use net::transport::{Admission as _, HEADER_LEN, Header, HeaderError, Kind, MeshId, NodeId, Visibility, buffers};

use crate::assembler::Assembler;

/// Payload bytes of an event, and how many of them are a batch of some 60 KiB.
const SMALL: (usize, usize) = (64, 740);
const LARGE: (usize, usize) = (1 << 10, 58);

/// Bytes that one datagram carries of a stream.
const CHUNK: usize = 1_200;

/// A path: its name, how often it is run so that the difference shows, how many events or frames one time has.
type Path = (&'static str, u64, usize, fn(u64) -> Result<()>);

const PATHS: &[Path] = &[
    ("publish-64-b", 40, SMALL.1, |times| publish(SMALL, times)),
    ("publish-1-kib", 40, LARGE.1, |times| publish(LARGE, times)),
    ("seal-64-b", 100, SMALL.1, |times| seal(SMALL, times)),
    ("seal-1-kib", 100, LARGE.1, |times| seal(LARGE, times)),
    ("open-64-b", 100, SMALL.1, |times| open(SMALL, times)),
    ("open-1-kib", 100, LARGE.1, |times| open(LARGE, times)),
    ("assemble-frames-of-1-kib", 200, 64, |times| assemble(1 << 10, 64, times)),
    ("assemble-frames-of-60-kib", 200, 4, |times| assemble(60 << 10, 4, times)),
    ("header-gate", 10_000, 1, gate),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = arguments.as_slice() else {
        for (name, times, events, _) in PATHS {
            println!("{name} {times} {events}");
        }
        return Ok(());
    };
    let (_, _, _, run) = PATHS.iter().find(|(known, ..)| known == name).context("there is no such path")?;
    run(times.parse()?)
}

/// Who signs what, where.
struct Origin {
    mesh: MeshId,
    name: ChannelName,
    channel: ChannelHash,
    signer: EntityKey,
    key: SenderKey,
}

impl Origin {
    fn new() -> Result<Self> {
        let (mesh, name) = (MeshId([1; 32]), ChannelName::parse("bench/channel")?);
        let (signer, key) = (EntityKey::from_secret(&[2; 32]), SenderKey::new([3; 32]));
        Ok(Self { mesh, channel: name.hash(&mesh), name, signer, key })
    }

    /// Encodes events in a batch and seals it, not the first of its origin.
    fn batch(&self, builder: &mut BatchBuilder, (len, events): (usize, usize)) -> Result<SealedBatch> {
        let payload = vec![7; len];
        for time in 0..events as u64 {
            builder.push(black_box(&payload), None, &[], Hlc(time))?;
        }
        let first = SealParams::first(&self.mesh, &self.channel, &self.signer, &self.key, 2_000, [5; 16]);
        Ok(builder.seal(&SealParams { incarnation: 1_000, prev: BatchHash([4; 32]), ..first })?)
    }
}

/// `Channel::publish` of a whole node to which nobody is linked, a batch at a time: queued, sealed, cached, acknowledged.
fn publish((len, events): (usize, usize), times: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let node = Node::builder().ephemeral().mdns(false).listen(([127, 0, 0, 1], 0).into()).start().await?;
        let channel = node.channel("bench/channel").open().await?;
        let payload = vec![7; len];
        for _ in 0..times {
            for _ in 0..events {
                channel.publish(black_box(&payload)).await?;
            }
            channel.flush().await;
        }
        node.close().await;
        Ok(())
    })
}

/// Into a batch, sealed and signed.
fn seal(size: (usize, usize), times: u64) -> Result<()> {
    let (origin, mut builder) = (Origin::new()?, BatchBuilder::new());
    for _ in 0..times {
        black_box(origin.batch(&mut builder, size)?);
    }
    Ok(())
}

/// A frame as it comes from a link, verified, opened, and its events taken.
fn open(size: (usize, usize), times: u64) -> Result<()> {
    let origin = Origin::new()?;
    let frame = origin.batch(&mut BatchBuilder::new(), size)?.frame().to_vec();
    for _ in 0..times {
        let frame = Bytes::from(black_box(&frame).clone());
        let batch = SealedBatch::verify(frame, &origin.mesh, &origin.channel, &origin.signer.id())?;
        let batch = batch.open_in_place(&origin.key).ok().context("it opens")?;
        let batch = EventBatch::new(origin.name.clone(), origin.signer.id(), batch);
        ensure!(batch.events().map(|event| event.payload().len()).sum::<usize>() == size.0 * size.1, "all is there");
    }
    Ok(())
}

/// Frames of this payload out of a stream that comes in chunks.
fn assemble(len: usize, frames: usize, times: u64) -> Result<()> {
    let mut header = Header::new(Kind::Batch);
    header.set_payload_len(u32::try_from(len)?);
    let stream = [&header.as_bytes()[..], &vec![7; len]].concat().repeat(frames);
    let (mut assembler, mut out) = (Assembler::new(), Vec::new());
    for _ in 0..times {
        for chunk in black_box(&stream).chunks(CHUNK) {
            assembler.feed(chunk, |_| true, &mut out)?;
        }
        ensure!(out.drain(..).count() == frames, "every frame has ended");
    }
    Ok(())
}

/// A header that comes from a link: what can be seen of it, and whether its origin is vouched for.
fn gate(times: u64) -> Result<()> {
    let origin = Origin::new()?;
    let gate = OpenGate::new(origin.mesh);
    let node = NodeId::from_bytes([6; 32]);
    let advert = Advert {
        name: origin.name.clone(),
        class: Class::Reliable,
        visibility: Visibility::Global,
        capability: [0; 32],
        origin: origin.signer.id(),
        entity: origin.signer.id(),
        node,
        seq: 1,
        closed: false,
    };
    gate.advert(&advert.sign(&origin.mesh, &origin.signer)?)?;
    let frame = origin.batch(&mut BatchBuilder::new(), SMALL)?.frame().slice(..HEADER_LEN);
    for _ in 0..times {
        gate.check(Header::parse(black_box(&frame))?, black_box(&node))?;
    }
    Ok(())
}
