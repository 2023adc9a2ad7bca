//! `net up`: the node of a directory, in the foreground.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args;
use net::logs;
use net::state::StateDir;

use crate::access::Access;
use crate::cli::Global;
use crate::command::subscribe::parse_pattern;
use crate::command::{ticket, unexpected};
use crate::control::client::Connection;
use crate::control::protocol::{KeptRow, Reply, Request, Status};
use crate::failure::Failure;
use crate::host::interrupted;
use crate::http::MetricsServer;
use crate::output::{Look, Output, To};

/// Run this directory's node in the foreground
///
/// It stays until Ctrl-C or SIGTERM, and drains then. When another command is the node already, it stands by and takes
/// over when that ends; what it is to keep, that one keeps meanwhile.
///
/// A channel that is kept has a log in the directory (`net log`): whatever anybody publishes on it is on this disk, and is
/// there after a restart.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net up\n  net up --listen 0.0.0.0:4711\n  net --dir /tmp/b up --join net1…\n  net up --keep 'quakes/*' --keep orders/eu\n  net up --metrics 9464"
)]
pub(crate) struct Up {
    /// Join the mesh of this ticket first (`-` reads it from the standard input, `@FILE` from a file)
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// Keep channels that match in logs in the directory, as long as this runs; may be given several times. What this node
    /// publishes there is given to later subscribers; what others publish is read with `net log read`
    #[arg(long, value_name = "PATTERN")]
    keep: Vec<String>,
    /// Serve figures in the format of OpenMetrics at http://ADDRESS/metrics; a port alone is one of this machine
    #[arg(long, value_name = "ADDRESS", value_parser = metrics_address)]
    metrics: Option<SocketAddr>,
}

fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse()).map_err(|_| "neither a port nor an address, try `--metrics 9464`".to_owned())
}

impl Up {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let mut options = global.node()?;
        for pattern in &self.keep {
            check_pattern(pattern)?;
        }
        let ticket = self.join.as_deref().map(ticket::read).transpose()?;
        options.ticket = ticket.clone();
        let mut metrics = match self.metrics {
            Some(address) => Some(listen(&output, address).await?),
            None => None,
        };
        let mut stop = std::pin::pin!(interrupted());
        loop {
            let access = tokio::select! {
                biased;
                () = &mut stop => return Ok(ExitCode::SUCCESS),
                access = Access::attach(&options) => access?,
            };
            if let (Some(ticket), Access::Guest { .. }) = (&ticket, &access)
                && let Some(mut connection) = access.open(Request::Join { ticket: ticket.to_string() }).await
            {
                connection.next().await?;
            }
            // Before anybody is told that the node is up: what is published from then on is kept.
            let Some(mut keeping) = Keeping::begin(&access, &self.keep).await? else { continue };
            let Some(mut connection) = access.open(Request::Status { stay: true }).await else { continue };
            let status = match connection.next().await? {
                Some(Reply::Status(status)) => status,
                Some(_) => return Err(unexpected()),
                None => continue,
            };
            say(global, &output, &status, access.is_host(), &self.keep)?;
            tokio::select! {
                biased;
                () = &mut stop => {
                    if access.is_host() {
                        output.note("stopping: what was published is being sent");
                    }
                    access.close().await;
                    return Ok(ExitCode::SUCCESS);
                }
                () = serve(&mut metrics, &access) => {}
                result = keeping.watch(&output) => result?,
                _ = connection.next() => {}
            }
            output.note(format!("process {} has ended: taking over", status.pid));
        }
    }
}

/// Checks a pattern before anything is started.
fn check_pattern(pattern: &str) -> Result<(), Failure> {
    // `$node` is replaced by the node, so it is not for us to judge.
    if pattern.split('/').any(|segment| segment == "$node") { Ok(()) } else { parse_pattern(pattern).map(drop) }
}

/// The channels that the node keeps for this command, whichever process the node is.
struct Keeping(Option<Connection>);

impl Keeping {
    /// Has the channels kept; nothing if the node has gone.
    async fn begin(access: &Access, patterns: &[String]) -> Result<Option<Self>, Failure> {
        if patterns.is_empty() {
            return Ok(Some(Self(None)));
        }
        let request = Request::Keep { patterns: patterns.to_vec() };
        let Some(mut connection) = access.open(request).await else { return Ok(None) };
        match connection.next().await? {
            Some(Reply::Keeping) => Ok(Some(Self(Some(connection)))),
            Some(_) => Err(unexpected()),
            None => Ok(None),
        }
    }

    /// Says which logs fail until the node ends.
    async fn watch(&mut self, output: &Output) -> Result<(), Failure> {
        let Some(connection) = &mut self.0 else { return std::future::pending().await };
        while let Some(reply) = connection.next().await? {
            let Reply::Kept(KeptRow { channel, failure, .. }) = reply else { return Err(unexpected()) };
            match failure {
                Some(failure) => output.warn(format_args!("{channel} is not kept at the moment: {failure}")),
                None => output.note(format_args!("{channel} is kept again")),
            }
        }
        Ok(())
    }
}

async fn listen(output: &Output, address: SocketAddr) -> Result<MetricsServer, Failure> {
    let server = MetricsServer::bind(address).await.map_err(|error| {
        Failure::new(format!("cannot serve metrics at {address}: {error}"))
            .next("another port: `net up --metrics 9465`")
    })?;
    let address = server.address();
    output.note(format_args!("metrics at http://{address}/metrics"));
    if !address.ip().is_loopback() {
        output.warn("whoever reaches that address can read the names of channels and nodes");
    }
    Ok(server)
}

/// Gives the page to whoever wants it, as long as the node is there.
async fn serve(metrics: &mut Option<MetricsServer>, access: &Access) {
    let Some(server) = metrics else { return std::future::pending().await };
    loop {
        let scrape = server.next().await;
        let Some(mut connection) = access.open(Request::Metrics).await else { return std::future::pending().await };
        if let Ok(Some(Reply::Metrics(text))) = connection.next().await {
            // Whoever asked may have gone.
            let _ = scrape.send(text);
        }
    }
}

fn say(global: &Global, output: &Output, status: &Status, host: bool, keeps: &[String]) -> Result<(), Failure> {
    let logs = logs::root(&StateDir::open(global.dir()?)?);
    if output.json() {
        let record = serde_json::json!({ "running": host, "status": status, "keeps": keeps, "logs": logs });
        return Ok(output.record(&record)?);
    }
    let keeps = || keeps.iter().try_for_each(|keep| output.line(format!("  keeps {keep} in {}", logs.display())));
    let net = global.net();
    let node = output.paint(To::Out, Look::Name, &status.node);
    if !host {
        output.line(format!("node {node} is run by process {}; standing by to take over", status.pid))?;
        return Ok(keeps()?);
    }
    output.line(format!("node {node} is up"))?;
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    output.line(format!("  listens on   {}", addresses.join(", ")))?;
    output.line(format!("  others join  `net join TICKET`, where `{net} ticket` prints the ticket here"))?;
    output.line(format!("  try          `{net} sub '**'` and `{net} pub greetings hello` in other terminals"))?;
    keeps()?;
    status.notes.iter().for_each(|note| output.warn(note));
    Ok(())
}
