//! What `verify` and `scrub` find, and that they name the events at fault.

use std::os::unix::fs::FileExt;

use net_channel::BatchError;
use net_redex::{Expected, Fault, FaultKind, Found, Log, Start, SyncPolicy};

use crate::support::{Origin, batches, config, read_all, stored};

/// A log of these frames, as someone with a tool that computes checksums would make it.
fn log_of(frames: &[Vec<u8>]) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().sync(SyncPolicy::None)).expect("a new log");
    for frame in frames {
        let _ack = log.append(frame).wait().expect("room");
    }
    (dir, log)
}

fn faults(frames: &[Vec<u8>], origin: &Origin, expected: &[Expected]) -> Vec<Fault> {
    let (_dir, log) = log_of(frames);
    log.verify(&[origin.key.id()], expected).expect("readable").faults
}

/// What, and which seqs of the origin.
fn seqs(faults: &[Fault]) -> Vec<(&FaultKind, u64, u64)> {
    faults.iter().map(|f| (&f.what, f.dots.expect("named").first, f.dots.expect("named").last)).collect()
}

fn ten() -> (Origin, Vec<Vec<u8>>) {
    let mut origin = Origin::new(1);
    let frames = (0..10).map(|i: u8| origin.batch(&[&[i; 50], b"second"])).collect();
    (origin, frames)
}

#[test]
fn sound_log_verifies_with_public_keys_only() {
    let (origin, frames) = ten();
    let (_dir, log) = log_of(&frames);
    let report = log.verify(&[origin.key.id()], &[]).expect("readable");
    assert_eq!((report.batches, report.events, report.faults.len()), (10, 20, 0));
    let [head] = report.heads[..] else { panic!("one origin") };
    assert_eq!((head.origin, head.next), (origin.key.id(), origin.next_seq()));
    let again = log.verify(&[], &[head]).expect("readable");
    assert_eq!(again.faults, []);
    assert_eq!(log.verify(&[], &[]).expect("readable").faults.len(), 10, "without the key nothing is proved");
}

#[test]
fn a_producer_without_a_log_that_was_started_anew_is_no_fault_and_is_counted() {
    let (mut origin, mut frames) = ten();
    origin.restart();
    frames.extend([origin.batch(&[b"again"]), origin.batch(&[b"and again"])]);
    let (_dir, log) = log_of(&frames);
    let report = log.verify(&[origin.key.id()], &[]).expect("readable");
    assert_eq!((report.faults, report.restarts, report.batches), (vec![], 1, 12));
    // One that names another batch than the last before it says that something is missing.
    let (mut other, mut frames) = ten();
    frames.pop();
    let prev = other.prev;
    other.restart();
    other.prev = prev;
    frames.push(other.batch(&[b"again"]));
    assert_eq!(seqs(&faults(&frames, &other, &[]))[0].0, &FaultKind::Unlinked);
}

#[test]
fn edited_payload_is_named() {
    let (origin, mut frames) = ten();
    let last = frames[4].len() - 40;
    frames[4][last] ^= 1;
    let found = faults(&frames, &origin, &[]);
    assert_eq!(seqs(&found)[0], (&FaultKind::Invalid(BatchError::BodyHash), 1008, 1009));
}

#[test]
fn dropped_batch_is_named() {
    let (origin, mut frames) = ten();
    frames.remove(4);
    assert_eq!(seqs(&faults(&frames, &origin, &[])), [(&FaultKind::Missing, 1008, 1009)]);
}

#[test]
fn dropped_first_batch_is_named() {
    let (origin, mut frames) = ten();
    frames.remove(0);
    assert_eq!(seqs(&faults(&frames, &origin, &[])), [(&FaultKind::Missing, 1000, 1001)]);
}

#[test]
fn reordered_batches_are_named() {
    let (origin, mut frames) = ten();
    frames.swap(4, 5);
    let found = faults(&frames, &origin, &[]);
    assert!(seqs(&found).contains(&(&FaultKind::OutOfOrder, 1008, 1009)), "{found:?}");
}

#[test]
fn truncated_history_is_named_where_its_end_is_known() {
    let (origin, mut frames) = ten();
    let (_dir, log) = log_of(&frames);
    let heads = log.verify(&[origin.key.id()], &[]).expect("readable").heads;
    frames.truncate(7);
    assert_eq!(seqs(&faults(&frames, &origin, &heads)), [(&FaultKind::Truncated, 1014, 1019)]);
}

#[test]
fn another_history_of_the_same_length_is_named() {
    let (origin, frames) = ten();
    let (_dir, log) = log_of(&frames);
    let heads = log.verify(&[origin.key.id()], &[]).expect("readable").heads;
    let mut again = Origin::new(1);
    let other: Vec<_> = (0..10).map(|i: u8| again.batch(&[&[i + 1; 50], b"second"])).collect();
    assert_eq!(seqs(&faults(&other, &origin, &heads)), [(&FaultKind::Unlinked, 1019, 1019)]);
}

