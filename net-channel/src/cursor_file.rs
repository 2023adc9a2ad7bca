//! The position of a subscription, kept under a name in a node's directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use net_identity::secret_file::{self, SecretFileError};

use crate::context;
use crate::core::Cursor;

/// The most bytes of a name.
const NAME_LEN_MAX: usize = 64;
/// The most positions of a cursor that is kept: as many pairs as a node follows.
const POSITIONS_MAX: usize = 65_536;
/// A position is two keys and a number of at most ten bytes; the frame around them is below 64 bytes.
const FILE_LEN_MAX: usize = POSITIONS_MAX * (64 + 10) + 64;
/// The last byte is the version of the format.
const MAGIC: [u8; 8] = *b"netcur\0\x01";
const SUM_LEN: usize = 8;

/// Why a position cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorFileError {
    /// The name is not one.
    #[error("`{0}` is no name for a position: 1 to {NAME_LEN_MAX} of a-z A-Z 0-9 . _ -, not beginning with a dot")]
    Name(String),
    /// Another subscription keeps its position under this name.
    #[error("another subscription is resumed as `{0}`: wait until it ends, or choose another name")]
    InUse(String),
    /// The file is not as this program writes it.
    #[error("{path} is damaged: remove it, and say where to begin", path = .0.display())]
    Damaged(PathBuf),
    /// The file was written by a later version of this program.
    #[error("{path} was written by a later version: use that version", path = .0.display())]
    Version(PathBuf),
    /// The cursor is larger than one that is kept.
    #[error("a cursor of {0} positions, at most {POSITIONS_MAX} are kept: subscribe to less under one name")]
    TooLarge(usize),
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The name cannot be locked.
    #[error("cannot lock {path}", path = .path.display())]
    Lock {
        /// The file that is locked.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// A position under a name: `cursor-NAME` in a directory, mode `0600`. While it is open, nobody else opens it.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    saved: Option<Cursor>,
    /// Locked as long as it is open.
    _lock: File,
}

impl CursorFile {
    /// Opens the position of this name, and reads it if there is one.
    ///
    /// # Errors
    /// [`CursorFileError`]; with [`CursorFileError::InUse`] another process, or another part of this one, has it open.
    pub fn open(directory: &Path, name: &str) -> Result<Self, CursorFileError> {
        Self::check_name(name)?;
        let path = directory.join(format!("cursor-{name}"));
        let lock = lock(&directory.join(format!("cursor-{name}.lock")), name)?;
        let saved = match secret_file::read_up_to(&path, FILE_LEN_MAX) {
            Ok(bytes) => Some(decode(&path, &bytes)?),
            Err(SecretFileError::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, saved, _lock: lock })
    }

    /// Whether this is a name.
    ///
    /// # Errors
    /// [`CursorFileError::Name`].
    pub fn check_name(name: &str) -> Result<(), CursorFileError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let ok = (1..=NAME_LEN_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good);
        // `x.lock` would be the lock of `x`.
        if ok && !name.ends_with(".lock") { Ok(()) } else { Err(CursorFileError::Name(name.to_owned())) }
    }

    /// The position as it is on the disk; nothing if none was ever saved.
    #[must_use]
    pub fn saved(&self) -> Option<&Cursor> {
        self.saved.as_ref()
    }

    /// Saves a position; the same one again is not written.
    ///
    /// # Errors
    /// [`CursorFileError::TooLarge`], [`CursorFileError::File`]; the position before stays then.
    ///
    /// # Durability
    /// It is on the disk when this returns. After a crash meanwhile there is this one or the one before.
    pub fn save(&mut self, cursor: &Cursor) -> Result<(), CursorFileError> {
        if self.saved.as_ref() == Some(cursor) {
            return Ok(());
        }
        let positions = cursor.iter().count();
        if positions > POSITIONS_MAX {
            return Err(CursorFileError::TooLarge(positions));
        }
        secret_file::replace(&self.path, &encode(cursor))?;
        self.saved = Some(cursor.clone());
        Ok(())
    }
}

fn lock(path: &Path, name: &str) -> Result<File, CursorFileError> {
    let failed = |source| CursorFileError::Lock { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CursorFileError::InUse(name.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// `magic 8 ‖ postcard cursor ‖ the first 8 bytes of a hash of what is before`.
fn encode(cursor: &Cursor) -> Vec<u8> {
    let mut bytes = postcard::to_extend(cursor, MAGIC.to_vec()).expect("a Vec grows and a map of numbers serialises");
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Cursor, CursorFileError> {
    let damaged = || CursorFileError::Damaged(path.to_owned());
    let (content, sum) = bytes.split_last_chunk::<SUM_LEN>().ok_or_else(damaged)?;
    let (magic, cursor) = content.split_first_chunk::<{ MAGIC.len() }>().ok_or_else(damaged)?;
    if magic[..7] == MAGIC[..7] && magic[7] > MAGIC[7] {
        return Err(CursorFileError::Version(path.to_owned()));
    }
    if *magic != MAGIC || *sum != checksum(content) {
        return Err(damaged());
    }
    match postcard::take_from_bytes(cursor) {
        Ok((cursor, [])) => Ok(cursor),
        _ => Err(damaged()),
    }
}

fn checksum(content: &[u8]) -> [u8; SUM_LEN] {
    let hash = blake3::derive_key(context::CURSOR_FILE, content);
    std::array::from_fn(|i| hash[i])
}
