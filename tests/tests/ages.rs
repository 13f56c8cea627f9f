//! Frontends of all ages and policies about them, through a real `# syntax` line: the raw frontend
//! speaks as those of 2018 to today do.

use std::path::Path;

use gateway_tests::image::{Image, images, read_archive};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;

const HELLO: &str = "hello from the context\n";

fn write_context(dir: &Path) {
    std::fs::write(dir.join("hello.txt"), HELLO).expect("writing the context");
    let dockerfile = format!("# syntax = {RAW}\nthis frontend does not care\n");
    std::fs::write(dir.join("Dockerfile"), dockerfile).expect("writing the build file");
}

/// The image, or what was said instead.
fn build(home: &Home, mode: &str) -> Result<Image, String> {
    let context = tempfile::tempdir().expect("a temporary folder");
    write_context(context.path());
    let archive = context.path().join("out.tar");
    let output = run(home
        .build()
        .args(["--build-arg", &format!("MODE={mode}"), "--output"])
        .arg(format!("type=oci,dest={}", archive.display()))
        .arg(context.path()));
    if !output.status.success() {
        return Err(stderr(&output));
    }
    let mut images = images(&read_archive(&archive));
    assert_eq!(images.len(), 1);
    Ok(images.remove(0))
}

fn text<'a>(image: &'a Image, path: &str) -> Option<&'a str> {
    let node = image.files.get(path)?;
    std::str::from_utf8(&node.data).ok()
}

#[test]
fn p01_p27_p32_frontends_of_every_age_build_an_image_by_a_syntax_line() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    for age in ["2018", "2019", "2020", "current"] {
        let image = build(&home, age).unwrap_or_else(|error| panic!("{age}: {error}"));
        assert_eq!(text(&image, "hello.txt"), Some(HELLO), "{age}");
        assert_eq!(image.platform, "linux/amd64", "{age}");
    }
}

#[test]
fn p31_a_frontend_from_before_return_ends_with_its_last_solve() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let image = build(&home, "final").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(text(&image, "hello.txt"), Some(HELLO));
}

#[test]
fn the_copy_helper_of_2018_is_not_pulled() {
    // The registry holds the frontend and nothing else.
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let image = build(&home, "copy-helper").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(text(&image, "copied.txt"), Some(HELLO));
    let names: Vec<_> = image.files.keys().collect();
    assert_eq!(names, ["copied.txt"]);
}

#[test]
fn p17_only_allowed_repositories_may_be_frontends() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let with = |line: &str| {
        let table = format!("\n[frontend.\"gateway.v0\"]\n{line}\n");
        build(&Home::new(&(registry.as_docker_hub() + &table)), "current")
    };
    assert!(with("allowedRepositories = [\"docker.io/test/raw\"]").is_ok());
    let refused = with("allowedRepositories = [\"docker/dockerfile\"]").err();
    let refused = refused.expect("a refusal");
    assert!(
        refused.contains("'test/raw:1' is not an allowed gateway source"),
        "{refused}"
    );
    assert!(refused.contains(">>> # syntax = test/raw:1"), "{refused}");
    let disabled = with("enabled = false").err().expect("a refusal");
    assert!(
        disabled.contains("invalid frontend: gateway.v0"),
        "{disabled}"
    );
    assert!(disabled.contains(">>> # syntax = test/raw:1"), "{disabled}");
}
