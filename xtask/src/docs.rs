//! `cargo xtask docs`: documentation that builds, links that lead somewhere, a README and an example for each crate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::run::{aloud, cargo, output};
use crate::workspace::{Package, Workspace};

/// Builds the documentation and checks the papers.
pub(crate) fn run(ws: &Workspace) -> Result<()> {
    let flags = std::env::var("RUSTDOCFLAGS").unwrap_or_default();
    // Libraries only: the program `net` would be written to the same pages as the library `net`.
    aloud(
        cargo(&ws.root)
            .args(["doc", "--no-deps", "--workspace", "--lib", "--all-features", "--locked"])
            .env("RUSTDOCFLAGS", format!("{flags} -D warnings")),
    )?;
    let pages = pages(ws)?;
    let mut faults = Vec::new();
    for page in &pages {
        faults.extend(dead_links(&ws.root, page)?);
    }
    for package in &ws.packages {
        faults.extend(papers(package)?);
    }
    if !faults.is_empty() {
        bail!("docs:\n  {}", faults.join("\n  "));
    }
    println!("docs: {} pages and {} crates in order", pages.len(), ws.packages.len());
    Ok(())
}

/// Every Markdown page that git knows or would add.
fn pages(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let listed = output(std::process::Command::new("git").current_dir(&ws.root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.md",
    ]))?;
    Ok(listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| ws.root.join(path).exists())
        .collect())
}

/// Relative links of a page whose file does not exist.
fn dead_links(root: &Path, page: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join(page)).with_context(|| format!("read {}", page.display()))?;
    let folder = page.parent().unwrap_or_else(|| Path::new(""));
    Ok(links(&text)
        .into_iter()
        .filter(|(_, to)| !root.join(folder).join(to).exists())
        .map(|(line, to)| format!("{}:{line}: the link to {to} leads nowhere", page.display()))
        .collect())
}

/// Relative links of Markdown outside of code, with their line, without what follows `#`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Every second part between backticks is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let inline = prose.match_indices("](").map(|(start, _)| {
            let rest = &prose[start + 2..];
            &rest[..rest.find([')', ' ']).unwrap_or(rest.len())]
        });
        let reference =
            prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, to)| to.trim());
        for to in inline.chain(reference) {
            let to = to.split('#').next().unwrap_or_default();
            if !to.is_empty() && !to.contains("://") && !to.starts_with("mailto:") {
                found.push((at + 1, to.to_owned()));
            }
        }
    }
    found
}

/// What a crate lacks for a reader: a README, and one example that uses it, once there is code.
fn papers(package: &Package) -> Result<Vec<String>> {
    let (name, dir) = (&package.name, package.dir());
    let mut faults = Vec::new();
    if !dir.join("README.md").exists() {
        faults.push(format!("{name} has no README.md"));
    }
    let library = package.targets.iter().any(|target| target.kind.contains("lib"));
    let examples = package.targets.iter().any(|target| target.kind.contains("example"));
    if library && !examples && has_code(&dir.join("src/lib.rs"))? {
        faults.push(format!("{name} has no example: put one that uses it alone into {name}/examples/"));
    }
    Ok(faults)
}

/// Is there more in the file than comments and attributes?
fn has_code(path: &Path) -> Result<bool> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found_and_code_and_addresses_are_not() {
        let text = "see [a](a.md#part) and [b](../b/c.rs), [d](https://example.org/x), [e](#here)\n\
                    `[no](code.md)` but [yes](yes.md)\n```\n[no](fenced.md)\n```\n[ref]: ref.md\n[f](f.md \"title\")";
        let expect = [(1, "a.md"), (1, "../b/c.rs"), (2, "yes.md"), (6, "ref.md"), (7, "f.md")];
        assert_eq!(links(text), expect.map(|(line, to)| (line, to.to_owned())));
    }

    #[test]
    fn a_dead_link_is_named_with_its_line_and_a_live_one_is_not() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("docs")).expect("created");
        fs::write(root.path().join("README.md"), "").expect("written");
        fs::write(root.path().join("docs/page.md"), "\n[up](../README.md) [gone](gone.md)").expect("written");
        let dead = dead_links(root.path(), Path::new("docs/page.md")).expect("readable");
        assert_eq!(dead, ["docs/page.md:2: the link to gone.md leads nowhere"]);
    }

    #[test]
    fn an_example_is_asked_for_as_soon_as_there_is_code() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("src")).expect("created");
        let package = Package {
            name: "some".into(),
            manifest_path: root.path().join("Cargo.toml"),
            dependencies: Vec::new(),
            targets: vec![crate::workspace::Target { name: "some".into(), kind: ["lib".to_owned()].into() }],
        };
        let lib = root.path().join("src/lib.rs");
        fs::write(&lib, "//! Nothing yet.\n\n#![forbid(unsafe_code)]\n").expect("written");
        assert_eq!(papers(&package).expect("readable"), ["some has no README.md"]);
        fs::write(&lib, "//! Some.\nmod header;\n").expect("written");
        assert_eq!(papers(&package).expect("readable").len(), 2);
    }
}
