//! Which log is meant, and opening it.

use std::path::{Path, PathBuf};

use clap::Args;
use net::channel::{ChannelName, StorePlace};
use net::logs;
use net::redex::{Log, LogConfig, OpenError};
use net::state::StateDir;

use crate::cli::Global;
use crate::failure::{Failure, chain};
use crate::output::Output;

/// The log of a command.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The channel, or the path of the log's directory, which begins with `/` or `.`
    #[arg(value_name = "CHANNEL")]
    log: String,
}

/// Where a log is.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    /// The node whose keys open it, if there is one.
    state: Option<StateDir>,
    /// What it must be the log of, if it was named.
    channel: Option<ChannelName>,
    /// The log as it was typed, and how a next command begins.
    typed: String,
    pub(super) net: String,
}

impl Target {
    /// Finds the log.
    ///
    /// # Errors
    /// [`Failure`] if it is no name, or there is no such log.
    pub(super) fn locate(&self, global: &Global) -> Result<Located, Failure> {
        let (typed, net) = (self.log.clone(), global.net());
        let dir = global.dir()?;
        if is_path(&typed) {
            let path = PathBuf::from(&typed);
            if !holds_log(&path) {
                let message = format!("{typed} holds no log: there is no MANIFEST in it");
                return Err(Failure::new(message).next(format!("`{net} log ls` lists the logs of this node")));
            }
            return Ok(Located { path, state: state(&dir)?, channel: None, typed, net });
        }
        let channel: ChannelName = typed.parse().map_err(|error| {
            Failure::usage(format!("`{typed}` is no channel: {}", chain(&error)))
                .next("names look like `quakes/ak`, paths begin with `/` or `.`: `net log stat ./backup/quakes+ak`")
        })?;
        let state = state(&dir)?;
        let path = state.as_ref().map(|state| logs::path(state, &channel)).filter(|path| holds_log(path));
        let Some(path) = path else {
            let message = format!("there is no log of {channel} in {}", dir.display());
            return Err(Failure::new(message).next(format!("`{net} log ls` lists the logs that there are")));
        };
        Ok(Located { path, state, channel: Some(channel), typed, net })
    }
}

/// No channel's name begins like this.
fn is_path(typed: &str) -> bool {
    matches!(typed, "." | "..") || ["/", "./", "../"].iter().any(|start| typed.starts_with(start))
}

/// A directory without a manifest may still hold segments, from which a manifest is made when it is opened for writing.
fn holds_log(path: &Path) -> bool {
    let is_segment = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "seg"))
    };
    path.join("MANIFEST").is_file() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.any(is_segment))
}

/// The node's directory if it is there; nothing is made.
fn state(dir: &Path) -> Result<Option<StateDir>, Failure> {
    Ok(if dir.exists() { Some(StateDir::open(dir)?) } else { None })
}

impl Located {
    /// The log of a channel that is known to be there.
    pub(super) fn of(state: &StateDir, channel: ChannelName, net: String) -> Self {
        let path = logs::path(state, &channel);
        Self { path, state: Some(state.clone()), typed: channel.to_string(), channel: Some(channel), net }
    }

    /// Opens it for looking, also while another process writes it.
    ///
    /// # Errors
    /// [`Failure`] if it does not open.
    pub(super) fn open(&self, output: &Output) -> Result<Log, Failure> {
        self.open_with(self.config()?.read_only(), output)
    }

    /// Opens it to change it: no other process may have it open.
    ///
    /// # Errors
    /// [`Failure`] if it does not open.
    pub(super) fn open_to_change(&self, output: &Output) -> Result<Log, Failure> {
        let log = self.open_with(self.config()?.without_threads().scrub(None), output)?;
        if let Some(torn) = &log.recovery().torn {
            output.note(format_args!("an interrupted write at offset {} was cut off", torn.offset));
        }
        Ok(log)
    }