#[test]
fn batch_that_another_key_signed_is_named() {
    let (origin, mut frames) = ten();
    let mut thief = Origin::new(2);
    for _ in 0..4 {
        thief.batch(&[b"x", b"y"]);
    }
    let mut forged = thief.batch(&[b"not", b"mine"]);
    // The thief writes the victim's short id into the header.
    forged[24 - 8..24].copy_from_slice(&origin.short().0);
    frames[4] = forged;
    let found = faults(&frames, &origin, &[]);
    assert_eq!(seqs(&found)[0], (&FaultKind::Invalid(BatchError::Signature), 1008, 1009));
}

#[test]
fn batch_of_another_channel_is_named() {
    let (origin, mut frames) = ten();
    let elsewhere = net_channel::ChannelName::parse("tests/other").expect("a name").hash(&crate::support::MESH);
    let mut same = Origin::in_channel(1, elsewhere);
    for _ in 0..4 {
        same.batch(&[b"x", b"y"]);
    }
    let mut moved = same.batch(&[b"from", b"there"]);
    moved[8..16].copy_from_slice(&frames[0][8..16]);
    frames[4] = moved;
    let found = faults(&frames, &origin, &[]);
    assert_eq!(seqs(&found)[0], (&FaultKind::Invalid(BatchError::Signature), 1008, 1009));
}

#[test]
fn flipped_bit_on_the_disk_costs_one_batch_and_is_named() {
    let (origin, frames) = ten();
    let size: u64 = 64;
    for bit in [3_u64, 40, 70, 100, 300, 700, 1200, 2000, 3000] {
        let (dir, log) = log_of(&frames);
        log.close().expect("closed");
        let path = dir.path().join("0000000000000000.seg");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the segment");
        let at = 4096 + size * 8 + bit / 8;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("readable");
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, at).expect("writable");
        let log = Log::open(dir.path(), config()).expect("it opens");
        assert_eq!(log.recovery().torn, None, "what was synced is never cut");
        let all = read_all(&log);
        let holes: Vec<_> =
            all.iter().filter_map(|f| if let Found::Hole(hole) = f { Some(hole) } else { None }).collect();
        let [hole] = holes[..] else { panic!("bit {bit}: one hole, {all:?}") };
        assert_eq!(all.len(), 10, "nine batches and the hole");
        let lost = usize::try_from(hole.offsets.start / 2).expect("few");
        assert_eq!(hole.offsets, 2 * lost as u64..2 * lost as u64 + 2);
        let read: Vec<_> =
            all.iter().filter_map(|f| if let Found::Batch(b) = f { Some(b.frame()) } else { None }).collect();
        let others: Vec<_> = frames.iter().enumerate().filter(|(i, _)| *i != lost).map(|(_, f)| stored(f)).collect();
        assert_eq!(read, others, "bit {bit}");
        let scrub = log.scrub().expect("readable");
        assert_eq!(scrub.holes.len(), 1, "bit {bit}: {scrub:?}");
        assert_eq!((scrub.batches, scrub.segments), (9, 1));
        let found = log.verify(&[origin.key.id()], &[]).expect("readable").faults;
        assert_eq!(found[0].what, FaultKind::Damaged, "bit {bit}");
    }
}

#[test]
fn index_names_what_a_hole_held_when_the_batch_cannot() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::new(1);
    let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
    for _ in 0..40 {
        let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
    }
    log.close().expect("closed");
    let path = dir.path().join("0000000000000000.seg");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the segment");
    // Record header, frame header and seal of the second batch are gone altogether.
    let record_len = batches(&Log::open(dir.path(), config()).expect("opens"))[0].frame().len() + 32;
    let at = 4096 + record_len.next_multiple_of(64) as u64;
    file.write_all_at(&[0xaa; 512], at).expect("writable");
    let log = Log::open(dir.path(), config()).expect("it opens");
    let Found::Hole(hole) = &read_all(&log)[1] else { panic!("a hole") };
    assert_eq!(hole.offsets, 1..2);
    let [dots] = hole.dots[..] else { panic!("one batch: {hole:?}") };
    assert_eq!((dots.origin, dots.first, dots.last, dots.certain), (origin.short(), 1001, 1001, true));
    assert_eq!(read_all(&log).len(), 40);
    let after = log.read(Start::Offset(1)).expect("readable").next();
    assert!(matches!(after, Some(Ok(Found::Hole(_)))));
}

