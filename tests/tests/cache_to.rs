//! Caches that a build writes: they have the keys that the reference writes for the same build, and
//! a build on an empty store that reads one runs no step.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use gateway_tests::cache::{Cache, Record, records};
use gateway_tests::case::{CONTEXT_TIME, set_times};
use gateway_tests::expect::Events;
use gateway_tests::image::{images, read_archive};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use serde_json::Value;

const STEPS: &str = "\
FROM busybox AS one
RUN echo one > /one && mkdir /x
COPY a.txt /x/
RUN --mount=type=bind,target=/src cat /src/a.txt > /x/b
FROM busybox
RUN --mount=type=cache,target=/c echo '<&>' > /q
COPY --from=one /x /x
";

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/oracle/cache")
}

/// The recorded context with fixed times.
fn recorded_context(dir: &Path) -> PathBuf {
    let context = dir.join("context");
    std::fs::create_dir_all(context.join("dir")).expect("making a folder");
    for file in ["Dockerfile", "a.txt", "dir/b.txt"] {
        let from = recorded().join("context").join(file);
        std::fs::copy(from, context.join(file)).expect("copying a file");
    }
    set_times(&context, CONTEXT_TIME);
    context
}

fn context(dir: &Path) -> PathBuf {
    let context = dir.join("context");
    std::fs::create_dir_all(&context).expect("making a folder");
    std::fs::write(context.join("Dockerfile"), STEPS).expect("writing a file");
    std::fs::write(context.join("a.txt"), "hello\n").expect("writing a file");
    context
}

fn build<S: AsRef<std::ffi::OsStr>>(home: &Home, args: &[S], context: &Path) -> Output {
    let mut command: Command = home.build();
    command.arg("--progress=rawjson").args(args).arg(context);
    run(&mut command)
}

/// Builds with these flags, which must work; gives the events.
fn built<S: AsRef<std::ffi::OsStr>>(home: &Home, args: &[S], context: &Path) -> Events {
    let output = build(home, args, context);
    let stderr = stderr(&output);
    assert!(output.status.success(), "{stderr}");
    Events::read(&stderr)
}

/// The names of the steps that ran.
fn ran(events: &Events) -> Vec<&str> {
    events
        .vertices
        .iter()
        .filter(|(name, (cached, _))| {
            !cached && (name.contains("] RUN ") || name.contains("] COPY "))
        })
        .map(|(name, _)| name.as_str())
        .collect()
}

/// What can be equal in two builds: directories that a step makes on the way have the time of the build.
fn shape(records: Vec<Record>) -> Vec<Record> {
    let mut records = records;
    for chain in records.iter_mut().flat_map(|record| &mut record.results) {
        chain
            .iter_mut()
            .skip(2)
            .for_each(|diff_id| *diff_id = "any".into());
    }
    records
}

#[test]
fn a_cache_has_the_keys_and_layers_that_the_reference_writes() {
    for mode in ["min", "max"] {
        let home = Home::new("");
        let cache = home.dir.path().join("cache");
        let to = format!("type=local,dest={},mode={mode}", cache.display());
        let flags = [
            "--opt",
            "build-arg:SOURCE_DATE_EPOCH=1600000000",
            "--output=type=image",
            "--cache-to",
            &to,
        ];
        built(&home, &flags, &recorded_context(home.dir.path()));
        let own = Cache::read(&cache, "latest");
        let theirs = Cache::read(&recorded().join(format!("cache-{mode}")), "latest");
        assert_eq!(shape(own.records()), shape(theirs.records()), "{mode}");
        assert_eq!(own.layers().len(), theirs.layers().len(), "{mode}");
    }
}

#[test]
fn a_cache_inside_an_image_has_the_keys_that_the_reference_writes() {
    let home = Home::new("");
    let archive = home.dir.path().join("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let flags = [
        "--opt",
        "build-arg:SOURCE_DATE_EPOCH=1600000000",
        "--opt",
        "build-arg:BUILDKIT_INLINE_CACHE=1",
        "--output",
        &output,
    ];
    built(&home, &flags, &recorded_context(home.dir.path()));
    let image = images(&read_archive(&archive)).remove(0);
    let theirs = std::fs::read(recorded().join("inline-image-config.json")).expect("a config");
    let theirs: Value = serde_json::from_slice(&theirs).expect("JSON");
    let inside = |config: &Value| {
        let text = config["moby.buildkit.cache.v0"].as_str().expect("a cache");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        let all: Value = serde_json::from_slice(&bytes.expect("base64")).expect("JSON");
        records(&all, |top| vec![top.to_string()])
    };
    let own = inside(&image.config);
    for record in inside(&theirs) {
        let found = own.iter().find(|own| own.digest == record.digest);
        let found = found.unwrap_or_else(|| panic!("{record:?} is missing"));
        assert_eq!(found.results, record.results);
        // The recorded build found its steps by their keys and did not know the content any more.
        for (links, wanted) in found.inputs.iter().zip(&record.inputs) {
            assert!(wanted.iter().all(|link| links.contains(link)), "{record:?}");
        }
        assert_eq!(found.inputs.len(), record.inputs.len());
    }
}

