//! Power cuts and faults at every point of small workloads.
//!
//! The model: what was acknowledged as durable is there, whole and in order; what was not may be there, but only as
//! what had been appended, in order, without a hole before it; and nothing else is.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net_redex::disk::{Fault, PowerCut, SimDisk};
use net_redex::{AppendError, Clock, Entropy, Found, Log, LogConfig, OpenError, SyncPolicy};

use crate::budget::budget;
use crate::support::{Origin, read_all, stored};

const DIR: &str = "/log";

fn config(disk: &SimDisk, sync: SyncPolicy) -> LogConfig {
    let time = AtomicU64::new(1);
    crate::support::config()
        .sync(sync)
        .segment_bytes(64 << 10)
        .without_threads()
        .disk(Arc::new(disk.clone()))
        .clock(Clock::new(move || time.fetch_add(1, Ordering::Relaxed)))
        .entropy(Entropy::new(|bytes| bytes.fill(9)))
}

fn open(disk: &SimDisk, sync: SyncPolicy) -> Result<Log, OpenError> {
    Log::open(DIR, config(disk, sync))
}

/// Batches of different sizes: within a sector, over a few, over many; some payloads are zeros.
fn workload() -> Vec<Vec<u8>> {
    let mut origin = Origin::new(1);
    let sizes = [10, 700, 40, 5000, 100, 100, 1500, 20_000, 30, 20_000, 3000, 25_000, 60, 500];
    sizes.iter().zip([0_u8, 1, 2].iter().cycle()).map(|(size, byte)| origin.batch(&[&vec![*byte; *size]])).collect()
}

/// What a run had reached when the power went.
struct Ran {
    attempted: usize,
    durable: usize,
}

fn run(disk: &SimDisk, sync: SyncPolicy, frames: &[Vec<u8>]) -> Ran {
    let mut ran = Ran { attempted: 0, durable: 0 };
    let Ok(log) = open(disk, sync) else { return ran };
    for (i, frame) in frames.iter().enumerate() {
        ran.attempted = i + 1;
        match log.append(frame).wait() {
            Ok(ack) if ack.is_durable() => ran.durable = i + 1,
            Ok(_) => {}
            Err(_) => break,
        }
        if i % 5 == 4 {
            log.tend();
        }
    }
    ran
}

/// Reopens and compares with the model. `what` says which run it was.
fn check(disk: &SimDisk, sync: SyncPolicy, frames: &[Vec<u8>], ran: &Ran, what: &str) {
    let log = open(disk, sync).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found = read_all(&log);
    assert!(found.len() >= ran.durable, "{what}: {} of {} durable batches are there", found.len(), ran.durable);
    assert!(found.len() <= ran.attempted, "{what}: more batches than were appended");
    for (found, frame) in found.iter().zip(frames) {
        let Found::Batch(batch) = found else { panic!("{what}: {found:?}, {:?}", log.recovery()) };
        assert_eq!(batch.frame(), stored(frame), "{what}");
    }
    // And it goes on from there.
    let next = &frames[found.len()..];
    for frame in next.iter().take(2) {
        assert!(log.append(frame).wait().is_ok(), "{what}");
    }
    let there = found.len() + next.len().min(2);
    drop(log);
    let log = open(disk, sync).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(log.recovery().holes, [], "{what}");
    assert_eq!(read_all(&log).len(), there, "{what}: after going on");
}

fn cuts(disk: &SimDisk) -> Vec<PowerCut> {
    let mut cuts = vec![PowerCut::Nothing, PowerCut::Everything];
    match disk.unsynced() {
        // Every subset where there are few.
        n @ 0..=6 => cuts.extend((0..1 << n).map(PowerCut::Mask)),
        _ => cuts.extend((0..budget(24, 200)).map(PowerCut::Seeded)),
    }
    cuts
}

