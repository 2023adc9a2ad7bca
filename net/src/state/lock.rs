//! One directory, one node, one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};

use super::{StateDir, StateError};

/// The right to be the node of a directory. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    dir: StateDir,
    _file: File,
}

impl StateLock {
    pub(super) fn take(dir: StateDir) -> Result<Self, StateError> {
        let path = dir.file("LOCK");
        let failed = |what| {
            let path = path.clone();
            move |source| StateError::Io { what, path, source }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // The holder may not have written its id yet.
                let mut text = String::new();
                let pid = (&file).take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StateError::Locked { path: dir.path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write"))?;
        Ok(Self { dir, _file: file })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }
}
