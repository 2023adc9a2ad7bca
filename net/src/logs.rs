//! The logs of a node: which files they are, and what opens them.
//!
//! The log of a channel is the directory `logs/NAME` of the node's [state directory](crate::state), where NAME is the
//! channel's name with `+` for `/`; no name has a `+`. Its key ring is sealed with a secret that follows from the node's
//! seed, so the logs of a directory can be read with that directory and with no other.

use std::fs;
use std::io;
use std::path::PathBuf;

use net_channel::{ChannelName, StorePlace};
use net_redex::{Log, LogConfig, OpenError};
use net_transport::NodeKeys;

use crate::state::{StateDir, StateError};

/// `derive_key` of what seals the key rings of a node's logs, from its seed.
pub(crate) const RING_SECRET: &str = "net 2026 log key rings v1";

/// Why a log of a state directory was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The state directory, or a file in it, cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What seals the key rings of this node's logs.
#[must_use]
pub fn ring_secret(keys: &NodeKeys) -> [u8; 32] {
    keys.derive(RING_SECRET)
}

/// Where a node's logs are.
#[must_use]
pub fn root(dir: &StateDir) -> PathBuf {
    dir.file("logs")
}

/// Where the log of this channel is, or would be.
#[must_use]
pub fn path(dir: &StateDir, channel: &ChannelName) -> PathBuf {
    root(dir).join(StorePlace::dir_name(channel))
}

/// The channels that have a log in this directory, in order of their names.
///
/// # Errors
/// What the system says; a directory without logs is none.
pub fn list(dir: &StateDir) -> io::Result<Vec<ChannelName>> {
    let entries = match fs::read_dir(root(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut channels = Vec::new();
    for entry in entries {
        let entry = entry?;
        // What else lies there was put there by somebody else.
        if let Some(channel) = entry.file_name().to_str().and_then(StorePlace::channel_of)
            && fs::metadata(entry.path())?.is_dir()
        {
            channels.push(channel);
        }
    }
    channels.sort_unstable();
    Ok(channels)
}

/// How this node's log of this channel is opened: with the secret of its key ring, if the node has keys yet, and only if
/// it is of this channel in the node's mesh, if it has one.
///
/// # Errors
/// [`StateError`] if keys or mesh cannot be read.
pub fn config(dir: &StateDir, channel: &ChannelName) -> Result<LogConfig, StateError> {
    let mut config = LogConfig::default();
    if let Some(keys) = dir.keys()? {
        config = config.ring_secret(ring_secret(&keys));
    }
    if let Some(mesh) = dir.mesh()? {
        config = config.channel(mesh.id(), channel.hash(&mesh.id()));
    }
    Ok(config)
}

/// Opens the log of this channel for reading, also while the node writes it.
///
/// # Errors
/// [`LogError`]. Nothing is made or changed.
pub fn open_read_only(dir: &StateDir, channel: &ChannelName) -> Result<Log, LogError> {
    Ok(Log::open(path(dir, channel), config(dir, channel)?.read_only())?)
}
