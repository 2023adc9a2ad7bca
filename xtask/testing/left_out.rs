//! How a test says that it needs what this machine lacks. Include it in a test crate with
//! `#[path = "../../../xtask/testing/left_out.rs"] mod left_out;`: it is one function without dependencies.

use std::io::Write as _;

/// Reports that the test `name` did not run, `why`, and `how` to run it: a command, or what to install.
///
/// Appends one line to the file that `NET_LEFT_OUT` names, which `cargo xtask test` lists at its end. Without that
/// variable the line goes to stderr. The caller returns afterwards.
///
/// # Panics
/// If the file cannot be written: a test must never be left out silently.
pub(crate) fn left_out(name: &str, why: &str, how: &str) {
    let line = format!("{name}: {why} (to run it: {how})").replace('\n', " ");
    let Some(path) = std::env::var_os("NET_LEFT_OUT") else {
        eprintln!("left out: {line}");
        return;
    };
    // One write of one line in append mode, so that tests of several processes do not tear each other's lines.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .expect("NET_LEFT_OUT names a file that can be appended to");
}
