//! What tests report as left out, by the convention of `testing/left_out.rs`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, Result};

/// The variable that names the file.
pub(crate) const VARIABLE: &str = "NET_LEFT_OUT";

/// A fresh file for the tests of one run to write to; gone when dropped.
#[derive(Debug)]
pub(crate) struct LeftOut {
    path: PathBuf,
}

impl LeftOut {
    /// An empty list in `dir`, which is created.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join(format!("left-out-{}", std::process::id()));
        fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path })
    }

    /// What the variable is set to.
    pub(crate) fn value(&self) -> &OsStr {
        self.path.as_os_str()
    }

    /// What was reported, each line once.
    pub(crate) fn read(&self) -> io::Result<BTreeSet<String>> {
        Ok(fs::read_to_string(&self.path)?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

impl Drop for LeftOut {
    fn drop(&mut self) {
        // It lies in the target directory; a leftover hurts nobody.
        _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "../testing/left_out.rs"]
mod helper;

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a test of its own: what the test below runs in a process that has the variable.
    #[test]
    fn reports_when_told_to() {
        if std::env::var_os("XTASK_REPORT").is_some() {
            helper::left_out("nat_lab", "needs root", "sudo cargo xtask e2e nat");
            helper::left_out("nat_lab", "needs root", "sudo cargo xtask e2e nat");
            helper::left_out("two\nlines", "why", "how");
        }
    }

    #[test]
    fn what_a_test_process_reports_is_read_once_and_the_file_goes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let list = LeftOut::new(dir.path()).expect("a file in it");
        assert!(list.read().expect("readable").is_empty());
        let status = std::process::Command::new(std::env::current_exe().expect("this test binary"))
            .args(["--exact", "left_out::tests::reports_when_told_to"])
            .env("XTASK_REPORT", "1")
            .env(VARIABLE, list.value())
            .stdout(std::process::Stdio::null())
            .status()
            .expect("it starts");
        assert!(status.success());
        let read: Vec<_> = list.read().expect("readable").into_iter().collect();
        assert_eq!(
            read,
            ["nat_lab: needs root (to run it: sudo cargo xtask e2e nat)", "two lines: why (to run it: how)"]
        );
        drop(list);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
