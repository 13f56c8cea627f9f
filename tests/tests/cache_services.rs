//! Caches that are services: what one build writes there, a build on an empty store reads, and runs no step. The
//! services are ours; they check every signature, and fail as such services do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::expect::Events;
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::services::{ACCOUNT, ACCOUNT_KEY, Failure, KEY_ID, SECRET, Services, token};
use serde_json::Value;

const STEPS: &str = "\
FROM busybox
RUN echo one > /one
COPY a.txt /x/
RUN cat /x/a.txt > /b
";

/// A last step whose layer goes in several pieces.
const LARGE: &str = "\
FROM busybox
RUN --mount=type=bind,target=/src cp /src/large /large
";

fn context(dir: &Path, steps: &str) -> PathBuf {
    let context = dir.join("context");
    std::fs::create_dir_all(&context).expect("making a folder");
    std::fs::write(context.join("Dockerfile"), steps).expect("writing a file");
    std::fs::write(context.join("a.txt"), "hello\n").expect("writing a file");
    context
}

struct Site {
    services: Services,
    registry: gateway_tests::registry::Registry,
}

impl Site {
    fn start() -> Site {
        Site {
            services: Services::start(),
            registry: gateway_tests::registry::Registry::with_base_images(),
        }
    }

    fn home(&self) -> Home {
        Home::new(&self.registry.as_docker_hub())
    }

    fn s3(&self, more: &str) -> String {
        let url = self.services.url();
        format!(
            "type=s3,bucket=team,region=eu-1,endpoint_url={url},use_path_style=true,\
             access_key_id={KEY_ID},secret_access_key={SECRET}{more}"
        )
    }

    fn azblob(&self, more: &str) -> String {
        let url = self.services.url();
        format!(
            "type=azblob,account_url={url}/{ACCOUNT},account_name={ACCOUNT},\
             secret_access_key={ACCOUNT_KEY}{more}"
        )
    }

    fn gha(&self, accesses: &[(&str, u32)]) -> String {
        let (url, token) = (self.services.url(), token(accesses));
        format!("type=gha,url_v2={url}/,token={token}")
    }
}

fn command(home: &Home, flags: &[&str], context: &Path) -> Command {
    let mut command = home.build();
    for name in ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "ACTIONS_RUNTIME_TOKEN"] {
        command.env_remove(name);
    }
    command
        .env("HOME", home.dir.path())
        .args(["--progress=rawjson", "--output=type=cacheonly"])
        .args(flags)
        .arg(context);
    command
}

