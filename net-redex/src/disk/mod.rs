//! All that the log asks of a disk. Everything above goes through these two traits, so that tests can cut the power.

mod mapped;
mod real;
#[cfg(feature = "sim")]
mod sim;

pub use mapped::Mapping;
pub(crate) use mapped::Published;
pub use real::{MemoryDisk, RealDisk};
#[cfg(feature = "sim")]
pub use sim::{Fault, PowerCut, SimDisk};

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It is there; read only.
    Read,
    /// It is there; read and written.
    Write,
    /// It is made, empty; one that was there is emptied.
    Create,
}

/// A file system, as little of it as the log needs.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a directory and those above it, for this user alone, and makes their names last.
    ///
    /// # Errors
    /// What the file system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    /// What the file system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the file system says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name in the same directory, in place of what has that name.
    ///
    /// # Errors
    /// What the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away. Mappings and open files of it go on to work.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes names given and taken in this directory last.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether somebody holds the lock that the file at `path` stands for.
    ///
    /// # Errors
    /// What the file system says.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;

    /// Takes the lock that the file at `path` stands for, until the result is dropped.
    ///
    /// # Errors
    /// [`LockError::Held`] if another holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn fmt::Debug + Send + Sync>, LockError>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Bytes in it.
    ///
    /// # Errors
    /// What the file system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes some of `bytes` at `at`, and says how many.
    ///
    /// # Errors
    /// What the file system says.
    fn pwrite(&self, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Reads some bytes from `at` on, and says how many; zero is the end.
    ///
    /// # Errors
    /// What the file system says.
    fn pread(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Returns when everything written to it is on the disk.
    ///
    /// # Errors
    /// What the file system says. What was written before may then never reach the disk.
    fn fdatasync(&self) -> io::Result<()>;

    /// Reserves room so that the file has at least `len` bytes, the new ones zeros.
    ///
    /// # Errors
    /// `StorageFull` if there is no room; the file then stays as it was.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Maps the first `len` bytes for reading; the file may be shorter, if it is never read beyond its end.
    ///
    /// # Errors
    /// What the file system says.
    fn map(&self, len: u64) -> io::Result<Mapping>;

    /// Asks that what is read next at `from` or behind comes from the disk: what the system remembers is dropped.
    ///
    /// After a failed fdatasync, memory shows what the disk does not have.
    ///
    /// # Errors
    /// What the file system says.
    fn forget_cache(&self, from: u64) -> io::Result<()>;
}

/// Writes all of `bytes`, however many calls it takes.
pub(crate) fn write_all(file: &dyn DiskFile, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.pwrite(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads at most `len` bytes from `at`: fewer if the file ends before.
pub(crate) fn read_up_to(file: &dyn DiskFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let there = file.len()?.saturating_sub(at);
    let mut bytes = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.pread(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another log of this one, has it.
    #[error("held by process {pid}")]
    Held {
        /// Its process id; zero if it did not say.
        pid: u32,
    },
    /// The lock file could not be opened or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}
