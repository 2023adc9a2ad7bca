//! The servers that some peers need: found, or installed from Debian, and run on loopback for one run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::tls::TlsFiles;

/// A server in one of its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    Nats { tls: bool },
    Jetstream { sync_always: bool },
    Redis { fsync: Option<&'static str> },
}

/// A server program that may be here.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The name of the program and of its Debian package.
    pub(crate) name: &'static str,
    /// Its version, or why it cannot be used.
    pub(crate) version: Result<Vec<u32>, String>,
}

impl ServerKind {
    /// The program that it is.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Nats { .. } | Self::Jetstream { .. } => "nats-server",
            Self::Redis { .. } => "redis-server",
        }
    }

    /// Why this version cannot do it, if it cannot.
    pub(crate) fn lacks(self, version: &[u32]) -> Option<String> {
        let sync_always = matches!(self, Self::Jetstream { sync_always: true });
        (sync_always && version < [2, 10].as_slice())
            .then(|| format!("not measurable here: sync_interval needs nats-server 2.10, this is {}", dotted(version)))
    }
}

/// A version as people write it.
pub(crate) fn dotted(version: &[u32]) -> String {
    version.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

impl Program {
    /// Finds a program, installing its Debian package if it is not here, that is allowed and that is possible.
    pub(crate) fn find(name: &'static str, install: bool) -> Self {
        let mut version = version_of(name);
        if version.is_err() && install {
            version = debian_install(name).and_then(|()| version_of(name));
        }
        let hint = "install it, or put it on the PATH";
        Self { name, version: version.map_err(|error| format!("{error:#} ({hint})")) }
    }
}

fn version_of(name: &str) -> Result<Vec<u32>> {
    let output = Command::new(name).arg("--version").output().with_context(|| format!("{name} is not here"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "nats-server: v2.9.10", "Redis server v=7.0.15 sha=…"
    let digits = text
        .split([' ', '=', 'v', '\n'])
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    let digits = digits.with_context(|| format!("{name} does not say its version"))?;
    Ok(digits.split('.').map_while(|part| part.parse().ok()).collect())
}

/// Installs the package of that name; its service is not started.
fn debian_install(name: &str) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "{name} is not here and only root can install it");
    eprintln!("installing {name} with apt-get");
    let apt = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("apt-get")
            .args(["-qq", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Run-level 1 and offline: the package's own service stays down.
            .env("RUNLEVEL", "1")
            .env("SYSTEMD_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("there is no apt-get to install it with")?;
        ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
        Ok(())
    };
    apt(&["install", "--no-install-recommends", name])
        .or_else(|_| apt(&["update"]).and_then(|()| apt(&["install", "--no-install-recommends", name])))
}

/// A running server; it is killed when this is dropped, and when this process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    _process: tokio::process::Child,
}

/// For how long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

impl Server {
    /// Starts it on a free port of loopback, with its data in `dir`.
    pub(crate) async fn start(kind: ServerKind, dir: &Path, tls: &TlsFiles) -> Result<Self> {
        let dir = dir.join("server");
        std::fs::create_dir_all(&dir)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let arguments = match kind {
            ServerKind::Nats { .. } | ServerKind::Jetstream { .. } => nats_arguments(kind, &dir, tls, port)?,
            ServerKind::Redis { fsync } => redis_arguments(fsync, &dir, port),
        };
        let log = dir.join("log");
        let output = std::fs::File::create(&log)?;
        let mut process = guarded(kind.program())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if process.try_wait()?.is_some() || Instant::now() > end {
                bail!("{} did not start: {}", kind.program(), last_lines(&log));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { port, _process: process })
    }
}

fn nats_arguments(kind: ServerKind, dir: &Path, tls: &TlsFiles, port: u16) -> Result<Vec<String>> {
    let mut config = format!("listen: \"127.0.0.1:{port}\"\n");
    match kind {
        ServerKind::Nats { tls: true } => {
            config += &format!("tls {{ cert_file: {:?}, key_file: {:?} }}\n", tls.cert, tls.key);
        }
        ServerKind::Jetstream { sync_always } => {
            let sync = if sync_always { ", sync_interval: always" } else { "" };
            config += &format!("jetstream {{ store_dir: {:?}{sync} }}\n", dir.join("js"));
        }
        _ => {}
    }
    let path = dir.join("nats.conf");
    std::fs::write(&path, config)?;
    Ok(vec!["--config".to_owned(), path.display().to_string()])
}

fn redis_arguments(fsync: Option<&str>, dir: &Path, port: u16) -> Vec<String> {
    let (port, dir) = (port.to_string(), dir.display().to_string());
    let append_only = if fsync.is_some() { "yes" } else { "no" };
    [
        ["--port", &port],
        ["--bind", "127.0.0.1"],
        ["--dir", &dir],
        ["--save", ""],
        ["--appendonly", append_only],
        ["--appendfsync", fsync.unwrap_or("no")],
        ["--daemonize", "no"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

/// The last lines of a log, for an error message.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// A command that is killed by the kernel when this process ends, however it ends.
pub(crate) fn guarded(program: &str) -> tokio::process::Command {
    let this = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut command = tokio::process::Command::new(this);
    command.arg("guard").arg(std::process::id().to_string()).arg(program);
    command
}

/// The other side of [`guarded`]: ties this process to its parent and becomes the program.
pub(crate) fn guard(arguments: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let [parent, program, rest @ ..] = arguments else { bail!("guard PARENT PROGRAM ARGUMENTS…") };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The parent may have ended before the line above.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    ensure!(now.to_string() == *parent, "the parent is gone");
    Err(Command::new(program).args(rest).exec().into())
}
