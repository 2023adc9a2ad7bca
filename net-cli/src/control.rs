//! The socket by which commands of one directory speak to the process that is its node.
//!
//! JSON lines over a Unix socket of mode `0600` in the state directory. A connection carries one request: the first
//! line says the version and what is wanted; everything after belongs to it. Ending the connection ends the request.

pub(crate) mod client;
pub(crate) mod lines;
pub(crate) mod protocol;
pub(crate) mod publish;
pub(crate) mod server;
pub(crate) mod standing;

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The most bytes of a socket's path: 108 on Linux and 104 on macOS, with a zero at the end.
const SOCKET_PATH_LEN_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Where the socket of a directory is.
///
/// # Errors
/// [`Failure`] if the path is too long for a socket.
pub(crate) fn socket_path(dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("control");
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_LEN_MAX {
        let message = format!(
            "the path of the control socket, {}, has {len} bytes, and this system allows {SOCKET_PATH_LEN_MAX}",
            path.display()
        );
        return Err(Failure::new(message).next("choose a shorter directory: `net --dir DIRECTORY …`"));
    }
    Ok(path)
}
