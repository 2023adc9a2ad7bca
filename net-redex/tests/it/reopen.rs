//! What opening costs: the tail since the last checkpoint, not the log.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use net_redex::Log;
use net_redex::disk::{Disk, DiskFile, LockError, Mapping, OpenMode, RealDisk};

use crate::support::{Origin, config};

/// The operating system's disk, which notes what is opened and how much is read of it.
#[derive(Clone, Debug, Default)]
struct CountingDisk(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    opened: Mutex<Vec<String>>,
    /// Bytes that calls have read.
    read: AtomicU64,
    /// Bytes of mappings that were made.
    mapped: AtomicU64,
}

#[derive(Debug)]
struct CountingFile(Arc<dyn DiskFile>, Arc<Counts>);

impl Disk for CountingDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        self.0.opened.lock().expect("no panics").push(name);
        Ok(Arc::new(CountingFile(RealDisk.open(path, mode)?, self.0.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        RealDisk.is_locked(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, LockError> {
        RealDisk.lock(path)
    }
}

impl DiskFile for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn pwrite(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.0.pwrite(bytes, at)
    }

    fn pread(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let n = self.0.pread(bytes, at)?;
        self.1.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.0.fdatasync()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        self.1.mapped.fetch_add(len, Ordering::Relaxed);
        self.0.map(len)
    }

    fn forget_cache(&self, from: u64) -> io::Result<()> {
        self.0.forget_cache(from)
    }
}

const SEGMENT_BYTES: u64 = 64 << 10;
/// Batches of 3,000 bytes that a segment holds.
const PER_SEGMENT: u64 = 18;

/// Opens a log of so many segments that was left without being closed; gives what that took and what was replayed.
fn reopened(segments: u64) -> (Arc<Counts>, u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || config().segment_bytes(SEGMENT_BYTES).without_threads();
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let mut append = |count| {
        for _ in 0..count {
            let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
        }
    };
    append(segments * PER_SEGMENT + 3);
    log.tend();
    append(7);
    // As after a kill: the files as they are now, under another name.
    let left = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir.path()).expect("readable") {
        let entry = entry.expect("readable");
        std::fs::copy(entry.path(), left.path().join(entry.file_name())).expect("copied");
    }
    let disk = CountingDisk::default();
    let again = Log::open(left.path(), config().disk(Arc::new(disk.clone()))).expect("opens");
    assert_eq!(again.next_offset(), segments * PER_SEGMENT + 10);
    (disk.0, again.recovery().replayed)
}

#[test]
fn reopening_reads_the_tail_and_no_more_of_a_longer_log() {
    let (short, replayed_short) = reopened(3);
    let (long, replayed_long) = reopened(60);
    assert_eq!((replayed_short, replayed_long), (7, 7), "the batches since the checkpoint");
    let segments = |counts: &Counts| {
        let opened = counts.opened.lock().expect("no panics").clone();
        let mut names: Vec<_> = opened.into_iter().filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        names.dedup();
        names.len()
    };
    assert_eq!((segments(&short), segments(&long)), (2, 2), "the last one, and the first page of the one before");
    let of = |counter: fn(&Counts) -> &AtomicU64| {
        (counter(&short).load(Ordering::Relaxed), counter(&long).load(Ordering::Relaxed))
    };
    let (read_short, read_long) = of(|counts| &counts.read);
    assert_eq!(read_short, read_long, "bytes read");
    assert!(read_long < 64 << 10, "{read_long} bytes read: pages, an index, a manifest");
    let (mapped_short, mapped_long) = of(|counts| &counts.mapped);
    assert_eq!(mapped_short, mapped_long, "bytes mapped");
    assert!(mapped_long <= 4 * SEGMENT_BYTES, "{mapped_long} bytes mapped");
}

#[test]
fn filling_gaps_late_reads_each_index_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || config().segment_bytes(SEGMENT_BYTES).without_threads();
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..20 * PER_SEGMENT).map(|_| origin.batch(&[&[5; 3000]])).collect();
    let (late, early): (Vec<_>, Vec<_>) = frames.iter().enumerate().partition(|(i, _)| i % 7 == 3);
    for (_, frame) in &early {
        let _ack = log.append(frame).wait().expect("room");
    }
    log.close().expect("closed");
    let disk = CountingDisk::default();
    let log = Log::open(dir.path(), config().disk(Arc::new(disk.clone()))).expect("opens");
    for (_, frame) in &late {
        let _ack = log.append(frame).wait().expect("a gap");
    }
    let mut opened = disk.0.opened.lock().expect("no panics").clone();
    opened.retain(|name| name.ends_with(".idx"));
    // Each once, to know its ranges, and that of the segment which the batch may be in.
    assert!(late.len() > 50 && opened.len() <= 20 + late.len(), "{} for {}", opened.len(), late.len());
    assert_eq!(log.next_offset(), frames.len() as u64);
    for frame in &frames {
        assert!(matches!(log.append(frame).wait(), Err(net_redex::AppendError::Duplicate { .. })));
    }
}
