//! Bad input, by name: each is refused or passed over, and nothing panics.

use std::io;
use std::path::Path;
use std::sync::Arc;

use net_redex::disk::{Disk, DiskFile, LockError, OpenMode, RealDisk};
use net_redex::{AppendError, Found, Log, LogConfig, NewEvent, OpenError, Start, SyncPolicy};
use net_transport::FRAME_LEN_MAX;

use crate::support::{Origin, batches, config, read_all};

fn filled(segment_bytes: u64, count: usize) -> (tempfile::TempDir, Origin) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::new(1);
    let log = Log::open(dir.path(), config().segment_bytes(segment_bytes)).expect("a new log");
    for _ in 0..count {
        let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
    }
    log.close().expect("closed");
    (dir, origin)
}

#[test]
fn frames_that_are_no_batches_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config()).expect("a new log");
    let good = Origin::new(1).batch(&[b"x"]);
    let cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 64],
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), b"\0"].concat(),
        good[..100].to_vec(),
        vec![0xff; FRAME_LEN_MAX + 1],
    ];
    for (i, case) in cases.iter().enumerate() {
        assert!(matches!(log.append(case).wait(), Err(AppendError::NotABatch(_))), "case {i}");
    }
    assert_eq!((log.next_offset(), log.metrics().refused), (0, cases.len() as u64));
}

#[test]
fn empty_and_largest_payloads_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let frames = [origin.batch(&[b""]), origin.batch(&[&vec![1; 1 << 20]])];
    for frame in &frames {
        let _ack = log.append(frame).wait().expect("room");
    }
    assert_eq!(batches(&log).len(), 2);
}

#[test]
fn batch_larger_than_a_segment_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
    let mut origin = Origin::new(1);
    let limit = (64 << 10) - 4096 - 32;
    assert!(matches!(
        log.append(&origin.batch(&[&vec![1; 62_000]])).wait(),
        Err(AppendError::TooLarge { limit: l }) if l == limit
    ));
    // And the largest one that fits is not. Its frame has 300 bytes beside the payload.
    let overhead = Origin::new(2).batch(&[&vec![1; 50_000]]).len() - 50_000;
    let fits = usize::try_from(limit).expect("small") - overhead;
    let frame = Origin::new(3).batch(&[&vec![1; fits / 8 * 8]]);
    let _ack = log.append(&frame).wait().expect("it fits");
    assert_eq!(batches(&log).len(), 1);
}

#[test]
fn batch_of_another_channel_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), LogConfig::default()).expect("a log of channel `log`");
    assert!(matches!(log.append(&Origin::new(1).batch(&[b"x"])).wait(), Err(AppendError::OtherChannel)));
}

#[test]
fn log_of_another_channel_is_not_opened() {
    let (dir, _) = filled(64 << 10, 1);
    let other = net_channel::ChannelHash([1; 32]);
    let opened = Log::open(dir.path(), LogConfig::default().channel(crate::support::MESH, other));
    assert!(matches!(opened, Err(OpenError::OtherChannel(_))));
    assert!(Log::open(dir.path(), LogConfig::default()).is_ok(), "unasked, it says itself what it is");
}

#[test]
fn offset_past_the_end_waits_and_before_the_start_is_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let retention = net_redex::Retention::default().events(10);
    let config = config().segment_bytes(64 << 10).retention(retention).without_threads();
    let log = Log::open(dir.path(), config).expect("a new log");
    let mut origin = Origin::new(1);
    let mut past = log.read(Start::Offset(100)).expect("readable");
    for i in 0..120 {
        assert_eq!(past.next_found().expect("readable").is_some(), i > 100, "at {i}");
        let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
    }
    log.tend();
    let found = log.read(Start::Offset(0)).expect("readable").next();
    assert!(matches!(found, Some(Ok(Found::Trimmed { first })) if first > 0), "{found:?}");
}

