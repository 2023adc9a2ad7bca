//! Processes that are killed.

use std::process::Command;

use crate::budget::budget;

#[test]
fn kill_nine_with_64_writers_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let rounds = budget(25, 1000);
    let output = Command::new(env!("CARGO_BIN_EXE_redex-crash"))
        .args(["--rounds", &rounds.to_string(), "--threads", "64", "--dir"])
        .arg(dir.path().join("log"))
        .output()
        .expect("it runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    assert!(report.contains(&format!("{rounds} kills with 64 writers")), "{report}");
    println!("{report}");
}