    fn open_with(&self, mut config: LogConfig, output: &Output) -> Result<Log, Failure> {
        match Log::open(&self.path, config.clone()) {
            // The ring of another node: what it would open is shown sealed.
            Err(OpenError::Damaged { path, .. }) if path.ends_with("keys") && config.ring_secret.is_some() => {
                config.ring_secret = None;
                let log = Log::open(&self.path, config).map_err(|error| self.failure(error))?;
                output.warn(format_args!("{}: the key ring is another node's, and stays shut", self.name(&log)));
                Ok(log)
            }
            result => result.map_err(|error| self.failure(error)),
        }
    }

    fn config(&self) -> Result<LogConfig, Failure> {
        if let (Some(state), Some(channel)) = (&self.state, &self.channel) {
            return Ok(logs::config(state, channel)?);
        }
        let keys = match &self.state {
            Some(state) => state.keys()?,
            None => None,
        };
        let config = LogConfig::default();
        Ok(match keys {
            Some(keys) => config.ring_secret(logs::ring_secret(&keys)),
            None => config,
        })
    }

    /// The name of the channel, or what stands for it where the directory does not tell.
    pub(super) fn name(&self, log: &Log) -> String {
        let named = self.channel.clone().or_else(|| {
            let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
            let of_dir = path.file_name().and_then(|name| StorePlace::channel_of(name.to_str()?));
            // What a log has that was opened without saying for which channel.
            let unnamed = ChannelName::parse("log").ok();
            // It may be a copy of one of the node's own, of whatever name.
            let own = self.state.iter().flat_map(|state| logs::list(state).unwrap_or_default());
            let is_it = |name: &ChannelName| name.hash(&log.mesh()) == log.channel();
            of_dir.into_iter().chain(unnamed).chain(own).find(is_it)
        });
        named.map_or_else(|| format!("#{}", &log.channel().to_string()[..16]), |name| name.to_string())
    }

    /// The process that holds the log's lock, as that has said; only asked where somebody does.
    pub(super) fn writer(&self) -> String {
        let said = std::fs::read_to_string(self.path.join("LOCK")).unwrap_or_default();
        let pid = said.trim().parse().ok().filter(|pid: &u32| *pid != 0);
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    }

    /// Why it did not open, and what to do.
    pub(super) fn failure(&self, error: OpenError) -> Failure {
        let Self { typed, net, .. } = self;
        match error {
            OpenError::Locked { pid } => {
                let (who, stop) = match pid {
                    0 => ("another process".to_owned(), "stop it".to_owned()),
                    pid => (format!("process {pid}"), format!("stop it with `kill {pid}`")),
                };
                Failure::new(format!("{who} writes the log {typed}, and a log has one writer"))
                    .next(format!("{stop}, or let its retention do it; `{net} log read {typed}` works meanwhile"))
            }
            OpenError::OtherChannel(path) => {
                Failure::new(format!("{} holds a log of another channel or mesh", path.display())).next(format!(
                    "`{net} log stat {}` shows it, without asking what it should be",
                    std::path::absolute(&path).unwrap_or(path).display()
                ))
            }
            OpenError::Damaged { path, what } => {
                let next = if what.contains("for writing") {
                    format!("`{net} log trim {typed} --before offset:0` opens it for writing, and gives up nothing")
                } else {
                    "a keeper of the channel, or a copy, has what this one has lost".to_owned()
                };
                Failure::new(format!("{}: {what}", path.display())).next(next)
            }
            error => Failure::new(chain(&error))
                .next(format!("look at {}: who may read and write there, and is there room", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_a_path_is_no_channel() {
        for path in [".", "..", "/x", "./x", "../x", "/"] {
            assert!(is_path(path) && path.parse::<ChannelName>().is_err(), "{path}");
        }
        for channel in ["quakes/ak", ".hidden/x", "..x", "a"] {
            assert!(!is_path(channel) && channel.parse::<ChannelName>().is_ok(), "{channel}");
        }
    }
}