/// Builds; no secret may be said.
fn build(home: &Home, flags: &[&str], context: &Path) -> Output {
    let output = run(&mut command(home, flags, context));
    let said = stderr(&output);
    for secret in [SECRET, ACCOUNT_KEY, "sig=secret", "c2ln"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    output
}

fn built(home: &Home, flags: &[&str], context: &Path) -> Events {
    let output = build(home, flags, context);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    Events::read(&said)
}

/// The names of the steps that ran.
fn ran(events: &Events) -> Vec<&str> {
    let steps = events.vertices.iter().filter(|(name, (cached, _))| {
        !cached && (name.contains("] RUN ") || name.contains("] COPY "))
    });
    steps.map(|(name, _)| name.as_str()).collect()
}

/// A build writes the cache, another one on an empty store needs all of it.
fn written_and_read(site: &Site, to: &str, from: &str) {
    let (one, two) = (site.home(), site.home());
    let context = context(one.dir.path(), STEPS);
    let max = format!("{to},mode=max");
    assert_eq!(ran(&built(&one, &["--cache-to", &max], &context)).len(), 3);
    let dest = two.dir.path().join("files");
    let output = format!("--output=type=local,dest={}", dest.display());
    let second = built(&two, &["--cache-from", from, &output], &context);
    assert_eq!(ran(&second), Vec::<&str>::new());
    let file = std::fs::read_to_string(dest.join("b")).expect("a file of the last step");
    assert_eq!(file, "hello\n");
}

#[test]
fn a_bucket_of_s3_keeps_a_cache_in_the_form_of_the_reference() {
    let site = Site::start();
    let cache = site.s3(",prefix=some/where/,name=one;two");
    written_and_read(&site, &cache, &cache);
    let objects = site.services.objects();
    for name in ["one", "two"] {
        assert!(objects.contains(&format!("team/some/where/manifests/{name}")));
    }
    let bytes = site.services.object("team/some/where/manifests/one");
    let config: Value = serde_json::from_slice(&bytes.expect("a config")).expect("JSON");
    let layers = config["layers"].as_array().expect("layers");
    for layer in layers {
        let blob = layer["blob"].as_str().expect("a digest");
        let name = format!("team/some/where/blobs/{blob}");
        let bytes = site.services.object(&name).expect("the blob");
        let said = &layer["annotations"];
        assert_eq!(said["size"], bytes.len());
        assert_eq!(
            said["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let diff_id = said["diffID"].as_str().expect("a diffID");
        assert!(diff_id.starts_with("sha256:"), "{diff_id}");
        let created = said["createdAt"].as_str().expect("a time");
        assert!(created.ends_with('Z'), "{created}");
    }
    // A second export sends nothing that is there; what is old is made new.
    site.services.age(2);
    site.services.take_asked();
    let home = site.home();
    let context = context(home.dir.path(), STEPS);
    built(
        &home,
        &[
            "--cache-from",
            &cache,
            "--cache-to",
            &format!("{cache},mode=max"),
        ],
        &context,
    );
    let asked = site.services.take_asked();
    let sent = asked.iter().filter(|asked| {
        let copies = asked.headers.contains_key("x-amz-copy-source");
        asked.method == "PUT" && asked.path.contains("/blobs/") && !copies
    });
    assert_eq!(sent.count(), 0);
    for object in site.services.objects() {
        assert_eq!(site.services.days(&object), 0, "{object}");
    }
}

#[test]
fn a_bucket_that_fails_in_passing_is_asked_again_and_goes_on_where_it_broke_off() {
    let site = Site::start();
    let (one, two) = (site.home(), site.home());
    let context = context(one.dir.path(), LARGE);
    // Three pieces, which no compression makes smaller.
    let mut seed = 1_u32;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    });
    let noise: Vec<u8> = noise.take(20 << 20).collect();
    std::fs::write(context.join("large"), &noise).expect("writing a file");
    let cache = site.s3("");
    let services = &site.services;
    services.fail(
        "POST",
        "uploads=",
        Failure::Status(503, "<Error><Code>SlowDown</Code></Error>"),
    );
    services.fail("PUT", "partNumber=2", Failure::Silence);
    services.fail("HEAD", "/blobs/", Failure::Status(500, ""));
    built(
        &one,
        &["--cache-to", &format!("{cache},mode=max")],
        &context,
    );
    assert_eq!(services.failures_left(), 0);
    assert_eq!(services.unfinished(), 0);
    services.take_asked();
    let objects = services.objects();
    let largest = objects
        .iter()
        .max_by_key(|name| services.object(name).map(|o| o.len()));
    let (_, hex) = largest
        .and_then(|name| name.split_once(':'))
        .expect("a blob");
    services.fail("GET", hex, Failure::Cut(5 << 20));
    services.fail("GET", "/manifests/", Failure::Status(502, ""));
    let dest = two.dir.path().join("files");
    let output = format!("--output=type=local,dest={}", dest.display());
    let second = built(&two, &["--cache-from", &cache, &output], &context);
    assert_eq!(ran(&second), Vec::<&str>::new());
    assert_eq!(services.failures_left(), 0);
    let asked = services.take_asked();
    assert!(
        asked
            .iter()
            .any(|asked| asked.headers.contains_key("range"))
    );
    let large = std::fs::read(dest.join("large")).expect("the file");
    assert!(large == noise, "the large file came back otherwise");
}

#[test]
fn what_a_bucket_refuses_fails_the_export_with_what_to_do_and_no_build_that_reads() {
    let site = Site::start();
    let home = site.home();
    let context = context(home.dir.path(), STEPS);
    let wrong = site.s3("").replace(SECRET, "another");
    for (cache, problem) in [
        (&wrong, "SignatureDoesNotMatch"),
        (
            &site.s3("").replace("bucket=team", "bucket=nobody"),
            "there is no bucket",
        ),
    ] {
        let output = build(&home, &["--cache-to", cache], &context);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(problem), "{said}");
        let ignored = format!("{cache},ignore-error=true");
        built(
            &home,
            &["--cache-to", &ignored, "--cache-from", cache],
            &context,
        );
    }
    // The error of a bucket in another region names it. Under a name of its own: requests of builds that have failed
    // may still be on their way.
    let elsewhere = site.s3(",prefix=elsewhere/");
    let moved = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>us-9</Region></Error>";
    site.services
        .fail("HEAD", "elsewhere/blobs/", Failure::Status(400, ""));
    site.services
        .fail("PUT", "elsewhere/manifests/", Failure::Status(400, moved));
    let said = stderr(&build(&home, &["--cache-to", &elsewhere], &context));
    assert!(said.contains("status 400"), "{said}");
    let said = stderr(&build(&home, &["--cache-to", &elsewhere], &context));
    assert!(said.contains("write region=us-9"), "{said}");
    assert!(
        site.services
            .objects()
            .iter()
            .all(|name| !name.contains("manifests"))
    );
    // Without a login, it says how to give one.
    let bare = format!(
        "type=s3,bucket=team,region=eu-1,endpoint_url={}",
        site.services.url()
    );
    let said = stderr(&build(&home, &["--cache-to", &bare], &context));
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    let mut command = command(&home, &["--cache-to", &bare], &context);
    command.env("AWS_ACCESS_KEY_ID", KEY_ID);
    command.env("AWS_SECRET_ACCESS_KEY", SECRET);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn layers_that_are_gone_from_a_cache_are_made_again() {
    let site = Site::start();
    let (one, two) = (site.home(), site.home());
    let context = context(one.dir.path(), STEPS);
    let cache = site.s3("");
    built(
        &one,
        &["--cache-to", &format!("{cache},mode=max")],
        &context,
    );
    let bytes = site
        .services
        .object("team/manifests/buildkit")
        .expect("a config");
    let config: Value = serde_json::from_slice(&bytes).expect("JSON");
    let layers = config["layers"].as_array().expect("layers").iter();
    let blobs: Vec<&str> = layers.filter_map(|layer| layer["blob"].as_str()).collect();
    for blob in &blobs {
        site.services.remove(&format!("team/blobs/{blob}"));
    }
    let events = built(&two, &["--cache-from", &cache], &context);
    assert_eq!(ran(&events).len(), 3);
    // A config that breaks off is no cache, and fails no build either.
    built(
        &one,
        &["--cache-to", &format!("{cache},mode=max")],
        &context,
    );
    site.services.fail("GET", "/manifests/", Failure::Cut(20));
    let events = built(&site.home(), &["--cache-from", &cache], &context);
    assert_eq!(ran(&events).len(), 3);
}

#[test]
fn a_container_of_azure_keeps_a_cache_in_the_form_of_the_reference() {
    let site = Site::start();
    let cache = site.azblob(",prefix=team,name=one;two");
    written_and_read(&site, &cache, &cache);
    let objects = site.services.objects();
    for name in ["one", "two"] {
        let name = format!("buildkit-cache/team/manifests/{name}");
        assert!(objects.contains(&name), "{objects:?}");
    }
    assert!(
        objects
            .iter()
            .any(|o| o.starts_with("buildkit-cache/team/blobs/sha256:"))
    );
    // A blob that broke off goes on where it was.
    let home = site.home();
    let context = context(home.dir.path(), STEPS);
    site.services.fail("GET", "/blobs/", Failure::Cut(50));
    let dest = home.dir.path().join("files");
    let output = format!("--output=type=local,dest={}", dest.display());
    site.services.take_asked();
    let events = built(&home, &["--cache-from", &cache, &output], &context);
    assert_eq!(ran(&events), Vec::<&str>::new());
    let asked = site.services.take_asked();
    let range = asked
        .iter()
        .filter_map(|asked| asked.headers.get("x-ms-range"));
    assert_eq!(range.collect::<Vec<_>>(), ["bytes=50-"]);
    let wrong = cache.replace(ACCOUNT_KEY, "d3Jvbmc=");
    let output = build(&home, &["--cache-to", &wrong], &context);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("AuthenticationFailed"), "{said}");
    assert!(
        said.contains("is secret_access_key=... the key of this account?"),
        "{said}"
    );
}