#[test]
fn hole_moves_with_its_segment_when_that_is_compacted_and_can_be_filled_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..60_u8).map(|i| origin.keyed_batch(&[(Some(&[i % 4]), &[5; 3000])])).collect();
    let open = || {
        let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("it opens");
        log.add_key(origin.key.id(), 1, origin.sender_key.clone()).expect("written");
        log
    };
    let log = open();
    for frame in &frames {
        let _ack = log.append(frame).wait().expect("room");
    }
    log.close().expect("closed");
    let path = dir.path().join("0000000000000000.seg");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
    let record_len = (frames[0].len() as u64 + 32).next_multiple_of(64);
    // Head and all: only the index knows what it was.
    file.write_all_at(&vec![0xaa; 400], 4096 + 9 * record_len).expect("writable");
    drop(file);
    let log = open();
    let [before] = &log.scrub().expect("readable").holes[..] else { panic!("one hole") };
    assert!(log.compact().expect("the rest opens").batches > 20);
    let [after] = &log.holes()[..] else { panic!("one hole") };
    assert!(after.bytes.start < before.bytes.start, "{before:?} {after:?}");
    assert_eq!((&after.offsets, &after.dots), (&before.offsets, &before.dots));
    assert!(matches!(log.repair(before, &[&frames[9]]), Err(net_redex::RepairError::NoHole)));
    let check = |log: &Log| {
        let [scrubbed] = &log.scrub().expect("readable").holes[..] else { panic!("one hole") };
        assert_eq!(scrubbed, after);
    };
    check(&log);
    drop(log);
    let log = open();
    check(&log);
    let twice = [frames[9].as_slice(), &frames[9]];
    assert!(matches!(log.repair(after, &twice), Err(net_redex::RepairError::WrongSize { expected: 1, found: 2 })));
    assert!(matches!(log.repair(after, &[&frames[8]]), Err(net_redex::RepairError::OtherDots { index: 0 })));
    log.repair(after, &[&frames[9]]).expect("that is the one");
    assert_eq!(log.scrub().expect("readable").holes, []);
    assert_eq!(log.verify(&[], &[]).expect("readable").faults, []);
    assert_eq!(log.find(&origin.short(), 1009), Some(9));
    assert!(batches(&log).iter().map(net_redex::Batch::offset).eq(0..60));
}

#[test]
fn hole_is_filled_with_what_another_keeper_has_and_with_nothing_else() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..60).map(|_| origin.batch(&[&[5; 3000]])).collect();
    for dir in [&one, &two] {
        let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
        for frame in &frames {
            let _ack = log.append(frame).wait().expect("room");
        }
        log.close().expect("closed");
    }
    let file = std::fs::OpenOptions::new().write(true).open(one.path().join("0000000000000000.seg")).expect("there");
    file.write_all_at(&[0xaa; 6000], 4096 + 3 * 3392 + 100).expect("writable");
    let log = Log::open(one.path(), config().segment_bytes(64 << 10)).expect("it opens");
    log.add_origin(origin.key.id()).expect("written");
    let [hole] = &log.scrub().expect("readable").holes[..] else { panic!("one hole") };
    let keeper = Log::open(two.path(), config()).expect("it opens");
    let lost: Vec<_> = (hole.offsets.clone())
        .map(|offset| match keeper.read(Start::Offset(offset)).expect("readable").next() {
            Some(Ok(Found::Batch(batch))) => batch,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(lost.len() >= 2);
    let frames_lost: Vec<&[u8]> = lost.iter().map(net_redex::Batch::frame).collect();
    assert!(matches!(log.repair(hole, &frames_lost[1..]), Err(net_redex::RepairError::WrongSize { .. })));
    let others: Vec<&[u8]> = frames[20..20 + lost.len()].iter().map(Vec::as_slice).collect();
    assert!(matches!(log.repair(hole, &others), Err(net_redex::RepairError::OtherDots { index: 0 })));
    let mut edited = frames_lost[0].to_vec();
    edited[600] ^= 1;
    let with_edited: Vec<&[u8]> = [&edited[..]].into_iter().chain(frames_lost[1..].iter().copied()).collect();
    assert!(matches!(log.repair(hole, &with_edited), Err(net_redex::RepairError::Invalid { index: 0, .. })));
    log.repair(hole, &frames_lost).expect("these are the ones");
    assert!(matches!(log.repair(hole, &frames_lost), Err(net_redex::RepairError::NoHole)));
    let check = |log: &Log| {
        assert!(batches(log).iter().map(|b| b.frame().to_vec()).eq(frames.iter().map(|f| stored(f))));
        assert_eq!(log.scrub().expect("readable").holes, []);
        assert_eq!(log.verify(&[], &[]).expect("readable").faults, []);
    };
    check(&log);
    drop(log);
    check(&Log::open(one.path(), config()).expect("it opens"));
}