fn power_is_cut_everywhere(sync: SyncPolicy) {
    let frames = workload();
    let quiet = SimDisk::new(1);
    assert_eq!(run(&quiet, sync, &frames).attempted, frames.len());
    let mut checked = 0;
    for call in 0..quiet.calls() {
        let disk = SimDisk::new(1);
        disk.inject(Fault::PowerOff(call));
        let ran = run(&disk, sync, &frames);
        for cut in cuts(&disk) {
            check(&disk.after_power_cut(cut), sync, &frames, &ran, &format!("{sync:?}, call {call}, {cut:?}"));
            checked += 1;
        }
    }
    assert!(checked > 600, "{checked} power cuts at {} points", quiet.calls());
}

#[test]
fn power_cut_at_every_call_loses_nothing_durable_always() {
    power_is_cut_everywhere(SyncPolicy::Always);
}

#[test]
fn power_cut_at_every_call_loses_nothing_durable_group() {
    power_is_cut_everywhere(SyncPolicy::Group);
}

#[test]
fn power_cut_at_every_call_leaves_a_prefix_without_syncs() {
    power_is_cut_everywhere(SyncPolicy::None);
}

#[test]
fn power_cut_while_recovering_from_a_power_cut() {
    let frames = workload();
    let first = SimDisk::new(1);
    run(&first, SyncPolicy::None, &frames);
    for seed in 0..6 {
        let torn = first.after_power_cut(PowerCut::Seeded(seed));
        let quiet = torn.after_power_cut(PowerCut::Nothing);
        let log = open(&quiet, SyncPolicy::Group).expect("it recovers");
        let there = read_all(&log).len();
        drop(log);
        for call in 0..quiet.calls() {
            let again = torn.after_power_cut(PowerCut::Nothing);
            again.inject(Fault::PowerOff(call));
            drop(open(&again, SyncPolicy::Group));
            for cut in [PowerCut::Nothing, PowerCut::Everything, PowerCut::Seeded(call)] {
                let last = again.after_power_cut(cut);
                let ran = Ran { attempted: there, durable: there };
                check(&last, SyncPolicy::Group, &frames, &ran, &format!("seed {seed}, call {call}, {cut:?}"));
            }
        }
    }
}

#[test]
fn every_kth_call_fails_and_what_was_acknowledged_stays() {
    let frames = workload();
    for every in 2..60 {
        let disk = SimDisk::new(every);
        drop(open(&disk, SyncPolicy::Group).expect("no faults yet"));
        disk.inject(Fault::EveryCall(every));
        // An append that fails can be tried again; a log that is poisoned is opened again.
        let mut done = 0;
        for _ in 0..200 {
            let Ok(log) = open(&disk, SyncPolicy::Group) else { continue };
            // Some may have reached the disk although the sync after them failed.
            done = done.max(usize::try_from(log.next_offset()).expect("few"));
            while let Some(frame) = frames.get(done)
                && log.append(frame).wait().is_ok()
            {
                done += 1;
            }
        }
        assert!(disk.injected() > 0);
        disk.heal();
        let ran = Ran { attempted: frames.len(), durable: done };
        check(&disk.after_power_cut(PowerCut::Nothing), SyncPolicy::Group, &frames, &ran, &format!("every {every}"));
    }
}

#[test]
fn short_writes_are_finished() {
    let frames = workload();
    let disk = SimDisk::new(3);
    disk.inject(Fault::ShortWrites);
    let ran = run(&disk, SyncPolicy::Group, &frames);
    assert_eq!(ran.durable, frames.len());
    assert!(disk.injected() > 20, "{} short writes", disk.injected());
    disk.heal();
    check(&disk.after_power_cut(PowerCut::Nothing), SyncPolicy::Group, &frames, &ran, "short writes");
}

