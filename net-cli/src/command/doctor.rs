//! `net doctor`: what is wrong here, and what to do about it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use net::state::{StateDir, StateError};
use serde::Serialize;
use tokio::net::UnixStream;

use crate::access::Access;
use crate::cli::Global;
use crate::control::protocol::{Reply, Request, Status};
use crate::control::socket_path;
use crate::failure::Failure;
use crate::output::{Look, To};

/// Check the directory, the network, the clock and the links, and say what to do
///
/// It starts nothing. The exit code is 1 if something is wrong that keeps a node from working.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net doctor\n  net --dir /tmp/b doctor --json")]
pub(crate) struct Doctor {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It works, though not as well as it could.
    Note,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn good(check: &'static str, says: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Good, says: says.into(), next: None }
}

fn note(check: &'static str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Note, says: says.into(), next: Some(next.into()) }
}

fn bad(check: &'static str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Bad, says: says.into(), next: Some(next.into()) }
}

/// How long a datagram to ourselves may take.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(1);
/// 2026-01-01: a clock that is behind it was never set.
const CLOCK_MIN_SECS: u64 = 1_767_225_600;
/// 2100-01-01.
const CLOCK_MAX_SECS: u64 = 4_102_444_800;

impl Doctor {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let path = global.dir()?;
        let (mut findings, dir) = directory(&path);
        let running = match &dir {
            Some(dir) => process(dir, &mut findings).await,
            None => None,
        };
        if running.is_none() {
            findings.push(port(dir.as_ref()));
        }
        findings.push(loopback());
        findings.push(if global.mdns() {
            mdns()
        } else {
            note("mDNS", "switched off", "leave --no-mdns out to find nodes on the local network")
        });
        findings.push(clock());
        findings.push(links(global, dir.as_ref(), running.as_ref()));
        if let Some(status) = &running {
            findings.push(drops(status));
            findings.push(lag(status));
        }
        let well = findings.iter().all(|f| f.verdict != Verdict::Bad);
        for finding in &findings {
            if output.json() {
                output.record(finding)?;
                continue;
            }
            let (mark, look) = match finding.verdict {
                Verdict::Good => ("ok  ", Look::Good),
                Verdict::Note => ("note", Look::Strong),
                Verdict::Bad => ("BAD ", Look::Bad),
            };
            output.line(format!("{} {:<10} {}", output.paint(To::Out, look, mark), finding.check, finding.says))?;
            if let Some(next) = &finding.next {
                output.line(format!("                next: {next}"))?;
            }
        }
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The directory and each file in it. Nothing is made here.
fn directory(path: &Path) -> (Vec<Finding>, Option<StateDir>) {
    const CHECK: &str = "directory";
    if !path.exists() {
        let says = format!("{} is not there yet", path.display());
        return (vec![note(CHECK, says, "the first `net up`, `net sub` or `net join` makes it")], None);
    }
    let dir = match StateDir::open(path) {
        Ok(dir) => dir,
        Err(error) => return (vec![failed(CHECK, error)], None),
    };
    if let Err(failure) = socket_path(path) {
        return (vec![bad(CHECK, failure.message, failure.next.unwrap_or_default())], None);
    }
    let mut findings = Vec::new();
    for result in [dir.keys().map(|_| ()), dir.mesh().map(|_| ()), dir.peers().map(|_| ())] {
        if let Err(error) = result {
            findings.push(failed(CHECK, error));
        }
    }
    if findings.is_empty() {
        findings.push(good(CHECK, format!("{} is private and whole", path.display())));
        return (findings, Some(dir));
    }
    (findings, None)
}

fn failed(check: &'static str, error: StateError) -> Finding {
    let failure = Failure::from(error);
    bad(check, failure.message, failure.next.unwrap_or_default())
}

/// Who is the node, and does it answer?
async fn process(dir: &StateDir, findings: &mut Vec<Finding>) -> Option<Status> {
    const CHECK: &str = "process";
    match dir.lock() {
        Ok(_) => findings.push(note(
            CHECK,
            "no node runs here now",
            "`net up` runs one; other commands run it while they last",
        )),
        Err(StateError::Locked { pid, .. }) => {
            let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            if let Some(status) = ask_status(dir).await {
                findings.push(good(CHECK, format!("{who} is node {}", status.node)));
                return Some(status);
            }
            let next = pid.map_or_else(|| "stop it".to_owned(), |pid| format!("`kill {pid}`"));
            findings.push(bad(CHECK, format!("{who} holds the directory and does not answer"), next));
        }
        Err(error) => findings.push(failed(CHECK, error)),
    }
    None
}

async fn ask_status(dir: &StateDir) -> Option<Status> {
    let socket = socket_path(dir.path()).ok()?;
    UnixStream::connect(&socket).await.ok()?;
    let access = Access::Guest { socket };
    let mut connection = access.open(Request::Status { stay: false }).await?;
    match connection.next().await {
        Ok(Some(Reply::Status(status))) => Some(status),
        _ => None,
    }
}

fn port(dir: Option<&StateDir>) -> Finding {
    const CHECK: &str = "port";
    let Some(port) = dir.and_then(StateDir::port) else {
        return good(CHECK, "any free port will do");
    };
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => good(CHECK, format!("UDP port {port} of last time is free")),
        Err(error) => note(
            CHECK,
            format!("UDP port {port} of last time cannot be bound: {error}"),
            "the node takes another; old tickets do not lead to it, print a new one: `net ticket`",
        ),
    }
}

fn loopback() -> Finding {
    const CHECK: &str = "UDP";
    let sent = (|| -> io::Result<()> {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        to.set_read_timeout(Some(LOOPBACK_TIMEOUT))?;
        from.send_to(b"net doctor", to.local_addr()?)?;
        let mut buffer = [0; 16];
        let (len, _) = to.recv_from(&mut buffer)?;
        if &buffer[..len] == b"net doctor" { Ok(()) } else { Err(io::Error::other("something else arrived")) }
    })();
    match sent {
        Ok(()) => good(CHECK, "datagrams on this machine arrive"),
        Err(error) => bad(
            CHECK,
            format!("a datagram to this machine itself does not arrive: {error}"),
            "allow UDP on the loopback interface in the firewall",
        ),
    }
}

fn mdns() -> Finding {
    const CHECK: &str = "mDNS";
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
    let joined = (|| -> io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
        socket.send_to(&[0; 12], SocketAddr::new(IpAddr::V4(GROUP), 5353)).map(|_| ())
    })();
    match joined {
        Ok(()) => good(CHECK, "multicast on the local network works"),
        Err(error) => note(
            CHECK,
            format!("no multicast on the local network: {error}"),
            "bring nodes together by ticket: `net ticket`, `net join`",
        ),
    }
}

