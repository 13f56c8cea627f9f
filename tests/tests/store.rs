//! The store over its life: listed, pruned while builds run, damaged and mended, killed at every step
//! that its safety rests on.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gateway_tests::git::GitDaemon;
use gateway_tests::image::{images, read_archive};
use gateway_tests::program::{Home, binary, run, stderr};
use gateway_tests::registry::Registry;

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("writing the build file");
    dir
}

/// `gateway WORDS --root STORE`.
fn gateway(home: &Home, words: &[&str]) -> Output {
    run(Command::new(binary())
        .args(words)
        .arg("--root")
        .arg(home.store())
        .stdin(Stdio::null()))
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Builds an image whose bytes depend on the context alone; gives its digest.
fn reproducible(home: &Home, context: &Path) -> Command {
    let mut command = home.build();
    command
        .args(["-q", "-t", "me/app", "--output"])
        .arg("type=image,rewrite-timestamp=true")
        .env("SOURCE_DATE_EPOCH", "1600000000")
        .arg(context);
    command
}

fn records(home: &Home, filter: &str) -> Vec<serde_json::Value> {
    let text = stdout(&gateway(home, &["du", "--format=json", "--filter", filter]));
    serde_json::from_str(&text).expect("JSON records")
}

#[test]
fn what_the_store_holds_is_listed_and_goes_when_told() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=my-cache date > /c/f\n\
         RUN head -c 300000 /dev/zero > /big\n",
    );
    let digest = stdout(&run(&mut reproducible(&home, context.path())));
    let caches = records(&home, "type==exec.cachemount");
    assert_eq!(caches.len(), 1);
    assert_eq!(caches[0]["mutable"], true);
    assert_eq!(caches[0]["usageCount"], 1);
    let description = caches[0]["description"].as_str().expect("a text");
    assert!(
        description.starts_with("cached mount /c from exec /bin/sh -c date")
            && description.ends_with("with id \"/my-cache\""),
        "{description}"
    );
    let pulled = records(&home, "description~=^pulled from");
    assert_eq!(pulled.len(), 1);
    assert!(
        pulled[0]["description"]
            .as_str()
            .expect("a text")
            .contains("/library/busybox")
    );
    // A later build counts as another use.
    stdout(&run(&mut reproducible(&home, context.path())));
    assert_eq!(
        records(&home, "description~=^pulled from")[0]["usageCount"],
        2
    );
    let big = records(&home, "description~=head");
    assert_eq!(big.len(), 1);
    assert!(big[0]["size"].as_u64().expect("a number") >= 300_000);
    assert_eq!(big[0]["parents"].as_array().expect("a list").len(), 1);
    // All that is made is in the named image: without --all nothing of it goes.
    assert_eq!(big[0]["shared"], true);
    let table = stdout(&gateway(&home, &["du"]));
    assert!(
        table.contains("RECLAIMABLE") && table.contains("Total:"),
        "{table}"
    );

    let refused = gateway(&home, &["prune"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--force"));
    let bad = gateway(&home, &["prune", "--force", "--filter", "id~=("]);
    assert!(
        stderr(&bad).contains("filter \"id~=(\""),
        "{}",
        stderr(&bad)
    );

    let text = stdout(&gateway(&home, &["prune", "--force", "--keep-duration=1h"]));
    assert_eq!(text, "Total:\t0B\n");
    let text = stdout(&gateway(
        &home,
        &["prune", "--force", "--filter=type=exec.cachemount"],
    ));
    assert!(
        text.contains(caches[0]["id"].as_str().expect("an id")),
        "{text}"
    );
    assert!(records(&home, "type==exec.cachemount").is_empty());
    assert_eq!(records(&home, "description~=head").len(), 1);
    stdout(&gateway(&home, &["prune", "--force", "--all"]));
    assert!(records(&home, "type==regular").is_empty());
    // The image is whole without the cache, and what is built anew is the same.
    let saved = context.path().join("saved.tar");
    let saved_text = saved.to_string_lossy();
    stdout(&gateway(&home, &["save", "me/app", "-o", &saved_text]));
    assert_eq!(
        images(&read_archive(&saved))[0].files["big"].data.len(),
        300_000
    );
    let again = run(home
        .build()
        .args(["-q", "-t", "me/app2", "--output"])
        .arg("type=image,rewrite-timestamp=true")
        .env("SOURCE_DATE_EPOCH", "1600000000")
        .arg(context.path()));
    assert_eq!(stdout(&again), digest);

    // The last of all.
    stdout(&gateway(&home, &["rmi", "me/app", "me/app2"]));
    stdout(&gateway(&home, &["prune", "--force", "--all"]));
    let left = stdout(&gateway(&home, &["store", "list"]));
    assert_eq!(left.lines().count(), 1, "{left}");
    let left = records(&home, "type!=internal");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pruning_in_a_loop_hurts_no_running_build() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(
        "FROM busybox AS a\nRUN --mount=type=cache,target=/c echo 1 >> /c/f; sleep 0.1; cp /c/f /a\n\
         RUN sleep 0.1; echo b > /b\n\
         FROM busybox\nCOPY data /data\nRUN sleep 0.1; cat /data > /copy\n\
         COPY --from=a /b /b\nRUN cat /b /copy > /both\n",
    );
    std::fs::write(context.path().join("data"), "data\n").expect("a file");
    let done = AtomicBool::new(false);
    let pruned = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for words in [
            &["prune", "--all", "--force"][..],
            &["prune", "--all", "--force", "--max-used-space=1"],
        ] {
            let (home, done, pruned) = (&home, &done, &pruned);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let output = gateway(home, words);
                    assert!(output.status.success(), "{}", stderr(&output));
                    pruned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let failure = (0..4).find_map(|round| {
            let archive = context.path().join(format!("{round}.tar"));
            let output = run(home
                .build()
                .args([
                    "--progress=plain",
                    "-t",
                    "me/app",
                    "--output=type=image",
                    "--output",
                ])
                .arg(format!("type=oci,dest={}", archive.display()))
                .arg(context.path()));
            if !output.status.success() {
                return Some(stderr(&output));
            }
            let image = images(&read_archive(&archive)).remove(0);
            let both = &image.files["both"].data;
            (both != b"b\ndata\n").then(|| format!("{both:?}"))
        });
        done.store(true, Ordering::Relaxed);
        assert_eq!(failure, None);
    });
    assert!(pruned.load(Ordering::Relaxed) >= 4);
    let checked = stdout(&gateway(&home, &["store", "verify"]));
    assert!(!checked.contains("damaged"), "{checked}");
}