#[test]
fn segment_with_another_logs_id_is_a_hole() {
    let (one, _) = filled(64 << 10, 60);
    let (two, _) = filled(64 << 10, 60);
    let mut names: Vec<_> = std::fs::read_dir(one.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("ascii"))
        .filter(|name| name.ends_with(".seg"))
        .collect();
    names.sort();
    // Its index belongs to this log and would vouch for it; the records do not.
    std::fs::copy(two.path().join(&names[1]), one.path().join(&names[1])).expect("copied");
    let log = Log::open(one.path(), config()).expect("it opens");
    let all = read_all(&log);
    let holes: Vec<_> = all.iter().filter_map(|f| if let Found::Hole(hole) = f { Some(hole) } else { None }).collect();
    let [hole] = holes[..] else { panic!("one hole: {holes:?}") };
    let base = u64::from_str_radix(&names[1][..16], 16).expect("hex");
    let next = u64::from_str_radix(&names[2][..16], 16).expect("hex");
    assert_eq!(hole.offsets, base..next);
    assert_eq!(all.len() as u64, 60 - (next - base) + 1);
}

#[test]
fn missing_segment_is_a_hole_and_the_rest_is_read() {
    let (dir, _) = filled(64 << 10, 60);
    std::fs::remove_file(dir.path().join("0000000000000000.seg")).expect("there");
    let log = Log::open(dir.path(), config()).expect("it opens");
    assert_eq!(log.first_offset(), 0, "retention has given up nothing");
    let all = read_all(&log);
    let Found::Hole(hole) = &all[0] else { panic!("a hole: {:?}", all[0]) };
    assert!(hole.offsets.start == 0 && hole.bytes.is_empty(), "{hole:?}");
    assert_eq!(all.len() as u64, 1 + 60 - hole.offsets.end);
    assert!(all[1..].iter().all(|found| matches!(found, Found::Batch(_))));
}

#[test]
fn truncated_last_segment_is_a_hole_below_the_floor() {
    let (dir, mut origin) = filled(1 << 20, 20);
    let path = dir.path().join("0000000000000000.seg");
    std::fs::OpenOptions::new().write(true).open(path).expect("there").set_len(4096 + 10_000).expect("writable");
    let log = Log::open(dir.path(), config()).expect("it opens");
    assert_eq!(log.recovery().torn, None);
    let lost: u64 = log.recovery().holes.iter().map(|hole| hole.offsets.end - hole.offsets.start).sum();
    let read = read_all(&log).iter().filter(|f| matches!(f, Found::Batch(_))).count() as u64;
    assert_eq!((lost + read, log.next_offset()), (20, 20), "{:?}", log.recovery());
    assert_eq!(log.append(&origin.batch(&[b"on"])).wait().expect("room").offset(), 20);
}

#[test]
fn last_batch_gone_altogether_is_a_hole_of_all_its_events() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::new(1);
    let log = Log::open(dir.path(), config()).expect("a new log");
    for payloads in [&[b"a".as_slice(), b"b"], &[b"c".as_slice(), b"d"]] {
        let _ack = log.append(&origin.batch(payloads)).wait().expect("room");
    }
    let len = (32 + batches(&log)[0].frame().len()).next_multiple_of(64);
    log.close().expect("closed");
    let path = dir.path().join("0000000000000000.seg");
    let clean = std::fs::read(&path).expect("there");
    for garbage in ["many events", "zeros", "nothing known"] {
        let mut bytes = clean.clone();
        let last = &mut bytes[4096 + len..4096 + 2 * len];
        match garbage {
            "many events" => last[32 + 40] = 77,
            "zeros" => last.fill(0),
            _ => last.fill(0xee),
        }
        std::fs::write(&path, &bytes).expect("writable");
        for config in [config().read_only(), config()] {
            let log = Log::open(dir.path(), config).expect("it opens");
            assert_eq!((log.recovery().torn.as_ref(), log.next_offset()), (None, 4), "{garbage}");
            let all = read_all(&log);
            let [Found::Batch(_), Found::Hole(hole)] = &all[..] else { panic!("{garbage}: {all:?}") };
            assert_eq!(hole.offsets, 2..4, "{garbage}");
            assert_eq!(log.recovery().holes.len(), 1, "{garbage}: {:?}", log.recovery());
        }
    }
    let log = Log::open(dir.path(), config()).expect("it opens");
    assert_eq!(log.append(&origin.batch(&[b"on"])).wait().expect("room").offset(), 4);
    assert_eq!(read_all(&log).len(), 3);
    drop(log);
    assert_eq!(read_all(&Log::open(dir.path(), config()).expect("it opens")).len(), 3);
    let segments = std::fs::read_dir(dir.path()).expect("readable").filter_map(Result::ok);
    let segments = segments.filter(|entry| entry.file_name().to_string_lossy().ends_with(".seg"));
    assert_eq!(segments.count(), 1, "the log goes on where it was");
}

