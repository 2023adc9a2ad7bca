//! A disk in memory that forgets what was not synced, and fails when it is told to.
//!
//! It keeps, for each file, what a program sees and what the platters hold. A power cut makes a new disk of the
//! latter and of any choice of the sectors and names that had not been synced: what real disks and file systems
//! promise, and no more. The same seed chooses the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::real::anonymous_file;
use super::{Disk, DiskFile, LockError, Mapping, OpenMode, read_up_to, write_all};
use crate::format::SECTOR_LEN;

const SECTOR: u64 = SECTOR_LEN as u64;

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// From this call on, counted from 0, every call fails: the power is gone.
    PowerOff(u64),
    /// This call, counted from 0, fails and does nothing.
    Call(u64),
    /// Every so many calls, one fails and does nothing.
    EveryCall(u64),
    /// This sync, counted from 0 over all files, fails once. Some of what it should have written is not, and the
    /// system takes all of it for written.
    Sync(u64),
    /// Writes take only a part of what they are given, now and then.
    ShortWrites,
    /// No more than this many bytes fit.
    Capacity(u64),
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PowerCut {
    /// Nothing.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector and name by the toss of a coin.
    Seeded(u64),
    /// Item `i` if bit `i` is set; items are sectors, lengths and names in a fixed order.
    Mask(u64),
}

/// A disk in memory with faults. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names given and taken since the directory was synced.
    pending: Vec<(PathBuf, Option<usize>)>,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    calls: u64,
    syncs: u64,
    injected: u64,
    random: u64,
}

struct Inode {
    seen: Arc<dyn DiskFile>,
    len: u64,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<u64>,
    /// Sectors that a failed sync left behind: seen, thought clean, and not on the disk.
    stale: BTreeSet<u64>,
}

impl SimDisk {
    /// An empty disk without faults; the seed decides short writes and what failed syncs leave.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            locks: BTreeSet::new(),
            faults: Vec::new(),
            calls: 0,
            syncs: 0,
            injected: 0,
            random: seed,
        })))
    }

    /// Adds a fault. Calls are counted from the disk's first.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Calls so far: every one that could fail.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How often a fault struck.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// How many sectors, lengths and names a power cut would choose from.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let state = self.state();
        let of = |inode: &Inode| inode.dirty.len() + usize::from(inode.len != inode.durable.len() as u64);
        state.pending.len() + state.inodes.iter().map(of).sum::<usize>()
    }

    /// The disk as it is found when the power comes back. This one is left as it was.
    ///
    /// # Panics
    /// If the operating system gives no memory.
    #[must_use]
    pub fn after_power_cut(&self, cut: PowerCut) -> Self {
        let state = self.state();
        let mut chooser = Chooser { cut, item: 0, random: 0 };
        if let PowerCut::Seeded(seed) = cut {
            chooser.random = seed;
        }
        let mut names = state.durable_names.clone();
        for (path, inode) in &state.pending {
            if chooser.keeps() {
                match inode {
                    Some(inode) => names.insert(path.clone(), *inode),
                    None => names.remove(path),
                };
            }
        }
        let after = Self::new(state.random);
        let mut new = after.state();
        for inode in &state.inodes {
            let mut durable = inode.durable.clone();
            if inode.len != durable.len() as u64 && chooser.keeps() {
                durable.resize(usize::try_from(inode.len).expect("it is in memory"), 0);
            }
            for sector in &inode.dirty {
                if chooser.keeps() {
                    let seen = read_up_to(&*inode.seen, sector * SECTOR, SECTOR_LEN).expect("memory can be read");
                    copy_into(&mut durable, sector * SECTOR, &seen);
                }
            }
            new.inodes.push(Inode::of(durable));
        }
        new.durable_names.clone_from(&names);
        new.names = names;
        drop(new);
        after
    }

    /// Changes a file behind everyone's back, on the disk and in what is seen, as rot does.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn rot(&self, path: &Path, at: u64, change: impl FnOnce(&mut u8)) {
        let mut state = self.state();
        let inode = state.names[path];
        let inode = &mut state.inodes[inode];
        let index = usize::try_from(at).expect("it is in memory");
        let mut byte = read_up_to(&*inode.seen, at, 1).expect("memory can be read");
        change(&mut byte[0]);
        write_all(&*inode.seen, &byte, at).expect("memory can be written");
        if let Some(durable) = inode.durable.get_mut(index) {
            *durable = byte[0];
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; fails if a fault says so.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let call = state.calls;
        state.calls += 1;
        let strikes = state.faults.iter().any(|fault| match *fault {
            Fault::PowerOff(from) => call >= from,
            Fault::Call(only) => call == only,
            Fault::EveryCall(every) => call % every == every - 1,
            _ => false,
        });
        if strikes {
            state.injected += 1;
            return Err(io::Error::other("an injected fault"));
        }
        Ok(state)
    }
}

struct Chooser {
    cut: PowerCut,
    item: u32,
    random: u64,
}

