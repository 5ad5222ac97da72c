//! A short dose of what `cargo crash` does for hours: the real server through power cuts, crashes
//! of the system, kills, errors of the disk and full disks. A disk that lies must be found out.

use std::process::Command;

use catena_tests::{crash::space, skip::skipped};

/// So many cuts at most until the control has lost something.
const CONTROL_CYCLES: u32 = 10;

/// Runs cycles of a method. The seed is always the same, though what it meets is not.
fn run(method: &str, cycles: u32) {
    if let Some(missing) = space::missing() {
        return skipped(&missing);
    }
    let cycles = cycles.to_string();
    let ended = Command::new(env!("CARGO_BIN_EXE_crash"))
        .args([method, "--cycles", &cycles, "--seed", "1"])
        .output()
        .expect("the harness starts");
    let [told, complained] =
        [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    print!("{told}");
    assert!(ended.status.success(), "{}\n{told}{complained}", ended.status);
    assert!(told.starts_with(&format!("{{\"method\":\"{method}\"")), "{told}");
}

#[test]
fn power_cuts_lose_nothing() {
    run("power", 8);
}

#[test]
fn crashes_of_the_system_lose_nothing() {
    run("os", 6);
}

#[test]
fn kills_lose_nothing() {
    run("kill", 8);
}

#[test]
fn errors_of_the_disk_lose_nothing() {
    run("error", 6);
}

#[test]
fn full_disks_lose_nothing() {
    run("full", 2);
}

#[test]
fn a_disk_that_lies_is_found_out() {
    run("lie", CONTROL_CYCLES);
}
