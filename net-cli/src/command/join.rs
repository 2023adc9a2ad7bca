//! `net join`: makes this directory's node a member of a mesh.

use std::process::ExitCode;

use clap::Args;
use net::state::{StateDir, StateError};
use net::transport::{Mesh, Ticket};

use crate::access::Access;
use crate::cli::Global;
use crate::command::{ticket, unexpected};
use crate::control::protocol::{Reply, Request};
use crate::failure::Failure;

/// Join the mesh of a ticket
///
/// The mesh and its peers are stored in the directory; every later command of it is a member. A node that runs there
/// dials the peers at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net join net1…\n  net --dir /tmp/b join @ticket.txt\n  ssh other net ticket | net join -"
)]
pub(crate) struct Join {
    /// The ticket; `-` reads it from the standard input, `@FILE` from a file
    #[arg(value_name = "TICKET")]
    ticket: String,
    /// Leave the mesh that the directory belongs to now
    #[arg(long)]
    replace: bool,
}

enum Joined {
    New,
    Member,
    Replaced,
    Running,
}

impl Join {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let dir = global.dir()?;
        let ticket = ticket::read(&self.ticket)?;
        let joined = match StateDir::open(&dir).and_then(|dir| dir.lock()) {
            Ok(lock) => {
                let present = lock.dir().mesh()?;
                let other = present.as_ref().is_some_and(|mesh| mesh.id() != ticket.mesh);
                if other && !self.replace {
                    return Err(other_mesh(global));
                }
                let mesh = Mesh::new(ticket.mesh, ticket.generation, ticket.psk.clone());
                if present.as_ref().is_none_or(|mesh| other || mesh.current().0 < ticket.generation) {
                    lock.set_mesh(&mesh)?;
                }
                if other {
                    lock.set_peers(&ticket.peers)?
                } else {
                    lock.add_peers(&ticket.peers)?
                }
                lock.keys_or_new()?;
                match present {
                    _ if other => Joined::Replaced,
                    Some(_) => Joined::Member,
                    None => Joined::New,
                }
            }
            Err(StateError::Locked { .. }) => join_running(global, &ticket).await?,
            Err(error) => return Err(error.into()),
        };
        let what = match joined {
            Joined::New => "joined the mesh",
            Joined::Member => "a member already; its peers are remembered",
            Joined::Replaced => "left the old mesh and joined the new one",
            Joined::Running => "the node that runs here dials the peers of the ticket",
        };
        if output.json() {
            output.record(&serde_json::json!({ "joined": true, "what": what, "peers": ticket.peers.len() }))?;
        } else {
            let net = global.net();
            output.line(what)?;
            output
                .line(format!("  next: `{net} sub '**'` shows what is published, `{net} up` keeps the node running"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn join_running(global: &Global, ticket: &Ticket) -> Result<Joined, Failure> {
    let options = global.node()?;
    let mut access = Access::attach(&options).await?;
    let reply = access.ask(&options, Request::Join { ticket: ticket.to_string() }).await;
    access.close().await;
    match reply? {
        Reply::Joined { .. } => Ok(Joined::Running),
        _ => Err(unexpected()),
    }
}

fn other_mesh(global: &Global) -> Failure {
    Failure::new("this directory belongs to another mesh than the ticket").next(format!(
        "`{} join --replace TICKET` leaves the present mesh; `net --dir OTHER join TICKET` makes another node",
        global.net()
    ))
}
