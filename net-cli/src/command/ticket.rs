//! `net ticket`: what another node needs to join.

use std::io::Read;
use std::process::ExitCode;

use clap::Args;
use net::transport::Ticket as MeshTicket;

use crate::access::Access;
use crate::cli::Global;
use crate::command::unexpected;
use crate::control::protocol::{Reply, Request};
use crate::failure::Failure;

/// Print the ticket with which another node joins the mesh here
///
/// It holds the secret of the mesh: give it only to those who may be members.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net ticket\n  net ticket | ssh other net join -")]
pub(crate) struct Ticket {}

/// The most bytes that are read as a ticket.
const TICKET_LEN_MAX: u64 = 64 << 10;

impl Ticket {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let (output, options) = (global.output(), global.node()?);
        let mut access = Access::attach(&options).await?;
        let reply = access.ask(&options, Request::Ticket).await;
        let host = access.is_host();
        access.close().await;
        let Reply::Ticket(ticket) = reply? else { return Err(unexpected()) };
        if output.json() {
            output.record(&serde_json::json!({ "ticket": ticket }))?;
        } else {
            output.line(ticket)?;
            if host {
                output.note(format!("nothing runs here now: `{} up` lets others find this node", global.net()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a ticket as it is given on the command line: itself, `@FILE`, or `-` for the standard input.
pub(crate) fn read(text: &str) -> Result<MeshTicket, Failure> {
    let mut from_elsewhere = String::new();
    let text = if text == "-" {
        std::io::stdin().take(TICKET_LEN_MAX).read_to_string(&mut from_elsewhere)?;
        &from_elsewhere
    } else if let Some(path) = text.strip_prefix('@') {
        let opened = std::fs::File::open(path);
        let read = opened.and_then(|file| file.take(TICKET_LEN_MAX).read_to_string(&mut from_elsewhere));
        read.map_err(|error| {
            Failure::new(format!("cannot read {path}: {error}")).next("`net ticket > FILE` writes one")
        })?;
        &from_elsewhere
    } else {
        text
    };
    text.trim().parse().map_err(|error| {
        Failure::usage(format!("{error}")).next("`net ticket` on a member of the mesh prints one: copy all of it")
    })
}