#[test]
fn failed_sync_poisons_the_log_until_it_is_opened_again() {
    let frames = workload();
    let quiet = SimDisk::new(1);
    run(&quiet, SyncPolicy::Group, &frames);
    let mut poisoned = 0;
    for sync in 0..quiet.syncs() {
        let disk = SimDisk::new(sync);
        disk.inject(Fault::Sync(sync));
        let Ok(log) = open(&disk, SyncPolicy::Group) else { continue };
        let mut durable = 0;
        for frame in &frames {
            match log.append(frame).wait() {
                Ok(_) => durable += 1,
                Err(AppendError::Poisoned) => {
                    poisoned += 1;
                    assert!(matches!(log.append(frame).wait(), Err(AppendError::Poisoned)), "no retry");
                    assert_eq!(read_all(&log).len(), durable, "reading goes on");
                    break;
                }
                Err(AppendError::Io(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        drop(log);
        disk.heal();
        let what = format!("sync {sync}");
        // Opened in the same running system: its memory shows what the disk does not have.
        let log = open(&disk, SyncPolicy::Group).expect("it recovers");
        let there = usize::try_from(log.next_offset()).expect("few");
        assert!(there >= durable, "{what}");
        drop(log);
        let ran = Ran { attempted: there.max(durable), durable: there };
        check(&disk.after_power_cut(PowerCut::Nothing), SyncPolicy::Group, &frames, &ran, &what);
    }
    assert!(poisoned > 5, "{poisoned} runs were poisoned");
}

#[test]
fn full_disk_is_refused_before_the_write_and_loses_nothing() {
    let frames = workload();
    for capacity in [80 << 10, 100 << 10, 140 << 10, 200 << 10] {
        let disk = SimDisk::new(1);
        disk.inject(Fault::Capacity(capacity));
        let log = match open(&disk, SyncPolicy::Group) {
            Ok(log) => log,
            Err(OpenError::Full { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        let mut done = 0;
        let refused = frames.iter().find_map(|frame| match log.append(frame).wait() {
            Ok(_) => {
                done += 1;
                None
            }
            Err(error) => Some(error),
        });
        if let Some(refused) = refused {
            assert!(matches!(refused, AppendError::Full { .. }), "{refused:?}");
            assert_eq!(read_all(&log).len(), done);
            // Room again, and it goes on as if nothing had happened.
            disk.heal();
            for frame in &frames[done..] {
                assert!(log.append(frame).wait().is_ok());
                done += 1;
            }
        }
        drop(log);
        let ran = Ran { attempted: frames.len(), durable: done };
        check(&disk.after_power_cut(PowerCut::Nothing), SyncPolicy::Group, &frames, &ran, &format!("{capacity}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let image = |seed| {
        let disk = SimDisk::new(seed);
        disk.inject(Fault::ShortWrites);
        run(&disk, SyncPolicy::Group, &workload());
        let after = disk.after_power_cut(PowerCut::Seeded(seed));
        let log = open(&after, SyncPolicy::Group).expect("it recovers");
        let frames: Vec<_> = read_all(&log).into_iter().map(|found| format!("{found:?}")).collect();
        (frames, disk.calls(), after.calls())
    };
    assert_eq!(image(5), image(5));
    assert_ne!(image(5).1, image(6).1, "another seed, other short writes");
}

#[test]
fn second_opening_is_refused_while_the_first_lives() {
    let disk = SimDisk::new(1);
    let log = open(&disk, SyncPolicy::Group).expect("a new log");
    assert!(matches!(open(&disk, SyncPolicy::Group), Err(OpenError::Locked { .. })));
    drop(log);
    assert!(open(&disk, SyncPolicy::Group).is_ok());
    assert!(Path::new(DIR).is_absolute());
}

/// Writes, and takes the power before the log could be closed: the floor is old, and the marks tell.
fn written_and_cut(frames: &[Vec<u8>]) -> SimDisk {
    let disk = SimDisk::new(1);
    let log = open(&disk, SyncPolicy::Group).expect("a new log");
    for frame in frames {
        assert!(log.append(frame).wait().is_ok());
    }
    disk.after_power_cut(PowerCut::Nothing)
}

/// Where a batch stands, and the first whole sector in it.
fn sector_of(disk: &SimDisk, batch: usize) -> u64 {
    let looked_at = disk.after_power_cut(PowerCut::Nothing);
    let log = open(&looked_at, SyncPolicy::Group).expect("it opens");
    let Found::Batch(batch) = &read_all(&log)[batch] else { panic!("a batch") };
    let all = read_all(&log);
    let before = all.iter().map(|found| match found {
        Found::Batch(batch) => batch,
        other => panic!("{other:?}"),
    });
    let before = before.take_while(|b| b.offset() < batch.offset());
    let position: usize = before.map(|b| (32 + b.frame().len()).next_multiple_of(64)).sum();
    (4096 + position as u64 + 32).next_multiple_of(512)
}

fn lose_sector(disk: &SimDisk, at: u64) {
    for byte in at..at + 512 {
        disk.rot(Path::new("/log/0000000000000000.seg"), byte, |byte| *byte = 0);
    }
}

fn holes(log: &Log) -> Vec<u64> {
    read_all(log)
        .iter()
        .filter_map(|f| if let Found::Hole(hole) = f { Some(hole.offsets.start) } else { None })
        .collect()
}

fn three() -> Vec<Vec<u8>> {
    let mut origin = Origin::new(1);
    (0..3).map(|_| origin.batch(&[&[3; 4000]])).collect()
}

#[test]
fn lost_sector_below_the_floor_is_a_hole_and_nothing_is_cut() {
    let disk = written_and_cut(&three());
    // Opened and closed: the floor is at the end.
    drop(open(&disk, SyncPolicy::Group).expect("it opens"));
    lose_sector(&disk, sector_of(&disk, 2));
    let log = open(&disk, SyncPolicy::Group).expect("it opens");
    assert_eq!(log.recovery().torn, None);
    assert_eq!((holes(&log), read_all(&log).len(), log.next_offset()), (vec![2], 3, 3));
}

#[test]
fn lost_sector_before_a_later_sync_is_a_hole_and_nothing_is_cut() {
    let disk = written_and_cut(&three());
    lose_sector(&disk, sector_of(&disk, 1));
    let log = open(&disk, SyncPolicy::Group).expect("it opens");
    assert_eq!(log.recovery().torn, None, "the third batch was written after the second was synced");
    assert_eq!((holes(&log), read_all(&log).len(), log.next_offset()), (vec![1], 3, 3));
    assert_eq!(log.recovery().holes.len(), 1);
}

#[test]
fn flipped_bit_in_the_last_batch_before_a_crash_is_a_hole() {
    let disk = written_and_cut(&three());
    let at = sector_of(&disk, 2) + 100;
    disk.rot(Path::new("/log/0000000000000000.seg"), at, |byte| *byte ^= 1);
    let log = open(&disk, SyncPolicy::Group).expect("it opens");
    assert_eq!(log.recovery().torn, None, "no sector of it is missing, so it was written whole");
    assert_eq!((holes(&log), log.next_offset()), (vec![2], 3));
    // And the log goes on behind it, also after the next opening.
    let mut origin = Origin::new(2);
    assert!(log.append(&origin.batch(&[b"on"])).wait().is_ok());
    drop(log);
    let log = open(&disk, SyncPolicy::Group).expect("it opens");
    assert_eq!((holes(&log), read_all(&log).len(), log.next_offset()), (vec![2], 4, 4));
}

#[test]
fn failed_write_does_not_come_back_behind_a_shorter_one() {
    let mut failed = 0;
    for call in 1..8 {
        let disk = SimDisk::new(call);
        let log = open(&disk, SyncPolicy::Group).expect("a new log");
        let mut origin = Origin::new(1);
        disk.inject(Fault::ShortWrites);
        disk.inject(Fault::Call(disk.calls() + call));
        let result = log.append(&origin.batch(&[&[1; 20_000]])).wait();
        disk.heal();
        if !matches!(result, Err(AppendError::Io(_))) {
            continue;
        }
        failed += 1;
        let short = Origin::new(2).batch(&[b"short"]);
        assert_eq!(log.append(&short).wait().expect("it is healed").offset(), 0);
        drop(log);
        let after = disk.after_power_cut(PowerCut::Nothing);
        let log = open(&after, SyncPolicy::Group).expect("it opens");
        let all = read_all(&log);
        let [Found::Batch(batch)] = &all[..] else { panic!("one batch: {all:?}") };
        assert_eq!(batch.frame(), stored(&short));
    }
    assert!(failed > 0);
}

#[test]
fn what_supersedes_is_on_the_disk_before_compaction_takes_what_is_superseded() {
    let disk = SimDisk::new(1);
    let log = open(&disk, SyncPolicy::None).expect("a new log");
    let mut origin = Origin::new(1);
    log.add_key(origin.key.id(), 1, origin.sender_key.clone()).expect("written");
    for _ in 0..30 {
        assert!(log.append(&origin.keyed_batch(&[(Some(b"k"), &[1; 5000])])).wait().is_ok());
    }
    // A workload's syncs, up to the last batch.
    log.sync().expect("no faults");
    assert!(log.append(&origin.keyed_batch(&[(Some(b"k"), b"the newest")])).wait().is_ok());
    let compacted = log.compact().expect("all opens").batches;
    assert!(compacted > 10, "{compacted}");
    let after = disk.after_power_cut(PowerCut::Nothing);
    let log = open(&after, SyncPolicy::None).expect("it opens");
    log.add_key(origin.key.id(), 1, origin.sender_key.clone()).expect("written");
    let latest = log.latest(b"k").expect("readable").expect("a value of the key is left");
    assert_eq!(latest.payload(), b"the newest");
}

#[test]
fn power_cut_at_every_call_of_a_compaction_leaves_every_head_and_the_newest_of_each_key() {
    let written = || {
        let disk = SimDisk::new(1);
        let log = open(&disk, SyncPolicy::Group).expect("a new log");
        let mut origin = Origin::new(1);
        log.add_key(origin.key.id(), 1, origin.sender_key.clone()).expect("written");
        for i in 0..40_u8 {
            assert!(log.append(&origin.keyed_batch(&[(Some(&[i % 3]), &[i; 4000])])).wait().is_ok());
        }
        (disk, log, origin)
    };
    let (quiet, log, _) = written();
    let from = quiet.calls();
    assert!(log.compact().expect("no faults").segments >= 2);
    let to = quiet.calls();
    drop(log);
    for call in from..to {
        let (disk, log, origin) = written();
        disk.inject(Fault::PowerOff(call));
        assert!(log.compact().is_err(), "call {call}");
        for cut in cuts(&disk) {
            let after = disk.after_power_cut(cut);
            let log = open(&after, SyncPolicy::Group).expect("it opens");
            log.add_key(origin.key.id(), 1, origin.sender_key.clone()).expect("written");
            let what = format!("call {call}, {cut:?}");
            assert_eq!(read_all(&log).len(), 40, "{what}");
            assert_eq!(log.verify(&[], &[]).expect("readable").faults, [], "{what}");
            for key in 0..3_u8 {
                let newest = 39 - (39 - key) % 3;
                let latest = log.latest(&[key]).expect("readable").expect("there");
                assert_eq!(latest.payload()[0], newest, "{what}");
            }
        }
    }
}

#[test]
fn sync_covers_segments_that_were_left() {
    let disk = SimDisk::new(1);
    let log = open(&disk, SyncPolicy::None).expect("a new log");
    let mut origin = Origin::new(1);
    for _ in 0..40 {
        assert!(log.append(&origin.batch(&[&[1; 5000]])).wait().is_ok());
    }
    log.sync().expect("no faults");
    let after = disk.after_power_cut(PowerCut::Nothing);
    let log = open(&after, SyncPolicy::None).expect("it opens");
    assert_eq!(read_all(&log).len(), 40);
    assert!(log.recovery().holes.is_empty() && log.recovery().torn.is_none());
}
