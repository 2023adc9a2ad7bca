//! Files of the operating system, and files that never leave memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, DiskFile, LockError, Mapping, OpenMode, write_all};

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// Those who look whether the lock is held share it for a moment each; so many times they may be in the way.
const TRIES_MAX: usize = 1_000;

/// Takes the lock unless somebody holds it, which is not the same as being refused it: those who only look share it for
/// a moment. Says whether it was taken.
fn take_exclusive(fd: &OwnedFd) -> Result<bool, Errno> {
    for _ in 0..TRIES_MAX {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            result => return result.map(|()| true),
        }
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => rustix::fs::flock(fd, FlockOperation::Unlock)?,
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error),
        }
        std::thread::yield_now();
    }
    Ok(false)
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        // A directory is named by the one above it, and a name lasts when that one was synced.
        let new = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let above: Vec<&Path> = new.filter_map(Path::parent).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let here = Path::new(".");
        above.into_iter().try_for_each(|dir| self.sync_dir(if dir.as_os_str().is_empty() { here } else { dir }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names: io::Result<Vec<OsString>> = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
        let mut names: Vec<String> = names?.into_iter().filter_map(|name| name.into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::CLOEXEC
            | match mode {
                OpenMode::Read => OFlags::RDONLY,
                OpenMode::Write => OFlags::RDWR,
                OpenMode::Create => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
            };
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Arc::new(RealFile(fd)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let fd = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
                Ok(()) => Ok(false),
                Err(Errno::WOULDBLOCK) => Ok(true),
                Err(error) => Err(error.into()),
            },
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        if !take_exclusive(&fd).map_err(io::Error::from)? {
            let text = fs::read_to_string(path).unwrap_or_default();
            return Err(LockError::Held { pid: text.trim().parse().unwrap_or(0) });
        }
        rustix::fs::ftruncate(&fd, 0).map_err(io::Error::from)?;
        let file = RealFile(fd);
        write_all(&file, format!("{}\n", std::process::id()).as_bytes(), 0)?;
        // The file stays when the lock goes: removing it would let two processes lock two files of one name.
        Ok(Box::new(file))
    }
}

#[derive(Debug)]
struct RealFile(OwnedFd);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.0)?;
        u64::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn pwrite(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwrite(&self.0, bytes, at)?)
    }

    fn pread(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.0, bytes, at)?)
    }

    fn fdatasync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if len <= old {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), old, len - old) {
            // Where the file system reserves nothing, the zeros below still do.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Reserved blocks are still marked unwritten, and the first write of each would change the file's metadata
        // at the sync that an append waits for. Zeros written now take that out of its way.
        let zeros = vec![0; ZEROS_LEN.min(usize::try_from(len - old).unwrap_or(ZEROS_LEN))];
        let mut at = old;
        while at < len {
            let n = zeros.len().min(usize::try_from(len - at).unwrap_or(ZEROS_LEN));
            write_all(self, &zeros[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Mapping> {
        Mapping::of(&self.0, len)
    }

    fn forget_cache(&self, from: u64) -> io::Result<()> {
        match rustix::fs::fadvise(&self.0, from, None, Advice::DontNeed) {
            // A file system that has no cache to forget has nothing stale to show.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes of zeros written with one call.
const ZEROS_LEN: usize = 1 << 20;

/// A disk that is memory: for logs that need not outlive their process.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<RealFile>>>>,
}

impl MemoryDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<RealFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that has no name in any directory.
#[cfg(feature = "sim")]
pub(super) fn anonymous_file() -> io::Result<impl DiskFile> {
    Ok(RealFile(rustix::fs::memfd_create("net-redex", MemfdFlags::CLOEXEC)?))
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files();
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files();
        if mode == OpenMode::Create {
            let file = Arc::new(RealFile(rustix::fs::memfd_create("net-redex", MemfdFlags::CLOEXEC)?));
            files.insert(path.to_owned(), file.clone());
            return Ok(file);
        }
        let file = files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_locked(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, LockError> {
        Ok(Box::new(()))
    }
}
