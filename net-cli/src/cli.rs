//! The command line.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use net::state::StateDir;

use crate::access::NodeOptions;
use crate::command;
use crate::demo;
use crate::failure::Failure;
use crate::output::Output;

/// Publish and subscribe in a peer-to-peer mesh, without a broker.
///
/// One directory is one node: the first command that needs it runs it, the others of that directory speak to it and
/// take over when it ends. Start with `net sub '**'` in one terminal and `net pub greetings hello` in another.
#[derive(Debug, Parser)]
#[command(name = "net", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  net demo                          the tour: real data, several processes, everything checked
  net up                            run this machine's node; `net ticket` lets others in
  net sub 'quakes/*'                print events as they come
  net pub quakes/ak '{\"mag\":4.2}'   publish one
  net --dir /tmp/b join net1…       another node, on this machine or another";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The node's directory [default: `net/default` where the platform keeps state]
    #[arg(long, env = "NET_DIR", global = true, value_name = "DIRECTORY", help_heading = "Node")]
    dir: Option<PathBuf>,
    /// Listen here if this command runs the node [default: any address, the port of last time]
    #[arg(
        long,
        env = "NET_LISTEN",
        global = true,
        value_name = "ADDRESS",
        value_delimiter = ',',
        help_heading = "Node"
    )]
    listen: Vec<SocketAddr>,
    /// Do not look for nodes on the local network if this command runs the node
    #[arg(long, env = "NET_NO_MDNS", global = true, value_parser = FalseyValueParser::new(), help_heading = "Node")]
    no_mdns: bool,
    /// Write JSON lines for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(command::up::Up),
    Pub(command::publish::Publish),
    Sub(command::subscribe::Subscribe),
    Ticket(command::ticket::Ticket),
    Join(command::join::Join),
    Id(command::id::Id),
    Peers(command::peers::Peers),
    Channels(command::channels::Channels),
    Doctor(command::doctor::Doctor),
    Log(command::log::Log),
    Bench(command::bench::Bench),
    Demo(demo::Demo),
    Completions(command::completions::Completions),
    #[command(hide = true)]
    DemoRole(demo::role::Role),
    #[command(hide = true)]
    BenchSubscriber(command::bench::subscriber::Subscriber),
}

impl Global {
    /// The node's directory.
    pub(crate) fn dir(&self) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(dir) if dir.as_os_str().is_empty() => {
                Err(Failure::usage("the directory is empty").next("`net --dir DIRECTORY …`, or unset NET_DIR"))
            }
            // Absolute, so that what is printed can be used from anywhere.
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => Ok(StateDir::path_of("default")?),
        }
    }

    /// How the node runs if this command runs it.
    pub(crate) fn node(&self) -> Result<NodeOptions, Failure> {
        Ok(NodeOptions { dir: self.dir()?, listen: self.listen.clone(), mdns: !self.no_mdns, ticket: None })
    }

    pub(crate) fn mdns(&self) -> bool {
        !self.no_mdns
    }

    pub(crate) fn output(&self) -> Output {
        Output::new(self.json)
    }

    /// `net`, with the directory if it is not the default one: how a next command has to begin.
    pub(crate) fn net(&self) -> String {
        match &self.dir {
            Some(dir) if std::env::var_os("NET_DIR").is_none_or(|env| env != dir.as_os_str()) => {
                format!("net --dir {}", dir.display())
            }
            _ => "net".to_owned(),
        }
    }
}

impl Cli {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let global = &self.global;
        let Some(command) = self.command else {
            // Nobody reads what may have gone.
            let _ = write!(std::io::stderr(), "{}", Self::command().render_help());
            return Ok(ExitCode::from(2));
        };
        match command {
            Command::Up(command) => command.run(global).await,
            Command::Pub(command) => command.run(global).await,
            Command::Sub(command) => command.run(global).await,
            Command::Ticket(command) => command.run(global).await,
            Command::Join(command) => command.run(global).await,
            Command::Id(command) => command.run(global).await,
            Command::Peers(command) => command.run(global).await,
            Command::Channels(command) => command.run(global).await,
            Command::Doctor(command) => command.run(global).await,
            Command::Log(command) => command.run(global).await,
            Command::Bench(command) => command.run(global).await,
            Command::Demo(command) => command.run(global).await,
            Command::Completions(command) => command.run(),
            Command::DemoRole(command) => command.run().await,
            Command::BenchSubscriber(command) => command.run().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        has_examples(&Cli::command());
    }

    fn has_examples(command: &clap::Command) {
        for command in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("net ") && help.contains(command.get_name()), "{}", command.get_name());
            has_examples(command);
        }
    }
}
