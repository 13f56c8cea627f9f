//! What a build needs of memory does not grow with what it builds.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use gateway_tests::measure::{Cost, timed};
use gateway_tests::program::Home;
use gateway_tests::registry::Registry;

/// MiB that the program itself may take, whatever it builds.
const MOST: f64 = 150.0;

/// MiB that ten thousand files may take: less than a kilobyte for each.
const MOST_OF_FILES: f64 = 8.0;

fn build(home: &Home, context: &Path, more: &[&str]) -> Cost {
    let mut command: Command = home.build();
    timed(command.arg("--quiet").args(more).arg(context))
}

#[test]
fn a_thousand_vertices_fit_into_little_memory() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    let mut text = String::new();
    for stage in 0..20 {
        text += &format!("FROM busybox AS s{stage}\n");
        for step in 0..50 {
            text += &format!("COPY a /f{stage}-{step}\n");
        }
    }
    text += "FROM scratch\n";
    for stage in 0..20 {
        text += &format!("COPY --from=s{stage} /f{stage}-49 /\n");
    }
    std::fs::write(context.path().join("Dockerfile"), text).expect("writing the build file");
    std::fs::write(context.path().join("a"), "a").expect("writing a file");
    for what in ["first", "unchanged"] {
        let cost = build(&home, context.path(), &[]);
        assert!(cost.memory > 1.0, "not measured");
        assert!(cost.memory < MOST, "{what}: {} MiB", cost.memory);
    }
}

#[test]
fn a_file_larger_than_the_memory_that_is_allowed_goes_through() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    let file = "FROM scratch\nCOPY large /\n";
    std::fs::write(context.path().join("Dockerfile"), file).expect("writing the build file");
    let mut large = std::fs::File::create(context.path().join("large")).expect("a file");
    let megabyte: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    for _ in 0..200 {
        large.write_all(&megabyte).expect("writing a file");
    }
    drop(large);
    let archive = home.dir.path().join("large.tar");
    let output = format!("--output=type=oci,dest={}", archive.display());
    let cost = build(&home, context.path(), &[&output]);
    let _ = std::fs::remove_file(archive);
    assert!(cost.memory < MOST, "{} MiB", cost.memory);
}

/// Bytes of nothing that anybody has seen before, but that a file system may compress. `TMPDIR` says where it all is.
fn large_file(path: &Path, megabytes: u32) {
    let mut file = std::fs::File::create(path).expect("a file");
    let mut block: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    for number in 0..megabytes {
        block[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).expect("writing a file");
    }
}

#[test]
#[ignore = "20 GB of disk: cargo nextest run --profile long --run-ignored only -p gateway-tests --test memory"]
fn a_context_of_ten_gigabytes_fits_into_little_memory() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    let file = "FROM scratch\nCOPY large small /\n";
    std::fs::write(context.path().join("Dockerfile"), file).expect("writing the build file");
    large_file(&context.path().join("large"), 10 << 10);
    for edit in ["first", "edited"] {
        std::fs::write(context.path().join("small"), edit).expect("writing a file");
        let cost = build(&home, context.path(), &["--output=type=cacheonly"]);
        println!(
            "10 GB, {edit}: {:.1} cpu s, {:.1} wall s, {:.0} MiB",
            cost.cpu, cost.wall, cost.memory
        );
        assert!(cost.memory < MOST, "{edit}: {} MiB", cost.memory);
    }
}

/// A hundred in each of so many directories.
fn many_files(context: &Path, dirs: usize) {
    for dir in 0..dirs {
        let dir = context.join(format!("d{dir}"));
        std::fs::create_dir(&dir).expect("a folder");
        for file in 0..100 {
            let path = dir.join(format!("f{file}"));
            std::fs::write(path, format!("{dir:?} {file}")).expect("writing a file");
        }
    }
}

#[test]
fn what_is_known_of_ten_thousand_files_is_little() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let peaks = [1, 100].map(|dirs| {
        let context = tempfile::tempdir().expect("a temporary folder");
        let file = "FROM scratch\nCOPY . /\n";
        std::fs::write(context.path().join("Dockerfile"), file).expect("writing the build file");
        many_files(context.path(), dirs);
        ["first", "unchanged", "edited"].map(|edit| {
            if edit == "edited" {
                std::fs::write(context.path().join("d0/f50"), edit).expect("writing a file");
            }
            build(&home, context.path(), &["--output=type=cacheonly"]).memory
        })
    });
    // Short runs may end before they are looked at a last time.
    let [few, many] = peaks.map(|peaks| peaks.into_iter().fold(0.0, f64::max));
    assert!(many - few < MOST_OF_FILES, "{few} and {many} MiB");
}

#[test]
#[ignore = "minutes: cargo nextest run --profile long --run-ignored only -p gateway-tests --test memory"]
fn a_context_of_a_hundred_thousand_files_fits_into_little_memory() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = tempfile::tempdir().expect("a temporary folder");
    let file = "FROM scratch\nCOPY . /\n";
    std::fs::write(context.path().join("Dockerfile"), file).expect("writing the build file");
    many_files(context.path(), 1000);
    for edit in ["first", "unchanged", "edited"] {
        if edit == "edited" {
            std::fs::write(context.path().join("d500/f50"), edit).expect("writing a file");
        }
        let cost = build(&home, context.path(), &["--output=type=cacheonly"]);
        println!(
            "100,000 files, {edit}: {:.1} cpu s, {:.1} wall s, {:.0} MiB",
            cost.cpu, cost.wall, cost.memory
        );
        assert!(cost.memory < MOST, "{edit}: {} MiB", cost.memory);
    }
}
