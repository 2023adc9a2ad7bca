//! Processes that are killed. The full budget is `cargo xtask e2e crash`.

use std::process::Command;

fn crash(extra: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_redex-crash"))
        .args(["--rounds", "25", "--threads", "64", "--dir"])
        .arg(dir.path().join("log"))
        .args(extra)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn kill_nine_with_64_writers_loses_nothing_acknowledged() {
    let (sound, report) = crash(&[]);
    assert!(sound, "{report}");
    assert!(report.contains("25 kills with 64 writers"), "{report}");
}
