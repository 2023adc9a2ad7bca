//! Opening a log, and making one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use net_channel::ChannelHash;
use net_transport::MeshId;

use crate::OpenError;
use crate::commit::GROW_BYTES;
use crate::config::{LogConfig, SyncPolicy};
use crate::core::{Core, ManifestFile, Staging, Writer};
use crate::disk::{DiskFile, LockError, MemoryDisk, OpenMode, Published, read_up_to, write_all};
use crate::error::At;
use crate::files::Files;
use crate::format::{
    Floor, LogId, Manifest, SEGMENT_HEADER_LEN, SLOT_LEN, SegmentHeader, SegmentParams, newest, other_version, slot_of,
};
use crate::hole::Hole;
use crate::keyring::KeyRing;
use crate::recovery::{Recovery, Tail, recover};
use crate::segment::{ActiveIndex, SealedSlot, Segment, Table, base_in_name, index_path, segment_path};

const MANIFEST: &str = "MANIFEST";
const LOCK: &str = "LOCK";
/// Bytes that a log in memory keeps where its retention does not say.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// What holds the directory while the log is open.
pub(crate) type DirLock = Box<dyn std::fmt::Debug + Send + Sync>;

pub(crate) fn open(dir: &Path, mut config: LogConfig) -> Result<(Core, Recovery, Option<DirLock>), OpenError> {
    config.check()?;
    if config.sync == SyncPolicy::Memory {
        config.disk = Arc::new(MemoryDisk::new());
        config.retention.bytes.get_or_insert(MEMORY_BYTES_MAX);
    }
    if dir.as_os_str().is_empty() {
        return Err(OpenError::Config("the path of the log's directory is empty: use `.` for the one you are in"));
    }
    let lock = if config.read_only {
        None
    } else {
        config.disk.create_dir(dir).opening(dir)?;
        Some(take_lock(dir, &config)?)
    };
    let beside_writer = config.read_only && config.disk.is_locked(&dir.join(LOCK)).opening(dir)?;
    let mut report = Recovery { beside_writer, ..Recovery::default() };
    let (file, manifest) = read_manifest(dir, &config, &mut report)?;
    let files = Files { dir, config: &config, id: manifest.log };
    let mut bases = tidy(&files, &manifest, &mut report)?;
    if beside_writer {
        // What is above the floor may be written at this moment; what is below it never changes.
        bases.retain(|base| *base <= manifest.floor.segment);
    }
    let until = if beside_writer { Some(manifest.floor) } else { None };

    let from = bases.iter().rposition(|base| *base <= manifest.floor.segment).unwrap_or(0);
    let tail_bases = bases.get(from..).unwrap_or_default();
    let tail = recover(&files, tail_bases, manifest.floor, until, &mut report).opening(dir)?;
    let tail = match tail {
        Some(tail) if tail.next_offset >= manifest.floor.offset => tail,
        Some(tail) if config.read_only => {
            let lost = tail.next_offset..manifest.floor.offset;
            report.holes.push(Hole { offsets: lost, dots: Vec::new(), segment: tail.base, bytes: 0..0 });
            tail
        }
        // What the floor vouches for is gone: that is a loss, not a shorter log.
        tail => restart(&files, &manifest, tail.map(|tail| tail.next_offset), &mut report)?,
    };
    let sealed: Vec<u64> = files.bases().opening(dir)?.into_iter().filter(|base| *base < tail.base).collect();
    let before = match sealed.len().checked_sub(1) {
        Some(last) => files.index(&sealed, last).opening(dir)?.origins.clone(),
        None => files.origins_before(tail.base).opening(dir)?,
    };
    let index = files.index_of(&tail.opened, &tail.records, &before).opening(dir)?;
    let keys = KeyRing::load(&files)?;
    let core = assemble(&files, ManifestFile { file, last: manifest }, &sealed, tail, index, &report, keys)?;
    if !core.config.read_only {
        let mut writer = crate::core::lock(&core.writer);
        core.write_floor(&mut writer)
            .map_err(|error| OpenError::Io { path: dir.join(MANIFEST), source: io::Error::other(error) })?;
    }
    Ok((core, report, lock))
}

fn take_lock(dir: &Path, config: &LogConfig) -> Result<DirLock, OpenError> {
    let path = dir.join(LOCK);
    config.disk.lock(&path).map_err(|error| match error {
        LockError::Held { pid } => OpenError::Locked { pid },
        LockError::Io(source) => OpenError::Io { path, source },
    })
}

