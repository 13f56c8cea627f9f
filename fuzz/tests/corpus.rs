//! Every target holds over its seeds and over mutations of them: the promises are kept, and the targets
//! cannot rot. `FUZZ_ROUNDS` makes the runs longer, `FUZZ_NUMBER` makes them other ones.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use gateway_fuzz::{Mutator, TARGETS, Target};

fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(target.corpus()).expect("a folder of seeds");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a seed");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Runs the target; its input lies in a file meanwhile, for those that end the whole process.
fn run(target: &Target, input: &[u8], from: &str) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    fs::write(&kept, input).expect("written");
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!(
            "{} fails with {from}, kept in {}:",
            target.name,
            kept.display()
        );
        eprintln!("{}", input.escape_ascii());
        resume_unwind(panic);
    }
    fs::remove_file(&kept).expect("removed");
}

fn holds(name: &str) {
    let target = Target::find(name).expect("a target of that name");
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (path, bytes) in &seeds {
        run(target, bytes, &path.display().to_string());
    }
    let bytes: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(number("FUZZ_NUMBER").unwrap_or(0));
    let rounds = number("FUZZ_ROUNDS").unwrap_or(u64::from(target.rounds));
    for round in 0..rounds {
        let input = mutator.next(&bytes);
        run(target, &input, &format!("mutation {round}"));
    }
}

macro_rules! holds {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        mod holds_over_its_seeds_and_mutations_of_them {
            $(#[test] fn $name() { super::holds(stringify!($name)); })*
        }
    };
}

holds! {
    bridge_authority
    daemon_answers
    daemon_control
    daemon_http
    daemon_receive
    daemon_send
    dockerfile
    dockerfile_context
    dockerfile_expand
    dockerfile_mount
    image_archive
    image_config
    image_manifest
    image_reference
    layer_estargz
    layer_tar
    layer_unpack
    llb_graph
    llb_text
    proto_errors
    proto_messages
    registry_certificate
    registry_settings
    registry_wire
    solver_archive
    solver_modes
    solver_patterns
    solver_signature
}

#[test]
fn every_target_is_tested_and_has_its_folder_of_seeds() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, NAMES);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = fs::read_dir(corpus).expect("listed");
    let mut folders: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("listed")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    folders.sort();
    assert_eq!(folders, names);
}