#[test]
fn the_cache_of_github_actions_is_written_and_read_as_by_the_reference() {
    let site = Site::start();
    let services = &site.services;
    let topic = site.gha(&[("refs/heads/topic", 3), ("refs/heads/main", 1)]);
    written_and_read(&site, &topic, &topic);
    let entries = services.entries();
    let index: Vec<&String> = entries
        .iter()
        .filter(|key| key.starts_with("index-"))
        .collect();
    // The hash is that of the git ref that may be written.
    assert_eq!(index, ["index-buildkit-1-7cbb6a07#1"]);
    let config: Value =
        serde_json::from_slice(&services.entry(index[0]).expect("bytes")).expect("JSON");
    let blob = config["layers"][0]["blob"].as_str().expect("a digest");
    assert!(entries.contains(&format!("buildkit-blob-1-{blob}")));

    // Another branch reads what the main one wrote, and writes its own.
    let home = site.home();
    let context = context(home.dir.path(), STEPS);
    let other = site.gha(&[("refs/heads/other", 3), ("refs/heads/topic", 1)]);
    let events = built(
        &home,
        &["--cache-from", &other, "--cache-to", &other],
        &context,
    );
    assert_eq!(ran(&events), Vec::<&str>::new());
    let indices = |services: &Services| {
        let keys = services.entries().into_iter();
        keys.filter(|key| key.starts_with("index-")).count()
    };
    assert_eq!(indices(services), 2);

    // Blobs that GitHub removed are made and written again; URLs whose time is over are asked for anew.
    services.evict("buildkit-blob-1-");
    let home = site.home();
    let events = built(
        &home,
        &["--cache-from", &topic, "--cache-to", &topic],
        &context,
    );
    assert_eq!(ran(&events).len(), 3);
    services.fail("GET", "/signed/", Failure::Status(403, ""));
    let home = site.home();
    built(&home, &["--cache-from", &topic], &context);

    // A token that may only read, as that of a fork's pull request.
    let reader = site.gha(&[("refs/heads/topic", 1)]);
    let output = build(&home, &["--cache-to", &reader], &context);
    let said = stderr(&output);
    assert!(said.contains("may only read"), "{said}");
    // Anywhere else it has no effect, and a warning says so.
    let output = run(&mut command(&home, &["--cache-to=type=gha"], &context));
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ACTIONS_RUNTIME_TOKEN is not set"), "{said}");
}