impl Chooser {
    fn keeps(&mut self) -> bool {
        self.item += 1;
        match self.cut {
            PowerCut::Nothing => false,
            PowerCut::Everything => true,
            PowerCut::Seeded(_) => next_random(&mut self.random) & 1 == 1,
            PowerCut::Mask(mask) => mask.checked_shr(self.item - 1).unwrap_or(0) & 1 == 1,
        }
    }
}

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Copies as much of `bytes` as `into` has room for behind `at`.
fn copy_into(into: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).expect("it is in memory");
    if let Some(room) = into.get_mut(at..) {
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
    }
}

impl Inode {
    fn of(durable: Vec<u8>) -> Self {
        let seen = anonymous_file().expect("memory is there");
        write_all(&seen, &durable, 0).expect("memory can be written");
        Self {
            seen: Arc::new(seen),
            len: durable.len() as u64,
            durable,
            dirty: BTreeSet::new(),
            stale: BTreeSet::new(),
        }
    }
}

impl State {
    fn capacity(&self) -> u64 {
        let limits = self.faults.iter().filter_map(|fault| match fault {
            Fault::Capacity(bytes) => Some(*bytes),
            _ => None,
        });
        limits.min().unwrap_or(u64::MAX)
    }

    /// Makes a file longer, if there is room.
    fn extend(&mut self, inode: usize, len: u64) -> io::Result<()> {
        if len <= self.inodes[inode].len {
            return Ok(());
        }
        let linked: BTreeSet<usize> = self.names.values().copied().chain([inode]).collect();
        let used: u64 = linked.iter().map(|inode| self.inodes[*inode].len).sum();
        if used - self.inodes[inode].len + len > self.capacity() {
            self.injected += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut self.inodes[inode];
        write_all(&*inode.seen, &vec![0; usize::try_from(len - inode.len).unwrap_or(0)], inode.len)?;
        inode.len = len;
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.call().map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.call()?;
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.call()?;
        let inode = if mode == OpenMode::Create {
            let number = state.inodes.len();
            state.inodes.push(Inode::of(Vec::new()));
            state.names.insert(path.to_owned(), number);
            state.pending.push((path.to_owned(), Some(number)));
            number
        } else {
            *state.names.get(path).ok_or(io::ErrorKind::NotFound)?
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state.pending.push((from.to_owned(), None));
        state.pending.push((to.to_owned(), Some(inode)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push((path.to_owned(), None));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        let state = &mut *state;
        let (here, elsewhere) = state.pending.drain(..).partition(|(path, _)| path.parent() == Some(dir));
        state.pending = elsewhere;
        let here: Vec<(PathBuf, Option<usize>)> = here;
        for (path, inode) in here {
            match inode {
                Some(inode) => state.durable_names.insert(path, inode),
                None => state.durable_names.remove(&path),
            };
        }
        Ok(())
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.call()?.locks.contains(path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, LockError> {
        let mut state = self.call()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held { pid: std::process::id() });
        }
        drop(state);
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("SimDisk").field("names", &state.names).field("calls", &state.calls).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimFile").field(&self.inode).finish()
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].len)
    }

    fn pwrite(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.call()?;
        let mut bytes = bytes;
        if state.faults.contains(&Fault::ShortWrites) && bytes.len() > 1 {
            let n = next_random(&mut state.random) % bytes.len() as u64;
            bytes = &bytes[..usize::try_from(n).unwrap_or(0).max(1)];
            state.injected += 1;
        }
        state.extend(self.inode, at + bytes.len() as u64)?;
        let inode = &mut state.inodes[self.inode];
        write_all(&*inode.seen, bytes, at)?;
        for sector in at / SECTOR..=(at + bytes.len() as u64).saturating_sub(1) / SECTOR {
            inode.dirty.insert(sector);
            inode.stale.remove(&sector);
        }
        Ok(bytes.len())
    }

    fn pread(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.disk.call()?;
        state.inodes[self.inode].seen.pread(bytes, at)
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let state = &mut *state;
        let sync = state.syncs;
        state.syncs += 1;
        let fails = state.faults.contains(&Fault::Sync(sync));
        let inode = &mut state.inodes[self.inode];
        inode.durable.resize(usize::try_from(inode.len).expect("it is in memory"), 0);
        for sector in std::mem::take(&mut inode.dirty) {
            if fails && next_random(&mut state.random) & 1 == 1 {
                inode.stale.insert(sector);
                continue;
            }
            let seen = read_up_to(&*inode.seen, sector * SECTOR, SECTOR_LEN)?;
            copy_into(&mut inode.durable, sector * SECTOR, &seen);
        }
        if fails {
            state.injected += 1;
            return Err(io::Error::other("an injected fault of a sync"));
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.call()?.extend(self.inode, len)
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        let state = self.disk.call()?;
        state.inodes[self.inode].seen.map(len)
    }

    fn forget_cache(&self, from: u64) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let inode = &mut state.inodes[self.inode];
        let stale: Vec<u64> = inode.stale.iter().copied().filter(|sector| (sector + 1) * SECTOR > from).collect();
        for sector in stale {
            inode.stale.remove(&sector);
            let start = usize::try_from(sector * SECTOR).expect("it is in memory");
            let end = (start + SECTOR_LEN).min(inode.durable.len());
            write_all(&*inode.seen, &inode.durable[start..end], sector * SECTOR)?;
        }
        Ok(())
    }
}