fn read_manifest(
    dir: &Path,
    config: &LogConfig,
    report: &mut Recovery,
) -> Result<(Arc<dyn DiskFile>, Manifest), OpenError> {
    let path = dir.join(MANIFEST);
    let mode = if config.read_only { OpenMode::Read } else { OpenMode::Write };
    let (file, found) = match config.disk.open(&path, mode) {
        Ok(file) => {
            let bytes = read_up_to(&*file, 0, 2 * SLOT_LEN).opening(&path)?;
            if let Some(found) = other_version(&bytes) {
                return Err(OpenError::Version { path, found });
            }
            let (found, damaged) = newest(&bytes);
            if damaged > 0 {
                report.passed_over.push(format!("{damaged} damaged slot of the manifest"));
            }
            (Some(file), found)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    if let (Some(file), Some(found)) = (&file, found) {
        if config.channel.is_some_and(|(mesh, channel)| (mesh.0, channel.0) != (found.mesh, found.channel)) {
            return Err(OpenError::OtherChannel(dir.to_owned()));
        }
        return Ok((file.clone(), found));
    }
    if config.read_only {
        return Err(OpenError::Damaged { path, what: "there is no sound manifest: open the log for writing first" });
    }
    let made = make_manifest(dir, config, report)?;
    let file = match file {
        Some(file) => file,
        None => {
            let file = config.disk.open(&path, OpenMode::Create).opening(&path)?;
            file.allocate(2 * SLOT_LEN as u64).opening(&path)?;
            file
        }
    };
    write_all(&*file, &made.encode(), slot_of(made.generation)).opening(&path)?;
    file.fdatasync().opening(&path)?;
    config.disk.sync_dir(dir).opening(dir)?;
    Ok((file, made))
}

/// The manifest of a new log; or, where segments are there and no manifest, one that follows from them.
fn make_manifest(dir: &Path, config: &LogConfig, report: &mut Recovery) -> Result<Manifest, OpenError> {
    let names = config.disk.list(dir).opening(dir)?;
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base_in_name(name, "seg")).collect();
    bases.sort_unstable();
    let mut log = None;
    for base in &bases {
        let path = segment_path(dir, *base);
        let file = config.disk.open(&path, OpenMode::Read).opening(&path)?;
        let page = read_up_to(&*file, 0, SEGMENT_HEADER_LEN).opening(&path)?;
        if let Some(params) = SegmentHeader::decode(&page) {
            log = Some((params.log, bases[0]));
            report.passed_over.push("the manifest was missing and has been made again".to_owned());
            break;
        }
    }
    if log.is_none() && !bases.is_empty() {
        let what = "no manifest and no segment says which log this is: restore one of them from a copy";
        return Err(OpenError::Damaged { path: dir.join(MANIFEST), what });
    }
    let (log, first) = match log {
        Some(known) => known,
        None => (LogId(config.entropy.bytes()), 0),
    };
    let (mesh, channel) = config.channel_or_default();
    Ok(Manifest {
        log,
        generation: 1,
        channel: channel.0,
        mesh: mesh.0,
        first,
        floor: Floor { segment: first, position: SEGMENT_HEADER_LEN as u64, offset: first },
    })
}

/// Removes what interrupted work left, and segments that retention had given up. Gives the bases of the others.
fn tidy(files: &Files<'_>, manifest: &Manifest, report: &mut Recovery) -> Result<Vec<u64>, OpenError> {
    let mut bases = files.bases().opening(files.dir)?;
    if files.config.read_only {
        return Ok(bases);
    }
    while let [base, next, ..] = bases[..]
        && next <= manifest.first
    {
        give_up(files, base).opening(files.dir)?;
        report.passed_over.push(format!("{base:016x}.seg had been given up by retention"));
        bases.remove(0);
    }
    let given_up = files.given_up(bases.first().copied().unwrap_or(manifest.first)).opening(files.dir)?;
    for name in files.disk().list(files.dir).opening(files.dir)? {
        let orphan = base_in_name(&name, "idx")
            .is_some_and(|base| bases.binary_search(&base).is_err() && given_up.last() != Some(&base));
        if orphan || name.ends_with(".tmp") {
            let path = files.dir.join(&name);
            files.disk().remove(&path).opening(&path)?;
        }
    }
    Ok(bases)
}

/// Takes a segment out of the directory. Its index stays, for the origins in it, and those of others before it go.
pub(crate) fn give_up(files: &Files<'_>, base: u64) -> io::Result<()> {
    files.disk().remove(&segment_path(files.dir, base))?;
    for before in files.given_up(base)? {
        files.disk().remove(&index_path(files.dir, before))?;
    }
    Ok(())
}

/// Makes a first segment: of a new log, or of one whose end is gone.
fn restart(
    files: &Files<'_>,
    manifest: &Manifest,
    found: Option<u64>,
    report: &mut Recovery,
) -> Result<Tail, OpenError> {
    let Floor { segment, offset, .. } = manifest.floor;
    let lost = found.unwrap_or(segment)..offset;
    if !lost.is_empty() {
        report.holes.push(Hole { offsets: lost, dots: Vec::new(), segment, bytes: 0..0 });
    }
    let path = segment_path(files.dir, offset);
    if files.config.read_only {
        return Err(OpenError::Damaged { path, what: "there is no segment: open the log for writing first" });
    }
    let params = SegmentParams {
        log: files.id,
        base: offset,
        base_time: files.config.clock.now(),
        prev: [0; 32],
        synced_before: true,
        generation: 0,
    };
    let temporary = files.dir.join("first.tmp");
    let len = GROW_BYTES.min(files.config.segment_bytes);
    let make = || -> io::Result<()> {
        let file = files.disk().open(&temporary, OpenMode::Create)?;
        file.allocate(len)?;
        write_all(&*file, &SegmentHeader::encode(&params), 0)?;
        file.fdatasync()?;
        files.disk().rename(&temporary, &path)?;
        files.disk().sync_dir(files.dir)
    };
    match make() {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(OpenError::Full { needed: len }),
        Err(source) => return Err(OpenError::Io { path, source }),
    }
    let opened = files.open(offset).opening(&path)?.ok_or(OpenError::Damaged {
        path,
        what: "the segment that was just made is not there: is another program writing here?",
    })?;
    let position = SEGMENT_HEADER_LEN as u64;
    Ok(Tail { base: offset, opened, position, next_offset: offset, last_time: 0, records: Vec::new() })
}

fn assemble(
    files: &Files<'_>,
    manifest: ManifestFile,
    sealed: &[u64],
    tail: Tail,
    index: ActiveIndex,
    report: &Recovery,
    keys: KeyRing,
) -> Result<Core, OpenError> {
    let Files { dir, config, .. } = *files;
    let path = segment_path(dir, tail.base);
    let floor = tail.floor();
    // A segment that was made with another setting keeps what it has.
    let capacity = config.segment_bytes.max(tail.opened.len);
    let bytes = Published::new(tail.opened.file, capacity).opening(&path)?;
    bytes.publish(floor.position).opening(&path)?;
    let active = Arc::new(Segment::new(tail.opened.params, bytes, tail.opened.len));
    let first = manifest.last.first;
    Ok(Core {
        dir: dir.to_owned(),
        id: manifest.last.log,
        channel: ChannelHash(manifest.last.channel),
        mesh: MeshId(manifest.last.mesh),
        staging: Mutex::new(Staging {
            queue: VecDeque::new(),
            bytes: 0,
            leading: false,
            next_offset: tail.next_offset,
            position: floor.position,
            time: tail.last_time,
            in_flight: Vec::new(),
            heads: BTreeMap::new(),
            stop: config.read_only.then_some(crate::AppendError::ReadOnly),
            buffer: Vec::new(),
        }),
        writer: Mutex::new(Writer {
            active: active.clone(),
            position: floor.position,
            next_offset: tail.next_offset,
            time: tail.last_time,
            durable: floor,
            unsynced: Vec::new(),
            manifest,
        }),
        index: RwLock::new(index),
        table: RwLock::new(Table {
            sealed: sealed.iter().map(|base| (*base, SealedSlot::default())).collect(),
            active,
            first,
        }),
        indexes: Mutex::default(),
        holes: Mutex::new(report.holes.iter().map(|hole| (hole.offsets.start, hole.clone())).collect()),
        end_offset: AtomicU64::new(tail.next_offset),
        watch: crate::group::Watch::default(),
        chores: crate::core::Chores::default(),
        keys: Mutex::new(keys),
        rewriting: Mutex::default(),
        writing: Mutex::default(),
        counters: crate::core::Counters::default(),
        config: config.clone(),
    })
}
