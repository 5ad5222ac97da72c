//! Every input that fuzzing has kept still breaks nothing.
//!
//! `CATENA_FUZZ=seeds cargo test -p catena-tests --test fuzz_corpus` writes the seeds anew.

use std::{
    collections::BTreeSet,
    env, fs, panic,
    path::{Path, PathBuf},
};

use catena_tests::fuzz::{TARGETS, run};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| name(entry.unwrap().path())).collect()
}

#[test]
fn kept_inputs_break_nothing() {
    for target in TARGETS {
        let corpus = folder().join("corpus").join(target.name);
        if env::var_os("CATENA_FUZZ").is_some_and(|value| value == "seeds") {
            fs::create_dir_all(&corpus).unwrap();
            for (number, seed) in (target.seeds)().into_iter().enumerate() {
                fs::write(corpus.join(format!("seed-{number:02}")), seed).unwrap();
            }
        }
        let inputs = names(&corpus);
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            let bytes = fs::read(corpus.join(&input)).unwrap();
            let ran = panic::catch_unwind(|| run(target.name, &bytes));
            assert!(ran.is_ok(), "{}/{input} breaks something: see above", target.name);
        }
    }
}

#[test]
fn seeds_break_nothing() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
    }
}

#[test]
fn every_target_can_be_fuzzed() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&folder().join("corpus")), targets);
    assert_eq!(names(&folder().join("fuzz_targets")), targets);
    for target in targets {
        let text = fs::read_to_string(folder().join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{target}\", bytes)")), "{target} runs another one");
    }
}