#[test]
fn whoever_reads_a_cache_runs_no_step() {
    let registry = Registry::with_base_images();
    let config = registry.as_docker_hub();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (context, local) = (context(dir.path()), dir.path().join("cache"));
    let address = registry.address;
    let first = Home::new(&config);
    let to = |text: String| ["--cache-to".to_owned(), text];
    let flags = [
        vec!["--push".to_owned(), format!("--tag={address}/app:inline")],
        to(format!("type=local,dest={}", local.display())).to_vec(),
        to(format!(
            "type=local,dest={},tag=max,mode=max,image-manifest=false",
            local.display()
        ))
        .to_vec(),
        to(format!("{address}/app:cache")).to_vec(),
        to(format!(
            "type=registry,ref={address}/app:old,mode=max,oci-mediatypes=false"
        ))
        .to_vec(),
        to(format!(
            "type=registry,ref={address}/app:zstd,compression=zstd,force-compression=true"
        ))
        .to_vec(),
        to("type=inline".to_owned()).to_vec(),
    ]
    .concat();
    let events = built(&first, &flags, &context);
    assert_eq!(ran(&events).len(), 5, "{:?}", ran(&events));
    let old = Cache::read(&local, "max");
    assert!(old.manifest.get("layers").is_none());
    assert!(old.layers().len() > Cache::read(&local, "latest").layers().len());
    for cache in [
        format!("type=local,src={}", local.display()),
        format!("type=local,tag=max,src={}", local.display()),
        format!("{address}/app:cache"),
        format!("type=registry,ref={address}/app:old"),
        format!("{address}/app:zstd"),
        format!("{address}/app:inline"),
    ] {
        let home = Home::new(&config);
        let flags = ["--cache-from", &cache, "--output=type=cacheonly"];
        let events = built(&home, &flags, &context);
        assert_eq!(ran(&events), [""; 0], "{cache}");
        // Nothing was needed of the layers, so none is here.
        let layers = std::fs::read_dir(home.store().join("layers"));
        assert_eq!(layers.expect("a folder").count(), 0, "{cache}");
        let archive = home.dir.path().join("image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let flags = ["--cache-from", &cache, "--output", &output];
        built(&home, &flags, &context);
        if !cache.ends_with("zstd") {
            assert_eq!(images(&read_archive(&archive)).len(), 1, "{cache}");
        }
    }
}

#[test]
fn a_cache_that_was_read_can_be_written_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = recorded_context(dir.path());
    let home = Home::new("");
    let copy = dir.path().join("copy");
    let flags = [
        "--opt",
        "build-arg:SOURCE_DATE_EPOCH=1600000000",
        "--output=type=cacheonly",
        "--cache-from",
        &format!("type=local,src={}", recorded().join("cache-max").display()),
        "--cache-to",
        &format!("type=local,mode=max,dest={}", copy.display()),
    ];
    let events = built(&home, &flags, &context);
    assert_eq!(ran(&events), [""; 0]);
    let theirs = Cache::read(&recorded().join("cache-max"), "latest");
    assert_eq!(Cache::read(&copy, "latest").records(), theirs.records());
}

#[test]
fn a_directory_keeps_what_other_names_need_and_a_reset_removes_the_rest() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (context, cache) = (dir.path().join("context"), dir.path().join("cache"));
    std::fs::create_dir_all(&context).expect("making a folder");
    let home = Home::new("");
    let write = |content: &str, attributes: &str| {
        let file =
            format!("FROM scratch\nCOPY <<EOF /a\n{content}\nEOF\nCOPY <<EOF /b\n{content}\nEOF\n");
        std::fs::write(context.join("Dockerfile"), file).expect("writing a file");
        let to = format!("type=local,dest={}{attributes}", cache.display());
        built(
            &home,
            &["--output=type=cacheonly", "--cache-to", &to],
            &context,
        );
        let blobs = std::fs::read_dir(cache.join("blobs/sha256")).expect("a folder");
        blobs.count()
    };
    let one = write("one", "");
    assert_eq!(write("two", ",tag=two"), 2 * one);
    let with_old = write("three", "");
    assert!(with_old > 2 * one, "{with_old}");
    assert_eq!(write("three", ",reset=true"), 2 * one);
    Cache::read(&cache, "two");
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_that_is_to_be_ignored() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let context = dir.path().join("context");
    std::fs::create_dir_all(&context).expect("making a folder");
    let file = "FROM scratch\nCOPY <<EOF /a\na\nEOF\nCOPY <<EOF /b\nb\nEOF\n";
    std::fs::write(context.join("Dockerfile"), file).expect("writing a file");
    let home = Home::new("");
    let flags = |more: &str| {
        let to = format!("type=local,dest=/proc/no/such/folder{more}");
        [
            "--output=type=cacheonly".to_owned(),
            "--cache-to".to_owned(),
            to,
        ]
    };
    let failed = build(&home, &flags(""), &context);
    assert!(!failed.status.success());
    let text = stderr(&failed);
    assert!(
        text.contains("exporting cache to client directory failed"),
        "{text}"
    );
    assert!(text.contains("/proc/no/such/folder"), "{text}");
    let ignored = build(&home, &flags(",ignore-error=true"), &context);
    let text = stderr(&ignored);
    assert!(ignored.status.success(), "{text}");
    assert!(text.contains("/proc/no/such/folder"), "{text}");
    let wrong = build(&home, &["--cache-to=type=tape"], &context);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("unknown type \"tape\""));
}

#[test]
fn a_step_is_run_again_with_a_stage_s_name_and_the_others_are_found() {
    let registry = Registry::with_base_images();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (context, home) = (context(dir.path()), Home::new(&registry.as_docker_hub()));
    let flags = ["--output=type=cacheonly"];
    built(&home, &flags, &context);
    let again = [flags[0], "--no-cache-filter", "one"];
    let events = built(&home, &again, &context);
    let ran = ran(&events);
    assert_eq!(ran.len(), 3, "{ran:?}");
    assert!(ran.iter().all(|name| name.starts_with("[one ")), "{ran:?}");
}
