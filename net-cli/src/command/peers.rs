//! `net peers`: the links of this node.

use std::process::ExitCode;

use clap::Args;

use crate::access::Access;
use crate::cli::Global;
use crate::command::{look_around, unexpected};
use crate::control::protocol::{PeerRow, Reply, Request};
use crate::failure::Failure;
use crate::output::{Look, To};

/// Show the nodes that this node is linked to, and those it remembers
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net peers\n  net peers --json")]
pub(crate) struct Peers {}

impl Peers {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let (output, options) = (global.output(), global.node()?);
        let mut access = Access::attach(&options).await?;
        look_around(&access).await;
        let reply = access.ask(&options, Request::Peers).await;
        access.close().await;
        let Reply::Peers(rows) = reply? else { return Err(unexpected()) };
        if output.json() {
            for row in &rows {
                output.record(row)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        for row in &rows {
            let node = output.paint(To::Out, Look::Name, &row.node);
            let address = row.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let state = match row.rtt_us {
                Some(us) if row.linked => {
                    let linked = format!("linked, RTT {}.{:03} ms", us / 1000, us % 1000);
                    output.paint(To::Out, Look::Good, linked) + &burden(row)
                }
                _ => {
                    let why = row.says.as_ref().map_or(String::new(), |says| format!(": {says}"));
                    output.paint(To::Out, Look::Bad, format!("not reached{why}"))
                }
            };
            output.line(format!("{node}  {address:<22}  {state}"))?;
        }
        if rows.is_empty() {
            let net = global.net();
            output.note(format!("no peers: `{net} ticket` here and `net join TICKET` there brings two nodes together"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What waits to be sent there and what was dropped, if anything.
fn burden(row: &PeerRow) -> String {
    let mut burden = String::new();
    if row.queued_bytes > 0 {
        burden.push_str(&format!(", {} KiB waiting", row.queued_bytes.div_ceil(1024)));
    }
    if row.frames_dropped > 0 {
        burden.push_str(&format!(", {} of its frames dropped", row.frames_dropped));
    }
    if row.frames_skipped > 0 {
        burden.push_str(&format!(", too slow for {} frames", row.frames_skipped));
    }
    burden
}
