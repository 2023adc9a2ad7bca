//! `cargo xtask check`: what must hold before anything is tested.

use anyhow::Result;

use crate::run::{aloud, cargo};
use crate::workspace::Workspace;
use crate::{docs, layers};

/// Crates whose formats and pure state are usable without their default features.
pub(crate) const LEAN: &[&str] = &["net-transport", "net-identity", "net-channel"];

/// Format, clippy, layers, docs.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    format(ws)?;
    clippy(ws)?;
    layers::run(ws)?;
    docs::run(ws)
}

fn format(ws: &Workspace) -> Result<()> {
    aloud(cargo(&ws.root).args(["fmt", "--all", "--check"]))?;
    for dir in ["fuzz", "bench"] {
        aloud(cargo(&ws.root.join(dir)).args(["fmt", "--all", "--check"]))?;
    }
    Ok(())
}

fn clippy(ws: &Workspace) -> Result<()> {
    aloud(cargo(&ws.root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    for name in LEAN {
        // Only the library: its tests' dependencies could turn the features on again.
        aloud(cargo(&ws.root).args([
            "clippy",
            "--package",
            name,
            "--lib",
            "--no-default-features",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))?;
    }
    Ok(())
}
