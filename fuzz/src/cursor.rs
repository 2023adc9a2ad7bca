//! Cursors: read from text, and used to read a log from.

use std::sync::OnceLock;

use net_channel::Cursor;
use net_redex::{Batch, Found, Log, LogConfig, Start, SyncPolicy};
use net_transport::Pair;

use crate::world::World;

/// Reads the input as text, and as pairs of an origin's number and a next seq.
pub fn run(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Cursor>().ok());
    if let Some(cursor) = &text {
        assert_eq!(cursor.to_string().parse().as_ref(), Ok(cursor), "a cursor is written differently");
        reads(cursor);
    }
    let world = World::new();
    let mut cursor = Cursor::default();
    for pair in data.chunks_exact(9) {
        let mut origin = *world.origin.as_bytes();
        // The origin whose events are there, or one of the others.
        origin[0] ^= pair[0];
        let next = u64::from_le_bytes(std::array::from_fn(|i| pair[1 + i]));
        cursor.set(Pair { channel: world.channel.0, origin }, next);
    }
    reads(&cursor);
    text.is_some() || !cursor.is_empty()
}

/// Everything that the cursor has not seen comes, in order, and nothing that it has.
fn reads(cursor: &Cursor) {
    static LOG: OnceLock<(Log, Vec<Batch>)> = OnceLock::new();
    let (log, all) = LOG.get_or_init(|| {
        let world = World::new();
        let config = LogConfig::default().sync(SyncPolicy::Memory).without_threads();
        let log = Log::open("log", config.channel(world.mesh, world.channel)).expect("a log in memory");
        for frame in world.chain(40) {
            let _ack = log.append(&frame).wait().expect("room");
        }
        let all = batches(&log, Start::Earliest);
        (log, all)
    });
    let world = World::new();
    let next = cursor.next(&Pair { channel: world.channel.0, origin: *world.origin.as_bytes() }).unwrap_or(0);
    let unseen = all.iter().filter(|batch| batch.header().seq() + u64::from(batch.header().events()) > next);
    let read = batches(log, Start::Cursor(cursor.clone()));
    assert!(read.iter().map(Batch::offset).eq(unseen.map(Batch::offset)), "{cursor}");
}

fn batches(log: &Log, start: Start) -> Vec<Batch> {
    let batch = |found| match found {
        Ok(Found::Batch(batch)) => batch,
        other => panic!("the log is sound: {other:?}"),
    };
    log.read(start).expect("a cursor can always be read from").map(batch).collect()
}

/// An empty cursor, one in the middle, and pairs.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    let mut cursor = Cursor::default();
    let empty = cursor.to_string().into_bytes();
    cursor.set(Pair { channel: world.channel.0, origin: *world.origin.as_bytes() }, 1_010);
    let pair = |origin: u8, next: u64| [&[origin][..], &next.to_le_bytes()].concat();
    let two = [pair(0, 1_007), pair(1, 5)].concat();
    vec![empty, cursor.to_string().into_bytes(), pair(0, u64::MAX), two]
}
