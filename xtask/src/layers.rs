//! `cargo xtask layers`: who may depend on whom, by `layers.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, output};
use crate::workspace::{Package, Workspace};

/// What `layers.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layers {
    crates: BTreeMap<String, Layer>,
    lean: Lean,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    rank: u8,
    may_use: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lean {
    forbidden: BTreeSet<String>,
    crates: BTreeMap<String, LeanCrate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeanCrate {
    packages_max: Option<usize>,
}

/// Checks the edges between the members, and what the lean crates bring with them.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let path = ws.root.join("layers.toml");
    let layers: Layers =
        toml::from_str(&fs::read_to_string(&path).context("read layers.toml")?).context("understand layers.toml")?;
    let mut faults = layers.faults();
    faults.extend(layers.edges(&ws.packages));
    let mut sizes = Vec::new();
    for name in layers.lean.crates.keys().filter(|name| ws.package(name).is_some()) {
        let tree = output(cargo(&ws.root).args([
            "tree",
            "--package",
            name,
            "--no-default-features",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--no-dedupe",
            "--format",
            "{p}",
            "--locked",
        ]))?;
        let packages = packages(&tree);
        sizes.push(format!("{name} {}", packages.len()));
        faults.extend(layers.lean.weight(name, &packages));
    }
    if !faults.is_empty() {
        bail!("layers:\n  {}", faults.join("\n  "));
    }
    println!("layers: {} crates in order; packages without default features: {}", ws.packages.len(), sizes.join(", "));
    Ok(())
}

impl Layers {
    /// What is wrong with the table itself.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, layer) in &self.crates {
            for used in &layer.may_use {
                match self.crates.get(used) {
                    None => faults.push(format!("layers.toml: {name} may use {used}, which has no entry")),
                    Some(other) if other.rank >= layer.rank => faults.push(format!(
                        "layers.toml: {name} (rank {}) may use {used} (rank {}), which is not below it",
                        layer.rank, other.rank
                    )),
                    Some(_) => {}
                }
            }
        }
        faults.extend(
            self.lean
                .crates
                .keys()
                .filter(|name| !self.crates.contains_key(*name))
                .map(|name| format!("layers.toml: lean crate {name} has no entry among the crates")),
        );
        faults
    }

    /// Which edges between members are not allowed.
    fn edges(&self, packages: &[Package]) -> Vec<String> {
        let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        let mut faults = Vec::new();
        for package in packages {
            let Some(layer) = self.crates.get(&package.name) else {
                faults.push(format!(
                    "{} has no entry in layers.toml: give it a rank and say what it may use",
                    package.name
                ));
                continue;
            };
            for dependency in &package.dependencies {
                let (from, to) = (&package.name, &dependency.name);
                let inside = members.contains(to.as_str());
                if inside && dependency.kind.as_deref() != Some("dev") && !layer.may_use.contains(to) {
                    faults.push(format!("{from} must not depend on {to}: it may use {:?}", layer.may_use));
                }
            }
        }
        faults
    }
}

impl Lean {
    /// What a crate brings that it must not.
    fn weight(&self, name: &str, packages: &BTreeSet<(String, String)>) -> Vec<String> {
        let mut faults: Vec<_> = packages
            .iter()
            .filter(|(package, _)| self.forbidden.contains(package))
            .map(|(package, _)| format!("{name} without default features must not bring {package}"))
            .collect();
        if let Some(max) = self.crates.get(name).and_then(|lean| lean.packages_max)
            && packages.len() > max
        {
            faults.push(format!("{name} without default features brings {} packages, at most {max}", packages.len()));
        }
        faults
    }
}

/// Names and versions in what `cargo tree --prefix none --format {p}` prints.
fn packages(tree: &str) -> BTreeSet<(String, String)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::workspace::Dependency;

    const TABLE: &str = r#"
        [crates.low]
        rank = 0
        may_use = []
        [crates.middle]
        rank = 1
        may_use = ["low"]
        [crates.high]
        rank = 2
        may_use = ["middle"]
        [lean]
        forbidden = ["tokio"]
        [lean.crates.low]
        packages_max = 2
    "#;

    fn layers(text: &str) -> Layers {
        toml::from_str(text).expect("the table of this test")
    }

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.into(),
            manifest_path: PathBuf::new(),
            dependencies: uses
                .iter()
                .map(|(name, kind)| Dependency { name: (*name).into(), kind: kind.map(str::to_owned) })
                .collect(),
            targets: Vec::new(),
        }
    }

    /// Checks `packages` against the table; `expect` is a part of each fault, in order.
    fn check(packages: &[Package], expect: &[&str]) {
        let faults = layers(TABLE).edges(packages);
        assert_eq!(faults.len(), expect.len(), "{faults:?}");
        for (fault, part) in faults.iter().zip(expect) {
            assert!(fault.contains(part), "{fault}");
        }
    }

    #[test]
    fn edges_of_the_table_pass() {
        check(
            &[
                package("low", &[("serde", None)]),
                package("middle", &[("low", None)]),
                package("high", &[("middle", None)]),
            ],
            &[],
        );
    }

    #[test]
    fn an_edge_up_is_refused() {
        check(&[package("low", &[("middle", None)]), package("middle", &[])], &["low must not depend on middle"]);
    }

    #[test]
    fn an_edge_past_a_layer_is_refused() {
        check(&[package("low", &[]), package("high", &[("low", None)])], &["high must not depend on low"]);
    }

    #[test]
    fn build_dependencies_count_and_dev_dependencies_do_not() {
        check(
            &[
                package("low", &[("middle", Some("dev"))]),
                package("middle", &[("high", Some("build"))]),
                package("high", &[]),
            ],
            &["middle must not depend on high"],
        );
    }

    #[test]
    fn a_crate_without_an_entry_is_refused() {
        check(&[package("new", &[])], &["new has no entry"]);
    }

    #[test]
    fn a_table_that_allows_an_edge_up_is_refused() {
        let table = TABLE.replacen("may_use = []", "may_use = [\"high\"]", 1);
        let faults = layers(&table).faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("not below"), "{faults:?}");
        assert!(layers(TABLE).faults().is_empty());
    }

    #[test]
    fn a_forbidden_package_is_refused_anywhere_in_the_tree() {
        let lean = layers(TABLE).lean;
        let tree = "low v0.1.0 (/somewhere/low)\ntokio v1.45.0\n";
        assert_eq!(lean.weight("low", &packages(tree)), ["low without default features must not bring tokio"]);
        assert!(lean.weight("low", &packages("low v0.1.0\ntokio-not v1.0.0\n")).is_empty());
    }

    #[test]
    fn packages_are_counted_once_for_each_version() {
        let lean = layers(TABLE).lean;
        let twice = "low v0.1.0\nsyn v2.0.0 (proc-macro)\nsyn v2.0.0 (proc-macro) (*)\n";
        assert!(lean.weight("low", &packages(twice)).is_empty());
        let over = "low v0.1.0\nsyn v2.0.0\nsyn v1.0.0\n";
        assert_eq!(lean.weight("low", &packages(over)), ["low without default features brings 3 packages, at most 2"]);
    }

    #[test]
    fn the_table_of_this_workspace_is_sound() {
        let text = include_str!("../../layers.toml");
        assert_eq!(layers(text).faults(), Vec::<String>::new());
    }
}
