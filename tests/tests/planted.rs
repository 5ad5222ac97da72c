//! Planted bugs: the simulator and the model find them, and no build has them that was not made for
//! it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use catena_tests::planted::{AWAKE, Planted};

/// Bugs that few seeds find, in each of the rooms; `cargo planted` takes all.
const SOON_FOUND: [&str; 18] = [
    "AckBeforeDurable",
    "AnswerToAnother",
    "ConditionAtWatermark",
    "CrcWithoutPosition",
    "DedupForgotten",
    "DurableOverHole",
    "EpochNotRaised",
    "FenceIgnored",
    "NoClaim",
    "NoDirectorySync",
    "NoFlush",
    "PayloadNotChecked",
    "PlainBytesCounted",
    "SeamSkips",
    "ShortWriteIgnored",
    "TrimUndone",
    "TruncateOnBadCrc",
    "UnzeroedRecycled",
];
/// So many seeds pass without a bug.
const SEEDS: u64 = 64;
/// At most so many find each of them, most of them far fewer.
const HUNTED: u64 = 1024;

#[test]
fn planted_bugs_are_found_and_nothing_without_them() {
    let planted = Planted::build().unwrap();
    let asleep = planted.clean(0..SEEDS).unwrap();
    let sim = Path::new(env!("CARGO_BIN_EXE_sim"));
    let seeds = format!("0..{SEEDS}");
    let ordinary = run(Command::new(sim).args(["--seeds", &seeds]));
    // The fingerprint is in it: every operation and every message is the same.
    assert_eq!(asleep, text(&ordinary.stdout), "bugs that sleep change something");
    let bugs = planted.bugs().unwrap();
    for bug in SOON_FOUND {
        assert!(bugs.iter().any(|known| known == bug), "there is no bug {bug}");
        let found = planted.hunt(bug, HUNTED).unwrap();
        let found = found.unwrap_or_else(|| panic!("{HUNTED} seeds do not find {bug}"));
        println!("{bug}: seed {}, {}", found.seed, found.said);
    }
    let of_chain = planted.bugs_of_chain().unwrap();
    assert!(of_chain.len() >= 13, "{of_chain:?}");
    for bug in of_chain {
        let found = planted.hunt(&bug, HUNTED).unwrap();
        let found = found.unwrap_or_else(|| panic!("no chain shows {bug}"));
        println!("{bug}: chain {}, {}", found.seed, found.said);
    }
    let found = planted.hunt("TrimUndone", SEEDS).unwrap().unwrap();
    let shrunk = planted.shrunk("TrimUndone", found.seed).unwrap();
    println!("shrunk: {}", shrunk.join(" "));
    let without = shrunk.last().unwrap();
    // Nothing that fails is needed for that; a trim is.
    assert!(without.contains("write_error") && !without.contains("trims"), "{without}");
    for (build, awake) in [(planted.sim(), true), (sim, false)] {
        let bytes = fs::read(build).unwrap();
        let has = bytes.windows(AWAKE.len()).any(|window| window == AWAKE.as_bytes());
        assert_eq!(has, awake, "{}", build.display());
    }
}

#[test]
fn an_optimised_build_cannot_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let compile = |flags: &[&str]| {
        let mut rustc = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
        rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"]);
        rustc.args(flags).arg("--out-dir").arg(folder.path());
        run(rustc.arg(root.join("engine/format/src/planted.rs")))
    };
    let released = compile(&["--cfg", "planted", "-C", "debug-assertions=off"]);
    assert!(!released.status.success());
    assert!(text(&released.stderr).contains("a release build has no planted bugs"));
    for flags in [&["--cfg", "planted", "-C", "debug-assertions=on"][..], &["-C", "opt-level=3"]] {
        let built = compile(flags);
        assert!(built.status.success(), "{}", text(&built.stderr));
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