#[test]
fn damaged_missing_and_stale_indexes_are_made_again() {
    let (dir, _) = filled(64 << 10, 60);
    let indexes: Vec<_> = std::fs::read_dir(dir.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "idx"))
        .collect();
    assert!(indexes.len() >= 3);
    let good = std::fs::read(&indexes[0]).expect("readable");
    let check = |what: &str| {
        let log = Log::open(dir.path(), config()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(batches(&log).len(), 60, "{what}");
        let Some(Ok(Found::Batch(batch))) = log.read(Start::Offset(30)).expect("readable").next() else {
            panic!("{what}")
        };
        assert_eq!(batch.offset(), 30, "{what}");
        assert_eq!(log.next_seq(&Origin::new(1).short()), Some(1060), "{what}");
    };
    for at in [0, 20, 4095, 5000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&indexes[0], &bad).expect("writable");
        check("damaged");
    }
    std::fs::write(&indexes[0], &good[..4096]).expect("writable");
    check("short");
    for path in &indexes {
        let _ = std::fs::remove_file(path);
    }
    check("missing");
    // The index of one segment under the name of another.
    let (a, b) = (std::fs::read(&indexes[0]).expect("made"), std::fs::read(&indexes[1]).expect("made"));
    std::fs::write(&indexes[0], b).expect("writable");
    std::fs::write(&indexes[1], a).expect("writable");
    check("swapped");
}

#[test]
fn one_damaged_manifest_slot_costs_nothing_and_two_are_made_again() {
    let (dir, _) = filled(64 << 10, 40);
    let path = dir.path().join("MANIFEST");
    let good = std::fs::read(&path).expect("there");
    for slots in [&[0_usize][..], &[1], &[0, 1]] {
        let mut bad = good.clone();
        for slot in slots {
            bad[slot * 4096 + 50] ^= 1;
        }
        std::fs::write(&path, &bad).expect("writable");
        let log = Log::open(dir.path(), config()).expect("it opens");
        assert!(!log.recovery().passed_over.is_empty());
        assert_eq!(batches(&log).len(), 40, "{slots:?}");
    }
}

#[test]
fn manifest_and_all_headers_gone_is_said_and_nothing_is_made_anew() {
    let (dir, _) = filled(64 << 10, 10);
    std::fs::remove_file(dir.path().join("MANIFEST")).expect("there");
    let path = dir.path().join("0000000000000000.seg");
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[..4096].fill(0xee);
    std::fs::write(&path, &bytes).expect("writable");
    assert!(matches!(Log::open(dir.path(), config()), Err(OpenError::Damaged { .. })));
    assert_eq!(std::fs::read(&path).expect("there"), bytes);
}

#[test]
fn read_only_opens_what_is_there_and_writes_nothing() {
    let (dir, mut origin) = filled(64 << 10, 40);
    let image = || -> Vec<_> {
        let entries = std::fs::read_dir(dir.path()).expect("readable").map(|e| e.expect("readable").path());
        let mut all: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect();
        all.sort();
        all
    };
    let before = image();
    let log = Log::open(dir.path(), config().read_only()).expect("it opens");
    assert_eq!(batches(&log).len(), 40);
    assert!(matches!(log.append(&origin.batch(&[b"x"])).wait(), Err(AppendError::ReadOnly)));
    assert_eq!(log.verify(&[origin.key.id()], &[]).expect("readable").faults, []);
    drop(log);
    assert!(image() == before, "nothing was written");
    let nothing = tempfile::tempdir().expect("a directory");
    assert!(Log::open(nothing.path(), config().read_only()).is_err());
}

#[test]
fn read_only_beside_a_writer_shows_what_the_floor_vouches_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let retention = net_redex::Retention::default().events(20);
    let config = || config().segment_bytes(64 << 10).without_threads();
    let writer = Log::open(dir.path(), config().retention(retention)).expect("a new log");
    let mut origin = Origin::new(1);
    let mut append = |count| {
        for _ in 0..count {
            let _ack = writer.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
        }
    };
    append(25);
    writer.tend();
    append(5);
    // The writer is in the middle of something above its floor.
    let beside = Log::open(dir.path(), config().read_only()).expect("a writer is no obstacle");
    let mut found_nothing = net_redex::Recovery::default();
    found_nothing.beside_writer = true;
    assert_eq!(beside.recovery(), &found_nothing);
    assert_eq!((beside.next_offset(), batches(&beside).len()), (25, 25));
    let mut behind = beside.read(Start::Earliest).expect("readable");
    append(60);
    writer.tend();
    let first = writer.first_offset();
    assert!(first > 25);
    let found = behind.next_found().expect("readable");
    assert!(
        matches!(found, Some(Found::Trimmed { first: f }) if f == first),
        "a trim of the writer's, no hole: {found:?}"
    );
    let beside = Log::open(dir.path(), config().read_only()).expect("a writer is no obstacle");
    assert_eq!((beside.first_offset(), beside.next_offset()), (first, 90));
}