#[test]
fn a_damaged_blob_is_found_set_aside_and_made_again() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM busybox\nRUN echo x > /x\n");
    let digest = stdout(&run(&mut reproducible(&home, context.path())));
    let clean = stdout(&gateway(&home, &["store", "verify"]));
    assert!(clean.trim_end().ends_with(" 1 image"), "{clean}");
    // The largest is the base image's layer.
    let blobs = home.store().join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs)
        .expect("the blobs")
        .flatten()
        .max_by_key(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
        .expect("a blob")
        .path();
    let mut bytes = std::fs::read(&largest).expect("its bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("damaging it");
    let output = gateway(&home, &["store", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = largest.file_name().expect("a name").to_string_lossy();
    assert!(
        text.contains(&format!("damaged: blob sha256:{name}: its bytes"))
            && text.contains("(set aside)"),
        "{text}"
    );
    assert!(
        text.contains("damaged: image docker.io/me/app:latest"),
        "{text}"
    );
    assert!(!largest.exists());
    assert_eq!(
        stdout(&run(&mut reproducible(&home, context.path()))),
        digest
    );
    let clean = stdout(&gateway(&home, &["store", "verify"]));
    assert!(!clean.contains("damaged"), "{clean}");
    let text = stdout(&gateway(&home, &["store", "prune"]));
    assert!(text.contains("quarantine"), "{text}");
}

#[test]
fn after_a_build_the_store_is_brought_below_its_limits_but_not_by_one_that_found_everything() {
    let registry = Registry::with_base_images();
    let limits = "[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = 1\n";
    let home = Home::new(&format!("{limits}{}", registry.as_docker_hub()));
    let context = context("FROM busybox\nRUN echo x > /x\n");
    let build = || {
        let mut command = home.build();
        command
            .args(["--progress=plain", "--output=type=cacheonly"])
            .arg(context.path());
        let output = run(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    build();
    assert!(records(&home, "type==regular").is_empty());
    // Within a minute it is not done again, so this one stays.
    build();
    assert_eq!(records(&home, "description~=echo").len(), 1);
    // Older than a minute, but nothing was added.
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::options()
        .write(true)
        .open(home.store().join("collected"))
        .and_then(|file| file.set_modified(hour_ago))
        .expect("making it older");
    assert!(build().contains("CACHED"));
    assert_eq!(records(&home, "description~=echo").len(), 1);
    let off = Home::new(&format!(
        "[worker.oci]\ngc = false\n{limits}{}",
        registry.as_docker_hub()
    ));
    let output = run(off
        .build()
        .args(["-q", "--output=type=cacheonly"])
        .arg(context.path()));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(records(&off, "description~=echo").len(), 1);
}

/// A build that passes every kind of fail point.
const MANY_STEPS: &str = "FROM busybox AS a\n\
     RUN --mount=type=cache,target=/c echo $((1 + 1)) > /f\n\
     FROM busybox\nCOPY data /data\nRUN cat /data > /g\nCOPY --from=a /f /f\n";

#[test]
fn killed_at_any_step_that_safety_rests_on_the_store_is_whole_and_builds_the_same() {
    let registry = Registry::with_base_images();
    let repositories = GitDaemon::start();
    repositories.repository("source", &[("from-git", "1")]);
    let file = format!(
        "{MANY_STEPS}COPY many /many\nADD {}#main /source\n",
        repositories.url("source")
    );
    let context = context(&file);
    std::fs::write(context.path().join("data"), "data\n").expect("a file");
    // So many that the copy is remembered for the next one.
    std::fs::create_dir(context.path().join("many")).expect("a folder");
    for number in 0..100 {
        let path = context.path().join(format!("many/{number}"));
        std::fs::write(path, number.to_string()).expect("a file");
    }
    let home = Home::new(&registry.as_docker_hub());
    let passed = context.path().join("passed");
    let digest = stdout(&run(
        reproducible(&home, context.path()).env("GATEWAY_FAIL_POINTS_LOG", &passed)
    ));
    let prune = |home: &Home| {
        let mut command = Command::new(binary());
        command
            .args(["prune", "--all", "--force", "--root"])
            .arg(home.store())
            .stdin(Stdio::null());
        command
    };
    stdout(&run(prune(&home).env("GATEWAY_FAIL_POINTS_LOG", &passed)));
    let log = std::fs::read_to_string(&passed).expect("the points passed");
    // The first and the last passing of each.
    let mut points: Vec<(String, usize)> = Vec::new();
    let mut names: Vec<&str> = log.lines().collect();
    names.sort_unstable();
    for name in names.chunk_by(|a, b| a == b) {
        points.push((name[0].to_owned(), 1));
        if name.len() > 2 {
            points.push((name[0].to_owned(), name.len() - 1));
        }
    }
    let kinds: Vec<&str> = points.iter().map(|(name, _)| name.as_str()).collect();
    for wanted in [
        "blob-complete",
        "blob-in-place",
        "cache-filled",
        "cache-uncommitted",
        "collect-cache-moved",
        "collect-layer-forgotten",
        "collect-layer-moved",
        "content-digest-unkept",
        "copy-unnoted",
        "hashes-unnamed",
        "image-unnamed",
        "layer-in-place",
        "layer-recorded",
        "layer-unrecorded",
        "recover-before-boot",
        "recover-layers-dropped",
        "repository-unnamed",
        "result-saved",
        "result-uncommitted",
        "schema-uncommitted",
        "synced",
        "uses-taken",
        "uses-uncounted",
        "variant-unrecorded",
    ] {
        assert!(
            kinds.contains(&wanted),
            "{wanted} was not passed: {kinds:?}"
        );
    }
    let home = Home::new(&registry.as_docker_hub());
    let mut killed = 0;
    for (name, count) in points {
        let point = format!("{name}:{count}");
        let in_prune = name.starts_with("collect") || name.starts_with("uses");
        if name.starts_with("schema") || name.starts_with("recover") {
            let _ = std::fs::remove_dir_all(home.store());
        }
        if in_prune {
            // Something to prune.
            stdout(&run(&mut reproducible(&home, context.path())));
        } else {
            let _ = gateway(&home, &["prune", "--all", "--force"]);
            let _ = gateway(&home, &["rmi", "me/app"]);
            let _ = gateway(&home, &["store", "prune"]);
        }
        let mut command = match in_prune {
            true => prune(&home),
            false => reproducible(&home, context.path()),
        };
        let output = run(command.env("GATEWAY_FAIL_POINT", &point));
        use std::os::unix::process::ExitStatusExt;
        match output.status.signal() {
            Some(9) => killed += 1,
            // Background work may be overtaken by the end of the process.
            _ => assert!(output.status.success(), "{point}: {}", stderr(&output)),
        }
        let verified = gateway(&home, &["store", "verify"]);
        assert!(
            verified.status.success(),
            "{point}: {}",
            String::from_utf8_lossy(&verified.stdout)
        );
        let again = run(&mut reproducible(&home, context.path()));
        assert_eq!(stdout(&again), digest, "{point}");
    }
    assert!(killed >= 22, "only {killed} points killed");
}

#[test]
fn killed_before_a_damaged_blob_is_set_aside_it_is_found_again() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context("FROM busybox\nRUN echo $((1 + 1)) > /f\n");
    let digest = stdout(&run(&mut reproducible(&home, context.path())));
    let blobs = home.store().join("blobs/sha256");
    let blob = std::fs::read_dir(&blobs).expect("blobs").flatten().next();
    let blob = blob.expect("a blob").path();
    std::fs::remove_file(&blob).expect("removing a blob");
    std::fs::write(&blob, "something else").expect("damaging a blob");
    let verify = |point: &str| {
        let mut command = Command::new(binary());
        command
            .args(["store", "verify", "--root"])
            .arg(home.store());
        run(command.env("GATEWAY_FAIL_POINT", point))
    };
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(verify("quarantine-before").status.signal(), Some(9));
    assert!(blob.exists());
    let found = verify("");
    assert!(
        !found.status.success() && !blob.exists(),
        "{}",
        stderr(&found)
    );
    stdout(&verify(""));
    assert_eq!(
        stdout(&run(&mut reproducible(&home, context.path()))),
        digest
    );
    stdout(&verify(""));
}

/// A file system that is cut off from its disk in the middle of a build and after it. What follows is
/// what a machine does that starts again: another boot id, the journal replayed.
#[test]
fn after_a_power_cut_torn_layers_are_made_again() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    std::fs::create_dir(home.store()).expect("the store's folder");
    let context = context(
        "FROM busybox\nRUN head -c 3000000 /dev/zero | tr '\\0' x > /big\nRUN md5sum /big > /sum\n",
    );
    // The journal is written each second, data only after thirty: names arrive before what they name. The
    // first build is killed before it can sync.
    let script = r#"
        set -u
        boot() { echo 00000000-0000-0000-0000-00000000000$1 > $DIR/boot; }
        cut() { perl -e '$how = pack("L", 2); open F, "<", $ARGV[0] or die $!; ioctl(F, 0x8004587d, $how) or die $!' $STORE; }
        back() { for i in $(seq 100); do umount $STORE && break; sleep 0.1; done; mount -o loop,commit=1 $DIR/disk $STORE; }
        boot 1; mount --bind $DIR/boot /proc/sys/kernel/random/boot_id || exit 1
        truncate -s 200m $DIR/disk && mkfs.ext4 -q $DIR/disk && mount -o loop,commit=1 $DIR/disk $STORE || exit 2
        GATEWAY_FAIL_POINT=result-saved:2 $BUILD && exit 3
        sleep 2.5; cut; back
        find $STORE/layers -name big -size 0 | sed 's/.*/torn/'
        boot 2; $BUILD || exit 4
        $GATEWAY store verify --root $STORE || exit 5
        $BUILD --no-cache & sleep 0.4; cut; wait; back
        boot 3; $BUILD || exit 6
        $GATEWAY store verify --root $STORE || exit 7
        umount $STORE
    "#;
    let build = format!(
        "{} build --root {} --config {} -q -t me/app --output type=image,rewrite-timestamp=true {}",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        context.path().display(),
    );
    let output = run(Command::new("unshare")
        .args(["-m", "bash", "-c", script])
        .env("DIR", home.dir.path())
        .env("STORE", home.store())
        .env("GATEWAY", binary())
        .env("BUILD", build)
        .env("SOURCE_DATE_EPOCH", "1600000000"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    // Else nothing was cut.
    assert!(text.lines().any(|line| line == "torn"), "{text}");
    let mut digests: Vec<&str> = text.lines().filter(|l| l.starts_with("sha256:")).collect();
    assert!(digests.len() >= 2, "{text}");
    digests.dedup();
    assert_eq!(digests.len(), 1, "{text}");
    assert!(!text.contains("damaged"), "{text}");
}

/// `GATEWAY_TEST_KILLS` sets another number.
#[test]
#[ignore = "minutes of builds: cargo nextest run --profile kills --run-ignored only"]
fn a_thousand_kills_at_random_moments_never_cost_a_right_image() {
    let kills: u64 = std::env::var("GATEWAY_TEST_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let context = context(MANY_STEPS);
    std::fs::write(context.path().join("data"), "data\n").expect("a file");
    let began = std::time::Instant::now();
    let digest = stdout(&run(&mut reproducible(&home, context.path())));
    let whole = began.elapsed();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..kills {
        // A xorshift: the same moments in every run, as far as the machine allows.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut command = match random % 4 {
            0 => {
                let mut command = Command::new(binary());
                command
                    .args(["prune", "--all", "--force", "--root"])
                    .arg(home.store());
                command
            }
            1 => {
                let mut command = reproducible(&home, context.path());
                command.arg("--no-cache");
                command
            }
            _ => reproducible(&home, context.path()),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting it");
        let part = (random >> 32) % 1000;
        std::thread::sleep(Duration::from_micros(
            u64::try_from(whole.as_micros()).unwrap_or(u64::MAX) * part / 1000,
        ));
        let _ = child.kill();
        child.wait().expect("its end");
        if number % 10 == 9 {
            let verified = gateway(&home, &["store", "verify"]);
            assert!(
                verified.status.success(),
                "after {number} kills: {}",
                String::from_utf8_lossy(&verified.stdout)
            );
            let again = run(&mut reproducible(&home, context.path()));
            assert_eq!(stdout(&again), digest, "after {number} kills");
        }
    }
}

#[test]
fn a_full_disk_can_be_pruned_and_built_on_again() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    std::fs::create_dir(home.store()).expect("the store's folder");
    let context = context("FROM busybox\nRUN head -c 9000000 /dev/zero > /big\n");
    let script = "mount -t tmpfs -o size=32m tmpfs $STORE; $BUILD || exit 1; \
         head -c 64m /dev/zero > $STORE/filler; $GATEWAY prune --force --root $STORE || exit 2; \
         rm $STORE/filler; $BUILD || exit 3; \
         $GATEWAY store verify --root $STORE || exit 4";
    let build = format!(
        "{} build --root {} --config {} --progress=plain --output type=cacheonly {}",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display(),
        context.path().display(),
    );
    let output = run(Command::new("unshare")
        .args(["-m", "bash", "-c", script])
        .env("STORE", home.store())
        .env("GATEWAY", binary())
        .env("BUILD", build));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("Total:"), "{text}");
}