fn clock() -> Finding {
    const CHECK: &str = "clock";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let shown = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(now.min(CLOCK_MAX_SECS * 2)));
    if (CLOCK_MIN_SECS..CLOCK_MAX_SECS).contains(&now) {
        good(CHECK, format!("{shown}"))
    } else {
        bad(
            CHECK,
            format!("this machine takes it to be {shown}"),
            "set the clock: others take no events from far ahead",
        )
    }
}

fn links(global: &Global, dir: Option<&StateDir>, running: Option<&Status>) -> Finding {
    const CHECK: &str = "links";
    let net = global.net();
    let bring = format!("`{net} ticket` here, `net join TICKET` on the other node");
    match running {
        Some(status) if status.links > 0 => {
            good(CHECK, format!("{} up, {} peers known", status.links, status.known_peers))
        }
        Some(status) if status.known_peers > 0 => bad(
            CHECK,
            format!("none of {} known peers is reached", status.known_peers),
            format!("see that they run and that UDP passes: `{net} peers`; or join anew: {bring}"),
        ),
        Some(_) => note(CHECK, "this node knows no other", bring),
        None => {
            let known = dir.and_then(|dir| dir.peers().ok()).map_or(0, |peers| peers.len());
            note(
                CHECK,
                format!("not running; {known} peers remembered"),
                format!("`{net} up`, then `{net} doctor` again"),
            )
        }
    }
}

/// Counters of this many causes are told; the metrics have them all.
const CAUSES_SHOWN: usize = 4;

/// What was lost, refused or dropped since the node was started: the most frequent first.
fn drops(status: &Status) -> Finding {
    const CHECK: &str = "drops";
    let is_drop = |name: &str| {
        ["_dropped_", "_skipped_", "_refused", "_unverified", "_malformed", "_delayed"]
            .iter()
            .any(|part| name.contains(part))
            || matches!(name, "gaps" | "equivocations" | "protocol_violations")
    };
    let mut drops: Vec<_> = status.counters.iter().filter(|(name, _)| is_drop(name)).collect();
    drops.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    if drops.is_empty() {
        return good(CHECK, "nothing was lost, refused or dropped");
    }
    let shown: Vec<String> =
        drops.iter().take(CAUSES_SHOWN).map(|(name, n)| format!("{n} {}", name.replace('_', " "))).collect();
    let more = drops.len().saturating_sub(CAUSES_SHOWN);
    let more = if more > 0 { format!(", and {more} causes more") } else { String::new() };
    let next = "`net up --metrics 9464` shows whether they grow; single ones are usual when nodes come and go";
    note(CHECK, format!("{}{more}", shown.join(", ")), next)
}

fn lag(status: &Status) -> Finding {
    const CHECK: &str = "lag";
    let Some((pattern, events)) = status.behind.iter().max_by_key(|(_, events)| *events) else {
        return good(CHECK, "every subscription here has what is known to exist");
    };
    let says = format!("{} subscriptions are behind, {pattern} by {events} events", status.behind.len());
    note(CHECK, says, "look again: a number that grows means that events are read more slowly than they are published")
}