#[test]
fn later_version_is_refused_and_nothing_is_touched() {
    let (dir, _) = filled(64 << 10, 10);
    let path = dir.path().join("MANIFEST");
    let mut bytes = std::fs::read(&path).expect("there");
    for slot in bytes.chunks_mut(4096) {
        slot[8] = 2;
        let crc = crc32c::crc32c(&slot[..4092]);
        slot[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&path, &bytes).expect("writable");
    for config in [config(), config().read_only()] {
        assert!(matches!(Log::open(dir.path(), config), Err(OpenError::Version { found: 2, .. })));
    }
    assert_eq!(std::fs::read(&path).expect("there"), bytes);
}

#[test]
fn empty_and_oversize_paths_are_refused() {
    assert!(matches!(Log::open("", config()), Err(OpenError::Config(_))));
    let dir = tempfile::tempdir().expect("a directory");
    let long = dir.path().join("x".repeat(300));
    assert!(matches!(Log::open(long, config()), Err(OpenError::Io { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn empty_and_oversize_keys_headers_and_payloads_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), LogConfig::default()).expect("a new log");
    let writer = log.writer(Arc::new(net_identity::EntityKey::from_secret(&[1; 32]))).expect("a writer");
    let (key, payload, value) = (vec![1; 1025], vec![1; (1 << 20) + 1], vec![1; 17 << 10]);
    let name = "n".repeat(300);
    for event in [
        NewEvent { key: Some(b""), ..NewEvent::default() },
        NewEvent { key: Some(&key), ..NewEvent::default() },
        NewEvent { payload: &payload, ..NewEvent::default() },
        NewEvent { headers: &[("name", &value)], ..NewEvent::default() },
        NewEvent { headers: &[(&name, b"")], ..NewEvent::default() },
    ] {
        assert!(matches!(writer.append(event), Err(net_redex::WriteError::Event(_))), "{:?}", event.headers);
    }
    assert_eq!(log.next_offset(), 0);
    let _ack = writer.append(NewEvent { headers: &[("name", b"")], ..NewEvent::default() }).expect("written");
    assert_eq!(log.next_offset(), 1);
}

/// A file system that is mounted read-only.
#[derive(Debug)]
struct ReadOnlyDisk;

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::Read { RealDisk.open(path, mode) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        RealDisk.is_locked(path)
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn std::fmt::Debug + Send + Sync>, LockError> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem).into())
    }
}

#[test]
fn read_only_directory_is_refused_for_writing_and_read_when_asked() {
    let (dir, origin) = filled(64 << 10, 40);
    let config = || config().disk(Arc::new(ReadOnlyDisk));
    let refused = Log::open(dir.path(), config());
    assert!(
        matches!(&refused, Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    );
    let log = Log::open(dir.path(), config().read_only()).expect("it opens");
    assert_eq!(batches(&log).len(), 40);
    assert_eq!(log.verify(&[origin.key.id()], &[]).expect("readable").faults, []);
}

#[test]
fn settings_out_of_range_are_refused() {
    for bytes in [0, 4096, (64 << 10) + 1, 2 << 30] {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(Log::open(dir.path(), config().segment_bytes(bytes)), Err(OpenError::Config(_))));
    }
}

#[test]
fn second_process_is_told_who_has_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().sync(SyncPolicy::None)).expect("a new log");
    let second = Log::open(dir.path(), config());
    assert!(matches!(second, Err(OpenError::Locked { pid }) if pid == std::process::id()));
    let reader = log.read(Start::Earliest).expect("readable");
    log.close().expect("closed");
    assert!(Log::open(dir.path(), config()).is_ok(), "a reader does not hold the log");
    drop(reader);
}
